//! The commit of a point: protocol F's side of the writer.
//!
//! Packs and index objects are durable before the manifest is put. After it, tombstones are listed first and packs
//! second. A pack that is condemned or gone may vanish at any moment, so its blocks are stored again, from the pack
//! while it can still be read, and the next version of the manifest is put. A pack that is gone already can be made
//! good from the source only: the caller holds it until this has succeeded.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use disk::{DiskWrite, LEAF, LEAVES_PER_PAGE};
use model::{Error, Kind, PointId, RestorePoint, Result, ServerName, crash};

use super::Sealed;
use super::disk::DiskWriter;
use super::run::Run;
use crate::PackId;
use crate::collect::lost_packs;
use crate::index::Excluded;
use crate::keys::broken;
use crate::layout::manifest_key;
use crate::manifest::{DiskTable, Header, Manifest, PageEntry};
use crate::map::{LEAF_BLOCKS, leaves_of_page};
use crate::reader::VaultDisk;
use crate::shared::Shared;

/// Versions that are tried before the collector is taken to be mad.
const TRIES: u32 = 8;

/// Seals the point of a run.
pub(super) async fn seal(
    shared: &Arc<Shared>,
    run: &Arc<Run>,
    id: &PointId,
    server: &ServerName,
    point: &RestorePoint,
) -> Result<Sealed> {
    let mut tables = collect(run, id, server, point)?;
    let mut run = run.clone();
    let (mut stored, mut added) = (0, Vec::new());
    let parent = run.parent.as_ref().map(|parent| parent.header.point.id.clone());
    for _ in 0..TRIES {
        if let Some(sealed) = sealed_before(shared, point).await? {
            return Ok(sealed);
        }
        run.write_index(shared, true).await?;
        let (run_stored, run_packs) = run.totals();
        stored += run_stored;
        added.extend(run_packs);
        let header =
            Header { point: point.clone(), parent: parent.clone(), stored_bytes: stored, added: added.len() as u64 };
        let manifest = build(shared, header, &added, tables)?;
        let version = next_version(shared, id).await?;
        let key = manifest_key(&shared.keys.server(server), id, version);
        let object = manifest.seal(shared, &key)?;
        let size = object.len() as u64;
        crash::point("vault.manifest.before");
        match shared.create(&key, object).await {
            // another process seals the same point: look again at what it has made
            Err(error) if error.kind() == Kind::Exists => {
                tables = manifest.disks;
                run = Arc::new(Run::new(None, run.excluded.clone()));
                continue;
            }
            other => other?,
        }
        crash::point("vault.manifest.after");
        let lost = lost_packs(shared.bucket.as_ref(), manifest.packs.iter().map(|(pack, _)| *pack).collect()).await?;
        crash::point("vault.checked");
        if lost.is_empty() {
            return Ok(Sealed { stored_bytes: stored + size, packs: added.len() as u64, version });
        }
        stored += size;
        (run, tables) = rescue(shared, manifest, &lost).await?;
    }
    Err(Error::new(Kind::Transient, format!("cannot commit point {id}"))
        .because("its packs were condemned again and again while it was written")
        .hint("run it again, and let fewer collectors run"))
}

/// The tables of all disks of the point, in its order.
fn collect(run: &Run, id: &PointId, server: &ServerName, point: &RestorePoint) -> Result<Vec<DiskTable>> {
    let wrong = |why: String| Error::new(Kind::Invalid, format!("cannot commit point {id}")).because(why);
    if point.id != *id || point.server != *server {
        return Err(wrong(format!("it is described as point {} of server {}", point.id, point.server)));
    }
    let mut tables = Vec::with_capacity(point.disks.len());
    for disk in &point.disks {
        let table = run
            .take_table(&disk.name)
            .ok_or_else(|| wrong(format!("disk {} was not written to its end", disk.name)))?;
        if table.size != disk.size || table.root != disk.root {
            return Err(wrong(format!("disk {} was written with another size or root than described", disk.name)));
        }
        tables.push(table);
    }
    Ok(tables)
}

/// A manifest of these disks; of `added`, what they use are the point's own packs.
pub(crate) fn build(shared: &Shared, header: Header, added: &[PackId], disks: Vec<DiskTable>) -> Result<Manifest> {
    let used: HashSet<PackId> = disks.iter().flat_map(DiskTable::packs).collect();
    let mut listed: Vec<PackId> = added.iter().copied().filter(|pack| used.contains(pack)).collect();
    let first: HashSet<PackId> = listed.iter().copied().collect();
    let mut others: Vec<PackId> = used.into_iter().filter(|pack| !first.contains(pack)).collect();
    others.sort_unstable();
    listed.extend(others);
    let sized = |pack: PackId| {
        let size = shared.packs.size(pack).ok_or_else(|| broken("the size of a pack is not known"))?;
        Ok((pack, size))
    };
    let header = Header { added: first.len() as u64, ..header };
    Ok(Manifest { header, packs: listed.into_iter().map(sized).collect::<Result<_>>()?, disks })
}

/// The point as an earlier attempt has sealed it, if that still stands.
async fn sealed_before(shared: &Arc<Shared>, point: &RestorePoint) -> Result<Option<Sealed>> {
    let Some(at) = shared.manifest_keys().await?.remove(&point.id) else { return Ok(None) };
    let (header, packs) = match shared.manifest_packs(&at).await {
        Ok(found) => found,
        // what cannot be read is no commit; the next version supersedes it
        Err(error) if matches!(error.kind(), Kind::Damaged | Kind::NotFound) => return Ok(None),
        Err(error) => return Err(error),
    };
    if header.point != *point {
        return Err(Error::new(Kind::Exists, format!("cannot commit point {}", point.id))
            .because("the vault has a point of that id with other content")
            .hint("a run makes one point: begin a new run"));
    }
    let lost = lost_packs(shared.bucket.as_ref(), packs.iter().map(|(pack, _)| *pack).collect()).await?;
    let whole = lost.is_empty();
    Ok(whole.then(|| Sealed {
        stored_bytes: header.stored_bytes + at.size,
        packs: header.added,
        version: at.parsed.version,
    }))
}

async fn next_version(shared: &Shared, id: &PointId) -> Result<u32> {
    Ok(shared.manifest_keys().await?.get(id).map_or(0, |at| at.parsed.version) + 1)
}

/// Stores everything again that rests on lost packs, while those can still be read.
async fn rescue(
    shared: &Arc<Shared>,
    manifest: Manifest,
    lost: &BTreeSet<PackId>,
) -> Result<(Arc<Run>, Vec<DiskTable>)> {
    shared.index.refresh(shared).await?;
    let known = shared.index.excluded();
    let packs = known.packs.iter().chain(lost).copied().collect();
    let excluded = Arc::new(Excluded { packs, frames: known.frames.clone() });
    let manifest = Arc::new(manifest);
    let run = Arc::new(Run::new(Some(manifest.clone()), excluded));
    let mut tables = Vec::new();
    for table in &manifest.disks {
        let rescued = rescue_disk(shared, &run, table, lost).await;
        rescued.map_err(|error| match error.kind() {
            Kind::NotFound | Kind::Damaged => {
                Error::new(Kind::Transient, format!("cannot commit point {}", manifest.header.point.id))
                    .because(error)
                    .hint("the collector has removed packs meanwhile: run it again, the source has the bytes")
            }
            _ => error,
        })?;
        tables.push(run.take_table(&table.name).ok_or_else(|| broken("a rescued disk has no table"))?);
    }
    Ok((run, tables))
}

async fn rescue_disk(shared: &Arc<Shared>, run: &Arc<Run>, table: &DiskTable, lost: &BTreeSet<PackId>) -> Result<()> {
    let (name, size) = (table.name.clone(), table.size);
    let mut writer = Box::new(DiskWriter::new(shared.clone(), run.clone(), name, size, true)?);
    let reader = VaultDisk::new(shared.clone(), Arc::new(table.clone()), "a point that is being committed".to_owned());
    for (index, page) in (0_u64..).zip(&table.pages) {
        let PageEntry::Stored(entry) = page else { continue };
        if !entry.packs.iter().any(|pack| lost.contains(pack)) {
            continue;
        }
        let leaves = leaves_of_page(size, index) as u32;
        let page = shared.page(entry, leaves as usize, &table.name).await?;
        for leaf in 0..leaves {
            let mut runs = page.runs_in(leaf * LEAF_BLOCKS, (leaf + 1) * LEAF_BLOCKS);
            if runs.any(|run| lost.contains(&run.at.at.pack)) {
                let offset = (index * LEAVES_PER_PAGE + u64::from(leaf)) * LEAF;
                let data = reader.read_at(offset, LEAF.min(size - offset) as usize).await?;
                writer.write(offset, data).await?;
            }
        }
    }
    writer.finish().await.map(drop)
}

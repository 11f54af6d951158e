//! Checks points against what their packs hold.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use disk::{LEAF, PAGE, leaf, zero_leaf};
use model::{Error, Kind, PointId, Result};

use super::{Findings, VerifyScope};
use crate::PackId;
use crate::keys::damaged;
use crate::manifest::{DiskTable, Manifest, ManifestRef, PageEntry};
use crate::map::{Page, leaves_of_page};
use crate::pack::FrameAt;
use crate::reader::VaultDisk;
use crate::shared::Shared;

/// Bytes that are read and hashed at a time.
const READ: u64 = 4 << 20;

/// The packs of a scope that names a point.
pub(super) async fn scope(shared: &Arc<Shared>, at: &ManifestRef, scope: &VerifyScope) -> Result<BTreeSet<PackId>> {
    let (header, packs) = shared.manifest_packs(at).await?;
    let count = if matches!(scope, VerifyScope::Added(_)) { header.added as usize } else { packs.len() };
    Ok(packs.iter().take(count).map(|(pack, _)| *pack).collect())
}

/// Checks the points of the scope; for all others, whether they need what was found damaged.
pub(super) async fn check(
    shared: &Arc<Shared>,
    manifests: &BTreeMap<PointId, ManifestRef>,
    scope: &VerifyScope,
    findings: &mut Findings,
) -> Result<()> {
    let mut healed = HashMap::new();
    let mut checked = HashSet::new();
    for (point, at) in manifests {
        if findings.report.affected.contains_key(point.as_str()) {
            continue;
        }
        let named = matches!(scope, VerifyScope::Point(id) | VerifyScope::Added(id) if id == point);
        let whole = matches!(scope, VerifyScope::All);
        let hurt = !findings.packs.is_empty() || !findings.frames.is_empty();
        if !named && !whole && !hurt {
            continue;
        }
        match check_point(shared, at, scope, named, findings, &mut healed, &mut checked).await {
            Ok(()) if named || whole => findings.report.points.push(point.clone()),
            Ok(()) => {}
            Err(error) if matches!(error.kind(), Kind::Damaged | Kind::NotFound) => {
                findings.affect(point, error.chain())
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn check_point(
    shared: &Arc<Shared>,
    at: &ManifestRef,
    scope: &VerifyScope,
    named: bool,
    findings: &Findings,
    healed: &mut HashMap<FrameAt, bool>,
    checked: &mut HashSet<FrameAt>,
) -> Result<()> {
    let manifest = shared.manifest(&at.key).await?;
    for disk in &manifest.disks {
        for (index, entry) in (0_u64..).zip(&disk.pages) {
            let PageEntry::Stored(entry) = entry else { continue };
            if findings.pages.get(&entry.at).is_some_and(|hash| *hash != entry.hash) {
                return Err(damaged(
                    format!("page {index} of disk {}", disk.name),
                    "its hash does not fit the manifest",
                ));
            }
            let near_damage = std::iter::once(&entry.at.pack)
                .chain(&entry.packs)
                .any(|pack| findings.packs.contains_key(pack) || findings.frames.keys().any(|at| at.pack == *pack));
            let unseen = matches!(scope, VerifyScope::All) && checked.insert(entry.at);
            if near_damage || unseen {
                let page = shared.page(entry, leaves_of_page(disk.size, index), &disk.name).await?;
                check_page(shared, &page, findings, healed).await?;
            }
        }
    }
    if named {
        check_bytes(shared, &manifest, scope).await?;
    }
    Ok(())
}

/// Whether every run of a page points at blocks that exist and read back.
async fn check_page(
    shared: &Arc<Shared>,
    page: &Page,
    findings: &Findings,
    healed: &mut HashMap<FrameAt, bool>,
) -> Result<()> {
    let mut seen = None;
    for run in &page.runs {
        let at = run.at.at;
        if findings.packs.contains_key(&at.pack) {
            return Err(Error::new(Kind::Damaged, format!("pack {}", at.pack))
                .because(findings.packs.get(&at.pack).cloned().unwrap_or_default()));
        }
        if let Some(why) = findings.frames.get(&at) {
            let known = healed.get(&at).copied();
            let fine = match known {
                Some(fine) => fine,
                None => shared.heal(at, damaged("", "")).await.is_ok(),
            };
            healed.insert(at, fine);
            if !fine {
                return Err(
                    Error::new(Kind::Damaged, format!("frame {} of pack {}", at.frame, at.pack)).because(why.clone())
                );
            }
            continue;
        }
        if seen != Some(at) {
            seen = Some(at);
            let info = shared.pack(at.pack).await?;
            let blocks = u32::from(info.entry(at.frame)?.blocks);
            if u32::from(run.at.block) + run.count > blocks {
                return Err(damaged(format!("frame {} of pack {}", at.frame, at.pack), "a map points behind its end"));
            }
        }
    }
    Ok(())
}

/// Reads a point's bytes and hashes them: all of them, or only the leaves that differ from the parent's.
async fn check_bytes(shared: &Arc<Shared>, manifest: &Manifest, scope: &VerifyScope) -> Result<()> {
    let parent = match (&manifest.header.parent, scope) {
        (Some(parent), VerifyScope::Added(_)) => match shared.point_manifest(parent).await {
            Ok(parent) => Some(parent),
            // without the parent's map every leaf is checked
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Damaged) => None,
            Err(error) => return Err(error),
        },
        _ => None,
    };
    let point = &manifest.header.point.id;
    for disk in &manifest.disks {
        let open =
            |table: &DiskTable| VaultDisk::new(shared.clone(), Arc::new(table.clone()), format!("point {point}"));
        let before = parent.as_ref().and_then(|parent| parent.disk(&disk.name).ok()).map(open);
        let reader = open(disk);
        for index in 0..disk.pages.len() as u64 {
            check_page_bytes(&reader, before.as_ref(), index).await?;
        }
    }
    Ok(())
}

async fn check_page_bytes(reader: &Arc<VaultDisk>, before: Option<&Arc<VaultDisk>>, index: u64) -> Result<()> {
    if let Some(before) = before
        && before.entry(index) == reader.entry(index)
    {
        return Ok(());
    }
    let Some(page) = reader.page(index).await? else { return Ok(()) };
    let old = match before {
        Some(before) => before.page(index).await.unwrap_or_default(),
        None => None,
    };
    let differs = |number: usize| {
        let was = old.as_ref().and_then(|old| old.leaves.get(number));
        page.leaves.get(number).is_some_and(|leaf| was != Some(leaf) && *leaf != zero_leaf())
    };
    let end_of_disk = reader.size();
    let mut number = 0;
    while number < page.leaves.len() {
        if !differs(number) {
            number += 1;
            continue;
        }
        let most = (READ / LEAF) as usize;
        let count = (1..most).take_while(|more| differs(number + more)).count() + 1;
        let start = index * PAGE + number as u64 * LEAF;
        let end = (start + count as u64 * LEAF).min(end_of_disk);
        let data = reader.read_at(start, (end - start) as usize).await?;
        for (bytes, expected) in data.chunks(LEAF as usize).zip(&page.leaves[number..]) {
            if leaf(bytes) != *expected {
                return Err(damaged(
                    format!("the bytes near {start} of {}", reader.describe()),
                    "they do not fit the disk's root",
                ));
            }
        }
        number += count;
    }
    Ok(())
}

//! The commits of a compaction: of each point that has changed, one create-only put of the next version of its manifest.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use model::{Error, Kind, Result, crash};

use super::CompactReport;
use super::pages::Pages;
use crate::PackId;
use crate::collect::Standing;
use crate::layout::{MANIFESTS, manifest_key, parse_manifest_key};
use crate::manifest::{Manifest, ManifestRef, by_point};
use crate::shared::Shared;
use crate::verify::is_damage;
use crate::writer::build_manifest;

/// A point, by the version that is read.
pub(super) struct Source {
    /// The manifest.
    pub at: ManifestRef,
    /// The newest version that there is. Higher than the one that is read if it is not sound: its writer has died between
    /// its commit and its check, and the collector has taken what it needs.
    newest: u32,
}

impl Source {
    /// Whether a sound version is to be put above one that is not.
    pub fn mends(&self) -> bool {
        self.newest > self.at.parsed.version
    }

    fn next(&self) -> u32 {
        self.newest + 1
    }
}

/// All points, each by its newest version that stands, or by its newest one if none does.
pub(super) async fn sources(shared: &Shared) -> Result<Vec<Source>> {
    let points = by_point(shared.bucket.list(MANIFESTS).await?);
    let several = points.values().any(|versions| versions.len() > 1);
    let standing = if several { Some(Standing::look(shared.bucket.as_ref()).await?) } else { None };
    let mut sources = Vec::new();
    for mut versions in points.into_values() {
        let Some((newest, first)) = versions.pop_last() else { continue };
        let mut at = ManifestRef::from(first);
        if let (Some(standing), false) = (&standing, versions.is_empty())
            && !stands(shared, standing, &at).await?
        {
            for older in versions.into_values().rev().map(ManifestRef::from) {
                if stands(shared, standing, &older).await? {
                    at = older;
                    break;
                }
            }
        }
        sources.push(Source { at, newest });
    }
    Ok(sources)
}

/// Whether a version reads back and needs no pack that is condemned or gone.
async fn stands(shared: &Shared, standing: &Standing, at: &ManifestRef) -> Result<bool> {
    match shared.manifest(&at.key).await {
        Ok(manifest) => Ok(standing.lost(needed(&manifest)).is_empty()),
        Err(error) if is_damage(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

fn needed(manifest: &Manifest) -> BTreeSet<PackId> {
    manifest.packs.iter().map(|(pack, _)| *pack).collect()
}

/// Commits what has changed, and then makes the check that every writer owes after its commit.
pub(super) async fn commit(
    shared: &Arc<Shared>,
    sources: &[&Source],
    pages: &Pages,
    written: &[PackId],
    report: &mut CompactReport,
) -> Result<()> {
    let mut committed: Vec<(&Source, BTreeSet<PackId>)> = Vec::new();
    for &source in sources {
        let manifest = match shared.manifest(&source.at.key).await {
            Ok(manifest) => manifest,
            Err(error) if is_damage(&error) => continue,
            Err(error) => return Err(error),
        };
        let Some(next) = follow(shared, source, manifest, pages, written)? else { continue };
        if !is_newest(shared, source).await? {
            report.raced += 1;
            continue;
        }
        if put(shared, source, source.next(), &next).await? {
            committed.push((source, needed(&next)));
        } else {
            report.raced += 1;
        }
    }
    let standing = Standing::look(shared.bucket.as_ref()).await?;
    crash::point("compact.checked");
    for (source, needed) in committed {
        report.points += 1;
        if !standing.lost(needed).is_empty() {
            fall_back(shared, source, report).await?;
        }
    }
    Ok(())
}

/// The next version of a manifest; none if nothing has changed.
fn follow(
    shared: &Shared,
    source: &Source,
    manifest: Manifest,
    pages: &Pages,
    written: &[PackId],
) -> Result<Option<Manifest>> {
    let mut changed = source.mends();
    let mut tables = Vec::with_capacity(manifest.disks.len());
    for table in manifest.disks {
        let renewed = pages.follow(&table);
        changed |= renewed.is_some();
        tables.push(renewed.unwrap_or(table));
    }
    if !changed {
        return Ok(None);
    }
    // what a check of the point's own packs reads must not become less: a run may be about to make it
    let own = manifest.packs.iter().take(manifest.header.added as usize).map(|(pack, _)| *pack);
    let mut seen = HashSet::new();
    let added: Vec<PackId> = own.chain(written.iter().copied()).filter(|pack| seen.insert(*pack)).collect();
    build_manifest(shared, manifest.header, &added, tables).map(Some)
}

/// Whether the point still has the version that was read, and none above the ones that were seen: one that was forgotten
/// meanwhile must not come back.
async fn is_newest(shared: &Shared, source: &Source) -> Result<bool> {
    let ManifestRef { key, parsed, .. } = &source.at;
    let prefix = key.rsplit_once('.').map_or(key.as_str(), |(prefix, _)| prefix);
    let listed = shared.bucket.list(&format!("{prefix}.")).await?;
    let versions: Vec<u32> = listed
        .iter()
        .filter_map(|object| parse_manifest_key(&object.key))
        .filter(|other| other.point == parsed.point)
        .map(|other| other.version)
        .collect();
    Ok(versions.contains(&parsed.version) && versions.iter().max() == Some(&source.newest))
}

/// Puts a version; false if somebody else has taken its number.
async fn put(shared: &Shared, source: &Source, version: u32, manifest: &Manifest) -> Result<bool> {
    let key = manifest_key(&source.at.parsed.server_hash, &source.at.parsed.point, version);
    let object = manifest.seal(shared, &key)?;
    crash::point("compact.commit.before");
    match shared.create(&key, object).await {
        Err(error) if error.kind() == Kind::Exists => Ok(false),
        Err(error) => Err(error),
        Ok(()) => {
            crash::point("compact.commit.after");
            Ok(true)
        }
    }
}

/// The collector has condemned something that the new version rests on. What the old one rests on is safe as long as that
/// one is there, so its content is put again above the new one; no version is ever taken away from the top.
async fn fall_back(shared: &Arc<Shared>, source: &Source, report: &mut CompactReport) -> Result<()> {
    report.points -= 1;
    report.raced += 1;
    let manifest = shared.manifest(&source.at.key).await?;
    if put(shared, source, source.next() + 1, &manifest).await? {
        return Ok(());
    }
    let what = format!("cannot replace version {} of point {}", source.next(), source.at.parsed.point);
    Err(Error::new(Kind::Transient, what)
        .because("packs that it rests on are condemned, and somebody else has put another version")
        .hint("compact again; nothing is lost, the older version stays until then"))
}

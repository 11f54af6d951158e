//! Which points need what was found damaged.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use model::{Error, Kind, PointId, Result};

use super::{Findings, VerifyScope, is_damage};
use crate::PackId;
use crate::keys::damaged;
use crate::manifest::{ManifestRef, PageEntry};
use crate::map::{Page, leaves_of_page};
use crate::pack::FrameAt;
use crate::shared::Shared;

/// The packs of a scope that names a point.
pub(super) async fn scope(shared: &Arc<Shared>, at: &ManifestRef, scope: &VerifyScope) -> Result<BTreeSet<PackId>> {
    let (header, packs) = shared.manifest_packs(at).await?;
    let count = if matches!(scope, VerifyScope::Added(_)) { header.added as usize } else { packs.len() };
    Ok(packs.iter().take(count).map(|(pack, _)| *pack).collect())
}

/// Says which points cannot be restored whole: those that need what was found damaged, and those of the scope whose tree
/// is `wrong`.
pub(super) async fn check(
    shared: &Arc<Shared>,
    manifests: &BTreeMap<PointId, ManifestRef>,
    scope: &VerifyScope,
    mut wrong: BTreeMap<PointId, Error>,
    findings: &mut Findings<'_>,
) -> Result<()> {
    let mut healed = HashMap::new();
    for (point, at) in manifests {
        if findings.report.affected.contains_key(point.as_str()) {
            continue;
        }
        let asked = scope.names(point);
        let hurt = !findings.packs.is_empty() || !findings.frames.is_empty();
        if !asked && !hurt {
            continue;
        }
        let found = match wrong.remove(point) {
            Some(error) => Err(error),
            None => check_point(shared, at, findings, &mut healed).await,
        };
        match found {
            Ok(()) if asked => findings.report.points.push(point.clone()),
            Ok(()) => {}
            Err(error) if is_damage(&error) => findings.affect(point, error.chain()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn check_point(
    shared: &Arc<Shared>,
    at: &ManifestRef,
    findings: &Findings<'_>,
    healed: &mut HashMap<FrameAt, bool>,
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
            if near_damage {
                let page = shared.page(entry, leaves_of_page(disk.size, index), &disk.name).await?;
                check_page(shared, &page, findings, healed).await?;
            }
        }
    }
    Ok(())
}

/// Whether every run of a page points at blocks that read back.
async fn check_page(
    shared: &Arc<Shared>,
    page: &Page,
    findings: &Findings<'_>,
    healed: &mut HashMap<FrameAt, bool>,
) -> Result<()> {
    for at in page.runs.iter().map(|run| run.at.at) {
        if let Some(why) = findings.packs.get(&at.pack) {
            return Err(Error::new(Kind::Damaged, format!("pack {}", at.pack)).because(why.clone()));
        }
        let Some(why) = findings.frames.get(&at) else { continue };
        let fine = match healed.get(&at).copied() {
            Some(fine) => fine,
            None => shared.heal(at, damaged("", "")).await.is_ok(),
        };
        healed.insert(at, fine);
        if !fine {
            return Err(
                Error::new(Kind::Damaged, format!("frame {} of pack {}", at.frame, at.pack)).because(why.clone())
            );
        }
    }
    Ok(())
}

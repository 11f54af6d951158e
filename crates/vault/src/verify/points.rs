//! Checks points against what their packs hold.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
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

/// Checks the points of the scope; for all others, whether they need what was found damaged. `bytes` is what became of
/// the bytes of the point that the scope names.
pub(super) async fn check(
    shared: &Arc<Shared>,
    manifests: &BTreeMap<PointId, ManifestRef>,
    scope: &VerifyScope,
    mut bytes: Result<()>,
    findings: &mut Findings<'_>,
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
        let mut found = check_point(shared, at, whole, findings, &mut healed, &mut checked).await;
        if named && found.is_ok() {
            found = std::mem::replace(&mut bytes, Ok(()));
        }
        match found {
            Ok(()) if named || whole => findings.report.points.push(point.clone()),
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
    whole: bool,
    findings: &Findings<'_>,
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
            let unseen = whole && checked.insert(entry.at);
            if near_damage || unseen {
                let page = shared.page(entry, leaves_of_page(disk.size, index), &disk.name).await?;
                check_page(shared, &page, findings, healed).await?;
            }
        }
    }
    Ok(())
}

/// Whether every run of a page points at blocks that exist and read back.
async fn check_page(
    shared: &Arc<Shared>,
    page: &Page,
    findings: &Findings<'_>,
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

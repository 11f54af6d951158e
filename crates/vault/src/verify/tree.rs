//! Checks that the Merkle tree of a point follows from the ids of the blocks that its map names.
//!
//! A scan has compared these ids with the blocks' bytes, this one or an earlier one; so no byte is read for it, and the
//! tree of an increment costs what is new.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use disk::{BlockHash, LEAF, LEAF_BLOCKS, PAGE, leaf_of, zero_block};
use futures::{StreamExt, TryStreamExt, stream};
use model::{DiskName, Error, PointId, Result};

use super::{Findings, VerifyScope, is_damage};
use crate::PackId;
use crate::keys::damaged;
use crate::manifest::{ManifestRef, PageEntry, StoredPage};
use crate::map::{Page, leaves_of_page};
use crate::pack::FrameAt;
use crate::shared::{Shared, copy_error};

/// Pages at a time.
const PAGES: usize = 8;

/// A page that is to be checked, and the one at the same place of the point it was written on, if only what differs
/// from that is to be.
pub(super) struct Task {
    pub disk: DiskName,
    /// Where the page begins in the disk.
    pub start: u64,
    pub leaves: usize,
    pub entry: StoredPage,
    pub before: Option<StoredPage>,
}

/// What became of a page; a pack whose ids cannot be read is named.
type Checked = (FrameAt, Result<(), (Option<PackId>, Error)>);

/// Checks the points that the scope names, and returns what is wrong with them. A pack whose ids cannot be read is lost.
pub(super) async fn check(
    shared: &Arc<Shared>,
    manifests: &BTreeMap<PointId, ManifestRef>,
    scope: &VerifyScope,
    findings: &mut Findings<'_>,
) -> Result<BTreeMap<PointId, Error>> {
    let (mut wrong, mut known) = (BTreeMap::new(), HashMap::new());
    for (point, at) in manifests.iter().filter(|(point, _)| scope.names(point)) {
        match check_point(shared, at, scope, &mut known, findings).await {
            Err(error) if is_damage(&error) => drop(wrong.insert(point.clone(), error)),
            other => other?,
        }
    }
    Ok(wrong)
}

/// Checks a point. `known` is what became of pages that other points have too.
async fn check_point(
    shared: &Arc<Shared>,
    at: &ManifestRef,
    scope: &VerifyScope,
    known: &mut HashMap<FrameAt, Option<Error>>,
    findings: &mut Findings<'_>,
) -> Result<()> {
    let tasks = tasks(shared, at, scope).await?;
    let frames: Vec<FrameAt> = tasks.iter().map(|task| task.entry.at).collect();
    let fresh: Vec<Task> = tasks.into_iter().filter(|task| !known.contains_key(&task.entry.at)).collect();
    let checks = fresh.into_iter().map(|task| {
        let shared = shared.clone();
        async move { Ok(check_page(&shared, task).await) }
    });
    let mut checks = std::pin::pin!(stream::iter(checks).map(Ok).try_buffer_unordered(PAGES));
    while let Some::<Checked>((frame, result)) = checks.try_next().await? {
        let wrong = match result {
            Ok(()) => None,
            Err((_, error)) if !is_damage(&error) => return Err(error),
            Err((lost, error)) => {
                if let Some(pack) = lost {
                    findings.lost(pack, error.chain());
                }
                Some(error)
            }
        };
        known.insert(frame, wrong);
    }
    let wrong = frames.iter().find_map(|frame| known.get(frame)?.as_ref());
    wrong.map_or(Ok(()), |error| Err(copy_error(error)))
}

/// The pages of a point that are to be checked.
async fn tasks(shared: &Arc<Shared>, at: &ManifestRef, scope: &VerifyScope) -> Result<Vec<Task>> {
    let manifest = shared.manifest(&at.key).await?;
    let parent = match (&manifest.header.parent, scope) {
        (Some(parent), VerifyScope::Added(_)) => match shared.point_manifest(parent).await {
            Ok((_, parent)) => Some(parent),
            // without the parent's map every leaf is checked
            Err(error) if is_damage(&error) => None,
            Err(error) => return Err(error),
        },
        _ => None,
    };
    let mut tasks = Vec::new();
    for disk in &manifest.disks {
        let old = parent.as_ref().and_then(|parent| parent.disk(&disk.name).ok());
        for (index, page) in (0_u64..).zip(&disk.pages) {
            let PageEntry::Stored(entry) = page else { continue };
            let before = match old.and_then(|old| old.pages.get(index as usize)) {
                Some(same) if same == page => continue,
                Some(PageEntry::Stored(before)) => Some(before.clone()),
                _ => None,
            };
            let (disk, leaves) = (disk.name.clone(), leaves_of_page(disk.size, index));
            tasks.push(Task { disk, start: index * PAGE, leaves, entry: entry.clone(), before });
        }
    }
    Ok(tasks)
}

pub(super) async fn check_page(shared: &Arc<Shared>, task: Task) -> Checked {
    let Task { disk, start, leaves, entry, before } = task;
    let checked = async {
        let page = shared.page(&entry, leaves, &disk).await.map_err(|error| (None, error))?;
        let old = match &before {
            Some(before) => shared.page(before, leaves, &disk).await.ok(),
            None => None,
        };
        let differs: Vec<bool> = (0..page.leaves.len())
            .map(|leaf| old.as_ref().and_then(|old| old.leaves.get(leaf)) != page.leaves.get(leaf))
            .collect();
        let ids = ids(shared, &page, &differs).await?;
        let fits = move |(leaf, ids): (usize, &[BlockHash])| !differs[leaf] || leaf_of(ids) == page.leaves[leaf];
        let job = shared.workers.submit(move |_| ids.chunks(LEAF_BLOCKS).enumerate().position(|leaf| !fits(leaf)));
        match job.wait().await.map_err(|error| (None, error))? {
            None => Ok(()),
            Some(leaf) => {
                let at = start + leaf as u64 * LEAF;
                let what = format!("the bytes at {at} of disk {disk}");
                Err((None, damaged(what, "their blocks do not fit the disk's root")))
            }
        }
    };
    (entry.at, checked.await)
}

/// One page of a disk.
pub(crate) async fn page_fits(
    shared: &Arc<Shared>,
    disk: &DiskName,
    index: u64,
    leaves: usize,
    entry: &StoredPage,
) -> Result<()> {
    let (disk, start) = (disk.clone(), index * PAGE);
    let checked = check_page(shared, Task { disk, start, leaves, entry: entry.clone(), before: None }).await;
    checked.1.map_err(|(_, error)| error)
}

/// The ids of a page's blocks, one pack after another; blocks of leaves that are not `wanted` may stay zero.
async fn ids(shared: &Arc<Shared>, page: &Page, wanted: &[bool]) -> Result<Vec<BlockHash>, (Option<PackId>, Error)> {
    let mut blocks = vec![zero_block(); page.leaves.len() * LEAF_BLOCKS];
    let touches = |first: u32, end: u32| {
        let leaves = first as usize / LEAF_BLOCKS..(end as usize).div_ceil(LEAF_BLOCKS);
        wanted.get(leaves).is_some_and(|leaves| leaves.contains(&true))
    };
    let runs: Vec<_> = page.runs.iter().filter(|run| touches(run.first, run.end())).collect();
    let packs: BTreeSet<PackId> = runs.iter().map(|run| run.at.at.pack).collect();
    for pack in packs {
        let (info, ids) = match (shared.pack(pack).await, shared.ids(pack).await) {
            (Ok(info), Ok(ids)) => (info, ids),
            (Err(error), _) | (_, Err(error)) => return Err((Some(pack), error)),
        };
        for run in runs.iter().filter(|run| run.at.at.pack == pack) {
            let from = usize::from(run.at.block);
            let there = info.ids_of(run.at.at.frame, &ids).and_then(|ids| ids.get(from..from + run.count as usize));
            let room = blocks.get_mut(run.first as usize..run.end() as usize);
            let (Some(there), Some(room)) = (there, room) else {
                let what = format!("frame {} of pack {pack}", run.at.at.frame);
                return Err((None, damaged(what, "a map points behind its end")));
            };
            room.copy_from_slice(there);
        }
    }
    Ok(blocks)
}

//! Reads a named point's disks back and compares every leaf with its Merkle tree.
//!
//! The frames that are decoded for it are checked block by block on the way, so that no frame is read twice.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use disk::{LEAF, Leaf, PAGE, leaf, zero_leaf};
use futures::{StreamExt, TryStreamExt, stream};
use model::{Kind, Result};

use super::scan::{Fine, FrameSet, check_frames};
use super::{Findings, VerifyScope};
use crate::PackId;
use crate::keys::damaged;
use crate::manifest::{DiskTable, Manifest};
use crate::pack::FrameAt;
use crate::reader::VaultDisk;
use crate::shared::{Shared, lock};

/// Leaves that are read and hashed as one piece of work.
const PIECE: usize = 16;
/// Pieces at a time.
const PIECES: usize = 16;

/// Leaves of a disk, one after another, and what they must be.
struct Piece {
    reader: Arc<VaultDisk>,
    start: u64,
    end: u64,
    leaves: Vec<Leaf>,
}

/// What the pieces share.
struct Check {
    shared: Arc<Shared>,
    /// Whose frames are checked.
    packs: Arc<BTreeSet<PackId>>,
    /// Frames that were taken on; in the end those that are fine.
    taken: Mutex<FrameSet>,
}

/// Reads a point's bytes: all of them, or only the leaves that differ from the parent's. Returns the frames of `packs`
/// that turned out to be fine on the way, and whether the leaves are: a frame that is not fine is left to the scan.
pub(super) async fn check(
    shared: &Arc<Shared>,
    manifest: &Manifest,
    scope: &VerifyScope,
    packs: Arc<BTreeSet<PackId>>,
    findings: &mut Findings<'_>,
) -> (FrameSet, Result<()>) {
    let check = Arc::new(Check { shared: shared.clone(), packs, taken: Mutex::default() });
    let result = check.disks(manifest, scope, findings).await;
    let taken = std::mem::take(&mut *lock(&check.taken));
    (taken, result)
}

impl Check {
    async fn disks(
        self: &Arc<Self>,
        manifest: &Manifest,
        scope: &VerifyScope,
        findings: &mut Findings<'_>,
    ) -> Result<()> {
        let parent = match (&manifest.header.parent, scope) {
            (Some(parent), VerifyScope::Added(_)) => match self.shared.point_manifest(parent).await {
                Ok(parent) => Some(parent),
                // without the parent's map every leaf is checked
                Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Damaged) => None,
                Err(error) => return Err(error),
            },
            _ => None,
        };
        let point = &manifest.header.point.id;
        for disk in &manifest.disks {
            let open = |table: &DiskTable| {
                VaultDisk::scattered(self.shared.clone(), Arc::new(table.clone()), format!("point {point}"))
            };
            let before = parent.as_ref().and_then(|parent| parent.disk(&disk.name).ok()).map(open);
            let reader = open(disk);
            // closures own what they use: futures that borrow are not `Send` enough for callers behind `dyn`
            let pages = stream::iter(0..disk.pages.len() as u64)
                .then(move |index| pieces(reader.clone(), before.clone(), index))
                .map_ok(|pieces| stream::iter(pieces.into_iter().map(Ok)));
            let check = self.clone();
            let checks = pages.try_flatten().map_ok(move |piece| check.clone().piece(piece));
            let mut checks = std::pin::pin!(checks.try_buffer_unordered(PIECES));
            while let Some(fine) = checks.try_next().await? {
                fine.iter().for_each(|(at, fine)| findings.fine(*at, fine));
            }
        }
        Ok(())
    }

    /// Checks the leaves of a piece, and those of its frames that nobody has taken on.
    async fn piece(self: Arc<Self>, piece: Piece) -> Result<Vec<(FrameAt, Fine)>> {
        let mut frames = piece.reader.frames(piece.start, piece.end).await?;
        {
            let mut taken = lock(&self.taken);
            frames.retain(|at| self.packs.contains(&at.pack) && taken.insert(*at));
        }
        let (checked, data) = tokio::join!(
            check_frames(&self.shared, &frames),
            piece.reader.read_at(piece.start, (piece.end - piece.start) as usize),
        );
        let mut fine = Vec::with_capacity(checked.len());
        for (at, result) in checked {
            match result {
                Ok(frame) => fine.push((at, frame)),
                Err(_) => lock(&self.taken).remove(at),
            }
        }
        let data = data?;
        let Piece { reader, start, leaves, .. } = piece;
        let hashing = self
            .shared
            .workers
            .submit(move |_| data.chunks(LEAF as usize).zip(&leaves).all(|(bytes, expected)| leaf(bytes) == *expected));
        if hashing.wait().await? {
            return Ok(fine);
        }
        Err(damaged(format!("the bytes near {start} of {}", reader.describe()), "they do not fit the disk's root"))
    }
}

/// The leaves of a page that are to be read, in pieces.
async fn pieces(reader: Arc<VaultDisk>, before: Option<Arc<VaultDisk>>, index: u64) -> Result<Vec<Piece>> {
    if before.as_ref().is_some_and(|before| before.entry(index) == reader.entry(index)) {
        return Ok(Vec::new());
    }
    let Some(page) = reader.page(index).await? else { return Ok(Vec::new()) };
    let old = match &before {
        Some(before) => before.page(index).await.unwrap_or_default(),
        None => None,
    };
    let differs = |number: usize| {
        let was = old.as_ref().and_then(|old| old.leaves.get(number));
        page.leaves.get(number).is_some_and(|leaf| was != Some(leaf) && *leaf != zero_leaf())
    };
    let (mut pieces, mut number) = (Vec::new(), 0);
    while number < page.leaves.len() {
        if !differs(number) {
            number += 1;
            continue;
        }
        let count = (1..PIECE).take_while(|more| differs(number + more)).count() + 1;
        let start = index * PAGE + number as u64 * LEAF;
        let end = (start + count as u64 * LEAF).min(reader.size());
        let leaves = page.leaves.iter().skip(number).take(count).copied().collect();
        pieces.push(Piece { reader: reader.clone(), start, end, leaves });
        number += count;
    }
    Ok(pieces)
}

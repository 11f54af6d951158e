//! Which blocks points need.

use std::collections::HashMap;
use std::sync::Arc;

use futures::{StreamExt, stream};
use model::{Kind, Result};

use super::CompactReport;
use super::commit::Source;
use crate::PackId;
use crate::manifest::{Manifest, PageEntry, StoredPage};
use crate::map::{Page, leaves_of_page};
use crate::pack::FrameAt;
use crate::shared::Shared;
use crate::verify::is_damage;

/// Pages read at a time.
const PAGES: usize = 16;

/// One bit for each block of a frame; all of them for a page.
type Bits = [u64; 4];

/// What points need of each pack, by frame: 32 bytes for each MiB of a disk.
#[derive(Default)]
pub(super) struct Live {
    packs: HashMap<PackId, Vec<Bits>>,
}

impl Live {
    /// The packs that points need something of.
    pub fn packs(&self) -> impl Iterator<Item = PackId> + '_ {
        self.packs.keys().copied()
    }

    /// Whether any point needs this block.
    pub fn has(&self, at: FrameAt, block: usize) -> bool {
        self.bits(at)[block / 64] >> (block % 64) & 1 == 1
    }

    /// How many blocks of a frame points need; 256 of a page.
    pub fn count(&self, at: FrameAt) -> u32 {
        self.bits(at).iter().map(|bits| bits.count_ones()).sum()
    }

    fn bits(&self, at: FrameAt) -> Bits {
        self.packs.get(&at.pack).and_then(|frames| frames.get(at.frame as usize)).copied().unwrap_or_default()
    }

    fn bits_mut(&mut self, at: FrameAt) -> &mut Bits {
        let (frames, frame) = (self.packs.entry(at.pack).or_default(), at.frame as usize);
        if frames.len() <= frame {
            frames.resize(frame + 1, Bits::default());
        }
        &mut frames[frame]
    }

    /// Notes a page. False if it is noted already, and what it points at too.
    fn note_page(&mut self, at: FrameAt) -> bool {
        std::mem::replace(self.bits_mut(at), [u64::MAX; 4]) != [u64::MAX; 4]
    }

    fn note_runs(&mut self, page: &Page) {
        for run in &page.runs {
            let bits = self.bits_mut(run.at.at);
            for block in usize::from(run.at.block)..usize::from(run.at.block) + run.count as usize {
                if let Some(bits) = bits.get_mut(block / 64) {
                    *bits |= 1 << (block % 64);
                }
            }
        }
    }
}

/// Reads every map. One that cannot be read is told, and what it alone needs stays where it is.
pub(super) async fn mark(shared: &Arc<Shared>, sources: &[Source], report: &mut CompactReport) -> Result<Live> {
    let mut live = Live::default();
    for source in sources {
        let manifest = match shared.manifest(&source.at.key).await {
            Ok(manifest) => manifest,
            // forgotten meanwhile
            Err(error) if error.kind() == Kind::NotFound => continue,
            Err(error) if error.kind() == Kind::Damaged => {
                report.unreadable.push(error.chain());
                continue;
            }
            Err(error) => return Err(error),
        };
        mark_point(shared, &manifest, &mut live, report).await?;
    }
    Ok(live)
}

async fn mark_point(
    shared: &Arc<Shared>,
    manifest: &Manifest,
    live: &mut Live,
    report: &mut CompactReport,
) -> Result<()> {
    let mut fresh: Vec<(&StoredPage, usize, &model::DiskName)> = Vec::new();
    for disk in &manifest.disks {
        for (index, page) in (0_u64..).zip(&disk.pages) {
            let PageEntry::Stored(entry) = page else { continue };
            if live.note_page(entry.at) {
                fresh.push((entry, leaves_of_page(disk.size, index), &disk.name));
            }
        }
    }
    let reads: Vec<_> = fresh.into_iter().map(|(entry, leaves, disk)| shared.page(entry, leaves, disk)).collect();
    let mut pages = stream::iter(reads).buffer_unordered(PAGES);
    while let Some(page) = pages.next().await {
        match page {
            Ok(page) => live.note_runs(&page),
            Err(error) if is_damage(&error) => {
                report.unreadable.push(error.chain());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

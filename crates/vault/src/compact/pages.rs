//! Makes the pages anew that point at what was moved, or that lie in packs that were taken.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use model::{DiskName, Result};

use super::carry::Moved;
use super::commit::Source;
use crate::PackId;
use crate::manifest::{DiskTable, PageEntry, StoredPage};
use crate::map::{Page, leaves_of_page};
use crate::pack::FrameAt;
use crate::pack::build::PackStream;
use crate::shared::Shared;
use crate::verify::{self, is_damage};

/// Pages read or checked at a time.
const PARALLEL: usize = 8;

/// A page, and which one of which disk it is.
struct Renewed {
    page: StoredPage,
    disk: DiskName,
    index: u64,
    leaves: usize,
}

/// See the module.
pub(super) struct Pages {
    shared: Arc<Shared>,
    taken: HashSet<PackId>,
    moved: Moved,
    /// Pages that were made anew, by where they lay.
    renewed: HashMap<FrameAt, Renewed>,
}

impl Pages {
    /// No page yet.
    pub fn new(shared: Arc<Shared>, taken: Vec<PackId>, moved: Moved) -> Self {
        Self { shared, taken: taken.into_iter().collect(), moved, renewed: HashMap::new() }
    }

    /// Makes the pages of a point anew, those that another point has too only once. A page that does not read back is left.
    /// False: it needs none of the packs that were taken.
    pub async fn renew(&mut self, source: &Source, stream: &mut PackStream) -> Result<bool> {
        match self.shared.manifest_packs(&source.at).await {
            Ok((_, packs)) if !packs.iter().any(|(pack, _)| self.taken.contains(pack)) => return Ok(false),
            Err(error) if !is_damage(&error) => return Err(error),
            _ => {}
        }
        let manifest = match self.shared.manifest(&source.at.key).await {
            Ok(manifest) => manifest,
            Err(error) if is_damage(&error) => return Ok(false),
            Err(error) => return Err(error),
        };
        for disk in &manifest.disks {
            let mut touched: Vec<(u64, &StoredPage)> = Vec::new();
            for (index, page) in (0_u64..).zip(&disk.pages) {
                if let PageEntry::Stored(entry) = page
                    && self.touches(entry)
                    && !self.renewed.contains_key(&entry.at)
                {
                    touched.push((index, entry));
                }
            }
            let shared = self.shared.clone();
            let read = async |index, entry: &_| shared.page(entry, leaves_of_page(disk.size, index), &disk.name).await;
            let reads: Vec<_> = touched.iter().map(|(index, entry)| read(*index, entry)).collect();
            let mut reads = stream::iter(touched).zip(stream::iter(reads).buffered(PARALLEL));
            while let Some(((index, entry), page)) = reads.next().await {
                match page {
                    Ok(page) => self.renew_page(entry, page, (&disk.name, index), stream).await?,
                    Err(error) if is_damage(&error) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(true)
    }

    fn touches(&self, entry: &StoredPage) -> bool {
        self.taken.contains(&entry.at.pack) || entry.packs.iter().any(|pack| self.taken.contains(pack))
    }

    async fn renew_page(
        &mut self,
        entry: &StoredPage,
        old: Page,
        (disk, index): (&DiskName, u64),
        stream: &mut PackStream,
    ) -> Result<()> {
        let mut page = Page { leaves: old.leaves, runs: Vec::with_capacity(old.runs.len()) };
        old.runs.iter().flat_map(|run| self.moved.follow(*run)).for_each(|run| page.push(run));
        if page.runs == old.runs && !self.taken.contains(&entry.at.pack) {
            return Ok(());
        }
        let at = stream.page(page.encode()).await?;
        let leaves = page.leaves.len();
        let page = StoredPage { hash: entry.hash, at, packs: page.packs().into() };
        self.renewed.insert(entry.at, Renewed { page, disk: disk.clone(), index, leaves });
        Ok(())
    }

    /// Reads what was stored back from the bucket, and checks that the tree of each new page follows from it.
    pub async fn check(&self, written: &[PackId]) -> Result<()> {
        verify::read_back(&self.shared, written).await?;
        let check = async |it: &Renewed| verify::page_fits(&self.shared, &it.disk, it.index, it.leaves, &it.page).await;
        let checks: Vec<_> = self.renewed.values().map(check).collect();
        stream::iter(checks).buffer_unordered(PARALLEL).try_collect().await
    }

    /// A disk's table as it is now; none if nothing of it has changed.
    pub fn follow(&self, table: &DiskTable) -> Option<DiskTable> {
        let mut changed = false;
        let pages = table.pages.iter().map(|page| match page {
            PageEntry::Stored(entry) => match self.renewed.get(&entry.at) {
                Some(Renewed { page, .. }) if page.hash == entry.hash => {
                    changed = true;
                    PageEntry::Stored(page.clone())
                }
                _ => page.clone(),
            },
            PageEntry::Zero => PageEntry::Zero,
        });
        let pages = pages.collect();
        changed.then(|| DiskTable { pages, ..table.clone() })
    }
}

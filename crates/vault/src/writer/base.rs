//! The parent's disk, as what is written on: its pages, and which of their leaves may be relied on.

use std::sync::{Arc, Mutex};

use disk::Leaf;
use model::{Kind, Result};
use tokio::sync::OnceCell;

use crate::index::Excluded;
use crate::lru::Lru;
use crate::manifest::{DiskTable, PageEntry, StoredPage};
use crate::map::{LEAF_BLOCKS, Page, leaves_of_page};
use crate::shared::{Shared, lock};

/// Pages that are held: the current one, and some ahead for [`disk::DiskWrite::has_leaf`], which cannot wait.
const PAGES_HELD: usize = 12;
/// Pages that are loaded ahead.
const AHEAD: u64 = 4;

/// A page of the parent.
#[derive(Debug)]
pub(crate) struct BasePage {
    /// The page.
    pub page: Page,
    /// Leaves that rest on excluded frames: their bytes may be gone.
    lost: Vec<bool>,
    /// The map itself could not be read: nothing is known of what the page was.
    pub unreadable: bool,
}

impl BasePage {
    fn unreadable(leaves: usize) -> Self {
        Self { page: Page::zero(leaves), lost: vec![true; leaves], unreadable: true }
    }

    fn new(page: Page, excluded: &Excluded) -> Self {
        let mut lost = vec![false; page.leaves.len()];
        for run in page.runs.iter().filter(|run| !excluded.allows(run.at.at)) {
            for leaf in run.first / LEAF_BLOCKS..run.end().div_ceil(LEAF_BLOCKS) {
                if let Some(lost) = lost.get_mut(leaf as usize) {
                    *lost = true;
                }
            }
        }
        Self { page, lost, unreadable: false }
    }

    /// Whether leaf `index` of the page is `leaf`, and its bytes can be relied on.
    pub fn has(&self, index: usize, leaf: &Leaf) -> bool {
        self.page.leaves.get(index) == Some(leaf) && self.lost.get(index) == Some(&false)
    }

    /// Whether all bytes of the page can be relied on.
    pub fn is_sound(&self) -> bool {
        !self.lost.contains(&true)
    }
}

type Cell = Arc<OnceCell<Arc<BasePage>>>;

/// The parent's disk.
pub(crate) struct Base {
    shared: Arc<Shared>,
    excluded: Arc<Excluded>,
    /// Its table.
    pub table: Arc<DiskTable>,
    pages: Mutex<Lru<u64, Cell>>,
}

impl Base {
    /// The base of a disk.
    pub fn new(shared: Arc<Shared>, excluded: Arc<Excluded>, table: Arc<DiskTable>) -> Arc<Self> {
        Arc::new(Self { shared, excluded, table, pages: Mutex::new(Lru::new(PAGES_HELD)) })
    }

    /// The entry of a page; none behind the end.
    pub fn entry(&self, index: u64) -> Option<&PageEntry> {
        self.table.pages.get(index as usize)
    }

    /// Whether something new may rest on the frame that holds this page.
    pub fn allows(&self, entry: &StoredPage) -> bool {
        self.excluded.allows(entry.at)
    }

    /// A page; none behind the end.
    pub async fn page(self: &Arc<Self>, index: u64) -> Result<Option<Arc<BasePage>>> {
        if self.entry(index).is_none() {
            return Ok(None);
        }
        self.cell(index).get_or_try_init(|| self.load(index)).await.cloned().map(Some)
    }

    /// A page if it is there already. Asks for it and the next ones if not.
    pub fn peek(self: &Arc<Self>, index: u64) -> Option<Arc<BasePage>> {
        for ahead in index..=index + AHEAD {
            if self.entry(ahead).is_some() && lock(&self.pages).get(&ahead).is_none() {
                self.load_ahead(ahead);
            }
        }
        lock(&self.pages).get(&index)?.get().cloned()
    }

    fn load_ahead(self: &Arc<Self>, index: u64) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (this, cell) = (self.clone(), self.cell(index));
        runtime.spawn(async move {
            // whoever needs the page meets the same error and reports it
            let _ = cell.get_or_try_init(|| this.load(index)).await;
        });
    }

    fn cell(&self, index: u64) -> Cell {
        let mut pages = lock(&self.pages);
        match pages.get(&index) {
            Some(cell) => cell,
            None => {
                let cell = Cell::default();
                pages.put(index, cell.clone(), 1);
                cell
            }
        }
    }

    async fn load(&self, index: u64) -> Result<Arc<BasePage>> {
        let leaves = leaves_of_page(self.table.size, index);
        let page = match self.entry(index) {
            Some(PageEntry::Stored(entry)) => match self.shared.page(entry, leaves, &self.table.name).await {
                Ok(page) => page,
                Err(error) if matches!(error.kind(), Kind::Damaged | Kind::NotFound) => {
                    return Ok(Arc::new(BasePage::unreadable(leaves)));
                }
                Err(error) => return Err(error),
            },
            _ => Page::zero(leaves),
        };
        Ok(Arc::new(BasePage::new(page, &self.excluded)))
    }
}

//! Puts the new map of a disk together, page by page, in ascending order.

use std::sync::Arc;

use disk::{LEAF, LEAVES_PER_PAGE, Leaf, zero_leaf};
use model::{Error, Kind, Result};

use super::base::{Base, BasePage};
use super::claims::Claims;
use crate::manifest::{PageEntry, StoredPage};
use crate::map::{LEAF_BLOCKS, Page, Run, leaves_of_page, page_count, zero_page_hash};
use crate::pack::BlockAt;
use crate::pack::build::PackStream;

struct Open {
    index: u64,
    page: Page,
    /// The next leaf of the page that nothing was said about.
    next: usize,
    base: Option<Arc<BasePage>>,
}

/// See the module.
pub(crate) struct Assembler {
    size: u64,
    incremental: bool,
    base: Option<Arc<Base>>,
    claims: Arc<Claims>,
    entries: Vec<PageEntry>,
    open: Option<Open>,
}

impl Assembler {
    /// A map of which nothing is known yet.
    pub fn new(size: u64, incremental: bool, base: Option<Arc<Base>>, claims: Arc<Claims>) -> Self {
        Self { size, incremental, base, claims, entries: Vec::new(), open: None }
    }

    /// Says what leaf `index` is: its hash, and the runs of its blocks that are not zero.
    pub async fn leaf(&mut self, index: u64, leaf: Leaf, stream: &mut PackStream) -> Result<()> {
        self.advance(index, stream).await?;
        let Some(open) = &mut self.open else { return Err(crate::keys::broken("there is no open page")) };
        if let Some(slot) = open.page.leaves.get_mut(open.next) {
            *slot = leaf;
        }
        open.next += 1;
        Ok(())
    }

    /// Says where a block of the last leaf lies; `block` is its number in the page.
    pub fn run(&mut self, block: u32, at: BlockAt) -> Result<()> {
        let Some(open) = &mut self.open else { return Err(crate::keys::broken("there is no open page")) };
        open.page.push(Run { first: block, count: 1, at });
        Ok(())
    }

    /// Says that leaf `index` is as the base has it.
    pub async fn same(&mut self, index: u64, stream: &mut PackStream) -> Result<()> {
        self.advance(index, stream).await?;
        let Some(open) = &mut self.open else { return Err(crate::keys::broken("there is no open page")) };
        copy(open, open.next, open.next + 1)?;
        open.next += 1;
        Ok(())
    }

    /// Says that leaves `from..to` are zero.
    pub async fn zero(&mut self, from: u64, to: u64, stream: &mut PackStream) -> Result<()> {
        let mut at = from;
        while at < to {
            let whole =
                at.is_multiple_of(LEAVES_PER_PAGE) && at + leaves_of_page(self.size, at / LEAVES_PER_PAGE) as u64 <= to;
            if whole {
                self.advance_to_page(at / LEAVES_PER_PAGE, stream).await?;
                self.claims.forget(at / LEAVES_PER_PAGE);
                self.entries.push(PageEntry::Zero);
                at += leaves_of_page(self.size, at / LEAVES_PER_PAGE) as u64;
            } else {
                self.leaf(at, zero_leaf(), stream).await?;
                at += 1;
            }
        }
        Ok(())
    }

    /// Ends the map: what was not spoken of follows the base, or is zero.
    pub async fn finish(&mut self, stream: &mut PackStream) -> Result<Vec<PageEntry>> {
        self.advance_to_page(page_count(self.size), stream).await?;
        Ok(std::mem::take(&mut self.entries))
    }

    /// The hash of each page of a finished map.
    pub fn hashes(size: u64, entries: &[PageEntry]) -> impl Iterator<Item = disk::PageHash> + '_ {
        (0..).zip(entries).map(move |(index, entry)| match entry {
            PageEntry::Zero => zero_page_hash(size, index),
            PageEntry::Stored(page) => page.hash,
        })
    }

    /// Opens the page of leaf `index` and fills up to it.
    async fn advance(&mut self, index: u64, stream: &mut PackStream) -> Result<()> {
        let (page, leaf) = (index / LEAVES_PER_PAGE, (index % LEAVES_PER_PAGE) as usize);
        if self.open.as_ref().is_none_or(|open| open.index != page) {
            self.advance_to_page(page, stream).await?;
            self.open_page(page).await?;
        }
        self.fill(leaf)
    }

    /// Finishes every page before `page`.
    async fn advance_to_page(&mut self, page: u64, stream: &mut PackStream) -> Result<()> {
        if self.open.as_ref().is_some_and(|open| open.index < page) {
            self.close_page(stream).await?;
        }
        while (self.entries.len() as u64) < page {
            let index = self.entries.len() as u64;
            match self.untouched(index) {
                Some(entry) => self.entries.push(entry),
                None => {
                    self.open_page(index).await?;
                    self.close_page(stream).await?;
                }
            }
        }
        Ok(())
    }

    /// The entry of a page to which nothing was written, if it needs no look into the page.
    fn untouched(&self, index: u64) -> Option<PageEntry> {
        let Some(base) = &self.base else { return Some(PageEntry::Zero) };
        let Some(PageEntry::Stored(entry)) = base.entry(index) else { return Some(PageEntry::Zero) };
        let same_shape = leaves_of_page(self.size, index) == leaves_of_page(base.table.size, index);
        if self.incremental {
            return (same_shape && base.allows(entry)).then(|| PageEntry::Stored(entry.clone()));
        }
        (!self.claims.any(index)).then_some(PageEntry::Zero)
    }

    async fn open_page(&mut self, index: u64) -> Result<()> {
        let base = match &self.base {
            Some(base) => base.page(index).await?,
            None => None,
        };
        self.open = Some(Open { index, page: Page::zero(leaves_of_page(self.size, index)), next: 0, base });
        Ok(())
    }

    /// Leaves up to `to` that nobody wrote: the base's, if the writer is incremental or has answered for them.
    fn fill(&mut self, to: usize) -> Result<()> {
        let (incremental, claims) = (self.incremental, &self.claims);
        let Some(open) = &mut self.open else { return Ok(()) };
        while open.next < to {
            let keep = |leaf: usize| incremental || claims.has(open.index, leaf);
            let (from, kept) = (open.next, keep(open.next));
            let end = (from..to).find(|leaf| keep(*leaf) != kept).unwrap_or(to);
            if kept {
                copy(open, from, end)?;
            }
            open.next = end;
        }
        Ok(())
    }

    async fn close_page(&mut self, stream: &mut PackStream) -> Result<()> {
        let Some(index) = self.open.as_ref().map(|open| open.index) else { return Ok(()) };
        self.fill(leaves_of_page(self.size, index))?;
        self.claims.forget(index);
        let Some(open) = self.open.take() else { return Ok(()) };
        let page = open.page;
        if page.leaves.iter().all(|leaf| *leaf == zero_leaf()) {
            self.entries.push(PageEntry::Zero);
            return Ok(());
        }
        let hash = page.hash();
        if let (Some(base), Some(before)) = (&self.base, &open.base)
            && let Some(PageEntry::Stored(entry)) = base.entry(index)
            && entry.hash == hash
            && base.allows(entry)
            && (before.is_sound() || before.page.runs == page.runs)
        {
            self.entries.push(PageEntry::Stored(entry.clone()));
            return Ok(());
        }
        let at = stream.page(page.encode()).await?;
        self.entries.push(PageEntry::Stored(StoredPage { hash, at, packs: page.packs().into() }));
        Ok(())
    }
}

/// Takes leaves `from..to` from the base; behind the base's end they are zero.
fn copy(open: &mut Open, from: usize, to: usize) -> Result<()> {
    let Some(base) = &open.base else { return Ok(()) };
    if base.unreadable {
        let page = open.index;
        return Err(Error::new(
            Kind::Damaged,
            format!("cannot keep the parent's bytes at {}", page * LEAF * LEAVES_PER_PAGE),
        )
        .because("the map of the parent point is damaged there")
        .hint("read the disk in full: capture it without the parent"));
    }
    let known = base.page.leaves.len();
    for leaf in from..to.min(known) {
        if let (Some(slot), Some(value)) = (open.page.leaves.get_mut(leaf), base.page.leaves.get(leaf)) {
            *slot = *value;
        }
    }
    let runs: Vec<Run> = base.page.runs_in(from as u32 * LEAF_BLOCKS, to as u32 * LEAF_BLOCKS).collect();
    for run in runs {
        open.page.push(run);
    }
    Ok(())
}

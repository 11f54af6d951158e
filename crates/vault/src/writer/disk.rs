//! One disk of a point while it is written: slices are hashed in parallel, then matched and placed in order.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use disk::{DiskWrite, LEAF, LEAVES_PER_PAGE, Leaf, Written, zero_block};
use model::{DiskName, DiskRoot, Error, Kind, Result};

use super::assemble::Assembler;
use super::base::Base;
use super::claims::Claims;
use super::hash::{Hashed, LeafState, hash};
use super::matcher::Matcher;
use super::run::Run;
use crate::manifest::DiskTable;
use crate::map::LEAF_BLOCKS;
use crate::pack::build::PackStream;
use crate::pack::{BLOCK, BlockId};
use crate::shared::Shared;
use crate::work::Pending;

/// What one hashing job gets.
const SLICE: u64 = 1 << 20;

enum Item {
    Slice(Pending<Hashed>),
    Zero { from: u64, to: u64 },
}

/// See the module.
pub(crate) struct DiskWriter {
    shared: Arc<Shared>,
    run: Arc<Run>,
    name: DiskName,
    size: u64,
    base: Option<Arc<Base>>,
    claims: Arc<Claims>,
    assembler: Assembler,
    matcher: Matcher,
    stream: PackStream,
    queue: VecDeque<Item>,
    /// Where the next range may begin.
    position: u64,
    received: u64,
    fresh: u64,
}

impl DiskWriter {
    /// A writer of `size` bytes over the parent's disk of that name.
    pub fn new(shared: Arc<Shared>, run: Arc<Run>, name: DiskName, size: u64, incremental: bool) -> Result<Self> {
        if !size.is_multiple_of(512) {
            return Err(Error::new(Kind::Invalid, format!("cannot write disk {name}"))
                .because(format!("its size of {size} bytes is no multiple of 512")));
        }
        let table = run.parent.as_ref().and_then(|parent| parent.disk(&name).ok().cloned().map(Arc::new));
        if incremental && table.as_ref().is_none_or(|table| table.size > size) {
            return Err(Error::new(Kind::Invalid, format!("cannot write disk {name} as an increment"))
                .because("the parent point has no such disk, or a larger one")
                .hint("capture the disk in full"));
        }
        // a larger parent still has blocks to match, but its leaves near the new end are of another disk
        let table = table.filter(|table| table.size <= size);
        let base = table.map(|table| Base::new(shared.clone(), run.excluded.clone(), table));
        if let Some(base) = &base {
            base.peek(0);
        }
        let claims = Arc::new(Claims::default());
        Ok(Self {
            assembler: Assembler::new(size, incremental, base.clone(), claims.clone()),
            matcher: Matcher::new(shared.clone(), run.excluded.clone()),
            stream: PackStream::new(shared.clone(), run.clone()),
            queue: VecDeque::new(),
            position: 0,
            received: 0,
            fresh: 0,
            shared,
            run,
            name,
            size,
            base,
            claims,
        })
    }

    fn check(&mut self, offset: u64, len: u64) -> Result<()> {
        let end = offset.checked_add(len).filter(|end| *end <= self.size);
        let aligned = |at: u64| at.is_multiple_of(LEAF) || at == self.size;
        match end {
            Some(end) if offset >= self.position && offset.is_multiple_of(LEAF) && aligned(end) => {
                self.position = end;
                Ok(())
            }
            _ => Err(Error::new(Kind::Invalid, format!("cannot write {len} bytes at {offset} of disk {}", self.name))
                .because("ranges must ascend, be inside the disk and be multiples of 64 KiB")),
        }
    }

    async fn relieve(&mut self, most: usize) -> Result<()> {
        while self.queue.len() > most {
            match self.queue.pop_front() {
                Some(Item::Slice(pending)) => {
                    let hashed = pending.wait().await?;
                    self.place(&hashed).await?;
                }
                Some(Item::Zero { from, to }) => self.assembler.zero(from, to, &mut self.stream).await?,
                None => {}
            }
        }
        Ok(())
    }

    async fn place(&mut self, hashed: &Hashed) -> Result<()> {
        self.look_up(hashed).await?;
        let first = hashed.offset / LEAF;
        for (number, (leaf, state)) in hashed.leaves.iter().enumerate() {
            let index = first + number as u64;
            match state {
                LeafState::Zero => drop(self.assembler.leaf(index, *leaf, &mut self.stream).await?),
                LeafState::Same => self.assembler.same(index, &mut self.stream).await?,
                LeafState::Changed(ids) => {
                    let start = number * LEAF as usize;
                    let data = &hashed.data[start..hashed.data.len().min(start + LEAF as usize)];
                    let ids = hashed.ids.get(*ids..ids + data.len().div_ceil(BLOCK)).unwrap_or_default();
                    self.place_leaf(index, *leaf, data, ids).await?;
                }
            }
        }
        Ok(())
    }

    async fn place_leaf(&mut self, index: u64, leaf: Leaf, data: &[u8], ids: &[BlockId]) -> Result<()> {
        // opens the page first: closing the one before may need the stream
        self.assembler.leaf(index, leaf, &mut self.stream).await?;
        let first = (index % LEAVES_PER_PAGE) as u32 * LEAF_BLOCKS;
        for (number, (id, block)) in ids.iter().zip(data.chunks(BLOCK)).enumerate() {
            if *id == zero_block() {
                continue;
            }
            let at = match self.matcher.find(id).or_else(|| self.run.find(id)) {
                Some(at) => at,
                None => {
                    self.stream.make_room().await?;
                    self.fresh += block.len() as u64;
                    self.stream.push(*id, block)?
                }
            };
            self.assembler.run(first + number as u32, at)?;
        }
        Ok(())
    }

    /// Loads the ids of frames that are likely to hold this slice's blocks.
    async fn look_up(&mut self, hashed: &Hashed) -> Result<()> {
        if let Some(base) = &self.base
            && hashed.leaves.iter().any(|(_, state)| matches!(state, LeafState::Changed(_)))
            && let Some(page) = base.page(hashed.offset / LEAF / LEAVES_PER_PAGE).await?
        {
            let first = (hashed.offset / LEAF % LEAVES_PER_PAGE) as u32;
            for (number, (_, state)) in (0..).zip(&hashed.leaves) {
                if matches!(state, LeafState::Changed(_)) {
                    let from = (first + number) * LEAF_BLOCKS;
                    for run in page.page.runs_in(from, from + LEAF_BLOCKS) {
                        self.matcher.activate(run.at.at, 0).await?;
                    }
                }
            }
        }
        for id in hashed.ids.iter().filter(|id| **id != zero_block()) {
            if self.matcher.find(id).is_none() {
                self.matcher.follow_hint(id).await?;
            }
        }
        Ok(())
    }
}

#[async_trait]
impl DiskWrite for DiskWriter {
    fn size(&self) -> u64 {
        self.size
    }

    async fn write(&mut self, offset: u64, data: Bytes) -> Result<()> {
        self.check(offset, data.len() as u64)?;
        self.received += data.len() as u64;
        let (mut at, end) = (offset, offset + data.len() as u64);
        while at < end {
            let to = (at / SLICE * SLICE + SLICE).min(end);
            let slice = data.slice((at - offset) as usize..(to - offset) as usize);
            let base = match &self.base {
                Some(base) => base.page(at / LEAF / LEAVES_PER_PAGE).await?,
                None => None,
            };
            let job = self.shared.workers.submit(move |_| hash(at, slice, base.as_ref()));
            self.queue.push_back(Item::Slice(job));
            self.relieve(self.shared.workers.threads + 1).await?;
            at = to;
        }
        Ok(())
    }

    async fn zero(&mut self, offset: u64, len: u64) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        self.check(offset, len)?;
        self.queue.push_back(Item::Zero { from: offset / LEAF, to: (offset + len).div_ceil(LEAF) });
        self.relieve(self.shared.workers.threads + 1).await
    }

    fn may_have_leaves(&self) -> bool {
        self.base.is_some()
    }

    fn has_leaf(&self, index: u64, leaf: &Leaf) -> bool {
        let Some(base) = &self.base else { return false };
        let page = base.peek(index / LEAVES_PER_PAGE);
        let has = page.is_some_and(|page| page.has((index % LEAVES_PER_PAGE) as usize, leaf));
        if has {
            self.claims.claim(index);
        }
        has
    }

    async fn finish(mut self: Box<Self>) -> Result<Written> {
        self.relieve(0).await?;
        let pages = self.assembler.finish(&mut self.stream).await?;
        self.stream.flush().await?;
        let root: DiskRoot = disk::root_of_pages(self.size, Assembler::hashes(self.size, &pages));
        self.run.finished(DiskTable { name: self.name.clone(), size: self.size, root, pages });
        self.run.write_index(&self.shared, false).await?;
        Ok(Written { root, received: self.received, fresh: self.fresh, stored: self.stream.stored })
    }
}

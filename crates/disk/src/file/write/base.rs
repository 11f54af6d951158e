//! What a writer takes over from the disk that it builds on.
//!
//! With a record of the base's leaves nothing of the base is read: the file system is asked to share (or copy) the ranges that did not
//! arrive, and their leaves come from the record. Without one every byte is read, for the root's sake.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use model::{Change, DiskRoot, Error, Extent, ExtentList, Kind, Result};

use super::super::{Format, Leaves, blocking::run, open_file};
use super::{FileWriter, Piece, RUNNING};
use crate::transfer::CHUNK;
use crate::{DiskRead, LEAF, LEAVES_PER_PAGE, Leaf, PAGE, PlainRange, is_zero, leaf, zero_leaf};

/// Neighbouring leaves, by their place in what they are part of.
type Run = Range<usize>;

/// A disk that another one is built on.
#[derive(Clone)]
pub struct Base {
    disk: Arc<dyn DiskRead>,
    leaves: Option<Arc<Leaves>>,
}

impl From<Box<dyn DiskRead>> for Base {
    fn from(disk: Box<dyn DiskRead>) -> Self {
        Self { disk: disk.into(), leaves: None }
    }
}

impl Base {
    /// Opens a disk file of which the root is known, with its record of leaves if that fits.
    pub async fn open(path: &Path, format: Format, root: &DiskRoot) -> Result<Self> {
        let disk: Arc<dyn DiskRead> = open_file(path, format).await?.into();
        let (path, root, size) = (path.to_owned(), *root, disk.size());
        let leaves = run(move || Ok(Leaves::open(&path, &root).filter(|leaves| leaves.size() == size))).await?;
        Ok(Self { disk, leaves: leaves.map(Arc::new) })
    }

    pub(super) fn knows_leaves(&self) -> bool {
        self.leaves.is_some()
    }

    /// A leaf that is known without reading it. Looks into the record: 32 KiB for the first leaf of 64 MiB.
    pub(super) fn leaf(&self, index: u64) -> Option<Leaf> {
        self.leaves.as_ref().and_then(|leaves| leaves.leaf(index).ok())
    }

    /// The bytes, which may end before `to`, within a leaf: what is missing is zero.
    async fn read_padded(&self, from: u64, to: u64) -> Result<(u64, Bytes)> {
        let readable = self.disk.size().min(to).saturating_sub(from) as usize;
        let data = if readable == 0 { Bytes::new() } else { self.disk.read_at(from, readable).await? };
        if data.len() == (to - from) as usize {
            return Ok((from, data));
        }
        let mut padded = data.to_vec();
        padded.resize((to - from) as usize, 0);
        Ok((from, padded.into()))
    }

    /// Cuts a range into pieces that lie plainly in a file, and others.
    fn pieces(&self, from: u64, to: u64) -> Vec<(u64, u64, Option<PlainRange>)> {
        let (mut pieces, mut at) = (Vec::new(), from);
        while at < to {
            let mut len = to - at;
            let plain = loop {
                match self.disk.plain_range(at, len) {
                    None if len > LEAF => len = (len / 2).next_multiple_of(LEAF).min(len - 1).max(LEAF),
                    plain => break plain,
                }
            };
            pieces.push((at, len, plain));
            at += len;
        }
        pieces
    }
}

/// Runs of neighbours of which `same` says the same, as ranges of indices.
fn runs(count: usize, same: impl Fn(usize) -> bool) -> Vec<(Run, bool)> {
    let (mut runs, mut first) = (Vec::new(), 0);
    while first < count {
        let value = same(first);
        let end = (first + 1..count).find(|index| same(*index) != value).unwrap_or(count);
        runs.push((first..end, value));
        first = end;
    }
    runs
}

/// The bytes of leaves `run` of `data`.
fn leaves_of(data: &Bytes, run: &Run) -> Run {
    run.start * LEAF as usize..data.len().min(run.end * LEAF as usize)
}

fn leaf_of(data: &[u8], index: usize) -> &[u8] {
    &data[index * LEAF as usize..data.len().min((index + 1) * LEAF as usize)]
}

impl FileWriter {
    /// What did not arrive between the cursor and `end` is the base's, or zero.
    pub(super) async fn fill_gap(&mut self, end: u64) -> Result<()> {
        let Some(base) = self.base.clone() else {
            return self.put_zeroes(self.cursor, end - self.cursor).await;
        };
        if let Some(leaves) = &base.leaves {
            // of disks of two sizes only leaves that lie in both as a whole are the same
            let known = if leaves.size() == self.size { end } else { end.min(leaves.size()) / LEAF * LEAF };
            while self.cursor < known {
                let to = ((self.cursor / PAGE + 1) * PAGE).min(known);
                let (leaves, page) = (leaves.clone(), self.cursor / PAGE);
                match run(move || leaves.page(page)).await {
                    Ok(page) => self.take_known(&base, &page, to).await?,
                    // a record that is damaged here costs a read
                    Err(_) => self.copy_base(&base, to).await?,
                }
            }
        }
        self.copy_base(&base, end).await
    }

    /// Takes over from the cursor to `to`, within the page of these leaves, without reading.
    async fn take_known(&mut self, base: &Base, page: &[Leaf], to: u64) -> Result<()> {
        let (from, zero) = (self.cursor, zero_leaf());
        let first = (from / LEAF % LEAVES_PER_PAGE) as usize;
        let count = (to - from).div_ceil(LEAF) as usize;
        for (run, is_zero) in runs(count, |index| page[first + index] == zero) {
            let begin = from + run.start as u64 * LEAF;
            let end = to.min(from + run.end as u64 * LEAF);
            if is_zero {
                self.put_zeroes(begin, end - begin).await?;
                continue;
            }
            let place = base.clone();
            let pieces = super::run(move || Ok(place.pieces(begin, end))).await?;
            for (offset, len, plain) in pieces {
                let at = first + ((offset - from) / LEAF) as usize;
                let leaves = page[at..at + len.div_ceil(LEAF) as usize].to_vec();
                if plain.is_some() {
                    self.put_piece(Piece { offset, len, data: None, leaves: Some(leaves), plain }).await?;
                } else {
                    let (_, data) = base.read_padded(offset, offset + len).await?;
                    self.put(offset, data, None).await?;
                }
            }
        }
        self.cursor = to;
        Ok(())
    }

    /// Takes over from the cursor to `end`, reading.
    async fn copy_base(&mut self, base: &Base, end: u64) -> Result<()> {
        let have = base.disk.size().min(end);
        while self.cursor < have {
            let list = base.disk.extents(self.cursor).await?;
            let Some(last) = list.as_slice().last().map(Extent::end) else {
                return Err(Error::new(Kind::Damaged, format!("cannot read {}", base.disk.describe()))
                    .because(format!("it does not list bytes from {}", self.cursor)));
            };
            // up to a leaf's end, whatever the next page says of it: the leaf is read as a whole
            let last = last.next_multiple_of(LEAF).min(end);
            let listed = list.as_slice().iter().filter(|e| e.offset < end);
            let listed: ExtentList = listed.map(|e| Extent { len: e.len.min(end - e.offset), ..*e }).collect();
            for extent in listed.aligned(LEAF, end).as_slice() {
                let (from, to) = (extent.offset.max(self.cursor), extent.end().min(end));
                if from < to && extent.change == Change::Data {
                    self.put_zeroes(self.cursor, from - self.cursor).await?;
                    self.copy_data(base, from, to).await?;
                    self.cursor = to;
                }
            }
            self.put_zeroes(self.cursor, last.max(self.cursor) - self.cursor).await?;
            self.cursor = last.max(self.cursor);
        }
        self.put_zeroes(self.cursor, end - self.cursor).await?;
        self.cursor = end;
        Ok(())
    }

    async fn copy_data(&mut self, base: &Base, from: u64, to: u64) -> Result<()> {
        let mut reads: FuturesOrdered<BoxFuture<'_, Result<(u64, Bytes)>>> = FuturesOrdered::new();
        let mut asked = from;
        loop {
            while asked < to && reads.len() < RUNNING {
                let end = ((asked / CHUNK + 1) * CHUNK).min(to);
                reads.push_back(Box::pin(base.read_padded(asked, end)));
                asked = end;
            }
            let Some(read) = reads.next().await else { return Ok(()) };
            let (at, data) = read?;
            for (run, zero) in runs(data.len().div_ceil(LEAF as usize), |index| is_zero(leaf_of(&data, index))) {
                let bytes = leaves_of(&data, &run);
                let (offset, len) = (at + bytes.start as u64, bytes.len() as u64);
                if zero {
                    self.put_zeroes(offset, len).await?;
                } else {
                    self.put(offset, data.slice(bytes), base.disk.plain_range(offset, len)).await?;
                }
            }
        }
    }

    /// Takes data that came although the base may have it: a change map is coarse, and a source without one sends everything.
    pub(super) async fn put_over_base(&mut self, offset: u64, data: Bytes) -> Result<()> {
        let Some(base) = self.base.clone() else { return Ok(()) };
        if base.knows_leaves() {
            return self.put_unlike(&base, offset, data).await;
        }
        let (_, old) = base.read_padded(offset, offset + data.len() as u64).await?;
        for (run, same) in runs(data.len().div_ceil(LEAF as usize), |i| leaf_of(&data, i) == leaf_of(&old, i)) {
            let bytes = leaves_of(&data, &run);
            let (at, len) = (offset + bytes.start as u64, bytes.len() as u64);
            let plain = if same { base.disk.plain_range(at, len) } else { None };
            self.fresh += if same { 0 } else { len };
            self.put(at, data.slice(bytes), plain).await?;
        }
        Ok(())
    }

    /// The same by the leaves, without reading the base.
    async fn put_unlike(&mut self, base: &Base, offset: u64, data: Bytes) -> Result<()> {
        let mut at = 0;
        while at < data.len() {
            let guest = offset + at as u64;
            let part = data.slice(at..data.len().min(at + (CHUNK - guest % CHUNK) as usize));
            at += part.len();
            let (base, bytes) = (base.clone(), part.clone());
            let (leaves, pieces) = super::run(move || Ok(base.compare(guest, &bytes))).await?;
            for (run, plain) in pieces {
                let bytes = leaves_of(&part, &run);
                self.fresh += if plain.is_some() { 0 } else { bytes.len() as u64 };
                let (offset, len) = (guest + bytes.start as u64, bytes.len() as u64);
                let data = Some(part.slice(bytes));
                self.put_piece(Piece { offset, len, data, leaves: Some(leaves[run].to_vec()), plain }).await?;
            }
        }
        Ok(())
    }
}

impl Base {
    /// The leaves of new data, and its runs: with the place of the base's bytes where those are the same.
    fn compare(&self, offset: u64, data: &Bytes) -> (Vec<Leaf>, Vec<(Run, Option<PlainRange>)>) {
        let leaves: Vec<Leaf> = data.chunks(LEAF as usize).map(leaf).collect();
        let same = |index: usize| self.leaf(offset / LEAF + index as u64) == Some(leaves[index]);
        let pieces = runs(leaves.len(), same).into_iter().map(|(run, same)| {
            let bytes = leaves_of(data, &run);
            let at = offset + bytes.start as u64;
            let plain = if same { self.disk.plain_range(at, bytes.len() as u64) } else { None };
            (run, plain)
        });
        let pieces = pieces.collect();
        (leaves, pieces)
    }
}

//! Writing a disk into a file. What lies where is the matter of [`Layout`]; here is what all formats share: order,
//! the base, the root, durability and the name.

mod layout;
mod place;

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use model::{Change, Error, Extent, ExtentList, Kind, Result};
use tokio::task::JoinHandle;

use self::layout::Layout;
use self::place::Place;
use super::Format;
use super::blocking::run;
use crate::transfer::CHUNK;
use crate::{DiskRead, DiskWrite, LEAF, Leaf, PlainRange, RootBuilder, Written, is_zero, leaf};

const LEAVES: usize = (CHUNK / LEAF) as usize;
/// Chunks that are hashed and written at once.
const RUNNING: usize = 4;

/// The leaves of a chunk, when it is written.
struct Stored {
    first: u64,
    count: usize,
    leaves: [Leaf; LEAVES],
}

/// A disk that is being written into a file.
pub struct FileWriter {
    place: Place,
    layout: Layout,
    size: u64,
    base: Option<Box<dyn DiskRead>>,
    /// Everything before it has arrived, was taken from the base or is zero.
    cursor: u64,
    root: RootBuilder,
    running: FuturesOrdered<JoinHandle<Result<Option<Stored>>>>,
    received: u64,
    /// Of what was received: what the base does not have at that place.
    fresh: u64,
}

impl FileWriter {
    pub(super) fn create(path: &Path, format: Format, size: u64, base: Option<Box<dyn DiskRead>>) -> Result<Self> {
        if size == 0 || !size.is_multiple_of(512) || size > i64::MAX as u64 {
            let what = format!("cannot create disk {}", path.display());
            return Err(Error::new(Kind::Invalid, what).because(format!("{size} bytes are no whole sectors")));
        }
        let place = Place::create(path, format, size)?;
        let layout = Layout::new(format, size, place.is_device());
        let root = RootBuilder::new(size);
        Ok(Self { place, layout, size, base, cursor: 0, root, running: FuturesOrdered::new(), received: 0, fresh: 0 })
    }

    /// Checks that a range continues what has arrived, fills the gap before it, and moves behind it.
    async fn advance(&mut self, offset: u64, len: u64) -> Result<()> {
        let end = offset.checked_add(len).filter(|end| *end <= self.size);
        let whole = |at: u64| at.is_multiple_of(LEAF) || at == self.size;
        match end {
            Some(end) if offset >= self.cursor && whole(offset) && whole(end) => {
                self.fill_gap(offset).await?;
                self.cursor = end;
                Ok(())
            }
            _ => Err(Error::new(Kind::Invalid, format!("cannot write {}", self.place))
                .because(format!("{len} bytes at {offset} come out of order or are no whole leaves"))),
        }
    }

    /// What did not arrive between the cursor and `end` is the base's, or zero.
    async fn fill_gap(&mut self, end: u64) -> Result<()> {
        let Some(base) = self.base.take() else {
            return self.put_zeroes(self.cursor, end - self.cursor).await;
        };
        let filled = self.copy_base(base.as_ref(), end).await;
        self.base = Some(base);
        filled
    }

    async fn copy_base(&mut self, base: &dyn DiskRead, end: u64) -> Result<()> {
        let have = base.size().min(end);
        while self.cursor < have {
            let list = base.extents(self.cursor).await?;
            let Some(last) = list.as_slice().last().map(|extent| extent.end()) else {
                return Err(Error::new(Kind::Damaged, format!("cannot read {}", base.describe()))
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

    async fn copy_data(&mut self, base: &dyn DiskRead, from: u64, to: u64) -> Result<()> {
        let mut reads: FuturesOrdered<BoxFuture<'_, Result<(u64, Bytes)>>> = FuturesOrdered::new();
        let mut asked = from;
        loop {
            while asked < to && reads.len() < RUNNING {
                let end = ((asked / CHUNK + 1) * CHUNK).min(to);
                reads.push_back(Box::pin(read_padded(base, asked, end)));
                asked = end;
            }
            let Some(read) = reads.next().await else { return Ok(()) };
            let (at, data) = read?;
            let leaf_at = |from: usize| from..data.len().min(from + LEAF as usize);
            let mut first = 0;
            while first < data.len() {
                let zero = is_zero(&data[leaf_at(first)]);
                let mut end = leaf_at(first).end;
                while end < data.len() && is_zero(&data[leaf_at(end)]) == zero {
                    end = leaf_at(end).end;
                }
                let (offset, len) = (at + first as u64, (end - first) as u64);
                if zero {
                    self.put_zeroes(offset, len).await?;
                } else {
                    self.put(offset, data.slice(first..end), base.plain_range(offset, len)).await?;
                }
                first = end;
            }
        }
    }

    /// Takes data that came although the base may have it: a source without a list of changes sends everything.
    async fn put_changed(&mut self, base: &dyn DiskRead, offset: u64, data: Bytes) -> Result<()> {
        let (_, old) = read_padded(base, offset, offset + data.len() as u64).await?;
        let leaf_at = |from: usize| from..data.len().min(from + LEAF as usize);
        let mut first = 0;
        while first < data.len() {
            let same = data[leaf_at(first)] == old[leaf_at(first)];
            let mut end = leaf_at(first).end;
            while end < data.len() && (data[leaf_at(end)] == old[leaf_at(end)]) == same {
                end = leaf_at(end).end;
            }
            let (at, len) = (offset + first as u64, (end - first) as u64);
            let plain = if same { base.plain_range(at, len) } else { None };
            self.fresh += if same { 0 } else { len };
            self.put(at, data.slice(first..end), plain).await?;
            first = end;
        }
        Ok(())
    }

    /// Hashes and stores data in the background; what lies plainly in another file is shared with it if it can be.
    async fn put(&mut self, offset: u64, data: Bytes, plain: Option<PlainRange>) -> Result<()> {
        let mut at = 0;
        while at < data.len() {
            let guest = offset + at as u64;
            // pieces lie within multiples of a chunk, so that none needs two tables of a layout
            let piece = data.slice(at..data.len().min(at + (CHUNK - guest % CHUNK) as usize));
            let from = plain.as_ref().map(|plain| (plain.file.clone(), plain.offset + at as u64));
            at += piece.len();
            let placed = self.layout.place(guest, piece.len() as u64);
            if let Some((host, table)) = placed.table {
                self.start(move |file| file.write_all_at(&table, host).map(|()| None)).await?;
            }
            self.start(move |file| {
                let mut stored = Stored { first: guest / LEAF, count: 0, leaves: [[0; 32]; LEAVES] };
                for bytes in piece.chunks(LEAF as usize) {
                    stored.leaves[stored.count] = leaf(bytes);
                    stored.count += 1;
                }
                if !from.is_some_and(|(source, from)| place::share(&source, from, file, placed.host, piece.len())) {
                    file.write_all_at(&piece, placed.host)?;
                }
                Ok(Some(stored))
            })
            .await?;
        }
        Ok(())
    }

    /// Zeroes: nothing to do in a file, where they are holes; a device is told.
    async fn put_zeroes(&mut self, offset: u64, len: u64) -> Result<()> {
        if len == 0 || !self.place.is_device() {
            return Ok(());
        }
        self.start(move |file| place::zero_device(file, offset, len).map(|()| None)).await
    }

    async fn start(
        &mut self,
        work: impl FnOnce(&File) -> std::io::Result<Option<Stored>> + Send + 'static,
    ) -> Result<()> {
        while self.running.len() >= RUNNING {
            self.settle().await?;
        }
        let (file, name) = (self.place.file(), self.place.to_string());
        let work = move || work(&file).map_err(|e| Error::io(format!("cannot write {name}"), e));
        self.running.push_back(tokio::task::spawn_blocking(work));
        Ok(())
    }

    /// Waits for the oldest write and takes its leaves, which so come in order.
    async fn settle(&mut self) -> Result<()> {
        let Some(outcome) = self.running.next().await else { return Ok(()) };
        let broken = |e| Error::new(Kind::Permanent, format!("cannot write {}", self.place)).because(e);
        if let Some(stored) = outcome.map_err(broken)?? {
            for (index, leaf) in stored.leaves[..stored.count].iter().enumerate() {
                self.root.push(stored.first + index as u64, *leaf);
            }
        }
        Ok(())
    }
}

/// Reads a base, which may end before `to`, within a leaf: what is missing is zero.
async fn read_padded(base: &dyn DiskRead, from: u64, to: u64) -> Result<(u64, Bytes)> {
    let readable = base.size().min(to).saturating_sub(from) as usize;
    let data = if readable == 0 { Bytes::new() } else { base.read_at(from, readable).await? };
    if data.len() == (to - from) as usize {
        return Ok((from, data));
    }
    let mut padded = data.to_vec();
    padded.resize((to - from) as usize, 0);
    Ok((from, padded.into()))
}

#[async_trait]
impl DiskWrite for FileWriter {
    fn size(&self) -> u64 {
        self.size
    }

    async fn write(&mut self, offset: u64, data: Bytes) -> Result<()> {
        self.advance(offset, data.len() as u64).await?;
        self.received += data.len() as u64;
        let Some(base) = self.base.take() else {
            self.fresh += data.len() as u64;
            return self.put(offset, data, None).await;
        };
        let written = self.put_changed(base.as_ref(), offset, data).await;
        self.base = Some(base);
        written
    }

    async fn zero(&mut self, offset: u64, len: u64) -> Result<()> {
        self.advance(offset, len).await?;
        self.put_zeroes(offset, len).await
    }

    fn may_have_leaves(&self) -> bool {
        false
    }

    async fn finish(mut self: Box<Self>) -> Result<Written> {
        self.fill_gap(self.size).await?;
        while !self.running.is_empty() {
            self.settle().await?;
        }
        let Self { place, layout, root, received, fresh, .. } = *self;
        let stored = run(move || {
            let file: Arc<File> = place.file();
            let seal = || layout.seal(&file).and_then(|()| file.sync_all());
            seal().map_err(|e| Error::io(format!("cannot write {place}"), e))?;
            let meta = file.metadata().map_err(|e| Error::io(format!("cannot look at {place}"), e))?;
            let stored = if place.is_device() { received } else { meta.blocks() * 512 };
            place.publish()?;
            Ok(stored)
        })
        .await?;
        Ok(Written { root: root.finish(), received, fresh, stored })
    }
}

//! Writing a disk into a file. What lies where is the matter of [`Layout`], what is taken over from a base that of `base`; here is what
//! all formats share: order, the root, durability and the name.

mod base;
mod layout;
mod output;
mod place;
mod stream;

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use model::{Error, Kind, Result};
use tokio::task::JoinHandle;

pub use self::base::Base;
use self::layout::Layout;
pub use self::output::Output;
use self::place::Place;
pub use self::stream::{Qcow2Plan, Qcow2Stream};
use super::Format;
use super::blocking::run;
use super::leaves::Recorder;
use crate::transfer::CHUNK;
use crate::{DiskWrite, LEAF, Leaf, PlainRange, RootBuilder, Written, leaf};

/// Pieces that are hashed and written at once.
const RUNNING: usize = 4;
/// Bytes in the page cache after which the kernel is asked to make them durable, while more is written: the last sync then finds little
/// left, and a slow disk holds the writer back early instead of filling the memory with what it has not taken.
const SYNC_EVERY: u64 = 128 << 20;

/// What a disk file is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To be whole and durable when it is finished.
    Kept,
    /// The same, and others will build on it: its leaves are recorded.
    Base,
    /// To be read at once, and for a while: a crash may take it.
    Scratch,
}

/// A piece of the disk on its way into the file: within one page, so that no layout needs two tables for it.
struct Piece {
    offset: u64,
    len: u64,
    /// Its bytes; without them they are taken from `plain`.
    data: Option<Bytes>,
    /// Its leaves, where they are known.
    leaves: Option<Vec<Leaf>>,
    /// Where the same bytes lie in another file, which the file system may share them with.
    plain: Option<PlainRange>,
}

/// The leaves of a piece, when it is written.
struct Stored {
    first: u64,
    leaves: Vec<Leaf>,
    /// Whether its bytes were stored; if not, the file system shares them with the base.
    stored: bool,
    /// Whether the kernel keeps them in memory until it is told to sync.
    cached: bool,
}

/// A disk that is being written into a file.
pub struct FileWriter {
    place: Place,
    layout: Layout,
    size: u64,
    purpose: Purpose,
    base: Option<Base>,
    /// Whether the file system shares bytes between files here; asked when it first matters.
    shares: Option<bool>,
    /// Everything before it has arrived, was taken from the base or is zero.
    cursor: u64,
    root: RootBuilder,
    recorder: Option<Recorder>,
    running: FuturesOrdered<JoinHandle<Result<Option<Stored>>>>,
    received: u64,
    /// Of what was received: what the base does not have at that place.
    fresh: u64,
    /// Bytes that the file system shares with the base.
    shared: u64,
    /// Bytes given to the page cache since the last sync began.
    unsynced: u64,
    /// The sync that is under way. Its error must not be lost: the kernel tells it once.
    syncing: Option<JoinHandle<Result<()>>>,
}

impl FileWriter {
    pub(super) fn create(path: &Path, format: Format, size: u64, base: Option<Base>, purpose: Purpose) -> Result<Self> {
        if size == 0 || !size.is_multiple_of(512) || size > i64::MAX as u64 {
            let what = format!("cannot create disk {}", path.display());
            return Err(Error::new(Kind::Invalid, what).because(format!("{size} bytes are no whole sectors")));
        }
        let place = Place::create(path, format, size, purpose)?;
        let layout = Layout::new(format, size, place.is_device());
        let record = purpose == Purpose::Base && !place.is_device();
        let recorder = if record { Some(Recorder::create(path, size)?) } else { None };
        Ok(Self {
            place,
            layout,
            size,
            purpose,
            base,
            shares: None,
            cursor: 0,
            root: RootBuilder::new(size),
            recorder,
            running: FuturesOrdered::new(),
            received: 0,
            fresh: 0,
            shared: 0,
            unsynced: 0,
            syncing: None,
        })
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

    /// Hashes and stores data in the background.
    async fn put(&mut self, offset: u64, data: Bytes, plain: Option<PlainRange>) -> Result<()> {
        let mut at = 0;
        while at < data.len() {
            let guest = offset + at as u64;
            let part = data.slice(at..data.len().min(at + (CHUNK - guest % CHUNK) as usize));
            let plain = plain.clone().map(|plain| PlainRange { offset: plain.offset + at as u64, ..plain });
            at += part.len();
            self.put_piece(Piece { offset: guest, len: part.len() as u64, data: Some(part), leaves: None, plain })
                .await?;
        }
        Ok(())
    }

    async fn put_piece(&mut self, piece: Piece) -> Result<()> {
        let shares = piece.plain.is_some() && self.shares().await?;
        let placed = self.layout.place(piece.offset, piece.len);
        if let Some((host, table)) = placed.table {
            self.start(move |output| output.file().write_all_at(&table, host).map(|()| None)).await?;
        }
        self.start(move |output| {
            let leaves = match (piece.leaves, &piece.data) {
                (Some(leaves), _) => leaves,
                (None, Some(data)) => data.chunks(LEAF as usize).map(leaf).collect(),
                (None, None) => Vec::new(),
            };
            let (plain, file) = (piece.plain.as_ref(), output.file());
            let taken = plain.is_some_and(|from| place::take(from, file, placed.host, piece.len));
            let mut cached = true;
            match (&piece.data, plain) {
                _ if taken => {}
                (Some(data), _) => cached = output.write(data, placed.host)?,
                (None, Some(from)) => place::copy(from, file, placed.host, piece.len)?,
                (None, None) => return Err(std::io::ErrorKind::InvalidInput.into()),
            }
            Ok(Some(Stored { first: piece.offset / LEAF, leaves, stored: !(taken && shares), cached }))
        })
        .await
    }

    async fn shares(&mut self) -> Result<bool> {
        if let Some(known) = self.shares {
            return Ok(known);
        }
        let probe = self.place.probe();
        let known = run(move || Ok(probe.shares())).await?;
        self.shares = Some(known);
        Ok(known)
    }

    /// Zeroes: nothing to do in a file, where they are holes; a device is told.
    async fn put_zeroes(&mut self, offset: u64, len: u64) -> Result<()> {
        if len == 0 || !self.place.is_device() {
            return Ok(());
        }
        self.start(move |output| place::zero_device(output.file(), offset, len).map(|()| None)).await
    }

    async fn start(
        &mut self,
        work: impl FnOnce(&Output) -> std::io::Result<Option<Stored>> + Send + 'static,
    ) -> Result<()> {
        while self.running.len() >= RUNNING {
            self.settle().await?;
        }
        let output = self.place.output();
        self.spawn(move || work(&output));
        Ok(())
    }

    fn spawn(&mut self, work: impl FnOnce() -> std::io::Result<Option<Stored>> + Send + 'static) {
        let name = self.place.to_string();
        let work = move || work().map_err(|e| Error::io(format!("cannot write {name}"), e));
        self.running.push_back(tokio::task::spawn_blocking(work));
    }

    /// Waits for the oldest write and takes its leaves, which so come in order.
    async fn settle(&mut self) -> Result<()> {
        let Some(outcome) = self.running.next().await else { return Ok(()) };
        let broken = |e| Error::new(Kind::Permanent, format!("cannot write {}", self.place)).because(e);
        let Some(stored) = outcome.map_err(broken)?? else { return Ok(()) };
        for (index, leaf) in (stored.first..).zip(stored.leaves) {
            self.root.push(index, leaf);
            self.shared += if stored.stored { 0 } else { LEAF };
            self.unsynced += if stored.stored && stored.cached { LEAF } else { 0 };
            let full = self.recorder.as_mut().and_then(|recorder| recorder.push(index, leaf, stored.stored));
            if let (Some((bytes, at)), Some(recorder)) = (full, &self.recorder) {
                let file = recorder.file();
                self.spawn(move || file.write_all_at(&bytes, at).map(|()| None));
            }
        }
        let due = self.purpose != Purpose::Scratch && self.unsynced >= SYNC_EVERY;
        if due && self.syncing.as_ref().is_none_or(JoinHandle::is_finished) {
            self.synced().await?;
            self.unsynced = 0;
            let (output, name) = (self.place.output(), self.place.to_string());
            let sync = move || output.file().sync_data().map_err(|e| Error::io(format!("cannot write {name}"), e));
            self.syncing = Some(tokio::task::spawn_blocking(sync));
        }
        Ok(())
    }

    /// Waits for the sync that is under way, if there is one.
    async fn synced(&mut self) -> Result<()> {
        let Some(syncing) = self.syncing.take() else { return Ok(()) };
        syncing.await.map_err(|e| Error::new(Kind::Permanent, format!("cannot write {}", self.place)).because(e))?
    }
}

#[async_trait]
impl DiskWrite for FileWriter {
    fn size(&self) -> u64 {
        self.size
    }

    async fn write(&mut self, offset: u64, data: Bytes) -> Result<()> {
        self.advance(offset, data.len() as u64).await?;
        self.received += data.len() as u64;
        if self.base.is_some() {
            return self.put_over_base(offset, data).await;
        }
        self.fresh += data.len() as u64;
        self.put(offset, data, None).await
    }

    async fn zero(&mut self, offset: u64, len: u64) -> Result<()> {
        self.advance(offset, len).await?;
        self.put_zeroes(offset, len).await
    }

    fn has_leaf(&self, index: u64, leaf: &Leaf) -> bool {
        self.base.as_ref().and_then(|base| base.leaf(index)).is_some_and(|known| known == *leaf)
    }

    fn may_have_leaves(&self) -> bool {
        self.base.as_ref().is_some_and(Base::knows_leaves)
    }

    async fn finish(mut self: Box<Self>) -> Result<Written> {
        self.fill_gap(self.size).await?;
        while !self.running.is_empty() {
            self.settle().await?;
        }
        self.synced().await?;
        let Self { place, layout, purpose, root, recorder, received, fresh, shared, .. } = *self;
        let (root, pages) = root.finish_with_pages();
        let stored = run(move || {
            let output = place.output();
            let file = output.file();
            let sync = || if purpose == Purpose::Scratch { Ok(()) } else { file.sync_all() };
            layout.seal(file).and_then(|()| sync()).map_err(|e| Error::io(format!("cannot write {place}"), e))?;
            let meta = file.metadata().map_err(|e| Error::io(format!("cannot look at {place}"), e))?;
            // less than the length where there are holes; more where the file system has reserved room
            let kept = (meta.blocks() * 512).min(meta.len());
            let stored = if place.is_device() { received } else { kept.saturating_sub(shared) };
            if let Some(recorder) = recorder {
                recorder.publish(file, &root, &pages)?;
            }
            place.publish()?;
            Ok(stored)
        })
        .await?;
        Ok(Written { root, received, fresh, stored })
    }
}

//! The narrow waist: whatever holds a disk's bytes is a [`DiskRead`], whatever takes them is a [`DiskWrite`].
//!
//! N sources and M destinations so cost N + M: migration, backup, restore, conversion and drill are one transfer.

use std::fs::File;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use model::{DiskRoot, ExtentList, Result};

/// A disk that can be read. Implementations answer many calls at once (`&self`), so that a transfer can keep
/// several requests in flight.
#[async_trait]
pub trait DiskRead: Send + Sync {
    /// Size in bytes, a multiple of 512.
    fn size(&self) -> u64;

    /// The next extents at or after `from`, ascending; empty when there are none. A page has at most a few
    /// thousand extents, so that a fragmented disk of many TiB needs bounded memory; the caller goes on with the
    /// end of the last one.
    ///
    /// A full reader lists every byte (holes as zero extents). A reader that was opened against a base lists what
    /// may have changed since: ranges that it leaves out are equal to the base.
    async fn extents(&self, from: u64) -> Result<ExtentList>;

    /// Reads exactly `len` bytes at `offset`; both are multiples of 512. Never returns less: a truncated answer is
    /// an error.
    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes>;

    /// Called when all that is listed was read and nothing was finished yet: looks at what only the whole can tell, a sum
    /// that the source told of its file. [`Kind::Damaged`](model::Kind::Damaged): what was read is not what is there.
    async fn conclude(&self) -> Result<()> {
        Ok(())
    }

    /// Whether ranges that [`extents`](Self::extents) leaves out are equal to the base. `false` for a full reader.
    fn is_incremental(&self) -> bool {
        false
    }

    /// Whether what is listed as data is known to be some: a reader of a flat file lists all of it, zeroes too.
    fn lists_holes(&self) -> bool {
        false
    }

    /// Bytes that a transfer has read of it and that not every writer has taken yet, at most (but at least 1 MiB). A
    /// reader whose answers are long under way asks for more: what is in flight over their time is how fast it goes.
    fn in_flight(&self) -> u64 {
        32 << 20
    }

    /// Where the range lies in a local file, plainly and in one piece; `None` if it does not or nobody knows. A writer
    /// into a file lets the file system share such bytes instead of storing them again.
    fn plain_range(&self, _offset: u64, _len: u64) -> Option<PlainRange> {
        None
    }

    /// What the reader reads, for messages: `disk vda of capture cp-7 of server web-1`.
    fn describe(&self) -> String;
}

/// Bytes of a disk as they lie in a local file.
#[derive(Debug, Clone)]
pub struct PlainRange {
    /// The file, open for reading.
    pub file: Arc<File>,
    /// Where the range begins in it.
    pub offset: u64,
}

/// What a finished write has made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The Merkle root of the whole disk, unchanged ranges included.
    pub root: DiskRoot,
    /// Bytes handed in by the transfer (data, not zeroes).
    pub received: u64,
    /// Bytes that were new to this destination, before compression.
    pub fresh: u64,
    /// Bytes that this write added to the destination's storage.
    pub stored: u64,
}

/// A disk that takes bytes. Ranges arrive in ascending order, aligned to [`crate::LEAF`] (the last one may end with
/// the disk), each range at most once; one caller at a time.
///
/// A writer that was opened on a base keeps the base's bytes where nothing arrives; without a base, what does not
/// arrive is zero. Nothing is visible as a replica before the destination's own commit point, so a dropped writer
/// leaves scratch only.
#[async_trait]
pub trait DiskWrite: Send {
    /// Size in bytes.
    fn size(&self) -> u64;

    /// Whether it is of use to be told what will arrive.
    fn wants_extents(&self) -> bool {
        false
    }

    /// Is told what will arrive, in ascending lists before the first range does, if it [wants that](Self::wants_extents) and
    /// the reader [knows it](DiskRead::lists_holes): data comes within what is listed as data and nowhere else, though
    /// some of it may turn out to be zero.
    async fn announce(&mut self, _extents: &ExtentList) -> Result<()> {
        Ok(())
    }

    /// Takes data. May return before it is stored: back pressure is by awaiting, errors may surface later.
    async fn write(&mut self, offset: u64, data: Bytes) -> Result<()>;

    /// Takes a range of zeroes.
    async fn zero(&mut self, offset: u64, len: u64) -> Result<()>;

    /// Whether the destination already holds exactly this leaf at this place (by its base). A reader that has no
    /// change map is asked to read everything; the transfer drops what every writer already has.
    fn has_leaf(&self, _index: u64, _leaf: &crate::Leaf) -> bool {
        false
    }

    /// Whether [`has_leaf`](Self::has_leaf) can ever say yes. A writer without a base says no, and spares the transfer
    /// a hash of everything that it reads.
    fn may_have_leaves(&self) -> bool {
        true
    }

    /// Makes everything durable and tells the root. Must be called last; without it the write has not happened.
    async fn finish(self: Box<Self>) -> Result<Written>;
}

//! From synchronous parsers to the waist: a [`Blocking`] disk is read on blocking threads.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use model::{Error, ExtentList, Kind, Result};

use crate::{Buffer, DiskRead, PlainRange};

/// Extents on one page, about.
pub(super) const PAGE_OF_EXTENTS: usize = 2048;

/// A disk that is read by calls that block. Offsets and lengths are checked before by [`FileDisk`].
pub(super) trait Blocking: Send + Sync {
    /// Size in bytes, a multiple of 512.
    fn size(&self) -> u64;
    /// As [`DiskRead::extents`], for a full reader. `from` is below the size.
    fn extents(&self, from: u64) -> Result<ExtentList>;
    /// As [`DiskRead::lists_holes`].
    fn lists_holes(&self) -> bool {
        true
    }
    /// Fills `buffer` from `offset`; the range lies within the size.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()>;
    /// As [`DiskRead::plain_range`]; called after the range was read.
    fn plain_range(&self, offset: u64, len: u64) -> Option<PlainRange>;
    /// As [`DiskRead::describe`].
    fn describe(&self) -> String;
}

/// A disk in a file or on a block device.
#[derive(Clone)]
pub struct FileDisk(Arc<dyn Blocking>);

impl FileDisk {
    pub(super) fn new(disk: impl Blocking + 'static) -> Self {
        Self::shared(Arc::new(disk))
    }

    pub(super) fn shared(disk: Arc<impl Blocking + 'static>) -> Self {
        Self(disk)
    }
}

impl std::fmt::Debug for FileDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.describe())
    }
}

#[async_trait]
impl DiskRead for FileDisk {
    fn size(&self) -> u64 {
        self.0.size()
    }

    async fn extents(&self, from: u64) -> Result<ExtentList> {
        if from >= self.size() {
            return Ok(ExtentList::new());
        }
        let disk = self.0.clone();
        run(move || disk.extents(from)).await
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        if offset.checked_add(len as u64).is_none_or(|end| end > self.size()) {
            let what = format!("cannot read {len} bytes at {offset} of {}", self.describe());
            return Err(Error::new(Kind::Invalid, what).because(format!("its size is {} bytes", self.size())));
        }
        let disk = self.0.clone();
        run(move || {
            let mut buffer = Buffer::take(len);
            disk.read(offset, buffer.as_mut())?;
            Ok(buffer.freeze())
        })
        .await
    }

    fn lists_holes(&self) -> bool {
        self.0.lists_holes()
    }

    fn plain_range(&self, offset: u64, len: u64) -> Option<PlainRange> {
        // a cluster goes on behind the end of the disk, and what is there is not the disk's
        offset.checked_add(len).filter(|end| *end <= self.size())?;
        self.0.plain_range(offset, len)
    }

    fn describe(&self) -> String {
        self.0.describe()
    }
}

/// Runs what blocks on a thread for that.
pub(super) async fn run<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => {
            let kind = if error.is_cancelled() { Kind::Cancelled } else { Kind::Permanent };
            Err(Error::new(kind, "cannot go on with a disk file").because(error))
        }
    }
}

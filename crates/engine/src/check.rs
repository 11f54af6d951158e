//! A destination that keeps nothing and only computes the root: reading back is a transfer like any other.

use async_trait::async_trait;
use bytes::Bytes;
use disk::{DiskRead, DiskWrite, LEAF, RootBuilder, Written, leaf};
use model::{DiskRoot, Error, Kind, Result};

/// Takes a disk and forgets it.
struct RootWriter {
    size: u64,
    root: RootBuilder,
    received: u64,
}

#[async_trait]
impl DiskWrite for RootWriter {
    fn size(&self) -> u64 {
        self.size
    }

    async fn write(&mut self, offset: u64, data: Bytes) -> Result<()> {
        self.received += data.len() as u64;
        for (index, chunk) in data.chunks(LEAF as usize).enumerate() {
            self.root.push(offset / LEAF + index as u64, leaf(chunk));
        }
        Ok(())
    }

    async fn zero(&mut self, _offset: u64, _len: u64) -> Result<()> {
        // what is never set is zero
        Ok(())
    }

    fn may_have_leaves(&self) -> bool {
        false
    }

    async fn finish(self: Box<Self>) -> Result<Written> {
        Ok(Written { root: self.root.finish(), received: self.received, fresh: 0, stored: 0 })
    }
}

/// Reads everything and tells the root of what was read.
pub(crate) async fn root_of(reader: &dyn DiskRead, progress: &dyn disk::Progress) -> Result<DiskRoot> {
    if reader.is_incremental() {
        return Err(
            Error::new(Kind::Permanent, format!("cannot check {}", reader.describe())).because("it lists changes only")
        );
    }
    let size = reader.size();
    let writer = RootWriter { size, root: RootBuilder::new(size), received: 0 };
    let results = disk::transfer(reader, vec![Box::new(writer)], progress).await?;
    match results.into_iter().next() {
        Some(written) => Ok(written?.root),
        None => Err(Error::new(Kind::Permanent, format!("cannot check {}", reader.describe()))),
    }
}

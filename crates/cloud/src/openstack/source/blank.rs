//! A disk that has a size and no content: the service has no call that reads the original.

use async_trait::async_trait;
use bytes::Bytes;
use disk::DiskRead;
use model::{Error, Extent, ExtentList, Kind, Result};

/// Reads as zero.
pub(super) struct Blank {
    pub(super) size: u64,
    pub(super) name: String,
}

#[async_trait]
impl DiskRead for Blank {
    fn size(&self) -> u64 {
        self.size
    }

    async fn extents(&self, from: u64) -> Result<ExtentList> {
        let mut list = ExtentList::new();
        if from < self.size {
            list.push(Extent::zero(from, self.size - from));
        }
        Ok(list)
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        if offset.checked_add(len as u64).is_none_or(|end| end > self.size) {
            let operation = format!("cannot read {len} bytes at {offset} of {}", self.name);
            return Err(Error::new(Kind::Invalid, operation).because("the range ends behind the disk"));
        }
        Ok(Bytes::from(vec![0; len]))
    }

    fn lists_holes(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        self.name.clone()
    }
}

//! A destination that keeps nothing: reading back, to tell the root or only to see how fast it goes, is a transfer like
//! any other.

use async_trait::async_trait;
use bytes::Bytes;
use model::{DiskRoot, Result};

use crate::{DiskWrite, LEAF, RootBuilder, Written, leaf};

/// Takes a disk and forgets it.
pub struct Discard {
    size: u64,
    /// None: nobody wants the root.
    root: Option<RootBuilder>,
    received: u64,
}

impl Discard {
    /// Takes a disk of `size` bytes and hashes nothing: the root that it tells is no disk's.
    pub fn new(size: u64) -> Self {
        Self { size, root: None, received: 0 }
    }

    /// Takes a disk of `size` bytes and tells its root.
    pub fn with_root(size: u64) -> Self {
        Self { root: Some(RootBuilder::new(size)), ..Self::new(size) }
    }
}

#[async_trait]
impl DiskWrite for Discard {
    fn size(&self) -> u64 {
        self.size
    }

    async fn write(&mut self, offset: u64, data: Bytes) -> Result<()> {
        self.received += data.len() as u64;
        if let Some(root) = &mut self.root {
            for (index, bytes) in (offset / LEAF..).zip(data.chunks(LEAF as usize)) {
                root.push(index, leaf(bytes));
            }
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
        let root = self.root.map_or(DiskRoot([0; 32]), RootBuilder::finish);
        Ok(Written { root, received: self.received, fresh: 0, stored: 0 })
    }
}

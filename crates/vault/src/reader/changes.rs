//! What differs between two points of a disk: maps are compared, not bytes, so the cost follows the change.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use disk::{DiskRead, LEAF, PAGE, zero_leaf};
use model::{Extent, ExtentList, Result};

use super::{EXTENTS, VaultDisk};
use crate::manifest::PageEntry;

/// A point's disk as the changes since another point.
pub(crate) struct ChangedDisk {
    now: Arc<VaultDisk>,
    before: Arc<VaultDisk>,
}

impl ChangedDisk {
    /// The changes from `before` to `now`.
    pub fn new(now: Arc<VaultDisk>, before: Arc<VaultDisk>) -> Self {
        Self { now, before }
    }

    /// Whether page `index` is the same in both, as the manifests tell.
    fn is_same(&self, index: u64) -> bool {
        let shape = |disk: &VaultDisk| crate::map::leaves_of_page(disk.table.size, index);
        match (self.now.entry(index), self.before.entry(index)) {
            (Some(PageEntry::Zero), Some(PageEntry::Zero)) => {
                self.now.table.size <= self.before.table.size || shape(&self.now) == shape(&self.before)
            }
            (Some(PageEntry::Stored(now)), Some(PageEntry::Stored(before))) => {
                now.hash == before.hash && shape(&self.now) == shape(&self.before)
            }
            _ => false,
        }
    }

    async fn page_extents(&self, index: u64, from: u64, list: &mut ExtentList) -> Result<()> {
        let (now, before) = (self.now.page(index).await?, self.before.page(index).await?);
        let size = self.now.table.size;
        let known = if self.before.entry(index).is_some() {
            crate::map::leaves_of_page(self.before.table.size, index)
        } else {
            0
        };
        for leaf in 0..crate::map::leaves_of_page(size, index) {
            let begin = index * PAGE + leaf as u64 * LEAF;
            let end = (begin + LEAF).min(size);
            let of = |page: &Option<Arc<crate::map::Page>>| {
                page.as_ref().and_then(|page| page.leaves.get(leaf)).copied().unwrap_or_else(zero_leaf)
            };
            let (is, was) = (of(&now), of(&before));
            if end > from && (leaf >= known || is != was) {
                let begin = begin.max(from);
                let zero = is == zero_leaf();
                list.push(if zero { Extent::zero(begin, end - begin) } else { Extent::data(begin, end - begin) });
            }
        }
        Ok(())
    }
}

#[async_trait]
impl DiskRead for ChangedDisk {
    fn size(&self) -> u64 {
        self.now.size()
    }

    async fn extents(&self, from: u64) -> Result<ExtentList> {
        let mut list = ExtentList::new();
        for index in from / PAGE..self.size().div_ceil(PAGE) {
            if list.as_slice().len() >= EXTENTS {
                break;
            }
            if !self.is_same(index) {
                self.page_extents(index, from, &mut list).await?;
            }
        }
        Ok(list)
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        self.now.read_at(offset, len).await
    }

    fn is_incremental(&self) -> bool {
        true
    }

    fn lists_holes(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        format!("changes of {} since {}", self.now.describe(), self.before.point)
    }
}

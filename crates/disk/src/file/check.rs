//! Reading back what the making of a disk file has stored: the cost follows what changed, not the disk's size.
//!
//! What the file system shares with the base was checked with the base. Of the rest every byte is read. Of all of it the file's own map
//! is compared with the record: what must be zero is, and what must not be is there.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use model::{Change, DiskRoot, Error, Extent, ExtentList, Kind, Result};

use super::blocking::run;
use super::{Format, Leaves, open_file};
use crate::{DiskRead, DiskWrite, LEAF, Leaf, Progress, Written, leaf, transfer, zero_leaf};

/// Reads back what the writer of the disk at `path` stored, and compares it with the disk's record of leaves, which must give `root`.
/// Returns the bytes read; `None` if there is no record that fits the file: then everything must be read.
pub async fn check_written(
    path: &Path,
    format: Format,
    root: &DiskRoot,
    progress: &dyn Progress,
) -> Result<Option<u64>> {
    let (place, wanted) = (path.to_owned(), *root);
    let Some(leaves) = run(move || Ok(Leaves::open(&place, &wanted))).await? else { return Ok(None) };
    let leaves = Arc::new(leaves);
    let disk = open_file(path, format).await?;
    if disk.size() != leaves.size() {
        return Err(Error::new(Kind::Damaged, format!("cannot check {}", disk.describe())).because(format!(
            "it has {} bytes, its record {}",
            disk.size(),
            leaves.size()
        )));
    }
    let taker = Compare { name: disk.describe(), root: *root, leaves: leaves.clone(), read: 0 };
    let reader = Stored { disk, leaves };
    let results = transfer(&reader, vec![Box::new(taker)], progress).await?;
    match results.into_iter().next() {
        Some(written) => Ok(Some(written?.received)),
        None => Err(Error::new(Kind::Permanent, format!("cannot check {}", reader.describe()))),
    }
}

/// The disk as what must be looked at: all that is said to be zero, and of the data what the writer stored.
struct Stored {
    disk: Box<dyn DiskRead>,
    leaves: Arc<Leaves>,
}

#[async_trait]
impl DiskRead for Stored {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    async fn extents(&self, from: u64) -> Result<ExtentList> {
        let mut at = from;
        // an empty page would end the list: go on until there is something
        while at < self.size() {
            let list = self.disk.extents(at).await?;
            let Some(last) = list.as_slice().last().map(Extent::end) else { break };
            let (leaves, size) = (self.leaves.clone(), self.size());
            let wanted = run(move || wanted(&list.aligned(LEAF, size), &leaves, size)).await?;
            if !wanted.as_slice().is_empty() {
                return Ok(wanted);
            }
            at = last;
        }
        Ok(ExtentList::new())
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        self.disk.read_at(offset, len).await
    }

    fn is_incremental(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        self.disk.describe()
    }
}

fn wanted(list: &ExtentList, leaves: &Leaves, size: u64) -> Result<ExtentList> {
    let mut wanted = ExtentList::new();
    for extent in list.as_slice() {
        if extent.change == Change::Zero {
            wanted.push(*extent);
            continue;
        }
        for index in extent.offset / LEAF..extent.end().div_ceil(LEAF) {
            // data where zero is expected is room that the file system gave: looked at, since it must read as zero
            if leaves.is_stored(index) || leaves.leaf(index)? == zero_leaf() {
                let at = index * LEAF;
                wanted.push(Extent::data(at, LEAF.min(size - at)));
            }
        }
    }
    Ok(wanted)
}

/// Compares what it is given with the record.
struct Compare {
    name: String,
    root: DiskRoot,
    leaves: Arc<Leaves>,
    read: u64,
}

impl Compare {
    fn expect(&self, index: u64, found: &Leaf) -> Result<()> {
        if self.leaves.leaf(index)? == *found {
            return Ok(());
        }
        Err(Error::new(Kind::Damaged, format!("{} is damaged", self.name))
            .because(format!("its bytes from {} on are not what was written", index * LEAF)))
    }
}

#[async_trait]
impl DiskWrite for Compare {
    fn size(&self) -> u64 {
        self.leaves.size()
    }

    async fn write(&mut self, offset: u64, data: Bytes) -> Result<()> {
        self.read += data.len() as u64;
        for (nth, bytes) in data.chunks(LEAF as usize).enumerate() {
            self.expect(offset / LEAF + nth as u64, &leaf(bytes))?;
        }
        Ok(())
    }

    async fn zero(&mut self, offset: u64, len: u64) -> Result<()> {
        (offset / LEAF..(offset + len).div_ceil(LEAF)).try_for_each(|index| self.expect(index, &zero_leaf()))
    }

    fn may_have_leaves(&self) -> bool {
        false
    }

    async fn finish(self: Box<Self>) -> Result<Written> {
        Ok(Written { root: self.root, received: self.read, fresh: 0, stored: 0 })
    }
}

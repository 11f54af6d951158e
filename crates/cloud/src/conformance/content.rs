//! The bytes of a disk as the suites see them: read whole, or built from a base and changes.

use std::collections::BTreeMap;

use bytes::Bytes;
use disk::{DiskRead, LEAF, RootBuilder, is_zero, leaf};
use model::{Change, DiskRoot, Extent};

use super::{Check, Stop, ensure, skip};

/// The suites keep no more data of a disk than this in memory.
const AT_MOST: u64 = 256 << 20;

/// Bytes of a disk; a leaf that is not there is zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    size: u64,
    leaves: BTreeMap<u64, Vec<u8>>,
}

impl Content {
    pub(super) fn new(size: u64) -> Self {
        Self { size, leaves: BTreeMap::new() }
    }

    pub(super) fn put(&mut self, offset: u64, data: &[u8]) {
        let (mut at, mut rest) = (offset, data);
        while !rest.is_empty() {
            let (index, start) = (at / LEAF, (at % LEAF) as usize);
            let take = rest.len().min(LEAF as usize - start);
            let leaf = self.leaves.entry(index).or_insert_with(|| vec![0; LEAF as usize]);
            leaf[start..start + take].copy_from_slice(&rest[..take]);
            if is_zero(leaf) {
                self.leaves.remove(&index);
            }
            (at, rest) = (at + take as u64, &rest[take..]);
        }
    }

    pub(super) fn leaf(&self, index: u64) -> disk::Leaf {
        self.leaves.get(&index).map_or_else(disk::zero_leaf, |data| leaf(data))
    }

    pub(super) fn root(&self) -> DiskRoot {
        let mut builder = RootBuilder::new(self.size);
        for (index, data) in &self.leaves {
            builder.push(*index, leaf(data));
        }
        builder.finish()
    }

    /// Where two contents differ first, in words.
    pub(super) fn difference(&self, other: &Content) -> Option<String> {
        if self.size != other.size {
            return Some(format!("{} bytes instead of {}", other.size, self.size));
        }
        let indices = self.leaves.keys().chain(other.leaves.keys());
        let first = indices.filter(|index| self.leaves.get(index) != other.leaves.get(index)).min()?;
        Some(format!("the bytes differ in the 64 KiB at {}", first * LEAF))
    }

    /// Reads everything that a full reader has, and sees that it lists every byte once and in order.
    pub(super) async fn read(reader: &dyn DiskRead) -> Check<Content> {
        ensure(!reader.is_incremental(), || format!("{} is not a full reader", reader.describe()))?;
        let mut content = Content::new(reader.size());
        let listed = content.overlay(reader).await?;
        let mut at = 0;
        for extent in &listed {
            ensure(extent.offset == at, || {
                format!("{}: bytes {at} to {} are not listed", reader.describe(), extent.offset)
            })?;
            at = extent.end();
        }
        ensure(at == reader.size(), || format!("{}: bytes from {at} on are not listed", reader.describe()))?;
        Ok(content)
    }

    /// Takes over what a reader lists, exactly to the byte, and tells the extents.
    pub(super) async fn overlay(&mut self, reader: &dyn DiskRead) -> Check<Vec<Extent>> {
        let mut all: Vec<Extent> = Vec::new();
        let mut at = 0;
        loop {
            let page = reader.extents(at).await?;
            let Some(last) = page.as_slice().last() else { break };
            for extent in page.as_slice() {
                let fits = extent.offset >= at && extent.end() <= reader.size() && extent.len > 0;
                ensure(fits, || format!("{}: extent {extent:?} is out of order", reader.describe()))?;
                all.push(*extent);
                at = extent.end();
            }
            if last.end() >= reader.size() {
                break;
            }
        }
        let data: u64 = all.iter().filter(|extent| extent.change == Change::Data).map(|extent| extent.len).sum();
        if data > AT_MOST {
            return skip("the server's disks hold too much data for this check");
        }
        for extent in &all {
            self.take(reader, extent).await?;
        }
        Ok(all)
    }

    async fn take(&mut self, reader: &dyn DiskRead, extent: &Extent) -> Check<()> {
        let mut at = extent.offset;
        while at < extent.end() {
            let len = (extent.end() - at).min(1 << 20);
            match extent.change {
                Change::Zero if at.is_multiple_of(LEAF) && len >= LEAF => {
                    let whole = extent.end() / LEAF;
                    let gone: Vec<u64> = self.leaves.range(at / LEAF..whole).map(|(index, _)| *index).collect();
                    for index in gone {
                        self.leaves.remove(&index);
                    }
                    at = whole * LEAF;
                    continue;
                }
                Change::Zero => {
                    let len = len.min(LEAF - at % LEAF);
                    self.put(at, &vec![0; len as usize]);
                    at += len;
                    continue;
                }
                Change::Data => {
                    let data: Bytes = reader.read_at(at, len as usize).await?;
                    if data.len() as u64 != len {
                        let why = format!("{}: {} bytes at {at} instead of {len}", reader.describe(), data.len());
                        return Err(Stop::Failed(why));
                    }
                    self.put(at, &data);
                }
            }
            at += len;
        }
        Ok(())
    }
}

/// Bytes that are no zero and differ between seeds and leaves.
pub(super) fn pattern(seed: u64, len: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8 | 1
    };
    std::iter::repeat_with(next).take(len as usize).collect()
}

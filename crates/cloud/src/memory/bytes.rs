//! A sparse disk in memory. Cloning shares the chunks, so that pinning an instant costs no copy of the data.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use disk::{LEAF, RootBuilder, is_zero, leaf};
use model::{DiskRoot, Extent, ExtentList, Result};
use serde::{Deserialize, Serialize};

/// Change maps are exact to this many bytes.
pub(super) const GRAIN: u64 = 4096;
/// A page of extents is no longer than this, so that callers meet paging with small disks.
const PAGE_OF_EXTENTS: usize = 256;

/// Bytes of a disk; a chunk that is not there is zero.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct SparseDisk {
    size: u64,
    #[serde(skip)]
    chunks: BTreeMap<u64, Bytes>,
    /// Names of the chunks' files, only right around saving and loading.
    names: BTreeMap<u64, String>,
}

impl SparseDisk {
    pub(super) fn new(size: u64) -> Self {
        Self { size, ..Self::default() }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Grows the disk; what is new is zero.
    pub(super) fn grow(&mut self, size: u64) {
        self.size = self.size.max(size);
    }

    /// Whether it has any byte that is not zero.
    pub(super) fn has_data(&self) -> bool {
        !self.chunks.is_empty()
    }

    /// Whether the range lies inside.
    pub(super) fn holds(&self, offset: u64, len: u64) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.size)
    }

    /// Bytes of a range that lies inside.
    pub(super) fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        for (index, start, end) in pieces(offset, len as u64) {
            if let Some(chunk) = self.chunks.get(&index) {
                let at = (index * LEAF + start - offset) as usize;
                out[at..at + (end - start) as usize].copy_from_slice(&chunk[start as usize..end as usize]);
            }
        }
        out
    }

    /// Writes a range that lies inside.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        for (index, start, end) in pieces(offset, data.len() as u64) {
            let at = (index * LEAF + start - offset) as usize;
            let part = &data[at..at + (end - start) as usize];
            let mut chunk = self.chunks.get(&index).map_or_else(|| vec![0; LEAF as usize], |old| old.to_vec());
            chunk[start as usize..end as usize].copy_from_slice(part);
            if is_zero(&chunk) {
                self.chunks.remove(&index);
            } else {
                self.chunks.insert(index, Bytes::from(chunk));
            }
        }
    }

    /// Zeroes a range that lies inside, however long, at the cost of the chunks that are there.
    pub(super) fn zero(&mut self, offset: u64, len: u64) {
        let (first, end) = (offset.div_ceil(LEAF), (offset + len) / LEAF);
        if first >= end {
            self.write(offset, &vec![0; len as usize]);
            return;
        }
        let whole: Vec<u64> = self.chunks.range(first..end).map(|(index, _)| *index).collect();
        for index in whole {
            self.chunks.remove(&index);
        }
        self.write(offset, &vec![0; (first * LEAF - offset) as usize]);
        self.write(end * LEAF, &vec![0; (offset + len - end * LEAF) as usize]);
    }

    /// The leaf at `index` as it is now.
    pub(super) fn leaf(&self, index: u64) -> disk::Leaf {
        self.chunks.get(&index).map_or_else(disk::zero_leaf, |chunk| leaf(chunk))
    }

    /// The Merkle root of all bytes.
    pub(super) fn root(&self) -> DiskRoot {
        let mut builder = RootBuilder::new(self.size);
        for (index, chunk) in &self.chunks {
            builder.push(*index, leaf(chunk));
        }
        builder.finish()
    }

    /// Bytes in chunks that are there.
    pub(super) fn stored(&self) -> u64 {
        self.chunks.len() as u64 * LEAF
    }

    /// Hands every chunk out to be stored under the name of its bytes.
    pub(super) fn save(&mut self, mut store: impl FnMut(&str, &Bytes) -> Result<()>) -> Result<()> {
        self.names.clear();
        for (index, chunk) in &self.chunks {
            let name = DiskRoot(leaf(chunk)).to_hex();
            store(&name, chunk)?;
            self.names.insert(*index, name);
        }
        Ok(())
    }

    /// Takes every chunk back by its name.
    pub(super) fn load(&mut self, mut store: impl FnMut(&str) -> Result<Bytes>) -> Result<()> {
        for (index, name) in std::mem::take(&mut self.names) {
            self.chunks.insert(index, store(&name)?);
        }
        Ok(())
    }

    /// One page of the extents of everything, from `from` on.
    pub(super) fn extents(&self, from: u64) -> ExtentList {
        let mut list = ExtentList::new();
        let mut at = from.min(self.size);
        for index in self.chunks.range(from / LEAF..).map(|(index, _)| *index) {
            let (start, end) = ((index * LEAF).max(from), ((index + 1) * LEAF).min(self.size));
            if start >= self.size {
                break;
            }
            list.push(Extent::zero(at, start - at));
            list.push(Extent::data(start, end - start));
            at = end;
            if list.as_slice().len() >= PAGE_OF_EXTENTS {
                return list;
            }
        }
        list.push(Extent::zero(at, self.size - at));
        list
    }

    /// One page of the extents of the changed grains, from `from` on.
    pub(super) fn changes(&self, changed: &ChangeMap, from: u64) -> ExtentList {
        let mut list = ExtentList::new();
        for grain in changed.range(from / GRAIN..) {
            let (start, end) = ((grain * GRAIN).max(from), ((grain + 1) * GRAIN).min(self.size));
            if start >= self.size {
                break;
            }
            let data = self.chunks.contains_key(&(start / LEAF));
            list.push(if data { Extent::data(start, end - start) } else { Extent::zero(start, end - start) });
            if list.as_slice().len() > PAGE_OF_EXTENTS {
                break;
            }
        }
        list
    }
}

/// Which grains were written since an instant.
pub(super) type ChangeMap = BTreeSet<u64>;

/// Marks a range as written.
pub(super) fn mark(map: &mut ChangeMap, offset: u64, len: u64) {
    map.extend(offset / GRAIN..(offset + len).div_ceil(GRAIN));
}

/// A range cut at chunk borders: (chunk, first byte in it, byte behind the last).
fn pieces(offset: u64, len: u64) -> impl Iterator<Item = (u64, u64, u64)> {
    let end = offset + len;
    let chunks = if len == 0 { 0..0 } else { offset / LEAF..end.div_ceil(LEAF) };
    chunks.map(move |index| {
        let base = index * LEAF;
        (index, offset.max(base) - base, end.min(base + LEAF) - base)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroing_equals_writing_zeroes() {
        for (offset, len) in [(512, 1024), (0, LEAF), (512, 3 * LEAF), (LEAF - 512, LEAF + 1024), (0, 5 * LEAF)] {
            let mut one = SparseDisk::new(5 * LEAF);
            one.write(0, &vec![7; 5 * LEAF as usize]);
            let mut two = one.clone();
            one.zero(offset, len);
            two.write(offset, &vec![0; len as usize]);
            assert_eq!(one.read(0, 5 * LEAF as usize), two.read(0, 5 * LEAF as usize), "{offset} {len}");
        }
    }

    #[test]
    fn extents_cover_the_disk_over_all_pages() {
        let mut disk = SparseDisk::new(2000 * LEAF + 512);
        for index in (0..2000).step_by(2) {
            disk.write(index * LEAF, &[1; 512]);
        }
        let (mut at, mut data, mut pages) = (0, 0, 0);
        while at < disk.size() {
            let page = disk.extents(at);
            assert_eq!(page.as_slice()[0].offset, at);
            data += page.data_bytes();
            at = page.as_slice().last().unwrap().end();
            pages += 1;
        }
        assert_eq!((at, data, pages > 3), (disk.size(), 1000 * LEAF, true));
        assert!(disk.extents(at).as_slice().is_empty());
    }

    #[test]
    fn changes_are_listed_by_grain_and_tell_zeroes() {
        let mut disk = SparseDisk::new(3 * LEAF);
        disk.write(0, &[1; 512]);
        let mut map = ChangeMap::new();
        mark(&mut map, 100, 512);
        mark(&mut map, LEAF, GRAIN + 1);
        assert_eq!(disk.changes(&map, 0).as_slice(), [Extent::data(0, GRAIN), Extent::zero(LEAF, 2 * GRAIN)]);
        assert_eq!(disk.changes(&map, GRAIN).as_slice(), [Extent::zero(LEAF, 2 * GRAIN)]);
    }
}

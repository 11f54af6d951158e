//! Ranges of a disk: what is read, what is zero, what has not changed.

use serde::{Deserialize, Serialize};

/// What a range of a disk holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// Bytes that must be read.
    Data,
    /// All zero; need not be read. Zeroes are data: they must arrive at the destination.
    Zero,
}

/// A range in bytes. Ranges that a reader does not list are unchanged since its base; a full read lists everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// First byte, a multiple of 512.
    pub offset: u64,
    /// Length in bytes, a positive multiple of 512.
    pub len: u64,
    /// What it holds.
    pub change: Change,
}

impl Extent {
    /// A range that must be read.
    pub fn data(offset: u64, len: u64) -> Self {
        Self { offset, len, change: Change::Data }
    }

    /// A range of zeroes.
    pub fn zero(offset: u64, len: u64) -> Self {
        Self { offset, len, change: Change::Zero }
    }

    /// The first byte behind the range.
    pub fn end(&self) -> u64 {
        self.offset + self.len
    }
}

/// Extents in ascending order, without overlap; neighbours of one kind are merged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtentList(Vec<Extent>);

impl ExtentList {
    /// No extent at all: nothing has changed.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a range that begins at or after the end of the last one; merges it with an equal neighbour.
    /// An empty range is ignored; the part of it that overlaps what is there is cut off.
    pub fn push(&mut self, mut extent: Extent) {
        if let Some(last) = self.0.last_mut() {
            let end = last.end();
            if extent.offset < end {
                let cut = (end - extent.offset).min(extent.len);
                extent.offset += cut;
                extent.len -= cut;
            }
            if extent.len > 0 && extent.offset == end && extent.change == last.change {
                last.len += extent.len;
                return;
            }
        }
        if extent.len > 0 {
            self.0.push(extent);
        }
    }

    /// The extents in order.
    pub fn as_slice(&self) -> &[Extent] {
        &self.0
    }

    /// Bytes that must be read.
    pub fn data_bytes(&self) -> u64 {
        self.0.iter().filter(|e| e.change == Change::Data).map(|e| e.len).sum()
    }

    /// Widens every extent to multiples of `unit` (a power of two), within `size`. Where a data and a zero range
    /// come to share a unit, the unit is data: it holds both.
    #[must_use]
    pub fn aligned(&self, unit: u64, size: u64) -> Self {
        let mut out: Vec<Extent> = Vec::with_capacity(self.0.len());
        for extent in &self.0 {
            let (start, end) =
                (extent.offset / unit * unit, extent.end().div_ceil(unit).saturating_mul(unit).min(size));
            match extent.change {
                Change::Data => place(&mut out, Extent::data(start, end - start)),
                Change::Zero => {
                    // only whole units are known to be zero; a ragged edge has bytes of someone else
                    let whole_start = extent.offset.div_ceil(unit) * unit;
                    let whole_end = if extent.end() == size { size } else { extent.end() / unit * unit };
                    if whole_start >= whole_end {
                        place(&mut out, Extent::data(start, end - start));
                        continue;
                    }
                    place(&mut out, Extent::data(start, whole_start - start));
                    place(&mut out, Extent::zero(whole_start, whole_end - whole_start));
                    place(&mut out, Extent::data(whole_end, end - whole_end));
                }
            }
        }
        Self(out)
    }
}

/// Puts a unit-aligned extent behind `out`. Where it overlaps the last one (same unit), data wins.
fn place(out: &mut Vec<Extent>, mut extent: Extent) {
    if let Some(last) = out.last().copied() {
        if extent.offset < last.end() {
            let cut = (last.end() - extent.offset).min(extent.len);
            extent.offset += cut;
            extent.len -= cut;
        }
        if extent.len > 0 && extent.offset == last.end() && extent.change == last.change {
            if let Some(last) = out.last_mut() {
                last.len += extent.len;
            }
            return;
        }
    }
    if extent.len > 0 {
        out.push(extent);
    }
}

impl FromIterator<Extent> for ExtentList {
    fn from_iter<I: IntoIterator<Item = Extent>>(iter: I) -> Self {
        let mut list = Self::new();
        for extent in iter {
            list.push(extent);
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_merge_and_overlaps_are_cut() {
        let list: ExtentList =
            [Extent::data(0, 512), Extent::data(512, 512), Extent::data(768, 512)].into_iter().collect();
        assert_eq!(list.as_slice(), [Extent::data(0, 1280)]);
    }

    #[test]
    fn alignment_turns_ragged_zero_edges_into_data() {
        let list: ExtentList = [Extent::data(4096, 512), Extent::zero(4608, 131_072)].into_iter().collect();
        let aligned = list.aligned(65_536, 1 << 20);
        assert_eq!(
            aligned.as_slice(),
            [Extent::data(0, 65_536), Extent::zero(65_536, 65_536), Extent::data(131_072, 65_536)]
        );
    }

    #[test]
    fn a_zero_tail_that_ends_the_disk_stays_zero() {
        let list: ExtentList = [Extent::zero(65_536, 1000 * 512)].into_iter().collect();
        let size = 65_536 + 1000 * 512;
        assert_eq!(list.aligned(65_536, size).as_slice(), [Extent::zero(65_536, 1000 * 512)]);
    }

    #[test]
    fn data_before_zero_in_one_unit_wins() {
        let list: ExtentList = [Extent::zero(0, 512), Extent::data(1024, 512)].into_iter().collect();
        assert_eq!(list.aligned(4096, 1 << 20).as_slice(), [Extent::data(0, 4096)]);
    }
}

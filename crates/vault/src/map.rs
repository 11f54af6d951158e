//! A page of a disk's map: 64 MiB of the disk, with the leaves of its Merkle tree and where its blocks lie.

use std::collections::HashMap;
use std::sync::LazyLock;

use disk::{LEAF, LEAVES_PER_PAGE, Leaf, PAGE, PageHash, page_hash, zero_leaf};
use model::Result;

use crate::PackId;
use crate::codec::{Cursor, put_varint};
use crate::pack::{BlockAt, FRAME_BLOCKS, FrameAt, PACK_FRAMES};

/// Blocks of a leaf.
pub(crate) const LEAF_BLOCKS: u32 = disk::LEAF_BLOCKS as u32;

/// Consecutive blocks of a page that lie in one frame, one after another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// First block in the page.
    pub first: u32,
    /// How many.
    pub count: u32,
    /// Where the first one lies.
    pub at: BlockAt,
}

impl Run {
    /// The block of the page behind the run.
    pub fn end(&self) -> u32 {
        self.first + self.count
    }

    /// The part of the run in `from..to`; none if that is empty.
    pub fn clip(&self, from: u32, to: u32) -> Option<Run> {
        let (first, end) = (self.first.max(from), self.end().min(to));
        (first < end).then(|| Run {
            first,
            count: end - first,
            at: BlockAt { block: self.at.block + (first - self.first) as u16, ..self.at },
        })
    }
}

/// One page. Blocks that no run covers are zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Page {
    /// All leaves; the last page of a disk may have fewer than others.
    pub leaves: Vec<Leaf>,
    /// Ascending, without overlap.
    pub runs: Vec<Run>,
}

/// Leaves of page `index` of a disk of `size` bytes.
pub(crate) fn leaves_of_page(size: u64, index: u64) -> usize {
    (size.div_ceil(LEAF) - index * LEAVES_PER_PAGE).min(LEAVES_PER_PAGE) as usize
}

/// Pages of a disk.
pub(crate) fn page_count(size: u64) -> u64 {
    size.div_ceil(PAGE)
}

/// The hash of a page of zeroes at `index` of a disk of `size` bytes.
pub(crate) fn zero_page_hash(size: u64, index: u64) -> PageHash {
    static FULL: LazyLock<PageHash> = LazyLock::new(|| Page::zero(LEAVES_PER_PAGE as usize).hash());
    match leaves_of_page(size, index) {
        leaves if leaves as u64 == LEAVES_PER_PAGE => *FULL,
        leaves => Page::zero(leaves).hash(),
    }
}

impl Page {
    /// A page of zeroes.
    pub fn zero(leaves: usize) -> Self {
        Self { leaves: vec![zero_leaf(); leaves], runs: Vec::new() }
    }

    /// Its hash in the Merkle tree.
    pub fn hash(&self) -> PageHash {
        page_hash(&self.leaves)
    }

    /// Appends a run, joined with the last one where both lie end to end.
    pub fn push(&mut self, run: Run) {
        if let Some(last) = self.runs.last_mut()
            && last.end() == run.first
            && last.at.at == run.at.at
            && u32::from(last.at.block) + last.count == u32::from(run.at.block)
        {
            last.count += run.count;
            return;
        }
        self.runs.push(run);
    }

    /// The runs that touch blocks `from..to`, clipped to it.
    pub fn runs_in(&self, from: u32, to: u32) -> impl Iterator<Item = Run> + '_ {
        let start = self.runs.partition_point(|run| run.end() <= from);
        self.runs[start..].iter().map_while(move |run| (run.first < to).then(|| run.clip(from, to)).flatten())
    }

    /// The packs that its blocks lie in, ascending.
    pub fn packs(&self) -> Vec<PackId> {
        let mut packs: Vec<PackId> = self.runs.iter().map(|run| run.at.at.pack).collect();
        packs.sort_unstable();
        packs.dedup();
        packs
    }

    /// As bytes, before compression.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.leaves.len() * 33 + self.runs.len() * 8 + 64);
        put_varint(&mut out, self.leaves.len() as u64);
        let zero = zero_leaf();
        let mut bits = vec![0_u8; self.leaves.len().div_ceil(8)];
        for (index, leaf) in self.leaves.iter().enumerate() {
            if *leaf != zero {
                bits[index / 8] |= 1 << (index % 8);
            }
        }
        out.extend_from_slice(&bits);
        for leaf in self.leaves.iter().filter(|leaf| **leaf != zero) {
            out.extend_from_slice(leaf);
        }
        let packs = self.packs();
        let numbers: HashMap<PackId, u64> = packs.iter().zip(0..).map(|(pack, number)| (*pack, number)).collect();
        put_varint(&mut out, packs.len() as u64);
        for pack in &packs {
            out.extend_from_slice(&pack.0);
        }
        put_varint(&mut out, self.runs.len() as u64);
        let mut end = 0;
        for run in &self.runs {
            put_varint(&mut out, u64::from(run.first - end));
            put_varint(&mut out, u64::from(run.count));
            put_varint(&mut out, numbers.get(&run.at.at.pack).copied().unwrap_or_default());
            put_varint(&mut out, u64::from(run.at.at.frame));
            put_varint(&mut out, u64::from(run.at.block));
            end = run.end();
        }
        out
    }

    /// Reads and checks a page, which must have `expected` leaves if that is known.
    pub fn decode(bytes: &[u8], expected: Option<usize>, what: &str) -> Result<Self> {
        let mut cursor = Cursor::new(bytes, what);
        let leaves = cursor.varint(LEAVES_PER_PAGE)? as usize;
        if expected.is_some_and(|expected| expected != leaves) {
            return Err(cursor.wrong("it has another number of leaves than its disk needs"));
        }
        let bits = cursor.take(leaves.div_ceil(8))?;
        let mut page = Self::zero(leaves);
        for (index, leaf) in page.leaves.iter_mut().enumerate() {
            if bits[index / 8] >> (index % 8) & 1 == 1 {
                *leaf = cursor.array()?;
            }
        }
        let count = cursor.count(16)?;
        let mut packs = Vec::with_capacity(count);
        for _ in 0..count {
            packs.push(PackId(cursor.array()?));
        }
        let count = cursor.count(5)?;
        page.runs.reserve_exact(count);
        let (mut end, most) = (0_u64, leaves as u64 * u64::from(LEAF_BLOCKS));
        for _ in 0..count {
            let first = end + cursor.varint(most)?;
            let count = cursor.varint(FRAME_BLOCKS as u64)?;
            let pack = cursor.varint(packs.len() as u64)? as usize;
            let frame = cursor.varint(PACK_FRAMES as u64)? as u32;
            let block = cursor.varint(FRAME_BLOCKS as u64)?;
            end = first + count;
            let pack = packs.get(pack).copied();
            let (Some(pack), true) = (pack, count > 0 && end <= most && block + count <= FRAME_BLOCKS as u64) else {
                return Err(cursor.wrong("a run is out of bounds"));
            };
            let at = BlockAt { at: FrameAt { pack, frame }, block: block as u16 };
            page.runs.push(Run { first: first as u32, count: count as u32, at });
        }
        cursor.end()?;
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: u32, count: u32, pack: u8, frame: u32, block: u16) -> Run {
        Run { first, count, at: BlockAt { at: FrameAt { pack: PackId([pack; 16]), frame }, block } }
    }

    fn sample() -> Page {
        let mut page = Page::zero(5);
        page.leaves[1] = [1; 32];
        page.leaves[3] = [3; 32];
        page.push(run(16, 4, 1, 0, 0));
        page.push(run(20, 4, 1, 0, 4));
        page.push(run(30, 2, 2, 9, 250));
        page.push(run(48, 10, 1, 1, 0));
        page
    }

    #[test]
    fn a_page_comes_back() {
        let page = sample();
        assert_eq!(page.runs.len(), 3, "neighbours are joined");
        assert_eq!(Page::decode(&page.encode(), Some(5), "x").unwrap(), page);
        assert!(Page::decode(&page.encode(), Some(6), "x").is_err());
    }

    #[test]
    fn runs_are_clipped() {
        let page = sample();
        let found: Vec<Run> = page.runs_in(18, 49).collect();
        assert_eq!(found, [run(18, 6, 1, 0, 2), run(30, 2, 2, 9, 250), run(48, 1, 1, 1, 0)]);
        assert_eq!(page.runs_in(24, 30).count(), 0);
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let bytes = sample().encode();
        for len in 0..bytes.len() {
            let _ = Page::decode(&bytes[..len], Some(5), "x");
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let _ = Page::decode(&flipped, Some(5), "x");
        }
    }
}

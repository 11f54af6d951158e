//! The Merkle root of a disk: one value for equal guest-visible bytes, whatever the container.
//!
//! * A **block** is BLAKE3 of 4 KiB of the disk (the last one padded with zeroes), see [`crate::hash_blocks`].
//! * A **leaf** is BLAKE3 of the blocks of 64 KiB, one after another (the last one padded with those of zeroes). 64 KiB is
//!   the granularity of QEMU's dirty bitmaps, so an increment can renew exactly the leaves it has read.
//! * A **page** is BLAKE3 of the leaves of 64 MiB, one after another; a page at the end has fewer leaves.
//! * The **root** is BLAKE3, key-derivation mode with context [`CONTEXT`], of the size in bytes (u64, little endian)
//!   and then all page hashes.
//!
//! Pages let a changed disk of many TiB get its new root from the changed pages and 32 bytes for every other one.

use std::sync::LazyLock;

use bytes::Bytes;
use model::{DiskRoot, Error, Kind, Result};

use crate::blocks::{BLOCK, BlockHash, hash_blocks, zero_block};
use crate::is_zero;

/// Bytes under one leaf.
pub const LEAF: u64 = 64 * 1024;
/// Leaves under one page.
pub const LEAVES_PER_PAGE: u64 = 1024;
/// Bytes under one page.
pub const PAGE: u64 = LEAF * LEAVES_PER_PAGE;

/// Domain of the root, so that no other hash of the program can be taken for one.
const CONTEXT: &str = "replicate 2026-11-30 disk root v2";

/// Hash of one leaf.
pub type Leaf = [u8; 32];
/// Hash of one page of leaves.
pub type PageHash = [u8; 32];

/// Blocks under one leaf.
pub const LEAF_BLOCKS: usize = LEAF as usize / BLOCK;

static ZERO_LEAF: LazyLock<Leaf> = LazyLock::new(|| leaf_of(&[]));

/// The leaf of 64 KiB of zeroes.
pub fn zero_leaf() -> Leaf {
    *ZERO_LEAF
}

/// The leaf of up to 64 KiB of data; what is missing to 64 KiB counts as zero.
pub fn leaf(data: &[u8]) -> Leaf {
    let mut blocks = [zero_block(); LEAF_BLOCKS];
    let count = data.len().div_ceil(BLOCK);
    hash_blocks(data, &mut blocks[..count]);
    leaf_of(&blocks)
}

/// The leaf of up to 16 blocks; those that are missing count as zero.
pub fn leaf_of(blocks: &[BlockHash]) -> Leaf {
    let mut all = [zero_block(); LEAF_BLOCKS];
    all[..blocks.len()].copy_from_slice(blocks);
    *blake3::hash(all.as_flattened()).as_bytes()
}

/// The leaves of data that begins with one, hashed on a thread for such work: to hash costs more than what a writer does
/// beside it, and would hold up every other task.
pub async fn leaves_of(data: Bytes) -> Result<Vec<Leaf>> {
    let hash = |bytes: &[u8]| if is_zero(bytes) { zero_leaf() } else { leaf(bytes) };
    let hashing = tokio::task::spawn_blocking(move || data.chunks(LEAF as usize).map(hash).collect());
    hashing.await.map_err(|error| Error::new(Kind::Cancelled, "cannot hash what was read").because(error))
}

/// The hash of one page from its leaves.
pub fn page_hash(leaves: &[Leaf]) -> PageHash {
    *blake3::hash(leaves.as_flattened()).as_bytes()
}

/// The root from all page hashes of a disk of `size` bytes.
pub fn root_of_pages(size: u64, pages: impl IntoIterator<Item = PageHash>) -> DiskRoot {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    hasher.update(&size.to_le_bytes());
    for page in pages {
        hasher.update(&page);
    }
    DiskRoot(*hasher.finalize().as_bytes())
}

/// Builds a root from leaves in any order; a leaf that is never set is zero. Holds 32 bytes per leaf of the pages
/// that are open, and 32 bytes per finished page: pages fill in ascending order and are closed when the next begins.
#[derive(Debug)]
pub struct RootBuilder {
    size: u64,
    pages: Vec<PageHash>,
    open: Vec<Leaf>,
}

impl RootBuilder {
    /// A builder for a disk of `size` bytes.
    pub fn new(size: u64) -> Self {
        Self { size, pages: Vec::new(), open: Vec::new() }
    }

    /// Sets leaf `index`. Leaves must come in ascending order; skipped ones are zero.
    pub fn push(&mut self, index: u64, leaf: Leaf) {
        self.fill_to(index);
        self.append(leaf);
    }

    /// The root; leaves that were not set are zero.
    pub fn finish(self) -> DiskRoot {
        self.finish_with_pages().0
    }

    /// The root, and the hashes of all pages.
    pub fn finish_with_pages(mut self) -> (DiskRoot, Vec<PageHash>) {
        self.fill_to(self.size.div_ceil(LEAF));
        if !self.open.is_empty() {
            self.pages.push(page_hash(&self.open));
        }
        (root_of_pages(self.size, self.pages.iter().copied()), self.pages)
    }

    fn next(&self) -> u64 {
        self.pages.len() as u64 * LEAVES_PER_PAGE + self.open.len() as u64
    }

    fn append(&mut self, leaf: Leaf) {
        self.open.push(leaf);
        if self.open.len() as u64 == LEAVES_PER_PAGE {
            self.pages.push(page_hash(&self.open));
            self.open.clear();
        }
    }

    fn fill_to(&mut self, index: u64) {
        debug_assert!(self.next() <= index, "leaves come in order");
        let zero_page = LazyLock::new(|| page_hash(&vec![zero_leaf(); LEAVES_PER_PAGE as usize]));
        while self.next() < index {
            if self.open.is_empty() && index - self.next() >= LEAVES_PER_PAGE {
                self.pages.push(*zero_page);
            } else {
                self.append(zero_leaf());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(data: &[u8]) -> DiskRoot {
        let mut builder = RootBuilder::new(data.len() as u64);
        for (index, chunk) in data.chunks(LEAF as usize).enumerate() {
            if !crate::is_zero(chunk) {
                builder.push(index as u64, leaf(chunk));
            }
        }
        builder.finish()
    }

    #[test]
    fn skipped_leaves_equal_zero_leaves() {
        let mut data = vec![0; (PAGE + 3 * LEAF + 512) as usize];
        let all_zero = root(&data);
        let mut builder = RootBuilder::new(data.len() as u64);
        for index in 0..(data.len() as u64).div_ceil(LEAF) {
            builder.push(index, zero_leaf());
        }
        assert_eq!(builder.finish(), all_zero);
        data[PAGE as usize + 5] = 1;
        assert_ne!(root(&data), all_zero);
    }

    #[test]
    fn size_counts() {
        assert_ne!(root(&[0; 512]), root(&[0; 1024]));
    }
}

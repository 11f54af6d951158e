//! Hashing on the workers: leaves for the Merkle tree, block ids where a leaf has changed.

use std::sync::Arc;

use bytes::Bytes;
use disk::{LEAF, LEAVES_PER_PAGE, Leaf, is_zero, leaf, zero_leaf};

use super::base::BasePage;
use crate::pack::{BLOCK, BlockId, block_id};

/// The id that stands for a block of zeroes, which is never stored.
pub(crate) const ZERO: BlockId = [0; 16];

/// What became of a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeafState {
    /// All zero.
    Zero,
    /// As the parent has it.
    Same,
    /// Its blocks' ids begin here.
    Changed(usize),
}

/// A hashed slice of a disk.
pub(crate) struct Hashed {
    /// Where it begins, a multiple of a leaf.
    pub offset: u64,
    /// Its bytes.
    pub data: Bytes,
    /// Its leaves.
    pub leaves: Vec<(Leaf, LeafState)>,
    /// Ids of the blocks of changed leaves.
    pub ids: Vec<BlockId>,
}

/// Hashes `data`, which begins at `offset` and lies in one page; `base` is the parent's page.
pub(crate) fn hash(offset: u64, data: Bytes, base: Option<&Arc<BasePage>>, key: &[u8; 32]) -> Hashed {
    let count = data.len().div_ceil(LEAF as usize);
    let mut leaves = Vec::with_capacity(count);
    let mut ids = Vec::with_capacity(data.len().div_ceil(BLOCK));
    let first = (offset / LEAF % LEAVES_PER_PAGE) as usize;
    for (number, bytes) in data.chunks(LEAF as usize).enumerate() {
        if is_zero(bytes) {
            leaves.push((zero_leaf(), LeafState::Zero));
            continue;
        }
        let hash = leaf(bytes);
        if base.is_some_and(|base| base.has(first + number, &hash)) {
            leaves.push((hash, LeafState::Same));
            continue;
        }
        leaves.push((hash, LeafState::Changed(ids.len())));
        ids.extend(bytes.chunks(BLOCK).map(|block| id(key, block)));
    }
    Hashed { offset, data, leaves, ids }
}

fn id(key: &[u8; 32], block: &[u8]) -> BlockId {
    if is_zero(block) {
        return ZERO;
    }
    if block.len() == BLOCK {
        return block_id(key, block);
    }
    // the last block of a disk whose size is no multiple of 4 KiB
    let mut whole = [0; BLOCK];
    whole[..block.len()].copy_from_slice(block);
    block_id(key, &whole)
}

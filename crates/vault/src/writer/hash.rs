//! Hashing on the workers: blocks, and the leaves that follow from them.

use std::sync::Arc;

use bytes::Bytes;
use disk::{LEAF, LEAVES_PER_PAGE, Leaf, hash_blocks, is_zero, leaf_of, zero_block, zero_leaf};

use super::base::BasePage;
use crate::pack::{BLOCK, BlockId};

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
pub(crate) fn hash(offset: u64, data: Bytes, base: Option<&Arc<BasePage>>) -> Hashed {
    let count = data.len().div_ceil(LEAF as usize);
    let mut leaves = Vec::with_capacity(count);
    let mut ids = Vec::with_capacity(data.len().div_ceil(BLOCK));
    let first = (offset / LEAF % LEAVES_PER_PAGE) as usize;
    for (number, bytes) in data.chunks(LEAF as usize).enumerate() {
        if is_zero(bytes) {
            leaves.push((zero_leaf(), LeafState::Zero));
            continue;
        }
        let start = ids.len();
        ids.resize(start + bytes.len().div_ceil(BLOCK), zero_block());
        hash_blocks(bytes, &mut ids[start..]);
        let leaf = leaf_of(&ids[start..]);
        if base.is_some_and(|base| base.has(first + number, &leaf)) {
            ids.truncate(start);
            leaves.push((leaf, LeafState::Same));
        } else {
            leaves.push((leaf, LeafState::Changed(start)));
        }
    }
    Hashed { offset, data, leaves, ids }
}

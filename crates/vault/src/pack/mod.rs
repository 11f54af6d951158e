//! Packs: the unit of storage. Frames, then what is in them.
//!
//! ```text
//! "RPLVPK02"                     8 bytes
//! frame, frame, ...              sealed one by one, in any order
//! ids                            sealed: 32 bytes for each block of each data frame, in order of frames
//! table                          sealed: 16 bytes for each frame
//! footer                         24 bytes: length of ids, length of table, number of frames (u32 each), "RPLVPKEND2  "
//! ```

pub(crate) mod build;
pub(crate) mod frame;
pub(crate) mod load;
pub(crate) mod trailer;

/// The unit of deduplication, and its id. As the disk's Merkle tree follows from its blocks' hashes, the ids of a pack are
/// enough to check the tree of a point whose blocks lie there.
pub(crate) use disk::{BLOCK, BlockHash as BlockId};

/// Blocks of a full frame.
pub(crate) const FRAME_BLOCKS: usize = 256;
/// Bytes of a full frame: the unit of compression and encryption.
pub(crate) const FRAME: usize = BLOCK * FRAME_BLOCKS;
/// A pack is closed when it has about as many bytes.
pub(crate) const PACK_TARGET: u64 = 16 << 20;
/// No pack is longer.
pub(crate) const PACK_LONGEST: u64 = 64 << 20;
/// No pack has more frames.
pub(crate) const PACK_FRAMES: usize = 8192;
/// First bytes of a pack.
pub(crate) const HEADER: &[u8; 8] = b"RPLVPK02";

/// A frame somewhere in the vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct FrameAt {
    /// The pack.
    pub pack: crate::PackId,
    /// Its number in the pack.
    pub frame: u32,
}

/// A block somewhere in the vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct BlockAt {
    /// The frame.
    pub at: FrameAt,
    /// Its number in the frame.
    pub block: u16,
}

/// Whether `plain` is the blocks of these ids, one after another.
pub(crate) fn ids_fit(plain: &[u8], ids: &[BlockId]) -> bool {
    let mut found = vec![disk::zero_block(); ids.len()];
    plain.len() == ids.len() * BLOCK && {
        disk::hash_blocks(plain, &mut found);
        found == ids
    }
}

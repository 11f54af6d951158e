//! Packs: the unit of storage. Frames, then what is in them.
//!
//! ```text
//! "RPLVPK01"                     8 bytes
//! frame, frame, ...              sealed one by one, in any order
//! ids                            sealed: 16 bytes for each block of each data frame, in order of frames
//! table                          sealed: 16 bytes for each frame
//! footer                         24 bytes: length of ids, length of table, number of frames (u32 each), "RPLVPKEND1  "
//! ```

pub(crate) mod build;
pub(crate) mod frame;
pub(crate) mod load;
pub(crate) mod trailer;

/// Bytes of a block: the unit of deduplication.
pub(crate) const BLOCK: usize = 4096;
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
pub(crate) const HEADER: &[u8; 8] = b"RPLVPK01";

/// Keyed hash of a block: 128 bits, so that no two blocks of any vault share one.
pub(crate) type BlockId = [u8; 16];

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

/// The id of a block under the vault's key.
pub(crate) fn block_id(key: &[u8; 32], block: &[u8]) -> BlockId {
    let mut id = [0; 16];
    id.copy_from_slice(&blake3::keyed_hash(key, block).as_bytes()[..16]);
    id
}

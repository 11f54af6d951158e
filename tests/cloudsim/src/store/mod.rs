//! The bytes: blocks of 512 KiB by their SHA-256, one map of blocks for each snapshot, one sparse file for each
//! volume. Nothing here is synced: what kill -9 leaves in the page cache is there again afterwards, and a power cut
//! of the test machine ends the test anyway.

pub(crate) mod blocks;
pub(crate) mod maps;
pub(crate) mod volume;

use aws_lc_rs::digest::{SHA256, digest};

/// The size of a block.
pub(crate) const BLOCK: usize = 512 << 10;

/// Bytes of a GiB.
pub(crate) const GIB: u64 = 1 << 30;

/// The unit in which holes are left.
pub(crate) const PAGE: usize = 4096;

/// Whether a page or part of one holds nothing. A comparison of slices is fast in every build.
pub(crate) fn is_zero(page: &[u8]) -> bool {
    static ZEROES: [u8; PAGE] = [0; PAGE];
    *page == ZEROES[..page.len()]
}

/// A block's name.
pub(crate) type Hash = [u8; 32];

/// SHA-256.
pub(crate) fn hash(bytes: &[u8]) -> Hash {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

/// SHA-256 in hex.
pub(crate) fn hash_hex(bytes: &[u8]) -> String {
    hex::encode(hash(bytes))
}

//! Hashes of blocks: BLAKE3 of each 4 KiB of a disk. All else of a disk's Merkle tree follows from them, and a vault knows
//! its blocks by them: one pass over the bytes serves both.
//!
//! A vector unit hashes sixteen chunks of 1 KiB at a time. One block has four, and taken alone it leaves most of the unit
//! idle; so sixteen blocks are hashed side by side, in a third of the time where there is AVX-512. For that the
//! tree inside a block is built here, with the part of the `blake3` crate that it offers to benchmarks only: the version
//! is pinned, and a test compares with what the crate says of each block.

use std::sync::LazyLock;

use blake3::IncrementCounter;
use blake3::platform::Platform;

/// Bytes of a block.
pub const BLOCK: usize = 4096;

/// Hash of one block.
pub type BlockHash = [u8; 32];

/// Blocks that are hashed side by side: what the widest vector units take.
const GROUP: usize = 16;
/// Bytes of a chunk, the leaf of BLAKE3's own tree.
const CHUNK: usize = 1024;
/// Chunks of a block.
const CHUNKS: usize = BLOCK / CHUNK;

/// BLAKE3's initial value and flags (its paper, sections 2.1 and 2.2).
const IV: [u32; 8] =
    [0x6A09_E667, 0xBB67_AE85, 0x3C6E_F372, 0xA54F_F53A, 0x510E_527F, 0x9B05_688C, 0x1F83_D9AB, 0x5BE0_CD19];
const CHUNK_START: u8 = 1;
const CHUNK_END: u8 = 2;
const PARENT: u8 = 4;
const ROOT: u8 = 8;

static ZERO_BLOCK: LazyLock<BlockHash> = LazyLock::new(|| *blake3::hash(&[0; BLOCK]).as_bytes());

/// The hash of a block of zeroes.
pub fn zero_block() -> BlockHash {
    *ZERO_BLOCK
}

/// Hashes the blocks of `data`, the last one filled up with zeroes. `hashes` has room for one each.
pub fn hash_blocks(data: &[u8], hashes: &mut [BlockHash]) {
    debug_assert_eq!(hashes.len(), data.len().div_ceil(BLOCK));
    let (blocks, rest) = data.as_chunks::<BLOCK>();
    let (whole, last) = hashes.split_at_mut(blocks.len());
    let platform = Platform::detect();
    for (blocks, hashes) in blocks.chunks(GROUP).zip(whole.chunks_mut(GROUP)) {
        hash_group(platform, blocks, hashes);
    }
    for hash in last {
        let mut block = [0; BLOCK];
        block[..rest.len()].copy_from_slice(rest);
        *hash = *blake3::hash(&block).as_bytes();
    }
}

/// Hashes up to [`GROUP`] blocks.
fn hash_group(platform: Platform, blocks: &[[u8; BLOCK]], hashes: &mut [BlockHash]) {
    let count = blocks.len();
    let mut chunks = [[[0; 32]; CHUNKS]; GROUP];
    let mut column = [[0; 32]; GROUP];
    for number in 0..CHUNKS {
        let mut inputs = [&[0; CHUNK]; GROUP];
        for (input, block) in inputs.iter_mut().zip(blocks) {
            *input = &block.as_chunks().0[number];
        }
        let (inputs, out) = (&inputs[..count], column[..count].as_flattened_mut());
        platform.hash_many(inputs, &IV, number as u64, IncrementCounter::No, 0, CHUNK_START, CHUNK_END, out);
        for (chunks, hash) in chunks.iter_mut().zip(&column[..count]) {
            chunks[number] = *hash;
        }
    }
    let mut pairs = [[0; 32]; 2 * GROUP];
    parents(platform, &chunks.as_flattened()[..CHUNKS * count], 0, &mut pairs[..2 * count]);
    parents(platform, &pairs[..2 * count], ROOT, hashes);
}

/// The parent of each two `children`.
fn parents(platform: Platform, children: &[BlockHash], flag: u8, out: &mut [BlockHash]) {
    let mut inputs = [&[0; 64]; 2 * GROUP];
    for (input, pair) in inputs.iter_mut().zip(children.as_flattened().as_chunks().0) {
        *input = pair;
    }
    let (inputs, out) = (&inputs[..out.len()], out.as_flattened_mut());
    platform.hash_many(inputs, &IV, 0, IncrementCounter::No, PARENT, 0, flag, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data() -> Vec<u8> {
        let mut data = vec![0; 40 * BLOCK + 512];
        blake3::Hasher::new().update(b"blocks").finalize_xof().fill(&mut data[BLOCK..]);
        data
    }

    #[test]
    fn a_block_has_the_hash_that_blake3_gives_it() {
        let data = data();
        for len in [0, 512, BLOCK, 16 * BLOCK, 17 * BLOCK, 33 * BLOCK + 512, data.len()] {
            let data = &data[..len];
            let mut hashes = vec![[0; 32]; len.div_ceil(BLOCK)];
            hash_blocks(data, &mut hashes);
            for (hash, block) in hashes.iter().zip(data.chunks(BLOCK)) {
                let mut whole = block.to_vec();
                whole.resize(BLOCK, 0);
                assert_eq!(hash, blake3::hash(&whole).as_bytes());
            }
        }
        let mut zero = [[1; 32]];
        hash_blocks(&[0; 512], &mut zero);
        assert_eq!(zero, [zero_block()]);
    }

    /// A vault that one machine has written is read by others.
    #[test]
    fn all_processors_agree() {
        let mut platforms = vec![Platform::detect(), Platform::portable()];
        #[cfg(target_arch = "x86_64")]
        platforms.extend([Platform::sse2(), Platform::sse41(), Platform::avx2()].into_iter().flatten());
        let data = data();
        for platform in platforms {
            for count in 1..=GROUP {
                let blocks = &data.as_chunks().0[..count];
                let mut hashes = [[0; 32]; GROUP];
                hash_group(platform, blocks, &mut hashes[..count]);
                for (hash, block) in hashes.iter().zip(blocks) {
                    assert_eq!(hash, blake3::hash(block).as_bytes(), "{count} blocks by {platform:?}");
                }
            }
        }
    }
}

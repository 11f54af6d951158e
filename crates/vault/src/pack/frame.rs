//! One frame: up to 1 MiB of blocks, or one page of a disk's map; compressed if it gains, then sealed.

use bytes::Bytes;
use disk::Buffer;
use model::{Error, Kind, Result};

use super::{FRAME, FrameAt};
use crate::PackId;
use crate::cipher::{Cipher, TAG};
use crate::keys::{VaultId, broken};
use crate::seal::VERSION;
use crate::work::Scratch;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameKind {
    /// Blocks of disks.
    Data = 0,
    /// A page of a disk's map.
    Page = 1,
}

impl FrameKind {
    /// From the byte in the table.
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(FrameKind::Data),
            1 => Some(FrameKind::Page),
            _ => None,
        }
    }
}

/// One entry of a pack's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameEntry {
    /// What it holds.
    pub kind: FrameKind,
    /// zstd level that it was compressed with, 1 to 22; 0 if it is not compressed.
    pub level: u8,
    /// Blocks in it; 0 for a page.
    pub blocks: u16,
    /// Where it begins in the pack.
    pub offset: u32,
    /// Bytes in the pack, seal included.
    pub stored: u32,
    /// Bytes before compression.
    pub raw: u32,
}

/// Longest frame in a pack: what does not shrink is stored as it is.
pub(crate) const LONGEST_STORED: usize = FRAME + TAG;

/// What binds a frame to its place: format, type, vault, pack, number, length and compression.
fn aad(vault: VaultId, pack: PackId, number: u32, kind: FrameKind, level: u8, raw: u32) -> [u8; 48] {
    let mut aad = [0; 48];
    aad[..4].copy_from_slice(b"RPLF");
    aad[4..8].copy_from_slice(&[VERSION, kind as u8, level, 0]);
    aad[8..24].copy_from_slice(&vault.0);
    aad[24..40].copy_from_slice(&pack.0);
    aad[40..44].copy_from_slice(&number.to_le_bytes());
    aad[44..48].copy_from_slice(&raw.to_le_bytes());
    aad
}

/// How a frame is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Making {
    /// The vault.
    pub vault: VaultId,
    /// The pack it is for.
    pub pack: PackId,
    /// Its number.
    pub number: u32,
    /// What it holds.
    pub kind: FrameKind,
    /// zstd level.
    pub level: i32,
    /// Whether to decompress and compare.
    pub check: bool,
}

/// Compresses and seals `plain` into `out`, a buffer to be reused. Returns the level for its entry.
pub(crate) fn encode(
    making: Making,
    cipher: &Cipher,
    plain: &[u8],
    out: &mut Vec<u8>,
    scratch: &mut Scratch,
) -> Result<u8> {
    out.clear();
    out.reserve(plain.len() + TAG);
    let mut level = 0;
    if probe(plain) {
        scratch
            .compressor
            .set_compression_level(making.level)
            .map_err(|e| broken("zstd refused a level").because(e))?;
        // a result that does not fit into about as many bytes is not wanted
        if let Ok(len) = scratch.compressor.compress_to_buffer(plain, out)
            && len < plain.len() - plain.len() / 64
        {
            // a frame that was compressed faster than level 1 is one that would gain from any other
            level = making.level.clamp(1, 22) as u8;
            if making.check {
                compare(plain, out, scratch)?;
            }
        }
    }
    if level == 0 {
        out.clear();
        out.extend_from_slice(plain);
    }
    let aad = aad(making.vault, making.pack, making.number, making.kind, level, plain.len() as u32);
    cipher.seal(making.number, &aad, out, 0)?;
    Ok(level)
}

/// Whether compression is worth a try. Random bytes (media, ciphertext, packed archives) cost time and gain nothing:
/// when all of sixteen samples show a flat distribution of bytes, the frame is taken for such.
fn probe(plain: &[u8]) -> bool {
    const SAMPLE: usize = 1024;
    if plain.len() < 16 * 4096 {
        return true;
    }
    // the sum of squares of 1024 random bytes over 256 values is 5116 +- 91
    plain.chunks_exact(plain.len() / 16).any(|part| {
        let mut counts = [0_u16; 256];
        for byte in &part[part.len() - SAMPLE..] {
            counts[usize::from(*byte)] += 1;
        }
        counts.iter().map(|count| u32::from(*count) * u32::from(*count)).sum::<u32>() > 5700
    })
}

/// Decompresses and compares: a compressor's bug must not become a loss.
fn compare(plain: &[u8], zipped: &[u8], scratch: &mut Scratch) -> Result<()> {
    let again = room(&mut scratch.buffer, plain.len());
    match scratch.decompressor.decompress_to_buffer(zipped, &mut *again) {
        Ok(len) if again.get(..len) == Some(plain) => Ok(()),
        _ => Err(broken("a compressed frame does not decompress to what it was made of")),
    }
}

/// Opens a frame as it lies in a pack. Not one byte is returned of a frame whose seal does not fit.
pub(crate) fn decode(
    vault: VaultId,
    at: FrameAt,
    entry: &FrameEntry,
    cipher: &Cipher,
    stored: &[u8],
    scratch: &mut Scratch,
) -> Result<Bytes> {
    let wrong = |why: &'static str| {
        Error::new(Kind::Damaged, format!("cannot read frame {} of pack {}", at.frame, at.pack)).because(why)
    };
    let raw = entry.raw as usize;
    let sealed = stored.len().checked_sub(TAG).filter(|len| stored.len() == entry.stored as usize && *len <= FRAME);
    let (Some(sealed), true) = (sealed, raw <= FRAME) else {
        return Err(wrong("it has another length than the pack's table tells"));
    };
    let aad = aad(vault, at.pack, at.frame, entry.kind, entry.level, entry.raw);
    let mut plain = Buffer::take(raw);
    if entry.level == 0 {
        if sealed != raw {
            return Err(wrong("it has another length than the pack's table tells"));
        }
        return match cipher.open_into(at.frame, &aad, stored, plain.as_mut()) {
            true => Ok(plain.freeze()),
            false => Err(wrong("its seal is broken")),
        };
    }
    let zipped = room(&mut scratch.buffer, sealed);
    if !cipher.open_into(at.frame, &aad, stored, zipped) {
        return Err(wrong("its seal is broken"));
    }
    match scratch.decompressor.decompress_to_buffer(&*zipped, plain.as_mut()) {
        Ok(len) if len == raw => Ok(plain.freeze()),
        _ => Err(wrong("it does not decompress")),
    }
}

/// The first `len` bytes of a buffer that only ever grows.
fn room(buffer: &mut Vec<u8>, len: usize) -> &mut [u8] {
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    &mut buffer[..len]
}

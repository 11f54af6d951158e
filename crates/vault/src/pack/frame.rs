//! One frame: up to 1 MiB of blocks, or one page of a disk's map; compressed if it gains, then sealed.

use model::{Error, Kind, Result};

use super::FRAME;
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
    /// Whether it is compressed.
    pub zipped: bool,
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
fn aad(vault: VaultId, pack: PackId, number: u32, kind: FrameKind, zipped: bool, raw: u32) -> [u8; 48] {
    let mut aad = [0; 48];
    aad[..4].copy_from_slice(b"RPLF");
    aad[4..8].copy_from_slice(&[VERSION, kind as u8, u8::from(zipped), 0]);
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
    /// Whether to decompress and compare.
    pub check: bool,
}

/// Compresses and seals `plain` into `out`, a buffer to be reused. Returns whether it is compressed.
pub(crate) fn encode(
    making: Making,
    cipher: &Cipher,
    plain: &[u8],
    out: &mut Vec<u8>,
    scratch: &mut Scratch,
) -> Result<bool> {
    out.clear();
    let mut zipped = false;
    if probe(plain) {
        out.resize(plain.len(), 0);
        // a result that would not be shorter than the plain bytes does not fit, and is not wanted
        if let Ok(len) = scratch.compressor.compress_to_buffer(plain, &mut out[..])
            && len < plain.len() - plain.len() / 64
        {
            out.truncate(len);
            zipped = true;
            if making.check {
                compare(plain, out, scratch)?;
            }
        }
    }
    if !zipped {
        out.clear();
        out.extend_from_slice(plain);
    }
    let aad = aad(making.vault, making.pack, making.number, making.kind, zipped, plain.len() as u32);
    cipher.seal(making.number, &aad, out, 0)?;
    Ok(zipped)
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
    scratch.buffer.resize(FRAME.max(plain.len()), 0);
    match scratch.decompressor.decompress_to_buffer(zipped, &mut scratch.buffer[..plain.len()]) {
        Ok(len) if len == plain.len() && scratch.buffer[..len] == *plain => Ok(()),
        _ => Err(broken("a compressed frame does not decompress to what it was made of")),
    }
}

/// Opens a frame as it lies in a pack. Not one byte is returned of a frame whose seal does not fit.
pub(crate) fn decode(
    vault: VaultId,
    pack: PackId,
    number: u32,
    entry: &FrameEntry,
    cipher: &Cipher,
    stored: &[u8],
    scratch: &mut Scratch,
) -> Result<Vec<u8>> {
    let wrong = |why: &'static str| {
        Error::new(Kind::Damaged, format!("cannot read frame {number} of pack {pack}")).because(why)
    };
    let raw = entry.raw as usize;
    if stored.len() != entry.stored as usize || raw > FRAME {
        return Err(wrong("it has another length than the pack's table tells"));
    }
    let aad = aad(vault, pack, number, entry.kind, entry.zipped, entry.raw);
    if !entry.zipped {
        let mut plain = stored.to_vec();
        let len = cipher.open(number, &aad, &mut plain).ok_or_else(|| wrong("its seal is broken"))?.len();
        if len != raw {
            return Err(wrong("it has another length than the pack's table tells"));
        }
        plain.truncate(len);
        return Ok(plain);
    }
    let mut sealed = std::mem::take(&mut scratch.buffer);
    sealed.clear();
    sealed.extend_from_slice(stored);
    let result = match cipher.open(number, &aad, &mut sealed) {
        None => Err(wrong("its seal is broken")),
        Some(zipped) => {
            let mut plain = vec![0; raw];
            match scratch.decompressor.decompress_to_buffer(zipped, &mut plain[..]) {
                Ok(len) if len == raw => Ok(plain),
                _ => Err(wrong("it does not decompress")),
            }
        }
    };
    scratch.buffer = sealed;
    result
}

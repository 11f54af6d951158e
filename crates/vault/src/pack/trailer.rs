//! What stands at the end of a pack: which frames it has, and which blocks are in them.

use model::Result;

use super::frame::{FrameEntry, FrameKind, LONGEST_STORED};
use super::{BLOCK, BlockId, FRAME, FRAME_BLOCKS, HEADER, PACK_FRAMES, PACK_LONGEST};
use crate::PackId;
use crate::cipher::{Cipher, TAG};
use crate::codec::Cursor;
use crate::keys::{VaultId, broken};
use crate::seal::VERSION;

const END: &[u8; 12] = b"RPLVPKEND2\n\n";
/// Bytes of the footer.
pub(crate) const FOOTER: usize = 24;
const ENTRY: usize = 16;
const ID: usize = size_of::<BlockId>();
/// Counters of the seals: no frame's number comes near.
const IDS: u32 = u32::MAX - 1;
const TABLE: u32 = u32::MAX;

/// The lengths that the footer tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Footer {
    /// Stored bytes of the ids.
    pub ids: u32,
    /// Stored bytes of the table.
    pub table: u32,
    /// Frames.
    pub frames: u32,
}

impl Footer {
    /// Reads the last [`FOOTER`] bytes of a pack of `size` bytes.
    pub fn read(pack: PackId, size: u64, bytes: &[u8]) -> Result<Self> {
        let what = format!("pack {pack}");
        let mut cursor = Cursor::new(bytes, &what);
        let footer = Self { ids: cursor.u32()?, table: cursor.u32()?, frames: cursor.u32()? };
        let fits = u64::from(footer.ids) + u64::from(footer.table) + (FOOTER + HEADER.len()) as u64 <= size
            && size <= PACK_LONGEST
            && footer.ids as usize >= TAG
            && (footer.ids as usize - TAG).is_multiple_of(ID)
            && footer.frames as usize <= PACK_FRAMES
            && footer.table as usize == footer.frames as usize * ENTRY + TAG;
        if cursor.take(12)? != END || !fits {
            return Err(cursor.wrong("its end is not that of a pack"));
        }
        Ok(footer)
    }

    /// Where the table begins in a pack of `size` bytes.
    pub fn table_start(&self, size: u64) -> u64 {
        size - FOOTER as u64 - u64::from(self.table)
    }

    /// Where the ids begin.
    pub fn ids_start(&self, size: u64) -> u64 {
        self.table_start(size) - u64::from(self.ids)
    }

    fn bytes(&self) -> [u8; FOOTER] {
        let mut out = [0; FOOTER];
        out[..4].copy_from_slice(&self.ids.to_le_bytes());
        out[4..8].copy_from_slice(&self.table.to_le_bytes());
        out[8..12].copy_from_slice(&self.frames.to_le_bytes());
        out[12..].copy_from_slice(END);
        out
    }
}

fn aad(vault: VaultId, pack: PackId, footer: &Footer) -> Vec<u8> {
    let mut aad = b"RPLT".to_vec();
    aad.extend_from_slice(&[VERSION, 0, 0, 0]);
    aad.extend_from_slice(&vault.0);
    aad.extend_from_slice(&pack.0);
    aad.extend_from_slice(&footer.bytes());
    aad
}

/// Ids, table and footer: what stands behind a pack's frames.
pub(crate) fn build(
    vault: VaultId,
    pack: PackId,
    cipher: &Cipher,
    frames: &[FrameEntry],
    ids: &[BlockId],
) -> Result<Vec<u8>> {
    let lengths = (u32::try_from(ids.len() * ID + TAG), u32::try_from(frames.len() * ENTRY + TAG));
    let (Ok(ids_len), Ok(table_len)) = lengths else { return Err(broken("a pack has too many blocks")) };
    let footer = Footer { ids: ids_len, table: table_len, frames: frames.len() as u32 };
    let aad = aad(vault, pack, &footer);
    let mut out = Vec::with_capacity(ids_len as usize + table_len as usize + FOOTER);
    out.extend_from_slice(ids.as_flattened());
    cipher.seal(IDS, &aad, &mut out, 0)?;
    let start = out.len();
    for frame in frames {
        out.extend_from_slice(&[frame.kind as u8, frame.level]);
        out.extend_from_slice(&frame.blocks.to_le_bytes());
        out.extend_from_slice(&frame.offset.to_le_bytes());
        out.extend_from_slice(&frame.stored.to_le_bytes());
        out.extend_from_slice(&frame.raw.to_le_bytes());
    }
    cipher.seal(TABLE, &aad, &mut out, start)?;
    out.extend_from_slice(&footer.bytes());
    Ok(out)
}

/// The frames of a pack, by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    /// All frames.
    pub frames: Vec<FrameEntry>,
    /// Blocks before each frame, and behind the last: where a frame's ids begin.
    pub first_id: Vec<u32>,
}

impl Table {
    /// Opens the sealed table of a pack of `size` bytes and checks every entry.
    pub fn open(
        vault: VaultId,
        pack: PackId,
        size: u64,
        footer: &Footer,
        cipher: &Cipher,
        sealed: &[u8],
    ) -> Result<Self> {
        let what = format!("the table of pack {pack}");
        let mut sealed = sealed.to_vec();
        let Some(plain) = cipher.open(TABLE, &aad(vault, pack, footer), &mut sealed) else {
            return Err(Cursor::new(&[], &what).wrong("its seal is broken"));
        };
        let mut cursor = Cursor::new(plain, &what);
        let mut table = Self { frames: Vec::new(), first_id: vec![0] };
        let end = footer.ids_start(size);
        let mut blocks_before = 0;
        for _ in 0..footer.frames {
            let [kind, level] = cursor.array::<2>()?;
            let blocks = u16::from_le_bytes(cursor.array()?);
            let (offset, stored, raw) = (cursor.u32()?, cursor.u32()?, cursor.u32()?);
            let kind = FrameKind::from_byte(kind).ok_or_else(|| cursor.wrong("a frame is of no known kind"))?;
            let counts = match kind {
                FrameKind::Data => usize::from(blocks) <= FRAME_BLOCKS && raw as usize == usize::from(blocks) * BLOCK,
                FrameKind::Page => blocks == 0 && raw as usize <= FRAME,
            };
            let inside = offset as usize >= HEADER.len() && u64::from(offset) + u64::from(stored) <= end;
            if !counts || !inside || level > 22 || stored as usize > LONGEST_STORED || (stored as usize) < TAG {
                return Err(cursor.wrong("a frame's entry is out of bounds"));
            }
            blocks_before += u32::from(blocks);
            table.frames.push(FrameEntry { kind, level, blocks, offset, stored, raw });
            table.first_id.push(blocks_before);
        }
        if (footer.ids as usize - TAG) / ID != blocks_before as usize {
            return Err(cursor.wrong("it tells another number of blocks than it has ids"));
        }
        cursor.end()?;
        Ok(table)
    }
}

/// Opens the sealed ids of a pack.
pub(crate) fn open_ids(
    vault: VaultId,
    pack: PackId,
    footer: &Footer,
    cipher: &Cipher,
    sealed: &[u8],
) -> Result<Vec<BlockId>> {
    let mut sealed = sealed.to_vec();
    match cipher.open(IDS, &aad(vault, pack, footer), &mut sealed) {
        Some(plain) => Ok(plain.as_chunks::<ID>().0.to_vec()),
        None => Err(Cursor::new(&[], &format!("the block ids of pack {pack}")).wrong("its seal is broken")),
    }
}

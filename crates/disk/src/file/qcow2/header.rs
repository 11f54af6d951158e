//! The header of a qcow2 file. Every number in it may be hostile.

use model::{Error, Kind, Result};

use super::Storage;

/// `QFI\xfb`
pub(in crate::file) const MAGIC: [u8; 4] = [0x51, 0x46, 0x49, 0xfb];
/// Cluster sizes that QEMU writes: 512 bytes to 2 MiB.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// QEMU's own bound of the first table: 32 MiB.
const MOST_L1_BYTES: u64 = 32 * 1024 * 1024;
/// The part of the header with fixed fields, and its extensions, are looked for here.
const HEADER_BYTES: u64 = 64 * 1024;
const BACKING_FORMAT: u32 = 0xe279_2aca;

/// How clusters are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    Deflate,
    Zstd,
}

/// What a reader needs of the header, checked against the file's length.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    /// Virtual size, up to a whole sector.
    pub(super) size: u64,
    pub(super) l1_offset: u64,
    /// Entries of the first table that the virtual size needs.
    pub(super) l1_entries: usize,
    pub(super) compression: Compression,
    /// Name and format of the backing file.
    pub(super) backing: Option<(String, Option<String>)>,
}

pub(super) fn damaged(what: impl Into<String>) -> Error {
    Error::new(Kind::Damaged, "cannot read qcow2 metadata").because(what.into())
}

fn unsupported(what: &str, hint: &str) -> Error {
    let error = Error::new(Kind::Invalid, "cannot read qcow2 metadata").because(what.to_owned());
    if hint.is_empty() { error } else { error.hint(hint) }
}

fn be32(bytes: &[u8], at: usize) -> Result<u32> {
    let field = bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
    field.map(u32::from_be_bytes).ok_or_else(|| damaged("the header is cut short"))
}

fn be64(bytes: &[u8], at: usize) -> Result<u64> {
    Ok((u64::from(be32(bytes, at)?) << 32) | u64::from(be32(bytes, at + 4)?))
}

impl Header {
    pub(super) fn parse(storage: &dyn Storage) -> Result<Self> {
        let mut bytes = vec![0; storage.len().min(HEADER_BYTES) as usize];
        storage.read(0, &mut bytes)?;
        if bytes.get(..4) != Some(&MAGIC[..]) {
            return Err(unsupported("the file does not begin as a qcow2 file", "state the format that the file has"));
        }
        let version = be32(&bytes, 4)?;
        let (incompatible, refcount_order, length) = match version {
            2 => (0, 4, 72),
            3 => (be64(&bytes, 72)?, be32(&bytes, 96)?, be32(&bytes, 100)? as usize),
            other => return Err(unsupported(&format!("version {other} is unknown"), "")),
        };
        if be32(&bytes, 32)? != 0 {
            return Err(unsupported("the image is encrypted", "decrypt it with qemu-img convert"));
        }
        let compression = features(incompatible, &bytes, length)?;
        let cluster_bits = be32(&bytes, 20)?;
        if !CLUSTER_BITS.contains(&cluster_bits) {
            return Err(damaged(format!("the cluster size is 2^{cluster_bits}")));
        }
        if refcount_order > 6 || length < 72 || length as u64 > 1 << cluster_bits || length > bytes.len() {
            return Err(damaged("the header contradicts itself"));
        }
        let size = be64(&bytes, 24)?.checked_next_multiple_of(512).filter(|size| *size <= i64::MAX as u64);
        let size = size.ok_or_else(|| damaged("the virtual size is out of range"))?;
        let (l1_offset, l1_entries) = first_table(storage, &bytes, size, cluster_bits)?;
        let backing = backing(storage, &bytes, length, cluster_bits)?;
        Ok(Self { version, cluster_bits, size, l1_offset, l1_entries, compression, backing })
    }
}

fn features(incompatible: u64, bytes: &[u8], length: usize) -> Result<Compression> {
    const DIRTY: u64 = 1; // reference counts may be wrong: no matter to a reader
    const CORRUPT: u64 = 2;
    const DATA_FILE: u64 = 4;
    const COMPRESSION: u64 = 8;
    const EXTENDED_L2: u64 = 16;
    if incompatible & CORRUPT != 0 {
        let hint = "look at it with qemu-img check, and repair a copy of it";
        return Err(Error::new(Kind::Damaged, "cannot read qcow2 metadata")
            .because("it is marked as corrupt")
            .hint(hint));
    }
    if incompatible & DATA_FILE != 0 {
        return Err(unsupported("its data is in another file", "convert it with qemu-img convert"));
    }
    if incompatible & EXTENDED_L2 != 0 {
        return Err(unsupported("it has subclusters", "convert it with qemu-img convert -o extended_l2=off"));
    }
    let unknown = incompatible & !(DIRTY | COMPRESSION);
    if unknown != 0 {
        return Err(unsupported(&format!("it has unknown features {unknown:#x}"), "convert it with qemu-img convert"));
    }
    match if length > 104 { bytes.get(104).copied().unwrap_or(0) } else { 0 } {
        0 => Ok(Compression::Deflate),
        1 if incompatible & COMPRESSION != 0 => Ok(Compression::Zstd),
        other => Err(unsupported(&format!("its compression {other} is unknown"), "")),
    }
}

fn first_table(storage: &dyn Storage, bytes: &[u8], size: u64, cluster_bits: u32) -> Result<(u64, usize)> {
    let (entries, offset) = (u64::from(be32(bytes, 36)?), be64(bytes, 40)?);
    // an entry covers one table of cluster / 8 entries of one cluster
    let needed = size.div_ceil(1 << (2 * cluster_bits - 3));
    if needed > entries {
        return Err(damaged(format!("the first table has {entries} entries and needs {needed}")));
    }
    let len = needed * 8;
    if len > MOST_L1_BYTES {
        return Err(damaged(format!("the first table is longer than {MOST_L1_BYTES} bytes")));
    }
    if !offset.is_multiple_of(1 << cluster_bits) || offset.checked_add(len).is_none_or(|end| end > storage.len()) {
        return Err(damaged("the first table does not lie in the file"));
    }
    Ok((offset, needed as usize))
}

fn backing(
    storage: &dyn Storage,
    bytes: &[u8],
    length: usize,
    cluster_bits: u32,
) -> Result<Option<(String, Option<String>)>> {
    let (offset, len) = (be64(bytes, 8)?, be32(bytes, 16)?);
    if offset == 0 {
        return Ok(None);
    }
    let end = offset.checked_add(u64::from(len));
    if len > 1023 || end.is_none_or(|end| end > storage.len() || end > 1 << cluster_bits) {
        return Err(damaged("the name of the backing file does not lie in the header"));
    }
    let mut name = vec![0; len as usize];
    storage.read(offset, &mut name)?;
    let name = String::from_utf8(name).map_err(|_| damaged("the name of the backing file is not UTF-8"))?;
    let mut at = length;
    let mut format = None;
    while let (Ok(kind), Ok(len)) = (be32(bytes, at), be32(bytes, at + 4)) {
        let Some(end) = (at + 8).checked_add(len as usize).filter(|end| kind != 0 && *end <= bytes.len()) else {
            break;
        };
        if kind == BACKING_FORMAT {
            format = String::from_utf8(bytes[at + 8..end].to_vec()).ok();
        }
        at = end.next_multiple_of(8);
    }
    Ok(Some((name, format)))
}

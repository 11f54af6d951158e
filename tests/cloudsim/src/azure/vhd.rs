//! The fixed VHD: a disk's bytes and a footer of 512.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

pub(super) const FOOTER: u64 = 512;
const MIB: u64 = 1 << 20;

/// The disk's size for an upload of so many bytes; none if there is no such upload.
pub(super) fn size(upload: u64) -> Option<u64> {
    let bytes = upload.checked_sub(FOOTER)?;
    (bytes % MIB == 0 && (20 * MIB..=32 << 40).contains(&bytes)).then_some(bytes)
}

/// The one's complement of the sum of all bytes but its own.
fn checksum(footer: &[u8]) -> u32 {
    let others = footer.iter().enumerate().filter(|(at, _)| !(64..68).contains(at));
    !others.map(|(_, byte)| u32::from(*byte)).sum::<u32>()
}

/// The footer of a fixed disk.
pub(super) fn footer(bytes: u64) -> [u8; 512] {
    let mut out = [0; 512];
    out[..8].copy_from_slice(b"conectix");
    out[8..12].copy_from_slice(&2_u32.to_be_bytes());
    out[12..16].copy_from_slice(&0x0001_0000_u32.to_be_bytes());
    out[16..24].fill(0xff);
    out[28..32].copy_from_slice(b"sim ");
    out[40..48].copy_from_slice(&bytes.to_be_bytes());
    out[48..56].copy_from_slice(&bytes.to_be_bytes());
    out[60..64].copy_from_slice(&2_u32.to_be_bytes());
    let sum = checksum(&out);
    out[64..68].copy_from_slice(&sum.to_be_bytes());
    out
}

/// What is wrong with a file's footer, if anything.
pub(super) fn problem(path: &Path, bytes: u64) -> std::io::Result<Option<String>> {
    let mut footer = [0; 512];
    File::open(path)?.read_exact_at(&mut footer, bytes)?;
    let number = |at: usize| u64::from_be_bytes(footer[at..at + 8].try_into().unwrap_or_default());
    let word = |at: usize| u32::from_be_bytes(footer[at..at + 4].try_into().unwrap_or_default());
    Ok(if &footer[..8] != b"conectix" {
        Some("The VHD has no footer: its cookie is missing.".to_owned())
    } else if word(60) != 2 {
        Some("The VHD is not of the fixed kind.".to_owned())
    } else if number(48) != bytes {
        Some(format!("The footer says {} bytes, the disk has {bytes}.", number(48)))
    } else if word(64) != checksum(&footer) {
        Some("The footer's checksum is wrong.".to_owned())
    } else {
        None
    })
}

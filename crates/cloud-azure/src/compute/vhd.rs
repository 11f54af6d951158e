//! The fixed VHD, which is what a managed disk is uploaded as: the disk's bytes, then a footer of 512 bytes.
//!
//! Sizes are rounded up to what Azure takes, so that an invalid upload cannot be made.

/// Length of the footer.
pub(super) const FOOTER: u64 = 512;
const MIB: u64 = 1 << 20;
/// The smallest and the largest disk that can be uploaded (`uploadSizeBytes` less the footer).
const LEAST: u64 = 20 * MIB;
const MOST: u64 = 32 << 40;

/// The size of the disk that holds `bytes`: whole MiB, at least 20. None: it is too large for Azure.
pub(super) fn disk_size(bytes: u64) -> Option<u64> {
    let size = bytes.max(1).checked_next_multiple_of(MIB)?.max(LEAST);
    (size <= MOST).then_some(size)
}

/// The footer of a fixed disk of `size` bytes. Its time and id are fixed, so that the same disk is the same file.
pub(super) fn footer(size: u64) -> [u8; FOOTER as usize] {
    let mut out = [0; FOOTER as usize];
    out[..8].copy_from_slice(b"conectix");
    // features: the reserved bit is always set
    out[8..12].copy_from_slice(&2_u32.to_be_bytes());
    out[12..16].copy_from_slice(&0x0001_0000_u32.to_be_bytes());
    // no dynamic header follows
    out[16..24].fill(0xff);
    out[28..32].copy_from_slice(b"rpl ");
    out[32..36].copy_from_slice(&0x0001_0000_u32.to_be_bytes());
    out[36..40].copy_from_slice(b"Wi2k");
    out[40..48].copy_from_slice(&size.to_be_bytes());
    out[48..56].copy_from_slice(&size.to_be_bytes());
    out[56..60].copy_from_slice(&geometry(size / 512));
    // fixed
    out[60..64].copy_from_slice(&2_u32.to_be_bytes());
    let id = blake3::hash(&size.to_be_bytes());
    out[68..84].copy_from_slice(&id.as_bytes()[..16]);
    let sum: u32 = out.iter().map(|byte| u32::from(*byte)).sum();
    out[64..68].copy_from_slice(&(!sum).to_be_bytes());
    out
}

/// Cylinders, heads and sectors, as the VHD specification computes them.
fn geometry(sectors: u64) -> [u8; 4] {
    let sectors = sectors.min(65535 * 16 * 255);
    let (mut per_track, mut heads, mut tracks);
    if sectors >= 65535 * 16 * 63 {
        (per_track, heads, tracks) = (255, 16, sectors / 255);
    } else {
        (per_track, tracks) = (17, sectors / 17);
        heads = tracks.div_ceil(1024).max(4);
        if tracks >= heads * 1024 || heads > 16 {
            (per_track, heads, tracks) = (31, 16, sectors / 31);
        }
        if tracks >= heads * 1024 {
            (per_track, heads, tracks) = (63, 16, sectors / 63);
        }
    }
    let cylinders = (tracks / heads) as u16;
    let [high, low] = cylinders.to_be_bytes();
    [high, low, heads as u8, per_track as u8]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_becomes_one_that_azure_takes() {
        assert_eq!(disk_size(1), Some(20 * MIB));
        assert_eq!(disk_size(20 * MIB + 512), Some(21 * MIB));
        assert_eq!(disk_size(32 << 40), Some(32 << 40));
        assert_eq!(disk_size((32 << 40) + 512), None);
        assert_eq!(disk_size(u64::MAX), None);
    }

    #[test]
    fn the_footer_checks_itself() {
        let footer = footer(127 << 20);
        let others = footer.iter().enumerate().filter(|(at, _)| !(64..68).contains(at));
        let sum: u32 = others.map(|(_, byte)| u32::from(*byte)).sum();
        assert_eq!(footer[64..68], (!sum).to_be_bytes());
        assert_eq!(&footer[..8], b"conectix");
    }

    #[test]
    fn the_geometry_is_that_of_the_specification() {
        // 1 GiB, as qemu-img writes it
        assert_eq!(geometry((1 << 30) / 512), [0x08, 0x20, 16, 63]);
        assert_eq!(geometry(u64::MAX), [0xff, 0xff, 16, 255]);
    }
}

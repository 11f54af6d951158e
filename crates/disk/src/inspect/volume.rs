//! What a volume holds, by its signature.

use super::Volume;
use super::table::{guid, le32, le64};
use super::window::Window;

/// Notes what the volume holds.
pub(super) fn recognise(window: &Window, volume: &mut Volume) {
    let head = window.bytes(0, 4096).or_else(|| window.bytes(0, 512)).unwrap_or_default();
    let is = |at: usize, magic: &[u8]| head.get(at..at + magic.len()) == Some(magic);
    let mut note = |content: &str, label: Option<String>, uuid: Option<String>| {
        volume.content = Some(content.to_owned());
        volume.label = label.filter(|label| !label.is_empty());
        volume.uuid = uuid;
    };
    if is(1080, &[0x53, 0xef]) {
        let (compatible, incompatible) = (le32(&head, 1116).unwrap_or(0), le32(&head, 1120).unwrap_or(0));
        // extents, 64-bit blocks or flexible groups make ext4; a journal makes ext3
        let kind = match (incompatible & 0x02c0, compatible & 4) {
            (0, 0) => "ext2",
            (0, _) => "ext3",
            _ => "ext4",
        };
        note(kind, text(&head, 1144, 16), uuid(&head, 1128));
    } else if is(0, b"XFSB") {
        note("xfs", text(&head, 108, 12), uuid(&head, 32));
    } else if is(0, b"LUKS\xba\xbe") {
        note("luks", None, None);
    } else if is(512, b"LABELONE") || is(0, b"LABELONE") {
        note("lvm", None, None);
    } else if is(3, b"NTFS    ") {
        note("ntfs", None, le64(&head, 72).map(|serial| format!("{serial:016X}")));
    } else if is(3, b"EXFAT   ") {
        note("exfat", None, None);
    } else if is(82, b"FAT32   ") {
        note("vfat", text(&head, 71, 11), le32(&head, 67).map(serial));
    } else if is(54, b"FAT16   ") || is(54, b"FAT12   ") {
        note("vfat", text(&head, 43, 11), le32(&head, 39).map(serial));
    } else if is(4086, b"SWAPSPACE2") {
        note("swap", text(&head, 1052, 16), uuid(&head, 1036));
    } else if let Some(deep) = window.bytes(65_536, 1024).filter(|deep| deep.get(64..72) == Some(b"_BHRfS_M")) {
        note("btrfs", text(&deep, 299, 256), uuid(&deep, 32));
    } else if window.bytes(4096, 4).is_some_and(|magic| le32(&magic, 0) == Some(0xa92b_4efc)) {
        note("raid", None, None);
    } else if window.bytes(32_769, 5).is_some_and(|magic| magic == b"CD001") {
        note("iso9660", None, None);
    }
}

/// A label: up to the first zero, without what a terminal would act on.
fn text(bytes: &[u8], at: usize, len: usize) -> Option<String> {
    let field = bytes.get(at..at + len)?;
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(len);
    let text = String::from_utf8_lossy(&field[..end]).trim().to_owned();
    Some(super::system::plain(&text)).filter(|text| text != "NO NAME")
}

fn uuid(bytes: &[u8], at: usize) -> Option<String> {
    let raw: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
    // file systems write it in the order of its digits, GPT does not
    let [a, b, c, d, e, f, g, h, rest @ ..] = raw;
    let mut turned = vec![d, c, b, a, f, e, h, g];
    turned.extend(rest);
    Some(guid(&turned)).filter(|_| raw != [0; 16])
}

fn serial(number: u32) -> String {
    format!("{:04X}-{:04X}", number >> 16, number & 0xffff)
}

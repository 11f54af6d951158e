//! Partition tables: GPT (the second copy if the first is damaged) and MBR with its logical partitions.

use super::window::Window;
use super::{Inspection, Volume};

const SECTOR: u64 = 512;
/// Partitions that are listed, at most: tables may claim millions.
const MOST: u32 = 256;

/// What GPT's types are for.
const PURPOSES: [(&str, &str); 12] = [
    ("c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "efi system"),
    ("21686148-6449-6e6f-744e-656564454649", "bios boot"),
    ("0fc63daf-8483-4772-8e79-3d69d8477de4", "linux"),
    ("4f68bce3-e8cd-4db1-96e7-fbcaf984b709", "linux root (x86-64)"),
    ("bc13c2ff-59e6-4262-a352-b275fd6f7172", "linux boot"),
    ("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f", "linux swap"),
    ("933ac7e1-2eb4-4f13-b844-0e14e2aef915", "linux home"),
    ("e6d6d379-f507-44c2-a23c-238f2a3df928", "linux lvm"),
    ("a19d880f-05fc-4d3b-a006-743f0f84911e", "linux raid"),
    ("ebd0a0a2-b9e5-4433-87c0-68b6b72699c7", "windows data"),
    ("e3c9e316-0b5c-4db8-817d-f92df00215ae", "windows reserved"),
    ("de94bba4-06d1-4d40-a16a-bfd50179d6ac", "windows recovery"),
];

pub(super) fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(super) fn le64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Reads the table; a disk without one is a single volume.
pub(super) fn read(window: &Window, found: &mut Inspection) {
    let first = window.bytes(0, SECTOR as usize).unwrap_or_default();
    let signed = first.get(510..512) == Some(&[0x55, 0xaa]);
    // the code of an MBR that only protects a GPT is empty
    found.boot_sector = signed && first.get(..440).is_some_and(|code| code.iter().any(|byte| *byte != 0));
    let last = (window.len() / SECTOR).saturating_sub(1);
    let gpt = gpt(window, 1).or_else(|| {
        let copy = gpt(window, last)?;
        found.unknown.push("the first partition table is damaged; its copy at the end of the disk was read".to_owned());
        Some(copy)
    });
    if let Some(volumes) = gpt {
        (found.table, found.volumes) = (Some("gpt".to_owned()), volumes);
        return;
    }
    // a file system without a table has a boot sector of the same signature
    let whole = Volume {
        number: 0,
        offset: 0,
        len: window.len(),
        purpose: "whole disk".to_owned(),
        content: None,
        label: None,
        uuid: None,
    };
    let mut probe = whole.clone();
    super::volume::recognise(window, &mut probe);
    let volumes = if signed && probe.content.is_none() { mbr(window, &first) } else { Vec::new() };
    if volumes.is_empty() {
        found.boot_sector &= probe.content.is_none();
        found.volumes = vec![whole];
    } else {
        (found.table, found.volumes) = (Some("mbr".to_owned()), volumes);
    }
}

fn volume(number: u32, sector: u64, sectors: u64, purpose: String, window: &Window) -> Option<Volume> {
    let (offset, len) = (sector.checked_mul(SECTOR)?, sectors.checked_mul(SECTOR)?);
    let fits = len > 0 && offset.checked_add(len)? <= window.len();
    fits.then_some(Volume { number, offset, len, purpose, content: None, label: None, uuid: None })
}

fn gpt(window: &Window, sector: u64) -> Option<Vec<Volume>> {
    let head = window.bytes(sector.checked_mul(SECTOR)?, SECTOR as usize)?;
    if !head.starts_with(b"EFI PART") {
        return None;
    }
    let len = le32(&head, 12)? as usize;
    let mut summed = head.get(..len.clamp(92, 512))?.to_vec();
    summed[16..20].fill(0);
    if crc(&summed) != le32(&head, 16)? {
        return None;
    }
    let (entries, count, size) = (le64(&head, 72)?, le32(&head, 80)?, u64::from(le32(&head, 84)?));
    if !(128..=4096).contains(&size) {
        return None;
    }
    let mut volumes = Vec::new();
    for index in 0..count.min(MOST) {
        let at = entries.checked_mul(SECTOR)?.checked_add(u64::from(index) * size)?;
        let entry = window.bytes(at, 128)?;
        let kind = guid(entry.get(..16)?);
        if entry[..16].iter().all(|byte| *byte == 0) {
            continue;
        }
        let (first, last) = (le64(&entry, 32)?, le64(&entry, 40)?);
        let sectors = last.checked_sub(first).and_then(|sectors| sectors.checked_add(1)).unwrap_or(0);
        let known = PURPOSES.iter().find(|(id, _)| *id == kind).map(|(_, purpose)| (*purpose).to_owned());
        volumes.extend(volume(index + 1, first, sectors, known.unwrap_or(kind), window));
    }
    Some(volumes)
}

/// A GUID as people write it: its first three fields are little endian.
pub(super) fn guid(bytes: &[u8]) -> String {
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let mut text = String::new();
    for (nth, at) in order.into_iter().enumerate() {
        if [4, 6, 8, 10].contains(&nth) {
            text.push('-');
        }
        text += &format!("{:02x}", bytes.get(at).copied().unwrap_or_default());
    }
    text
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

fn mbr(window: &Window, first: &[u8]) -> Vec<Volume> {
    let mut volumes = Vec::new();
    let entry = |sector: &[u8], index: usize| -> Option<(u8, u64, u64)> {
        let entry = sector.get(446 + index * 16..462 + index * 16)?;
        Some((entry[4], u64::from(le32(entry, 8)?), u64::from(le32(entry, 12)?)))
    };
    for index in 0..4 {
        let Some((kind, start, sectors)) = entry(first, index) else { continue };
        match kind {
            0 | 0xee => {}
            0x05 | 0x0f | 0x85 => logical(window, start, &entry, &mut volumes),
            _ => volumes.extend(volume(index as u32 + 1, start, sectors, purpose(kind), window)),
        }
    }
    volumes.sort_by_key(|volume| volume.number);
    volumes
}

/// Logical partitions are a chain of tables, which may be a circle.
fn logical(
    window: &Window,
    extended: u64,
    entry: &impl Fn(&[u8], usize) -> Option<(u8, u64, u64)>,
    volumes: &mut Vec<Volume>,
) {
    let mut at = extended;
    for number in 5..MOST {
        let Some(table) = at.checked_mul(SECTOR).and_then(|at| window.bytes(at, SECTOR as usize)) else { return };
        if table.get(510..512) != Some(&[0x55, 0xaa]) {
            return;
        }
        if let Some((kind, start, sectors)) = entry(&table, 0).filter(|(kind, ..)| *kind != 0) {
            volumes.extend(volume(number, at + start, sectors, purpose(kind), window));
        }
        match entry(&table, 1) {
            Some((kind, next, _)) if kind != 0 && next != 0 => at = extended + next,
            _ => return,
        }
    }
}

fn purpose(kind: u8) -> String {
    let known = match kind {
        0x07 => "windows data",
        0x0b | 0x0c => "fat32",
        0x27 => "windows recovery",
        0x82 => "linux swap",
        0x83 => "linux",
        0x8e => "linux lvm",
        0xef => "efi system",
        0xfd => "linux raid",
        _ => return format!("type {kind:#04x}"),
    };
    known.to_owned()
}

//! Parsers against what they must never trust. A real guest is looked into by the tests of the workspace.

use async_trait::async_trait;
use bytes::Bytes;
use model::{Extent, ExtentList};
use proptest::prelude::*;

use super::*;

struct Memory(Vec<u8>);

#[async_trait]
impl DiskRead for Memory {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }
    async fn extents(&self, from: u64) -> Result<ExtentList> {
        Ok(std::iter::once(Extent::data(from, self.size() - from)).filter(|extent| extent.len > 0).collect())
    }
    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        Ok(Bytes::copy_from_slice(&self.0[offset as usize..offset as usize + len]))
    }
    fn describe(&self) -> String {
        "the model".into()
    }
}

fn look(bytes: Vec<u8>) -> Inspection {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(inspect(Arc::new(Memory(bytes)))).unwrap()
}

/// A disk with an MBR of these entries: kind, first sector, sectors.
fn mbr(sectors: usize, entries: &[(u8, u32, u32)]) -> Vec<u8> {
    let mut bytes = vec![0; sectors * 512];
    for (index, (kind, start, len)) in entries.iter().enumerate() {
        let at = 446 + index * 16;
        bytes[at + 4] = *kind;
        bytes[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
        bytes[at + 12..at + 16].copy_from_slice(&len.to_le_bytes());
    }
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    bytes
}

#[test]
fn partitions_of_an_mbr_with_a_logical_one_and_a_circle() {
    let mut bytes = mbr(4096, &[(0x83, 64, 1000), (0x05, 2048, 2000), (0x82, 9999, 1)]);
    let inner = mbr(1, &[(0x82, 8, 100), (0x05, 0, 2000)]);
    bytes[2048 * 512..2049 * 512].copy_from_slice(&inner);
    // the second link of the chain names itself
    let link = 2048 * 512 + 446 + 16;
    bytes[link + 8..link + 12].copy_from_slice(&16u32.to_le_bytes());
    let next = (2048 + 16) * 512;
    bytes[next..next + 512].copy_from_slice(&mbr(1, &[(0x83, 1, 4), (0x05, 16, 100)]));
    bytes[1024 + 64 * 512 - 1024 + 1080..][..2].copy_from_slice(&[0x53, 0xef]);
    bytes[(2056 * 512) + 4086..][..10].copy_from_slice(b"SWAPSPACE2");
    let found = look(bytes);
    assert_eq!(found.table.as_deref(), Some("mbr"));
    assert!(!found.boot_sector, "no code, no boot loader");
    let first: Vec<_> =
        found.volumes.iter().take(2).map(|v| (v.number, v.purpose.as_str(), v.content.as_deref())).collect();
    assert_eq!(first, [(1, "linux", Some("ext2")), (5, "linux swap", Some("swap"))]);
    assert!(found.volumes.len() < 300, "a circle ends");
    assert!(found.volumes.iter().all(|volume| volume.number != 3), "what lies behind the end is no partition");
    assert!(found.unknown.iter().any(|note| note.contains("partition 1")), "{:?}", found.unknown);
}

#[test]
fn a_file_system_without_a_table_is_one_volume() {
    let mut bytes = vec![0; 1 << 20];
    bytes[..4].copy_from_slice(b"XFSB");
    bytes[108..113].copy_from_slice(b"da\x1bta");
    let found = look(bytes);
    assert_eq!(found.table, None);
    let volume = &found.volumes[0];
    assert_eq!((volume.number, volume.content.as_deref(), volume.label.as_deref()), (0, Some("xfs"), Some("da?ta")));
}

fn entry(name: &str, size: usize) -> Vec<u8> {
    let mut fields = [0; 13];
    (fields[6], fields[11]) = (size, name.len() + 1);
    let mut bytes = format!("070701{}", fields.map(|field| format!("{field:08X}")).concat()).into_bytes();
    bytes.extend(name.as_bytes());
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.resize((bytes.len() + size).next_multiple_of(4), 7);
    bytes
}

fn initramfs(compress: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let microcode = [entry("kernel/x86/microcode/GenuineIntel.bin", 700), entry("TRAILER!!!", 0)].concat();
    let mut bytes = microcode;
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    let rest = [
        entry("lib/modules/6.1/kernel/drivers/block/virtio_blk.ko", 1000),
        entry("lib/modules/6.1/kernel/drivers/block/xen-blkfront.ko.xz", 10),
        entry("etc/hosts", 3),
        entry("TRAILER!!!", 0),
    ];
    bytes.extend(compress(&rest.concat()));
    bytes
}

#[test]
fn modules_of_every_kind_of_initramfs() {
    use std::io::Write;
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    for bytes in [initramfs(<[u8]>::to_vec), initramfs(gzip), initramfs(|bytes| zstd::encode_all(bytes, 1).unwrap())] {
        let (names, note) = initramfs::modules(bytes.as_slice());
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["virtio_blk", "xen_blkfront"]);
        assert_eq!(note, None);
        let (_, note) = initramfs::modules(&bytes[..bytes.len() - 20]);
        assert!(note.is_some(), "what is cut short is said");
    }
    let (_, note) = initramfs::modules(&b"\xfd7zXZ and so on"[..]);
    assert!(note.unwrap().contains("xz"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_bytes_make_it_fall(
        mut bytes in prop::collection::vec(any::<u8>(), 512..5000), kind in 0usize..8, more in 0usize..70_000,
    ) {
        let magics: [(usize, &[u8]); 8] = [
            (510, &[0x55, 0xaa]), (512, b"EFI PART"), (1080, &[0x53, 0xef]), (0, b"XFSB"), (3, b"NTFS    "),
            (82, b"FAT32   "), (54, b"FAT16   "), (0, b"LUKS\xba\xbe"),
        ];
        let (at, magic) = magics[kind];
        bytes.resize((bytes.len().max(at + magic.len()) + more).next_multiple_of(512), 0);
        bytes[at..at + magic.len()].copy_from_slice(magic);
        look(bytes);
    }

    #[test]
    fn no_initramfs_makes_it_fall(at in any::<prop::sample::Index>(), byte: u8, cut in any::<prop::sample::Index>()) {
        let mut bytes = initramfs(|bytes| zstd::encode_all(bytes, 1).unwrap());
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let len = cut.index(bytes.len()).max(1);
        initramfs::modules(&bytes[..len]);
    }
}

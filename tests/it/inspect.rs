//! Looking into the disk of the real guest, whole and damaged.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use disk::{DiskRead, Format, open_file};
use model::{ExtentList, Result};
use tests::guest::guest;

/// The guest's disk with other bytes here and there.
struct Damaged {
    disk: Box<dyn DiskRead>,
    at: Vec<(u64, u8)>,
}

#[async_trait]
impl DiskRead for Damaged {
    fn size(&self) -> u64 {
        self.disk.size()
    }
    async fn extents(&self, from: u64) -> Result<ExtentList> {
        self.disk.extents(from).await
    }
    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let mut bytes = self.disk.read_at(offset, len).await?.to_vec();
        for (at, byte) in self.at.iter().filter(|(at, _)| (offset..offset + len as u64).contains(at)) {
            bytes[(at - offset) as usize] ^= byte;
        }
        Ok(bytes.into())
    }
    fn describe(&self) -> String {
        "a damaged disk".to_owned()
    }
}

#[tokio::test]
async fn the_guests_disk_is_understood_in_both_formats() {
    let Some(guest) = guest() else { return };
    let mut seen = Vec::new();
    for (path, format) in [(&guest.raw, Format::Raw), (&guest.qcow2, Format::Qcow2)] {
        let disk = open_file(path, format).await.expect("disk");
        let found = disk::inspect(disk.into()).await.expect("inspection");
        assert_eq!((found.table.as_deref(), found.firmware()), (Some("gpt"), vec!["bios", "uefi"]));
        let volumes: Vec<_> = found.volumes.iter().map(|v| (v.purpose.as_str(), v.content.as_deref())).collect();
        assert_eq!(volumes[..2], [("bios boot", None), ("efi system", Some("vfat"))]);
        assert_eq!(volumes[2].1, Some("ext4"));
        assert_eq!(found.volumes[2].uuid.as_deref(), Some("5eed0fda-7a00-4000-8000-7e57ab1e5e7f"));
        assert!(found.efi_programs.iter().any(|path| path.eq_ignore_ascii_case("/EFI/BOOT/BOOTX64.EFI")));
        let system = &found.systems[0];
        assert_eq!((system.name.as_str(), system.hostname.as_deref()), ("replicate test guest", Some("tiny")));
        let kernel = &system.kernels[0];
        for kind in ["virtio-blk", "virtio-scsi", "nvme"] {
            assert_ne!(kernel.drivers[kind], "missing", "{kernel:?}");
        }
        // the kernel of clouds has none: the trap of a server that is moved to SATA
        assert_eq!(kernel.drivers["sata"], "missing", "{kernel:?}");
        assert!(found.unknown.is_empty(), "{:?}", found.unknown);
        seen.push(found);
    }
    assert_eq!(seen[0], seen[1]);
}

#[tokio::test]
async fn a_damaged_disk_gives_an_answer_of_some_kind() {
    let Some(guest) = guest() else { return };
    let mut state = 7_u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 20
    };
    for _ in 0..60 {
        let disk = open_file(&guest.raw, Format::Raw).await.expect("disk");
        // tables, the EFI partition's FAT, the superblock and the group tables: where parsers look
        let places = [(0, 34 * 512), (2 << 20, 64 << 10), (18 << 20, 8 << 10), (18 << 20, 4 << 20)];
        let at = (0..24).map(|nth| {
            let (from, len) = places[nth % places.len()];
            (from + random() % len, random() as u8 | 1)
        });
        let damaged = Damaged { disk, at: at.collect() };
        let at = damaged.at.clone();
        disk::inspect(Arc::new(damaged)).await.unwrap_or_else(|error| panic!("{}: {at:?}", error.chain()));
    }
}

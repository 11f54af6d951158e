//! Disks written onto block devices: loop devices with sectors of 512 and of 4096 bytes, over what was there before.

use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use disk::{Format, Silent, create_file, open_file, transfer};
use model::Kind;
use tests::guest::skip;

const MIB: u64 = 1 << 20;

/// A loop device, which goes with it.
struct Loop(PathBuf);

impl Loop {
    /// Over a file of noise.
    fn new(folder: &Path, sector: u32, len: u64) -> Option<Self> {
        let file = folder.join(format!("device-{sector}"));
        std::fs::write(&file, vec![0xa5; len as usize]).unwrap();
        let sector = sector.to_string();
        let made = Command::new("losetup").args(["--find", "--show", "--sector-size", &sector]).arg(&file).output();
        match made {
            Ok(made) if made.status.success() => Some(Self(String::from_utf8(made.stdout).unwrap().trim().into())),
            Ok(made) => skip(&format!("no loop device: {}", String::from_utf8_lossy(&made.stderr).trim())),
            Err(error) => skip(&format!("losetup cannot be run: {error}")),
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

/// Data, holes, and an end within a large sector.
fn sample(folder: &Path) -> (PathBuf, u64) {
    let (path, size) = (folder.join("disk.raw"), 9 * MIB + 3 * 512);
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(size).unwrap();
    for (at, len) in [(0, 3 * MIB), (4 * MIB + 65536, 65536), (9 * MIB - 65536, 65536 + 3 * 512)] {
        let bytes: Vec<u8> = (at..at + len).map(|n| (n % 251) as u8 | 1).collect();
        file.write_all_at(&bytes, at).unwrap();
    }
    (path, size)
}

#[tokio::test]
async fn a_disk_is_written_onto_a_device_whatever_its_sectors_are() {
    let folder = tempfile::tempdir().unwrap();
    let (path, size) = sample(folder.path());
    let reader = open_file(&path, Format::Raw).await.unwrap();
    for sector in [512, 4096] {
        let Some(device) = Loop::new(folder.path(), sector, 12 * MIB) else { return };
        let writer = create_file(&device.0, Format::Raw, size, None).await.unwrap();
        transfer(reader.as_ref(), vec![writer], &Silent).await.unwrap().remove(0).unwrap();
        let (mut there, mut behind) = (vec![0; size as usize], Vec::new());
        let mut opened = std::fs::File::open(&device.0).unwrap();
        opened.read_exact(&mut there).unwrap();
        opened.read_to_end(&mut behind).unwrap();
        assert!(there == std::fs::read(&path).unwrap(), "sectors of {sector}");
        assert!(behind.iter().all(|byte| *byte == 0xa5), "what lies behind the disk is not its own");
        let refused = create_file(&device.0, Format::Raw, 13 * MIB, None).await.map(|_| ()).unwrap_err();
        assert_eq!(refused.kind(), Kind::Quota);
    }
}

//! Increments of disk files on a file system that shares bytes between files: what did not change is neither read nor stored again.

use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use disk::{Base, Format, LEAF, Silent, check_written, create_recorded, open_file};
use tests::guest::skip;

/// An XFS in a file, mounted while this lives.
struct Mount {
    folder: tempfile::TempDir,
}

impl Mount {
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().expect("folder");
        let (image, at) = (folder.path().join("xfs"), folder.path().join("at"));
        std::fs::File::create(&image).and_then(|file| file.set_len(512 << 20)).expect("image");
        std::fs::create_dir(&at).expect("folder");
        let run = |program: &str, arguments: &[&Path]| {
            let output = Command::new(program).args(arguments).output();
            output.is_ok_and(|output| output.status.success())
        };
        if !run("/usr/sbin/mkfs.xfs", &[Path::new("-q"), &image]) {
            return skip("no XFS can be made here (package xfsprogs)");
        }
        if !run("mount", &[Path::new("-o"), Path::new("loop"), &image, &at]) {
            return skip("no XFS can be mounted here (it takes root and a kernel that has it)");
        }
        Some(Self { folder })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("at").join(name)
    }

    /// Bytes that are free.
    fn free(&self) -> u64 {
        let output = Command::new("stat").args(["-f", "-c", "%a %S"]).arg(self.path("")).output().expect("stat");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.split_whitespace().map(|word| word.parse::<u64>().expect("number")).product()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.folder.path().join("at")).status();
    }
}

#[tokio::test]
async fn an_increment_stores_and_reads_back_what_changed() {
    let Some(mount) = Mount::new() else { return };
    let size: u64 = 96 << 20;
    for format in [Format::Raw, Format::Qcow2] {
        let mut bytes: Vec<u8> =
            (0..size / 8).flat_map(|word| (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1).to_le_bytes()).collect();
        bytes[20 << 20..28 << 20].fill(0);
        let (first, second) = (mount.path(&format!("a.{format}")), mount.path(&format!("b.{format}")));
        let mut writer = create_recorded(&first, format, size, None).await.expect("first");
        for (index, chunk) in bytes.chunks(1 << 20).enumerate().filter(|(index, _)| !(20..28).contains(index)) {
            writer.write((index as u64) << 20, Bytes::copy_from_slice(chunk)).await.expect("write");
        }
        let root = writer.finish().await.expect("finish").root;
        let free = mount.free();
        let base = Base::open(&first, format, &root).await.expect("base");
        let mut writer = create_recorded(&second, format, size, Some(base)).await.expect("second");
        // one percent, here and there
        let changed: Vec<u64> = (0..15).map(|nth| nth * 97 * LEAF).collect();
        for offset in &changed {
            bytes[*offset as usize + 1000] ^= 0xff;
            let leaf = Bytes::copy_from_slice(&bytes[*offset as usize..(*offset + LEAF) as usize]);
            writer.write(*offset, leaf).await.expect("write");
        }
        let written = writer.finish().await.expect("finish");
        let taken = free.saturating_sub(mount.free());
        let moved = changed.len() as u64 * LEAF;
        assert!(taken < 3 * moved + (1 << 20), "{format}: {taken} bytes were taken for {moved}");
        assert!(written.stored < 3 * moved + (1 << 20), "{format}: told {} bytes for {moved}", written.stored);
        let checked = check_written(&second, format, &written.root, &Silent).await.expect("check");
        assert_eq!(checked, Some(moved), "{format}: only what was stored is read back");
        let made = open_file(&second, format).await.expect("open");
        for (index, chunk) in bytes.chunks(8 << 20).enumerate() {
            let at = (index as u64) << 23;
            assert!(made.read_at(at, chunk.len()).await.expect("read") == chunk, "{format}: other bytes from {at}");
        }
        std::fs::remove_file(&first).expect("remove");
        std::fs::remove_file(&second).expect("remove");
    }
}

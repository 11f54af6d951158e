//! Disk files against a model of the disk, without other tools.

use bytes::Bytes;
use model::{Change, DiskRoot, Kind};
use proptest::prelude::*;

use super::*;
use crate::{LEAF, RootBuilder, Silent, Written, leaf, transfer};

pub(super) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap().block_on(future)
}

pub(super) fn root_of(bytes: &[u8]) -> DiskRoot {
    let mut builder = RootBuilder::new(bytes.len() as u64);
    for (index, chunk) in bytes.chunks(LEAF as usize).enumerate() {
        builder.push(index as u64, leaf(chunk));
    }
    builder.finish()
}

/// Writes the leaves of `bytes` that `pick` chooses; `None` is left to the base.
async fn write(
    path: &Path,
    format: Format,
    bytes: &[u8],
    base: Option<Box<dyn DiskRead>>,
    pick: impl Fn(usize) -> bool,
) -> Result<Written> {
    let mut writer = create_file(path, format, bytes.len() as u64, base).await?;
    for (index, leaf) in bytes.chunks(LEAF as usize).enumerate() {
        let offset = index as u64 * LEAF;
        if !pick(index) {
            continue;
        }
        if crate::is_zero(leaf) {
            writer.zero(offset, leaf.len() as u64).await?;
        } else {
            writer.write(offset, Bytes::copy_from_slice(leaf)).await?;
        }
    }
    writer.finish().await
}

pub(super) async fn read(disk: &dyn DiskRead) -> Vec<u8> {
    let mut bytes = vec![0xee; disk.size() as usize];
    let mut at = 0;
    while at < disk.size() {
        let list = disk.extents(at).await.unwrap();
        for extent in list.as_slice() {
            assert_eq!(extent.offset, at, "a full reader lists every byte");
            let target = &mut bytes[extent.offset as usize..extent.end() as usize];
            match extent.change {
                Change::Data => {
                    target.copy_from_slice(&disk.read_at(extent.offset, extent.len as usize).await.unwrap())
                }
                Change::Zero => target.fill(0),
            }
            at = extent.end();
        }
    }
    // what is listed as zero also reads as zero
    assert!(disk.read_at(0, bytes.len()).await.unwrap() == bytes);
    bytes
}

pub(super) fn content(leaves: &[u8], tail: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = leaves.iter().flat_map(|value| [*value; LEAF as usize]).collect();
    bytes.resize(bytes.len() + tail * 512, 7);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn what_is_written_is_read_in_every_format(
        old in prop::collection::vec(0u8..3, 1..40), new in prop::collection::vec(0u8..3, 1..40),
        tails: (u8, u8), picks: u64, formats: (bool, bool),
    ) {
        let format = |qcow2| if qcow2 { Format::Qcow2 } else { Format::Raw };
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("a"), folder.path().join("b"));
        let (old, new) = (content(&old, tails.0 as usize % 128), content(&new, tails.1 as usize % 128));
        block_on(async {
            let written = write(&first, format(formats.0), &old, None, |_| true).await.unwrap();
            assert_eq!(written.root, root_of(&old));
            let base = open_file(&first, format(formats.0)).await.unwrap();
            assert!(read(base.as_ref()).await == old);
            let pick = |index: usize| picks & (1 << (index % 64)) != 0;
            let written = write(&second, format(formats.1), &new, Some(base), pick).await.unwrap();
            let mut wanted = old.clone();
            wanted.resize(new.len(), 0);
            for (index, chunk) in new.chunks(LEAF as usize).enumerate().filter(|(index, _)| pick(*index)) {
                let from = index * LEAF as usize;
                wanted[from..from + chunk.len()].copy_from_slice(chunk);
            }
            let made = open_file(&second, format(formats.1)).await.unwrap();
            assert!(read(made.as_ref()).await == wanted);
            assert_eq!(written.root, root_of(&wanted));
        });
        prop_assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "no partial file is left");
    }
}

#[test]
fn one_transfer_fills_files_of_both_formats_with_one_root() {
    use std::os::unix::fs::MetadataExt;
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    let file = std::fs::File::create(&source).unwrap();
    let size = 1_100_000_256u64; // two tables of qcow2; not a whole sector
    file.set_len(size).unwrap();
    for at in [0, 512 << 20, (512 << 20) - 700_000, 1_099_000_000] {
        std::os::unix::fs::FileExt::write_all_at(&file, &[at as u8 | 1; 1_000_000], at).unwrap();
    }
    block_on(async {
        let reader = open_file(&source, Format::Raw).await.unwrap();
        assert_eq!(reader.size(), size.next_multiple_of(512));
        let (raw, qcow2) = (folder.path().join("raw"), folder.path().join("qcow2"));
        let writers = vec![
            create_file(&raw, Format::Raw, reader.size(), None).await.unwrap(),
            create_file(&qcow2, Format::Qcow2, reader.size(), None).await.unwrap(),
        ];
        let written = transfer(reader.as_ref(), writers, &Silent).await.unwrap();
        let roots: Vec<_> = written.into_iter().map(|slot| slot.unwrap().root).collect();
        assert_eq!(roots[0], roots[1]);
        for (path, format) in [(&raw, Format::Raw), (&qcow2, Format::Qcow2)] {
            assert!(std::fs::metadata(path).unwrap().blocks() * 512 < 6_000_000, "sparse");
            let disk = open_file(path, format).await.unwrap();
            for at in [0, (512 << 20) - 1024 * 1024, 1_098_907_648, size.next_multiple_of(512) - 512 * 99] {
                let len = (disk.size() - at).min(2 << 20) as usize;
                assert!(disk.read_at(at, len).await.unwrap() == reader.read_at(at, len).await.unwrap());
            }
        }
    });
}

#[test]
fn an_unfinished_or_taken_name_is_never_a_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    block_on(async {
        let mut writer = create_file(&path, Format::Qcow2, 1 << 20, None).await.unwrap();
        writer.write(0, Bytes::from(vec![1; LEAF as usize])).await.unwrap();
        assert!(!path.exists());
        // a second writer of the name is told so while the first lives
        let error = create_file(&path, Format::Raw, 1 << 20, None).await.err().unwrap();
        assert_eq!(error.kind(), Kind::Exists);
        drop(writer);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        // what a crash left is taken over
        std::fs::write(folder.path().join("disk.partial"), [9; 300_000]).unwrap();
        let written = write(&path, Format::Raw, &[0; 4096], None, |_| true).await.unwrap();
        assert_eq!(written.root, root_of(&[0; 4096]));
        assert_eq!(std::fs::read(&path).unwrap(), [0; 4096]);
        assert_eq!(create_file(&path, Format::Raw, 4096, None).await.err().unwrap().kind(), Kind::Exists);
        // taken while it was written
        let other = folder.path().join("other");
        let writer = create_file(&other, Format::Raw, 4096, None).await.unwrap();
        std::fs::write(&other, "mine").unwrap();
        assert_eq!(writer.finish().await.unwrap_err().kind(), Kind::Exists);
        assert_eq!(std::fs::read(&other).unwrap(), b"mine");
    });
}

#[test]
fn a_writer_refuses_what_is_out_of_order() {
    let folder = tempfile::tempdir().unwrap();
    block_on(async {
        for (offset, len) in [(0, LEAF), (3 * LEAF, 2 * LEAF), (LEAF + 512, 512), (2 * LEAF, 512), (u64::MAX, LEAF)] {
            let mut writer = create_file(folder.path().join("disk"), Format::Raw, 4 * LEAF, None).await.unwrap();
            writer.zero(0, LEAF).await.unwrap();
            let outcome = writer.write(offset, Bytes::from(vec![1; len as usize])).await;
            assert_eq!(outcome.unwrap_err().kind(), Kind::Invalid, "{offset} {len}");
        }
        for size in [0, 511, u64::MAX - 511] {
            let outcome = create_file(folder.path().join("disk"), Format::Qcow2, size, None).await;
            assert_eq!(outcome.err().unwrap().kind(), Kind::Invalid);
        }
    });
}

#[test]
fn the_format_is_the_one_stated() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    block_on(async {
        write(&path("qcow2"), Format::Qcow2, &[1; 4096], None, |_| true).await.unwrap();
        write(&path("raw"), Format::Raw, &[1; 4096], None, |_| true).await.unwrap();
        std::fs::write(path("vmdk"), b"KDMV and so on").unwrap();
        assert_eq!(detect(path("qcow2")).await.unwrap(), Some(Format::Qcow2));
        assert_eq!(detect(path("raw")).await.unwrap(), None);
        assert_eq!(detect(path("vmdk")).await.unwrap_err().kind(), Kind::Invalid);
        assert_eq!(detect(path("none")).await.unwrap_err().kind(), Kind::NotFound);
        assert_eq!(open_file(path("raw"), Format::Qcow2).await.err().unwrap().kind(), Kind::Invalid);
        // a guest that writes a qcow2 header to its raw disk gets it back, byte for byte
        let disk = open_file(path("qcow2"), Format::Raw).await.unwrap();
        assert!(disk.read_at(0, 512).await.unwrap().starts_with(&qcow2::MAGIC));
    });
}

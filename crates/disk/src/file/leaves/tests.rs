//! Increments over records of leaves: right whatever the record is worth, and without reading the base where it is worth something.

use std::time::SystemTime;

use bytes::Bytes;
use proptest::prelude::*;

use super::super::tests::{block_on, content, read, root_of};
use super::super::{Base, Format, check_written, create_recorded, open_file};
use super::*;
use crate::{Silent, Written};

const FORMATS: [Format; 2] = [Format::Raw, Format::Qcow2];

/// Writes the leaves that `pick` chooses over the base at `old`, of that root.
async fn write(
    path: &Path,
    format: Format,
    bytes: &[u8],
    base: Option<(&Path, Format, DiskRoot)>,
    pick: impl Fn(usize) -> bool,
) -> Result<Written> {
    let base = match base {
        Some((path, format, root)) => Some(Base::open(path, format, &root).await?),
        None => None,
    };
    let mut writer = create_recorded(path, format, bytes.len() as u64, base).await?;
    for (index, leaf) in bytes.chunks(LEAF as usize).enumerate().filter(|(index, _)| pick(*index)) {
        let offset = index as u64 * LEAF;
        if crate::is_zero(leaf) {
            writer.zero(offset, leaf.len() as u64).await?;
        } else if !writer.has_leaf(index as u64, &crate::leaf(leaf)) {
            writer.write(offset, Bytes::copy_from_slice(leaf)).await?;
        }
    }
    writer.finish().await
}

/// Changes bytes of a file behind everybody's back: its time of change stays.
fn corrupt(path: &Path, at: u64, bytes: &[u8]) {
    let file = File::options().write(true).open(path).unwrap();
    let time = file.metadata().unwrap().modified().unwrap();
    file.write_all_at(bytes, at).unwrap();
    file.set_modified(time).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn a_chain_of_increments_has_the_right_bytes_and_roots(
        disks in prop::collection::vec((prop::collection::vec(0u8..3, 1..40), 0usize..128, any::<bool>()), 2..5),
        picks: u64, lost: bool, flip: u16,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = |nth: usize| folder.path().join(format!("disk-{nth}"));
        block_on(async {
            let mut before: Option<(usize, Format, Vec<u8>, DiskRoot)> = None;
            for (nth, (leaves, tail, qcow2)) in disks.iter().enumerate() {
                let (new, format) = (content(leaves, *tail), FORMATS[usize::from(*qcow2)]);
                let pick = |index: usize| before.is_none() || picks & (1 << (index % 64)) != 0;
                let mut wanted = before.as_ref().map_or(Vec::new(), |before| before.2.clone());
                wanted.resize(new.len(), 0);
                for (index, chunk) in new.chunks(LEAF as usize).enumerate().filter(|(index, _)| pick(*index)) {
                    let from = index * LEAF as usize;
                    wanted[from..from + chunk.len()].copy_from_slice(chunk);
                }
                let old = before.as_ref().map(|(nth, format, _, root)| (path(*nth), *format, *root));
                if let (Some((old, ..)), true) = (&old, lost) {
                    // a record that is damaged or too short costs reads, never a wrong byte
                    let record = leaves_path(old);
                    let len = std::fs::metadata(&record).unwrap().len();
                    let file = File::options().read(true).write(true).open(&record).unwrap();
                    let at = u64::from(flip) * 7 % len;
                    let mut byte = [0];
                    file.read_exact_at(&mut byte, at).unwrap();
                    file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
                }
                let base = old.as_ref().map(|(path, format, root)| (path.as_path(), *format, *root));
                let written = write(&path(nth), format, &new, base, pick).await.unwrap();
                assert_eq!(written.root, root_of(&wanted));
                let made = open_file(&path(nth), format).await.unwrap();
                assert!(read(made.as_ref()).await == wanted);
                let checked = check_written(&path(nth), format, &written.root, &Silent).await.unwrap();
                assert!(checked.is_some_and(|bytes| bytes <= wanted.len() as u64));
                before = Some((nth, format, wanted, written.root));
            }
        });
        let names = std::fs::read_dir(folder.path()).unwrap().count();
        prop_assert_eq!(names, 2 * disks.len(), "a record beside each disk, and nothing else");
    }
}

#[test]
fn what_did_not_arrive_is_not_read_while_the_record_fits() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second, third) = (folder.path().join("a"), folder.path().join("b"), folder.path().join("c"));
    block_on(async {
        let old = content(&[1; 64], 0);
        let root = write(&first, Format::Raw, &old, None, |_| true).await.unwrap().root;
        // would be seen in the root, if it were read
        corrupt(&first, 5 * LEAF, &[9; 512]);
        let mut new = old.clone();
        new[40 * LEAF as usize] = 2;
        let written = write(&second, Format::Qcow2, &new, Some((&first, Format::Raw, root)), |index| index == 40).await;
        assert_eq!(written.unwrap().root, root_of(&new));
        // with another time of change the record is not believed
        File::options().write(true).open(&first).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        let written = write(&third, Format::Qcow2, &new, Some((&first, Format::Raw, root)), |index| index == 40).await;
        new[5 * LEAF as usize..5 * LEAF as usize + 512].fill(9);
        assert_eq!(written.unwrap().root, root_of(&new));
    });
}

#[test]
fn a_leaf_that_the_base_has_need_not_arrive_and_is_not_fresh_if_it_does() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("a"), folder.path().join("b"));
    block_on(async {
        let old = content(&[1, 1, 2, 0, 1], 3);
        let root = write(&first, Format::Qcow2, &old, None, |_| true).await.unwrap().root;
        let base = Base::open(&first, Format::Qcow2, &root).await.unwrap();
        let mut writer = create_recorded(&second, Format::Raw, old.len() as u64, Some(base)).await.unwrap();
        assert!(writer.may_have_leaves());
        assert!(writer.has_leaf(1, &crate::leaf(&[1; LEAF as usize])));
        assert!(!writer.has_leaf(2, &crate::leaf(&[1; LEAF as usize])));
        // a coarse change map: three leaves, of which one differs
        let mut new = old[..3 * LEAF as usize].to_vec();
        new[LEAF as usize] = 5;
        writer.write(0, new.clone().into()).await.unwrap();
        let written = writer.finish().await.unwrap();
        new.extend(&old[3 * LEAF as usize..]);
        assert_eq!((written.root, written.received, written.fresh), (root_of(&new), 3 * LEAF, LEAF));
        assert!(read(open_file(&second, Format::Raw).await.unwrap().as_ref()).await == new);
    });
}

#[test]
fn damage_of_what_was_stored_is_found() {
    for format in FORMATS {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let bytes = content(&[1, 0, 0, 2, 0, 3], 1);
        block_on(async {
            let root = write(&path, format, &bytes, None, |_| true).await.unwrap().root;
            let read = check_written(&path, format, &root, &Silent).await.unwrap();
            assert_eq!(read, Some(3 * LEAF + 512));
            assert_eq!(check_written(&path, format, &root_of(&[1; 512]), &Silent).await.unwrap(), None, "another disk");
            // the first leaf's bytes: behind the header of qcow2, at the start of a raw file
            corrupt(&path, if format == Format::Raw { 77 } else { LEAF + 77 }, &[0xff]);
            assert_eq!(check_written(&path, format, &root, &Silent).await.unwrap_err().kind(), Kind::Damaged);
        });
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    block_on(async {
        let root = write(&path, Format::Raw, &content(&[1, 0, 2], 0), None, |_| true).await.unwrap().root;
        corrupt(&path, LEAF + 5, &[1]);
        let error = check_written(&path, Format::Raw, &root, &Silent).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Damaged, "data where zero belongs");
    });
}

#[test]
fn a_dropped_writer_leaves_no_record() {
    let folder = tempfile::tempdir().unwrap();
    block_on(async {
        let mut writer = create_recorded(folder.path().join("a"), Format::Raw, 4 * LEAF, None).await.unwrap();
        writer.write(0, vec![1; LEAF as usize].into()).await.unwrap();
    });
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

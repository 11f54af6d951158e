//! Disk formats against `qemu-img`: what it writes we read, what we write it finds sound and equal.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use disk::{DiskRead, Format, LEAF, OpenOptions, Silent, create_file, open_file, open_file_with, transfer};
use model::{DiskRoot, Kind};

fn installed() -> bool {
    let found = Command::new("qemu-img").arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        println!("SKIPPED: qemu-img is not installed (Debian: qemu-utils)");
    }
    found
}

fn run(tool: &str, folder: &Path, arguments: &str) -> String {
    let output = Command::new(tool).current_dir(folder).args(arguments.split_whitespace()).output().expect(tool);
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{tool} {arguments}: {text}");
    text
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("runtime")
        .block_on(future)
}

/// A raw disk with text, noise, holes and written zeroes; its size is no multiple of a cluster.
fn sample(folder: &Path) -> PathBuf {
    let path = folder.join("sample.raw");
    let file = std::fs::File::create(&path).expect("sample");
    file.set_len(21 * 1024 * 1024 + 7 * 512).expect("size");
    let text: Vec<u8> = b"all work and no play makes a dull disk\n".iter().copied().cycle().take(3_000_000).collect();
    let mut state = 1u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    })
    .take(2_500_000)
    .collect();
    for (at, bytes) in [(0, &noise[..400_000]), (3_000_001, &text), (9_999_872, &noise), (16 << 20, &vec![0; 1 << 20])]
    {
        file.write_all_at(bytes, at).expect("sample");
    }
    file.write_all_at(b"the very end", 21 * 1024 * 1024 + 7 * 512 - 12).expect("sample");
    path
}

/// Copies a disk into new files and tells their root, which must be one.
async fn copy(reader: &dyn DiskRead, targets: &[(&Path, Format)]) -> DiskRoot {
    let mut writers = Vec::new();
    for (path, format) in targets {
        writers.push(create_file(path, *format, reader.size(), None).await.expect("create"));
    }
    let slots = transfer(reader, writers, &Silent).await.expect("transfer");
    let roots: Vec<DiskRoot> = slots.into_iter().map(|slot| slot.expect("writer").root).collect();
    assert!(roots.windows(2).all(|pair| pair[0] == pair[1]));
    roots[0]
}

#[test]
fn every_kind_of_qcow2_has_the_root_of_the_raw_disk() {
    if !installed() {
        return;
    }
    let folder = tempfile::tempdir().expect("folder");
    let raw = sample(folder.path());
    block_on(async {
        let reader = open_file(&raw, Format::Raw).await.expect("raw");
        let wanted = copy(reader.as_ref(), &[(&folder.path().join("again.raw"), Format::Raw)]).await;
        let kinds = [
            "-o compat=0.10",
            "-o compat=1.1",
            "-o cluster_size=512",
            "-o cluster_size=4k",
            "-o cluster_size=2M",
            "-o preallocation=metadata",
            "-o lazy_refcounts=on,refcount_bits=1",
            "-c",
            "-c -o compat=0.10",
            "-c -o cluster_size=4k",
            "-c -o cluster_size=2M",
            "-c -o compression_type=zstd",
            "-c -o compression_type=zstd,cluster_size=2M",
        ];
        for (number, kind) in kinds.iter().enumerate() {
            run("qemu-img", folder.path(), &format!("convert -f raw -O qcow2 {kind} sample.raw {number}.qcow2"));
            let image = folder.path().join(format!("{number}.qcow2"));
            let reader = open_file(&image, Format::Qcow2).await.unwrap_or_else(|e| panic!("{kind}: {}", e.chain()));
            let back = folder.path().join(format!("{number}.raw"));
            assert_eq!(copy(reader.as_ref(), &[(&back, Format::Raw)]).await, wanted, "{kind}");
            run("qemu-img", folder.path(), &format!("compare -f raw -F raw sample.raw {number}.raw"));
        }
    });
}

#[test]
fn zero_clusters_snapshots_and_dirty_images_are_read() {
    if !installed() {
        return;
    }
    let folder = tempfile::tempdir().expect("folder");
    run("qemu-img", folder.path(), "create -f qcow2 -o lazy_refcounts=on a.qcow2 10M");
    for command in ["write -P 1 0 4M", "write -z 1M 128k", "write -z -u 2M 64k", "discard 3M 64k"] {
        let output = Command::new("qemu-io").current_dir(folder.path()).args(["-c", command, "a.qcow2"]).output();
        assert!(output.expect("qemu-io").status.success(), "{command}");
    }
    run("qemu-img", folder.path(), "snapshot -c before a.qcow2");
    let output =
        Command::new("qemu-io").current_dir(folder.path()).args(["-c", "write -P 9 512k 128k", "a.qcow2"]).output();
    assert!(output.expect("qemu-io").status.success());
    run("qemu-img", folder.path(), "convert -f qcow2 -O raw a.qcow2 wanted.raw");
    // the dirty bit: the image was not closed
    let file = std::fs::OpenOptions::new().write(true).open(folder.path().join("a.qcow2")).expect("image");
    file.write_all_at(&[1], 79).expect("dirty");
    block_on(async {
        let wanted = open_file(folder.path().join("wanted.raw"), Format::Raw).await.expect("raw");
        let wanted = copy(wanted.as_ref(), &[(&folder.path().join("b.raw"), Format::Raw)]).await;
        let reader = open_file(folder.path().join("a.qcow2"), Format::Qcow2).await.expect("qcow2");
        assert_eq!(copy(reader.as_ref(), &[(&folder.path().join("c.raw"), Format::Raw)]).await, wanted);
    });
}

#[test]
fn what_we_write_is_sound_and_equal() {
    if !installed() {
        return;
    }
    let folder = tempfile::tempdir().expect("folder");
    let raw = sample(folder.path());
    block_on(async {
        let reader = open_file(&raw, Format::Raw).await.expect("raw");
        copy(reader.as_ref(), &[(&folder.path().join("ours.qcow2"), Format::Qcow2)]).await;
    });
    let check = run("qemu-img", folder.path(), "check -f qcow2 ours.qcow2");
    assert!(check.contains("No errors were found"), "{check}");
    run("qemu-img", folder.path(), "compare -f raw -F qcow2 sample.raw ours.qcow2");
    let allocated = std::fs::metadata(folder.path().join("ours.qcow2")).expect("image").len();
    assert!(allocated < 7 * 1024 * 1024, "zeroes take no place: {allocated}");
    // QEMU can go on writing to it, into clusters that are there and into new ones
    for command in ["write -P 5 0 256k", "write -P 6 15M 64k"] {
        let output = Command::new("qemu-io").current_dir(folder.path()).args(["-c", command, "ours.qcow2"]).output();
        assert!(output.expect("qemu-io").status.success(), "{command}");
    }
    assert!(run("qemu-img", folder.path(), "check -f qcow2 ours.qcow2").contains("No errors were found"));
}

#[test]
fn a_large_sparse_image_is_sound() {
    if !installed() {
        return;
    }
    let folder = tempfile::tempdir().expect("folder");
    let size = 5u64 << 40; // 10240 entries of the first table: two clusters
    block_on(async {
        let mut writer = create_file(folder.path().join("a.qcow2"), Format::Qcow2, size, None).await.expect("create");
        for at in [0, (512 << 20) - LEAF, 512 << 20, 3 << 40, size - LEAF] {
            writer.write(at, Bytes::from(vec![7; LEAF as usize])).await.expect("write");
        }
        let written = writer.finish().await.expect("finish");
        assert_eq!((written.received, written.fresh), (5 * LEAF, 5 * LEAF));
        let reader = open_file(folder.path().join("a.qcow2"), Format::Qcow2).await.expect("open");
        assert_eq!(copy(reader.as_ref(), &[(&folder.path().join("b.qcow2"), Format::Qcow2)]).await, written.root);
    });
    for name in ["a.qcow2", "b.qcow2"] {
        assert!(run("qemu-img", folder.path(), &format!("check -f qcow2 {name}")).contains("No errors were found"));
    }
    run("qemu-img", folder.path(), "compare -f qcow2 -F qcow2 a.qcow2 b.qcow2");
}

#[test]
fn an_increment_on_a_base_of_another_make_is_sound_and_equal() {
    if !installed() {
        return;
    }
    let folder = tempfile::tempdir().expect("folder");
    let raw = sample(folder.path());
    run("qemu-img", folder.path(), "convert -f raw -O qcow2 -c -o cluster_size=4k sample.raw base.qcow2");
    std::fs::copy(&raw, folder.path().join("wanted.raw")).expect("copy");
    let wanted = std::fs::OpenOptions::new().write(true).open(folder.path().join("wanted.raw")).expect("wanted");
    wanted.write_all_at(&[3; LEAF as usize], 9 * LEAF).expect("change");
    wanted.write_all_at(&[0; LEAF as usize], 50 * LEAF).expect("change");
    block_on(async {
        let reader = open_file(folder.path().join("wanted.raw"), Format::Raw).await.expect("raw");
        let root = copy(reader.as_ref(), &[(&folder.path().join("full.qcow2"), Format::Qcow2)]).await;
        for (name, format) in [("new.qcow2", Format::Qcow2), ("new.raw", Format::Raw)] {
            let base = open_file(folder.path().join("base.qcow2"), Format::Qcow2).await.expect("base");
            let path = folder.path().join(name);
            let mut writer = create_file(path, format, reader.size(), Some(base)).await.expect("create");
            writer.write(9 * LEAF, Bytes::from(vec![3; LEAF as usize])).await.expect("write");
            writer.zero(50 * LEAF, LEAF).await.expect("zero");
            let written = writer.finish().await.expect("finish");
            assert_eq!((written.root, written.received, written.fresh), (root, LEAF, LEAF));
            // a source without a list of changes sends everything: the base has all but one leaf of it
            let base = open_file(folder.path().join("base.qcow2"), Format::Qcow2).await.expect("base");
            let again = folder.path().join(format!("again-{name}"));
            let writer = create_file(again, format, reader.size(), Some(base)).await.expect("create");
            let slots = transfer(reader.as_ref(), vec![writer], &Silent).await.expect("transfer");
            let written = slots.into_iter().next().expect("slot").expect("written");
            assert_eq!((written.root, written.fresh), (root, LEAF));
        }
    });
    assert!(run("qemu-img", folder.path(), "check -f qcow2 new.qcow2").contains("No errors were found"));
    run("qemu-img", folder.path(), "compare -f raw -F qcow2 wanted.raw new.qcow2");
    run("qemu-img", folder.path(), "compare -f raw -F raw wanted.raw new.raw");
    run("qemu-img", folder.path(), "compare -f raw -F qcow2 wanted.raw again-new.qcow2");
}

#[test]
fn images_that_reach_outside_are_refused() {
    if !installed() {
        return;
    }
    let folder = tempfile::tempdir().expect("folder");
    let path = |name: &str| folder.path().join(name);
    sample(folder.path());
    run("qemu-img", folder.path(), "create -f qcow2 -b sample.raw -F raw overlay.qcow2 30M");
    run("qemu-img", folder.path(), "create -f qcow2 -b overlay.qcow2 -F qcow2 second.qcow2");
    let output =
        Command::new("qemu-io").current_dir(folder.path()).args(["-c", "write -P 5 1M 128k", "second.qcow2"]).output();
    assert!(output.expect("qemu-io").status.success());
    run("qemu-img", folder.path(), "create -f qcow2 -o data_file=data.raw outside.qcow2 10M");
    run("qemu-img", folder.path(), "create -f qcow2 -o extended_l2=on,cluster_size=128k sub.qcow2 10M");
    run("qemu-img", folder.path(), "create -f qcow2 -u -b json:{\"driver\":\"nbd\"} -F raw remote.qcow2 10M");
    run("qemu-img", folder.path(), "create -f qcow2 -u -b ./circle.qcow2 -F qcow2 circle.qcow2 10M");
    let secret =
        "create --object secret,id=s,data=abc -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s locked.qcow2 10M";
    run("qemu-img", folder.path(), secret);
    run("qemu-img", folder.path(), "convert -f qcow2 -O raw second.qcow2 wanted.raw");
    block_on(async {
        for name in ["overlay", "outside", "sub", "remote", "locked", "circle"] {
            let error = open_file(path(&format!("{name}.qcow2")), Format::Qcow2).await.err().expect(name);
            assert_eq!(error.kind(), Kind::Invalid, "{name}: {}", error.chain());
        }
        let options = OpenOptions { backing: true };
        for name in ["outside", "sub", "remote", "locked", "circle"] {
            let error = open_file_with(path(&format!("{name}.qcow2")), Format::Qcow2, options).await.err().expect(name);
            assert_eq!(error.kind(), Kind::Invalid, "{name}: {}", error.chain());
        }
        let wanted = open_file(path("wanted.raw"), Format::Raw).await.expect("raw");
        let wanted = copy(wanted.as_ref(), &[(&path("a.raw"), Format::Raw)]).await;
        let chain = open_file_with(path("second.qcow2"), Format::Qcow2, options).await.expect("chain");
        assert_eq!(copy(chain.as_ref(), &[(&path("b.raw"), Format::Raw)]).await, wanted);
    });
}

/// A loop device over a file, gone with the value.
struct Loop(PathBuf);

impl Loop {
    fn over(file: &Path, sector: u32) -> Option<Self> {
        let arguments = ["-f", "--show", "-b", &sector.to_string()];
        let output = Command::new("losetup").args(arguments).arg(file).output().ok()?;
        let path = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| Self(path.trim().into()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}

#[test]
fn a_block_device_is_overwritten_holes_included() {
    for sector in [512, 4096] {
        device_of(sector);
    }
}

fn device_of(sector: u32) {
    let folder = tempfile::tempdir().expect("folder");
    let raw = sample(folder.path());
    let old = folder.path().join("device");
    std::fs::write(&old, vec![0xff; 24 << 20]).expect("old content");
    let Some(device) = Loop::over(&old, sector) else {
        println!("SKIPPED: no loop device can be had here (it takes root)");
        return;
    };
    block_on(async {
        let reader = open_file(&raw, Format::Raw).await.expect("raw");
        let size = reader.size();
        let writer = create_file(&device.0, Format::Raw, size, None).await.expect("device");
        let slots = transfer(reader.as_ref(), vec![writer], &Silent).await.expect("transfer");
        let written = slots.into_iter().next().expect("slot").expect("written");
        let made = open_file(&device.0, Format::Raw).await.expect("device");
        assert_eq!(made.size(), 24 << 20);
        let same = |a: Bytes, b: Bytes| assert!(a == b, "the device holds other bytes");
        same(
            made.read_at(0, size as usize).await.expect("read"),
            reader.read_at(0, size as usize).await.expect("read"),
        );
        let behind = made.read_at(size, (24 << 20) - size as usize).await.expect("read");
        assert!(behind.iter().all(|byte| *byte == 0xff), "what lies behind the disk is not its own");
        assert_eq!(written.root, copy(reader.as_ref(), &[(&folder.path().join("c.raw"), Format::Raw)]).await);
        // what never arrives is zero too
        let mut writer = create_file(&device.0, Format::Raw, 24 << 20, None).await.expect("device");
        writer.write(5 * LEAF, Bytes::from(vec![1; LEAF as usize])).await.expect("write");
        writer.finish().await.expect("finish");
        let mut wanted = vec![0; 24 << 20];
        wanted[5 * LEAF as usize..6 * LEAF as usize].fill(1);
        same(made.read_at(0, 24 << 20).await.expect("read"), wanted.into());
        for (format, size) in [(Format::Qcow2, 1 << 20), (Format::Raw, (24 << 20) + 512)] {
            assert!(create_file(&device.0, format, size, None).await.is_err());
        }
    });
}

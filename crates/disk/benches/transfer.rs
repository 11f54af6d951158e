//! Leaf hashing, zero test and transfers, in MiB per second of wall time and of CPU time; and what an increment of 1 % costs of a full
//! image. The last depends on the file system of the temporary folder: `TMPDIR=/mnt/xfs` tells of one that shares bytes.
//!
//! `cargo bench -p disk`, or `cargo bench -p disk -- DISK.raw` for a disk of one's own.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints, and a panic is its verdict")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use disk::{
    Base, DiskRead, DiskWrite, Format, LEAF, RootBuilder, Silent, Written, check_written, create_file, create_recorded,
    is_zero, leaf, open_file, transfer,
};
use model::Result;

const MIB: usize = 1024 * 1024;

/// Takes bytes and drops them; `knows` makes the transfer hash every leaf.
struct Null {
    size: u64,
    knows: bool,
}

#[async_trait]
impl DiskWrite for Null {
    fn size(&self) -> u64 {
        self.size
    }
    async fn write(&mut self, _offset: u64, data: Bytes) -> Result<()> {
        std::hint::black_box(data);
        Ok(())
    }
    async fn zero(&mut self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }
    fn may_have_leaves(&self) -> bool {
        self.knows
    }
    async fn finish(self: Box<Self>) -> Result<Written> {
        Ok(Written { root: RootBuilder::new(self.size).finish(), received: 0, fresh: 0, stored: 0 })
    }
}

fn cpu() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Runs it three times and prints the best.
fn measure(what: &str, mib: f64, mut work: impl FnMut()) {
    let mut best = (Duration::MAX, Duration::MAX);
    for _ in 0..3 {
        let (wall, used) = (Instant::now(), cpu());
        work();
        best = (best.0.min(wall.elapsed()), best.1.min(cpu() - used));
    }
    let rate = |time: Duration| mib / time.as_secs_f64();
    println!("{what:<44} {:>9.0} MiB/s {:>9.0} MiB/CPU s", rate(best.0), rate(best.1));
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend(state.to_le_bytes());
    }
    bytes
}

/// A full image and one of 1 % more, each read back as a run does: CPU time, and bytes that were read or stored.
fn increment(folder: &Path, runtime: &tokio::runtime::Runtime) {
    const SIZE: u64 = 1 << 30;
    let mut bytes = noise(SIZE as usize);
    for format in [Format::Raw, Format::Qcow2] {
        let path = |name: &str| folder.join(format!("{name}.{format}"));
        let write = |name: &str, base: Option<Base>, offsets: Vec<u64>, bytes: &[u8]| {
            let (wall, used) = (Instant::now(), cpu());
            let (written, read) = runtime.block_on(async {
                let mut writer = create_recorded(path(name), format, SIZE, base).await.unwrap();
                for offset in offsets {
                    let leaf = &bytes[offset as usize..(offset + LEAF) as usize];
                    writer.write(offset, Bytes::copy_from_slice(leaf)).await.unwrap();
                }
                let written = writer.finish().await.unwrap();
                let read = check_written(&path(name), format, &written.root, &Silent).await.unwrap().unwrap();
                (written, read)
            });
            (written.root, written.stored + read, cpu() - used, wall.elapsed())
        };
        let (root, full_bytes, full_cpu, full_wall) =
            write("full", None, (0..SIZE / LEAF).map(|n| n * LEAF).collect(), &bytes);
        let changed: Vec<u64> = (0..SIZE / LEAF).filter(|leaf| leaf % 100 == 7).map(|leaf| leaf * LEAF).collect();
        for offset in &changed {
            bytes[*offset as usize] ^= 1;
        }
        let base = runtime.block_on(Base::open(&path("full"), format, &root)).unwrap();
        let (_, some_bytes, some_cpu, some_wall) = write("more", Some(base), changed, &bytes);
        let percent = |part: f64, whole: f64| part * 100.0 / whole;
        println!(
            "1 % changed, {format:<6} of a full image: {:>5.1} % of its bytes, {:>5.1} % of its CPU, {:>5.1} % of its time",
            percent(some_bytes as f64, full_bytes as f64),
            percent(some_cpu.as_secs_f64(), full_cpu.as_secs_f64()),
            percent(some_wall.as_secs_f64(), full_wall.as_secs_f64()),
        );
        for name in ["full", "more"] {
            std::fs::remove_file(path(name)).unwrap();
        }
    }
}

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let chunk = noise(64 * MIB);
    measure("hash leaves", 64.0, || {
        for bytes in chunk.chunks(LEAF as usize) {
            std::hint::black_box(leaf(bytes));
        }
    });
    let zeroes = vec![0; 64 * MIB];
    measure("zero test", 64.0, || assert!(zeroes.chunks(LEAF as usize).all(is_zero)));
    let given = std::env::args().nth(1).filter(|argument| !argument.starts_with("--")).map(PathBuf::from);
    let path = given.unwrap_or_else(|| {
        let path = folder.path().join("disk.raw");
        std::fs::write(&path, noise(512 * MIB)).unwrap();
        path
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    increment(folder.path(), &runtime);
    runtime.block_on(async {
        let copy = folder.path().join("source.qcow2");
        let reader = open_file(&path, Format::Raw).await.unwrap();
        let writer = create_file(&copy, Format::Qcow2, reader.size(), None).await.unwrap();
        transfer(reader.as_ref(), vec![writer], &Silent).await.unwrap().remove(0).unwrap();
    });
    for (name, source, format) in
        [("raw", path, Format::Raw), ("qcow2", folder.path().join("source.qcow2"), Format::Qcow2)]
    {
        let reader = runtime.block_on(open_file(&source, format)).unwrap();
        let reader: &dyn DiskRead = reader.as_ref();
        let (size, mib) = (reader.size(), reader.size() as f64 / MIB as f64);
        let go = |writers: Vec<Box<dyn DiskWrite>>| {
            for slot in runtime.block_on(transfer(reader, writers, &Silent)).unwrap() {
                slot.unwrap();
            }
        };
        measure(&format!("{name} -> nothing"), mib, || go(vec![Box::new(Null { size, knows: false })]));
        measure(&format!("{name} -> nothing, with leaf hashes"), mib, || {
            go(vec![Box::new(Null { size, knows: true })])
        });
        for target in [Format::Raw, Format::Qcow2] {
            let path = folder.path().join("target");
            measure(&format!("{name} -> {target}, hashed and synced"), mib, || {
                let _ = std::fs::remove_file(&path);
                go(vec![runtime.block_on(create_file(&path, target, size, None)).unwrap()]);
            });
            let _ = std::fs::remove_file(&path);
        }
    }
}

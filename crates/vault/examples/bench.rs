//! Backs up raw files into a vault in a directory and reads them back: MiB/s, CPU seconds, peak memory, stored bytes.
//!
//! ```text
//! bench VAULT backup POINT FILE [PARENT [OLD-FILE]]   full or compared with PARENT; with OLD-FILE as a change map
//! bench VAULT restore POINT FILE
//! bench VAULT verify
//! ```
//! One line of figures on stdout. `LEVEL`, `THREADS`, `CHECK` (every n-th frame) choose the options.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use disk::{DiskRead, DiskWrite, LEAF, Written, transfer};
use model::{Extent, ExtentList, PointDisk, Result};
use vault::bucket::DirBucket;
use vault::{Options, Recipient, Vault, VerifyScope};

use common::{AGE_PUBLIC, clock, id, identity, name, point, server};

/// A raw file: holes by `SEEK_DATA`, and the leaves that differ from an older file if there is one.
struct Raw {
    file: std::fs::File,
    size: u64,
    changed: Option<ExtentList>,
}

impl Raw {
    fn open(path: &str, old: Option<&str>) -> Self {
        let file = std::fs::File::open(path).unwrap();
        let size = file.metadata().unwrap().len();
        let changed = old.map(|old| {
            let old = std::fs::File::open(old).unwrap();
            let (mut a, mut b) = (vec![0; LEAF as usize], vec![0; LEAF as usize]);
            let mut list = ExtentList::new();
            for at in (0..size).step_by(LEAF as usize) {
                file.read_exact_at(&mut a, at).unwrap();
                old.read_exact_at(&mut b, at).unwrap();
                if a != b {
                    list.push(Extent::data(at, LEAF));
                }
            }
            list
        });
        Self { file, size, changed }
    }
}

#[async_trait]
impl DiskRead for Raw {
    fn size(&self) -> u64 {
        self.size
    }

    async fn extents(&self, from: u64) -> Result<ExtentList> {
        if let Some(changed) = &self.changed {
            let rest = changed.as_slice().iter().filter(|extent| extent.offset >= from);
            return Ok(rest.copied().collect());
        }
        let mut list = ExtentList::new();
        let mut at = from;
        while at < self.size && list.as_slice().len() < 2000 {
            let found = rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Data(at)).unwrap_or(self.size);
            let hole = rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Hole(found)).unwrap_or(self.size);
            let data = if found == self.size { found } else { (found / LEAF * LEAF).max(at) };
            list.push(Extent::zero(at, data - at));
            let hole = (hole.div_ceil(LEAF) * LEAF).min(self.size);
            list.push(Extent::data(data, hole.max(data) - data));
            at = hole.max(data);
        }
        Ok(list)
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let mut bytes = BytesMut::zeroed(len);
        self.file.read_exact_at(&mut bytes, offset).unwrap();
        Ok(bytes.freeze())
    }

    fn is_incremental(&self) -> bool {
        self.changed.is_some()
    }

    fn describe(&self) -> String {
        "raw file".to_owned()
    }
}

struct Out {
    file: std::fs::File,
    size: u64,
    root: disk::RootBuilder,
}

#[async_trait]
impl DiskWrite for Out {
    fn size(&self) -> u64 {
        self.size
    }

    async fn write(&mut self, offset: u64, data: Bytes) -> Result<()> {
        for (number, bytes) in data.chunks(LEAF as usize).enumerate() {
            self.root.push(offset / LEAF + number as u64, disk::leaf(bytes));
        }
        self.file.write_all_at(&data, offset).unwrap();
        Ok(())
    }

    async fn zero(&mut self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }

    fn may_have_leaves(&self) -> bool {
        false
    }

    async fn finish(self: Box<Self>) -> Result<Written> {
        Ok(Written { root: self.root.finish(), received: 0, fresh: 0, stored: 0 })
    }
}

fn options() -> Options {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<i64>().ok());
    let mut options = Options::new(clock());
    options.level = number("LEVEL").unwrap_or(3) as i32;
    options.threads = number("THREADS").unwrap_or(0) as usize;
    options.check_every = number("CHECK").map_or(options.check_every, |every| every as u32);
    options
}

fn status(field: &str) -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

fn cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

async fn backup(vault: &Vault, raw: Raw, args: &[String]) -> (u64, u64) {
    let (to, parent) = (id(&args[0]), args.get(2).map(|parent| id(parent)));
    let writer = vault.begin(&to, &server(), parent.as_ref()).await.unwrap();
    let disk = writer.disk(&name(), raw.size, raw.is_incremental()).await.unwrap();
    let mut written = transfer(&raw, vec![disk], &disk::Silent).await.unwrap();
    let written = written.pop().unwrap().unwrap();
    let disks = vec![PointDisk { name: name(), size: raw.size, root: written.root }];
    let sealed = writer.seal(&point(&to, disks)).await.unwrap();
    (written.received, sealed.stored_bytes)
}

async fn restore(vault: &Vault, args: &[String]) -> (u64, u64) {
    let point = id(&args[0]);
    let reader = vault.open_disk(&point, &name()).await.unwrap();
    let file = std::fs::File::create(&args[1]).unwrap();
    file.set_len(reader.size()).unwrap();
    let out = Out { file, size: reader.size(), root: disk::RootBuilder::new(reader.size()) };
    let mut written = transfer(&*reader, vec![Box::new(out)], &disk::Silent).await.unwrap();
    let root = written.pop().unwrap().unwrap().root;
    assert_eq!(root, vault.point(&point).await.unwrap().disks[0].root, "the restored disk has another root");
    (reader.size(), 0)
}

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let bucket = Arc::new(DirBucket::create(&args[0]).unwrap());
    let vault = match Vault::open(bucket.clone(), &[identity()], options()).await {
        Ok(vault) => vault,
        Err(_) => Vault::create(bucket, &[Recipient::AgePublic(AGE_PUBLIC.to_owned())], options()).await.unwrap(),
    };
    // the change map comes from the hypervisor in real life: making it is not part of the figures
    let raw = (args[1] == "backup").then(|| Raw::open(&args[3], args.get(5).map(String::as_str)));
    let (start, cpu_before) = (Instant::now(), cpu());
    let (bytes, stored) = match (raw, args[1].as_str()) {
        (Some(raw), _) => backup(&vault, raw, &args[2..]).await,
        (None, "restore") => restore(&vault, &args[2..]).await,
        _ => {
            let report = vault.verify(&VerifyScope::All, &disk::Silent).await.unwrap();
            assert!(report.is_clean(), "{report:?}");
            (report.bytes, 0)
        }
    };
    let wall = start.elapsed().as_secs_f64();
    let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
    println!(
        "{:8} {:7.1} MiB in {wall:5.2} s = {:6.0} MiB/s, {:5.2} CPU s, {:4.0} MiB peak, {:7.1} MiB stored",
        args[1],
        mib(bytes),
        mib(bytes) / wall,
        cpu() - cpu_before,
        status("VmHWM"),
        mib(stored),
    );
}

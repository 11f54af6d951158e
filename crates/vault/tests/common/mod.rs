//! What the vault's tests, its bench and the test of the format's page share: a vault in memory, disks of known bytes, points.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

pub mod store;

use std::sync::Arc;

use bytes::Bytes;
use disk::{DiskRead, LEAF, is_zero};
use model::{
    Arch, Clock, Consistency, DiskBus, DiskName, DiskSpec, Firmware, MachineSpec, ManualClock, PointDisk, PointId,
    RestorePoint, Result, ServerName,
};
use vault::bucket::{Bucket, MemoryBucket};
use vault::{Identity, Options, Recipient, Sealed, Vault};

/// A fixed age key: wrapping with it is fast, a passphrase's is slow by intent.
pub const AGE_SECRET: &str = "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33";
pub const AGE_PUBLIC: &str = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";

pub fn clock() -> Arc<dyn Clock> {
    Arc::new(ManualClock::new("2026-11-22T03:00:00Z".parse().unwrap()))
}

pub fn options() -> Options {
    Options { threads: 2, ..Options::new(clock()) }
}

pub fn identity() -> Identity {
    Identity::AgeSecret(AGE_SECRET.into())
}

pub async fn create(bucket: Arc<dyn Bucket>) -> Vault {
    Vault::create(bucket, &[Recipient::AgePublic(AGE_PUBLIC.to_owned())], options()).await.unwrap()
}

pub async fn open(bucket: Arc<dyn Bucket>) -> Vault {
    Vault::open(bucket, &[identity()], options()).await.unwrap()
}

pub async fn memory() -> (Arc<MemoryBucket>, Vault) {
    let bucket = Arc::new(MemoryBucket::new());
    let vault = create(bucket.clone()).await;
    (bucket, vault)
}

/// Bytes from a seed: half text-like, half random, in pieces of 4 KiB, with some holes.
pub fn disk(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut out = vec![0; len];
    for (number, block) in out.chunks_mut(4096).enumerate() {
        let kind = next() % 8;
        if kind == 0 || (number / 64) % 5 == 4 {
            continue;
        }
        for word in block.chunks_mut(8) {
            let value = if kind < 4 { next() } else { u64::from_le_bytes(*b"replicat") ^ (next() & 0x0f0f) };
            word.copy_from_slice(&value.to_le_bytes()[..word.len()]);
        }
    }
    out
}

/// Bytes that do not compress and hold no two equal blocks.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

pub fn name() -> DiskName {
    DiskName::new("vda").unwrap()
}

pub fn server() -> ServerName {
    ServerName::new("web-1").unwrap()
}

pub fn id(text: &str) -> PointId {
    PointId::new(text).unwrap()
}

pub fn point(id_: &PointId, disks: Vec<PointDisk>) -> RestorePoint {
    RestorePoint {
        id: id_.clone(),
        server: server(),
        site: None,
        policy: None,
        owner: None,
        taken_at: "2026-11-22T03:00:00Z".parse().unwrap(),
        consistency: Consistency::Crash,
        machine: machine(&disks),
        disks,
        program: "replicate test".to_owned(),
    }
}

fn machine(disks: &[PointDisk]) -> MachineSpec {
    let spec =
        |disk: &PointDisk| DiskSpec { name: disk.name.clone(), size: disk.size, bus: DiskBus::Virtio, serial: None };
    MachineSpec {
        arch: Arch::X86_64,
        firmware: Firmware::Bios,
        memory: 1 << 30,
        vcpus: 1,
        chipset: None,
        flavor: None,
        disks: disks.iter().map(spec).collect(),
        nics: Vec::new(),
        agent: false,
        tpm: false,
        tags: Default::default(),
    }
}

/// Writes `data` as the only disk of point `to`: in full (`base` as a parent to compare with), or only the leaves that
/// differ from `incremental`'s bytes.
pub async fn write(vault: &Vault, to: &str, parent: Option<&str>, data: &[u8], old: Option<&[u8]>) -> Result<Sealed> {
    let (to, parent) = (id(to), parent.map(id));
    let writer = vault.begin(&to, &server(), parent.as_ref()).await?;
    let mut disk = writer.disk(&name(), data.len() as u64, old.is_some()).await?;
    let leaf = LEAF as usize;
    for (number, bytes) in data.chunks(leaf).enumerate() {
        let at = number * leaf;
        if old.is_some_and(|old| old.get(at..at + bytes.len()) == Some(bytes)) {
            continue;
        }
        if is_zero(bytes) {
            disk.zero(at as u64, bytes.len() as u64).await?;
        } else {
            disk.write(at as u64, Bytes::copy_from_slice(bytes)).await?;
        }
    }
    let written = disk.finish().await?;
    let disks = vec![PointDisk { name: name(), size: data.len() as u64, root: written.root }];
    writer.seal(&point(&to, disks)).await
}

/// Reads a whole disk in steps of `step` bytes.
pub async fn read_all(reader: &dyn DiskRead, step: usize) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    while (out.len() as u64) < reader.size() {
        let len = step.min(reader.size() as usize - out.len());
        out.extend_from_slice(&reader.read_at(out.len() as u64, len).await?);
    }
    Ok(out)
}

pub async fn read(vault: &Vault, point: &str) -> Result<Vec<u8>> {
    read_all(&*vault.open_disk(&id(point), &name()).await?, 1 << 20).await
}

/// The root of bytes, made the plain way.
pub fn root(data: &[u8]) -> model::DiskRoot {
    let mut builder = disk::RootBuilder::new(data.len() as u64);
    for (index, chunk) in data.chunks(LEAF as usize).enumerate() {
        builder.push(index as u64, disk::leaf(chunk));
    }
    builder.finish()
}

//! What was written into a disk at a provider that has no such hashes, as a file of leaves in the scratch folder: an
//! update of the disk needs the leaves of all that it leaves alone, and reading them there would cost the whole disk.
//! Beside its hash a leaf has the sum that such a provider checks its own copies by.
//!
//! A record is a convenience. Where it is missing or does not fit, it is made anew by reading the disk; it appears
//! by a rename, so a crash leaves a whole one or none.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use bytes::Bytes;
use crc_fast::CrcAlgorithm::Crc64Nvme;
use disk::{DiskRead, LEAF, Leaf, Progress, RootBuilder, is_zero, leaf, zero_leaf};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use model::{Change, DiskRoot, Error, Extent, Kind, Result};

/// Bytes that are read at once.
const BLOCK: u64 = 512 << 10;
const MAGIC: &[u8; 8] = b"RPLLEAF3";
/// Magic and size.
const HEAD: u64 = 16;
/// A hash and a sum.
const ENTRY: usize = 40;
/// Blocks that are read ahead when a record is made anew.
const AHEAD: usize = 64;

/// Leaves that are read from a record at once.
const AT_ONCE: u64 = 1024;

/// What is noted of a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Noted {
    /// Its hash.
    pub leaf: Leaf,
    /// CRC64/NVMe of its bytes, a shorter last leaf's followed by zeroes to its full length.
    pub crc: u64,
}

impl Noted {
    fn of(bytes: &[u8]) -> Self {
        if is_zero(bytes) {
            return Self::zero();
        }
        let behind = vec![0; LEAF as usize - bytes.len()];
        let crc = joined(crc_fast::checksum(Crc64Nvme, bytes), crc_fast::checksum(Crc64Nvme, &behind), behind.len());
        Self { leaf: leaf(bytes), crc }
    }

    /// A leaf of zeroes.
    pub fn zero() -> Self {
        static CRC: LazyLock<u64> = LazyLock::new(|| crc_fast::checksum(Crc64Nvme, &[0; LEAF as usize]));
        Self { leaf: zero_leaf(), crc: *CRC }
    }
}

/// The leaves of bytes that begin at one, hashed away from the runtime's threads.
pub async fn noted(data: Bytes) -> Result<Vec<Noted>> {
    off_thread("hash what was read", move || Ok(data.chunks(LEAF as usize).map(Noted::of).collect())).await
}

/// The sum of bytes and `len` more of them, from both sums.
pub fn joined(first: u64, second: u64, len: usize) -> u64 {
    if len == 0 { first } else { crc_fast::checksum_combine(Crc64Nvme, first, second, len as u64) }
}

/// Files and hashes are not for the runtime's threads.
async fn off_thread<T: Send + 'static>(what: &str, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::new(Kind::Cancelled, format!("cannot {what}")).because(error))?
}

/// The leaves of a disk.
#[derive(Debug)]
pub struct Record {
    file: File,
    size: u64,
    /// Those that were read last, from which one on: who reads goes forward.
    recent: Mutex<(u64, Vec<Noted>)>,
}

impl Record {
    /// Opens a record, all of which is read and checked; none if there is none, or it is of something else or damaged.
    pub async fn open(path: PathBuf, size: u64) -> Option<Self> {
        Self::any(path).await.filter(|record| record.size == size)
    }

    /// The same, whatever the size of its disk.
    pub async fn any(path: PathBuf) -> Option<Self> {
        off_thread("open a record", move || Ok(Self::check(&path))).await.ok().flatten()
    }

    fn check(path: &Path) -> Option<Self> {
        let mut file = File::open(path).ok()?;
        let mut head = [0; HEAD as usize];
        file.read_exact_at(&mut head, 0).ok()?;
        let size = u64::from_le_bytes(head[8..].try_into().ok()?);
        let mut hasher = blake3::Hasher::new();
        let body = size.div_ceil(LEAF).checked_mul(ENTRY as u64)?.checked_add(HEAD)?;
        if &head[..8] != MAGIC || file.metadata().ok()?.len() != body.checked_add(32)? {
            return None;
        }
        let mut sum = [0; 32];
        file.read_exact_at(&mut sum, body).ok()?;
        file.seek(SeekFrom::Start(0)).ok()?;
        hasher.update_reader((&file).take(body)).ok()?;
        (hasher.finalize().as_bytes() == &sum).then(|| Self { file, size, recent: Mutex::default() })
    }

    /// The hash of one leaf.
    pub fn leaf(&self, index: u64) -> Result<Leaf> {
        Ok(self.noted(index)?.leaf)
    }

    /// One leaf; zero behind the end.
    pub fn noted(&self, index: u64) -> Result<Noted> {
        let count = self.size.div_ceil(LEAF);
        if index >= count {
            return Ok(Noted::zero());
        }
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let (first, at) = (index / AT_ONCE * AT_ONCE, (index % AT_ONCE) as usize);
        if recent.0 != first || recent.1.is_empty() {
            let mut entries = vec![[0; ENTRY]; AT_ONCE.min(count - first) as usize];
            let read = self.file.read_exact_at(entries.as_flattened_mut(), HEAD + first * ENTRY as u64);
            read.map_err(|error| Error::io("cannot read the record of a disk", error))?;
            *recent = (first, entries.iter().map(parsed).collect());
        }
        Ok(recent.1.get(at).copied().unwrap_or_else(Noted::zero))
    }
}

fn parsed(entry: &[u8; ENTRY]) -> Noted {
    let (mut leaf, mut crc) = ([0; 32], [0; 8]);
    leaf.copy_from_slice(&entry[..32]);
    crc.copy_from_slice(&entry[32..]);
    Noted { leaf, crc: u64::from_le_bytes(crc) }
}

/// A record that is being written; without [`finish`](Self::finish) nothing is left.
#[derive(Debug)]
pub struct RecordWriter {
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    path: PathBuf,
    partial: PathBuf,
}

impl RecordWriter {
    /// Begins the record of a disk of `size` bytes.
    pub async fn create(path: PathBuf, size: u64) -> Result<Self> {
        off_thread("begin a record", move || Self::begin(path, size)).await
    }

    fn begin(path: PathBuf, size: u64) -> Result<Self> {
        let partial = path.with_extension(format!("{:08x}.partial", rand::random::<u32>()));
        let what = |error| Error::io(format!("cannot write {}", partial.display()), error);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(what)?;
        }
        let file = BufWriter::with_capacity(256 << 10, File::create(&partial).map_err(what)?);
        let mut this = Self { file, hasher: blake3::Hasher::new(), path, partial };
        this.put(MAGIC)?;
        this.put(&size.to_le_bytes())?;
        Ok(this)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.file.write_all(bytes).map_err(|error| Error::io(format!("cannot write {}", self.partial.display()), error))
    }

    /// The next leaf.
    pub fn push(&mut self, noted: &Noted) -> Result<()> {
        self.put(&noted.leaf)?;
        self.put(&noted.crc.to_le_bytes())
    }

    /// Puts the record in its place. It is not forced to disk: what a power cut spoils is noticed and made anew.
    pub async fn finish(self) -> Result<()> {
        let path = self.path.clone();
        self.finish_as(path).await
    }

    /// Puts the record in another place of the same folder, whose name was not known when it was begun.
    pub async fn finish_as(self, path: PathBuf) -> Result<()> {
        off_thread("end a record", move || self.put_in_place(&path)).await
    }

    fn put_in_place(mut self, path: &Path) -> Result<()> {
        let sum = *self.hasher.finalize().as_bytes();
        let what = |error| Error::io(format!("cannot write {}", path.display()), error);
        self.file.write_all(&sum).and_then(|()| self.file.flush()).map_err(what)?;
        std::fs::rename(&self.partial, path).map_err(what)
    }
}

impl Drop for RecordWriter {
    fn drop(&mut self) {
        // after a rename there is nothing of that name
        let _ = std::fs::remove_file(&self.partial);
    }
}

/// The record of a snapshot: the one that is there, or one that is made by reading everything.
pub async fn of(reader: &dyn DiskRead, path: &Path) -> Result<Record> {
    let size = reader.size();
    if let Some(record) = Record::open(path.to_owned(), size).await {
        return Ok(record);
    }
    tracing::info!(disk = reader.describe(), "its hashes are not known here, so it is read once");
    let out = RecordWriter::create(path.to_owned(), size).await?;
    read(reader, None, Some(out), &disk::Silent).await?;
    Record::open(path.to_owned(), size).await.ok_or_else(|| {
        Error::new(Kind::Permanent, format!("cannot read {}", path.display())).because("it was just written")
    })
}

/// The leaves of an extent, block by block, with the bytes that each block has; several are read and hashed at once.
fn hashed(reader: &dyn DiskRead, extent: Extent) -> impl Stream<Item = Result<(Vec<Noted>, u64)>> + '_ {
    let starts = (extent.offset..extent.end()).step_by(BLOCK as usize);
    let reads = starts.map(move |from| async move {
        let bytes = reader.read_at(from, BLOCK.min(extent.end() - from) as usize).await?;
        let len = bytes.len() as u64;
        Ok((noted(bytes).await?, len))
    });
    stream::iter(reads).buffered(AHEAD)
}

/// The leaves of a disk on their way into its root and, if one is wanted, its record.
struct Tally<'a> {
    root: RootBuilder,
    out: Option<RecordWriter>,
    base: Option<&'a Record>,
    next: u64,
}

impl Tally<'_> {
    fn push(&mut self, noted: &Noted) -> Result<()> {
        self.root.push(self.next, noted.leaf);
        self.next += 1;
        self.out.as_mut().map_or(Ok(()), |out| out.push(noted))
    }

    /// What nobody reads up to this leaf is as the base says; without one it is zero.
    fn fill(&mut self, to: u64) -> Result<()> {
        while self.next < to {
            let noted = self.base.map_or_else(|| Ok(Noted::zero()), |base| base.noted(self.next))?;
            self.push(&noted)?;
        }
        Ok(())
    }
}

/// Reads a disk and answers its root and the bytes read. Of an incremental reader only what changed is read: the rest
/// is as `base` says. The leaves are put into `out`, whose record is then in its place.
pub async fn read(
    reader: &dyn DiskRead,
    base: Option<&Record>,
    out: Option<RecordWriter>,
    progress: &dyn Progress,
) -> Result<(DiskRoot, u64)> {
    let (mut total, mut at) = (0, 0);
    let mut tally = Tally { root: RootBuilder::new(reader.size()), out, base, next: 0 };
    while at < reader.size() {
        let list = reader.extents(at).await?;
        let Some(end) = list.as_slice().last().map(Extent::end) else { break };
        let data = || list.as_slice().iter().filter(|extent| extent.change != Change::Zero);
        progress.expect(total + data().map(|extent| extent.len).sum::<u64>());
        for extent in list.as_slice() {
            tally.fill(extent.offset / LEAF)?;
            if extent.change == Change::Zero {
                for _ in extent.offset / LEAF..extent.end().div_ceil(LEAF) {
                    tally.push(&Noted::zero())?;
                }
                continue;
            }
            let mut hashed = std::pin::pin!(hashed(reader, *extent));
            while let Some((leaves, bytes)) = hashed.try_next().await? {
                leaves.iter().try_for_each(|leaf| tally.push(leaf))?;
                total += bytes;
                progress.read(bytes);
                progress.looked(bytes);
            }
        }
        at = end;
    }
    tally.fill(reader.size().div_ceil(LEAF))?;
    if let Some(out) = tally.out {
        out.finish().await?;
    }
    Ok((tally.root.finish(), total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_record_is_whole_or_none() {
        let folder = tempfile::tempdir().unwrap();
        let (path, size) = (folder.path().join("leaves/snap-1"), 3 * LEAF + 512);
        let leaves: Vec<Noted> = (0..4).map(|seed| Noted::of(&[seed; 512])).collect();
        let mut out = RecordWriter::create(path.clone(), size).await.unwrap();
        leaves.iter().for_each(|leaf| out.push(leaf).unwrap());
        drop(out);
        assert!(Record::check(&path).is_none());
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
        let mut out = RecordWriter::create(path.clone(), size).await.unwrap();
        leaves.iter().for_each(|leaf| out.push(leaf).unwrap());
        out.finish().await.unwrap();
        let record = Record::check(&path).unwrap();
        assert_eq!(record.size, size);
        for (index, leaf) in leaves.iter().enumerate() {
            assert_eq!(record.noted(index as u64).unwrap(), *leaf);
        }
        assert_eq!(record.noted(4).unwrap(), Noted::zero());
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[40] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(Record::check(&path).is_none());
    }

    #[test]
    fn the_sum_of_a_range_is_that_of_its_leaves() {
        // the check value of CRC-64/NVME, which is Azure's polynomial too
        assert_eq!(crc_fast::checksum(Crc64Nvme, b"123456789"), 0xae8b_1486_0a79_9888);
        let bytes: Vec<u8> = (0..2 * LEAF + 700).map(|at| ((at * at) >> 7) as u8).collect();
        let all = bytes.chunks(LEAF as usize).map(|leaf| Noted::of(leaf).crc);
        let sum = all.reduce(|sum, next| joined(sum, next, LEAF as usize)).unwrap();
        let mut padded = bytes;
        padded.resize(3 * LEAF as usize, 0);
        assert_eq!(sum, crc_fast::checksum(Crc64Nvme, &padded));
    }
}

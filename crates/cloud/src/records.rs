//! What was written into a disk at a provider that has no such hashes, as a file of leaves in the scratch folder: an
//! update of the disk needs the leaves of all that it leaves alone, and reading them there would cost the whole disk.
//!
//! A record is a convenience. Where it is missing or does not fit, it is made anew by reading the disk; it appears
//! by a rename, so a crash leaves a whole one or none.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use disk::{DiskRead, LEAF, Leaf, Progress, RootBuilder, zero_leaf};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use model::{Change, DiskRoot, Error, Extent, Kind, Result};

/// Bytes that are read at once.
const BLOCK: u64 = 512 << 10;
const MAGIC: &[u8; 8] = b"RPLLEAF1";
/// Magic and size.
const HEAD: u64 = 16;
/// Blocks that are read ahead when a record is made anew.
const AHEAD: usize = 64;

/// Leaves that are read from a record at once.
const AT_ONCE: u64 = 1024;

/// The leaves of a disk.
#[derive(Debug)]
pub struct Record {
    file: File,
    size: u64,
    /// Those that were read last, from which one on: who reads goes forward.
    recent: Mutex<(u64, Vec<Leaf>)>,
}

impl Record {
    /// Opens a record, all of which is read and checked; none if there is none, or it is of something else or damaged.
    pub async fn open(path: PathBuf, size: u64) -> Option<Self> {
        Self::any(path).await.filter(|record| record.size == size)
    }

    /// The same, whatever the size of its disk.
    pub async fn any(path: PathBuf) -> Option<Self> {
        tokio::task::spawn_blocking(move || Self::check(&path)).await.ok().flatten()
    }

    fn check(path: &Path) -> Option<Self> {
        let mut file = File::open(path).ok()?;
        let mut head = [0; HEAD as usize];
        file.read_exact_at(&mut head, 0).ok()?;
        let size = u64::from_le_bytes(head[8..].try_into().ok()?);
        let mut hasher = blake3::Hasher::new();
        let body = size.div_ceil(LEAF).checked_mul(32)?.checked_add(HEAD)?;
        if &head[..8] != MAGIC || file.metadata().ok()?.len() != body.checked_add(32)? {
            return None;
        }
        let mut sum = [0; 32];
        file.read_exact_at(&mut sum, body).ok()?;
        file.seek(SeekFrom::Start(0)).ok()?;
        hasher.update_reader((&file).take(body)).ok()?;
        (hasher.finalize().as_bytes() == &sum).then(|| Self { file, size, recent: Mutex::default() })
    }

    /// One leaf; zero behind the end.
    pub fn leaf(&self, index: u64) -> Result<Leaf> {
        let count = self.size.div_ceil(LEAF);
        if index >= count {
            return Ok(zero_leaf());
        }
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let (first, at) = (index / AT_ONCE * AT_ONCE, (index % AT_ONCE) as usize);
        if recent.0 != first || recent.1.is_empty() {
            let mut leaves: Vec<Leaf> = vec![[0; 32]; AT_ONCE.min(count - first) as usize];
            let read = self.file.read_exact_at(leaves.as_flattened_mut(), HEAD + first * 32);
            read.map_err(|error| Error::io("cannot read the record of a disk", error))?;
            *recent = (first, leaves);
        }
        Ok(recent.1.get(at).copied().unwrap_or_else(zero_leaf))
    }
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
    pub fn create(path: PathBuf, size: u64) -> Result<Self> {
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
    pub fn push(&mut self, leaf: &Leaf) -> Result<()> {
        self.put(leaf)
    }

    /// Puts the record in its place. It is not forced to disk: what a power cut spoils is noticed and made anew.
    pub fn finish(self) -> Result<()> {
        let path = self.path.clone();
        self.finish_as(&path)
    }

    /// Puts the record in another place of the same folder, whose name was not known when it was begun.
    pub fn finish_as(mut self, path: &Path) -> Result<()> {
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
    let out = RecordWriter::create(path.to_owned(), size)?;
    read(reader, None, Some(out), &disk::Silent).await?;
    Record::open(path.to_owned(), size).await.ok_or_else(|| {
        Error::new(Kind::Permanent, format!("cannot read {}", path.display())).because("it was just written")
    })
}

/// The leaves of an extent, block by block, with the bytes that each block has; several are read and hashed at once.
fn hashed(reader: &dyn DiskRead, extent: Extent) -> impl Stream<Item = Result<(Vec<Leaf>, u64)>> + '_ {
    let starts = (extent.offset..extent.end()).step_by(BLOCK as usize);
    let reads = starts.map(move |from| async move {
        let bytes = reader.read_at(from, BLOCK.min(extent.end() - from) as usize).await?;
        let len = bytes.len() as u64;
        Ok((disk::leaves_of(bytes).await?, len))
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
    fn push(&mut self, leaf: &Leaf) -> Result<()> {
        self.root.push(self.next, *leaf);
        self.next += 1;
        self.out.as_mut().map_or(Ok(()), |out| out.push(leaf))
    }

    /// What nobody reads up to this leaf is as the base says; without one it is zero.
    fn fill(&mut self, to: u64) -> Result<()> {
        while self.next < to {
            let leaf = self.base.map_or_else(|| Ok(zero_leaf()), |base| base.leaf(self.next))?;
            self.push(&leaf)?;
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
                    tally.push(&zero_leaf())?;
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
    tally.out.map_or(Ok(()), RecordWriter::finish)?;
    Ok((tally.root.finish(), total))
}

#[cfg(test)]
mod tests {
    use disk::leaf;

    use super::*;

    #[test]
    fn a_record_is_whole_or_none() {
        let folder = tempfile::tempdir().unwrap();
        let (path, size) = (folder.path().join("leaves/snap-1"), 3 * LEAF + 512);
        let leaves: Vec<Leaf> = (0..4).map(|seed| leaf(&[seed; 512])).collect();
        let mut out = RecordWriter::create(path.clone(), size).unwrap();
        leaves.iter().for_each(|leaf| out.push(leaf).unwrap());
        drop(out);
        assert!(Record::check(&path).is_none());
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
        let mut out = RecordWriter::create(path.clone(), size).unwrap();
        leaves.iter().for_each(|leaf| out.push(leaf).unwrap());
        out.finish().unwrap();
        let record = Record::check(&path).unwrap();
        assert_eq!(record.size, size);
        for (index, leaf) in leaves.iter().enumerate() {
            assert_eq!(record.leaf(index as u64).unwrap(), *leaf);
        }
        assert_eq!(record.leaf(4).unwrap(), zero_leaf());
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[40] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(Record::check(&path).is_none());
    }
}

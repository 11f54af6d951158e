//! What was written into a snapshot, as a file of leaf hashes in the scratch folder: an update of it needs the hashes
//! of all that it leaves alone, and reading them from AWS would cost the whole disk.
//!
//! A record is a convenience. Where it is missing or does not fit, it is made anew by reading the snapshot; it appears
//! by a rename, so a crash leaves a whole one or none.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use disk::{DiskRead, LEAF, Leaf, Progress, RootBuilder, leaf, zero_leaf};
use futures::{StreamExt, TryStreamExt, stream};
use model::{Change, DiskRoot, Error, Kind, Result};

use super::blocks::BLOCK;

const MAGIC: &[u8; 8] = b"RPLLEAF1";
/// Magic and size.
const HEAD: u64 = 16;
/// Blocks that are read ahead when a record is made anew.
const AHEAD: usize = 16;

/// Where the record of a snapshot is.
pub(super) fn path(scratch: &Path, snapshot: &str) -> PathBuf {
    scratch.join("aws-leaves").join(snapshot)
}

/// The leaves of a disk.
#[derive(Debug)]
pub(super) struct Record {
    file: File,
    size: u64,
}

impl Record {
    /// Opens a record; none if there is none, or it is of something else or damaged.
    pub(super) fn open(path: &Path, size: u64) -> Option<Self> {
        let mut file = File::open(path).ok()?;
        let mut hasher = blake3::Hasher::new();
        let body = HEAD + size.div_ceil(LEAF) * 32;
        if file.metadata().ok()?.len() != body + 32 {
            return None;
        }
        let mut head = [0; HEAD as usize];
        file.read_exact_at(&mut head, 0).ok()?;
        if &head[..8] != MAGIC || head[8..] != size.to_le_bytes() {
            return None;
        }
        let mut sum = [0; 32];
        file.read_exact_at(&mut sum, body).ok()?;
        file.seek(SeekFrom::Start(0)).ok()?;
        hasher.update_reader((&file).take(body)).ok()?;
        (hasher.finalize().as_bytes() == &sum).then_some(Self { file, size })
    }

    /// One leaf; zero behind the end.
    pub(super) fn leaf(&self, index: u64) -> Result<Leaf> {
        if index >= self.size.div_ceil(LEAF) {
            return Ok(zero_leaf());
        }
        let mut leaf = [0; 32];
        let read = self.file.read_exact_at(&mut leaf, HEAD + index * 32);
        read.map_err(|error| Error::io("cannot read the record of a disk", error))?;
        Ok(leaf)
    }
}

/// A record that is being written; without [`finish`](Self::finish) nothing is left.
#[derive(Debug)]
pub(super) struct RecordWriter {
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    path: PathBuf,
    partial: PathBuf,
}

impl RecordWriter {
    pub(super) fn create(path: PathBuf, size: u64) -> Result<Self> {
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
    pub(super) fn push(&mut self, leaf: &Leaf) -> Result<()> {
        self.put(leaf)
    }

    /// Puts the record in its place. It is not forced to disk: what a power cut spoils is noticed and made anew.
    pub(super) fn finish(mut self) -> Result<()> {
        let sum = *self.hasher.finalize().as_bytes();
        let what = |error| Error::io(format!("cannot write {}", self.path.display()), error);
        self.file.write_all(&sum).and_then(|()| self.file.flush()).map_err(what)?;
        std::fs::rename(&self.partial, &self.path).map_err(what)
    }
}

impl Drop for RecordWriter {
    fn drop(&mut self) {
        // after a rename there is nothing of that name
        let _ = std::fs::remove_file(&self.partial);
    }
}

/// The record of a snapshot: the one that is there, or one that is made by reading everything.
pub(super) async fn of(reader: &dyn DiskRead, path: &Path) -> Result<Record> {
    let size = reader.size();
    if let Some(record) = Record::open(path, size) {
        return Ok(record);
    }
    tracing::info!(disk = reader.describe(), "its hashes are not known here, so it is read once");
    let mut out = RecordWriter::create(path.to_owned(), size)?;
    let mut at = 0;
    while at < size {
        let list = reader.extents(at).await?;
        for extent in list.as_slice() {
            if extent.change == Change::Zero {
                for _ in extent.offset / LEAF..extent.end().div_ceil(LEAF) {
                    out.push(&zero_leaf())?;
                }
                continue;
            }
            let starts = (extent.offset..extent.end()).step_by(BLOCK as usize);
            let reads = starts.map(|from| reader.read_at(from, BLOCK.min(extent.end() - from) as usize));
            let mut reads = stream::iter(reads).buffered(AHEAD);
            while let Some(bytes) = reads.try_next().await? {
                hash(&bytes, &mut out)?;
            }
        }
        at = list.as_slice().last().map_or(size, model::Extent::end);
    }
    out.finish()?;
    Record::open(path, size).ok_or_else(|| {
        Error::new(Kind::Permanent, format!("cannot read {}", path.display())).because("it was just written")
    })
}

fn hash(bytes: &Bytes, out: &mut RecordWriter) -> Result<()> {
    bytes.chunks(LEAF as usize).try_for_each(|piece| out.push(&leaf(piece)))
}

/// The root of a disk of which only what changed is read, and the bytes read: the rest is as `base` says.
pub(super) async fn root_of_changes(
    reader: &dyn DiskRead,
    base: &Record,
    progress: &dyn Progress,
) -> Result<(DiskRoot, u64)> {
    let (mut root, mut next, mut total) = (RootBuilder::new(reader.size()), 0, 0);
    let fill = |root: &mut RootBuilder, next: &mut u64, to: u64| -> Result<()> {
        while *next < to {
            root.push(*next, base.leaf(*next)?);
            *next += 1;
        }
        Ok(())
    };
    let mut at = 0;
    while at < reader.size() {
        let list = reader.extents(at).await?;
        let Some(end) = list.as_slice().last().map(model::Extent::end) else { break };
        progress.expect(total + list.as_slice().iter().map(|extent| extent.len).sum::<u64>());
        for extent in list.as_slice() {
            fill(&mut root, &mut next, extent.offset / LEAF)?;
            let starts = (extent.offset..extent.end()).step_by(BLOCK as usize);
            let reads = starts.map(|from| reader.read_at(from, BLOCK.min(extent.end() - from) as usize));
            let mut reads = stream::iter(reads).buffered(AHEAD);
            while let Some(bytes) = reads.try_next().await? {
                for piece in bytes.chunks(LEAF as usize) {
                    root.push(next, leaf(piece));
                    next += 1;
                }
                total += bytes.len() as u64;
                progress.read(bytes.len() as u64);
                progress.looked(bytes.len() as u64);
            }
        }
        at = end;
    }
    fill(&mut root, &mut next, reader.size().div_ceil(LEAF))?;
    Ok((root.finish(), total))
}

/// Forgets a snapshot. Absent is success; a leftover costs a file.
pub(super) fn forget(scratch: &Path, snapshot: &str) {
    let _ = std::fs::remove_file(path(scratch, snapshot));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_whole_or_none() {
        let folder = tempfile::tempdir().unwrap();
        let (path, size) = (path(folder.path(), "snap-1"), 3 * LEAF + 512);
        let leaves: Vec<Leaf> = (0..4).map(|seed| leaf(&[seed; 512])).collect();
        let mut out = RecordWriter::create(path.clone(), size).unwrap();
        leaves.iter().for_each(|leaf| out.push(leaf).unwrap());
        drop(out);
        assert!(Record::open(&path, size).is_none());
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
        let mut out = RecordWriter::create(path.clone(), size).unwrap();
        leaves.iter().for_each(|leaf| out.push(leaf).unwrap());
        out.finish().unwrap();
        let record = Record::open(&path, size).unwrap();
        for (index, leaf) in leaves.iter().enumerate() {
            assert_eq!(record.leaf(index as u64).unwrap(), *leaf);
        }
        assert_eq!(record.leaf(4).unwrap(), zero_leaf());
        assert!(Record::open(&path, size + LEAF).is_none());
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[40] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(Record::open(&path, size).is_none());
        forget(folder.path(), "snap-1");
        assert!(!path.exists());
    }
}

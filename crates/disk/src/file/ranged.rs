//! Disks in files that lie elsewhere and are read by ranges: an image at a cloud, an object in a bucket.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use model::{Error, Extent, ExtentList, Kind, Result};
use tokio::runtime::Handle;
use tokio::sync::OnceCell;

use super::Format;
use super::blocking::{FileDisk, run};
use super::qcow2::{self, Qcow2Disk, Storage};
use crate::transfer::CHUNK;
use crate::{Buffer, DiskRead};

/// Bytes that are fetched at once: as much as a transfer reads at once, so that both use the same buffers again and again.
const SEGMENT: u64 = CHUNK;
/// Segments that are kept. A transfer reads some 32 MiB ahead, in order.
const KEPT: usize = 36;

/// A file that is read by ranges.
#[async_trait]
pub trait Ranged: Send + Sync {
    /// Its length in bytes.
    fn len(&self) -> u64;

    /// Whether it has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads exactly `len` bytes at `offset`, which lie within the file.
    async fn read(&self, offset: u64, len: usize) -> Result<Bytes>;

    /// See [`DiskRead::conclude`].
    async fn conclude(&self) -> Result<()> {
        Ok(())
    }

    /// What it is, for messages: `image 7 of site dr-eu`.
    fn describe(&self) -> String;
}

/// Opens a disk in a file that lies elsewhere. Images that name other files are refused.
pub async fn open_ranged(file: Arc<dyn Ranged>, format: Format) -> Result<Box<dyn DiskRead>> {
    let file = Arc::new(Segments { file, kept: Mutex::default() });
    match format {
        Format::Raw => Ok(Box::new(RangedRaw(file))),
        Format::Qcow2 => {
            let storage = Box::new(RangedStorage { file: file.clone(), runtime: Handle::current() });
            run(move || {
                let name = format!("qcow2 disk in {}", file.file.describe());
                let disk = Arc::new(Qcow2Disk::open(storage, name, &qcow2::refuse_backing)?);
                Ok(Box::new(RangedQcow2 { file, parsed: FileDisk::shared(disk.clone()), disk }) as Box<dyn DiskRead>)
            })
            .await
        }
    }
}

type Segment = Arc<OnceCell<Bytes>>;

/// A file of which the last segments that were read are kept. Whoever wants a segment that is being fetched waits for
/// it; one that could not be fetched is asked for again.
struct Segments {
    file: Arc<dyn Ranged>,
    /// The last one fetched last. What a transfer has just used goes before what it is about to use.
    kept: Mutex<VecDeque<(u64, Segment)>>,
}

impl Segments {
    fn segment(&self, index: u64) -> Segment {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, found)) = kept.iter().find(|(known, _)| *known == index) {
            return found.clone();
        }
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        let segment = Segment::default();
        kept.push_back((index, segment.clone()));
        segment
    }

    async fn fetch(&self, index: u64) -> Result<Bytes> {
        let (start, segment) = (index * SEGMENT, self.segment(index));
        let len = (self.file.len() - start).min(SEGMENT) as usize;
        let bytes = segment
            .get_or_try_init(|| async {
                let bytes = self.file.read(start, len).await?;
                if bytes.len() != len {
                    let what = format!("cannot read {len} bytes at {start} of {}", self.file.describe());
                    return Err(Error::new(Kind::Damaged, what).because(format!("it gave {} bytes", bytes.len())));
                }
                Ok(bytes)
            })
            .await?;
        Ok(bytes.clone())
    }

    /// Reads a range within the file.
    async fn read(&self, offset: u64, len: usize) -> Result<Bytes> {
        let end = offset + len as u64;
        let within = |bytes: &Bytes, index: u64| {
            let start = index * SEGMENT;
            bytes.slice((offset.max(start) - start) as usize..(end.min(start + SEGMENT) - start) as usize)
        };
        let (first, last) = (offset / SEGMENT, (end.max(1) - 1) / SEGMENT);
        if first >= last {
            return Ok(within(&self.fetch(first).await?, first));
        }
        let (mut whole, mut have) = (Buffer::take(len), 0);
        for index in first..=last {
            let part = within(&self.fetch(index).await?, index);
            whole.as_mut()[have..have + part.len()].copy_from_slice(&part);
            have += part.len();
        }
        Ok(whole.freeze())
    }
}

/// A raw disk. A last sector that the file does not fill is filled up with zeroes.
struct RangedRaw(Arc<Segments>);

#[async_trait]
impl DiskRead for RangedRaw {
    fn size(&self) -> u64 {
        self.0.file.len().next_multiple_of(512)
    }

    async fn extents(&self, from: u64) -> Result<ExtentList> {
        let left = self.size().saturating_sub(from);
        Ok([Extent::data(from, left)].into_iter().collect())
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        if offset.checked_add(len as u64).is_none_or(|end| end > self.size()) {
            let what = format!("cannot read {len} bytes at {offset} of {}", self.describe());
            return Err(Error::new(Kind::Invalid, what).because(format!("its size is {} bytes", self.size())));
        }
        let have = self.0.file.len().saturating_sub(offset).min(len as u64) as usize;
        let bytes = self.0.read(offset, have).await?;
        if have == len {
            return Ok(bytes);
        }
        let mut padded = bytes.to_vec();
        padded.resize(len, 0);
        Ok(padded.into())
    }

    async fn conclude(&self) -> Result<()> {
        self.0.file.conclude().await
    }

    fn describe(&self) -> String {
        format!("raw disk in {}", self.0.file.describe())
    }
}

/// A qcow2 disk. Its parser runs on threads that may block, and they reach the file in any order; so what the parser needs
/// not be asked for is read past it, in the order in which a transfer asks: the file may come as a stream.
struct RangedQcow2 {
    file: Arc<Segments>,
    disk: Arc<Qcow2Disk>,
    parsed: FileDisk,
}

#[async_trait]
impl DiskRead for RangedQcow2 {
    fn size(&self) -> u64 {
        self.parsed.size()
    }

    async fn extents(&self, from: u64) -> Result<ExtentList> {
        self.parsed.extents(from).await
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let end = offset.checked_add(len as u64).filter(|end| *end <= self.size());
        match end.and_then(|_| self.disk.known_place(offset, len as u64)) {
            Some(place) => {
                let what = || format!("cannot read {len} bytes at {offset} of {}", self.describe());
                self.file.read(place, len).await.map_err(|error| error.within(what()))
            }
            None => self.parsed.read_at(offset, len).await,
        }
    }

    async fn conclude(&self) -> Result<()> {
        self.file.file.conclude().await
    }

    fn lists_holes(&self) -> bool {
        self.parsed.lists_holes()
    }

    fn describe(&self) -> String {
        self.parsed.describe()
    }
}

/// The bytes of a qcow2 file, for its parser, which runs on a thread that may block.
struct RangedStorage {
    file: Arc<Segments>,
    runtime: Handle,
}

impl Storage for RangedStorage {
    fn len(&self) -> u64 {
        self.file.file.len()
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let bytes = self.runtime.block_on(self.file.read(offset, buffer.len()))?;
        buffer.copy_from_slice(&bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests;

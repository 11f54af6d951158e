//! Raw disks: a file or a block device that is the disk, byte for byte. Holes of a file are zero extents.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::{Error, Extent, ExtentList, Kind, Result};
use rustix::fs::{Advice, SeekFrom, fadvise, seek};
use rustix::io::Errno;

use super::blocking::{Blocking, PAGE_OF_EXTENTS};
use crate::PlainRange;

/// A raw disk that is read.
pub(super) struct RawDisk {
    file: Arc<File>,
    path: PathBuf,
    /// Bytes that the file has.
    len: u64,
    /// `len`, up to a whole sector: the missing rest reads as zero, as QEMU has it.
    size: u64,
}

impl RawDisk {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let wrong = |e: std::io::Error| Error::io(format!("cannot open disk {}", path.display()), e);
        let file = Arc::new(File::open(path).map_err(wrong)?);
        if file.metadata().map_err(wrong)?.is_dir() {
            let what = format!("cannot open disk {}", path.display());
            return Err(Error::new(Kind::Invalid, what).because("it is a directory"));
        }
        // a block device tells its length by seeking only
        let len = seek(&file, SeekFrom::End(0)).map_err(|e| wrong(e.into()))?;
        // advice: a file system that cannot take it reads all the same
        let _ = fadvise(&file, 0, None, Advice::Sequential);
        let size = len.checked_next_multiple_of(512).ok_or_else(|| wrong(std::io::ErrorKind::FileTooLarge.into()))?;
        Ok(Self { file, path: path.to_owned(), len, size })
    }

    fn wrong(&self, error: std::io::Error) -> Error {
        Error::io(format!("cannot read {}", self.describe()), error)
    }

    /// The next range with data at or after `from`, in whole sectors.
    fn next_data(&self, from: u64) -> Result<Option<(u64, u64)>> {
        if from >= self.len {
            return Ok(None);
        }
        let start = match seek(&self.file, SeekFrom::Data(from)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(None),
            // no map to be had (block devices, some network file systems): everything is data
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((from, self.size))),
            Err(error) => return Err(self.wrong(error.into())),
        };
        let end = match seek(&self.file, SeekFrom::Hole(start)) {
            Ok(end) => end,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => self.size,
            // the file was cut while it is read
            Err(error) => return Err(self.wrong(error.into())),
        };
        Ok(Some((start / 512 * 512, end.next_multiple_of(512).min(self.size))))
    }
}

impl Blocking for RawDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn extents(&self, from: u64) -> Result<ExtentList> {
        let mut list = ExtentList::new();
        let mut at = from;
        while at < self.size && list.as_slice().len() < PAGE_OF_EXTENTS {
            let (start, end) = match self.next_data(at)? {
                Some((start, end)) => (start.max(at), end.max(at)),
                None => (self.size, self.size),
            };
            list.push(Extent::zero(at, start - at));
            list.push(Extent::data(start, end - start));
            at = end.max(start);
        }
        Ok(list)
    }

    fn lists_holes(&self) -> bool {
        // a device has no map
        self.file.metadata().is_ok_and(|about| about.is_file())
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let have = self.len.saturating_sub(offset).min(buffer.len() as u64) as usize;
        let (data, pad) = buffer.split_at_mut(have);
        pad.fill(0);
        match self.file.read_exact_at(data, offset) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                let what = format!("cannot read {} bytes at {offset} of {}", data.len(), self.describe());
                Err(Error::new(Kind::Damaged, what).because("the file became shorter while it was read"))
            }
            other => other.map_err(|e| self.wrong(e)),
        }
    }

    fn plain_range(&self, offset: u64, len: u64) -> Option<PlainRange> {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.len);
        inside.then(|| PlainRange { file: self.file.clone(), offset })
    }

    fn describe(&self) -> String {
        format!("raw disk {}", self.path.display())
    }
}

//! Where a disk file lies: beside its final name until it is whole.

use std::fs::{File, OpenOptions};
use std::io::{Error as IoError, ErrorKind};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::{Error, Kind, Result, crash};
use rustix::fs::{
    CWD, FallocateFlags, FlockOperation, Mode, OFlags, RenameFlags, copy_file_range, fallocate, flock, ioctl_ficlone,
    openat, renameat_with,
};
use rustix::io::Errno;

use super::super::Format;
use super::Purpose;
use super::output::Output;
use crate::PlainRange;

/// A file that is being written. Dropped before it is published, it is removed; after a crash its `.partial` stays,
/// and the next writer of the same name takes it over.
pub(super) struct Place {
    output: Arc<Output>,
    path: PathBuf,
    /// `None`: a block device, which is written where it is.
    partial: Option<PathBuf>,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "disk {}", self.path.display())
    }
}

impl Place {
    pub(super) fn create(path: &Path, format: Format, size: u64, purpose: Purpose) -> Result<Self> {
        let what = || format!("cannot create disk {}", path.display());
        match std::fs::metadata(path) {
            Ok(meta) if meta.file_type().is_block_device() => return Self::device(path, format, size),
            Ok(_) => return Err(exists(path)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io(what(), error)),
        }
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        crash::point("disk.create.before");
        let file = own(&partial).map_err(|e| Error::io(what(), e))?;
        file.set_len(0).map_err(|e| Error::io(what(), e))?;
        if format == Format::Raw {
            // the full length from the start: the file system refuses what it cannot hold now, not after hours
            file.set_len(size).map_err(|e| Error::io(what(), e))?;
        }
        crash::point("disk.create.after");
        let output = if purpose == Purpose::Scratch { Output::cached(file) } else { Output::new(file, &partial) };
        Ok(Self { output: Arc::new(output), path: path.to_owned(), partial: Some(partial) })
    }

    fn device(path: &Path, format: Format, size: u64) -> Result<Self> {
        let what = || format!("cannot write block device {}", path.display());
        if format != Format::Raw {
            return Err(Error::new(Kind::Invalid, what()).because(format!("a device takes raw disks, not {format}")));
        }
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(|e| Error::io(what(), e))?;
        let len = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0)).map_err(|e| Error::io(what(), e.into()))?;
        if len < size {
            return Err(Error::new(Kind::Quota, what()).because(format!("it has {len} bytes, the disk has {size}")));
        }
        Ok(Self { output: Arc::new(Output::new(file, path)), path: path.to_owned(), partial: None })
    }

    pub(super) fn is_device(&self) -> bool {
        self.partial.is_none()
    }

    pub(super) fn output(&self) -> Arc<Output> {
        self.output.clone()
    }

    /// Tells whether bytes of other files can be shared here.
    pub(super) fn probe(&self) -> Probe {
        Probe { folder: folder_of(&self.path).to_owned() }
    }

    /// Gives the file, which must be synced, its name, durably. Never replaces another file.
    pub(super) fn publish(mut self) -> Result<()> {
        let Some(partial) = self.partial.take() else { return Ok(()) };
        let what = format!("cannot create disk {}", self.path.display());
        crash::point("disk.publish.before");
        match renameat_with(CWD, &partial, CWD, &self.path, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                // a file system without that flag: a link does not replace either
                std::fs::hard_link(&partial, &self.path).map_err(|e| Error::io(what.clone(), e))?;
                std::fs::remove_file(&partial).map_err(|e| Error::io(what.clone(), e))?;
            }
            Err(Errno::EXIST) => {
                self.partial = Some(partial);
                return Err(exists(&self.path));
            }
            other => other.map_err(|e| Error::io(what.clone(), e.into()))?,
        }
        File::open(folder_of(&self.path)).and_then(|folder| folder.sync_all()).map_err(|e| Error::io(what, e))?;
        crash::point("disk.publish.after");
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(partial) = &self.partial {
            // what cannot be removed is taken over by the next writer of that name
            let _ = std::fs::remove_file(partial);
        }
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn exists(path: &Path) -> Error {
    Error::new(Kind::Exists, format!("cannot create disk {}", path.display()))
        .because("there is a file of that name")
        .hint("remove it, or choose another name")
}

/// Opens a partial file, which nobody else may be writing. A lock tells the living from what a crash left.
fn own(partial: &Path) -> std::io::Result<File> {
    loop {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(partial)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => {
                let what = format!("{} is being written by another run", partial.display());
                return Err(IoError::new(ErrorKind::AlreadyExists, what));
            }
            other => other?,
        }
        // the owner before may have published or removed it between our open and our lock
        match std::fs::metadata(partial) {
            Ok(meta) if meta.ino() == file.metadata()?.ino() => return Ok(file),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
}

/// Lets the kernel take a range from another file: it shares the bytes where the file system can (a reflink), and copies them otherwise.
/// `false` if it did not take all of it.
pub(super) fn take(source: &PlainRange, target: &File, mut to: u64, len: u64) -> bool {
    let mut from = source.offset;
    let end = from + len;
    while from < end {
        let left = (end - from) as usize;
        match copy_file_range(&source.file, Some(&mut from), target, Some(&mut to), left) {
            Ok(0) | Err(_) => return false,
            Ok(_) => {}
        }
    }
    true
}

/// Copies a range by reading and writing, where the kernel does not take it.
pub(super) fn copy(source: &PlainRange, target: &File, to: u64, len: u64) -> std::io::Result<()> {
    let mut buffer = vec![0; len.min(1 << 20) as usize];
    let mut done = 0;
    while done < len {
        let part = &mut buffer[..(len - done).min(1 << 20) as usize];
        source.file.read_exact_at(part, source.offset + done)?;
        target.write_all_at(part, to + done)?;
        done += part.len() as u64;
    }
    Ok(())
}

/// Finds out whether the file system of a folder shares bytes between files.
pub(super) struct Probe {
    folder: PathBuf,
}

impl Probe {
    /// Shares a block between two files that have no name. What cannot be tried counts as no.
    pub(super) fn shares(&self) -> bool {
        let nameless = || openat(CWD, &self.folder, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR);
        let Ok((one, two)) = nameless().and_then(|one| nameless().map(|two| (File::from(one), File::from(two)))) else {
            return false;
        };
        one.write_all_at(&[1; 65536], 0).is_ok() && ioctl_ficlone(&two, &one).is_ok()
    }
}

/// Makes a range of a block device zero, by the device itself where it can.
pub(super) fn zero_device(file: &File, offset: u64, len: u64) -> std::io::Result<()> {
    for flags in [FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, FallocateFlags::ZERO_RANGE] {
        match fallocate(file, flags, offset, len) {
            Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS | Errno::NODEV) => {}
            other => return Ok(other?),
        }
    }
    let zeroes = vec![0; len.min(1024 * 1024) as usize];
    let mut done = 0;
    while done < len {
        let part = (len - done).min(zeroes.len() as u64);
        file.write_all_at(&zeroes[..part as usize], offset + done)?;
        done += part;
    }
    Ok(())
}

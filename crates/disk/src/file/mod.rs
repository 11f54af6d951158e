//! Disks in files: raw (files and block devices) and qcow2, read and written.
//!
//! The format is always stated by whoever knows it. [`detect`] is for a person who did not say: a raw disk's first
//! bytes belong to its guest, which can make them look like any format it likes.

mod blocking;
mod check;
mod leaves;
mod qcow2;
mod ranged;
mod raw;
#[cfg(test)]
mod tests;
mod write;

use std::io::Read;
use std::path::{Path, PathBuf};

use model::{Error, Kind, Result};
use serde::{Deserialize, Serialize};

pub use self::blocking::FileDisk;
use self::blocking::{Blocking, run};
pub use self::check::check_written;
use self::leaves::Leaves;
pub use self::leaves::leaves_path;
use self::qcow2::{FileStorage, Qcow2Disk};
pub use self::ranged::{Ranged, open_ranged};
use self::raw::RawDisk;
use self::write::Purpose;
pub use self::write::{Base, FileWriter, Output, Qcow2Plan, Qcow2Stream};
use crate::{DiskRead, DiskWrite};

/// Longest chain of backing files that is followed.
const LONGEST_CHAIN: usize = 16;

/// How a file holds a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Byte for byte; also block devices.
    Raw,
    /// QEMU's own, version 2 or 3.
    Qcow2,
}

impl Format {
    /// Its name, as QEMU has it.
    pub fn name(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
        }
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Format {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "raw" => Ok(Format::Raw),
            "qcow2" => Ok(Format::Qcow2),
            _ => Err(Error::new(Kind::Invalid, format!("cannot tell what format `{text}` is"))
                .hint("the formats are raw and qcow2")),
        }
    }
}

/// What opening a disk file may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenOptions {
    /// Follow backing files that the image names. Only for images that this host made: an image can name any file
    /// that the process may read.
    pub backing: bool,
}

/// Opens a disk in a file, which must be of the format stated. Images that name other files are refused.
pub async fn open_file(path: impl AsRef<Path>, format: Format) -> Result<Box<dyn DiskRead>> {
    open_file_with(path, format, OpenOptions::default()).await
}

/// [`open_file`], with options.
pub async fn open_file_with(path: impl AsRef<Path>, format: Format, options: OpenOptions) -> Result<Box<dyn DiskRead>> {
    let path = path.as_ref().to_owned();
    run(move || {
        let disk = match format {
            Format::Raw => FileDisk::new(RawDisk::open(&path)?),
            Format::Qcow2 => FileDisk::new(open_qcow2(&path, options, 0)?),
        };
        Ok(Box::new(disk) as Box<dyn DiskRead>)
    })
    .await
}

/// Makes a disk of `size` bytes at `path`, which must not exist yet (a block device must, and is overwritten).
///
/// With a `base` the disk begins as a copy of it: what is not written is the base's. The base may be of any format
/// and is not changed. The file is written beside its place, as `<path>.partial`, and gets its name in
/// [`DiskWrite::finish`]: a file of that name is whole.
pub async fn create_file(
    path: impl AsRef<Path>,
    format: Format,
    size: u64,
    base: Option<Box<dyn DiskRead>>,
) -> Result<Box<dyn DiskWrite>> {
    let path = path.as_ref().to_owned();
    Ok(Box::new(run(move || FileWriter::create(&path, format, size, base.map(Base::from), Purpose::Kept)).await?))
}

/// [`create_file`] for a disk that others will build on: its leaves are recorded beside it, and those of the base are
/// used, so that an increment costs what changed.
pub async fn create_recorded(
    path: impl AsRef<Path>,
    format: Format,
    size: u64,
    base: Option<Base>,
) -> Result<Box<dyn DiskWrite>> {
    let path = path.as_ref().to_owned();
    Ok(Box::new(run(move || FileWriter::create(&path, format, size, base, Purpose::Base)).await?))
}

/// [`create_file`] for a file that nobody needs after a crash: nothing of it is made durable.
pub async fn create_scratch(path: impl AsRef<Path>, format: Format, size: u64) -> Result<Box<dyn DiskWrite>> {
    let path = path.as_ref().to_owned();
    Ok(Box::new(run(move || FileWriter::create(&path, format, size, None, Purpose::Scratch)).await?))
}

fn open_qcow2(path: &Path, options: OpenOptions, depth: usize) -> Result<Qcow2Disk> {
    let storage = Box::new(FileStorage::open(path)?);
    let name = format!("qcow2 disk {}", path.display());
    if !options.backing {
        return Qcow2Disk::open(storage, name, &qcow2::refuse_backing);
    }
    Qcow2Disk::open(storage, name, &|file, format| open_backing(path, file, format, options, depth + 1))
}

fn open_backing(
    path: &Path,
    file: &str,
    format: Option<&str>,
    options: OpenOptions,
    depth: usize,
) -> Result<Box<dyn Blocking>> {
    let refuse = |why: &str| Error::new(Kind::Invalid, format!("cannot follow the backing file {file:?}")).because(why);
    if depth > LONGEST_CHAIN {
        return Err(refuse("the chain of backing files is too long, or a circle"));
    }
    // "json:", "nbd:" and the like: QEMU opens them, and they reach anywhere
    if file.split('/').next().is_some_and(|first| first.contains(':')) {
        return Err(refuse("it is not a plain file name"));
    }
    let backing: PathBuf = path.parent().unwrap_or(Path::new(".")).join(file);
    match format {
        Some("raw") => Ok(Box::new(RawDisk::open(&backing)?)),
        Some("qcow2") => Ok(Box::new(open_qcow2(&backing, options, depth)?)),
        Some(other) => Err(refuse(&format!("its format {other:?} is not supported"))),
        // probing is how a guest of a raw disk gets to read files of the host
        None => Err(refuse("the image does not state its format").hint("state it with qemu-img rebase -u -F")),
    }
}

/// The format of a file whose format nobody stated, by its magic; `None` if it has none (then it may be raw). A
/// format that is known but not supported is [`Kind::Invalid`].
///
/// Say to the person what was found. Never use it on a disk that a guest has written and that is known to be raw.
pub async fn detect(path: impl AsRef<Path>) -> Result<Option<Format>> {
    let path = path.as_ref().to_owned();
    run(move || {
        let wrong = |e: std::io::Error| Error::io(format!("cannot open disk {}", path.display()), e);
        let mut head = Vec::new();
        std::fs::File::open(&path).and_then(|file| file.take(512).read_to_end(&mut head)).map_err(wrong)?;
        if head.starts_with(&qcow2::MAGIC) && matches!(head.get(4..8), Some([0, 0, 0, 2 | 3])) {
            return Ok(Some(Format::Qcow2));
        }
        let known: [(&[u8], &str); 5] = [
            (b"KDMV", "VMDK"),
            (b"# Disk DescriptorFile", "VMDK"),
            (b"vhdxfile", "VHDX"),
            (b"conectix", "VHD"),
            (b"<<< Oracle VM VirtualBox Disk Image >>>", "VDI"),
        ];
        match known.iter().find(|(magic, _)| head.starts_with(magic)) {
            Some((_, name)) => {
                let error = Error::new(Kind::Invalid, format!("cannot read disk {}", path.display()));
                let hint = "convert it to qcow2 with qemu-img convert, or state the format if it is another";
                Err(error.because(format!("it looks like {name}, which is not supported")).hint(hint))
            }
            None => Ok(None),
        }
    })
    .await
}

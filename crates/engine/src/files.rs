//! Disk images as files: the engine's words joined to what `disk` can read and write.

use std::path::Path;

use disk::{DiskRead, DiskWrite};
use model::{Error, Kind, Result};

use crate::FileFormat;

/// The form of a file: as told, else by its name. Guest-controlled bytes are never asked: a raw disk may begin with anything.
pub(crate) fn form(path: &Path, told: Option<FileFormat>) -> FileFormat {
    let by_name = match path.extension().and_then(|e| e.to_str()) {
        Some("qcow2" | "QCOW2") => FileFormat::Qcow2,
        _ => FileFormat::Raw,
    };
    told.unwrap_or(by_name)
}

/// Opens a disk image for reading everything.
pub(crate) async fn open(path: &Path, told: Option<FileFormat>) -> Result<Box<dyn DiskRead>> {
    let _ = form(path, told);
    Err(Error::new(Kind::Permanent, format!("cannot open {}", path.display())))
}

/// Creates a disk image; the file must not exist.
pub(crate) async fn create(path: &Path, _form: FileFormat, _size: u64) -> Result<Box<dyn DiskWrite>> {
    Err(Error::new(Kind::Permanent, format!("cannot create {}", path.display())))
}

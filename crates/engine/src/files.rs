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

/// Opens a disk image for reading everything. Where neither the person nor the name states the format and the file
/// begins as that of a known one, the person decides: a raw disk's guest can write any beginning.
pub(crate) async fn open(path: &Path, told: Option<FileFormat>) -> Result<Box<dyn DiskRead>> {
    let named = matches!(path.extension().and_then(|e| e.to_str()), Some("raw" | "qcow2" | "QCOW2"));
    if told.is_none()
        && !named
        && let Some(found) = disk::detect(path).await?
    {
        return Err(Error::new(Kind::Invalid, format!("cannot open {}", path.display()))
            .because(format!("its name does not tell the format, and it begins as a {found} file"))
            .hint(format!("state the format: {found}, or raw if a guest wrote that beginning")));
    }
    disk::open_file(path, format(form(path, told))).await
}

/// Creates a disk image; the file must not exist.
pub(crate) async fn create(path: &Path, form: FileFormat, size: u64) -> Result<Box<dyn DiskWrite>> {
    disk::create_file(path, format(form), size, None).await
}

fn format(form: FileFormat) -> disk::Format {
    match form {
        FileFormat::Raw => disk::Format::Raw,
        FileFormat::Qcow2 => disk::Format::Qcow2,
    }
}

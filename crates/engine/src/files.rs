//! Disk images as files: the engine's words joined to what `disk` can read and write.

use std::path::{Path, PathBuf};

use disk::{DiskRead, DiskWrite, Format};
use model::{Error, Kind, Result};

use crate::FileFormat;

/// The form of a file: as told, else by its name. Guest-controlled bytes are never asked: a raw disk may begin with anything.
fn form(path: &Path, told: Option<FileFormat>) -> Format {
    let by_name = match path.extension().and_then(|e| e.to_str()) {
        Some("qcow2" | "QCOW2") => FileFormat::Qcow2,
        _ => FileFormat::Raw,
    };
    match told.unwrap_or(by_name) {
        FileFormat::Raw => Format::Raw,
        FileFormat::Qcow2 => Format::Qcow2,
    }
}

/// Opens a disk image for reading everything.
pub(crate) async fn open(path: &Path, told: Option<FileFormat>) -> Result<Box<dyn DiskRead>> {
    disk::open_file(path, form(path, told)).await
}

/// A file that is being restored. It gets its name only after its root was compared.
pub(crate) struct Restored {
    path: PathBuf,
    unchecked: PathBuf,
}

impl Restored {
    /// Creates the file beside its place; its own name must be free.
    pub(crate) async fn create(path: &Path, told: FileFormat, size: u64) -> Result<(Self, Box<dyn DiskWrite>)> {
        let operation = || format!("cannot restore to {}", path.display());
        if path.symlink_metadata().is_ok() {
            return Err(Error::new(Kind::Exists, operation())
                .because("the file exists")
                .hint("name another file, or move this one away"));
        }
        let mut unchecked = path.as_os_str().to_owned();
        unchecked.push(".unchecked");
        let restored = Self { path: path.to_owned(), unchecked: unchecked.into() };
        restored.discard();
        let writer = disk::create_file(&restored.unchecked, form(path, Some(told)), size, None).await;
        Ok((restored, writer.map_err(|error| error.within(operation()))?))
    }

    /// Gives the file its name. Never replaces one that came up meanwhile.
    pub(crate) fn keep(self) -> Result<PathBuf> {
        let operation = || format!("cannot restore to {}", self.path.display());
        let (here, flags) = (rustix::fs::CWD, rustix::fs::RenameFlags::NOREPLACE);
        model::crash::point("restore.rename.before");
        rustix::fs::renameat_with(here, &self.unchecked, here, &self.path, flags)
            .map_err(|error| Error::io(operation(), error.into()))?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(|e| Error::io(operation(), e))?;
        model::crash::point("restore.rename.after");
        Ok(self.path.clone())
    }

    /// Removes what was written.
    pub(crate) fn discard(&self) {
        let mut partial = self.unchecked.as_os_str().to_owned();
        partial.push(".partial");
        for path in [self.unchecked.as_path(), Path::new(&partial)] {
            // absent is what we want
            let _ = std::fs::remove_file(path);
        }
    }
}

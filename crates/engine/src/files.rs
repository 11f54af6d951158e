//! Disk images as files: the engine's words joined to what `disk` can read and write.

use std::path::{Path, PathBuf};

use disk::{DiskRead, DiskWrite, Format};
use model::{DiskName, Error, Kind, PointDisk, RestorePoint, Result};

use crate::choose::Source;
use crate::records::RunRecord;
use crate::restore::{Made, Tried};
use crate::{Engine, FileFormat};

/// Ledger name of the note that says where files are being written.
const FILES: &str = "restore-files";

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
struct Restored {
    path: PathBuf,
    unchecked: PathBuf,
}

impl Restored {
    fn at(path: &Path) -> Self {
        let mut unchecked = path.as_os_str().to_owned();
        unchecked.push(".unchecked");
        Self { path: path.to_owned(), unchecked: unchecked.into() }
    }

    /// Creates the file beside its place; its own name must be free.
    async fn create(path: &Path, told: FileFormat, size: u64) -> Result<(Self, Box<dyn DiskWrite>)> {
        let operation = || format!("cannot restore to {}", path.display());
        if path.symlink_metadata().is_ok() {
            return Err(Error::new(Kind::Exists, operation())
                .because("the file exists")
                .hint("name another file, or move this one away"));
        }
        let restored = Self::at(path);
        restored.discard();
        let writer = disk::create_file(&restored.unchecked, form(path, Some(told)), size, None).await;
        Ok((restored, writer.map_err(|error| error.within(operation()))?))
    }

    /// Gives the file its name. Never replaces one that came up meanwhile.
    fn keep(self) -> Result<PathBuf> {
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
    fn discard(&self) {
        let mut partial = self.unchecked.as_os_str().to_owned();
        partial.push(".partial");
        for path in [self.unchecked.as_path(), Path::new(&partial)] {
            // absent is what we want
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Engine {
    /// Writes disks of a point into files. The journal says first where, so that a start after a crash removes what was not finished.
    pub(crate) async fn write_files(
        &self,
        run: &RunRecord,
        point: &RestorePoint,
        source: &Source,
        path: &Path,
        format: FileFormat,
        disks: &[&PointDisk],
    ) -> Tried<Made> {
        if disks.is_empty() {
            return Err(Error::new(Kind::NotFound, format!("no such disk in point {}", point.id))
                .hint("see the disks with `replicate points --json`")
                .into());
        }
        let named = |disk: &&PointDisk| if disks.len() == 1 { path.to_owned() } else { with_disk(path, &disk.name) };
        let paths: Vec<PathBuf> = disks.iter().map(named).collect();
        self.step_note(&run.id, FILES, &paths).await?;
        let mut made = Made::default();
        let mut written = Vec::new();
        for (disk, path) in disks.iter().zip(&paths) {
            let (file, writer) = Restored::create(path, format, disk.size).await?;
            written.push(file);
            match self.copy(run, point, source, disk, writer).await {
                Ok(bytes) => made.bytes += bytes,
                Err(error) => {
                    written.iter().for_each(Restored::discard);
                    return Err(error);
                }
            }
        }
        for file in written {
            made.files.push(file.keep()?);
        }
        Ok(made)
    }

    /// Removes what a dead restore had not finished; a file that has its name is whole, and belongs to whoever asked for it.
    pub(crate) async fn files_gone(&self, run: &RunRecord) -> Result<()> {
        let paths: Option<Vec<PathBuf>> = self.step_done(&run.id, FILES).await?;
        paths.unwrap_or_default().iter().for_each(|path| Restored::at(path).discard());
        Ok(())
    }
}

fn with_disk(path: &Path, disk: &DiskName) -> PathBuf {
    let stem = path.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned());
    let safe = disk.as_str().replace('/', "_");
    match path.extension() {
        Some(extension) => path.with_file_name(format!("{stem}-{safe}.{}", extension.to_string_lossy())),
        None => path.with_file_name(format!("{stem}-{safe}")),
    }
}

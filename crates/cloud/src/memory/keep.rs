//! Keeps a memory cloud in a folder, so that it outlives a killed process: what a crash sweep needs.
//!
//! `state.json` is replaced by a rename after every effect; chunks of disks are files named by their bytes and are never
//! rewritten. Nothing is flushed to the medium: a killed process is survived, a power cut is not.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use model::{Error, Kind, Result};

use super::state::Inner;

/// A folder that holds a cloud. One process at a time.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// Opens a folder, made if it is absent, and reads the cloud in it.
    pub(super) fn open(path: &Path) -> Result<(Self, Inner)> {
        let operation = || format!("cannot open the memory cloud in {}", path.display());
        std::fs::create_dir_all(path.join("chunks")).map_err(|error| Error::io(operation(), error))?;
        let folder = Self(path.to_owned());
        let text = match std::fs::read(path.join("state.json")) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((folder, Inner::default())),
            Err(error) => return Err(Error::io(operation(), error)),
        };
        let mut inner: Inner =
            serde_json::from_slice(&text).map_err(|error| Error::new(Kind::Damaged, operation()).because(error))?;
        for disk in inner.every_disk() {
            disk.load(|name| {
                let chunk = std::fs::read(folder.chunk(name)).map_err(|error| Error::io(operation(), error))?;
                Ok(Bytes::from(chunk))
            })?;
        }
        Ok((folder, inner))
    }

    /// Writes the cloud down.
    pub(super) fn save(&self, inner: &mut Inner) -> Result<()> {
        let operation = || format!("cannot keep the memory cloud in {}", self.0.display());
        let replace = |path: &Path, bytes: &[u8]| {
            let fresh = path.with_extension("new");
            std::fs::write(&fresh, bytes).and_then(|()| std::fs::rename(&fresh, path))
        };
        for disk in inner.every_disk() {
            disk.save(|name, chunk| {
                let path = self.chunk(name);
                if path.exists() {
                    return Ok(());
                }
                replace(&path, chunk).map_err(|error| Error::io(operation(), error))
            })?;
        }
        let text =
            serde_json::to_vec(inner).map_err(|error| Error::new(Kind::Permanent, operation()).because(error))?;
        replace(&self.0.join("state.json"), &text).map_err(|error| Error::io(operation(), error))
    }

    fn chunk(&self, name: &str) -> PathBuf {
        self.0.join("chunks").join(name)
    }
}

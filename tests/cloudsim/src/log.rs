//! What happened, as JSON lines on disk: every call with what it asked for and may be permitted to do, and every hit
//! of a fault rule. From the first a least-privilege policy can be derived and requests be checked against the
//! provider's own models.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

/// A file of JSON lines.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: Mutex<File>,
}

impl Log {
    pub(crate) fn open(folder: &Path, name: &str) -> std::io::Result<Self> {
        let path = folder.join(name);
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        Ok(Self { path, file: Mutex::new(file) })
    }

    /// Adds a line. A full disk loses it: the call itself has been answered.
    pub(crate) fn add(&self, line: &Value) {
        let mut text = line.to_string();
        text.push('\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = file.write_all(text.as_bytes());
    }

    /// The lines after the first `skip`. The last is left out if it is not whole.
    pub(crate) fn read(&self, skip: usize) -> std::io::Result<Vec<Value>> {
        let text = std::fs::read_to_string(&self.path)?;
        Ok(text.lines().skip(skip).filter_map(|line| serde_json::from_str(line).ok()).collect())
    }
}

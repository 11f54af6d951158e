//! The record of a capture: what was (or may have been) made for it in the guest and on the host.
//!
//! It is written durably before the guest is touched, so that whoever comes after a crash can undo everything; it
//! lies in the capture's folder in the scratch directory and travels in `Capture::handle`. Names in the guest are
//! derived from the token: `rpl-<owner>-<capture>-...`, both hashed, because QEMU's node names have at most 31
//! characters.
//!
//! A committed capture leaves its bitmap in the guest and a **cursor file** `cursors/<bitmap>.json` here, which
//! tells whose it is and how large the disks were.

use std::path::{Path, PathBuf};

use model::{DiskName, Error, Kind, OwnerId, PolicyName, Result, Token};
use serde::{Deserialize, Serialize};

use super::guest::PREFIX;
use super::sidecar::Format;
use crate::Capture;

/// How the old bytes of a disk are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Method {
    /// A copy-before-write filter over the disk: if the scratch space runs out, the capture breaks.
    Filter,
    /// A backup job: if the scratch space runs out, the guest stops.
    Job,
    /// The guest cannot write to the disk.
    Static,
    /// The server is off: its file is read, and watched for changes.
    Offline,
}

/// A disk of the capture.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SessionDisk {
    pub(super) name: DiskName,
    pub(super) size: u64,
    pub(super) method: Method,
    /// Its file, for when the guest is off at the end.
    pub(super) file: PathBuf,
    pub(super) format: Format,
    /// QOM path of the device; empty if the server was off.
    pub(super) device: String,
    /// The disk's own node; empty if the server was off.
    pub(super) node: String,
    /// Whether the new bitmap is made on it, and whether QEMU stores it with the disk.
    pub(super) tracked: bool,
    pub(super) persistent: bool,
    /// Whether the base's bitmap fits.
    pub(super) incremental: bool,
    pub(super) reason: Option<String>,
    /// Of an offline disk: its file as it was, to notice that the server was started.
    pub(super) stamp: Option<String>,
}

/// A capture's record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Session {
    /// `<owner hash>-<token hash>`: names everything of it.
    pub(super) key: String,
    pub(super) token: Token,
    pub(super) monitor: PathBuf,
    pub(super) agent: Option<PathBuf>,
    /// Whether the guest's file systems may be frozen by us.
    pub(super) frozen: bool,
    /// Whether the guest may be paused by us.
    pub(super) paused: bool,
    /// The hook that must still run.
    pub(super) after: Vec<String>,
    /// The bitmap that records changes from this capture on.
    pub(super) bitmap: String,
    /// The bitmap of the base.
    pub(super) since: Option<String>,
    /// Socket of the guest's NBD server; shared by the captures of one guest, which follow each other.
    pub(super) nbd: PathBuf,
    pub(super) disks: Vec<SessionDisk>,
}

/// A session on disk; the capture is there once it is complete.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) session: Session,
    pub(super) capture: Option<Capture>,
}

impl Session {
    /// The name of node `kind` of disk `index` (also of its export and job).
    pub(super) fn name(&self, kind: char, index: usize) -> String {
        format!("{PREFIX}{}-{kind}{index}", self.key)
    }

    /// Where its record and scratch files lie.
    pub(super) fn folder(&self, scratch: &Path) -> PathBuf {
        scratch.join(&self.key)
    }

    /// The scratch file of a disk.
    pub(super) fn scratch_file(&self, scratch: &Path, index: usize) -> PathBuf {
        self.folder(scratch).join(format!("{index}.qcow2"))
    }

    /// What the bitmaps of this policy and owner are called, without the run.
    pub(super) fn chain(&self) -> String {
        chain(&self.token.owner, self.token.policy.as_ref())
    }

    /// Writes the record durably.
    pub(super) async fn save(&self, scratch: &Path, capture: Option<&Capture>) -> Result<()> {
        let record = Record { session: self.clone(), capture: capture.cloned() };
        write(self.folder(scratch).join(RECORD), &record).await
    }

    /// Writes the cursor file durably.
    pub(super) async fn save_cursor(&self, scratch: &Path) -> Result<()> {
        let record = Record { session: self.clone(), capture: None };
        write(scratch.join(CURSORS).join(format!("{}.json", self.bitmap)), &record).await
    }
}

const RECORD: &str = "capture.json";
const CURSORS: &str = "cursors";

/// `rpl-<owner hash>-<policy hash>-`.
pub(super) fn chain(owner: &OwnerId, policy: Option<&PolicyName>) -> String {
    format!("{PREFIX}{}-{}-", owner_hash(owner), short(&[policy.map_or("", |policy| policy.as_str())], 8))
}

/// The name of the bitmap that a capture with this token makes.
pub(super) fn bitmap_name(token: &Token) -> String {
    let run = token.run.as_str();
    let plain = run.len() <= 64 && run.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    let run = if plain { run.to_owned() } else { short(&[run], 16) };
    format!("{}{run}-{}", chain(&token.owner, token.policy.as_ref()), short(&[&token.step], 4))
}

/// The key of a token's capture.
pub(super) fn key(token: &Token) -> String {
    let policy = token.policy.as_ref().map_or("", |policy| policy.as_str());
    let parts = [token.owner.as_str(), policy, token.server.as_str(), token.run.as_str(), &token.step];
    format!("{}-{}", owner_hash(&token.owner), short(&parts, 10))
}

/// The owner's part of all names.
pub(super) fn owner_hash(owner: &OwnerId) -> String {
    short(&[owner.as_str()], 8)
}

/// The NBD socket of a server's guest.
pub(super) fn nbd_socket(scratch: &Path, monitor: &Path) -> PathBuf {
    scratch.join(format!("{}.nbd", short(&[&monitor.to_string_lossy()], 10))).join("socket")
}

fn short(parts: &[&str], digits: usize) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().to_hex()[..digits].to_owned()
}

impl Record {
    /// The record of a capture, if there is one.
    pub(super) async fn load(scratch: &Path, key: &str) -> Result<Option<Self>> {
        read(&scratch.join(key).join(RECORD)).await
    }

    /// The cursor file of a bitmap, if there is one.
    pub(super) async fn cursor(scratch: &Path, bitmap: &str) -> Result<Option<Self>> {
        if bitmap.contains('/') {
            return Ok(None); // not one of ours
        }
        read(&scratch.join(CURSORS).join(format!("{bitmap}.json"))).await
    }

    /// All captures, of every owner.
    pub(super) async fn all(scratch: &Path) -> Result<Vec<Self>> {
        let mut records = Vec::new();
        for name in names(scratch).await? {
            if let Some(record) = read(&scratch.join(name).join(RECORD)).await? {
                records.push(record);
            }
        }
        Ok(records)
    }

    /// All cursor files, of every owner.
    pub(super) async fn cursors(scratch: &Path) -> Result<Vec<Self>> {
        let folder = scratch.join(CURSORS);
        let mut records = Vec::new();
        for name in names(&folder).await?.into_iter().filter(|name| name.ends_with(".json")) {
            records.extend(read(&folder.join(name)).await?);
        }
        Ok(records)
    }
}

/// Deletes the cursor files of a server's chain, all but one.
pub(super) async fn forget_cursors(scratch: &Path, session: &Session, keep: Option<&str>) -> Result<()> {
    for old in Record::cursors(scratch).await? {
        let bitmap = &old.session.bitmap;
        let same = old.session.monitor == session.monitor && bitmap.starts_with(&session.chain());
        if same && keep != Some(bitmap.as_str()) {
            remove_cursor(scratch, bitmap).await?;
        }
    }
    Ok(())
}

/// Deletes the cursor file of a bitmap.
pub(super) async fn remove_cursor(scratch: &Path, bitmap: &str) -> Result<()> {
    let file = scratch.join(CURSORS).join(format!("{bitmap}.json"));
    match tokio::fs::remove_file(&file).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("cannot delete {}", file.display()), error))
        }
        _ => Ok(()),
    }
}

async fn names(folder: &Path) -> Result<Vec<String>> {
    let operation = || format!("cannot list {}", folder.display());
    let mut entries = match tokio::fs::read_dir(folder).await {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(operation(), error)),
    };
    let mut names = Vec::new();
    while let Some(entry) = entries.next_entry().await.map_err(|error| Error::io(operation(), error))? {
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

async fn read(path: &Path) -> Result<Option<Record>> {
    let operation = || format!("cannot read capture record {}", path.display());
    match tokio::fs::read(path).await {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| Error::new(Kind::Damaged, operation()).because(error)),
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(Error::io(operation(), error)),
    }
}

async fn write(path: PathBuf, record: &Record) -> Result<()> {
    let bytes = serde_json::to_vec_pretty(record)
        .map_err(|error| Error::new(Kind::Permanent, "cannot write a capture record").because(error))?;
    let shown = path.display().to_string();
    let task = tokio::task::spawn_blocking(move || durable(&path, &bytes));
    let written = task.await.map_err(std::io::Error::other).and_then(|written| written);
    written.map_err(|error| Error::io(format!("cannot write capture record {shown}"), error))
}

/// Write beside, fsync, rename, fsync of the folder: after a crash there is the old record or the new one.
fn durable(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    let folder = path.parent().ok_or_else(|| std::io::Error::other("it has no folder"))?;
    std::fs::create_dir_all(folder)?;
    let beside = path.with_extension("new");
    let mut file = std::fs::File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    std::fs::File::open(folder)?.sync_all()
}

//! A bucket in a directory: one file for each object, durable before it is visible, whole or absent.
//!
//! A put writes into `.incoming/`, syncs the file, moves it to its place in one step and syncs the folders on the way.
//! A put that died leaves a file in `.incoming/` only: no listing shows it, and the next open removes it.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use model::{Error, Kind, Result, crash};
use rustix::fs::{CWD, FlockOperation, RenameFlags};

use super::key::{check_key, check_prefix};
use super::{Bucket, Object, Put};

/// Where bodies are written before they become objects. Keys cannot begin with a dot, so it is no object's folder.
const INCOMING: &str = ".incoming";

/// From here on an object is large: a pack that is full.
const LARGE: usize = 1 << 20;

/// Attempts to place a file whose temporary name was taken away by another process that swept too eagerly.
const PLACE_ATTEMPTS: usize = 3;

/// A directory of a local or network file system as a bucket.
#[derive(Debug, Clone)]
pub struct DirBucket {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    /// Device and inode of the root: if they change, the file system went away under us, and its listing is void.
    identity: (u64, u64),
    /// Folders whose entry in their parent is known to be durable.
    durable: Mutex<HashSet<PathBuf>>,
}

impl DirBucket {
    /// Opens the bucket in an existing directory and removes what dead writers left in `.incoming/`.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        let operation = || format!("cannot open bucket dir:{}", root.display());
        let about = std::fs::metadata(&root).map_err(|error| {
            Error::io(operation(), error).hint("create the directory, or mount the file system that holds it")
        })?;
        if !about.is_dir() {
            return Err(Error::new(Kind::Invalid, operation()).because("it is not a directory"));
        }
        let incoming = root.join(INCOMING);
        match std::fs::create_dir(&incoming) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(Error::io(operation(), error)),
            _ => {}
        }
        let identity = (about.dev(), about.ino());
        let inner = Inner { root, identity, durable: Mutex::default() };
        inner.sweep();
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Makes the directory (with its parents) if need be, then opens it.
    pub fn create(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        std::fs::create_dir_all(&root)
            .map_err(|error| Error::io(format!("cannot create bucket dir:{}", root.display()), error))?;
        Self::open(root)
    }

    async fn blocking<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Inner) -> Result<T> + Send + 'static,
    {
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || work(&inner)).await.map_err(|error| {
            Error::new(Kind::Cancelled, format!("cannot work in bucket {}", self.describe())).because(error)
        })?
    }
}

impl Inner {
    fn error(&self, what: &str, key: &str, error: std::io::Error) -> Error {
        Error::io(format!("cannot {what} object {key} in dir:{}", self.root.display()), error)
    }

    /// Removes files of dead writers: a living one holds the lock of its file. Trouble here harms nobody.
    fn sweep(&self) {
        let Ok(entries) = std::fs::read_dir(self.root.join(INCOMING)) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            let Ok(file) = File::open(&path) else { continue };
            if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                let _ = std::fs::remove_file(&path);
            }
        }
    }

    fn put(&self, key: &str, body: &[u8], put: Put) -> Result<()> {
        let target = self.root.join(key);
        let folder = target.parent().unwrap_or(&self.root).to_path_buf();
        self.make_folder(&folder).map_err(|error| self.error("put", key, error))?;
        for attempt in 1.. {
            let temporary = self.write(body).map_err(|error| self.error("put", key, error))?;
            crash::point("bucket.dir.place.before");
            let placed = place(&temporary.path, &target, put);
            crash::point("bucket.dir.place.after");
            match placed {
                Ok(()) => break,
                // a sweeper caught the file between its creation and its lock
                Err(error) if error.kind() == ErrorKind::NotFound && attempt < PLACE_ATTEMPTS => {}
                Err(error) => {
                    let _ = std::fs::remove_file(&temporary.path);
                    // whoever learns that the object exists may count on it: make the winner's entry durable too
                    let synced = sync_folder(&folder);
                    let error =
                        if error.kind() == ErrorKind::AlreadyExists { synced.err().unwrap_or(error) } else { error };
                    return Err(self.error("put", key, error));
                }
            }
        }
        sync_folder(&folder).map_err(|error| self.error("put", key, error))
    }

    fn write(&self, body: &[u8]) -> std::io::Result<Temporary> {
        let path = self.root.join(INCOMING).join(format!("{:032x}", rand::random::<u128>()));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o640).open(&path)?;
        // not every file system has locks; without them a sweep may take the file away, and the put is tried again
        let _ = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
        match fill(&file, &path, body) {
            Ok(()) => Ok(Temporary { path, _file: file }),
            Err(error) => {
                let _ = std::fs::remove_file(&path);
                Err(error)
            }
        }
    }

    /// Makes `folder` and its parents below the root, each of them durable. The cache only saves repeated syncs: a
    /// folder that had to be made again is synced again.
    fn make_folder(&self, folder: &Path) -> std::io::Result<()> {
        let Ok(below) = folder.strip_prefix(&self.root) else { return Ok(()) };
        let mut parent = self.root.clone();
        for part in below {
            let child = parent.join(part);
            let made = match std::fs::create_dir(&child) {
                Ok(()) => true,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
                Err(error) => return Err(error),
            };
            let known = self.durable.lock().unwrap_or_else(PoisonError::into_inner).contains(&child);
            if made || !known {
                sync_folder(&parent)?;
                self.durable.lock().unwrap_or_else(PoisonError::into_inner).insert(child.clone());
            }
            parent = child;
        }
        Ok(())
    }

    fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        let fault = |error: std::io::Error| {
            let error = if error.kind() == ErrorKind::NotADirectory { ErrorKind::NotFound.into() } else { error };
            self.error("get", key, error)
        };
        let mut file = File::open(self.root.join(key)).map_err(fault)?;
        let about = file.metadata().map_err(fault)?;
        if !about.is_file() {
            return Err(fault(ErrorKind::NotFound.into()));
        }
        let range = super::check_range(key, range, about.len())?;
        let length = range.end - range.start;
        file.seek(SeekFrom::Start(range.start)).map_err(fault)?;
        let mut body = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
        file.take(length).read_to_end(&mut body).map_err(fault)?;
        if body.len() as u64 != length {
            let operation = format!("cannot get object {key} in dir:{}", self.root.display());
            return Err(Error::new(Kind::Damaged, operation).because("the file became shorter while it was read"));
        }
        Ok(Bytes::from(body))
    }

    fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        let operation = || format!("cannot list {prefix}* in dir:{}", self.root.display());
        let fault = |error| Error::io(operation(), error);
        let about = std::fs::metadata(&self.root).map_err(fault)?;
        if (about.dev(), about.ino()) != self.identity {
            let why = "another directory took its place since it was opened";
            return Err(Error::new(Kind::Permanent, operation()).because(why).hint("was the file system unmounted?"));
        }
        let base = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
        let mut objects = Vec::new();
        let mut folders = vec![base.to_owned()];
        while let Some(folder) = folders.pop() {
            let entries = match std::fs::read_dir(self.root.join(&folder)) {
                Ok(entries) => entries,
                // nothing was ever put below this prefix; any other folder that vanishes makes the listing void
                Err(error)
                    if folder == base && matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
                {
                    return Ok(objects);
                }
                Err(error) => return Err(fault(error)),
            };
            for entry in entries {
                let entry = entry.map_err(fault)?;
                let Ok(name) = entry.file_name().into_string() else { continue };
                let key = if folder.is_empty() { name } else { format!("{folder}/{name}") };
                // foreign names are nobody's objects: hidden files, and what mkfs puts into a fresh file system
                if check_key(&key).is_err() || key == "lost+found" {
                    continue;
                }
                let about = match entry.metadata() {
                    Ok(about) => about,
                    // deleted meanwhile: a listing may show it or not
                    Err(error) if error.kind() == ErrorKind::NotFound => continue,
                    Err(error) => return Err(fault(error)),
                };
                if about.is_dir() {
                    let below = format!("{key}/");
                    if below.starts_with(prefix) || prefix.starts_with(&below) {
                        folders.push(key);
                    }
                } else if about.is_file() {
                    if key.starts_with(prefix) {
                        objects.push(Object { key, size: about.len(), modified: modified(&about) });
                    }
                } else {
                    let why = format!("{key} is neither a file nor a directory, so the listing may be incomplete");
                    return Err(Error::new(Kind::Invalid, operation()).because(why));
                }
            }
        }
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(objects)
    }

    fn delete(&self, key: &str) -> Result<()> {
        let target = self.root.join(key);
        crash::point("bucket.dir.delete.before");
        match std::fs::remove_file(&target) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(()),
            Err(error) => return Err(self.error("delete", key, error)),
        }
        crash::point("bucket.dir.delete.after");
        // the collector's order (pack, then tombstone) must survive a power cut
        sync_folder(target.parent().unwrap_or(&self.root)).map_err(|error| self.error("delete", key, error))
    }
}

/// A written and synced file in `.incoming/`; holding it open keeps its lock.
#[derive(Debug)]
struct Temporary {
    path: PathBuf,
    _file: File,
}

/// Writes the body and makes it durable. What is large goes past the page cache but for its last bytes.
fn fill(mut file: &File, path: &Path, body: &[u8]) -> std::io::Result<()> {
    if body.len() < LARGE {
        file.write_all(body)?;
    } else {
        let (whole, rest) = body.split_at(body.len() / disk::ALIGN * disk::ALIGN);
        let output = disk::Output::new(file.try_clone()?, path);
        output.write(whole, 0)?;
        output.write(rest, whole.len() as u64)?;
    }
    file.sync_all()
}

fn place(from: &Path, to: &Path, put: Put) -> std::io::Result<()> {
    match put {
        Put::Overwrite => std::fs::rename(from, to),
        Put::CreateOnly => match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // the file system does not know the flag (NFS, some FUSE): a hard link is as exclusive
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP) => {
                std::fs::hard_link(from, to)?;
                std::fs::remove_file(from)
            }
            other => Ok(other?),
        },
    }
}

fn sync_folder(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

fn modified(about: &std::fs::Metadata) -> jiff::Timestamp {
    let nanoseconds = i32::try_from(about.mtime_nsec()).unwrap_or(0);
    // a time that the calendar cannot hold counts as the future: such an object is never old enough to be collected
    jiff::Timestamp::new(about.mtime(), nanoseconds).unwrap_or(jiff::Timestamp::MAX)
}

#[async_trait]
impl Bucket for DirBucket {
    async fn put(&self, key: &str, body: Bytes, put: Put) -> Result<()> {
        check_key(key)?;
        let key = key.to_owned();
        self.blocking(move |inner| inner.put(&key, &body, put)).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        check_key(key)?;
        let key = key.to_owned();
        self.blocking(move |inner| inner.get(&key, range)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        check_prefix(prefix)?;
        let prefix = prefix.to_owned();
        self.blocking(move |inner| inner.list(&prefix)).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        check_key(key)?;
        let key = key.to_owned();
        self.blocking(move |inner| inner.delete(&key)).await
    }

    fn describe(&self) -> String {
        format!("dir:{}", self.inner.root.display())
    }
}

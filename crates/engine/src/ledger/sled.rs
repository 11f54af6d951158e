//! The ledger on sled 0.34.7. One commit = transaction over all trees, `flush`, then fsync of the `db` file that we hold
//! open ourselves: sled's flush is `sync_file_range` on Linux, which keeps neither metadata nor the drive's cache.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use model::{Error, Kind, Result};
use sled::Transactional;
use sled::transaction::{ConflictableTransactionError, TransactionError};

use super::{Batch, Ledger, Tree, open};

/// A ledger in a folder.
#[derive(Debug, Clone)]
pub struct SledLedger {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    db: sled::Db,
    trees: Vec<sled::Tree>,
    /// Our own handle of sled's file: the one that is fsynced.
    file: File,
    /// One commit at a time: the fsync belongs to the transaction before it.
    commits: Mutex<()>,
    /// Held as long as the ledger is open.
    _lock: File,
}

impl SledLedger {
    /// Opens or creates the ledger in `folder`.
    ///
    /// [`Kind::Exists`] if another process has it open (talk to that daemon instead); [`Kind::Damaged`] if it cannot be
    /// opened within the watchdog's time or at all (then [`super::set_aside`] and adopt).
    pub async fn open(folder: &Path) -> Result<Self> {
        let owned = folder.to_owned();
        let opened = blocking("open the ledger", move || open::open(&owned)).await?;
        let shared = Shared {
            folder: folder.to_owned(),
            db: opened.db,
            trees: opened.trees,
            file: opened.file,
            commits: Mutex::new(()),
            _lock: opened.lock,
        };
        Ok(Self { shared: Arc::new(shared) })
    }
}

impl Shared {
    fn tree(&self, tree: Tree) -> Result<&sled::Tree> {
        let index = Tree::ALL.iter().position(|t| *t == tree);
        index
            .and_then(|index| self.trees.get(index))
            .ok_or_else(|| Error::new(Kind::Permanent, format!("ledger tree {} is not open", tree.name())))
    }

    fn commit(&self, batch: &Batch) -> Result<()> {
        let operation = || format!("cannot commit to ledger {}", self.folder.display());
        let _one = self.commits.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        model::crash::point("ledger.commit.before");
        let index = |tree: Tree| Tree::ALL.iter().position(|t| *t == tree).unwrap_or(0);
        let done = self.trees.as_slice().transaction(|trees| {
            // the closure may run again after a conflict: it only touches the transaction
            for (tree, key) in &batch.absent {
                if trees[index(*tree)].get(key.as_bytes())?.is_some() {
                    return Err(ConflictableTransactionError::Abort(format!("{}/{key}", tree.name())));
                }
            }
            for (tree, key, value) in &batch.changes {
                match value {
                    Some(bytes) => trees[index(*tree)].insert(key.as_bytes(), bytes.as_slice())?,
                    None => trees[index(*tree)].remove(key.as_bytes())?,
                };
            }
            Ok(())
        });
        match done {
            Ok(()) => {}
            Err(TransactionError::Abort(key)) => {
                return Err(Error::new(Kind::Exists, format!("ledger record {key} exists")));
            }
            Err(TransactionError::Storage(error)) => return Err(trouble(operation(), error)),
        }
        self.db.flush().map_err(|error| trouble(operation(), error))?;
        model::crash::point("ledger.fsync.before");
        self.file.sync_all().map_err(|error| Error::io(operation(), error))?;
        model::crash::point("ledger.commit.after");
        Ok(())
    }
}

/// A sled error in our words.
pub(super) fn trouble(operation: String, error: sled::Error) -> Error {
    match error {
        sled::Error::Io(error) => Error::io(operation, error),
        error => Error::new(Kind::Damaged, operation)
            .because(error)
            .hint("rebuild the ledger from vaults and sites: `replicate adopt`"),
    }
}

async fn blocking<T: Send + 'static>(what: &str, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // sled panics on some damage: an error here, not the end of the daemon
        Err(error) => Err(Error::new(Kind::Damaged, format!("cannot {what}"))
            .because(error)
            .hint("rebuild the ledger from vaults and sites: `replicate adopt`")),
    }
}

#[async_trait]
impl Ledger for SledLedger {
    async fn get_raw(&self, tree: Tree, key: &str) -> Result<Option<Bytes>> {
        let (shared, key) = (self.shared.clone(), key.to_owned());
        blocking("read the ledger", move || {
            let found = shared.tree(tree)?.get(key.as_bytes());
            let found = found.map_err(|e| trouble(format!("cannot read ledger record {}/{key}", tree.name()), e))?;
            Ok(found.map(|bytes| Bytes::copy_from_slice(&bytes)))
        })
        .await
    }

    async fn scan_raw(&self, tree: Tree, prefix: &str) -> Result<Vec<(String, Bytes)>> {
        let (shared, prefix) = (self.shared.clone(), prefix.to_owned());
        blocking("read the ledger", move || {
            let mut found = Vec::new();
            for item in shared.tree(tree)?.scan_prefix(prefix.as_bytes()) {
                let (key, value) = item.map_err(|e| trouble(format!("cannot read ledger tree {}", tree.name()), e))?;
                let key = String::from_utf8(key.to_vec()).map_err(|error| {
                    Error::new(Kind::Damaged, format!("cannot read a key of ledger tree {}", tree.name()))
                        .because(error)
                        .hint("rebuild the ledger from vaults and sites: `replicate adopt`")
                })?;
                found.push((key, Bytes::copy_from_slice(&value)));
            }
            Ok(found)
        })
        .await
    }

    async fn commit(&self, batch: Batch) -> Result<()> {
        let shared = self.shared.clone();
        blocking("commit to the ledger", move || shared.commit(&batch)).await
    }

    fn describe(&self) -> String {
        self.shared.folder.display().to_string()
    }
}

//! The ledger: the journal of runs and the catalogue of points and replicas.
//!
//! A cache of promises, never the only truth: it can be rebuilt from vaults and tags (`adopt`). One [`Batch`] is one
//! atomic, durable commit; whoever commits acts or answers only afterwards. Keys (text, so that they sort and can be
//! read): `meta/owner`, `runs/<run>`, `journal/<run>/<step>`, `points/<server>/<point>`,
//! `replicas/<point>/<place>`, `cursors/<policy>/<server>`, `proofs/<server>/<run>`, `occurrences/<policy>/<server>`,
//! `holds/<point>/<run>`, `tombstones/<point>/<place>`,
//! `scrubs/<vault>/<pack>`, `moves/<move>`.

mod memory;
mod open;
mod record;
mod sled;
#[cfg(test)]
mod tests;

use async_trait::async_trait;
use bytes::Bytes;
use model::Result;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use memory::MemoryLedger;
pub use open::set_aside;
pub use sled::SledLedger;

/// The few trees. Their names are part of the stored form: never renamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tree {
    /// Facts about this ledger: schema, owner.
    Meta,
    /// Runs.
    Runs,
    /// Intent and outcome of steps.
    Journal,
    /// Restore points.
    Points,
    /// Replicas.
    Replicas,
    /// What the next capture is incremental against.
    Cursors,
    /// Signed receipts of drills.
    Proofs,
    /// What the schedule has handled.
    Occurrences,
    /// Points that retention must not touch now.
    Holds,
    /// Replicas that were deleted, and why.
    Tombstones,
    /// When packs of vaults were last read back.
    Scrubs,
    /// Moves of servers, and with them the marks of their sources.
    Moves,
    /// When this installation last did what it does by itself now and then.
    Upkeep,
}

impl Tree {
    /// All trees.
    pub const ALL: [Tree; 13] = [
        Tree::Meta,
        Tree::Runs,
        Tree::Journal,
        Tree::Points,
        Tree::Replicas,
        Tree::Cursors,
        Tree::Proofs,
        Tree::Occurrences,
        Tree::Holds,
        Tree::Tombstones,
        Tree::Scrubs,
        Tree::Moves,
        Tree::Upkeep,
    ];

    /// Its stored name.
    pub fn name(self) -> &'static str {
        match self {
            Tree::Meta => "meta",
            Tree::Runs => "runs",
            Tree::Journal => "journal",
            Tree::Points => "points",
            Tree::Replicas => "replicas",
            Tree::Cursors => "cursors",
            Tree::Proofs => "proofs",
            Tree::Occurrences => "occurrences",
            Tree::Holds => "holds",
            Tree::Tombstones => "tombstones",
            Tree::Scrubs => "scrubs",
            Tree::Moves => "moves",
            Tree::Upkeep => "upkeep",
        }
    }
}

/// Changes that become true together or not at all.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    changes: Vec<(Tree, String, Option<Vec<u8>>)>,
    absent: Vec<(Tree, String)>,
}

impl Batch {
    /// No change yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes a record.
    pub fn put<T: Serialize>(&mut self, tree: Tree, key: impl Into<String>, value: &T) -> Result<()> {
        let key = key.into();
        let bytes = record::seal(tree, &key, value)?;
        self.changes.push((tree, key, Some(bytes)));
        Ok(())
    }

    /// Removes a record; absent is success.
    pub fn delete(&mut self, tree: Tree, key: impl Into<String>) {
        self.changes.push((tree, key.into(), None));
    }

    /// Makes the whole commit fail with [`model::Kind::Exists`] if the record exists.
    pub fn expect_absent(&mut self, tree: Tree, key: impl Into<String>) {
        self.absent.push((tree, key.into()));
    }
}

/// Where the ledger is kept. One opener at a time.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// The sealed record.
    async fn get_raw(&self, tree: Tree, key: &str) -> Result<Option<Bytes>>;

    /// All sealed records whose key begins with `prefix`, ascending.
    async fn scan_raw(&self, tree: Tree, prefix: &str) -> Result<Vec<(String, Bytes)>>;

    /// Makes the batch true, durably: when this returns, it survives a power cut.
    async fn commit(&self, batch: Batch) -> Result<()>;

    /// Where it is, for messages.
    fn describe(&self) -> String;
}

/// Reads a record. A damaged one is [`model::Kind::Damaged`], never a guess.
pub(crate) async fn get<T: DeserializeOwned>(ledger: &dyn Ledger, tree: Tree, key: &str) -> Result<Option<T>> {
    match ledger.get_raw(tree, key).await? {
        Some(bytes) => Ok(Some(record::unseal(tree, key, &bytes)?)),
        None => Ok(None),
    }
}

/// Reads all records under `prefix`; one damaged record fails the scan, so that no decision rests on a part.
pub(crate) async fn scan<T: DeserializeOwned>(
    ledger: &dyn Ledger,
    tree: Tree,
    prefix: &str,
) -> Result<Vec<(String, T)>> {
    let mut found = Vec::new();
    for (key, bytes) in ledger.scan_raw(tree, prefix).await? {
        let value = record::unseal(tree, &key, &bytes)?;
        found.push((key, value));
    }
    Ok(found)
}

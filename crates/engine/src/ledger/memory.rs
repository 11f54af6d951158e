//! A ledger in memory, for tests: the same rules, nothing durable.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use model::{Error, Kind, Result};

use super::{Batch, Ledger, Tree};

/// Records in a map.
#[derive(Debug, Default)]
pub struct MemoryLedger(Mutex<BTreeMap<(Tree, String), Bytes>>);

impl MemoryLedger {
    /// An empty ledger.
    pub fn new() -> Self {
        Self::default()
    }

    /// A copy as it is now: what an administrator puts back later, or a host that is set back to a snapshot.
    pub fn copy(&self) -> Self {
        Self(Mutex::new(self.records().clone()))
    }

    fn records(&self) -> MutexGuard<'_, BTreeMap<(Tree, String), Bytes>> {
        // a panic elsewhere cannot leave a batch half applied: it is applied without calling anyone
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[async_trait]
impl Ledger for MemoryLedger {
    async fn get_raw(&self, tree: Tree, key: &str) -> Result<Option<Bytes>> {
        Ok(self.records().get(&(tree, key.to_owned())).cloned())
    }

    async fn scan_raw(&self, tree: Tree, prefix: &str) -> Result<Vec<(String, Bytes)>> {
        let records = self.records();
        let from = records.range((tree, prefix.to_owned())..);
        let found = from.take_while(|((t, key), _)| *t == tree && key.starts_with(prefix));
        Ok(found.map(|((_, key), value)| (key.clone(), value.clone())).collect())
    }

    async fn commit(&self, batch: Batch) -> Result<()> {
        model::crash::point("ledger.commit.before");
        let mut records = self.records();
        if let Some((tree, key)) = batch.absent.iter().find(|at| records.contains_key(*at)) {
            return Err(Error::new(Kind::Exists, format!("ledger record {}/{key} exists", tree.name())));
        }
        for (tree, key, value) in batch.changes {
            match value {
                Some(bytes) => records.insert((tree, key), bytes.into()),
                None => records.remove(&(tree, key)),
            };
        }
        drop(records);
        model::crash::point("ledger.commit.after");
        Ok(())
    }

    fn describe(&self) -> String {
        "memory".to_owned()
    }
}

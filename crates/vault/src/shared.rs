//! What every part of an open vault uses: bucket, keys, workers and caches.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use model::{Error, Kind, Result};

use crate::PackId;
use crate::bucket::{Bucket, Put};
use crate::index::Index;
use crate::keys::Keys;
use crate::layout::{DAMAGED, TOMBS};
use crate::manifest::Header;
use crate::options::Options;
use crate::pack::load::PackCache;
use crate::work::Workers;

/// One open vault.
pub(crate) struct Shared {
    /// Where the objects lie.
    pub bucket: Arc<dyn Bucket>,
    /// The keys.
    pub keys: Keys,
    /// What the caller chose.
    pub options: Options,
    /// Hashes, compresses, encrypts.
    pub workers: Arc<Workers>,
    /// Tables, ids and frames of packs.
    pub packs: PackCache,
    /// Where blocks lie.
    pub index: Index,
    /// Headers of manifests by key: manifests never change.
    pub headers: Mutex<HashMap<String, Arc<Header>>>,
}

/// Locks; a panic while a lock of ours was held leaves caches and maps that are still whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Opens with known keys.
    pub fn new(bucket: Arc<dyn Bucket>, keys: Keys, options: Options) -> Result<Arc<Self>> {
        let workers = Arc::new(Workers::start(options.thread_count())?);
        let (packs, index, headers) = (PackCache::new(), Index::new(), Mutex::default());
        Ok(Arc::new(Self { bucket, keys, options, workers, packs, index, headers }))
    }

    /// Stores an immutable object. If it exists already, it must be the same: an earlier attempt whose answer was lost.
    pub async fn create(&self, key: &str, body: Bytes) -> Result<()> {
        match self.bucket.put(key, body.clone(), Put::CreateOnly).await {
            Err(error) if error.kind() == Kind::Exists => {
                let there = self.bucket.get(key, None).await?;
                if there == body { Ok(()) } else { Err(error) }
            }
            other => other,
        }
    }

    /// Packs that the collector has condemned: nothing new may rest on them.
    pub async fn tombs(&self) -> Result<HashSet<PackId>> {
        let listed = self.bucket.list(TOMBS).await?;
        Ok(listed.iter().filter_map(|object| PackId::of_key(&object.key)).collect())
    }

    /// Keys of all damage marks.
    pub async fn damage_keys(&self) -> Result<Vec<String>> {
        let listed = self.bucket.list(DAMAGED).await?;
        Ok(listed.into_iter().map(|object| object.key).filter(|key| PackId::of_key(key).is_some()).collect())
    }
}

/// An equal error, for each of several waiters.
pub(crate) fn copy_error(error: &Error) -> Error {
    let copy = Error::new(error.kind(), error.to_string());
    let copy = match std::error::Error::source(error) {
        Some(source) => copy.because(chain(source)),
        None => copy,
    };
    match error.advice() {
        Some(hint) => copy.hint(hint),
        None => copy,
    }
}

fn chain(mut source: &(dyn std::error::Error + 'static)) -> String {
    let mut text = source.to_string();
    while let Some(next) = source.source() {
        text = format!("{text}: {next}");
        source = next;
    }
    text
}

//! What a vault needs from an object store, and nothing more.

pub mod conformance;
mod dir;
mod key;
mod memory;
mod retry;

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use model::{Error, Kind, Result};

pub use dir::DirBucket;
pub use key::{LONGEST_KEY, LONGEST_PART, check_key, check_prefix};
pub use memory::{Fault, MemoryBucket, Operation};
pub use retry::RetryBucket;

/// What to do if the key exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// Fail with [`model::Kind::Exists`]; exactly one of many racing writers wins. The commit point of everything.
    CreateOnly,
    /// Replace it, atomically: readers see the old bytes or the new ones.
    Overwrite,
}

/// One object of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its key.
    pub key: String,
    /// Its size in bytes.
    pub size: u64,
    /// When the *store* says it was written: the collector's grace uses the store's clock, never ours.
    pub modified: jiff::Timestamp,
}

/// An object store: flat keys with `/`, strong read-after-write, conditional create.
///
/// Keys are those that [`check_key`] takes, and no key is another key's folder. Every method may be called again after an
/// error. A listing that cannot be completed is an error, never a shorter
/// list. Bodies are never partly visible.
#[async_trait]
pub trait Bucket: Send + Sync {
    /// Stores `body` durably under `key`: when it returns, the object survives a power cut.
    async fn put(&self, key: &str, body: Bytes, put: Put) -> Result<()>;

    /// Reads the object, or `range` of it. A range beyond the end is [`model::Kind::Invalid`]; the answer has
    /// exactly the asked length.
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes>;

    /// All objects whose key begins with `prefix`, in ascending order of keys.
    async fn list(&self, prefix: &str) -> Result<Vec<Object>>;

    /// Deletes the object; absent is success.
    async fn delete(&self, key: &str) -> Result<()>;

    /// Where it is, for messages: `dir:/srv/vault`, `s3://bucket/prefix`. Never a secret.
    fn describe(&self) -> String;
}

/// Bounds a ranged read: the whole object if no range was asked for, [`Kind::Invalid`] beyond its end.
///
/// For implementations of [`Bucket`].
pub fn check_range(key: &str, range: Option<Range<u64>>, size: u64) -> Result<Range<u64>> {
    match range {
        None => Ok(0..size),
        Some(range) if range.start <= range.end && range.end <= size => Ok(range),
        Some(range) => {
            let why = format!("bytes {} to {} were asked for, it has {size}", range.start, range.end);
            Err(Error::new(Kind::Invalid, format!("cannot get object {key}")).because(why))
        }
    }
}

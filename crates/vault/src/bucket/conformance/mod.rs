//! What every bucket must do, as a suite that tests run and that `replicate doctor` prints.
//!
//! It works under a prefix of its own, removes what it made, and reports instead of panicking.

mod checks;
mod writes;

use std::sync::Arc;

use bytes::Bytes;
use model::Error;
use serde::{Deserialize, Serialize};

use super::Bucket;

/// How much is tried.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Rounds of the race for one key.
    pub rounds: usize,
    /// Writers in each round.
    pub writers: usize,
    /// Keys in the listing; above 1000, stores answer in pages.
    pub keys: usize,
    /// Bytes of the largest body; above 16 MiB, S3 takes it in parts.
    pub large: usize,
}

impl Effort {
    /// All that a store is known to get wrong.
    pub fn full() -> Self {
        Self { rounds: 20, writers: 8, keys: 1200, large: (33 << 20) + 7 }
    }

    /// A look within seconds, for `replicate doctor`.
    pub fn quick() -> Self {
        Self { rounds: 3, writers: 8, keys: 40, large: 1 << 20 }
    }
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was checked.
    pub name: String,
    /// Whether it held.
    pub ok: bool,
    /// What was tried, or what went wrong.
    pub detail: String,
}

/// What a check works with.
struct Ground {
    bucket: Arc<dyn Bucket>,
    prefix: String,
    effort: Effort,
}

/// A check's outcome: what was tried, or what went wrong.
type Verdict = Result<String, String>;

/// Runs the suite. A failed check does not stop the others; only if not one object can be put are the rest left out.
pub async fn run(bucket: Arc<dyn Bucket>, effort: Effort) -> Vec<Finding> {
    let prefix = format!("conformance/{:016x}/", rand::random::<u64>());
    let ground = Ground { bucket, prefix, effort };
    let mut findings = Vec::new();
    let mut note = |name: &str, verdict: Verdict| {
        let ok = verdict.is_ok();
        findings.push(Finding { name: name.to_owned(), ok, detail: verdict.unwrap_or_else(|why| why) });
        ok
    };
    if note("put, get and list", checks::round_trip(&ground).await) {
        note("create only", writes::create_only(&ground).await);
        note("one winner of a race", writes::race(&ground).await);
        note("overwrite", writes::overwrite(&ground).await);
        note("whole bodies under overwrite", writes::whole(&ground).await);
        note("deletes", writes::deletes(&ground).await);
        note("empty and large bodies", writes::sizes(&ground).await);
        note("ranges", checks::ranges(&ground).await);
        note("complete listings", checks::listings(&ground).await);
        note("odd keys", checks::odd_keys(&ground).await);
        note("foreign paths refused", checks::refusals(&ground).await);
        note("store time", checks::store_time(&ground).await);
    }
    note("clean-up", clean(&ground).await);
    findings
}

async fn clean(ground: &Ground) -> Verdict {
    let objects = ground.bucket.list(&ground.prefix).await.map_err(told)?;
    for object in &objects {
        ground.bucket.delete(&object.key).await.map_err(told)?;
    }
    match ground.bucket.list(&ground.prefix).await.map_err(told)?.len() {
        0 => Ok(format!("{} objects removed", objects.len())),
        left => Err(format!("{left} objects under {} are still there after their deletion", ground.prefix)),
    }
}

impl Ground {
    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

fn told(error: Error) -> String {
    error.chain()
}

/// A body that no two seeds share and no shift of itself equals.
fn body(seed: u64, length: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    Bytes::from(bytes)
}

fn ensure(held: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if held { Ok(()) } else { Err(why()) }
}

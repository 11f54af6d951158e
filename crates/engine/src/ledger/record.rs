//! The envelope of a record: `replicate 1 <BLAKE3 of version, tree, key and body>` and a line feed, then JSON. Greppable, tolerant of added
//! fields, and a swapped, cut or flipped record is seen.

use model::{Error, Kind, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Tree;

const VERSION: u32 = 1;

/// Wraps a value.
pub(super) fn seal<T: Serialize>(tree: Tree, key: &str, value: &T) -> Result<Vec<u8>> {
    let body = serde_json::to_vec(value).map_err(|e| {
        Error::new(Kind::Permanent, format!("cannot write ledger record {}/{key}", tree.name())).because(e)
    })?;
    let mut bytes = format!("replicate {VERSION} {}\n", sum(VERSION, tree, key, &body)).into_bytes();
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// Checks and unwraps a value.
pub(super) fn unseal<T: DeserializeOwned>(tree: Tree, key: &str, bytes: &[u8]) -> Result<T> {
    let damaged = |why: &str| {
        Error::new(Kind::Damaged, format!("cannot read ledger record {}/{key}", tree.name()))
            .because(why.to_owned())
            .hint("rebuild the ledger from vaults and sites: `replicate adopt`")
    };
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or_else(|| damaged("it has no header"))?;
    let (header, body) = (&bytes[..end], &bytes[end + 1..]);
    let header = std::str::from_utf8(header).map_err(|_| damaged("its header is not text"))?;
    let mut words = header.split(' ');
    if words.next() != Some("replicate") {
        return Err(damaged("its header is not one of this program"));
    }
    let version: u32 =
        words.next().and_then(|word| word.parse().ok()).ok_or_else(|| damaged("its header has no version"))?;
    if version > VERSION {
        return Err(Error::new(Kind::Invalid, format!("cannot read ledger record {}/{key}", tree.name()))
            .because(format!("it has version {version}, this program knows up to {VERSION}"))
            .hint("use the newer `replicate` that wrote this ledger"));
    }
    if words.next() != Some(sum(version, tree, key, body).as_str()) {
        return Err(damaged("its checksum does not fit"));
    }
    serde_json::from_slice(body).map_err(|error| damaged(&error.to_string()))
}

fn sum(version: u32, tree: Tree, key: &str, body: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&version.to_le_bytes());
    for part in [tree.name().as_bytes(), key.as_bytes()] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.update(body);
    hasher.finalize().to_hex().to_string()
}

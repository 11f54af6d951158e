//! Where everything lies in the bucket: the one place that makes and reads object keys.
//!
//! | key | holds |
//! |---|---|
//! | `vault.json` | format version and vault id, no secret |
//! | `keys/<id>.json` | the master key, wrapped for one recipient |
//! | `packs/<pack>` | frames of blocks and of map pages |
//! | `index/<random>` | which packs a run wrote, with sparse block id prefixes |
//! | `manifests/<server hash>/<point>.<version>` | a restore point: the commit point |
//! | `damaged/<pack>.<random>` | frames of a pack that do not read back |
//! | `tombs/<pack>` | the collector has condemned the pack |
//! | `clock/<random>` | nothing: its date tells a collector the store's time; removed at once |
//!
//! No name of a server gets into a key: `<server hash>` is a keyed hash, and a point's id is a time and random bits.

use std::fmt;

use model::PointId;

/// The object that makes a bucket a vault.
pub const VAULT: &str = "vault.json";
/// Prefix of key objects.
pub const KEYS: &str = "keys/";
/// Prefix of packs.
pub const PACKS: &str = "packs/";
/// Prefix of index objects.
pub const INDEX: &str = "index/";
/// Prefix of manifests.
pub const MANIFESTS: &str = "manifests/";
/// Prefix of damage marks.
pub const DAMAGED: &str = "damaged/";
/// Prefix of tombstones.
pub const TOMBS: &str = "tombs/";
/// Prefix of objects by which the collector reads the store's clock.
pub const CLOCK: &str = "clock/";

/// The name of a pack: 128 random bits, never used twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PackId(pub [u8; 16]);

impl PackId {
    /// A fresh name.
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// Where the pack lies.
    pub fn key(self) -> String {
        format!("{PACKS}{self}")
    }

    /// Where its tombstone lies.
    pub fn tomb_key(self) -> String {
        format!("{TOMBS}{self}")
    }

    /// A fresh key for a mark of damage in this pack; several scrubs may each find some.
    pub fn damage_key(self) -> String {
        format!("{DAMAGED}{self}.{:08x}", rand::random::<u32>())
    }

    /// Reads the 32 hexadecimal digits of a name; lower case only, so that one pack has one name.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return None;
        }
        let mut id = [0; 16];
        hex::decode_to_slice(text, &mut id).ok()?;
        Some(Self(id))
    }

    /// The pack of a key under [`PACKS`], [`TOMBS`] or [`DAMAGED`]; none for a stranger's object.
    pub fn of_key(key: &str) -> Option<Self> {
        let name = [PACKS, TOMBS, DAMAGED].iter().find_map(|prefix| key.strip_prefix(prefix))?;
        let name = if key.starts_with(DAMAGED) { name.split('.').next()? } else { name };
        Self::parse(name)
    }
}

impl fmt::Display for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&hex::encode(self.0))
    }
}

impl fmt::Debug for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// A point's id as a part of a key: letters, digits, `-`, `_` and `.` stand for themselves, others as `=XX`.
pub(crate) fn encode_point(point: &PointId) -> String {
    let mut out = String::with_capacity(point.as_str().len());
    for byte in point.as_str().bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("={byte:02x}"));
        }
    }
    out
}

/// The key of version `version` of a point's manifest.
pub(crate) fn manifest_key(server_hash: &str, point: &PointId, version: u32) -> String {
    format!("{MANIFESTS}{server_hash}/{}.{version}", encode_point(point))
}

/// What the key of a manifest tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ManifestKey {
    /// Keyed hash of the server's name.
    pub server_hash: String,
    /// The point.
    pub point: PointId,
    /// 1, and one more for each time that the collector forced a repeat.
    pub version: u32,
}

/// Reads the key of a manifest; none for a stranger's object.
pub(crate) fn parse_manifest_key(key: &str) -> Option<ManifestKey> {
    let (server_hash, name) = key.strip_prefix(MANIFESTS)?.split_once('/')?;
    let (point, version) = name.rsplit_once('.')?;
    let mut text = Vec::with_capacity(point.len());
    let mut rest = point.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'=' {
            text.push(u8::from_str_radix(std::str::from_utf8(tail.get(..2)?).ok()?, 16).ok()?);
            rest = tail.get(2..)?;
        } else {
            text.push(first);
            rest = tail;
        }
    }
    let point = PointId::new(String::from_utf8(text).ok()?).ok()?;
    let version = version.parse().ok().filter(|v| *v > 0)?;
    let parsed = ManifestKey { server_hash: server_hash.to_owned(), point, version };
    // one manifest, one key: `.01` or upper-case escapes are not ours
    (manifest_key(server_hash, &parsed.point, version) == key).then_some(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_packs_are_read_back() {
        let id = PackId::random();
        for key in [id.key(), id.tomb_key(), id.damage_key()] {
            assert_eq!(PackId::of_key(&key), Some(id), "{key}");
        }
        assert_eq!(PackId::of_key("packs/../../etc"), None);
        assert_eq!(PackId::of_key(&id.key().to_uppercase()), None);
    }

    #[test]
    fn keys_of_manifests_are_read_back() {
        for text in ["20261122T030000Z-7f3a9c21", "a/b:c@d+e.f_g", "x.1"] {
            let point = PointId::new(text).unwrap();
            let key = manifest_key("00ff", &point, 3);
            assert_eq!(key.matches('/').count(), 2, "{key}");
            let parsed = parse_manifest_key(&key).unwrap();
            assert_eq!((parsed.point, parsed.version), (point, 3));
        }
        assert_eq!(parse_manifest_key("manifests/00/x.01"), None);
        assert_eq!(parse_manifest_key("manifests/00/x.0"), None);
    }
}

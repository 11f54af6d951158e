//! The master key, what is derived from it, and who may unwrap it.
//!
//! One random 256-bit master key per vault. It is wrapped once per recipient (`wrap.rs`); everything else uses keys
//! derived from it with BLAKE3's key derivation mode, one context string for each purpose, so that adding, removing
//! or rotating recipients rewrites key objects only.

mod wrap;

use std::fmt;

use model::{Error, Kind, PointId, Result, ServerName};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::layout::PackId;
pub(crate) use wrap::{KeyObject, unwrap, wrap};

/// Who shall be able to open the vault.
#[derive(Clone)]
pub enum Recipient {
    /// Whoever knows the passphrase (Argon2id).
    Passphrase(SecretString),
    /// Whoever holds the secret key of this age X25519 recipient, `age1...`.
    AgePublic(String),
}

/// What opens a vault.
#[derive(Clone)]
pub enum Identity {
    /// A passphrase.
    Passphrase(SecretString),
    /// An age X25519 secret key, `AGE-SECRET-KEY-1...`.
    AgeSecret(SecretString),
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Recipient::Passphrase(_) => f.write_str("Passphrase"),
            Recipient::AgePublic(key) => write!(f, "AgePublic({key})"),
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Identity::Passphrase(_) => "Passphrase",
            Identity::AgeSecret(_) => "AgeSecret",
        })
    }
}

/// A recipient as the vault lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipientInfo {
    /// The id of its key object.
    pub id: String,
    /// `passphrase` or `age`.
    pub kind: String,
    /// The age public key; none for a passphrase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public: Option<String>,
}

/// The id of a vault: 128 random bits, public.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct VaultId(pub [u8; 16]);

/// 32 secret bytes, wiped when dropped, never printed.
pub(crate) type Secret = Zeroizing<[u8; 32]>;

/// Everything derived from the master key.
pub(crate) struct Keys {
    /// Public id of the vault.
    pub vault: VaultId,
    master: Secret,
    pack: Secret,
    object: Secret,
    server: Secret,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

impl Keys {
    /// Derives all keys of the vault.
    pub fn new(vault: VaultId, master: Secret) -> Self {
        let derive = |purpose: &str| {
            let mut hasher = blake3::Hasher::new_derive_key(&format!("replicate vault v1 {purpose}"));
            hasher.update(&*master).update(&vault.0);
            Zeroizing::new(*hasher.finalize().as_bytes())
        };
        Self { vault, pack: derive("pack"), object: derive("object"), server: derive("server name"), master }
    }

    /// A new master key.
    pub fn generate(vault: VaultId) -> Self {
        Self::new(vault, Zeroizing::new(rand::random()))
    }

    /// The master key, for wrapping only.
    pub fn master(&self) -> &Secret {
        &self.master
    }

    /// The key of one pack: its name is random and never used twice, so a frame's number can be the nonce.
    pub fn pack(&self, pack: PackId) -> Secret {
        Zeroizing::new(*blake3::keyed_hash(&self.pack, &pack.0).as_bytes())
    }

    /// The key of one sealed object.
    pub fn object(&self, class: u8, salt: &[u8; 16]) -> Secret {
        let mut hasher = blake3::Hasher::new_keyed(&self.object);
        hasher.update(&[class]).update(salt);
        Zeroizing::new(*hasher.finalize().as_bytes())
    }

    /// The server's name as it stands in keys of the bucket.
    pub fn server(&self, server: &ServerName) -> String {
        hex::encode(&blake3::keyed_hash(&self.server, server.as_str().as_bytes()).as_bytes()[..16])
    }
}

/// The error for bytes that are not what they must be.
pub(crate) fn damaged(what: impl Into<String>, why: &'static str) -> Error {
    Error::new(Kind::Damaged, what).because(why)
}

/// The error for a point that is not in the vault.
pub(crate) fn no_point(point: &PointId, bucket: &str) -> Error {
    Error::new(Kind::NotFound, format!("there is no point {point} in vault {bucket}"))
}

/// The error for something that should be impossible; it names the place, so that a report is of use.
pub(crate) fn broken(what: &str) -> Error {
    Error::new(Kind::Permanent, format!("cannot go on: {what}")).hint("this is a bug of the program: please report it")
}

/// A key object's id, checked: 16 hexadecimal digits.
pub(crate) fn check_key_id(id: &str) -> Result<()> {
    if id.len() == 16 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return Ok(());
    }
    Err(Error::new(Kind::Invalid, format!("`{}` is not the id of a recipient", id.escape_debug()))
        .hint("`replicate key list` shows the ids"))
}

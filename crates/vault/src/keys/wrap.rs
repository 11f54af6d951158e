//! Key objects: the master key, wrapped for one recipient.
//!
//! Everything in a key object is authenticated: the canonical JSON of all other fields is the associated data of
//! the passphrase's AEAD, and its hash is part of what age encrypts. A key object moved to another vault or another
//! name does not open.

use std::str::FromStr;

use age::x25519;
use argon2::{Algorithm, Argon2, Params, Version};
use base64::{Engine, prelude::BASE64_STANDARD};
use model::{Error, Kind, Result};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Identity, Recipient, RecipientInfo, Secret, VaultId, broken, damaged};
use crate::cipher::Cipher;
use crate::layout::KEYS;

/// Cost of new passphrase wraps: 64 MiB, three passes, one lane.
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;
/// What a stranger's key object may ask of us.
const MOST_MEMORY_KIB: u32 = 1024 * 1024;
const MOST_PASSES: u32 = 64;
/// No key object is longer.
const LONGEST: usize = 16 * 1024;

/// Parameters of Argon2id, version 0x13.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    /// 16 bytes, hexadecimal.
    salt: String,
}

/// How the key is wrapped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
enum Lock {
    /// AES-256-GCM under Argon2id of the passphrase; the nonce is zero, for the salt makes each key unique.
    Passphrase { argon2id: Cost },
    /// An age file with one X25519 recipient.
    Age { recipient: String },
}

/// What stands in `keys/<id>.json`, in this order, without spaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyObject {
    version: u32,
    /// The vault it belongs to, hexadecimal.
    vault: String,
    /// 16 hexadecimal digits, random.
    pub id: String,
    lock: Lock,
    /// Base64.
    wrapped: String,
}

impl KeyObject {
    /// Where it lies.
    pub fn key(&self) -> String {
        format!("{KEYS}{}.json", self.id)
    }

    /// As bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|e| broken("a key object has no JSON").because(e))
    }

    /// Reads and checks a key object that was found under `key`. Only the one canonical form is accepted.
    pub fn parse(key: &str, bytes: &[u8]) -> Result<Self> {
        let what = || format!("cannot read key object {key}");
        if bytes.len() > LONGEST {
            return Err(damaged(what(), "it is too long"));
        }
        let object: Self =
            serde_json::from_slice(bytes).map_err(|e| Error::new(Kind::Damaged, what()).because(e.to_string()))?;
        if object.version != 1 {
            return Err(Error::new(Kind::Invalid, what())
                .because("its version is unknown")
                .hint("a newer replicate wrote it: update this one"));
        }
        if object.key() != key || object.to_bytes()? != bytes {
            return Err(damaged(what(), "it is not in its canonical form"));
        }
        Ok(object)
    }

    /// What may be told of it.
    pub fn info(&self) -> RecipientInfo {
        let (kind, public) = match &self.lock {
            Lock::Passphrase { .. } => ("passphrase", None),
            Lock::Age { recipient } => ("age", Some(recipient.clone())),
        };
        RecipientInfo { id: self.id.clone(), kind: kind.to_owned(), public }
    }

    /// All fields but the wrapped key, to be authenticated.
    fn bound(&self) -> Result<Vec<u8>> {
        Self { wrapped: String::new(), ..self.clone() }.to_bytes()
    }
}

/// Wraps the master key of `vault` for `recipient`. Slow by intent for a passphrase: call it on a blocking thread.
pub(crate) fn wrap(vault: VaultId, master: &Secret, recipient: &Recipient) -> Result<KeyObject> {
    let id = hex::encode(rand::random::<[u8; 8]>());
    let vault = hex::encode(vault.0);
    match recipient {
        Recipient::Passphrase(passphrase) => {
            if passphrase.expose_secret().is_empty() {
                return Err(
                    Error::new(Kind::Invalid, "cannot wrap the key of the vault").because("the passphrase is empty")
                );
            }
            let salt = hex::encode(rand::random::<[u8; 16]>());
            let cost = Cost { memory_kib: MEMORY_KIB, passes: PASSES, lanes: 1, salt };
            let key = stretch(passphrase.expose_secret(), &cost)?;
            let lock = Lock::Passphrase { argon2id: cost };
            let mut object = KeyObject { version: 1, vault, id, lock, wrapped: String::new() };
            let mut sealed = Zeroizing::new(master.to_vec());
            Cipher::new(&key)?.seal(0, &object.bound()?, &mut sealed, 0)?;
            object.wrapped = BASE64_STANDARD.encode(&*sealed);
            Ok(object)
        }
        Recipient::AgePublic(text) => {
            let recipient = x25519::Recipient::from_str(text).map_err(|why| {
                Error::new(Kind::Invalid, format!("`{}` is not an age recipient", text.escape_debug()))
                    .because(why)
                    .hint("age-keygen prints the public key: it begins with age1")
            })?;
            let lock = Lock::Age { recipient: recipient.to_string() };
            let mut object = KeyObject { version: 1, vault, id, lock, wrapped: String::new() };
            let mut plain = Zeroizing::new(master.to_vec());
            plain.extend_from_slice(blake3::hash(&object.bound()?).as_bytes());
            let sealed = age::encrypt(&recipient, &plain)
                .map_err(|e| Error::new(Kind::Permanent, "cannot wrap the key of the vault with age").because(e))?;
            object.wrapped = BASE64_STANDARD.encode(sealed);
            Ok(object)
        }
    }
}

/// Tries to unwrap; `None` if the identity is for something else or does not fit.
pub(crate) fn unwrap(vault: VaultId, object: &KeyObject, identity: &Identity) -> Result<Option<Secret>> {
    if object.vault != hex::encode(vault.0) {
        return Err(damaged(format!("cannot use key object {}", object.key()), "it belongs to another vault"));
    }
    let what = || format!("cannot read key object {}", object.key());
    let wrapped = BASE64_STANDARD.decode(&object.wrapped).map_err(|_| damaged(what(), "it is not base64"))?;
    match (&object.lock, identity) {
        (Lock::Passphrase { argon2id }, Identity::Passphrase(passphrase)) => {
            let key = stretch(passphrase.expose_secret(), argon2id)?;
            let mut sealed = Zeroizing::new(wrapped);
            Ok(Cipher::new(&key)?.open(0, &object.bound()?, &mut sealed).and_then(|plain| secret(plain)))
        }
        (Lock::Age { .. }, Identity::AgeSecret(text)) => {
            let identity = x25519::Identity::from_str(text.expose_secret().trim()).map_err(|why| {
                Error::new(Kind::Denied, "cannot use the age secret key")
                    .because(why)
                    .hint("it begins with AGE-SECRET-KEY-1")
            })?;
            let Ok(plain) = age::decrypt(&identity, &wrapped) else { return Ok(None) };
            let plain = Zeroizing::new(plain);
            let Some((master, bound)) = plain.split_at_checked(32) else {
                return Err(damaged(what(), "the wrapped key is too short"));
            };
            if bound != blake3::hash(&object.bound()?).as_bytes() {
                return Err(damaged(what(), "it was changed after it was made"));
            }
            Ok(secret(master))
        }
        _ => Ok(None),
    }
}

fn secret(bytes: &[u8]) -> Option<Secret> {
    Some(Zeroizing::new(<[u8; 32]>::try_from(bytes).ok()?))
}

fn stretch(passphrase: &str, cost: &Cost) -> Result<Secret> {
    let bad = || damaged("cannot use a passphrase's key object", "its Argon2id parameters are out of bounds");
    if cost.memory_kib > MOST_MEMORY_KIB || cost.passes > MOST_PASSES || cost.lanes > 16 {
        return Err(bad());
    }
    let salt = hex::decode(&cost.salt).ok().filter(|s| s.len() == 16).ok_or_else(bad)?;
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32)).map_err(|_| bad())?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), &salt, &mut *key)
        .map_err(|_| bad())?;
    Ok(key)
}

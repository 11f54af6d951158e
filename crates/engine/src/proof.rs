//! The signed receipt of a drill: what was restored, by which program, what it showed, how long it took. Anyone with the public key
//! can check it, offline, years later.

use std::path::Path;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use model::{Consistency, Error, Kind, OwnerId, Place, PointDisk, PointId, Result, RunId, ServerName, SiteName};
use serde::{Deserialize, Serialize};

use crate::identity;

/// Domain of the signature, so that nothing else that is signed can be taken for a proof.
const CONTEXT: &[u8] = b"replicate proof v1\n";

/// One rung of a drill's ladder, or one of the policy's probes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rung {
    /// `firmware`, `kernel`, `root`, `ready`, or what the probe looks for.
    pub name: String,
    /// Whether it was reached.
    pub passed: bool,
    /// Seconds from launch.
    pub seconds: f64,
    /// What was seen, or why it was not reached.
    pub detail: String,
}

/// What a drill proves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Proof {
    /// Version of this form.
    pub version: u32,
    /// The drill.
    pub run: RunId,
    /// The installation that drilled.
    pub owner: OwnerId,
    /// The program, `replicate 0.1.0`.
    pub program: String,
    /// BLAKE3 of its executable.
    pub program_hash: String,
    /// The server.
    pub server: ServerName,
    /// The point.
    pub point: PointId,
    /// Its instant.
    pub taken_at: Timestamp,
    /// Its consistency.
    pub consistency: Consistency,
    /// Its disks with the roots that were compared with what was booted.
    pub disks: Vec<PointDisk>,
    /// Which replica it came from.
    pub from: Place,
    /// Where it booted.
    pub site: SiteName,
    /// When the drill began.
    pub started_at: Timestamp,
    /// Seconds until the disks were there.
    pub restore_seconds: f64,
    /// Seconds from the beginning to the last rung.
    pub total_seconds: f64,
    /// Rungs and probes, in order.
    pub rungs: Vec<Rung>,
    /// Whether all passed.
    pub passed: bool,
    /// BLAKE3 of the console's text.
    pub console_hash: String,
}

/// A proof with its signature. `proof` is the exact text that was signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedProof {
    /// The proof as JSON.
    pub proof: String,
    /// Ed25519 public key, base64.
    pub public_key: String,
    /// Ed25519 signature over `replicate proof v1`, a line feed and the text, base64.
    pub signature: String,
}

/// Checks the signature and reads the proof. `trusted`: the key that must have signed; without one, only that the text was not changed
/// since whoever has the key in the receipt signed it.
pub fn verify_proof(signed: &SignedProof, trusted: Option<&str>) -> Result<Proof> {
    let operation = "cannot trust the proof";
    if trusted.is_some_and(|key| key != signed.public_key) {
        return Err(Error::new(Kind::Denied, operation).because("another key signed it"));
    }
    let decode = |text: &str| BASE64.decode(text).map_err(|error| Error::new(Kind::Damaged, operation).because(error));
    let key = UnparsedPublicKey::new(&ED25519, decode(&signed.public_key)?);
    key.verify(&message(&signed.proof), &decode(&signed.signature)?)
        .map_err(|_| Error::new(Kind::Damaged, operation).because("its signature does not fit its text"))?;
    serde_json::from_str(&signed.proof).map_err(|error| Error::new(Kind::Damaged, operation).because(error))
}

fn message(text: &str) -> Vec<u8> {
    [CONTEXT, text.as_bytes()].concat()
}

/// Signs proofs. The key is made once and lies, readable by its owner only, beside the ledger.
pub(crate) struct Signer(Ed25519KeyPair);

impl Signer {
    /// The key in `folder`, or a new one; without a folder, one that lasts as long as the process.
    pub(crate) fn open(folder: Option<&Path>) -> Result<Self> {
        let operation = "cannot open the key that signs proofs";
        let pair = |bytes: &[u8]| {
            Ed25519KeyPair::from_pkcs8(bytes).map_err(|_| {
                Error::new(Kind::Damaged, operation)
                    .because("the file is not an Ed25519 key")
                    .hint("move it away: a new key is made, and old proofs stay valid under the old one")
            })
        };
        let path = folder.map(|folder| folder.join(identity::KEY_FILE));
        if let Some(path) = &path {
            match std::fs::read(path) {
                Ok(bytes) => return Ok(Self(pair(&bytes)?)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io(operation, error)),
            }
        }
        let fresh = Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new())
            .map_err(|_| Error::new(Kind::Permanent, "cannot make a key that signs proofs"))?;
        if let Some(path) = &path {
            identity::write_new(path, fresh.as_ref(), 0o600)?;
        }
        Ok(Self(pair(fresh.as_ref())?))
    }

    /// The public key, base64.
    pub(crate) fn public_key(&self) -> String {
        BASE64.encode(self.0.public_key().as_ref())
    }

    /// Signs.
    pub(crate) fn sign(&self, proof: &Proof) -> Result<SignedProof> {
        let text = serde_json::to_string(proof)
            .map_err(|error| Error::new(Kind::Permanent, "cannot write the proof").because(error))?;
        let signature = BASE64.encode(self.0.sign(&message(&text)).as_ref());
        Ok(SignedProof { proof: text, public_key: self.public_key(), signature })
    }
}

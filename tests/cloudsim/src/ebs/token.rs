//! Tokens of pages and blocks: what they are for and how long they are good, sealed so that none can be made up.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A block of a snapshot.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct BlockToken {
    pub(super) snapshot: String,
    pub(super) index: u32,
    /// Seconds.
    pub(super) expires: i64,
}

/// Where a listing goes on.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PageToken {
    pub(super) first: Option<String>,
    pub(super) second: String,
    pub(super) from: u32,
    /// The next page is an empty one.
    pub(super) empty: bool,
    pub(super) expires: i64,
}

/// Not a secret: it only has to keep tests from making tokens up by accident.
fn seal(text: &[u8]) -> Vec<u8> {
    sign(&Key::new(HMAC_SHA256, b"cloudsim"), text).as_ref()[..16].to_vec()
}

pub(super) fn encode(token: &impl Serialize) -> String {
    let text = serde_json::to_vec(token).unwrap_or_default();
    STANDARD.encode([seal(&text), text].concat())
}

/// None: it was not made here.
pub(super) fn decode<T: DeserializeOwned>(text: &str) -> Option<T> {
    let bytes = STANDARD.decode(text).ok()?;
    let (sealed, text) = bytes.split_at_checked(16)?;
    verify_slices_are_equal(sealed, &seal(text)).ok()?;
    serde_json::from_slice(text).ok()
}

pub(super) fn in_seconds(now: Timestamp, seconds: i64) -> i64 {
    now.as_second() + seconds
}

//! Names of things, in the shapes that the provider gives them.

use rand::Rng;

/// `prefix-0` and sixteen hex digits.
pub(crate) fn fresh(prefix: &str) -> String {
    format!("{prefix}-0{:016x}", rand::rng().random::<u64>())
}

/// Upper-case letters and digits, as in access keys.
pub(crate) fn capitals(length: usize) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut random = rand::rng();
    (0..length).map(|_| char::from(LETTERS[random.random_range(0..LETTERS.len())])).collect()
}

/// A request id.
pub(crate) fn request() -> String {
    let bits: u128 = rand::rng().random();
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

//! AES-256-GCM with counters as nonces: the one place that seals and opens bytes.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use model::Result;

use crate::keys::{Secret, broken};

/// Bytes that sealing adds.
pub(crate) const TAG: usize = 16;

/// One key. Each key seals each counter at most once: keys are derived from random names and salts.
pub(crate) struct Cipher(LessSafeKey);

impl Cipher {
    /// A cipher for a derived key.
    pub fn new(key: &Secret) -> Result<Self> {
        let key = UnboundKey::new(&AES_256_GCM, &**key).map_err(|_| broken("the cipher refused a key"))?;
        Ok(Self(LessSafeKey::new(key)))
    }

    /// Encrypts `buffer[start..]` where it is and appends the tag.
    pub fn seal(&self, counter: u32, aad: &[u8], buffer: &mut Vec<u8>, start: usize) -> Result<()> {
        let plain = buffer.get_mut(start..).ok_or_else(|| broken("a buffer is shorter than its start"))?;
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce(counter), Aad::from(aad), plain)
            .map_err(|_| broken("the cipher refused to seal"))?;
        buffer.extend_from_slice(tag.as_ref());
        Ok(())
    }

    /// Decrypts into `plain`, which is as long as what was sealed; `false` if a single bit is not as it was. `plain` is
    /// then worth nothing.
    pub fn open_into(&self, counter: u32, aad: &[u8], sealed: &[u8], plain: &mut [u8]) -> bool {
        let Some((bytes, tag)) = sealed.split_last_chunk::<TAG>() else { return false };
        bytes.len() == plain.len()
            && self.0.open_separate_gather(nonce(counter), Aad::from(aad), bytes, tag, plain).is_ok()
    }

    /// Decrypts where it is and returns the plain part; `None` if a single bit is not as it was sealed.
    pub fn open<'a>(&self, counter: u32, aad: &[u8], sealed: &'a mut [u8]) -> Option<&'a mut [u8]> {
        self.0.open_in_place(nonce(counter), Aad::from(aad), sealed).ok()
    }
}

fn nonce(counter: u32) -> Nonce {
    let mut bytes = [0; 12];
    bytes[8..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

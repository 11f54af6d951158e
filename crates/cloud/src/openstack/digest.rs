//! The end-to-end check of an image: what is read is hashed in the order of the file and held against the hash that
//! Glance made when it took the image in.
//!
//! A disk is read nearly in the order of its file, so what comes too early is kept until its turn. A reader that
//! leaves out too much goes without the check: there is nothing to compare then.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use aws_lc_rs::digest::{Algorithm, Context, SHA256, SHA384, SHA512};
use bytes::Bytes;
use disk::file::Ranged;
use model::{Error, Kind, Result};

use super::api::glance::Image;

/// The most that is kept until its turn: what a transfer has in flight, and so holds as well.
const EARLY: usize = 32 << 20;

/// Adds the check to a file, if the service told a hash that is known here.
pub(super) fn checked(file: Arc<dyn Ranged>, image: &Image) -> Arc<dyn Ranged> {
    let algorithm = match image.os_hash_algo.as_deref() {
        Some("sha512") => &SHA512,
        Some("sha384") => &SHA384,
        Some("sha256") => &SHA256,
        _ => return file,
    };
    match &image.os_hash_value {
        Some(expected) => Arc::new(Checked::new(file, algorithm, expected)),
        None => file,
    }
}

struct Checked {
    file: Arc<dyn Ranged>,
    state: Arc<Mutex<Option<State>>>,
}

/// How far the hash is.
struct State {
    context: Context,
    at: u64,
    len: u64,
    early: BTreeMap<u64, Bytes>,
    kept: usize,
    expected: String,
}

impl Checked {
    fn new(file: Arc<dyn Ranged>, algorithm: &'static Algorithm, expected: &str) -> Self {
        let (context, expected) = (Context::new(algorithm), expected.to_ascii_lowercase());
        let state = State { context, at: 0, len: file.len(), early: BTreeMap::new(), kept: 0, expected };
        Self { file, state: Arc::new(Mutex::new(Some(state))) }
    }
}

/// What came of a piece.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Open,
    /// Too much is missing: no hash can be made.
    GivenUp,
    Equal,
    Different(String),
}

impl State {
    fn take(&mut self, offset: u64, bytes: Bytes) -> Verdict {
        let end = offset + bytes.len() as u64;
        if end > self.at && self.early.get(&offset).is_none_or(|known| known.len() < bytes.len()) {
            self.kept += bytes.len();
            let before = self.early.insert(offset, bytes);
            self.kept -= before.map_or(0, |bytes| bytes.len());
        }
        while let Some(first) = self.early.first_entry().filter(|first| *first.key() <= self.at) {
            let (offset, bytes) = first.remove_entry();
            self.kept -= bytes.len();
            let done = usize::try_from(self.at - offset).unwrap_or(usize::MAX);
            if let Some(news) = bytes.get(done..) {
                self.context.update(news);
                self.at += news.len() as u64;
            }
        }
        if self.at == self.len {
            let found = self.context.clone().finish();
            let found: String = found.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
            return if found == self.expected { Verdict::Equal } else { Verdict::Different(found) };
        }
        if self.kept > EARLY { Verdict::GivenUp } else { Verdict::Open }
    }
}

#[async_trait]
impl Ranged for Checked {
    fn len(&self) -> u64 {
        self.file.len()
    }

    async fn read(&self, offset: u64, len: usize) -> Result<Bytes> {
        let bytes = self.file.read(offset, len).await?;
        let (state, piece) = (self.state.clone(), bytes.clone());
        let hashing = tokio::task::spawn_blocking(move || {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            let verdict = state.as_mut().map(|state| state.take(offset, piece));
            // a difference stays: whoever reads the last piece again is told again
            if matches!(verdict, Some(Verdict::Equal | Verdict::GivenUp)) {
                *state = None;
            }
            verdict
        });
        let what = self.file.describe();
        match hashing.await {
            Ok(Some(Verdict::Different(found))) => {
                let why = format!("its bytes have the hash {found:.16}..., not the one that Glance made of them");
                return Err(Error::new(Kind::Damaged, format!("cannot read {what}")).because(why));
            }
            Ok(Some(Verdict::Equal)) => tracing::debug!(what, "its bytes have the hash that Glance made of them"),
            Ok(Some(Verdict::GivenUp)) => tracing::debug!(what, "read in another order: its hash is not checked"),
            Ok(Some(Verdict::Open) | None) => {}
            Err(error) => return Err(Error::new(Kind::Permanent, format!("cannot hash {what}")).because(error)),
        }
        Ok(bytes)
    }

    fn describe(&self) -> String {
        self.file.describe()
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::digest::digest;

    use super::*;

    struct File(Vec<u8>);

    #[async_trait]
    impl Ranged for File {
        fn len(&self) -> u64 {
            self.0.len() as u64
        }

        async fn read(&self, offset: u64, len: usize) -> Result<Bytes> {
            Ok(Bytes::copy_from_slice(&self.0[offset as usize..offset as usize + len]))
        }

        fn describe(&self) -> String {
            "image 7".to_owned()
        }
    }

    fn open(content: &[u8], damaged: Option<usize>) -> Checked {
        let expected: String = digest(&SHA512, content).as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
        let mut content = content.to_vec();
        if let Some(at) = damaged {
            content[at] ^= 1;
        }
        Checked::new(Arc::new(File(content)), &SHA512, &expected)
    }

    async fn read(file: &Checked, pieces: &[(u64, usize)]) -> Result<()> {
        for (offset, len) in pieces {
            file.read(*offset, *len).await?;
        }
        Ok(())
    }

    fn is_done(file: &Checked) -> bool {
        file.state.lock().unwrap().is_none()
    }

    #[tokio::test]
    async fn any_order_with_repeats_is_the_same_file() {
        let content: Vec<u8> = (0..1000_u32).map(|n| n as u8).collect();
        for pieces in [
            vec![(0, 1000)],
            vec![(0, 300), (300, 700)],
            vec![(600, 400), (0, 300), (0, 300), (250, 100), (300, 300)],
            vec![(300, 10), (300, 300), (600, 400), (0, 300)],
        ] {
            let file = open(&content, None);
            read(&file, &pieces).await.unwrap();
            assert!(is_done(&file), "{pieces:?}");
        }
    }

    #[tokio::test]
    async fn a_flipped_bit_is_told_at_the_last_piece_and_again() {
        let content = vec![7; 1000];
        let file = open(&content, Some(500));
        read(&file, &[(0, 600)]).await.unwrap();
        for _ in 0..2 {
            let error = file.read(600, 400).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Damaged);
            assert!(error.chain().contains("image 7"), "{}", error.chain());
        }
    }

    #[tokio::test]
    async fn a_reader_that_leaves_out_much_goes_without() {
        let content = vec![7; EARLY + 3000];
        let file = open(&content, Some(0));
        read(&file, &[(1000, EARLY), (EARLY as u64 + 1000, 2000)]).await.unwrap();
        assert!(is_done(&file));
    }

    #[tokio::test]
    async fn what_was_not_read_is_not_judged() {
        let file = open(&[7; 1000], Some(999));
        read(&file, &[(0, 999)]).await.unwrap();
        assert!(!is_done(&file));
    }
}

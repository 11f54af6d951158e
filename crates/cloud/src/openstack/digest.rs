//! The end-to-end check of an image: what is read is hashed in the order of the file and held against the hash that
//! Glance made when it took the image in.
//!
//! A disk is read nearly in the order of its file. What comes too early is kept until its turn as long as it is near: the
//! tables of a qcow2 file lie all over it and are read first, with what lies around them, which is read again with the data
//! there. What nobody reads (reference counts, tables that were forgotten here) is fetched for the hash alone, where
//! reading has gone past it, or in the end. A reader that leaves out more goes without the check.

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
/// Reading does not come back to a gap behind it: it is fetched if it is no larger.
const GAP: u64 = 8 << 20;
/// What may be fetched in the end. Reference counts are a 32,768th of the file.
const REST: u64 = 64 << 20;
/// What is fetched at once.
const PIECE: u64 = 1 << 20;

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
    /// So many bytes at this place will not come by themselves.
    Missing(u64, usize),
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
            return self.compare();
        }
        let near = self.at + 2 * EARLY as u64;
        while self.kept > EARLY
            && let Some(last) = self.early.last_entry().filter(|last| *last.key() > near)
        {
            self.kept -= last.remove().len();
        }
        match self.kept > EARLY {
            true if self.gap() <= GAP => self.missing(),
            true => Verdict::GivenUp,
            false => Verdict::Open,
        }
    }

    fn compare(&self) -> Verdict {
        let found = self.context.clone().finish();
        let found: String = found.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        if found == self.expected { Verdict::Equal } else { Verdict::Different(found) }
    }

    /// Bytes before what comes next of that which is kept.
    fn gap(&self) -> u64 {
        self.early.keys().next().map_or(self.len, |first| *first) - self.at
    }

    fn missing(&self) -> Verdict {
        Verdict::Missing(self.at, self.gap().min(PIECE) as usize)
    }

    /// What is to be fetched once all was read.
    fn rest(&self) -> Verdict {
        match (self.len - self.at).saturating_sub(self.kept as u64) {
            _ if self.at == self.len => self.compare(),
            ..=REST => self.missing(),
            _ => Verdict::GivenUp,
        }
    }
}

impl Checked {
    /// Looks at the hash, if it is still being made: what came of it stays, but for a difference, which whoever reads
    /// the last piece again is told again.
    async fn look(&self, at: impl FnOnce(&mut State) -> Verdict + Send + 'static) -> Result<Option<Verdict>> {
        let state = self.state.clone();
        let looking = tokio::task::spawn_blocking(move || {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            let verdict = state.as_mut().map(at);
            if matches!(verdict, Some(Verdict::Equal | Verdict::GivenUp)) {
                *state = None;
            }
            verdict
        });
        looking.await.map_err(|error| {
            Error::new(Kind::Permanent, format!("cannot hash {}", self.file.describe())).because(error)
        })
    }

    /// Acts on what came of a piece, and fetches what will not come by itself.
    async fn settle(&self, mut verdict: Option<Verdict>) -> Result<()> {
        let what = self.file.describe();
        loop {
            match verdict {
                Some(Verdict::Missing(offset, len)) => {
                    let bytes = self.file.read(offset, len).await?;
                    verdict = self.look(move |state| state.take(offset, bytes)).await?;
                    continue;
                }
                Some(Verdict::Different(found)) => {
                    let why = format!("its bytes have the hash {found:.16}..., not the one that Glance made of them");
                    return Err(Error::new(Kind::Damaged, format!("cannot read {what}")).because(why));
                }
                Some(Verdict::Equal) => tracing::debug!(what, "its bytes have the hash that Glance made of them"),
                Some(Verdict::GivenUp) => tracing::debug!(what, "read in another order: its hash is not checked"),
                Some(Verdict::Open) | None => {}
            }
            return Ok(());
        }
    }
}

#[async_trait]
impl Ranged for Checked {
    fn len(&self) -> u64 {
        self.file.len()
    }

    async fn read(&self, offset: u64, len: usize) -> Result<Bytes> {
        let bytes = self.file.read(offset, len).await?;
        let piece = bytes.clone();
        let verdict = self.look(move |state| state.take(offset, piece)).await?;
        self.settle(verdict).await?;
        Ok(bytes)
    }

    async fn conclude(&self) -> Result<()> {
        loop {
            let verdict = self.look(|state| state.rest()).await?;
            if verdict.is_none() {
                return Ok(());
            }
            self.settle(verdict).await?;
        }
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
        let early = GAP + 1;
        let content = vec![7; EARLY + early as usize + 2000];
        let file = open(&content, Some(0));
        read(&file, &[(early, EARLY), (early + EARLY as u64, 2000)]).await.unwrap();
        assert!(is_done(&file));

        let file = open(&vec![7; REST as usize + 2000], Some(0));
        read(&file, &[(0, 1000)]).await.unwrap();
        file.conclude().await.unwrap();
        assert!(is_done(&file));
    }

    #[tokio::test]
    async fn what_nobody_reads_is_fetched_in_the_end() {
        let content = vec![7; 3 * PIECE as usize];
        let file = open(&content, None);
        read(&file, &[(1000, 1000), (5000, 1000)]).await.unwrap();
        assert!(!is_done(&file));
        file.conclude().await.unwrap();
        assert!(is_done(&file));

        let file = open(&content, Some(content.len() - 1));
        read(&file, &[(0, content.len() - 1)]).await.unwrap();
        for _ in 0..2 {
            assert_eq!(file.conclude().await.unwrap_err().kind(), Kind::Damaged);
        }
    }

    /// The tables of a file of 200 MiB, one every 4 MiB, are read first, and then the data between them: more tables than are
    /// kept, and some that lie far away.
    #[tokio::test]
    async fn tables_all_over_the_file_are_hashed_in_their_turn() {
        const STEP: u64 = 4 << 20;
        let content: Vec<u8> = (0..200_u32 << 18).flat_map(u32::to_le_bytes).collect();
        let tables = (0..content.len() as u64).step_by(STEP as usize).map(|at| (at, PIECE as usize));
        let data = (0..content.len() as u64).step_by(PIECE as usize).filter(|at| at % STEP != 0);
        let pieces: Vec<(u64, usize)> = tables.chain(data.map(|at| (at, PIECE as usize))).collect();
        for damaged in [None, Some(content.len() - 1), Some((STEP * 40) as usize)] {
            let file = open(&content, damaged);
            let outcome = match read(&file, &pieces).await {
                Ok(()) => file.conclude().await,
                error => error,
            };
            assert_eq!(outcome.map_err(|error| error.kind()), damaged.map_or(Ok(()), |_| Err(Kind::Damaged)));
            let state = file.state.lock().unwrap();
            assert!(state.as_ref().is_none_or(|state| state.kept <= EARLY), "too much is kept");
            assert!(damaged.is_some() || state.is_none(), "the hash was not made");
        }
    }
}

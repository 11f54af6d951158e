//! A raw image, sent while it is written: zeroes too, since the service stores what it gets.
//!
//! Nothing is kept here, so an upload that breaks cannot be repeated: the disk is written again by the run's next
//! attempt. The bytes are hashed once for the root and once for the service's own sum, beside the sending.

use async_trait::async_trait;
use aws_lc_rs::digest;
use bytes::Bytes;
use disk::{DiskWrite, LEAF, RootBuilder, Written, leaf, zero_leaf};
use futures::stream;
use model::{Error, Kind, Result};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::upload::{SETTLE, STALL, Sent, Upload};

/// Pieces that wait for the network.
const QUEUE: usize = 8;
/// The largest piece.
const PIECE: u64 = 1 << 20;

/// What is hashed; it moves to a blocking thread and back.
struct Sums {
    root: RootBuilder,
    sha512: digest::Context,
}

/// A raw disk that is being sent.
pub(super) struct StreamWriter {
    upload: Upload,
    size: u64,
    cursor: u64,
    received: u64,
    sums: Option<Sums>,
    zeroes: Bytes,
    /// Begun with the first byte.
    sending: Option<Sending>,
}

struct Sending {
    pieces: mpsc::Sender<std::io::Result<Bytes>>,
    call: JoinHandle<Result<()>>,
}

impl StreamWriter {
    pub(super) fn new(upload: Upload, size: u64) -> Self {
        let sums = Sums { root: RootBuilder::new(size), sha512: digest::Context::new(&digest::SHA512) };
        let zeroes = vec![0; PIECE as usize].into();
        Self { upload, size, cursor: 0, received: 0, sums: Some(sums), zeroes, sending: None }
    }

    fn operation(&self) -> String {
        format!("cannot send image {}", self.upload.image)
    }

    fn check(&self, offset: u64, len: u64) -> Result<()> {
        let end = offset.checked_add(len).filter(|end| *end <= self.size);
        let whole = |at: u64| at.is_multiple_of(LEAF) || at == self.size;
        if end.is_some_and(|end| offset >= self.cursor && whole(offset) && whole(end)) {
            return Ok(());
        }
        Err(Error::new(Kind::Invalid, self.operation())
            .because(format!("{len} bytes at {offset} come out of order or are no whole leaves")))
    }

    /// Sends what follows the cursor.
    async fn push(&mut self, data: Bytes) -> Result<()> {
        let broken = |what: &str, operation: String| Error::new(Kind::Permanent, operation).because(what.to_owned());
        let mut sums = self.sums.take().ok_or_else(|| broken("an earlier write failed", self.operation()))?;
        let (first, piece) = (self.cursor / LEAF, data.clone());
        let summed = tokio::task::spawn_blocking(move || {
            for (index, bytes) in piece.chunks(LEAF as usize).enumerate() {
                sums.root.push(first + index as u64, if disk::is_zero(bytes) { zero_leaf() } else { leaf(bytes) });
            }
            sums.sha512.update(&piece);
            sums
        });
        let sent = self.hand_over(data.clone());
        let sums = match tokio::join!(summed, sent) {
            (Ok(sums), Ok(())) => sums,
            // the call knows best why nothing is taken any more
            (_, Err(())) => return Err(self.end().await),
            (Err(error), _) => return Err(Error::new(Kind::Permanent, self.operation()).because(error)),
        };
        self.sums = Some(sums);
        self.cursor += data.len() as u64;
        Ok(())
    }

    /// `Err`: nothing is taken any more.
    fn hand_over(&mut self, data: Bytes) -> impl Future<Output = std::result::Result<(), ()>> + 'static {
        let sending = self.sending.get_or_insert_with(|| {
            let (pieces, queue) = mpsc::channel(QUEUE);
            let body = stream::unfold(queue, |mut queue| async { Some((queue.recv().await?, queue)) });
            let (upload, len) = (self.upload.clone(), self.size);
            let call = tokio::spawn(async move { upload.send(reqwest::Body::wrap_stream(body), len).await });
            Sending { pieces, call }
        });
        let pieces = sending.pieces.clone();
        async move {
            match timeout(STALL, pieces.send(Ok(data))).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) | Err(_) => Err(()),
            }
        }
    }

    /// Why the sending has ended.
    async fn end(&mut self) -> Error {
        let operation = self.operation();
        let stalled = || Error::new(Kind::Transient, operation.clone());
        let Some(Sending { pieces, mut call }) = self.sending.take() else { return stalled() };
        let refused = pieces.is_closed();
        drop(pieces);
        if !refused {
            call.abort();
            return stalled().because(format!("the service took nothing for {} s", STALL.as_secs()));
        }
        match timeout(STALL, &mut call).await {
            Ok(Ok(Err(error))) => error,
            Ok(Ok(Ok(()))) => stalled().because("the service ended the upload before its last byte"),
            Ok(Err(error)) => stalled().because(error),
            Err(_) => stalled().because("the service did not say why it ended the upload"),
        }
    }

    async fn push_zeroes(&mut self, end: u64) -> Result<()> {
        while self.cursor < end {
            // whole leaves: the cursor is at one
            let len = (end - self.cursor).min(PIECE) as usize;
            self.push(self.zeroes.slice(..len)).await?;
        }
        Ok(())
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        if let Some(sending) = &self.sending {
            // a body that ends early could pass for a whole one
            sending.call.abort();
        }
    }
}

#[async_trait]
impl DiskWrite for StreamWriter {
    fn size(&self) -> u64 {
        self.size
    }

    async fn write(&mut self, offset: u64, data: Bytes) -> Result<()> {
        self.check(offset, data.len() as u64)?;
        self.push_zeroes(offset).await?;
        self.received += data.len() as u64;
        let mut at = 0;
        while at < data.len() {
            let end = data.len().min(at + PIECE as usize);
            self.push(data.slice(at..end)).await?;
            at = end;
        }
        Ok(())
    }

    async fn zero(&mut self, offset: u64, len: u64) -> Result<()> {
        self.check(offset, len)?;
        self.push_zeroes(offset + len).await
    }

    fn may_have_leaves(&self) -> bool {
        false
    }

    async fn finish(mut self: Box<Self>) -> Result<Written> {
        self.push_zeroes(self.size).await?;
        let operation = self.operation();
        let lost = |why: &str| Error::new(Kind::Permanent, operation.clone()).because(why.to_owned());
        let Some(Sending { pieces, mut call }) = self.sending.take() else { return Err(lost("it has no bytes")) };
        drop(pieces);
        let Ok(ended) = timeout(SETTLE, &mut call).await else {
            call.abort();
            let why = format!("the service did not answer {} s after the last byte", SETTLE.as_secs());
            return Err(Error::new(Kind::Transient, operation).because(why));
        };
        let answer = ended.map_err(|error| Error::new(Kind::Permanent, operation.clone()).because(error))?;
        if let Err(error) = answer {
            // the answer may be lost, and the bytes there
            match error.kind().is_retryable() && self.upload.has_arrived().await? {
                true => {}
                false => return Err(error),
            }
        }
        let sums = self.sums.take().ok_or_else(|| lost("an earlier write failed"))?;
        let sent = Sent { bytes: self.size, sha512: super::hex(sums.sha512.finish().as_ref()) };
        self.upload.settle(&sent).await?;
        let (received, stored) = (self.received, self.size);
        Ok(Written { root: sums.root.finish(), received, fresh: received, stored })
    }
}

//! An image that is sent while it is written: a raw one with all its zeroes, since the service stores what it gets, or a
//! qcow2 one of which is known how large it will be.
//!
//! Nothing is kept here, so an upload that breaks cannot be repeated: the disk is written again by the run's next
//! attempt. The bytes are hashed once for the root and once for the service's own sum, beside the sending.

use async_trait::async_trait;
use aws_lc_rs::digest;
use bytes::Bytes;
use disk::file::Qcow2Stream;
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

/// A disk that is being sent.
pub(super) struct StreamWriter {
    upload: Upload,
    size: u64,
    /// Bytes of the file.
    len: u64,
    /// Where things lie in the file, if that is not where they lie on the disk.
    layout: Option<Qcow2Stream>,
    /// Everything of the disk before it has been sent.
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
    pub(super) fn new(upload: Upload, size: u64, layout: Option<Qcow2Stream>) -> Self {
        let len = layout.as_ref().map_or(size, Qcow2Stream::bytes);
        let sums = Sums { root: RootBuilder::new(size), sha512: digest::Context::new(&digest::SHA512) };
        let zeroes = vec![0; PIECE as usize].into();
        Self { upload, size, len, layout, cursor: 0, received: 0, sums: Some(sums), zeroes, sending: None }
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

    /// Sends what the disk has at the cursor.
    async fn push(&mut self, data: Bytes) -> Result<()> {
        let (first, len) = (self.cursor / LEAF, data.len() as u64);
        self.send(data, Some(first)).await?;
        self.cursor += len;
        Ok(())
    }

    /// Sends what comes next in the file; `first`: the leaf of the disk that it begins with.
    async fn send(&mut self, data: Bytes, first: Option<u64>) -> Result<()> {
        let broken = |what: &str, operation: String| Error::new(Kind::Permanent, operation).because(what.to_owned());
        let mut sums = self.sums.take().ok_or_else(|| broken("an earlier write failed", self.operation()))?;
        let piece = data.clone();
        let summed = tokio::task::spawn_blocking(move || {
            for (index, bytes) in (first.into_iter().flat_map(|first| first..)).zip(piece.chunks(LEAF as usize)) {
                sums.root.push(index, if disk::is_zero(bytes) { zero_leaf() } else { leaf(bytes) });
            }
            sums.sha512.update(&piece);
            sums
        });
        let sent = self.hand_over(data);
        let sums = match tokio::join!(summed, sent) {
            (Ok(sums), Ok(())) => sums,
            // the call knows best why nothing is taken any more
            (_, Err(())) => return Err(self.end().await),
            (Err(error), _) => return Err(Error::new(Kind::Permanent, self.operation()).because(error)),
        };
        self.sums = Some(sums);
        Ok(())
    }

    /// `Err`: nothing is taken any more.
    fn hand_over(&mut self, data: Bytes) -> impl Future<Output = std::result::Result<(), ()>> + 'static {
        let sending = self.sending.get_or_insert_with(|| {
            let (pieces, queue) = mpsc::channel(QUEUE);
            let body = stream::unfold(queue, |mut queue| async { Some((queue.recv().await?, queue)) });
            let (upload, len) = (self.upload.clone(), self.len);
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

    /// Goes on to `end`: what lies before it is zero.
    async fn push_zeroes(&mut self, end: u64) -> Result<()> {
        if self.layout.is_some() {
            self.cursor = self.cursor.max(end);
        }
        while self.cursor < end {
            // whole leaves: the cursor is at one
            let len = (end - self.cursor).min(PIECE) as usize;
            self.push(self.zeroes.slice(..len)).await?;
        }
        Ok(())
    }

    /// Makes room for the next piece of data, and sends what lies before it in the file.
    async fn place(&mut self, len: u64) -> Result<()> {
        self.begin().await?;
        let Some(layout) = &mut self.layout else { return Ok(()) };
        let placed = layout.place(self.cursor, len).map_err(|error| error.within(self.operation()))?;
        match placed {
            Some(table) => self.send(table, None).await,
            None => Ok(()),
        }
    }

    async fn begin(&mut self) -> Result<()> {
        match self.layout.as_ref().filter(|_| self.sending.is_none()).map(Qcow2Stream::head) {
            Some(head) => self.send(head, None).await,
            None => Ok(()),
        }
    }

    /// Sends what lies behind the data.
    async fn complete(&mut self) -> Result<()> {
        self.push_zeroes(self.size).await?;
        self.begin().await?;
        let Some(layout) = self.layout.take() else { return Ok(()) };
        let (table, mut zeroes, tables) = layout.end();
        if let Some(table) = table {
            self.send(table, None).await?;
        }
        while zeroes > 0 {
            let len = zeroes.min(PIECE);
            self.send(self.zeroes.slice(..len as usize), None).await?;
            zeroes -= len;
        }
        for table in tables {
            self.send(table, None).await?;
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
            // never across a multiple of a piece: no table of a layout ends within one
            let len = (data.len() - at).min((PIECE - self.cursor % PIECE) as usize);
            let piece = data.slice(at..at + len);
            self.place(len as u64).await?;
            self.push(piece).await?;
            if self.layout.is_some() && !len.is_multiple_of(LEAF as usize) {
                // the disk ends within a cluster
                let rest = len.next_multiple_of(LEAF as usize) - len;
                self.send(self.zeroes.slice(..rest), None).await?;
            }
            at += len;
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
        self.complete().await?;
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
        let sent = Sent { bytes: self.len, sha512: super::hex(sums.sha512.finish().as_ref()) };
        self.upload.settle(&sent).await?;
        let (received, stored) = (self.received, self.len);
        Ok(Written { root: sums.root.finish(), received, fresh: received, stored })
    }
}

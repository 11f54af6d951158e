//! The bytes of an image's file. What is read in order comes out of few answers, whose ranges grow, since a request costs
//! the service as much as many MiB do; what is read here and there is asked for by itself.
//!
//! An answer that breaks off fails the read that it broke, and the next read asks again from there: repeating is up to the
//! caller.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use disk::Buffer;
use disk::file::Ranged;
use model::{Error, Kind, Result};
use reqwest::{Response, StatusCode};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::api::glance::Glance;
use super::error::transport;
use super::http::Client;

/// The most that is asked for at once. An answer that a slow reader leaves waiting is lost, so there is an end to it.
const LONGEST: u64 = 256 << 20;
/// Readers with several reads in flight do not quite keep the order: as much is kept of what they skip.
const EARLY: u64 = 16 << 20;
/// The longest that the service may send nothing.
const STALL: Duration = Duration::from_secs(300);

/// The file of an image.
pub(super) struct Download {
    client: Client,
    id: String,
    len: u64,
    flow: Mutex<Flow>,
}

/// Where the open answer is.
#[derive(Default)]
struct Flow {
    answer: Option<Response>,
    /// Of the answer's last piece, what nobody has read.
    rest: Bytes,
    /// Where the next byte of the answer lies in the file.
    at: u64,
    /// Where the answer ends.
    end: u64,
    /// What is asked for next.
    span: u64,
    /// Pieces that were skipped, by their place.
    early: BTreeMap<u64, Bytes>,
}

#[async_trait]
impl Ranged for Download {
    fn len(&self) -> u64 {
        self.len
    }

    async fn read(&self, offset: u64, len: usize) -> Result<Bytes> {
        let mut flow = self.flow.lock().await;
        if let Some(bytes) = flow.early.remove(&offset).filter(|bytes| bytes.len() == len) {
            return Ok(bytes);
        }
        if !flow.leads_to(offset, len as u64) {
            *flow = Flow { at: offset, end: offset, span: len as u64, ..Flow::default() };
        }
        let read = self.take(&mut flow, offset, len).await;
        if let Err(error) = read {
            let operation = format!("cannot read {len} bytes at {offset} of {}", self.describe());
            *flow = Flow::default();
            return Err(error.within(operation));
        }
        read
    }

    fn describe(&self) -> String {
        format!("image {}", self.id)
    }
}

impl Download {
    pub(super) fn new(client: &Client, id: &str, len: u64) -> Self {
        Self { client: client.clone(), id: id.to_owned(), len, flow: Mutex::default() }
    }

    /// Takes what lies before `offset` aside, then the bytes themselves.
    async fn take(&self, flow: &mut Flow, offset: u64, len: usize) -> Result<Bytes> {
        while flow.at < offset {
            let (at, len) = (flow.at, (offset - flow.at).min(len as u64) as usize);
            let skipped = self.next(flow, len).await?;
            flow.early.insert(at, skipped);
        }
        let bytes = self.next(flow, len).await?;
        let oldest = flow.at.saturating_sub(EARLY);
        flow.early.retain(|at, _| *at >= oldest);
        Ok(bytes)
    }

    /// The next bytes in order.
    async fn next(&self, flow: &mut Flow, len: usize) -> Result<Bytes> {
        let (mut whole, mut have) = (Buffer::take(len), 0);
        while have < len {
            if flow.at == flow.end {
                self.ask(flow).await?;
            }
            if flow.rest.is_empty() {
                flow.rest = flow.piece().await?;
            }
            let part = flow.rest.split_to(flow.rest.len().min(len - have));
            flow.at += part.len() as u64;
            whole.as_mut()[have..have + part.len()].copy_from_slice(&part);
            have += part.len();
        }
        Ok(whole.freeze())
    }

    /// Asks for the next range.
    async fn ask(&self, flow: &mut Flow) -> Result<()> {
        let span = flow.span.min(self.len - flow.at);
        flow.answer = None;
        let asked = timeout(STALL, Glance(&self.client).download(&self.id, flow.at, span)).await;
        let answer = asked.unwrap_or_else(|_| Err(silent(&self.describe())))?;
        if answer.status() != StatusCode::PARTIAL_CONTENT && span != self.len {
            return Err(Error::new(Kind::Invalid, format!("cannot read {}", self.describe()))
                .because("Glance, or a proxy before it, answers ranges with the whole image")
                .hint("let the proxy pass the header `Range`"));
        }
        flow.answer = Some(answer);
        flow.end = flow.at + span;
        flow.span = (flow.span * 2).min(LONGEST);
        Ok(())
    }
}

fn silent(what: &str) -> Error {
    let why = format!("the service sent nothing for {} s", STALL.as_secs());
    Error::new(Kind::Transient, format!("cannot read {what}")).because(why)
}

impl Flow {
    /// Whether it comes to `offset` soon: one read is skipped at most, or what the open answer has anyway.
    fn leads_to(&self, offset: u64, len: u64) -> bool {
        let skipped = offset.checked_sub(self.at).filter(|_| self.span > 0);
        skipped.is_some_and(|skipped| skipped <= len || (skipped <= EARLY / 2 && offset < self.end))
    }

    /// The next piece of the answer, as it arrives.
    async fn piece(&mut self) -> Result<Bytes> {
        let operation = "cannot read an image";
        let broken = |kind, why: String| Error::new(kind, operation).because(why);
        let missing = self.end - self.at;
        let answer = self.answer.as_mut().ok_or_else(|| broken(Kind::Permanent, "nothing was asked for".to_owned()))?;
        let piece = timeout(STALL, answer.chunk()).await.map_err(|_| silent("an image"))?;
        match piece.map_err(|error| transport(operation, "Glance", error))? {
            None => Err(broken(Kind::Transient, format!("the answer ended {missing} bytes too early"))),
            Some(piece) if piece.len() as u64 > missing => {
                Err(broken(Kind::Damaged, "more bytes came than were asked for".to_owned()))
            }
            Some(piece) => Ok(piece),
        }
    }
}

#[cfg(test)]
mod tests;

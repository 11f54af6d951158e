//! What is under way to one upload: pages that are sent, and pages that the service copies there from behind another SAS.
//!
//! What is copied carries the sum of what was once written there: the service compares it with the bytes that it has
//! read, and refuses to copy others.

use std::sync::Arc;

use bytes::Bytes;
use cloud::records;
use disk::LEAF;
use model::{Error, Kind, Result};
use tokio::task::JoinSet;

use super::super::access::Access;
use super::super::blob;
use super::super::patience::patiently;

/// Requests in flight for one disk: at 128 Azure failed uploads, at 8 it took them (azure-vhd-utils #52), and its limit
/// for one blob is 60 MiB a second.
const MOST: usize = 8;

/// Bytes that are to be copied.
#[derive(Debug, Clone, Copy)]
struct Copying {
    start: u64,
    end: u64,
    /// Of all of them.
    crc: u64,
}

/// Requests, and how much they carry.
pub(super) struct Flight {
    http: reqwest::Client,
    to: Arc<Access>,
    /// Where pages are copied from.
    from: Option<Arc<Access>>,
    copying: Option<Copying>,
    requests: JoinSet<Result<()>>,
    pub sent: u64,
    pub copied: u64,
}

impl Flight {
    pub(super) fn new(http: reqwest::Client, to: Access, from: Option<Access>) -> Self {
        let (to, from) = (Arc::new(to), from.map(Arc::new));
        Self { http, to, from, copying: None, requests: JoinSet::new(), sent: 0, copied: 0 }
    }

    /// Has a leaf copied, whose sum that is; together with those before it where they adjoin. A last leaf goes on behind
    /// the disk's end, where both ends have zeroes.
    pub(super) async fn copy(&mut self, index: u64, crc: u64) -> Result<()> {
        let start = index * LEAF;
        match &mut self.copying {
            Some(known) if known.end == start && start + LEAF - known.start <= blob::PUT => {
                known.end += LEAF;
                known.crc = records::joined(known.crc, crc, LEAF as usize);
            }
            _ => {
                self.ask().await?;
                self.copying = Some(Copying { start, end: start + LEAF, crc });
            }
        }
        Ok(())
    }

    /// Asks for the copy of what was gathered.
    async fn ask(&mut self) -> Result<()> {
        let (Some(Copying { start, end, crc }), Some(from)) = (self.copying.take(), &self.from) else { return Ok(()) };
        let (http, to, from) = (self.http.clone(), self.to.clone(), from.clone());
        self.copied += end - start;
        self.room().await?;
        self.requests.spawn(async move {
            patiently("copy pages", || blob::put_from(&http, &to, &from, (start, end - start), crc)).await
        });
        Ok(())
    }

    /// Sends pages.
    pub(super) async fn send(&mut self, offset: u64, data: Bytes) -> Result<()> {
        self.sent += data.len() as u64;
        let (http, to) = (self.http.clone(), self.to.clone());
        self.room().await?;
        self.requests
            .spawn(async move { patiently("put pages", || blob::put(&http, &to, offset, data.clone())).await });
        Ok(())
    }

    /// Waits while enough is under way.
    async fn room(&mut self) -> Result<()> {
        while self.requests.len() >= MOST {
            self.land().await?;
        }
        Ok(())
    }

    /// Waits for one request.
    async fn land(&mut self) -> Result<()> {
        match self.requests.join_next().await {
            None => Ok(()),
            Some(Ok(done)) => done,
            Some(Err(error)) => Err(Error::new(Kind::Permanent, "cannot wait for pages").because(error)),
        }
    }

    /// Everything that was asked for is done.
    pub(super) async fn landed(&mut self) -> Result<()> {
        self.ask().await?;
        while !self.requests.is_empty() {
            self.land().await?;
        }
        Ok(())
    }

    /// Gives the access to the upload back. None: requests are still under way.
    pub(super) fn end(self) -> Option<Access> {
        Arc::into_inner(self.to)
    }
}

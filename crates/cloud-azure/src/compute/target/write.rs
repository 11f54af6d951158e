//! Writing a managed disk: a direct upload of a fixed VHD, of which only pages that hold something are sent.
//!
//! What was not sent is zero: the upload begins as an empty page blob. A writer that is dropped leaves a disk that
//! never became one, which is scratch.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use disk::{DiskWrite, LEAF, RootBuilder, Written, is_zero};
use model::{DiskName, Error, Kind, Result, Role, Tags, Token};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::access::Access;
use super::super::arm::What;
use super::super::http::Client;
use super::super::{AzureSite, blob, marks, vhd};

/// Requests in flight for one disk: at 128 Azure failed uploads, at 8 it took them (azure-vhd-utils #52), and its limit
/// for one blob is 60 MiB a second.
const FLIGHT: usize = 8;

/// The mark of a disk that was written to its end: Azure itself does not tell one whose upload was broken off.
pub(super) const WRITTEN: &str = "written";

/// The name of the disk that a token uploads.
pub(super) fn name(token: &Token, disk: &DiskName) -> String {
    format!("{}-u-{}", marks::name(token), marks::disk_word(disk))
}

/// A disk that is being uploaded.
pub(super) struct Upload {
    client: Client,
    tags: Tags,
    access: std::sync::Arc<Access>,
    name: String,
    /// As it was asked for, and as Azure takes it.
    size: u64,
    full: u64,
    cursor: u64,
    received: u64,
    sent: u64,
    root: RootBuilder,
    flight: JoinSet<Result<()>>,
}

/// Makes an empty disk for the token, in place of what an earlier attempt has left.
pub(super) async fn begin(site: &AzureSite, token: &Token, disk: &DiskName, size: u64) -> Result<Upload> {
    let client: &Client = site.client()?;
    let operation = || format!("cannot create disk {disk}");
    let full = vhd::disk_size(size).filter(|_| size > 0 && size.is_multiple_of(512)).ok_or_else(|| {
        Error::new(Kind::Invalid, operation())
            .because(format!("{size} bytes are no whole sectors, or more than the 32 TiB of the largest disk"))
    })?;
    let name = name(token, disk);
    client.delete(What::Disk, &name).await?;
    let tags = marks::tags(token, Role::Scratch, &[(marks::PART, "upload"), (marks::DISK, disk.as_str())]);
    let body = json!({
        "location": site.config.location, "tags": &tags, "sku": { "name": site.config.storage },
        "properties": { "creationData": { "createOption": "Upload", "uploadSizeBytes": full + vhd::FOOTER } },
    });
    client.create(What::Disk, &name, &body, false).await?;
    let access = site.accesses.open(client, What::Disk, &name, true).await?;
    let root = RootBuilder::new(size);
    Ok(Upload {
        client: client.clone(),
        tags,
        access: access.into(),
        name,
        size,
        full,
        cursor: 0,
        received: 0,
        sent: 0,
        root,
        flight: JoinSet::new(),
    })
}

impl Upload {
    pub(super) fn id(&self) -> &str {
        &self.name
    }

    fn operation(&self) -> String {
        format!("cannot write disk {}", self.name)
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

    /// Sends pages, and waits while enough are under way.
    async fn send(&mut self, offset: u64, data: Bytes) -> Result<()> {
        while self.flight.len() >= FLIGHT {
            self.land().await?;
        }
        self.sent += data.len() as u64;
        let (http, access) = (self.client.http.clone(), self.access.clone());
        self.flight.spawn(async move { put(&http, &access, offset, data).await });
        Ok(())
    }

    /// Waits for one request.
    async fn land(&mut self) -> Result<()> {
        match self.flight.join_next().await {
            None => Ok(()),
            Some(Ok(done)) => done.map_err(|error| error.within(self.operation())),
            Some(Err(error)) => Err(Error::new(Kind::Permanent, self.operation()).because(error)),
        }
    }
}

/// Puts pages, again and again while that may help: a disk cannot be written a second time from its middle.
async fn put(http: &reqwest::Client, access: &Access, offset: u64, data: Bytes) -> Result<()> {
    let begun = Instant::now();
    let mut attempts = model::Patience::default().attempts();
    loop {
        let Err(error) = blob::put(http, access, offset, data.clone()).await else { return Ok(()) };
        let wait = attempts.failed_by(error, "put pages", begun.elapsed(), rand::random())?;
        tokio::time::sleep(wait.max(Duration::from_millis(1))).await;
    }
}

#[async_trait]
impl DiskWrite for Upload {
    fn size(&self) -> u64 {
        self.size
    }

    async fn write(&mut self, offset: u64, data: Bytes) -> Result<()> {
        self.check(offset, data.len() as u64)?;
        for (index, leaf) in (offset / LEAF..).zip(disk::leaves_of(data.clone()).await?) {
            self.root.push(index, leaf);
        }
        self.cursor = offset + data.len() as u64;
        self.received += data.len() as u64;
        let mut at = 0;
        while at < data.len() {
            let end = data.len().min(at + blob::PUT as usize);
            let piece = data.slice(at..end);
            if !is_zero(&piece) {
                self.send(offset + at as u64, piece).await?;
            }
            at = end;
        }
        Ok(())
    }

    async fn zero(&mut self, offset: u64, len: u64) -> Result<()> {
        self.check(offset, len)?;
        self.cursor = offset + len;
        Ok(())
    }

    fn may_have_leaves(&self) -> bool {
        false
    }

    async fn finish(mut self: Box<Self>) -> Result<Written> {
        let operation = self.operation();
        let (full, footer) = (self.full, Bytes::copy_from_slice(&vhd::footer(self.full)));
        self.send(full, footer).await?;
        while !self.flight.is_empty() {
            self.land().await?;
        }
        let Self { client, tags, name, access, root, received, sent, .. } = *self;
        let access = std::sync::Arc::into_inner(access)
            .ok_or_else(|| Error::new(Kind::Permanent, operation.clone()).because("a request is still under way"))?;
        access.close().await.map_err(|error| error.within(operation.clone()))?;
        let tags = tags.into_iter().chain([(marks::PART.to_owned(), WRITTEN.to_owned())]).collect();
        client.tag(What::Disk, &name, &tags).await.map_err(|error| error.within(operation))?;
        Ok(Written { root: root.finish(), received, fresh: received, stored: sent })
    }
}

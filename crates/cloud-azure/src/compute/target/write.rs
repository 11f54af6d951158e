//! Writing a managed disk: a direct upload of a fixed VHD, of which only pages that hold something are sent.
//!
//! * What was not sent is zero: the upload begins as an empty page blob.
//! * On a base, what the base has and does not arrive is copied by the storage service itself, from a SAS of the base's
//!   snapshot into the upload (Put Page From URL), so that an update sends what changed. A managed disk that exists
//!   takes no write SAS, so there is no patching in place; a page blob kept in a storage account and imported would cost
//!   the account, its storage a second time, leases against a second writer, and would be lost when it is patched half.
//!   This way the base is a snapshot, which nobody writes. Microsoft's AzCopy copies managed disks the same way.
//! * A writer that is dropped leaves a disk that never became one, which is scratch.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cloud::records::{Record, RecordWriter};
use disk::{DiskWrite, LEAF, Leaf, RootBuilder, Written, is_zero, zero_leaf};
use model::{DiskName, Error, Kind, Result, Role, Tags, Token};
use serde_json::json;
use tokio::task::JoinSet;

use super::super::access::Access;
use super::super::arm::What;
use super::super::http::Client;
use super::super::patience::patiently;
use super::super::{AzureSite, blob, marks, vhd};
use super::record;

/// Requests in flight for one disk: at 128 Azure failed uploads, at 8 it took them (azure-vhd-utils #52), and its limit
/// for one blob is 60 MiB a second.
const FLIGHT: usize = 8;

/// The mark of a disk that was written to its end: Azure itself does not tell one whose upload was broken off.
pub(super) const WRITTEN: &str = "written";

/// The name of the disk that a token uploads.
pub(super) fn name(token: &Token, disk: &DiskName) -> String {
    format!("{}-u-{}", marks::name(token), marks::disk_word(disk))
}

/// What a disk is written over.
pub(super) struct Base {
    /// To the bytes of its snapshot.
    pub access: Access,
    /// Its leaves.
    pub record: Record,
    /// Names the record.
    pub root: model::DiskRoot,
}

/// A disk that is being uploaded.
pub(super) struct Upload {
    client: Client,
    tags: Tags,
    access: Arc<Access>,
    name: String,
    /// As it was asked for, and as Azure takes it.
    size: u64,
    full: u64,
    base: Option<(Arc<Access>, Record)>,
    /// Bytes that are the base's and not yet asked for: start and end.
    copying: Option<(u64, u64)>,
    /// The first leaf that nothing is known of yet.
    leaf: u64,
    received: u64,
    sent: u64,
    copied: u64,
    root: RootBuilder,
    record: RecordWriter,
    flight: JoinSet<Result<()>>,
}

/// Makes an empty disk for the token, in place of what an earlier attempt has left.
pub(super) async fn begin(
    site: &AzureSite,
    token: &Token,
    disk: &DiskName,
    size: u64,
    base: Option<Base>,
) -> Result<Upload> {
    let client: &Client = site.client()?;
    let operation = || format!("cannot create disk {disk}");
    let full = vhd::disk_size(size).filter(|_| size > 0 && size.is_multiple_of(512)).ok_or_else(|| {
        Error::new(Kind::Invalid, operation())
            .because(format!("{size} bytes are no whole sectors, or more than the 32 TiB of the largest disk"))
    })?;
    let name = name(token, disk);
    client.delete(What::Disk, &name).await?;
    let mut tags = marks::tags(token, Role::Scratch, &[(marks::PART, "upload"), (marks::DISK, disk.as_str())]);
    tags.extend(base.as_ref().map(|base| (record::BASE.to_owned(), base.root.to_string())));
    let body = json!({
        "location": site.config.location, "tags": &tags, "sku": { "name": site.config.storage },
        "properties": { "creationData": { "createOption": "Upload", "uploadSizeBytes": full + vhd::FOOTER } },
    });
    client.create(What::Disk, &name, &body, false).await?;
    let access = site.accesses.open(client, What::Disk, &name, true).await?;
    Ok(Upload {
        client: client.clone(),
        tags,
        access: access.into(),
        record: RecordWriter::create(record::path(&site.config.scratch, &name), size)?,
        name,
        size,
        full,
        base: base.map(|base| (base.access.into(), base.record)),
        copying: None,
        leaf: 0,
        received: 0,
        sent: 0,
        copied: 0,
        root: RootBuilder::new(size),
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
        if end.is_some_and(|end| offset / LEAF >= self.leaf && whole(offset) && whole(end)) {
            return Ok(());
        }
        Err(Error::new(Kind::Invalid, self.operation())
            .because(format!("{len} bytes at {offset} come out of order or are no whole leaves")))
    }

    fn base_leaf(&self, index: u64) -> Result<Leaf> {
        self.base.as_ref().map_or_else(|| Ok(zero_leaf()), |(_, record)| record.leaf(index))
    }

    /// The next leaf of the disk.
    fn note(&mut self, leaf: &Leaf) -> Result<()> {
        if *leaf != zero_leaf() {
            self.root.push(self.leaf, *leaf);
        }
        self.leaf += 1;
        self.record.push(leaf)
    }

    /// The next leaf is as the base has it.
    async fn keep(&mut self, leaf: &Leaf) -> Result<()> {
        let start = self.leaf * LEAF;
        self.note(leaf)?;
        if *leaf == zero_leaf() {
            return Ok(());
        }
        match &mut self.copying {
            Some((from, end)) if *end == start && start + LEAF - *from <= blob::PUT => *end += LEAF,
            _ => {
                self.copy().await?;
                self.copying = Some((start, start + LEAF));
            }
        }
        Ok(())
    }

    /// Nothing arrives before this leaf.
    async fn skip_to(&mut self, index: u64) -> Result<()> {
        while self.leaf < index {
            let leaf = self.base_leaf(self.leaf)?;
            self.keep(&leaf).await?;
        }
        Ok(())
    }

    /// Has the service copy what was kept of the base. A last leaf goes on behind the disk's end, where both have zeroes.
    async fn copy(&mut self) -> Result<()> {
        let (Some((start, end)), Some((source, _))) = (self.copying.take(), &self.base) else { return Ok(()) };
        let (http, access, source) = (self.client.http.clone(), self.access.clone(), source.clone());
        self.copied += end - start;
        self.room().await?;
        self.flight.spawn(async move {
            patiently("copy pages of the base", || blob::put_from(&http, &access, &source, (start, end - start))).await
        });
        Ok(())
    }

    /// Sends pages.
    async fn send(&mut self, offset: u64, data: Bytes) -> Result<()> {
        self.sent += data.len() as u64;
        let (http, access) = (self.client.http.clone(), self.access.clone());
        self.room().await?;
        self.flight
            .spawn(async move { patiently("put pages", || blob::put(&http, &access, offset, data.clone())).await });
        Ok(())
    }

    /// Sends what arrived and is not the base's, in requests that hold something.
    async fn send_all(&mut self, offset: u64, data: Bytes) -> Result<()> {
        for at in (0..data.len()).step_by(blob::PUT as usize) {
            let piece = data.slice(at..data.len().min(at + blob::PUT as usize));
            if !is_zero(&piece) {
                self.send(offset + at as u64, piece).await?;
            }
        }
        Ok(())
    }

    /// Waits while enough is under way.
    async fn room(&mut self) -> Result<()> {
        while self.flight.len() >= FLIGHT {
            self.land().await?;
        }
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

#[async_trait]
impl DiskWrite for Upload {
    fn size(&self) -> u64 {
        self.size
    }

    async fn write(&mut self, offset: u64, data: Bytes) -> Result<()> {
        self.check(offset, data.len() as u64)?;
        self.received += data.len() as u64;
        self.skip_to(offset / LEAF).await?;
        // what is new and was not sent yet begins here
        let mut new = 0;
        for (nth, leaf) in disk::leaves_of(data.clone()).await?.into_iter().enumerate() {
            let at = nth * LEAF as usize;
            if leaf == zero_leaf() || leaf != self.base_leaf(self.leaf)? {
                self.note(&leaf)?;
                continue;
            }
            self.send_all(offset + new as u64, data.slice(new..at)).await?;
            self.keep(&leaf).await?;
            new = data.len().min(at + LEAF as usize);
        }
        self.send_all(offset + new as u64, data.slice(new..)).await
    }

    async fn zero(&mut self, offset: u64, len: u64) -> Result<()> {
        self.check(offset, len)?;
        self.skip_to(offset / LEAF).await?;
        for _ in offset / LEAF..(offset + len).div_ceil(LEAF) {
            self.note(&zero_leaf())?;
        }
        Ok(())
    }

    fn has_leaf(&self, index: u64, leaf: &Leaf) -> bool {
        self.base.as_ref().is_some_and(|(_, record)| record.leaf(index).is_ok_and(|known| known == *leaf))
    }

    fn may_have_leaves(&self) -> bool {
        self.base.is_some()
    }

    async fn finish(mut self: Box<Self>) -> Result<Written> {
        let operation = self.operation();
        self.skip_to(self.size.div_ceil(LEAF)).await?;
        self.copy().await?;
        let (full, footer) = (self.full, Bytes::copy_from_slice(&vhd::footer(self.full)));
        self.send(full, footer).await?;
        while !self.flight.is_empty() {
            self.land().await?;
        }
        let Self { client, tags, name, access, base, root, record, received, sent, copied, .. } = *self;
        let access = Arc::into_inner(access)
            .ok_or_else(|| Error::new(Kind::Permanent, operation.clone()).because("a request is still under way"))?;
        // the base's access ends by itself, and nothing depends on when
        drop(base);
        access.close().await.map_err(|error| error.within(operation.clone()))?;
        let root = root.finish();
        record::finish(record, &client.config.scratch, &root)?;
        let tags = tags.into_iter().chain([(marks::PART.to_owned(), WRITTEN.to_owned())]).collect();
        client.tag(What::Disk, &name, &tags).await.map_err(|error| error.within(operation))?;
        Ok(Written { root, received, fresh: sent - vhd::FOOTER, stored: sent + copied })
    }
}

//! Writing a managed disk: a direct upload of a fixed VHD, of which only pages that hold something are sent.
//!
//! * What was not sent is zero: the upload begins as an empty page blob.
//! * On a base, what the base has and does not arrive is copied by the storage service itself, from a SAS of the base's
//!   snapshot into the upload (Put Page From URL), so that an update sends what changed. A managed disk that exists
//!   takes no write SAS, so there is no patching in place; a page blob kept in a storage account and imported would cost
//!   the account, its storage a second time, leases against a second writer, and would be lost when it is patched half.
//!   This way the base is a snapshot, which nobody writes. Microsoft's AzCopy copies managed disks the same way.
//! * The service checks what it copies by our own sums (`flight`): no byte comes into an image unchecked, and none has to
//!   be read here for that.
//! * A writer that is dropped leaves a disk that never became one, which is scratch.

use async_trait::async_trait;
use bytes::Bytes;
use cloud::leaves::InOrder;
use cloud::records::{self, Noted, Record};
use disk::{DiskWrite, LEAF, Leaf, Written, is_zero, zero_leaf};
use model::{DiskName, Error, Kind, Result, Role, Tags, Token};
use serde_json::json;

use super::super::access::Access;
use super::super::arm::What;
use super::super::http::Client;
use super::super::patience::patiently;
use super::super::{AzureSite, blob, marks, vhd};
use super::flight::Flight;
use super::record;

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
    name: String,
    /// The size that Azure takes it with.
    full: u64,
    leaves: InOrder,
    flight: Flight,
    received: u64,
}

/// Makes an empty disk for the token, in place of what an earlier attempt has left.
pub(super) async fn begin(
    site: &AzureSite,
    token: &Token,
    disk: &DiskName,
    size: u64,
    base: Option<Base>,
) -> Result<Upload> {
    let (client, name) = (site.client()?, name(token, disk));
    let full = vhd::disk_size(size).filter(|_| size > 0 && size.is_multiple_of(512)).ok_or_else(|| {
        Error::new(Kind::Invalid, format!("cannot create disk {disk}"))
            .because(format!("{size} bytes are no whole sectors, or more than the 32 TiB of the largest disk"))
    })?;
    let mut tags = marks::tags(token, Role::Scratch, &[(marks::PART, "upload"), (marks::DISK, disk.as_str())]);
    tags.extend(base.as_ref().map(|base| (record::BASE.to_owned(), base.root.to_string())));
    let access = empty(site, &name, &tags, full).await?;
    let (base, known) = base.map(|base| (base.access, base.record)).unzip();
    let leaves = InOrder::begin(record::path(&site.config.scratch, &name), size, known).await?;
    let flight = Flight::new(client.http.clone(), access, base);
    Ok(Upload { client: client.clone(), tags, name, full, leaves, flight, received: 0 })
}

/// An empty disk of that name, and the access to write it.
pub(super) async fn empty(site: &AzureSite, name: &str, tags: &Tags, full: u64) -> Result<Access> {
    let client = site.client()?;
    let encryption = site.encryption().await?;
    client.delete(What::Disk, name).await?;
    let body = json!({
        "location": site.config.location, "tags": tags, "sku": { "name": site.config.storage },
        "properties": {
            "encryption": encryption,
            "creationData": { "createOption": "Upload", "uploadSizeBytes": full + vhd::FOOTER },
        },
    });
    client.create(What::Disk, name, &body, false).await?;
    site.accesses.open(client, What::Disk, name, true).await
}

impl Upload {
    pub(super) fn id(&self) -> &str {
        &self.name
    }

    fn operation(&self) -> String {
        format!("cannot write disk {}", self.name)
    }

    fn check(&self, offset: u64, len: u64) -> Result<()> {
        self.leaves.check(offset, len).map_err(|error| error.within(self.operation()))
    }

    /// The next leaf is as the base has it.
    async fn keep(&mut self) -> Result<()> {
        let index = self.leaves.next();
        let Noted { leaf, crc } = self.leaves.keep()?;
        if leaf == zero_leaf() {
            return Ok(());
        }
        self.flight.copy(index, crc).await.map_err(|error| error.within(self.operation()))
    }

    /// Nothing arrives before this leaf.
    async fn skip_to(&mut self, index: u64) -> Result<()> {
        while self.leaves.next() < index {
            self.keep().await?;
        }
        Ok(())
    }

    /// Sends what arrived and is not the base's, in requests that hold something.
    async fn send_all(&mut self, offset: u64, data: Bytes) -> Result<()> {
        for at in (0..data.len()).step_by(blob::PUT as usize) {
            let piece = data.slice(at..data.len().min(at + blob::PUT as usize));
            if !is_zero(&piece) {
                let sent = self.flight.send(offset + at as u64, piece).await;
                sent.map_err(|error| error.within(self.operation()))?;
            }
        }
        Ok(())
    }
}

#[async_trait]
impl DiskWrite for Upload {
    fn size(&self) -> u64 {
        self.leaves.size()
    }

    async fn write(&mut self, offset: u64, data: Bytes) -> Result<()> {
        self.check(offset, data.len() as u64)?;
        self.received += data.len() as u64;
        self.skip_to(offset / LEAF).await?;
        // what is new and was not sent yet begins here
        let mut new = 0;
        for (nth, noted) in records::noted(data.clone()).await?.into_iter().enumerate() {
            let at = nth * LEAF as usize;
            if noted.leaf == zero_leaf() || !self.leaves.is_there(&noted.leaf)? {
                self.leaves.note(&noted)?;
                continue;
            }
            self.send_all(offset + new as u64, data.slice(new..at)).await?;
            self.keep().await?;
            new = data.len().min(at + LEAF as usize);
        }
        self.send_all(offset + new as u64, data.slice(new..)).await
    }

    async fn zero(&mut self, offset: u64, len: u64) -> Result<()> {
        self.check(offset, len)?;
        self.skip_to(offset / LEAF).await?;
        for _ in offset / LEAF..(offset + len).div_ceil(LEAF) {
            self.leaves.note(&Noted::zero())?;
        }
        Ok(())
    }

    fn has_leaf(&self, index: u64, leaf: &Leaf) -> bool {
        self.leaves.has(index, leaf)
    }

    fn may_have_leaves(&self) -> bool {
        self.leaves.has_base()
    }

    async fn finish(mut self: Box<Self>) -> Result<Written> {
        let operation = self.operation();
        self.skip_to(self.leaves.count()).await?;
        let footer = Bytes::copy_from_slice(&vhd::footer(self.full));
        self.flight.send(self.full, footer).await.map_err(|error| error.within(operation.clone()))?;
        self.flight.landed().await.map_err(|error| error.within(operation.clone()))?;
        let Self { client, tags, name, leaves, flight, received, .. } = *self;
        let (sent, copied) = (flight.sent, flight.copied);
        // the base's access ends by itself, and nothing depends on when
        let access = flight
            .end()
            .ok_or_else(|| Error::new(Kind::Permanent, operation.clone()).because("a request is still under way"))?;
        access.close().await.map_err(|error| error.within(operation.clone()))?;
        let root = record::finish(leaves, &client.config.scratch).await?;
        let tags: Tags = tags.into_iter().chain([(marks::PART.to_owned(), WRITTEN.to_owned())]).collect();
        let tagged = patiently("tag a disk", || client.tag(What::Disk, &name, &tags)).await;
        tagged.map_err(|error| error.within(operation))?;
        Ok(Written { root, received, fresh: sent - vhd::FOOTER, stored: sent + copied })
    }
}

//! Open disks of the memory cloud: readers of captures and images, the writer of a scratch disk.

use async_trait::async_trait;
use bytes::Bytes;
use disk::{DiskRead, DiskWrite, Leaf, Written};
use model::{CaptureId, DiskName, Error, ExtentList, ImageId, Kind, Result};

use super::bytes::SparseDisk;
use super::fault::Promise;
use super::state::{Inner, Scratch};
use super::{MemoryCloud, locked};

/// What a reader reads.
#[derive(Debug, Clone)]
pub(super) enum Of {
    Capture(CaptureId),
    Image(ImageId),
}

/// Reads a disk of a capture or an image for as long as that exists.
pub(super) struct CaptureReader {
    cloud: MemoryCloud,
    of: Of,
    disk: DiskName,
    size: u64,
    incremental: bool,
}

impl CaptureReader {
    pub(super) fn new(cloud: &MemoryCloud, of: Of, disk: DiskName, size: u64, incremental: bool) -> Self {
        Self { cloud: cloud.clone(), of, disk, size, incremental }
    }

    fn absent(&self) -> Error {
        Error::new(Kind::NotFound, format!("cannot read {}", self.describe()))
    }

    /// The bytes as they must be seen.
    fn bytes<'a>(&self, inner: &'a Inner) -> Result<&'a SparseDisk> {
        let found = match &self.of {
            Of::Image(id) => inner.images.get(id).and_then(|image| image.disks.get(&self.disk)),
            Of::Capture(id) => {
                let pinned = inner.pinned(id)?;
                if pinned.torn.contains(&self.disk)
                    && let Some(machine) = inner.servers.get(&pinned.capture.server)
                {
                    machine.disks.get(&self.disk)
                } else {
                    pinned.disks.get(&self.disk)
                }
            }
        };
        found.ok_or_else(|| self.absent())
    }
}

#[async_trait]
impl DiskRead for CaptureReader {
    fn size(&self) -> u64 {
        self.size
    }

    async fn extents(&self, from: u64) -> Result<ExtentList> {
        self.cloud
            .call("extents", |inner, call| {
                let bytes = self.bytes(inner)?;
                let mut list = match (&self.of, self.incremental) {
                    (Of::Capture(id), true) => {
                        let changed = inner.pinned(id)?.changes.get(&self.disk);
                        bytes.changes(changed.ok_or_else(|| self.absent())?, from)
                    }
                    _ => bytes.extents(from),
                };
                if self.incremental && call.breaks(Promise::OnlyChanges) {
                    list = bytes.extents(from);
                }
                if call.breaks(Promise::FullReader) {
                    list =
                        list.as_slice().iter().filter(|e| e.change == model::Change::Data).skip(1).copied().collect();
                }
                Ok(list)
            })
            .await
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        self.cloud
            .call("read", |inner, call| {
                let bytes = self.bytes(inner)?;
                if !bytes.holds(offset, len as u64) {
                    if call.breaks(Promise::WholeAnswer) {
                        return Ok(Bytes::from(bytes.read(offset, bytes.size().saturating_sub(offset) as usize)));
                    }
                    let operation = format!("cannot read {len} bytes at {offset} of {}", self.describe());
                    return Err(Error::new(Kind::Invalid, operation).because("the range ends behind the disk"));
                }
                let mut data = bytes.read(offset, len);
                if call.breaks(Promise::Bytes)
                    && let Some(byte) = data.last_mut()
                {
                    *byte ^= 1;
                }
                Ok(Bytes::from(data))
            })
            .await
    }

    fn is_incremental(&self) -> bool {
        self.incremental
    }

    fn describe(&self) -> String {
        match &self.of {
            Of::Capture(id) => format!("disk {} of capture {id} at {}", self.disk, self.cloud.site),
            Of::Image(id) => format!("disk {} of image {id} at {}", self.disk, self.cloud.site),
        }
    }
}

/// Writes a scratch disk; refused once the disk is deleted or opened again.
pub(super) struct ScratchWriter {
    cloud: MemoryCloud,
    id: String,
    opened: u64,
    size: u64,
    has_base: bool,
    received: u64,
    fresh: u64,
}

impl ScratchWriter {
    pub(super) fn new(cloud: &MemoryCloud, id: String, opened: u64, size: u64, has_base: bool) -> Self {
        Self { cloud: cloud.clone(), id, opened, size, has_base, received: 0, fresh: 0 }
    }
}

/// The scratch disk, if it is still this writer's.
fn mine<'a>(inner: &'a mut Inner, id: &str, opened: u64) -> Result<&'a mut Scratch> {
    let operation = || format!("cannot write disk {id}");
    let scratch = inner.disks.get_mut(id).ok_or_else(|| Error::new(Kind::NotFound, operation()))?;
    if scratch.opened != opened {
        return Err(Error::new(Kind::Cancelled, operation()).because("it was opened by another writer since"));
    }
    Ok(scratch)
}

fn behind(id: &str, offset: u64, len: u64) -> Error {
    Error::new(Kind::Invalid, format!("cannot write {len} bytes at {offset} of disk {id}"))
        .because("the range ends behind the disk")
}

#[async_trait]
impl DiskWrite for ScratchWriter {
    fn size(&self) -> u64 {
        self.size
    }

    async fn write(&mut self, offset: u64, data: Bytes) -> Result<()> {
        let (id, opened, len) = (&self.id, self.opened, data.len() as u64);
        let fresh = self
            .cloud
            .call("write", |inner, call| {
                let scratch = mine(inner, id, opened)?;
                if call.breaks(Promise::Bytes) {
                    return Ok(0);
                }
                if !scratch.disk.holds(offset, len) {
                    if call.breaks(Promise::Bounds) {
                        return Ok(0);
                    }
                    return Err(behind(id, offset, len));
                }
                let fresh = if scratch.disk.read(offset, data.len()) == data { 0 } else { len };
                scratch.disk.write(offset, &data);
                Ok(fresh)
            })
            .await?;
        self.received += len;
        self.fresh += fresh;
        Ok(())
    }

    async fn zero(&mut self, offset: u64, len: u64) -> Result<()> {
        let (id, opened) = (&self.id, self.opened);
        self.cloud
            .call("zero", |inner, call| {
                let scratch = mine(inner, id, opened)?;
                if !scratch.disk.holds(offset, len) {
                    return Err(behind(id, offset, len));
                }
                if !call.breaks(Promise::ZeroIsData) {
                    scratch.disk.zero(offset, len);
                }
                Ok(())
            })
            .await
    }

    fn has_leaf(&self, index: u64, leaf: &Leaf) -> bool {
        if !self.has_base {
            return false;
        }
        if self.cloud.state.faults.breaks("has_leaf", Promise::LeafTruth) {
            return true;
        }
        let mut inner = locked(&self.cloud.state.inner);
        mine(&mut inner, &self.id, self.opened).is_ok_and(|scratch| scratch.disk.leaf(index) == *leaf)
    }

    async fn finish(self: Box<Self>) -> Result<Written> {
        let (received, fresh) = (self.received, self.fresh);
        self.cloud
            .call("finish", |inner, call| {
                let scratch = mine(inner, &self.id, self.opened)?;
                scratch.finished = true;
                let mut root = scratch.disk.root();
                if call.breaks(Promise::TrueRoot) {
                    root.0[0] ^= 1;
                }
                Ok(Written { root, received, fresh, stored: if self.has_base { fresh } else { scratch.disk.stored() } })
            })
            .await
    }
}

//! Writing a restore point.

use disk::DiskWrite;
use model::{DiskName, PointId, RestorePoint, Result, ServerName};

use crate::keys::broken;

/// What a sealed point is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    /// Bytes that the point added to the bucket.
    pub stored_bytes: u64,
    /// Packs that the point added.
    pub packs: u64,
    /// Version of its manifest; above 1 if the collector forced a repeat.
    pub version: u32,
}

/// Writes one restore point. Nothing is visible before [`seal`](Self::seal).
#[derive(Debug)]
pub struct PointWriter {
    pub(crate) point: PointId,
    pub(crate) server: ServerName,
}

impl PointWriter {
    /// Opens a disk of `size` bytes for writing, once per disk. The parent's disk of that name is the base.
    ///
    /// `incremental`: ranges that never arrive equal the parent's. Otherwise they are zero, save those that
    /// [`DiskWrite::has_leaf`] has answered for with yes.
    pub async fn disk(&self, _disk: &DiskName, _size: u64, _incremental: bool) -> Result<Box<dyn DiskWrite>> {
        Err(broken("writing is being built"))
    }

    /// Commits the point. The source must be held until this returns.
    pub async fn seal(self, _point: &RestorePoint) -> Result<Sealed> {
        Err(broken("writing is being built"))
    }
}

//! What the engine needs of a vault. The real one is `vault::Vault`; the seam lets the engine's tests fail any call.

use std::time::Duration;

use async_trait::async_trait;
use disk::{DiskRead, DiskWrite};
use model::{DiskName, PointId, RestorePoint, Result, ServerName};
use serde::{Deserialize, Serialize};

use crate::Observer;

/// What a verification of a vault reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckScope {
    /// Everything, every byte.
    All,
    /// About so many percent of the packs, others every time.
    Sample(u8),
    /// What was not read for so many days.
    Stale(u32),
    /// What one point added over its parent, and its roots: cost in proportion to the change.
    Added(PointId),
    /// What these points need, every byte.
    Points(Vec<PointId>),
}

/// What a verification of a vault found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveCheck {
    /// Bytes that were read and hashed.
    pub bytes: u64,
    /// Points whose bytes do not fit, and why.
    pub damaged: Vec<(PointId, String)>,
}

/// What a collection freed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    /// Packs that were marked; a later collection deletes them.
    pub marked: u64,
    /// Packs that were deleted.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A vault, as the engine sees it.
#[async_trait]
pub trait Archive: Send + Sync {
    /// Where it is, for messages; never a secret.
    fn describe(&self) -> String;

    /// All points that are sealed in it. Complete, or an error.
    async fn points(&self) -> Result<Vec<RestorePoint>>;

    /// One point; [`model::Kind::NotFound`] if it is not sealed here.
    async fn point(&self, id: &PointId) -> Result<RestorePoint>;

    /// Begins to write a point. `parent`'s bytes are the base.
    async fn begin(
        &self,
        point: &PointId,
        server: &ServerName,
        parent: Option<&PointId>,
    ) -> Result<Box<dyn ArchiveWriter>>;

    /// Opens a disk of a point for reading everything.
    async fn open_disk(&self, point: &PointId, disk: &DiskName) -> Result<Box<dyn DiskRead>>;

    /// Reads and hashes what `scope` says.
    async fn verify(&self, scope: &CheckScope, observer: &dyn Observer) -> Result<ArchiveCheck>;

    /// Drops a point; absent is success. What only it needed is freed by [`collect`](Self::collect).
    async fn forget(&self, point: &PointId) -> Result<()>;

    /// Marks and deletes what no point needs.
    async fn collect(&self, grace: Duration) -> Result<Collected>;
}

/// A point that is being written. Dropped unsealed, it leaves only what the next writer reuses or the collector frees.
#[async_trait]
pub trait ArchiveWriter: Send + Sync {
    /// Opens a disk for writing; `incremental`: what does not arrive is as in the parent.
    async fn disk(&self, disk: &DiskName, size: u64, incremental: bool) -> Result<Box<dyn DiskWrite>>;

    /// The commit point. The source must be held until this returns. Returns the bytes that the point added.
    async fn seal(self: Box<Self>, point: &RestorePoint) -> Result<u64>;
}

//! Writing a restore point: disks in, packs out, one manifest as the commit point.

mod assemble;
mod base;
mod claims;
mod commit;
mod disk;
mod hash;
mod matcher;
pub(crate) mod run;

pub(crate) use commit::build as build_manifest;

use std::sync::Arc;

use ::disk::DiskWrite;
use model::{DiskName, PointId, RestorePoint, Result, ServerName};

use self::disk::DiskWriter;
use self::run::Run;
use crate::shared::Shared;

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
pub struct PointWriter {
    shared: Arc<Shared>,
    run: Arc<Run>,
    point: PointId,
    server: ServerName,
}

impl std::fmt::Debug for PointWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PointWriter").field("point", &self.point).field("server", &self.server).finish_non_exhaustive()
    }
}

impl PointWriter {
    /// Begins a point. Reads the index first, so that a crashed run's packs are found again.
    pub(crate) async fn begin(
        shared: Arc<Shared>,
        point: &PointId,
        server: &ServerName,
        parent: Option<&PointId>,
    ) -> Result<Self> {
        shared.index.refresh(&shared).await?;
        let parent = match parent {
            Some(parent) => Some(Arc::new(shared.point_manifest(parent).await?.1)),
            None => None,
        };
        let run = Arc::new(Run::new(parent, shared.index.excluded()));
        Ok(Self { shared, run, point: point.clone(), server: server.clone() })
    }

    /// Opens a disk of `size` bytes for writing, once per disk. The parent's disk of that name is the base.
    ///
    /// `incremental`: ranges that never arrive equal the parent's. Otherwise they are zero, save those that
    /// [`DiskWrite::has_leaf`] has answered for with yes.
    pub async fn disk(&self, disk: &DiskName, size: u64, incremental: bool) -> Result<Box<dyn DiskWrite>> {
        let writer = DiskWriter::new(self.shared.clone(), self.run.clone(), disk.clone(), size, incremental)?;
        Ok(Box::new(writer))
    }

    /// Commits the point: one create-only put of its manifest, then the check that the collector has condemned none of
    /// its packs. The source must be held until this returns. Sealing again with an equal point succeeds.
    pub async fn seal(self, point: &RestorePoint) -> Result<Sealed> {
        commit::seal(&self.shared, &self.run, &self.point, &self.server, point).await
    }
}

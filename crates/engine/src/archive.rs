//! What the engine needs of a vault, and when it is opened. The real one is `vault::Vault`; the seam lets the engine's tests fail any call.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use disk::{DiskRead, DiskWrite};
use futures::future::BoxFuture;
use model::{DiskName, PointId, RestorePoint, Result, ServerName};
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

use vault::{CompactReport, Compaction, VerifyScope};

use crate::Observer;
use crate::meter::Meter;

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
    /// Packs that were read whole, so that a later check by age can leave them out.
    #[serde(default)]
    pub packs: Vec<String>,
    /// Points of which everything was checked.
    #[serde(default)]
    pub points: Vec<PointId>,
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

type Opening = BoxFuture<'static, Result<Arc<dyn Archive>>>;

/// A vault that is opened when it is first needed, and tried again if that did not work: unwrapping a passphrase takes a second on
/// purpose, and a vault that cannot be reached must not stop a verb that needs another one.
pub struct LazyArchive {
    open: Box<dyn Fn() -> Opening + Send + Sync>,
    archive: OnceCell<Arc<dyn Archive>>,
}

impl LazyArchive {
    /// A vault that `open` opens. Touches nothing yet.
    pub fn new<F>(open: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Arc<dyn Archive>>> + Send + 'static,
    {
        Self { open: Box::new(move || Box::pin(open())), archive: OnceCell::new() }
    }

    pub(crate) async fn get(&self) -> Result<&Arc<dyn Archive>> {
        self.archive.get_or_try_init(|| (self.open)()).await
    }
}

impl From<Arc<dyn Archive>> for LazyArchive {
    fn from(archive: Arc<dyn Archive>) -> Self {
        Self::new(move || std::future::ready(Ok(archive.clone())))
    }
}

/// A vault, as the engine sees it.
#[async_trait]
pub trait Archive: Send + Sync {
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

    /// Opens a disk of a point as what differs from its state at another point.
    async fn open_changes(&self, point: &PointId, since: &PointId, disk: &DiskName) -> Result<Box<dyn DiskRead>>;

    /// Reads and hashes what `scope` says; of [`CheckScope::Stale`], everything but the packs in `recent`.
    async fn verify(
        &self,
        scope: &CheckScope,
        recent: &BTreeSet<String>,
        observer: &dyn Observer,
    ) -> Result<ArchiveCheck>;

    /// Drops a point; absent is success. What only it needed is freed by [`collect`](Self::collect).
    async fn forget(&self, point: &PointId) -> Result<()>;

    /// Marks and deletes what no point needs.
    async fn collect(&self, grace: Duration) -> Result<Collected>;

    /// Moves what points need out of packs that are hardly worth their place; with `dry`, only tells.
    async fn compact(&self, compaction: &Compaction, dry: bool, observer: &dyn Observer) -> Result<CompactReport>;
}

/// A point that is being written. Dropped unsealed, it leaves only what the next writer reuses or the collector frees.
#[async_trait]
pub trait ArchiveWriter: Send + Sync {
    /// Opens a disk for writing; `incremental`: what does not arrive is as in the parent.
    async fn disk(&self, disk: &DiskName, size: u64, incremental: bool) -> Result<Box<dyn DiskWrite>>;

    /// The commit point. The source must be held until this returns. Returns the bytes that the point added.
    async fn seal(self: Box<Self>, point: &RestorePoint) -> Result<u64>;
}

#[async_trait]
impl Archive for vault::Vault {
    async fn points(&self) -> Result<Vec<RestorePoint>> {
        self.points().await
    }

    async fn point(&self, id: &PointId) -> Result<RestorePoint> {
        self.point(id).await
    }

    async fn begin(
        &self,
        point: &PointId,
        server: &ServerName,
        parent: Option<&PointId>,
    ) -> Result<Box<dyn ArchiveWriter>> {
        Ok(Box::new(self.begin(point, server, parent).await?))
    }

    async fn open_disk(&self, point: &PointId, disk: &DiskName) -> Result<Box<dyn DiskRead>> {
        self.open_disk(point, disk).await
    }

    async fn open_changes(&self, point: &PointId, since: &PointId, disk: &DiskName) -> Result<Box<dyn DiskRead>> {
        self.open_changes(point, since, disk).await
    }

    async fn verify(
        &self,
        scope: &CheckScope,
        recent: &BTreeSet<String>,
        observer: &dyn Observer,
    ) -> Result<ArchiveCheck> {
        let scopes = match scope {
            CheckScope::All => vec![VerifyScope::All],
            CheckScope::Sample(percent) => vec![VerifyScope::Sample(f64::from(*percent))],
            CheckScope::Stale(_) => vec![VerifyScope::NotVerifiedFor(recent.clone())],
            CheckScope::Added(point) => vec![VerifyScope::Added(point.clone())],
            CheckScope::Points(points) => points.iter().cloned().map(VerifyScope::Point).collect(),
        };
        let mut check = ArchiveCheck::default();
        for scope in scopes {
            let meter = Meter::new(observer, None, format!("verify {}", self.describe()));
            let report = self.verify(&scope, &meter).await?;
            meter.close();
            check.bytes += report.bytes;
            check.packs.extend(report.packs);
            check.points.extend(report.points);
            for (point, why) in report.affected {
                check.damaged.push((PointId::new(point)?, why));
            }
        }
        Ok(check)
    }

    async fn forget(&self, point: &PointId) -> Result<()> {
        self.forget(point).await
    }

    async fn collect(&self, grace: Duration) -> Result<Collected> {
        let report = self.collect(grace, false).await?;
        Ok(Collected { marked: report.in_use_though_condemned, packs: report.deleted, bytes: report.freed_bytes })
    }

    async fn compact(&self, compaction: &Compaction, dry: bool, observer: &dyn Observer) -> Result<CompactReport> {
        let meter = Meter::new(observer, None, format!("compact {}", self.describe()));
        let report = self.compact(compaction, dry, &meter).await?;
        meter.close();
        Ok(report)
    }
}

#[async_trait]
impl ArchiveWriter for vault::PointWriter {
    async fn disk(&self, disk: &DiskName, size: u64, incremental: bool) -> Result<Box<dyn DiskWrite>> {
        self.disk(disk, size, incremental).await
    }

    async fn seal(self: Box<Self>, point: &RestorePoint) -> Result<u64> {
        Ok((*self).seal(point).await?.stored_bytes)
    }
}

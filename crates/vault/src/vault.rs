//! The vault as its users see it.

use std::sync::Arc;

use disk::DiskRead;
use model::{DiskName, PointId, RestorePoint, Result, ServerName};

use crate::bucket::Bucket;
use crate::keys::{Identity, Recipient, RecipientInfo, broken};
use crate::options::{Options, Progress};
use crate::verify::{VerifyReport, VerifyScope};
use crate::writer::PointWriter;

/// An open vault. Cheap to share behind an [`Arc`]; any number of processes may use one vault at a time.
pub struct Vault {
    bucket: Arc<dyn Bucket>,
}

impl Vault {
    /// Makes a vault in an empty bucket, to be opened by any of `recipients`.
    pub async fn create(_bucket: Arc<dyn Bucket>, _recipients: &[Recipient], _options: Options) -> Result<Self> {
        Err(broken("vaults are being built"))
    }

    /// Opens a vault with whichever of `identities` fits. [`model::Kind::Denied`] if none does,
    /// [`model::Kind::NotFound`] if there is no vault.
    pub async fn open(_bucket: Arc<dyn Bucket>, _identities: &[Identity], _options: Options) -> Result<Self> {
        Err(broken("vaults are being built"))
    }

    /// Where it is, for messages.
    pub fn describe(&self) -> String {
        self.bucket.describe()
    }

    /// All points, oldest first. The list is complete, or an error.
    pub async fn points(&self) -> Result<Vec<RestorePoint>> {
        Err(broken("vaults are being built"))
    }

    /// One point.
    pub async fn point(&self, _id: &PointId) -> Result<RestorePoint> {
        Err(broken("vaults are being built"))
    }

    /// Begins to write a point. With a `parent`, its bytes are the base.
    pub async fn begin(
        &self,
        _point: &PointId,
        _server: &ServerName,
        _parent: Option<&PointId>,
    ) -> Result<PointWriter> {
        Err(broken("vaults are being built"))
    }

    /// Opens a disk of a point.
    pub async fn open_disk(&self, _point: &PointId, _disk: &DiskName) -> Result<Box<dyn DiskRead>> {
        Err(broken("vaults are being built"))
    }

    /// Opens a disk of a point as the changes since an older point: its extents list what differs.
    pub async fn open_changes(
        &self,
        _point: &PointId,
        _since: &PointId,
        _disk: &DiskName,
    ) -> Result<Box<dyn DiskRead>> {
        Err(broken("vaults are being built"))
    }

    /// Reads packs back, checks them, and marks what is damaged so that a later run stores it again.
    pub async fn verify(&self, _scope: &VerifyScope, _progress: &dyn Progress) -> Result<VerifyReport> {
        Err(broken("vaults are being built"))
    }

    /// Drops a point's manifests. Its packs stay until the collector finds them unused. Absent is success.
    pub async fn forget(&self, _point: &PointId) -> Result<()> {
        Err(broken("vaults are being built"))
    }

    /// Who can open the vault.
    pub async fn recipients(&self) -> Result<Vec<RecipientInfo>> {
        Err(broken("vaults are being built"))
    }

    /// Wraps the master key for one more recipient.
    pub async fn add_recipient(&self, _recipient: &Recipient) -> Result<RecipientInfo> {
        Err(broken("vaults are being built"))
    }

    /// Removes a recipient by id; never the last.
    pub async fn remove_recipient(&self, _id: &str) -> Result<()> {
        Err(broken("vaults are being built"))
    }
}

//! The provider `azure`: one resource group of a subscription in one region.
//!
//! An **image** of a restore point is an incremental snapshot per disk; that of the boot disk carries the point in its
//! tags, and its name is the image's id. Disks come as uploads into managed disks, which are gone once their snapshots
//! are registered; a machine is made of managed disks that are copied from the snapshots. What an update leaves alone is
//! copied into the upload from the last image's snapshot by the storage service itself (`target::write`).
//!
//! The Resource Manager is spoken to by a thin client (`http`, `arm`), bytes go through the page blob behind a SAS
//! (`access`, `blob`). Must not know vaults, policies or the ledger.

mod access;
mod arm;
mod blob;
mod encryption;
mod error;
mod http;
mod marks;
mod owned;
mod pages;
mod patience;
mod read;
mod relay;
mod restore;
mod source;
mod target;
mod vhd;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use cloud::{Cloud, Relay, Resource, Source, Switch, Target};
use model::{Result, SiteName};
use serde_json::Value;

pub use access::settle;
pub use restore::{LaunchSpec, Restore};

use self::access::Accesses;
use self::http::Client;
use crate::identity::Login;

/// Where Azure's Resource Manager is.
pub const ARM: &str = "https://management.azure.com";

/// How a site of kind `azure` is set up.
#[derive(Debug, Clone)]
pub struct AzureConfig {
    /// Its name in the configuration.
    pub site: SiteName,
    /// The subscription's id.
    pub subscription: String,
    /// The resource group that is worked in.
    pub group: String,
    /// The region: `westeurope`. Things of the group in other regions are passed over.
    pub location: String,
    /// Who signs in.
    pub login: Login,
    /// Address of the Resource Manager: [`ARM`], another cloud's, or a simulator's.
    pub arm: String,
    /// The kind of storage of managed disks: `StandardSSD_LRS`.
    pub storage: String,
    /// Id of the disk encryption set that everything made here is encrypted with. None: the platform's key.
    pub encryption_set: Option<String>,
    /// Folder for the hashes of written disks.
    pub scratch: PathBuf,
    /// What restored servers get.
    pub restore: Restore,
}

/// A resource group in a region of Azure.
#[derive(Clone)]
pub struct AzureSite {
    config: Arc<AzureConfig>,
    client: Arc<OnceLock<Client>>,
    accesses: Arc<Accesses>,
    /// What is made here is encrypted with that, in the words of a request.
    encryption: Arc<OnceLock<Value>>,
}

impl AzureSite {
    /// A site by its configuration. Touches nothing yet.
    pub fn new(config: AzureConfig) -> Self {
        Self { config: Arc::new(config), client: Arc::default(), accesses: Arc::default(), encryption: Arc::default() }
    }

    fn client(&self) -> Result<&Client> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = Client::new(self.config.clone())?;
        Ok(self.client.get_or_init(|| client))
    }
}

#[async_trait]
impl Cloud for AzureSite {
    fn site(&self) -> &SiteName {
        &self.config.site
    }

    fn kind(&self) -> &'static str {
        "azure"
    }

    fn source(&self) -> Option<&dyn Source> {
        Some(self)
    }

    fn switch(&self) -> Option<&dyn Switch> {
        Some(self)
    }

    fn target(&self) -> Option<&dyn Target> {
        Some(self)
    }

    fn relay(&self) -> Option<&dyn Relay> {
        Some(self)
    }

    async fn owned(&self) -> Result<Vec<Resource>> {
        owned::owned(self.client()?).await
    }

    async fn delete(&self, resource: &Resource) -> Result<()> {
        owned::delete(self.client()?, resource).await
    }
}

//! The provider `openstack`: one project in one region of an OpenStack cloud.
//!
//! An **image** of a restore point is a Glance image per disk; that of the boot disk carries the point. Everything made
//! is marked in the call that makes it (see `marks`). What differs between clouds that speak these APIs stands in
//! `api`, one file a service.
//!
//! Must not know vaults, policies or the ledger.

mod api;
mod auth;
mod config;
mod digest;
mod discover;
mod download;
mod error;
#[cfg(test)]
mod fake;
mod http;
mod marks;
mod owned;
mod pipe;
mod read;
mod relay;
mod restore;
mod source;
mod target;
#[cfg(test)]
mod tests;
mod volume;
mod wait;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use disk::Format;
use model::{Result, SiteName};

pub use config::CloudRef;
pub use restore::{LaunchSpec, MacChoice, NetworkSpec, Restore};
pub use target::OPTIONS as IMAGE_OPTIONS;

use self::http::Client;
use self::pipe::Pipes;
use self::target::Scratch;
use crate::{Cloud, Relay, Resource, Source, Switch, Target};

/// How a site of kind `openstack` is set up.
#[derive(Debug, Clone)]
pub struct OpenStackConfig {
    /// Its name in the configuration.
    pub site: SiteName,
    /// The entry of `clouds.yaml`.
    pub cloud: CloudRef,
    /// Where images are put together before they are sent, if they cannot be streamed.
    pub scratch: PathBuf,
    /// Format of images. `qcow2` sends and stores no holes; it is the default. `raw` is what a Ceph back end clones servers
    /// from without copying.
    pub format: Format,
    /// Whether images are staged and then imported (`glance-direct`), as clouds want it that check or convert what they
    /// are given.
    pub staged: bool,
    /// What restored servers get.
    pub restore: Restore,
}

/// A project in a region of an OpenStack cloud.
#[derive(Clone)]
pub struct OpenStackSite {
    config: Arc<OpenStackConfig>,
    client: Client,
    /// What is being copied through this process.
    pipes: Arc<Pipes>,
    /// The same cloud in other regions, which images are copied from.
    regions: Arc<Mutex<BTreeMap<String, Client>>>,
}

impl OpenStackSite {
    /// A site by its configuration. Touches nothing yet.
    pub fn new(config: OpenStackConfig) -> Self {
        let client = Client::new(config.cloud.clone());
        Self { config: Arc::new(config), client, pipes: Arc::default(), regions: Arc::default() }
    }

    fn scratch(&self) -> Scratch {
        Scratch::new(&self.config.scratch, &self.config.site)
    }
}

#[async_trait]
impl Cloud for OpenStackSite {
    fn site(&self) -> &SiteName {
        &self.config.site
    }

    fn kind(&self) -> &'static str {
        "openstack"
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
        owned::owned(self).await
    }

    async fn delete(&self, resource: &Resource) -> Result<()> {
        owned::delete(self, resource).await
    }
}

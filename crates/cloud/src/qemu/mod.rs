//! The provider `qemu`: guests of plain QEMU on this host, captured live through their QMP sockets and restored as
//! new guests.
//!
//! A **server** is a QMP socket that fits the configured pattern; its name is the socket file's stem. A **sidecar**
//! `NAME.toml` beside the socket carries tags and, for times when the guest is off, its disks.
//!
//! Owns the QMP, guest-agent and NBD clients, the capture of live and powered-off guests, and (in `target`) images
//! and instances. Must not know vaults, policies or the ledger.

pub mod agent;
mod capture;
mod cut;
mod export;
mod freeze;
mod guest;
mod inventory;
pub mod nbd;
mod offline;
mod owned;
mod plan;
mod power;
pub mod qmp;
mod release;
mod scratch;
mod session;
pub mod sidecar;
mod source;
mod target;
#[cfg(test)]
mod tests;
mod threads;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use model::{Clock, Result, SiteName};

pub use target::{Accelerator, IMAGE_OPTIONS, TargetConfig};

use crate::{Cloud, Resource, Source, Switch, Target};

/// How a site of kind `qemu` is set up.
#[derive(Debug, Clone)]
pub struct QemuConfig {
    /// Its name in the configuration.
    pub site: SiteName,
    /// Pattern of the QMP sockets of its guests: `/run/guests/*.qmp`.
    pub sockets: String,
    /// Where images and instances of restores and drills go.
    pub disks: PathBuf,
    /// Where captures keep what the guest overwrites meanwhile; default: `.scratch` in `disks`. Best on a file
    /// system of its own.
    pub scratch: Option<PathBuf>,
    /// The most bytes that one capture may use there; default: half of what is free. A capture that needs more
    /// breaks, and the guest notices nothing.
    pub scratch_limit: Option<u64>,
    /// Capture by backup jobs instead of copy-before-write filters. Jobs work with every device, but a guest that
    /// overwrites more than the scratch space holds is stopped by QEMU; so their scratch space is reserved whole.
    pub jobs_only: bool,
    /// How images and instances are made.
    pub target: TargetConfig,
}

/// A host with QEMU guests.
#[derive(Clone)]
pub struct QemuSite {
    config: QemuConfig,
    clock: Arc<dyn Clock>,
}

impl QemuSite {
    /// A site by its configuration. Touches nothing yet.
    pub fn new(config: QemuConfig, clock: Arc<dyn Clock>) -> Self {
        Self { config, clock }
    }

    /// How it is set up.
    pub fn config(&self) -> &QemuConfig {
        &self.config
    }

    /// Where its time comes from.
    pub fn clock(&self) -> &dyn Clock {
        self.clock.as_ref()
    }

    /// Where captures keep their scratch files.
    pub fn scratch(&self) -> PathBuf {
        self.config.scratch.clone().unwrap_or_else(|| self.config.disks.join(".scratch"))
    }
}

#[async_trait]
impl Cloud for QemuSite {
    fn site(&self) -> &SiteName {
        &self.config.site
    }

    fn kind(&self) -> &'static str {
        "qemu"
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

    async fn owned(&self) -> Result<Vec<Resource>> {
        let mut all = owned::owned(self).await?;
        all.extend(self.target_owned().await?);
        Ok(all)
    }

    async fn delete(&self, resource: &Resource) -> Result<()> {
        if self.target_delete(resource).await? {
            return Ok(());
        }
        let (site, resource) = (self.clone(), resource.clone());
        let what = format!("delete {} {}", resource.kind, resource.id);
        capture::shielded(&what, async move { owned::delete(&site, &resource).await }).await
    }
}

//! The provider `aws`: one account in one region, by the EC2 API and the EBS direct API.
//!
//! An **image** of a restore point is an AMI; it carries the point in its tags, and its disks are EBS snapshots that
//! were written block by block. A snapshot that no image of ours refers to is a leftover, whatever its tags say, so
//! `RegisterImage` alone is the commit. Everything made is tagged in the call that makes it.
//!
//! Must not know vaults, policies or the ledger, and must not retry what the decorator retries; block transfers alone
//! are repeated here, because a stream cannot be begun again by anyone above.

mod blocks;
mod capture;
mod config;
mod consistent;
mod error;
mod freeze;
mod image;
mod instance;
mod inventory;
mod isolate;
mod launch;
mod lock;
mod marks;
mod options;
mod owned;
mod patience;
mod put;
mod records;
mod relay;
mod snapshot;
mod source;
mod ssm;
mod switch;
mod target;
mod uefi;
mod wait;
mod write;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cloud::{Cloud, Peer, Relay, Resource, Source, Switch, Target};
use model::{Clock, Result, SiteName};
use tokio::sync::OnceCell;

pub use config::{AwsConfig, Endpoints, Freeze, LaunchSpec, Restore};

use self::config::Clients;

/// How long EC2 may not show what it has just made: two minutes were seen.
const LAG: Duration = Duration::from_secs(180);

/// An account in a region.
#[derive(Clone)]
pub struct AwsSite {
    config: Arc<AwsConfig>,
    clients: Arc<OnceCell<Clients>>,
    clock: Arc<dyn Clock>,
    peer: Arc<OnceCell<Peer>>,
}

impl AwsSite {
    /// A site by its configuration. Touches nothing yet.
    pub fn new(config: AwsConfig, clock: Arc<dyn Clock>) -> Self {
        Self { config: Arc::new(config), clients: Arc::default(), clock, peer: Arc::default() }
    }

    /// The clients, made at the first call that needs them.
    async fn clients(&self) -> Result<&Clients> {
        self.clients.get_or_try_init(|| Clients::connect(&self.config)).await
    }
}

#[async_trait]
impl Cloud for AwsSite {
    fn site(&self) -> &SiteName {
        &self.config.site
    }

    fn kind(&self) -> &'static str {
        "aws"
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

    fn lag(&self) -> Duration {
        LAG
    }

    async fn owned(&self) -> Result<Vec<Resource>> {
        owned::owned(self.clients().await?).await
    }

    async fn delete(&self, resource: &Resource) -> Result<()> {
        owned::delete(self, resource).await
    }
}

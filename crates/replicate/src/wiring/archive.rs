//! A vault as the engine wants it: opened when it is first needed, opened again if that did not work.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use disk::DiskRead;
use engine::{Archive, ArchiveCheck, ArchiveWriter, CheckScope, Collected, Observer};
use model::{Clock, DiskName, Error, Kind, PointId, RestorePoint, Result, ServerName, VaultName};
use tokio::sync::OnceCell;
use vault::Vault;

use super::open_vault;
use crate::config::VaultSettings;

/// A vault that is opened on first use: unwrapping a passphrase takes a second on purpose, and a vault that cannot be
/// reached must not stop a command that needs another one.
pub struct LazyVault {
    name: VaultName,
    settings: Option<VaultSettings>,
    clock: Arc<dyn Clock>,
    open: OnceCell<Vault>,
}

impl LazyVault {
    /// A vault of the configuration. Touches nothing yet.
    pub fn new(name: VaultName, settings: Option<VaultSettings>, clock: Arc<dyn Clock>) -> Self {
        Self { name, settings, clock, open: OnceCell::new() }
    }

    async fn vault(&self) -> Result<&dyn Archive> {
        let open = || async {
            match &self.settings {
                Some(settings) => open_vault(&self.name, settings, &self.clock).await,
                None => Err(Error::new(Kind::Invalid, format!("vault {} is not configured", self.name))),
            }
        };
        Ok(self.open.get_or_try_init(open).await?)
    }
}

#[async_trait]
impl Archive for LazyVault {
    fn describe(&self) -> String {
        format!("vault:{}", self.name)
    }

    async fn points(&self) -> Result<Vec<RestorePoint>> {
        self.vault().await?.points().await
    }

    async fn point(&self, id: &PointId) -> Result<RestorePoint> {
        self.vault().await?.point(id).await
    }

    async fn begin(
        &self,
        point: &PointId,
        server: &ServerName,
        parent: Option<&PointId>,
    ) -> Result<Box<dyn ArchiveWriter>> {
        self.vault().await?.begin(point, server, parent).await
    }

    async fn open_disk(&self, point: &PointId, disk: &DiskName) -> Result<Box<dyn DiskRead>> {
        self.vault().await?.open_disk(point, disk).await
    }

    async fn verify(
        &self,
        scope: &CheckScope,
        recent: &BTreeSet<String>,
        observer: &dyn Observer,
    ) -> Result<ArchiveCheck> {
        self.vault().await?.verify(scope, recent, observer).await
    }

    async fn forget(&self, point: &PointId) -> Result<()> {
        self.vault().await?.forget(point).await
    }

    async fn collect(&self, grace: Duration) -> Result<Collected> {
        self.vault().await?.collect(grace).await
    }
}

//! A vault as the engine wants it: opened when it is first needed, opened again if that did not work.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use disk::{DiskRead, DiskWrite};
use engine::{Archive, ArchiveCheck, ArchiveWriter, CheckScope, Collected, Event, Observer};
use jiff::Timestamp;
use model::{Clock, DiskName, Error, Kind, PointId, RestorePoint, Result, ServerName, VaultName};
use tokio::sync::OnceCell;
use vault::{PackId, PointWriter, Vault, VerifyScope};

use super::open_vault;
use crate::config::{Settings, VaultSettings};

/// A vault that is opened on first use.
pub struct LazyVault {
    name: VaultName,
    settings: Option<VaultSettings>,
    clock: Arc<dyn Clock>,
    /// When each pack was last read back by this installation. A cache: without it, more is read again.
    seen: PathBuf,
    open: OnceCell<Arc<Vault>>,
}

impl LazyVault {
    /// A vault of the configuration. Touches nothing yet.
    pub fn new(name: VaultName, settings: &Settings, clock: Arc<dyn Clock>) -> Self {
        let seen = settings.ledger.join(format!("verified-{}.json", name.as_str().replace(['/', ':'], "_")));
        let settings = settings.vaults.get(&name).cloned();
        Self { name, settings, clock, seen, open: OnceCell::new() }
    }

    async fn vault(&self) -> Result<&Arc<Vault>> {
        self.open
            .get_or_try_init(|| async {
                let settings = self.settings.as_ref().ok_or_else(|| {
                    Error::new(Kind::Invalid, format!("vault {} is not configured", self.name))
                })?;
                open_vault(&self.name, settings, &self.clock).await.map(Arc::new)
            })
            .await
    }

    /// When packs were last read back.
    fn seen(&self) -> BTreeMap<String, Timestamp> {
        let text = std::fs::read(&self.seen).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    fn remember(&self, packs: &[String]) {
        let mut seen = self.seen();
        seen.extend(packs.iter().map(|pack| (pack.clone(), self.clock.now())));
        let temporary = self.seen.with_extension("part");
        let written = serde_json::to_vec(&seen)
            .map_err(std::io::Error::other)
            .and_then(|text| std::fs::write(&temporary, text))
            .and_then(|()| std::fs::rename(&temporary, &self.seen));
        if let Err(error) = written {
            tracing::warn!(vault = %self.name, %error, "what was verified cannot be remembered");
        }
    }

    /// The vault's own scopes of one of the engine's.
    fn scopes(&self, scope: &CheckScope) -> Vec<VerifyScope> {
        match scope {
            CheckScope::Present => vec![VerifyScope::Sample(0.0)],
            CheckScope::All => vec![VerifyScope::All],
            CheckScope::Sample(percent) => vec![VerifyScope::Sample(f64::from(*percent))],
            CheckScope::Stale(days) => {
                let limit = self.clock.now() - Duration::from_secs(u64::from(*days) * 86_400);
                let recent: BTreeSet<PackId> = (self.seen().into_iter())
                    .filter(|(_, at)| *at >= limit)
                    .filter_map(|(pack, _)| PackId::parse(&pack))
                    .collect();
                vec![VerifyScope::NotVerifiedFor(recent)]
            }
            CheckScope::Points(points) => points.iter().cloned().map(VerifyScope::Point).collect(),
        }
    }
}

/// Hands the vault's progress to the engine's observer.
struct Heard<'a> {
    observer: &'a dyn Observer,
    what: String,
}

impl vault::Progress for Heard<'_> {
    fn bytes(&self, done: u64, total: u64) {
        self.observer.event(&Event::Progress { run: None, what: self.what.clone(), done, total });
    }
}

struct Writer(PointWriter);

#[async_trait]
impl ArchiveWriter for Writer {
    async fn disk(&self, disk: &DiskName, size: u64, incremental: bool) -> Result<Box<dyn DiskWrite>> {
        self.0.disk(disk, size, incremental).await
    }

    async fn seal(self: Box<Self>, point: &RestorePoint) -> Result<u64> {
        Ok(self.0.seal(point).await?.stored_bytes)
    }
}

#[async_trait]
impl Archive for LazyVault {
    fn describe(&self) -> String {
        format!("vault {}", self.name)
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
        Ok(Box::new(Writer(self.vault().await?.begin(point, server, parent).await?)))
    }

    async fn open_disk(&self, point: &PointId, disk: &DiskName) -> Result<Box<dyn DiskRead>> {
        self.vault().await?.open_disk(point, disk).await
    }

    async fn verify(&self, scope: &CheckScope, observer: &dyn Observer) -> Result<ArchiveCheck> {
        let vault = self.vault().await?;
        let heard = Heard { observer, what: format!("verify vault:{}", self.name) };
        let mut check = ArchiveCheck::default();
        for scope in self.scopes(scope) {
            let report = vault.verify(&scope, &heard).await?;
            check.bytes += report.bytes;
            for (point, why) in report.affected {
                check.damaged.push((PointId::new(point)?, why));
            }
            self.remember(&report.packs);
        }
        Ok(check)
    }

    async fn forget(&self, point: &PointId) -> Result<()> {
        self.vault().await?.forget(point).await
    }

    async fn collect(&self, _grace: Duration) -> Result<Collected> {
        Ok(Collected::default())
    }
}

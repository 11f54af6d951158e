//! Compaction of vaults: on request, and when it is due. How it is done is the vault's business; here is said when, how much,
//! and when it was last done.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use model::{Kind, Result, VaultName};
use vault::{CompactReport, Compaction};

use crate::ledger::{self, Batch, Tree};
use crate::{CompactRequest, CompactedReport, Engine, Problem};

/// Bytes of packs that are moved between one commit and the next: 13 MiB of memory, and at most so much work is lost.
const BATCH: u64 = 64 << 30;
/// Batches at most; what is left then is for the next time.
const BATCHES: usize = 64;

/// What is worth moving in a vault, and how often to look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompactSettings {
    /// Packs of whose bytes no point needs so many percent.
    pub waste: u8,
    /// zstd level of what is written.
    pub level: i32,
    /// What is as old and was compressed at a lower level, too; none: is left.
    pub recompress_after: Option<Duration>,
    /// How often the daemon does it; none: never.
    pub every: Option<Duration>,
}

impl Default for CompactSettings {
    fn default() -> Self {
        // level 9 makes 3 % less of a vault than level 3 did; the next 4 % (17) take eight times as long: tests/bench/peers.sh
        let week = Duration::from_secs(7 * 86_400);
        Self { waste: 25, level: 9, recompress_after: None, every: Some(week) }
    }
}

impl Engine {
    /// Compacts vaults. Safe beside everything else; may die anywhere.
    pub async fn compact(&self, request: &CompactRequest) -> Result<CompactedReport> {
        if let Some(name) = &request.vault {
            self.known_vault(name)?;
        }
        let mut report = CompactedReport { dry: request.dry, ..CompactedReport::default() };
        let wanted = |name: &&VaultName| request.vault.as_ref().is_none_or(|only| only == *name);
        for name in self.vaults.keys().filter(wanted) {
            match self.compact_vault(name, request).await {
                Ok(done) => report.vaults.push((name.clone(), done)),
                Err(error) => report.problems.push(Problem::from(&error)),
            }
        }
        Ok(report)
    }

    /// Compacts the vaults whose time has come.
    pub async fn compact_due(&self) -> Result<CompactedReport> {
        let mut report = CompactedReport::default();
        for name in self.vaults.keys() {
            if !self.is_due(name).await? {
                continue;
            }
            match self.compact_vault(name, &CompactRequest::default()).await {
                Ok(done) => report.vaults.push((name.clone(), done)),
                // the last one, or somebody's command, is still at it
                Err(error) if error.kind() == Kind::Exists => {}
                Err(error) => report.problems.push(Problem::from(&error)),
            }
        }
        Ok(report)
    }

    async fn compact_vault(&self, name: &VaultName, request: &CompactRequest) -> Result<CompactReport> {
        let _busy = self.occupy(format!("a compaction of vault {name}"))?;
        let settings = self.compaction_of(name);
        let compaction = Compaction {
            waste: request.waste.unwrap_or(settings.waste),
            level: request.level.unwrap_or(settings.level),
            recompress_after: if request.recompress { Some(Duration::ZERO) } else { settings.recompress_after },
            most: BATCH,
        };
        let vault = self.vault(name).await?;
        let mut total: Option<CompactReport> = None;
        for _ in 0..BATCHES {
            let pass = vault.compact(&compaction, request.dry, &*self.observer).await?;
            let more = !request.dry && pass.left_bytes > 0 && pass.points > 0;
            total = Some(match total {
                Some(before) => before.then(pass),
                None => pass,
            });
            if !more {
                break;
            }
        }
        if !request.dry {
            let mut batch = Batch::new();
            batch.put(Tree::Upkeep, key(name), &self.now())?;
            self.ledger.commit(batch).await?;
        }
        Ok(total.unwrap_or_default())
    }

    fn compaction_of(&self, name: &VaultName) -> CompactSettings {
        self.settings.compaction.get(name).cloned().unwrap_or_default()
    }

    async fn is_due(&self, name: &VaultName) -> Result<bool> {
        let Some(every) = self.compaction_of(name).every else { return Ok(false) };
        let last: Option<Timestamp> = ledger::get(&*self.ledger, Tree::Upkeep, &key(name)).await?;
        let every = SignedDuration::try_from(every).unwrap_or(SignedDuration::MAX);
        // a note from the future was made under a wrong clock: it is not believed
        Ok(last.is_none_or(|last| last > self.now() || self.now().duration_since(last) >= every))
    }
}

fn key(name: &VaultName) -> String {
    format!("compacted/{name}")
}

//! What upkeep answers: verification, retention, compaction, sweeping, adopting. Plain data like [`crate::report`].

use model::{Place, PointId, ServerName, SiteName, VaultName};
use serde::{Deserialize, Serialize};
use vault::CompactReport;

use crate::{Collected, DoomedReport, Problem};

/// A replica that was verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifiedReplica {
    /// Which point.
    pub point: PointId,
    /// Of which server.
    pub server: ServerName,
    /// Where.
    pub place: Place,
    /// What is wrong; none: nothing.
    pub problem: Option<Problem>,
}

/// What a verification found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// Per replica.
    pub replicas: Vec<VerifiedReplica>,
    /// Bytes read.
    pub bytes: u64,
    /// What could not be looked at.
    pub problems: Vec<Problem>,
}

impl VerifyReport {
    /// Whether nothing is wrong and everything could be looked at.
    pub fn is_good(&self) -> bool {
        self.problems.is_empty() && self.replicas.iter().all(|replica| replica.problem.is_none())
    }
}

/// A replica that retention keeps, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptReport {
    /// Of which server.
    pub server: ServerName,
    /// Which point.
    pub point: PointId,
    /// Where.
    pub place: Place,
    /// Why.
    pub why: String,
}

/// What `prune` did or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneReport {
    /// Kept, and why.
    pub kept: Vec<KeptReport>,
    /// Marked now or before, waiting for the grace period.
    pub doomed: Vec<DoomedReport>,
    /// Deleted.
    pub deleted: Vec<DoomedReport>,
    /// Marks taken back.
    pub reprieved: Vec<DoomedReport>,
    /// Freed per vault.
    pub collected: Vec<(VaultName, Collected)>,
    /// What could not be done.
    pub problems: Vec<Problem>,
}

/// What was compacted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompactedReport {
    /// Only what would be done.
    pub dry: bool,
    /// Per vault.
    pub vaults: Vec<(VaultName, CompactReport)>,
    /// What could not be done.
    pub problems: Vec<Problem>,
}

/// A resource that `sweep` met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweptReport {
    /// At which site.
    pub site: SiteName,
    /// `capture`, `disk`, ...
    pub kind: String,
    /// The provider's id.
    pub id: String,
    /// The dead run that left it.
    pub run: Option<String>,
}

/// What `sweep` did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweepReport {
    /// Deleted.
    pub deleted: Vec<SweptReport>,
    /// Scratch that open runs still need.
    pub in_use: Vec<SweptReport>,
    /// What could not be done.
    pub problems: Vec<Problem>,
}

/// What `adopt` found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptReport {
    /// Points in all.
    pub points: usize,
    /// Replicas in all.
    pub replicas: usize,
    /// Replicas that the ledger did not know.
    pub added: usize,
    /// Replicas that the ledger believed in and that are not there.
    pub gone: Vec<(PointId, Place)>,
    /// What could not be looked at: what is there was left as the ledger has it.
    pub problems: Vec<Problem>,
}

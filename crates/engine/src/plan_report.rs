//! What `replicate plan` answers: plain data.

use model::{Consistency, Cursor, Place, PointId, PolicyName, RunId, ServerName, SiteName, Via};
use serde::{Deserialize, Serialize};

use crate::{DoomedReport, Problem};

/// How bytes will come to a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Changes only are read and moved.
    Incremental,
    /// Everything is read, what the destination has is dropped.
    Compare,
    /// Everything is read and moved.
    Full,
}

/// An amount of money.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// How much.
    pub amount: f64,
    /// Of what.
    pub currency: String,
}

/// What a run would do for one destination.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DestinationPlan {
    /// Where.
    pub place: Place,
    /// How.
    pub mode: Mode,
    /// The point it builds on there.
    pub parent: Option<PointId>,
    /// Why not incremental.
    pub reason: Option<String>,
    /// Through us, or copied by the provider.
    #[serde(default)]
    pub via: Via,
    /// The destination that the provider copies from.
    #[serde(default)]
    pub from: Option<SiteName>,
    /// Why this way, if there was a choice.
    #[serde(default)]
    pub choice: Option<String>,
    /// An upper bound, or what the last run moved if it is incremental.
    pub estimated_bytes: u64,
    /// Calls of the provider that carry them, as far as it is known how much one carries.
    #[serde(default)]
    pub estimated_calls: Option<u64>,
    /// What moving them costs, if the sites' configuration tells prices.
    #[serde(default)]
    pub estimated_cost: Option<Cost>,
    /// How long it takes at the pace of the last run, if there was one.
    #[serde(default)]
    pub estimated_seconds: Option<f64>,
    /// The durable steps, in order.
    pub steps: Vec<String>,
    /// Why it cannot work.
    pub problem: Option<Problem>,
}

/// What a run would do for one server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServerPlan {
    /// Whose policy.
    pub policy: PolicyName,
    /// Which server.
    pub server: ServerName,
    /// At which site.
    pub site: SiteName,
    /// The unfinished run that would go on instead of a new one.
    pub resume: Option<RunId>,
    /// The consistency asked for.
    pub consistency: Consistency,
    /// The cursor that the capture would be incremental against.
    pub since: Option<Cursor>,
    /// The point that this cursor belongs to.
    pub base: Option<PointId>,
    /// Bytes of all disks.
    pub disk_bytes: u64,
    /// Per destination.
    pub destinations: Vec<DestinationPlan>,
}

/// What `replicate plan` shows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PlanReport {
    /// Per policy and server.
    pub servers: Vec<ServerPlan>,
    /// What retention will delete, and when.
    pub doomed: Vec<DoomedReport>,
    /// What could not be looked at.
    pub problems: Vec<Problem>,
}

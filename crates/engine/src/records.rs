//! What the ledger remembers: stored forms, tolerant of added fields.

use jiff::Timestamp;
use model::{
    Cursor, DiskName, Place, PointDisk, PointId, Policy, PolicyName, Replica, RestorePoint, RunId, ServerName,
    SiteName, Via,
};
use serde::{Deserialize, Serialize};

use crate::{DestinationState, Problem, RunOutcome};

/// What a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunKind {
    /// Capture and replicate.
    Replicate,
    /// A disk image becomes a point.
    Import,
    /// A point becomes a server or a file.
    Restore,
    /// A restore that is checked and destroyed.
    Drill,
}

impl RunKind {
    /// For messages.
    pub fn name(self) -> &'static str {
        match self {
            RunKind::Replicate => "replicate",
            RunKind::Import => "import",
            RunKind::Restore => "restore",
            RunKind::Drill => "drill",
        }
    }
}

/// How a run stands in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// Running, interrupted, or waiting to be resumed: it owns its scratch.
    Open,
    /// Ended; nothing will be done for it any more.
    Closed,
}

/// One destination of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DestinationRecord {
    /// Where.
    pub place: Place,
    /// How it stands.
    pub state: DestinationState,
    /// The last try's numbers.
    #[serde(default)]
    pub parent: Option<PointId>,
    /// Whether a change map was followed.
    #[serde(default)]
    pub incremental: bool,
    /// Bytes handed to it.
    #[serde(default)]
    pub received_bytes: u64,
    /// Bytes new to it.
    #[serde(default)]
    pub fresh_bytes: u64,
    /// Bytes that it stored.
    #[serde(default)]
    pub stored_bytes: u64,
    /// How its bytes come. `Auto`: not decided yet; once it is, a later execution goes on the same way.
    #[serde(default)]
    pub via: Via,
    /// The destination that the provider copies from.
    #[serde(default)]
    pub from: Option<SiteName>,
    /// Bytes that the provider copied.
    #[serde(default)]
    pub relayed_bytes: u64,
    /// How long moving took.
    #[serde(default)]
    pub seconds: f64,
    /// Why the last try failed.
    #[serde(default)]
    pub problem: Option<Problem>,
}

impl DestinationRecord {
    /// A destination that waits.
    pub fn new(place: Place) -> Self {
        Self {
            place,
            state: DestinationState::Waiting,
            parent: None,
            incremental: false,
            received_bytes: 0,
            fresh_bytes: 0,
            stored_bytes: 0,
            via: Via::Auto,
            from: None,
            relayed_bytes: 0,
            seconds: 0.0,
            problem: None,
        }
    }
}

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Its id; also the key.
    pub id: RunId,
    /// What it is for.
    pub kind: RunKind,
    /// Whose policy.
    #[serde(default)]
    pub policy: Option<PolicyName>,
    /// The policy as it was when the run began: a change of configuration does not reach into a run.
    #[serde(default)]
    pub with: Option<Policy>,
    /// Of which server.
    pub server: ServerName,
    /// Where the server is, or where a restore goes.
    #[serde(default)]
    pub site: Option<SiteName>,
    /// Open or closed.
    pub state: RunState,
    /// When it began.
    pub started_at: Timestamp,
    /// When it was closed.
    #[serde(default)]
    pub finished_at: Option<Timestamp>,
    /// How often it was executed.
    pub attempts: u32,
    /// How it stands or ended.
    #[serde(default)]
    pub outcome: Option<RunOutcome>,
    /// Its destinations.
    #[serde(default)]
    pub destinations: Vec<DestinationRecord>,
    /// The capture was lost while destinations waited: nothing more can be read for this point.
    #[serde(default)]
    pub lost: bool,
    /// The point, fixed before the first destination commits it: every destination seals exactly this.
    #[serde(default)]
    pub point: Option<RestorePoint>,
    /// What stopped the last execution as a whole.
    #[serde(default)]
    pub problem: Option<Problem>,
    /// What a person should know.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// When a run that could not be finished is tried again by itself.
    #[serde(default)]
    pub next_try: Option<Timestamp>,
}

/// Intent and outcome of one step: the intent is durable before the step acts, the outcome after.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Its name.
    pub step: String,
    /// How often it was begun.
    pub attempts: u32,
    /// When it was last begun.
    pub begun_at: Timestamp,
    /// When it was done; none: its outcome is unknown, and it is executed again.
    #[serde(default)]
    pub done_at: Option<Timestamp>,
    /// What it produced, for later steps.
    #[serde(default)]
    pub outcome: serde_json::Value,
}

/// What the next capture of a server under a policy is incremental against: written only when a point is committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CursorRecord {
    /// At which site.
    pub site: SiteName,
    /// The source's cursor.
    pub cursor: Cursor,
    /// The point whose bytes the cursor's changes are against.
    pub base: PointId,
    /// The roots of that point.
    pub disks: Vec<PointDisk>,
    /// Bytes that the last increment moved, to estimate the next.
    #[serde(default)]
    pub last_bytes: u64,
}

impl CursorRecord {
    /// Whether `point` has exactly the bytes that changes of `disk` are counted from.
    pub fn fits(&self, point: &RestorePoint, disk: &DiskName) -> bool {
        let own = self.disks.iter().find(|d| d.name == *disk);
        let other = point.disks.iter().find(|d| d.name == *disk);
        self.base == point.id && own.is_some() && own == other
    }
}

/// The last occurrence of a schedule that was handled for a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OccurrenceRecord {
    /// Which.
    pub handled: Timestamp,
    /// The run that handled it.
    #[serde(default)]
    pub run: Option<RunId>,
}

/// A replica that was deleted, and why: kept for audit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TombstoneRecord {
    /// What it was.
    pub replica: Replica,
    /// Of which server.
    pub server: ServerName,
    /// When it was deleted.
    pub deleted_at: Timestamp,
    /// Which guards were looked at, and what they said.
    pub guards: Vec<String>,
}

/// A restored image: it belongs to whoever restored it, and retention never touches it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldRecord {
    /// Which run holds the point.
    pub run: RunId,
    /// Why.
    pub why: String,
    /// Since when.
    pub since: Timestamp,
}

/// Key of a place inside a key: no slash of its own could be confused with a level.
pub(crate) fn place_key(place: &Place) -> String {
    place.to_string()
}

/// Key of a replica.
pub(crate) fn replica_key(point: &PointId, place: &Place) -> String {
    format!("{point}/{}", place_key(place))
}

/// Key of a point.
pub(crate) fn point_key(point: &RestorePoint) -> String {
    format!("{}/{}", point.server, point.id)
}

/// Key of a server under a policy.
pub(crate) fn policy_key(policy: &PolicyName, server: &ServerName) -> String {
    format!("{policy}/{server}")
}

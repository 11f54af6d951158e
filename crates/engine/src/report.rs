//! What the engine answers: plain data, printed by the command and served by the daemon.

use std::path::PathBuf;

use jiff::Timestamp;
use model::{
    Consistency, DiskName, ImageId, InstanceId, Kind, Place, PointDisk, PointId, PolicyName, Replica, RestorePoint,
    RunId, ServerName, SiteName, Via,
};
use serde::{Deserialize, Serialize};

use crate::{MoveReport, SignedProof};

/// An error as data: printed, journalled, sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The chain in one line.
    pub message: String,
    /// What sort.
    pub kind: Kind,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl From<&model::Error> for Problem {
    fn from(error: &model::Error) -> Self {
        Self { message: error.chain(), kind: error.kind(), hint: error.advice().map(str::to_owned) }
    }
}

impl From<Problem> for model::Error {
    fn from(problem: Problem) -> Self {
        let error = model::Error::new(problem.kind, problem.message);
        match problem.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

/// How a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunOutcome {
    /// Every destination has a verified replica.
    Done,
    /// Some destinations have it; the rest goes on with the next run.
    PartlyDone,
    /// No destination has it.
    Failed,
    /// Not begun: the same policy runs for this server already.
    AlreadyRunning,
}

/// How a destination stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DestinationState {
    /// Not done yet.
    Waiting,
    /// Verified.
    Done,
    /// The last try failed; the next run tries again.
    Failed,
    /// Will not be tried again for this point.
    GivenUp,
}

/// One destination of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DestinationReport {
    /// Where.
    pub place: Place,
    /// How it stands.
    pub state: DestinationState,
    /// The point that it was incremental against.
    pub parent: Option<PointId>,
    /// Whether a change map was followed; if not, everything was read and only differences moved.
    pub incremental: bool,
    /// Bytes handed to it.
    pub received_bytes: u64,
    /// Bytes new to it, before compression.
    pub fresh_bytes: u64,
    /// Bytes that it stored.
    pub stored_bytes: u64,
    /// How the bytes came: through us, or copied by the provider from another destination.
    #[serde(default)]
    pub via: Via,
    /// The destination that they were copied from.
    #[serde(default)]
    pub from: Option<SiteName>,
    /// Bytes that the provider copied.
    #[serde(default)]
    pub relayed_bytes: u64,
    /// How long moving them took.
    #[serde(default)]
    pub seconds: f64,
    /// What went wrong.
    pub problem: Option<Problem>,
}

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunReport {
    /// Which.
    pub run: RunId,
    /// Whose policy; none for an import.
    pub policy: Option<PolicyName>,
    /// Of which server.
    pub server: ServerName,
    /// The point it made, once there is one.
    pub point: Option<PointId>,
    /// The captured instant.
    pub taken_at: Option<Timestamp>,
    /// How it stands.
    pub outcome: RunOutcome,
    /// Whether it went on where an earlier execution stopped.
    pub resumed: bool,
    /// The consistency reached.
    pub consistency: Option<Consistency>,
    /// What a person should know.
    pub warnings: Vec<String>,
    /// Bytes of all disks.
    pub disk_bytes: u64,
    /// Its destinations.
    pub destinations: Vec<DestinationReport>,
    /// How long this execution took.
    pub seconds: f64,
    /// What stopped it before any destination was tried.
    pub problem: Option<Problem>,
}

/// Several runs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunsReport {
    /// In the order they ended.
    pub runs: Vec<RunReport>,
}

impl RunsReport {
    /// The outcome of all together: done only if all are, failed only if none got anywhere.
    pub fn outcome(&self) -> RunOutcome {
        let all = |wanted| self.runs.iter().all(|run| run.outcome == wanted);
        if all(RunOutcome::Done) {
            RunOutcome::Done
        } else if all(RunOutcome::AlreadyRunning) {
            RunOutcome::AlreadyRunning
        } else if self.runs.iter().any(|run| matches!(run.outcome, RunOutcome::Done | RunOutcome::PartlyDone)) {
            RunOutcome::PartlyDone
        } else {
            RunOutcome::Failed
        }
    }
}

/// A server that a site has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerReport {
    /// At which site.
    pub site: SiteName,
    /// The server.
    pub server: cloud::Server,
    /// Policies that cover it.
    pub policies: Vec<PolicyName>,
}

/// A replica that retention will delete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoomedReport {
    /// Of which server.
    pub server: ServerName,
    /// Which point.
    pub point: PointId,
    /// Where.
    pub place: Place,
    /// When it was marked.
    pub doomed_at: Timestamp,
    /// When it may go, if the guards still allow it then.
    pub delete_after: Timestamp,
}

/// A proof in brief.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProofReport {
    /// The drill that made it.
    pub run: RunId,
    /// Of which point.
    pub point: PointId,
    /// When.
    pub at: Timestamp,
    /// Whether it booted and passed every probe.
    pub passed: bool,
    /// Seconds from the beginning of the restore to the last rung.
    pub seconds: f64,
}

/// A run that is not finished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenRunReport {
    /// Which.
    pub run: RunId,
    /// Since when.
    pub started_at: Timestamp,
    /// How often it was executed.
    pub attempts: u32,
    /// The step that is not done.
    pub step: String,
    /// Why it is stuck.
    pub problem: Option<Problem>,
    /// When the daemon tries again; none: it is being executed, or waits for a start.
    #[serde(default)]
    pub next_try: Option<Timestamp>,
}

/// One server in `replicate status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// Which.
    pub server: ServerName,
    /// Covered by which policy; none: only old points are left.
    pub policy: Option<PolicyName>,
    /// At which site.
    pub site: Option<SiteName>,
    /// The newest verified point.
    pub last_point: Option<PointId>,
    /// Its instant.
    pub last_point_at: Option<Timestamp>,
    /// When it was verified.
    pub last_verified_at: Option<Timestamp>,
    /// Age of the newest verified point: what would be lost now.
    pub lag_seconds: Option<i64>,
    /// The objective.
    pub rpo_seconds: Option<i64>,
    /// Whether it is met; none without an objective.
    pub rpo_met: Option<bool>,
    /// The last proof that passed.
    pub last_proof: Option<ProofReport>,
    /// Its age.
    pub proof_age_seconds: Option<i64>,
    /// Whether the objective for proofs is met.
    pub proof_met: Option<bool>,
    /// Points with a good replica.
    pub points: usize,
    /// When the next run is due.
    pub next_due: Option<Timestamp>,
    /// The unfinished run.
    pub open_run: Option<OpenRunReport>,
    /// Why the last finished run did not do all it should.
    pub last_problem: Option<Problem>,
}

/// `replicate status`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StatusReport {
    /// Per server.
    pub servers: Vec<ServerStatus>,
    /// Moves that have not ended.
    #[serde(default)]
    pub moves: Vec<MoveReport>,
    /// What could not be looked at.
    pub problems: Vec<Problem>,
}

/// A point in `replicate points`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PointReport {
    /// The point.
    pub point: RestorePoint,
    /// Where it is.
    pub replicas: Vec<Replica>,
    /// Its last proof.
    pub proof: Option<ProofReport>,
}

/// A replica or point that a restore did not take, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Which point.
    pub point: PointId,
    /// At which place; none: the whole point.
    pub place: Option<Place>,
    /// Why.
    pub why: String,
}

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RestoreReport {
    /// Which run did it.
    pub run: RunId,
    /// The point.
    pub point: PointId,
    /// Its instant.
    pub taken_at: Timestamp,
    /// Of which server.
    pub server: ServerName,
    /// Why this one.
    pub chosen: String,
    /// What was passed over.
    pub skipped: Vec<Skipped>,
    /// Which replica it came from.
    pub from: Place,
    /// The image that was made or used.
    pub image: Option<ImageId>,
    /// The instance that was started.
    pub instance: Option<InstanceId>,
    /// The files that were written.
    pub files: Vec<PathBuf>,
    /// The disks; their roots were compared with what was written.
    pub disks: Vec<PointDisk>,
    /// Bytes moved.
    pub bytes: u64,
    /// How: through us, or copied by the provider.
    #[serde(default)]
    pub via: Via,
    /// The point of which the site had an image: only what differs from it moved.
    #[serde(default)]
    pub since: Option<PointId>,
    /// How long it took.
    pub seconds: f64,
}

/// What a drill found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrillReport {
    /// Whether every rung and probe passed.
    pub passed: bool,
    /// What was restored.
    pub restore: RestoreReport,
    /// The signed receipt; holds rungs and probes.
    pub proof: SignedProof,
    /// Where the receipt lies as a file.
    pub proof_file: Option<PathBuf>,
    /// The end of the console, for a drill that failed.
    pub console: String,
}

/// A disk by name, for messages of several crates.
pub(crate) fn disk_label(disk: &DiskName) -> String {
    format!("disk {disk}")
}

//! A move: what is asked, what the ledger remembers of it, what is told.

use std::time::Duration;

use cloud::Power;
use jiff::Timestamp;
use model::{InstanceId, PointId, PolicyName, RunId, ServerName, SiteName, Via};
use serde::{Deserialize, Serialize};

use crate::{Problem, Rung};

/// A server is to be moved: stopped, captured a last time, launched elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveRequest {
    /// Which server.
    pub server: ServerName,
    /// To which site.
    pub to: SiteName,
    /// Its name there; its own by default.
    #[serde(default)]
    pub name: Option<ServerName>,
    /// The policy that captures it; by default one that covers it, rather one that replicates to `to`.
    #[serde(default)]
    pub policy: Option<PolicyName>,
    /// How its bytes come to the site.
    #[serde(default)]
    pub via: Via,
    /// How long its system may take to shut down.
    pub stop_limit: Duration,
    /// Whether its power is cut after that.
    #[serde(default)]
    pub force: bool,
    /// Whether it is left off if the move fails; it is started again otherwise.
    #[serde(default)]
    pub stay_off: bool,
}

impl MoveRequest {
    /// Its name at its new site.
    pub fn new_name(&self) -> &ServerName {
        self.name.as_ref().unwrap_or(&self.server)
    }
}

/// What a person decides about a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MoveEnd {
    /// The new server is the server from now on.
    Confirm,
    /// Back to the old one; the new one is stopped and kept.
    Keep,
    /// Back to the old one; the new one is destroyed, with what it wrote.
    Destroy,
}

/// How far a move is. Each stage is in the ledger before it acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MoveStage {
    /// The source is being stopped.
    Stopping,
    /// It is off, and captured a last time.
    Capturing,
    /// That point is restored and launched at the new site.
    Launching,
    /// The new server was launched, and is watched: from here on only a person goes back, unless it is seen not to boot at all.
    Watching,
    /// It runs; the source is off and kept until a person decides.
    Moved,
    /// The new server is taken away, then the source is started.
    RollingBack,
    /// Ended: the new server is the server.
    Confirmed,
    /// Ended: the source is the server.
    RolledBack,
}

impl MoveStage {
    /// For messages.
    pub fn name(self) -> &'static str {
        match self {
            MoveStage::Stopping => "stopping",
            MoveStage::Capturing => "capturing",
            MoveStage::Launching => "launching",
            MoveStage::Watching => "watching",
            MoveStage::Moved => "moved",
            MoveStage::RollingBack => "rolling back",
            MoveStage::Confirmed => "confirmed",
            MoveStage::RolledBack => "rolled back",
        }
    }

    /// Whether the source is marked: nothing new captures or starts it.
    pub fn is_open(self) -> bool {
        !matches!(self, MoveStage::Confirmed | MoveStage::RolledBack)
    }

    /// Whether there is something to do that needs no person.
    pub(crate) fn is_at_work(self) -> bool {
        self.is_open() && self != MoveStage::Moved
    }
}

/// A move in the ledger: written before the source is stopped, and with it its mark.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MoveRecord {
    /// Its id; also the key.
    pub id: RunId,
    /// What was asked.
    pub request: MoveRequest,
    /// Where the server is from.
    pub site: SiteName,
    /// Whose policy captures it.
    pub policy: PolicyName,
    /// Whether it ran when the move began: if not, nothing starts it.
    pub was_on: bool,
    /// How far it is.
    pub stage: MoveStage,
    /// When it began.
    pub started_at: Timestamp,
    /// When the source was off.
    #[serde(default)]
    pub stopped_at: Option<Timestamp>,
    /// When the new server was launched.
    #[serde(default)]
    pub launched_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default)]
    pub finished_at: Option<Timestamp>,
    /// The run of the last capture.
    #[serde(default)]
    pub run: Option<RunId>,
    /// The point that it made.
    #[serde(default)]
    pub point: Option<PointId>,
    /// The restore that launches the new server; fixed before it begins.
    #[serde(default)]
    pub restore: Option<RunId>,
    /// The new server's instance.
    #[serde(default)]
    pub instance: Option<InstanceId>,
    /// What the new server was seen to reach.
    #[serde(default)]
    pub rungs: Vec<Rung>,
    /// How a person wants to go back; none: nobody asked for it.
    #[serde(default)]
    pub back: Option<MoveEnd>,
    /// How often it was worked on.
    #[serde(default)]
    pub attempts: u32,
    /// When a move that stands still is tried again by itself.
    #[serde(default)]
    pub next_try: Option<Timestamp>,
    /// Why it failed.
    #[serde(default)]
    pub problem: Option<Problem>,
    /// Why it stands still.
    #[serde(default)]
    pub stuck: Option<Problem>,
}

/// How a move stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MoveReport {
    /// What the ledger has of it.
    #[serde(flatten)]
    pub record: MoveRecord,
    /// Whether the source runs, as it is now; none: it is not asked, or does not answer.
    #[serde(default)]
    pub source: Option<Power>,
}

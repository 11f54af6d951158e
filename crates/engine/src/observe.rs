//! How the engine tells what it does while it does it. It never prints; whoever asked renders this.

use model::{PointId, RunId, ServerName};
use serde::{Deserialize, Serialize};

use crate::Problem;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum Event {
    /// A run begins or goes on.
    RunStarted {
        /// Which.
        run: RunId,
        /// Of which server.
        server: ServerName,
        /// `replicate`, `import`, `restore`, `drill`.
        what: String,
        /// Whether it goes on after an interruption or a failed destination.
        resumed: bool,
    },
    /// A durable step begins.
    StepStarted {
        /// Of which run.
        run: RunId,
        /// Its ledger name: `capture`, `transfer`, `seal-vault:main`, ...
        step: String,
    },
    /// A durable step is done.
    StepFinished {
        /// Of which run.
        run: RunId,
        /// Its ledger name.
        step: String,
        /// How long it took.
        seconds: f64,
    },
    /// A step failed; others may go on.
    StepFailed {
        /// Of which run.
        run: RunId,
        /// Its ledger name.
        step: String,
        /// What went wrong.
        problem: Problem,
    },
    /// Bytes moved.
    Progress {
        /// Of which run; none for verification and the like.
        run: Option<RunId>,
        /// What moves: `disk vda`, `verify vault:main`.
        what: String,
        /// Bytes done.
        done: u64,
        /// Bytes in all, as far as known; 0 if unknown.
        total: u64,
    },
    /// A drill reached a rung of its ladder.
    Rung {
        /// Of which run.
        run: RunId,
        /// `firmware`, `kernel`, `root`, `ready`, or a probe.
        rung: String,
        /// Seconds since launch.
        seconds: f64,
    },
    /// A restore fell over from one replica to another.
    FellOver {
        /// Which point.
        point: PointId,
        /// From where.
        from: String,
        /// Why.
        problem: Problem,
    },
    /// Something a person should know.
    Warning {
        /// Of which run, if one.
        run: Option<RunId>,
        /// What.
        message: String,
    },
    /// A run ended.
    RunFinished {
        /// Which.
        run: RunId,
        /// How: `done`, `partly-done`, `failed`.
        outcome: crate::RunOutcome,
        /// How long this execution took.
        seconds: f64,
    },
}

/// Whoever wants to know. Called from many tasks; must not block.
pub trait Observer: Send + Sync {
    /// Something happened.
    fn event(&self, event: &Event);
}

/// Looks away.
#[derive(Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _event: &Event) {}
}

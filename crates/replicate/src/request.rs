//! What a command asks of the ledger and the engine, and what it gets: plain data, executed in one place, here or in
//! the daemon. The person at the terminal sees no difference.

use engine::{
    AdoptReport, CompactRequest, CompactedReport, DrillReport, DrillRequest, Engine, ImportRequest, MoveEnd,
    MoveReport, MoveRequest, PlanReport, PointReport, Problem, PruneReport, PruneRequest, RestoreReport,
    RestoreRequest, RunOutcome, RunReport, RunRequest, RunsReport, ServerReport, StatusReport, SweepReport,
    VerifyReport, VerifyRequest,
};
use model::{PolicyName, Result, ServerName, SiteName};
use serde::{Deserialize, Serialize};

use crate::exit;

/// What can be asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "request", content = "with")]
pub enum Request {
    /// All servers.
    Servers {
        /// Only at this site.
        site: Option<SiteName>,
    },
    /// What runs would do.
    Plan {
        /// Only this policy.
        policy: Option<PolicyName>,
    },
    /// Runs of one policy.
    Run(RunRequest),
    /// Everything that is due.
    RunDue,
    /// Disk images become a point.
    Import(ImportRequest),
    /// How every server stands.
    Status,
    /// Restore points.
    Points {
        /// Only of this server.
        server: Option<ServerName>,
    },
    /// A restore.
    Restore(RestoreRequest),
    /// A drill.
    Drill(DrillRequest),
    /// A move.
    Move(MoveRequest),
    /// All moves.
    Moves,
    /// A move is confirmed or taken back.
    EndMove {
        /// Of which server.
        server: ServerName,
        /// How.
        end: MoveEnd,
    },
    /// A scrub.
    Verify(VerifyRequest),
    /// Retention.
    Prune(PruneRequest),
    /// What points need of bad packs into good ones.
    Compact(CompactRequest),
    /// Leftovers.
    Sweep,
    /// The ledger from what there is.
    Adopt,
}

/// What is answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "response", content = "report")]
pub enum Response {
    /// Servers, and the sites that could not be asked.
    Servers(Vec<ServerReport>, Vec<Problem>),
    /// A plan.
    Plan(PlanReport),
    /// Runs.
    Runs(RunsReport),
    /// An import.
    Import(RunReport),
    /// How every server stands.
    Status(StatusReport),
    /// Points.
    Points(Vec<PointReport>),
    /// A restore.
    Restore(RestoreReport),
    /// A drill.
    Drill(Box<DrillReport>),
    /// A move.
    Move(Box<MoveReport>),
    /// All moves.
    Moves(Vec<MoveReport>),
    /// A scrub.
    Verify(VerifyReport),
    /// Retention.
    Prune(PruneReport),
    /// What was moved.
    Compact(CompactedReport),
    /// Leftovers.
    Sweep(SweepReport),
    /// The ledger from what there is.
    Adopt(AdoptReport),
}

impl Request {
    /// Whether it can take long and show progress.
    pub fn is_long(&self) -> bool {
        !matches!(self, Self::Servers { .. } | Self::Plan { .. } | Self::Status | Self::Points { .. } | Self::Moves)
    }

    /// Whether an event of another request's run is none of this one's business: `what` as in
    /// [`engine::Event::RunStarted`].
    pub fn starts(&self, what: &str, server: &ServerName) -> bool {
        match self {
            Self::Run(run) => what == "replicate" && run.server.as_ref().is_none_or(|wanted| wanted == server),
            Self::RunDue => what == "replicate",
            Self::Import(import) => what == "import" && import.server == *server,
            Self::Restore(restore) => what == "restore" && restore.choice.server == *server,
            Self::Drill(drill) => what == "drill" && drill.choice.server == *server,
            Self::Move(moved) => matches!(what, "move" | "replicate" | "restore") && moved.server == *server,
            Self::EndMove { server: moved, .. } => what == "move" && moved == server,
            _ => false,
        }
    }

    /// The exit code of an error in this request.
    pub fn exit_code(&self, kind: model::Kind) -> u8 {
        use model::Kind;
        match (kind, self) {
            (Kind::NotFound, Self::Restore(_) | Self::Drill(_)) => exit::NO_POINT,
            (Kind::Exists, Self::Run(_) | Self::RunDue | Self::Drill(_) | Self::EndMove { .. }) => {
                exit::ALREADY_RUNNING
            }
            (Kind::NotFound, _) => exit::FAILED,
            _ => exit::of_kind(kind),
        }
    }
}

impl Response {
    /// The exit code that the answer deserves.
    pub fn exit_code(&self) -> u8 {
        let of = |fine: bool| if fine { exit::DONE } else { exit::FAILED };
        let part = |problems: &[Problem]| if problems.is_empty() { exit::DONE } else { exit::PARTLY_DONE };
        let outcome = |outcome: RunOutcome| match outcome {
            RunOutcome::Done => exit::DONE,
            RunOutcome::PartlyDone => exit::PARTLY_DONE,
            RunOutcome::Failed => exit::FAILED,
            RunOutcome::AlreadyRunning => exit::ALREADY_RUNNING,
        };
        match self {
            Self::Servers(_, problems) => part(problems),
            Self::Plan(plan) => part(&plan.problems),
            Self::Runs(runs) => outcome(runs.outcome()),
            Self::Import(run) => outcome(run.outcome),
            Self::Status(status) => part(&status.problems),
            Self::Points(_) | Self::Restore(_) | Self::Moves(_) => exit::DONE,
            Self::Drill(drill) => of(drill.passed),
            Self::Move(moved) => of(moved.record.problem.is_none()),
            Self::Verify(report) => of(report.is_good()),
            Self::Prune(report) => part(&report.problems),
            Self::Compact(report) => part(&report.problems),
            Self::Sweep(report) => part(&report.problems),
            Self::Adopt(report) => part(&report.problems),
        }
    }
}

/// Does what is asked. The engine tells its observer what happens meanwhile.
pub async fn execute(engine: &Engine, request: &Request) -> Result<Response> {
    Ok(match request {
        Request::Servers { site } => {
            let (servers, problems) = engine.servers(site.as_ref()).await?;
            Response::Servers(servers, problems)
        }
        Request::Plan { policy } => Response::Plan(engine.plan(policy.as_ref()).await?),
        Request::Run(run) => Response::Runs(engine.run(run).await?),
        Request::RunDue => Response::Runs(engine.run_due().await?),
        Request::Import(import) => Response::Import(engine.import(import).await?),
        Request::Status => Response::Status(engine.status().await?),
        Request::Points { server } => Response::Points(engine.points(server.as_ref()).await?),
        Request::Restore(restore) => Response::Restore(engine.restore(restore).await?),
        Request::Drill(drill) => Response::Drill(Box::new(engine.drill(drill).await?)),
        Request::Move(moved) => Response::Move(Box::new(engine.migrate(moved).await?)),
        Request::Moves => Response::Moves(engine.moves().await?),
        Request::EndMove { server, end } => Response::Move(Box::new(engine.end_move(server, *end).await?)),
        Request::Verify(verify) => Response::Verify(engine.verify(verify).await?),
        Request::Prune(prune) => Response::Prune(engine.prune(prune).await?),
        Request::Compact(compact) => Response::Compact(engine.compact(compact).await?),
        Request::Sweep => Response::Sweep(engine.sweep().await?),
        Request::Adopt => Response::Adopt(engine.adopt().await?),
    })
}

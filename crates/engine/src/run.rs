//! Executes runs: begins, goes on, parks, gives up. Which point a destination lacks is never forgotten: a run stays open until every
//! destination has it or was given up.

use std::collections::BTreeMap;

use cloud::{Capture, Server};
use futures::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use model::{Error, Kind, Place, Policy, PolicyName, RestorePoint, Result, ServerName, Via};

use crate::engine::busy_name;
use crate::ledger::{self, Tree};
use crate::observe::Event;
use crate::records::{DestinationRecord, RunKind, RunRecord, RunState, policy_key};
use crate::steps::capture::{self, Pinned};
use crate::steps::{Context, Origin, retire};
use crate::{DestinationReport, DestinationState, Engine, Problem, RunOutcome, RunReport, RunRequest, RunsReport};

impl Engine {
    /// One run now for each server of the policy: goes on with a server's open run, or begins a new one. Servers are worked on side
    /// by side; one that fails does not stop the others.
    pub async fn run(&self, request: &RunRequest) -> Result<RunsReport> {
        let policy = self.policy(&request.policy)?;
        let servers = self.covered(&policy, request.server.as_ref()).await?;
        let servers = self.unmoved_or_told(&policy, servers, request.server.as_ref()).await?;
        self.recall().await?;
        let runs = stream::iter(servers)
            .map(|server| self.run_server(&policy, server.name))
            .buffer_unordered(self.settings.parallel.max(1))
            .collect::<Vec<Result<RunReport>>>()
            .await;
        Ok(RunsReport { runs: runs.into_iter().collect::<Result<_>>()? })
    }

    /// Goes on with every open move and run that nobody executes: finishes what can be finished. Restores and drills that died are
    /// cleaned up instead: they have nobody who waits for them.
    pub async fn resume(&self) -> Result<RunsReport> {
        self.recall().await?;
        self.resume_moves(false).await?;
        let (mut report, moving) = (RunsReport::default(), self.moving().await?);
        for run in self.runs().await? {
            if run.state == RunState::Closed || self.is_active(&run.id) || moving.contains(&run.id) {
                continue;
            }
            match run.kind {
                RunKind::Replicate | RunKind::Import => report.runs.push(self.go_on(run).await?),
                RunKind::Restore | RunKind::Drill => drop(self.clean_up(run).await?),
            }
        }
        Ok(report)
    }

    /// Servers that the policy covers now.
    pub(crate) async fn covered(&self, policy: &Policy, only: Option<&ServerName>) -> Result<Vec<Server>> {
        let site = self.site(&policy.select.site)?;
        let source = site.source().ok_or_else(|| {
            Error::new(Kind::Invalid, format!("cannot run policy {}", policy.name)).because(format!(
                "site {} is no source: its provider is {}",
                policy.select.site,
                site.kind()
            ))
        })?;
        let mut servers = source.servers().await?;
        servers.retain(|s| policy.select.covers(&s.name, &s.machine.tags) && only.is_none_or(|name| *name == s.name));
        if servers.is_empty() {
            let what = match only {
                Some(server) => format!("policy {} does not cover server {server}", policy.name),
                None => format!("policy {} covers no server of site {}", policy.name, policy.select.site),
            };
            return Err(Error::new(Kind::Invalid, what).hint("see `replicate servers`"));
        }
        Ok(servers)
    }

    pub(crate) async fn run_server(&self, policy: &Policy, server: ServerName) -> Result<RunReport> {
        let Ok(_busy) = self.occupy(busy_name(&policy.name, &server)) else {
            return self.already_running(policy, server).await;
        };
        let open = self.open_run(&policy.name, &server).await?;
        if let Some(run) = open {
            let report = self.execute(run).await?;
            if !self.was_lost(&report).await? {
                return Ok(report);
            }
        }
        self.execute(self.begin(policy, server)).await
    }

    pub(crate) async fn go_on(&self, run: RunRecord) -> Result<RunReport> {
        let name = run.policy.as_ref().map(|policy| busy_name(policy, &run.server));
        let Ok(_busy) = self.occupy(name.unwrap_or_else(|| format!("import {}", run.id))) else {
            let mut report = report(&run, 0.0, true);
            report.outcome = RunOutcome::AlreadyRunning;
            return Ok(report);
        };
        self.execute(run).await
    }

    pub(crate) fn begin(&self, policy: &Policy, server: ServerName) -> RunRecord {
        RunRecord {
            id: self.fresh_run(),
            kind: RunKind::Replicate,
            policy: Some(policy.name.clone()),
            with: Some(policy.clone()),
            server,
            site: Some(policy.select.site.clone()),
            state: RunState::Open,
            started_at: self.now(),
            finished_at: None,
            attempts: 0,
            outcome: None,
            destinations: policy.replicate.iter().map(|d| DestinationRecord::new(d.place.clone())).collect(),
            lost: false,
            point: None,
            problem: None,
            warnings: Vec::new(),
            next_try: None,
        }
    }

    pub(crate) async fn open_run(&self, policy: &PolicyName, server: &ServerName) -> Result<Option<RunRecord>> {
        let fits = |run: &RunRecord| {
            run.state == RunState::Open
                && run.kind == RunKind::Replicate
                && run.policy.as_ref() == Some(policy)
                && run.server == *server
        };
        Ok(self.runs().await?.into_iter().find(fits))
    }

    pub(crate) async fn already_running(&self, policy: &Policy, server: ServerName) -> Result<RunReport> {
        let open = self.open_run(&policy.name, &server).await?;
        let run = open.unwrap_or_else(|| self.begin(policy, server));
        let mut report = report(&run, 0.0, false);
        report.outcome = RunOutcome::AlreadyRunning;
        Ok(report)
    }

    /// Gives up what the open run of a server still waits for; what it committed stays. The caller has occupied the server.
    pub(crate) async fn abandon(&self, policy: &PolicyName, server: &ServerName) -> Result<()> {
        let Some(run) = self.open_run(policy, server).await? else { return Ok(()) };
        let mut context = self.context(run).await?;
        self.give_up(&mut context).await
    }

    /// An older point that some destination still lacks comes first; if it cannot be finished now, the newer point matters more. The caller
    /// has occupied the server.
    pub(crate) async fn finish_older(&self, policy: &Policy, server: &ServerName) -> Result<()> {
        if let Some(run) = self.open_run(&policy.name, server).await?
            && self.execute(run).await?.outcome != RunOutcome::Done
        {
            self.abandon(&policy.name, server).await?;
        }
        Ok(())
    }

    pub(crate) async fn was_lost(&self, report: &RunReport) -> Result<bool> {
        let run: Option<RunRecord> = ledger::get(&*self.ledger, Tree::Runs, report.run.as_str()).await?;
        Ok(run.is_some_and(|run| run.lost))
    }

    /// Executes a run as far as it goes. An error is trouble with the ledger; everything else is in the report.
    pub(crate) async fn execute(&self, mut run: RunRecord) -> Result<RunReport> {
        let began = std::time::Instant::now();
        let turn = self.turn(&run);
        let _turn = turn.lock().await;
        let _active = self.activate(&run.id);
        run.attempts += 1;
        run.problem = None;
        run.next_try = None;
        let resumed = run.attempts > 1;
        self.save_run(&run).await?;
        let what = run.kind.name().to_owned();
        self.tell(Event::RunStarted { run: run.id.clone(), server: run.server.clone(), what, resumed });
        let mut context = match self.context(run.clone()).await {
            Ok(context) => context,
            // its site is not configured any more, say: told, and tried again when it is
            Err(error) => {
                run.problem = Some(Problem::from(&error));
                self.park(&mut run).await?;
                return Ok(report(&run, began.elapsed().as_secs_f64(), resumed));
            }
        };
        self.advance(&mut context).await?;
        let seconds = began.elapsed().as_secs_f64();
        let report = report(&context.run, seconds, resumed);
        self.tell(Event::RunFinished { run: context.run.id.clone(), outcome: report.outcome, seconds });
        Ok(report)
    }

    async fn context(&self, run: RunRecord) -> Result<Context<'_>> {
        let cursor = match &run.policy {
            Some(policy) => ledger::get(&*self.ledger, Tree::Cursors, &policy_key(policy, &run.server)).await?,
            None => None,
        };
        let origin = match (&run.site, run.kind) {
            (Some(site), RunKind::Replicate) => Origin::Site(self.site(site)?.clone()),
            _ => Origin::Files(crate::import::request_of(self, &run).await?),
        };
        Ok(Context { engine: self, run, origin, cursor })
    }

    /// Capture, destinations, retire.
    async fn advance(&self, context: &mut Context<'_>) -> Result<()> {
        let pinned = match capture::run(context).await {
            Ok(pinned) => pinned,
            Err(error) => return self.not_captured(context, &error).await,
        };
        let capture = match pinned {
            Pinned::Held(capture) => capture,
            Pinned::Lost(error) => return self.lost(context, &error).await,
        };
        context.run.warnings.clone_from(&capture.warnings);
        for message in &capture.warnings {
            self.tell(Event::Warning { run: Some(context.run.id.clone()), message: message.clone() });
        }
        crate::destinations::run(context, &capture).await?;
        self.settle(context, &capture).await
    }

    /// After the destinations: closes the run if nothing is left to do, parks it otherwise.
    async fn settle(&self, context: &mut Context<'_>, capture: &Capture) -> Result<()> {
        let waiting = context
            .run
            .destinations
            .iter()
            .any(|d| !matches!(d.state, DestinationState::Done | DestinationState::GivenUp));
        context.run.outcome = Some(retire::outcome(&context.run));
        if waiting && context.run.attempts < self.settings.max_attempts {
            return self.park(&mut context.run).await;
        }
        let keep_base = context.run.outcome != Some(RunOutcome::Failed);
        self.save_run(&context.run).await?;
        if let Err(error) = retire::run(context, Some(capture), keep_base).await {
            // the point is safe; the source still holds what the next execution releases
            context.run.state = RunState::Open;
            context.run.problem = Some(Problem::from(&error));
            self.save_run(&context.run).await?;
        }
        self.sweep_run(&context.run).await;
        Ok(())
    }

    /// Leaves a run open to be tried again: after a wait that doubles each time, so that a place that is down for a minute and one that is down
    /// for an hour are both met.
    async fn park(&self, run: &mut RunRecord) -> Result<()> {
        run.next_try = self.next_try(run.attempts);
        self.save_run(run).await
    }

    /// When something is tried again after so many attempts.
    pub(crate) fn next_try(&self, attempts: u32) -> Option<Timestamp> {
        let doubled = self.settings.retry_first.saturating_mul(1 << attempts.saturating_sub(1).min(16));
        let wait = SignedDuration::try_from(doubled.min(self.settings.retry_longest)).unwrap_or(SignedDuration::MAX);
        self.now().checked_add(wait).ok()
    }

    /// No capture: try again later if that may help, with the same token; else the run is over.
    async fn not_captured(&self, context: &mut Context<'_>, error: &Error) -> Result<()> {
        context.run.problem = Some(Problem::from(error));
        context.run.outcome = Some(RunOutcome::Failed);
        self.tell(Event::StepFailed {
            run: context.run.id.clone(),
            step: capture::NAME.to_owned(),
            problem: Problem::from(error),
        });
        let again = error.kind().is_retryable() && context.run.attempts < self.settings.max_attempts;
        if again {
            return self.park(&mut context.run).await;
        }
        self.give_up(context).await
    }

    /// The capture is gone: what is committed stays, what waits is given up, and a new run can begin.
    async fn lost(&self, context: &mut Context<'_>, error: &Error) -> Result<()> {
        context.run.problem = Some(Problem::from(error));
        context.run.lost = true;
        self.tell(Event::Warning { run: Some(context.run.id.clone()), message: error.chain() });
        self.give_up(context).await
    }

    async fn give_up(&self, context: &mut Context<'_>) -> Result<()> {
        let capture: Option<Capture> = self.step_done(&context.run.id, capture::NAME).await?;
        // a lost capture's cursor may be lost too; that of one that held to the end is the base of the committed point
        let keep_base = !context.run.lost && retire::outcome(&context.run) != RunOutcome::Failed;
        if let Err(error) = retire::run(context, capture.as_ref(), keep_base).await {
            // the sweep releases what is left of it
            tracing::warn!(run = %context.run.id, error = %error.chain(), "cannot release the capture");
            let mut batch = ledger::Batch::new();
            retire::close(context, &mut batch).await?;
            self.ledger.commit(batch).await?;
        }
        self.sweep_run(&context.run).await;
        Ok(())
    }
}

/// The point that a run makes, from its capture and the roots that its destinations computed.
pub(crate) fn point(context: &Context<'_>, capture: &Capture, disks: Vec<model::PointDisk>) -> RestorePoint {
    RestorePoint {
        id: context.run.id.point(),
        server: context.run.server.clone(),
        site: context.run.site.clone(),
        policy: context.run.policy.clone(),
        owner: Some(context.engine.owner.clone()),
        taken_at: capture.taken_at,
        consistency: capture.consistency,
        machine: capture.machine.clone(),
        disks,
        program: context.engine.settings.program.clone(),
    }
}

/// A run as its report.
pub(crate) fn report(run: &RunRecord, seconds: f64, resumed: bool) -> RunReport {
    let destinations = run.destinations.iter().map(|d| DestinationReport {
        place: d.place.clone(),
        state: d.state,
        parent: d.parent.clone(),
        incremental: d.incremental,
        received_bytes: d.received_bytes,
        fresh_bytes: d.fresh_bytes,
        stored_bytes: d.stored_bytes,
        via: if d.via == Via::Relay { Via::Relay } else { Via::Blocks },
        from: d.from.clone(),
        relayed_bytes: d.relayed_bytes,
        seconds: d.seconds,
        problem: d.problem.clone(),
    });
    RunReport {
        run: run.id.clone(),
        policy: run.policy.clone(),
        server: run.server.clone(),
        point: run.point.as_ref().map(|point| point.id.clone()),
        taken_at: run.point.as_ref().map(|point| point.taken_at),
        outcome: run.outcome.unwrap_or(RunOutcome::Failed),
        resumed,
        consistency: run.point.as_ref().map(|point| point.consistency),
        warnings: run.warnings.clone(),
        disk_bytes: run.point.as_ref().map_or(0, |point| point.disks.iter().map(|d| d.size).sum()),
        destinations: destinations.collect(),
        seconds,
        problem: run.problem.clone(),
    }
}

/// Destinations by place, for those who update them.
pub(crate) fn by_place(run: &mut RunRecord) -> BTreeMap<Place, &mut DestinationRecord> {
    run.destinations.iter_mut().map(|d| (d.place.clone(), d)).collect()
}

//! A move is a run and a restore with a power switch between them: the source is stopped, an ordinary run captures it a last time, an
//! ordinary restore launches that very point elsewhere, and the source stays off, marked, until a person confirms or goes back.
//!
//! The record is in the ledger before the source is stopped, and each stage before it acts. Until the new server is launched any failure
//! starts the source again; a crash goes on where it was. Once the launch has begun, a crash only ever goes forward: the new server
//! may have been used. The two never run at once: the source is seen to be off before each stage, and is started only after whatever was
//! launched is seen to be gone.

mod back;
mod forward;
mod mark;
mod record;

use std::time::Instant;

use cloud::{Power, Source, Switch};
use model::{Error, Kind, Place, Policy, Result, RunId, ServerName};

use crate::engine::busy_name;
use crate::ledger::{self, Batch, Tree};
use crate::records::RunRecord;
use crate::{Engine, Event, Problem, RunOutcome};

pub use record::{MoveEnd, MoveRecord, MoveReport, MoveRequest, MoveStage};

/// Why a stage did not do its work.
enum Halt {
    /// The source is started again.
    Back(Error),
    /// Nothing is undone: it is tried again, or a person decides.
    Stay(Error),
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Halt::Back(error)
    }
}

type Stage = std::result::Result<(), Halt>;

impl Engine {
    /// Moves a server, or goes on with its open move. Nothing is stopped unless a run has just brought a point of it to a destination.
    pub async fn migrate(&self, request: &MoveRequest) -> Result<MoveReport> {
        self.recall().await?;
        let server = &request.server;
        let _moving = self.occupy(move_name(server))?;
        if let Some(open) = self.open_move(server).await? {
            return match open.request == *request {
                true => self.go_on_moving(open).await,
                false => Err(other_move(&open)),
            };
        }
        let (policy, power) = self.movable(request).await?;
        let _busy = self.occupy(busy_name(&policy.name, server))?;
        if power == Power::On {
            // afterwards the last capture has little to move, and whatever keeps points from their destinations is known
            self.finish_older(&policy, server).await?;
            forward::usable(&self.execute(self.begin(&policy, server.clone())).await?)?;
        }
        let record = MoveRecord {
            id: self.fresh_run(),
            request: request.clone(),
            site: policy.select.site.clone(),
            policy: policy.name.clone(),
            was_on: power == Power::On,
            stage: MoveStage::Stopping,
            started_at: self.now(),
            stopped_at: None,
            launched_at: None,
            finished_at: None,
            run: None,
            point: None,
            restore: None,
            instance: None,
            rungs: Vec::new(),
            back: None,
            attempts: 0,
            next_try: None,
            problem: None,
            stuck: None,
        };
        self.save_move(&record).await?;
        self.drive(record).await
    }

    /// What a person decides: the new server stays, or the old one comes back.
    pub async fn end_move(&self, server: &ServerName, end: MoveEnd) -> Result<MoveReport> {
        let _moving = self.occupy(move_name(server))?;
        let mut record = self.open_move(server).await?.ok_or_else(|| {
            Error::new(Kind::NotFound, format!("no move of server {server} is open"))
                .hint("see all moves with `replicate migrate status`")
        })?;
        if end == MoveEnd::Confirm {
            return self.confirm(record).await;
        }
        if end == MoveEnd::Keep && self.site(&record.request.to)?.switch().is_none() {
            let what = format!("cannot stop server {} at site {}", record.request.new_name(), record.request.to);
            return Err(Error::new(Kind::Invalid, what)
                .because("the site switches no servers")
                .hint("stop and delete it by going back with `--destroy`"));
        }
        (record.stage, record.back) = (MoveStage::RollingBack, Some(end));
        self.save_move(&record).await?;
        self.drive(record).await
    }

    async fn confirm(&self, mut record: MoveRecord) -> Result<MoveReport> {
        if record.stage != MoveStage::Moved {
            let what = format!("cannot confirm the move of server {}", record.request.server);
            return Err(Error::new(Kind::Invalid, what)
                .because(format!("it stands at `{}`", record.stage.name()))
                .hint(ways_on(&record)));
        }
        (record.stage, record.finished_at) = (MoveStage::Confirmed, Some(self.now()));
        self.save_move(&record).await?;
        Ok(self.move_report(record).await)
    }

    /// All moves, the newest first.
    pub async fn moves(&self) -> Result<Vec<MoveReport>> {
        let mut reports = Vec::new();
        for record in self.move_records().await?.into_iter().rev() {
            reports.push(self.move_report(record).await);
        }
        Ok(reports)
    }

    /// Goes on with moves that nobody works on: all that a dead process left, or those whose next try has come.
    pub(crate) async fn resume_moves(&self, due: bool) -> Result<()> {
        for record in self.move_records().await? {
            let wanted = !due || record.next_try.is_some_and(|at| at <= self.now());
            if !record.stage.is_at_work() || !wanted {
                continue;
            }
            let Ok(_moving) = self.occupy(move_name(&record.request.server)) else { continue };
            // it may have ended since it was listed
            let Some(now) = self.open_move(&record.request.server).await?.filter(|now| now.id == record.id) else {
                continue;
            };
            if let Err(error) = self.go_on_moving(now).await {
                self.tell(Event::Warning { run: Some(record.id), message: error.chain() });
            }
        }
        Ok(())
    }

    async fn go_on_moving(&self, record: MoveRecord) -> Result<MoveReport> {
        let _busy = match record.stage.is_at_work() {
            true => Some(self.occupy(busy_name(&record.policy, &record.request.server))?),
            false => None,
        };
        self.drive(record).await
    }

    /// Works through the stages until a person has to decide, or the move has ended. The caller has occupied the server.
    async fn drive(&self, mut record: MoveRecord) -> Result<MoveReport> {
        if !record.stage.is_at_work() {
            return Ok(self.move_report(record).await);
        }
        let (began, resumed) = (Instant::now(), record.attempts > 0);
        record.attempts += 1;
        (record.next_try, record.stuck) = (None, None);
        let (run, server, before) = (record.id.clone(), record.request.server.clone(), record.restore.clone());
        self.tell(Event::RunStarted { run: run.clone(), server, what: "move".to_owned(), resumed });
        while record.stage.is_at_work() {
            let (step, since) = (record.stage.name().to_owned(), Instant::now());
            self.tell(Event::StepStarted { run: run.clone(), step: step.clone() });
            let done = match record.stage {
                MoveStage::Stopping => self.stop_source(&mut record).await,
                MoveStage::Capturing => self.last_capture(&mut record).await,
                MoveStage::Launching => self.launch_there(&mut record).await,
                MoveStage::Watching => self.watch_there(&mut record, before.as_ref()).await,
                _ => self.roll_back(&mut record).await,
            };
            match done {
                Ok(()) => {
                    let seconds = since.elapsed().as_secs_f64();
                    self.tell(Event::StepFinished { run: run.clone(), step, seconds });
                }
                Err(halt) => self.halted(&mut record, halt).await?,
            }
        }
        let failed = record.problem.clone().filter(|_| record.stage == MoveStage::RolledBack);
        let outcome = if failed.is_some() { RunOutcome::Failed } else { RunOutcome::Done };
        self.tell(Event::RunFinished { run, outcome, seconds: began.elapsed().as_secs_f64() });
        match failed {
            Some(problem) => Err(went_back(&record, problem.into())),
            None => Ok(self.move_report(record).await),
        }
    }

    /// Turns back, or leaves the move as it stands and says so.
    async fn halted(&self, record: &mut MoveRecord, halt: Halt) -> Result<()> {
        let (error, back) = match halt {
            Halt::Back(error) => (error, true),
            Halt::Stay(error) => (error, false),
        };
        let (run, step) = (record.id.clone(), record.stage.name().to_owned());
        self.tell(Event::StepFailed { run, step, problem: Problem::from(&error) });
        let left_off = record.request.stay_off && record.stage != MoveStage::Stopping;
        if back && !left_off && record.stage != MoveStage::RollingBack {
            (record.stage, record.problem) = (MoveStage::RollingBack, Some(Problem::from(&error)));
            return self.save_move(record).await;
        }
        record.stuck = Some(Problem::from(&error));
        record.next_try = self.next_try(record.attempts);
        self.save_move(record).await?;
        let what = format!("the move of server {} stands at `{}`", record.request.server, record.stage.name());
        Err(error.within(what).hint(ways_on(record)))
    }

    async fn move_report(&self, record: MoveRecord) -> MoveReport {
        let source = match (record.stage.is_open(), self.source_of(&record)) {
            (true, Ok(source)) => source.describe(&record.request.server).await.ok().map(|server| server.power),
            _ => None,
        };
        MoveReport { record, source }
    }

    /// Whether the server can be moved, by which policy, and whether it runs. Changes nothing.
    async fn movable(&self, request: &MoveRequest) -> Result<(Policy, Power)> {
        let server = &request.server;
        let operation = || format!("cannot move server {server} to site {}", request.to);
        self.target(&request.to)?;
        let policies = match &request.policy {
            Some(name) => vec![self.policy(name)?],
            None => self.policies().to_vec(),
        };
        let (mut found, mut trouble) = (Vec::new(), None);
        for policy in policies.into_iter().filter(|policy| policy.select.site != request.to) {
            let Some(source) = self.site(&policy.select.site)?.source() else { continue };
            match source.describe(server).await {
                Ok(there) if policy.select.covers(server, &there.machine.tags) => found.push((policy, there.power)),
                Ok(_) => {}
                Err(error) if error.kind() == Kind::NotFound => {}
                Err(error) => trouble = Some(error),
            }
        }
        let there = Place::Site(request.to.clone());
        found.sort_by_key(|(policy, _)| policy.replicate.iter().all(|destination| destination.place != there));
        let Some((policy, power)) = found.first().cloned() else {
            return Err(trouble.map(|error| error.within(operation())).unwrap_or_else(|| {
                Error::new(Kind::Invalid, operation())
                    .because("no policy of another site covers it")
                    .hint("see `replicate servers`; policies/migrate.toml is a sample")
            }));
        };
        if found.iter().any(|(other, _)| other.select.site != policy.select.site) {
            return Err(Error::new(Kind::Invalid, operation())
                .because("several sites have a server of that name")
                .hint("say which one is meant with `--policy`"));
        }
        let site = self.site(&policy.select.site)?;
        if site.switch().is_none() {
            return Err(Error::new(Kind::Invalid, operation())
                .because(format!("a {} site cannot switch its servers off", site.kind()))
                .hint("stop it yourself, run its policy, and restore it without `--final`"));
        }
        match self.is_there(request).await.map_err(|error| error.within(operation()))? {
            true => Err(Error::new(Kind::Exists, operation())
                .because(format!("site {} has a server {} already", request.to, request.new_name()))
                .hint("give it another name with `--name`")),
            false => Ok((policy, power)),
        }
    }

    /// Whether the new site has a server of the new one's name. One that lists no servers cannot tell.
    async fn is_there(&self, request: &MoveRequest) -> Result<bool> {
        let Some(source) = self.site(&request.to)?.source() else { return Ok(false) };
        match source.describe(request.new_name()).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == Kind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn source_of(&self, record: &MoveRecord) -> Result<&dyn Source> {
        let site = self.site(&record.site)?;
        site.source().ok_or_else(|| Error::new(Kind::Invalid, format!("site {} is no source", record.site)))
    }

    fn switch_of(&self, record: &MoveRecord) -> Result<&dyn Switch> {
        let site = self.site(&record.site)?;
        site.switch().ok_or_else(|| Error::new(Kind::Invalid, format!("site {} switches no servers", record.site)))
    }

    async fn save_move(&self, record: &MoveRecord) -> Result<()> {
        let mut batch = Batch::new();
        batch.put(Tree::Moves, record.id.as_str(), record)?;
        self.ledger.commit(batch).await
    }

    async fn run_record(&self, run: &RunId) -> Result<Option<RunRecord>> {
        ledger::get(&*self.ledger, Tree::Runs, run.as_str()).await
    }
}

/// The name under which a server is occupied while it is moved.
fn move_name(server: &ServerName) -> String {
    format!("the move of server {server}")
}

fn other_move(open: &MoveRecord) -> Error {
    let (server, to) = (&open.request.server, &open.request.to);
    Error::new(Kind::Invalid, format!("cannot begin another move of server {server}"))
        .because(format!("its move to site {to} with other options stands at `{}`", open.stage.name()))
        .hint(ways_on(open))
}

/// What a person can do with an open move.
fn ways_on(record: &MoveRecord) -> String {
    let server = &record.request.server;
    match record.stage {
        MoveStage::Moved => {
            format!("`replicate migrate confirm {server}`, or go back with `replicate migrate rollback {server}`")
        }
        MoveStage::RollingBack => {
            format!("mend that, then give `replicate migrate rollback {server}` again; the daemon tries by itself")
        }
        _ => format!("give the same command again to go on, or go back with `replicate migrate rollback {server}`"),
    }
}

fn went_back(record: &MoveRecord, error: Error) -> Error {
    let (server, site) = (&record.request.server, &record.site);
    let state = if record.was_on { "it runs again" } else { "it is off, as it was" };
    let hint = error.advice().map(str::to_owned);
    let error =
        error.within(format!("cannot move server {server} to site {}: {state} at site {site}", record.request.to));
    match hint {
        Some(hint) => error.hint(hint),
        None => error.hint("mend that, and give the command again"),
    }
}

//! The stages of a move on its way: stop, capture, launch, watch. Each one may be executed again after a crash.

use std::time::{Duration, Instant};

use cloud::{Power, Stop};
use model::{Error, ImageId, InstanceId, Kind, PointId, Result, RunId, crash};

use super::{Halt, MoveRecord, MoveStage, Stage};
use crate::ladder::Watch;
use crate::ledger::{Batch, Tree};
use crate::records::{RunRecord, RunState};
use crate::relayed::STEP as RELAYED;
use crate::restore::{IMAGE, LAUNCH};
use crate::run::report;
use crate::{Choice, DestinationState, Engine, Problem, RestoreRequest, RestoreTo, RunOutcome, RunReport};

/// How long a new server is watched if its policy does not say.
const WATCH: Duration = Duration::from_secs(600);

impl Engine {
    pub(super) async fn stop_source(&self, record: &mut MoveRecord) -> Stage {
        let stop = Stop { limit: record.request.stop_limit, force: record.request.force };
        crash::point("move.stop.before");
        self.switch_of(record)?.stop(&record.request.server, stop).await?;
        crash::point("move.stop.after");
        self.source_is_off(record).await?;
        (record.stage, record.stopped_at) = (MoveStage::Capturing, Some(self.now()));
        Ok(self.save_move(record).await?)
    }

    /// Nobody has started it meanwhile: what is captured is the last of it, and it does not run beside the new one.
    async fn source_is_off(&self, record: &MoveRecord) -> Result<()> {
        let server = &record.request.server;
        match self.source_of(record)?.describe(server).await?.power {
            Power::Off => Ok(()),
            Power::On => Err(Error::new(Kind::Permanent, format!("server {server} is not off"))
                .because(format!("somebody has started it at site {} meanwhile", record.site))),
        }
    }

    pub(super) async fn last_capture(&self, record: &mut MoveRecord) -> Stage {
        // a capture of an earlier execution may be lost by now; another one shows the same bytes
        for _ in 0..2 {
            self.source_is_off(record).await?;
            let run = self.last_run(record).await?;
            let report = match run.state {
                RunState::Open => self.execute(run).await?,
                RunState::Closed => report(&run, 0.0, true),
            };
            let lost = self.was_lost(&report).await?;
            match usable(&report) {
                Ok(point) => {
                    (record.point, record.stage) = (Some(point), MoveStage::Launching);
                    return Ok(self.save_move(record).await?);
                }
                Err(error) => {
                    record.run = None;
                    if !lost {
                        return Err(error.into());
                    }
                }
            }
        }
        let what = format!("cannot capture server {}", record.request.server);
        Err(Error::new(Kind::Damaged, what).because("its last capture was lost twice").into())
    }

    /// The run of the last capture: that of an earlier execution, or one that begins now.
    async fn last_run(&self, record: &mut MoveRecord) -> Result<RunRecord> {
        if let Some(id) = &record.run
            && let Some(run) = self.run_record(id).await?
        {
            return Ok(run);
        }
        let (policy, server) = (self.policy(&record.policy)?, record.request.server.clone());
        self.finish_older(&policy, &server).await?;
        let run = self.begin(&policy, server);
        record.run = Some(run.id.clone());
        let mut batch = Batch::new();
        batch.put(Tree::Runs, run.id.as_str(), &run)?;
        batch.put(Tree::Moves, record.id.as_str(), record)?;
        self.ledger.commit(batch).await?;
        Ok(run)
    }

    pub(super) async fn launch_there(&self, record: &mut MoveRecord) -> Stage {
        if let Some(id) = &record.restore
            && let Some(run) = self.run_record(id).await.map_err(Halt::Stay)?
            && let Some(instance) = self.launched_before(record, run).await?
        {
            return self.has_launched(record, instance).await;
        }
        self.source_is_off(record).await?;
        let run = self.fresh_run();
        record.restore = Some(run.clone());
        self.save_move(record).await?;
        let request = &record.request;
        let name = Some(request.new_name().clone());
        let (server, point) = (request.server.clone(), record.point.clone());
        let restore = RestoreRequest {
            choice: Choice { server, at: None, point, from: None, via: request.via },
            to: RestoreTo::Site { site: request.to.clone(), name, launch: true },
        };
        let restored = self.restore_as(run, &restore).await?;
        let instance = restored
            .instance
            .ok_or_else(|| Error::new(Kind::Permanent, format!("cannot launch server {}", record.request.server)))?;
        self.has_launched(record, instance).await
    }

    async fn has_launched(&self, record: &mut MoveRecord, instance: InstanceId) -> Stage {
        (record.instance, record.launched_at) = (Some(instance), Some(self.now()));
        record.stage = MoveStage::Watching;
        self.save_move(record).await.map_err(Halt::Stay)
    }

    /// What the restore of an earlier execution came to. One that had begun to launch is finished: its server may have been used. Of any
    /// other one nothing is left. A ledger that is older than the restore knows less than there is.
    async fn launched_before(
        &self,
        record: &MoveRecord,
        run: RunRecord,
    ) -> std::result::Result<Option<InstanceId>, Halt> {
        let _active = self.activate(&run.id);
        let open = run.state == RunState::Open;
        let mut instance = self.instance_of(&run).await.map_err(Halt::Stay)?;
        if open && let Some(image) = self.image_to_launch(&run).await.map_err(Halt::Stay)? {
            let made = instance.is_some();
            if !made {
                self.source_is_off(record).await?;
            }
            // the same token: the server that was made, whole, or it is made now
            let started = self.start(&run, &record.request.to, &image, record.request.new_name().clone()).await;
            instance = Some(started.map_err(|error| if made { Halt::Stay(error) } else { Halt::Back(error) })?);
        }
        match (&instance, open) {
            (Some(_), true) => {
                self.sweep_run(&run).await;
                let closed = self.close_short_run(run, RunOutcome::Done, None, Batch::new()).await;
                closed.map_err(Halt::Stay)?;
            }
            (None, true) => drop(self.clean_up(run).await?),
            (None, false) if run.outcome == Some(RunOutcome::Done) => {
                let what = format!("server {} is gone from site {}", record.request.new_name(), record.request.to);
                return Err(Halt::Stay(Error::new(Kind::NotFound, what).because("it was launched there before")));
            }
            _ => {}
        }
        Ok(instance)
    }

    /// The image of a restore that has begun to launch it.
    async fn image_to_launch(&self, run: &RunRecord) -> Result<Option<ImageId>> {
        if !self.step_known(&run.id, LAUNCH).await? {
            return Ok(None);
        }
        match self.step_done(&run.id, IMAGE).await? {
            Some(image) => Ok(Some(image)),
            None => self.step_done(&run.id, RELAYED).await,
        }
    }

    /// Watches the new server come up. `before`: the restore of an earlier execution. If that one has launched it, it may have been used,
    /// whatever it is like now.
    pub(super) async fn watch_there(&self, record: &mut MoveRecord, before: Option<&RunId>) -> Stage {
        let target = self.target(&record.request.to).map_err(Halt::Stay)?;
        let (Some(instance), Some(run)) = (record.instance.clone(), record.restore.clone()) else {
            return Err(Halt::Stay(Error::new(Kind::Permanent, "cannot watch a server that was not launched")));
        };
        let watch = Watch {
            target,
            instance: &instance,
            observer: &*self.observer,
            run: &run,
            launched: Instant::now(),
            limit: self.policy(&record.policy).map_or(WATCH, |policy| policy.drill.limit),
            poll: self.settings.drill_poll,
        };
        let climb = watch.climb().await.map_err(Halt::Stay)?;
        // a console that tells nothing is no sign of death
        let dead = match (climb.is_up(), watch.alive().await) {
            (true, _) => None,
            (false, Ok((_, _, dead))) => dead,
            (false, Err(error)) if error.kind() == Kind::NotFound => Some("the machine is gone".to_owned()),
            (false, Err(error)) => return Err(Halt::Stay(error)),
        };
        record.rungs = climb.rungs;
        if let Some(dead) = dead {
            let what = format!("server {} does not run at site {}", record.request.new_name(), record.request.to);
            let error = Error::new(Kind::Permanent, what).because(dead);
            let came_up = record.rungs.iter().any(|rung| rung.name == "ready" && rung.passed);
            if before != Some(&run) && !came_up {
                return Err(Halt::Back(error));
            }
            record.problem = Some(Problem::from(&error));
        }
        record.stage = MoveStage::Moved;
        self.save_move(record).await.map_err(Halt::Stay)
    }
}

/// The point of a run, if some destination has it and has been verified.
pub(super) fn usable(report: &RunReport) -> Result<PointId> {
    let verified = report.destinations.iter().any(|destination| destination.state == DestinationState::Done);
    if let (Some(point), true) = (&report.point, verified) {
        return Ok(point.clone());
    }
    let operation = format!("no destination has a new point of server {}", report.server);
    let of_places = || report.destinations.iter().find_map(|destination| destination.problem.clone());
    match report.problem.clone().or_else(of_places) {
        Some(problem) => Err(Error::from(problem).within(operation)),
        None => Err(Error::new(Kind::Permanent, operation)),
    }
}

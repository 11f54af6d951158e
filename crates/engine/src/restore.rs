//! Restore: choose a point, try its replicas from the best on, write it somewhere new, compare the roots of what was written. Whatever
//! fails leaves nothing behind, and the source is never touched.

use std::path::PathBuf;
use std::time::Instant;

use cloud::{LaunchOptions, Network, Target};
use model::{
    Error, ImageId, InstanceId, Kind, PointDisk, PointId, ReplicaState, RestorePoint, Result, Role, RunId, ServerName,
    SiteName, Via, crash,
};

use crate::choose::{Restorable, Source};
use crate::ledger::{self, Batch, Tree};
use crate::observe::Event;
use crate::records::{HoldRecord, RunKind, RunRecord, RunState, replica_key};
use crate::steps::{retire, token};
use crate::{Engine, Problem, RestoreReport, RestoreRequest, RestoreTo, RunOutcome, Skipped};

/// Steps of a restore. The prefix marks images that are no replicas.
pub(crate) const IMAGE: &str = "restore-image";
pub(crate) const LAUNCH: &str = "launch";

/// What was made so far.
#[derive(Debug, Default)]
pub(crate) struct Made {
    pub image: Option<ImageId>,
    pub instance: Option<InstanceId>,
    pub files: Vec<PathBuf>,
    pub bytes: u64,
    pub via: Via,
    /// The point whose image it builds on.
    pub since: Option<PointId>,
}

impl Engine {
    /// Restores. [`Kind::NotFound`]: there is no such point.
    pub async fn restore(&self, request: &RestoreRequest) -> Result<RestoreReport> {
        self.restore_as(self.fresh_run(), request).await
    }

    /// Restores as a run of that id, so that whoever asks can note it before anything is made.
    pub(crate) async fn restore_as(&self, id: RunId, request: &RestoreRequest) -> Result<RestoreReport> {
        let began = Instant::now();
        if let RestoreTo::Site { site, .. } = &request.to {
            self.target(site)?;
        }
        let (mut choices, skipped, silent) = self.choose(&request.choice).await?;
        let site = match &request.to {
            RestoreTo::Site { site, .. } => Some(site.clone()),
            RestoreTo::File { .. } => None,
        };
        if let Some(site) = &site {
            self.nearest(&mut choices, &request.choice, site).await?;
        }
        let run = self.open_short_run(id, RunKind::Restore, &request.choice.server, site).await?;
        let _active = self.activate(&run.id);
        for message in silent {
            self.tell(Event::Warning { run: Some(run.id.clone()), message });
        }
        let result = self.restore_best(&run, choices, skipped, &request.to).await;
        let mut report = match result {
            Ok(report) => report,
            Err(error) => return Err(self.restore_failed(run, error).await),
        };
        if let (RestoreTo::Site { site, name, launch: true }, Some(image)) = (&request.to, report.image.clone()) {
            let name = name.clone().unwrap_or_else(|| report.server.clone());
            match self.start(&run, site, &image, name).await {
                Ok(instance) => report.instance = Some(instance),
                Err(error) => return Err(self.restore_failed(run, error).await),
            }
        }
        self.close_short_run(run, RunOutcome::Done, None, Batch::new()).await?;
        report.seconds = began.elapsed().as_secs_f64();
        Ok(report)
    }

    pub(crate) fn target(&self, site: &SiteName) -> Result<&dyn Target> {
        let cloud = self.site(site)?;
        cloud.target().ok_or_else(|| {
            Error::new(Kind::Invalid, format!("cannot restore to site {site}"))
                .because(format!("a {} site is not a target", cloud.kind()))
        })
    }

    /// Tries points and replicas in order until one can be written whole.
    async fn restore_best(
        &self,
        run: &RunRecord,
        choices: Vec<Restorable>,
        mut skipped: Vec<Skipped>,
        to: &RestoreTo,
    ) -> Result<RestoreReport> {
        let mut last = None;
        for restorable in choices {
            for source in &restorable.replicas {
                let point = &restorable.point;
                self.hold_for(run, point).await?;
                match self.write(run, point, source, to).await {
                    Ok(made) => return Ok(report(run, &restorable, source, made, skipped)),
                    Err(trouble) if !self.may_fall_over(point, source, &trouble).await? => return Err(trouble.error),
                    Err(trouble) => {
                        let why = trouble.error.chain();
                        skipped.push(Skipped { point: point.id.clone(), place: Some(source.place.clone()), why });
                        last = Some(trouble.error);
                    }
                }
            }
        }
        Err(none_whole(last))
    }

    /// Whether the trouble is the replica's, so that another one may do. A damaged one is noted as such.
    pub(crate) async fn may_fall_over(&self, point: &RestorePoint, source: &Source, trouble: &Trouble) -> Result<bool> {
        if !trouble.of_replica {
            return Ok(false);
        }
        let error = &trouble.error;
        self.tell(Event::FellOver {
            point: point.id.clone(),
            from: source.place.to_string(),
            problem: Problem::from(error),
        });
        if error.kind() == Kind::Damaged {
            let key = replica_key(&point.id, &source.place);
            let known: Option<model::Replica> = ledger::get(&*self.ledger, Tree::Replicas, &key).await?;
            if let Some(mut replica) = known {
                replica.state = ReplicaState::Damaged;
                let mut batch = Batch::new();
                batch.put(Tree::Replicas, key, &replica)?;
                self.ledger.commit(batch).await?;
            }
        }
        Ok(true)
    }

    async fn write(&self, run: &RunRecord, point: &RestorePoint, source: &Source, to: &RestoreTo) -> Tried<Made> {
        match to {
            RestoreTo::Site { site, .. } => self.write_image(run, point, source, site, Role::Replica, IMAGE).await,
            RestoreTo::File { path, format, disk } => {
                let wanted = |d: &&PointDisk| disk.as_ref().is_none_or(|name| *name == d.name);
                let disks: Vec<&PointDisk> = point.disks.iter().filter(wanted).collect();
                self.write_files(run, point, source, path, *format, &disks).await
            }
        }
    }

    pub(crate) async fn start(
        &self,
        run: &RunRecord,
        site: &SiteName,
        image: &ImageId,
        name: ServerName,
    ) -> Result<InstanceId> {
        let target = self.target(site)?;
        let begun = self.step_begin(&run.id, LAUNCH).await?;
        let options = LaunchOptions { name, network: Network::Site, ports: Vec::new(), ephemeral: false };
        crash::point("restore.launch.before");
        let instance = target.launch(image, &options, &token(self, run, LAUNCH)).await?;
        crash::point("restore.launch.after");
        self.step_finish(&run.id, begun, &instance, Batch::new()).await?;
        Ok(instance.id)
    }

    async fn restore_failed(&self, mut run: RunRecord, error: Error) -> Error {
        // an error comes back only after what was made is gone, or is noted for the next sweep
        let files = self.files_gone(&run).await;
        // a site that cannot be looked at may have the server as well
        if let Some(unseen) = self.unseen(&mut run).await.unwrap_or_else(Some) {
            run.problem = Some(Problem::from(&unseen));
            let noted = self.save_run(&run).await;
            tracing::warn!(run = %run.id, noted = noted.is_ok(), error = %unseen.chain(), "the restore stays open");
            return error;
        }
        if let Err(left) = files.and(self.everything_gone(&run).await) {
            tracing::warn!(run = %run.id, error = %left.chain(), "what the restore made is left for the next start");
            return error;
        }
        let problem = Some(Problem::from(&error));
        if let Err(trouble) = self.close_short_run(run, RunOutcome::Failed, problem, Batch::new()).await {
            tracing::warn!(error = %trouble.chain(), "cannot close the restore's record");
        }
        error
    }

    /// Retention leaves the point alone until the run is closed.
    pub(crate) async fn hold_for(&self, run: &RunRecord, point: &RestorePoint) -> Result<()> {
        let why = format!("a {} reads it", run.kind.name());
        let mut batch = Batch::new();
        batch.put(
            Tree::Holds,
            format!("{}/{}", point.id, run.id),
            &HoldRecord { run: run.id.clone(), why, since: self.now() },
        )?;
        self.ledger.commit(batch).await
    }

    /// A run that is not resumed: it is cleaned up if it dies.
    pub(crate) async fn open_short_run(
        &self,
        id: RunId,
        kind: RunKind,
        server: &ServerName,
        site: Option<SiteName>,
    ) -> Result<RunRecord> {
        let run = RunRecord {
            id,
            kind,
            policy: None,
            with: None,
            server: server.clone(),
            site,
            state: RunState::Open,
            started_at: self.now(),
            finished_at: None,
            attempts: 1,
            outcome: None,
            destinations: Vec::new(),
            lost: false,
            point: None,
            problem: None,
            warnings: Vec::new(),
            next_try: None,
        };
        self.save_run(&run).await?;
        let what = kind.name().to_owned();
        self.tell(Event::RunStarted { run: run.id.clone(), server: server.clone(), what, resumed: false });
        Ok(run)
    }

    /// Closes it, together with what else the batch says.
    pub(crate) async fn close_short_run(
        &self,
        mut run: RunRecord,
        outcome: RunOutcome,
        problem: Option<Problem>,
        mut batch: Batch,
    ) -> Result<()> {
        run.problem = problem;
        retire::close_as(self, &mut run, outcome, &mut batch).await?;
        self.ledger.commit(batch).await?;
        self.tell(Event::RunFinished { run: run.id.clone(), outcome, seconds: 0.0 });
        Ok(())
    }
}

/// An error of a restore, and whether it is the replica's own trouble, so that another replica may do.
pub(crate) struct Trouble {
    pub error: Error,
    of_replica: bool,
}

impl Trouble {
    pub(crate) fn of_replica(error: Error) -> Self {
        Self { error, of_replica: true }
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self { error, of_replica: false }
    }
}

pub(crate) type Tried<T> = std::result::Result<T, Trouble>;

/// The last trouble, worded for a restore that found no replica whole.
pub(crate) fn none_whole(last: Option<Error>) -> Error {
    let operation = "cannot restore: no replica can be read whole";
    let error = match last {
        Some(error) => Error::new(error.kind(), operation).because(error.chain()),
        None => Error::new(Kind::NotFound, operation),
    };
    error.hint("see which replicas there are with `replicate points`, and check them with `replicate verify`")
}

pub(crate) fn report(
    run: &RunRecord,
    restorable: &Restorable,
    source: &Source,
    made: Made,
    skipped: Vec<Skipped>,
) -> RestoreReport {
    let point = &restorable.point;
    RestoreReport {
        run: run.id.clone(),
        point: point.id.clone(),
        taken_at: point.taken_at,
        server: point.server.clone(),
        chosen: restorable.chosen.clone(),
        skipped,
        from: source.place.clone(),
        image: made.image,
        instance: made.instance,
        files: made.files,
        disks: point.disks.clone(),
        bytes: made.bytes,
        via: if made.via == Via::Relay { Via::Relay } else { Via::Blocks },
        since: made.since,
        seconds: 0.0,
    }
}

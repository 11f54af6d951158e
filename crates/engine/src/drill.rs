//! Drill: a restore that is booted in isolation, checked, measured, proved and destroyed. What it made goes in every path; if the process
//! dies, the next start destroys it.

use std::path::PathBuf;
use std::time::Instant;

use cloud::{Instance, LaunchOptions, Network};
use model::{
    DrillPolicy, Error, ImageId, Kind, Place, Policy, Replica, ReplicaState, RestorePoint, Result, Role, SiteName,
    crash,
};

use crate::choose::{Restorable, Source};
use crate::identity;
use crate::ladder::Watch;
use crate::ledger::{self, Batch, Tree};
use crate::observe::Event;
use crate::proof::{Proof, Rung, SignedProof};
use crate::records::{RunKind, RunRecord, replica_key};
use crate::restore::{LAUNCH, Made, none_whole, report};
use crate::steps::{token, verify};
use crate::{DrillReport, DrillRequest, Engine, Problem, RestoreReport, RunOutcome, Skipped, probe};

/// Step that registers a drill's image.
const IMAGE: &str = "drill-image";

/// What the guest showed.
struct Shown {
    rungs: Vec<Rung>,
    console: String,
    passed: bool,
}

impl Engine {
    /// Restores, checks, measures, destroys. A guest that does not pass is a report with `passed: false`, not an error.
    pub async fn drill(&self, request: &DrillRequest) -> Result<DrillReport> {
        let began = Instant::now();
        let (mut choices, skipped, silent) = self.choose(&request.choice).await?;
        let policy = choices.first().and_then(|choice| self.policy_of(&choice.point));
        let site = self.drill_site(request, policy.as_ref())?;
        self.nearest(&mut choices, &request.choice, &site).await?;
        let run =
            self.open_short_run(self.fresh_run(), RunKind::Drill, &request.choice.server, Some(site.clone())).await?;
        let _active = self.activate(&run.id);
        for message in silent {
            self.tell(Event::Warning { run: Some(run.id.clone()), message });
        }
        let drilled = self.drilled(&run, &site, choices, skipped, policy.map(|p| p.drill), began).await;
        // destroyed before anything is answered
        let gone = self.everything_gone(&run).await;
        match (drilled, gone) {
            (Ok((report, replica)), Ok(())) => self.prove(run, report, replica).await,
            (Ok((report, replica)), Err(error)) => {
                self.tell(Event::Warning { run: Some(run.id.clone()), message: error.chain() });
                self.keep_open(run.clone(), &error).await?;
                self.prove_open(run, report, replica).await
            }
            (Err(error), Ok(())) => {
                let problem = Some(Problem::from(&error));
                self.close_short_run(run, RunOutcome::Failed, problem, Batch::new()).await?;
                Err(error)
            }
            (Err(error), Err(_)) => Err(error),
        }
    }

    fn policy_of(&self, point: &RestorePoint) -> Option<Policy> {
        let policies = self.policies();
        policies.iter().find(|policy| Some(&policy.name) == point.policy.as_ref()).cloned()
    }

    fn drill_site(&self, request: &DrillRequest, policy: Option<&Policy>) -> Result<SiteName> {
        let asked = request.site.clone().or_else(|| policy.and_then(|policy| policy.drill.site.clone()));
        if let Some(site) = asked {
            self.target(&site)?;
            return Ok(site);
        }
        let mut able = self.sites.iter().filter(|(_, site)| site.target().is_some());
        let qemu = able.clone().find(|(_, site)| site.kind() == "qemu");
        qemu.or_else(|| able.next()).map(|(name, _)| name.clone()).ok_or_else(|| {
            Error::new(Kind::Invalid, "no site can boot a drill").hint("configure a site of kind `qemu`")
        })
    }

    /// Boots the best replica that can be written whole.
    async fn drilled(
        &self,
        run: &RunRecord,
        site: &SiteName,
        choices: Vec<Restorable>,
        mut skipped: Vec<Skipped>,
        policy: Option<DrillPolicy>,
        began: Instant,
    ) -> Result<(Drilled, Source)> {
        let mut last = None;
        for restorable in &choices {
            for source in &restorable.replicas {
                self.hold_for(run, &restorable.point).await?;
                let made = match self.drill_image(run, site, &restorable.point, source).await {
                    Ok(made) => made,
                    Err(trouble) if !self.may_fall_over(&restorable.point, source, &trouble).await? => {
                        return Err(trouble.error);
                    }
                    Err(trouble) => {
                        let why = trouble.error.chain();
                        let (point, place) = (restorable.point.id.clone(), Some(source.place.clone()));
                        skipped.push(Skipped { point, place, why });
                        last = Some(trouble.error);
                        continue;
                    }
                };
                let restore_seconds = began.elapsed().as_secs_f64();
                let image = made.image.clone();
                let mut restore = report(run, restorable, source, made, skipped);
                let image = image.ok_or_else(|| Error::new(Kind::Permanent, "cannot drill without an image"))?;
                let shown = self.boot(run, site, &image, policy.as_ref()).await?;
                restore.seconds = restore_seconds;
                let total = began.elapsed().as_secs_f64();
                let (point, site) = (restorable.point.clone(), site.clone());
                return Ok((Drilled { point, site, restore, shown, total }, source.clone()));
            }
        }
        Err(none_whole(last))
    }

    /// The image to boot: the replica itself if it is one of this site (its bytes are compared first), else a scratch one.
    async fn drill_image(
        &self,
        run: &RunRecord,
        site: &SiteName,
        point: &RestorePoint,
        source: &Source,
    ) -> std::result::Result<Made, crate::restore::Trouble> {
        match (&source.place, &source.image) {
            (Place::Site(there), Some(image)) if there == site => {
                let read = verify::image_roots(self, Some(run), &source.place, image, point).await;
                let bytes = read.map_err(crate::restore::Trouble::of_replica)?;
                Ok(Made { image: Some(image.clone()), bytes, ..Made::default() })
            }
            _ => self.write_image(run, point, source, site, Role::Scratch, IMAGE).await,
        }
    }

    async fn boot(
        &self,
        run: &RunRecord,
        site: &SiteName,
        image: &ImageId,
        policy: Option<&DrillPolicy>,
    ) -> Result<Shown> {
        let target = self.target(site)?;
        let default = DrillPolicy { site: None, probes: Vec::new(), limit: std::time::Duration::from_secs(600) };
        let policy = policy.unwrap_or(&default);
        let options = LaunchOptions {
            name: model::ServerName::new(format!("drill-{}", run.id))?,
            network: Network::Isolated,
            ports: probe::ports(&policy.probes),
            ephemeral: true,
        };
        let begun = self.step_begin(&run.id, LAUNCH).await?;
        crash::point("drill.launch.before");
        let launched = Instant::now();
        let instance: Instance = target.launch(image, &options, &token(self, run, LAUNCH)).await?;
        crash::point("drill.launch.after");
        self.step_finish(&run.id, begun, &instance, Batch::new()).await?;
        let watch = Watch {
            target,
            instance: &instance.id,
            observer: &*self.observer,
            run: &run.id,
            launched,
            limit: policy.limit,
            poll: self.settings.drill_poll,
        };
        let shown = self.watch(&watch, &instance, policy).await;
        crash::point("drill.destroy.before");
        target.destroy(&instance.id).await?;
        crash::point("drill.destroy.after");
        shown
    }

    async fn watch(&self, watch: &Watch<'_>, instance: &Instance, policy: &DrillPolicy) -> Result<Shown> {
        let mut climb = watch.climb().await?;
        if climb.is_up() {
            for wanted in &policy.probes {
                let rung = probe::check(watch, instance, wanted).await?;
                let (run, name) = (watch.run.clone(), rung.name.clone());
                if rung.passed {
                    self.tell(Event::Rung { run, rung: name, seconds: rung.seconds });
                }
                climb.rungs.push(rung);
            }
            // a guest that came up and then died has not passed
            let (console, _, dead) = watch.alive().await?;
            climb.console = console;
            if let Some(dead) = dead {
                climb.rungs.push(Rung {
                    name: "alive".to_owned(),
                    passed: false,
                    seconds: watch.seconds(),
                    detail: dead,
                });
            }
        }
        let passed = climb.dead.is_none() && climb.rungs.iter().all(|rung| rung.passed);
        Ok(Shown { rungs: climb.rungs, console: climb.console, passed })
    }

    /// Signs the receipt, keeps it, and notes the proven replica; all in the commit that closes the drill.
    async fn prove(&self, run: RunRecord, drilled: Drilled, source: Source) -> Result<DrillReport> {
        let (report, batch) = self.receipt(&run, drilled, &source).await?;
        let problem = (!report.passed).then(|| {
            let error =
                Error::new(Kind::Permanent, format!("the drill of point {} did not pass", report.restore.point));
            Problem::from(&error)
        });
        let outcome = if report.passed { RunOutcome::Done } else { RunOutcome::Failed };
        self.close_short_run(run, outcome, problem, batch).await?;
        Ok(report)
    }

    /// The same for a drill whose leftovers could not be destroyed yet: its run stays open for that.
    async fn prove_open(&self, run: RunRecord, drilled: Drilled, source: Source) -> Result<DrillReport> {
        let (report, batch) = self.receipt(&run, drilled, &source).await?;
        self.ledger.commit(batch).await?;
        Ok(report)
    }

    async fn keep_open(&self, mut run: RunRecord, error: &Error) -> Result<()> {
        run.problem = Some(Problem::from(error));
        self.save_run(&run).await
    }

    async fn receipt(&self, run: &RunRecord, drilled: Drilled, source: &Source) -> Result<(DrillReport, Batch)> {
        let program = tokio::task::spawn_blocking(self.settings.program_hash).await.unwrap_or_default();
        let proof = self.proof_of(run, &drilled, source, program);
        let signed = self.signer.sign(&proof)?;
        let proof_file = self.file_proof(run, &signed)?;
        let mut batch = Batch::new();
        batch.put(Tree::Proofs, format!("{}/{}", run.server, run.id), &signed)?;
        let key = replica_key(&drilled.point.id, &source.place);
        let known: Option<Replica> = ledger::get(&*self.ledger, Tree::Replicas, &key).await?;
        if let (Some(mut replica), true) = (known, proof.passed) {
            // a doomed replica stays doomed: what booted may still be too old
            if replica.state != ReplicaState::Doomed {
                replica.state = ReplicaState::Proven;
            }
            replica.proven_at = Some(self.now());
            replica.verified_at = Some(self.now());
            batch.put(Tree::Replicas, key, &replica)?;
        }
        let console = tail(&drilled.shown.console);
        let report = DrillReport { passed: proof.passed, restore: drilled.restore, proof: signed, proof_file, console };
        Ok((report, batch))
    }

    fn proof_of(&self, run: &RunRecord, drilled: &Drilled, source: &Source, program_hash: String) -> Proof {
        let point = &drilled.point;
        Proof {
            version: 1,
            run: run.id.clone(),
            owner: self.owner.clone(),
            program: self.settings.program.clone(),
            program_hash,
            server: point.server.clone(),
            point: point.id.clone(),
            taken_at: point.taken_at,
            consistency: point.consistency,
            disks: point.disks.clone(),
            from: source.place.clone(),
            site: drilled.site.clone(),
            started_at: run.started_at,
            restore_seconds: drilled.restore.seconds,
            total_seconds: drilled.total,
            rungs: drilled.shown.rungs.clone(),
            passed: drilled.shown.passed,
            console_hash: blake3::hash(drilled.shown.console.as_bytes()).to_hex().to_string(),
        }
    }

    fn file_proof(&self, run: &RunRecord, signed: &SignedProof) -> Result<Option<PathBuf>> {
        let Some(folder) = &self.folder else { return Ok(None) };
        let folder = folder.join("proofs");
        std::fs::create_dir_all(&folder).map_err(|e| Error::io(format!("cannot create {}", folder.display()), e))?;
        let path = folder.join(format!("{}.json", run.id));
        let text = serde_json::to_vec_pretty(signed)
            .map_err(|error| Error::new(Kind::Permanent, "cannot write the proof").because(error))?;
        identity::write_new(&path, &text, 0o644)?;
        Ok(Some(path))
    }
}

/// A drill that has run.
struct Drilled {
    point: RestorePoint,
    site: SiteName,
    restore: RestoreReport,
    shown: Shown,
    total: f64,
}

/// The end of a console, for a person.
fn tail(console: &str) -> String {
    let lines: Vec<&str> = console.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

//! Deletes the scratch that dead runs left: disks, captures (a frozen guest among them), drill images, instances. Only what carries our
//! owner's tag and the role `scratch`, and only if no open run refers to it.

use std::collections::BTreeSet;
use std::sync::Arc;

use cloud::{Cloud, Resource};
use model::{Error, InstanceId, Kind, Result, Role, crash, tag};

use crate::ledger::Batch;
use crate::observe::Event;
use crate::records::{RunRecord, RunState};
use crate::relayed::STEP as RELAYED;
use crate::restore::{IMAGE, LAUNCH};
use crate::{Engine, Problem, RunOutcome, SweepReport, SweptReport};

impl Engine {
    /// Sweeps every site. Call it when nothing else of this installation runs elsewhere: runs of this process are spared.
    pub async fn sweep(&self) -> Result<SweepReport> {
        self.recall().await?;
        let mut report = SweepReport::default();
        let moving = self.moving().await?;
        for run in self.runs().await? {
            // a restore or drill that died has nobody who waits for it
            let orphan = matches!(run.kind, crate::RunKind::Restore | crate::RunKind::Drill);
            if orphan && run.state == RunState::Open && !self.is_active(&run.id) && !moving.contains(&run.id) {
                report.problems.extend(self.clean_up(run).await?);
            }
        }
        // the ledger first, then the sites: a run that begins in between is not in the listing
        let open: BTreeSet<String> =
            self.runs().await?.iter().filter(|run| run.state == RunState::Open).map(|run| run.id.to_string()).collect();
        for (name, site) in &self.sites {
            let owned = match site.owned().await {
                Ok(owned) => owned,
                Err(error) => {
                    report.problems.push(Problem::from(&error.within(format!("cannot sweep site {name}"))));
                    continue;
                }
            };
            for resource in owned.into_iter().filter(|resource| self.is_own_scratch(resource)) {
                let run = resource.tags.get(tag::RUN).cloned();
                let swept =
                    SweptReport { site: name.clone(), kind: resource.kind.clone(), id: resource.id.clone(), run };
                if swept.run.as_ref().is_some_and(|run| open.contains(run) || self.is_active_text(run)) {
                    report.in_use.push(swept);
                    continue;
                }
                match self.delete(site, &resource).await {
                    Ok(()) => report.deleted.push(swept),
                    Err(error) => report.problems.push(Problem::from(&error)),
                }
            }
        }
        Ok(report)
    }

    fn is_own_scratch(&self, resource: &Resource) -> bool {
        let own = resource.tags.get(tag::OWNER).is_some_and(|owner| owner == self.owner.as_str());
        own && resource.role == Role::Scratch
    }

    fn is_active_text(&self, run: &str) -> bool {
        model::RunId::new(run).is_ok_and(|run| self.is_active(&run))
    }

    async fn delete(&self, site: &Arc<dyn Cloud>, resource: &Resource) -> Result<()> {
        crash::point("sweep.delete.before");
        let deleted = site.delete(resource).await;
        crash::point("sweep.delete.after");
        deleted.map_err(|error| {
            error.within(format!("cannot delete {} {} at site {}", resource.kind, resource.id, site.site()))
        })
    }

    /// Deletes the scratch of one closed run everywhere; what cannot be deleted now is for the next sweep.
    pub(crate) async fn sweep_run(&self, run: &RunRecord) {
        if let Err(error) = self.scratch_gone(run).await {
            tracing::warn!(run = %run.id, error = %error.chain(), "scratch is left for the next sweep");
        }
    }

    /// Deletes all scratch of a run, or tells what is left.
    pub(crate) async fn scratch_gone(&self, run: &RunRecord) -> Result<()> {
        self.gone(run, |resource| resource.role == Role::Scratch).await
    }

    /// Deletes all that a restore made, the registered image too: it failed, and nobody was told of it.
    pub(crate) async fn everything_gone(&self, run: &RunRecord) -> Result<()> {
        self.gone(run, |_| true).await
    }

    /// Deletes what carries our owner's tag and the run's, instances before what they run from.
    async fn gone(&self, run: &RunRecord, wanted: impl Fn(&Resource) -> bool) -> Result<()> {
        let mut trouble = None;
        for site in self.sites.values() {
            let mut owned = match site.owned().await {
                Ok(owned) => owned,
                Err(error) => {
                    trouble = Some(error);
                    continue;
                }
            };
            owned.retain(|resource| self.is_of(resource, run) && wanted(resource));
            owned.sort_by_key(|resource| match resource.kind.as_str() {
                "instance" => 0,
                "image" => 1,
                _ => 2,
            });
            for resource in &owned {
                if let Err(error) = self.delete(site, resource).await {
                    trouble = Some(error);
                }
            }
        }
        trouble.map_or(Ok(()), Err)
    }

    /// Whether a resource carries our owner's tag and the run's.
    fn is_of(&self, resource: &Resource, run: &RunRecord) -> bool {
        let tagged = |key: &str, value: &str| resource.tags.get(key).is_some_and(|text| text == value);
        tagged(tag::OWNER, self.owner.as_str()) && tagged(tag::RUN, run.id.as_str())
    }

    /// The instance of a restore at the site that it goes to.
    pub(crate) async fn instance_of(&self, run: &RunRecord) -> Result<Option<InstanceId>> {
        self.launched_by(run, |_| true).await
    }

    async fn launched_by(&self, run: &RunRecord, wanted: fn(&Resource) -> bool) -> Result<Option<InstanceId>> {
        let Some(site) = &run.site else { return Ok(None) };
        let owned = self.site(site)?.owned().await?;
        let is_it = |it: &Resource| it.kind == "instance" && self.is_of(it, run) && wanted(it);
        owned.into_iter().find(is_it).map(|resource| InstanceId::new(resource.id)).transpose()
    }

    /// What keeps a restore open: its launch had begun, its site is slow to show what it has made, and no server is seen yet. The first look
    /// says until when that may be: whenever the launch was, it was before that look.
    pub(crate) async fn unseen(&self, run: &mut RunRecord) -> Result<Option<Error>> {
        let (true, Some(site)) = (run.kind == crate::RunKind::Restore, &run.site) else { return Ok(None) };
        let (now, lag) = (self.now(), self.site(site)?.lag());
        if lag.is_zero() || !self.step_known(&run.id, LAUNCH).await? || self.instance_of(run).await?.is_some() {
            return Ok(None);
        }
        let Some(until) = run.next_try.or_else(|| now.checked_add(lag).ok()).filter(|until| now < *until) else {
            return Ok(None);
        };
        run.next_try = Some(until);
        let error = Error::new(Kind::NotYetVisible, format!("cannot end {} {} yet", run.kind.name(), run.id));
        let error = error.because(format!("its server was being launched, and site {site} may not show it yet"));
        Ok(Some(error.hint(format!("sweep again after {} s", lag.as_secs()))))
    }

    /// Ends a restore or drill that died. What it made goes; only a server that is there stays with its image, because somebody may use it
    /// already. A launch that had begun and made no server leaves nothing. Answers why it cannot be ended yet.
    pub(crate) async fn clean_up(&self, mut run: RunRecord) -> Result<Option<Problem>> {
        self.files_gone(&run).await?;
        let launched = match self.end_of_dead(&mut run).await {
            Ok(launched) => launched,
            Err(error) => {
                // stays open, so that another look tries again
                let problem = Problem::from(&error);
                run.problem = Some(problem.clone());
                self.save_run(&run).await?;
                return Ok(Some(problem));
            }
        };
        let mut error = Error::new(Kind::Cancelled, format!("{} {} was interrupted", run.kind.name(), run.id));
        if let Some(server) = launched {
            error = error.because(format!("its server {server} was being launched, and was left as it is"));
            self.tell(Event::Warning { run: Some(run.id.clone()), message: error.chain() });
        }
        self.close_short_run(run, RunOutcome::Failed, Some(Problem::from(&error)), Batch::new()).await?;
        Ok(None)
    }

    /// Deletes what a restore or drill that died has no more use for. Answers its server, which stays.
    async fn end_of_dead(&self, run: &mut RunRecord) -> Result<Option<InstanceId>> {
        if let Some(unseen) = self.unseen(run).await? {
            return Err(unseen);
        }
        let restore = run.kind == crate::RunKind::Restore;
        let mut launched = None;
        if restore && self.step_known(&run.id, LAUNCH).await? {
            // one that is scratch still is not what it is to be, and nobody's server
            launched = self.launched_by(run, |it| it.role == Role::Replica).await?;
        }
        // before the image is begun there is only scratch; if there is more, the ledger is older than the restore, which went well then
        let begun = self.step_known(&run.id, IMAGE).await? || self.step_known(&run.id, RELAYED).await?;
        match launched.is_some() || (restore && !begun) {
            true => self.scratch_gone(run).await?,
            false => self.everything_gone(run).await?,
        }
        Ok(launched)
    }
}

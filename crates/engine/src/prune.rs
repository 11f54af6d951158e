//! Retention, in two phases: doomed (journalled, visible in `plan`, cancellable), grace, guards evaluated again at delete time, delete,
//! tombstone.
//!
//! Only checked replicas count. The last good replica of a server, and its newest, are never deleted, whatever the rules say.

use std::collections::{BTreeMap, BTreeSet};

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use model::{
    Candidate, Error, ImageOption, Kind, Place, PointId, Policy, Replica, ReplicaState, RestorePoint, Result, Standing,
    crash,
};

use crate::catalogue::Catalogue;
use crate::ledger::{self, Batch, Tree};
use crate::records::{HoldRecord, TombstoneRecord, point_key, replica_key};
use crate::steps::register;
use crate::{DoomedReport, Engine, KeptReport, Problem, PruneReport, PruneRequest};

/// At least so many deletions are allowed in one go; beyond, a tenth of all replicas: a wrong policy must not empty a house at once.
const FEW: usize = 3;

/// One replica and what retention thinks of it.
struct Verdict {
    point: RestorePoint,
    replica: Replica,
    /// Why it stays; none: it may go.
    keep: Option<String>,
}

impl Engine {
    /// Dooms what the policies no longer keep, reprieves what they keep again, deletes what has been doomed for long enough.
    pub async fn prune(&self, request: &PruneRequest) -> Result<PruneReport> {
        let _one = self.occupy("prune".to_owned())?;
        let mut report = PruneReport::default();
        if let Some(point) = &request.keep {
            self.hold(point).await?;
        }
        if !request.dry {
            self.recall_now().await?;
        }
        let catalogue = self.catalogue().await?;
        let held = self.holds().await?;
        let barred = self.barred(&catalogue, &mut report).await;
        let mut deleted = false;
        let mut allowed = FEW.max(catalogue.replicas.len() / 10);
        let (mut ripe, mut bar) = (Vec::new(), None);
        for verdict in self.verdicts(&catalogue, &held, &barred, request) {
            let doomed = self.doomed_report(&verdict.point, &verdict.replica);
            match (&verdict.keep, verdict.replica.doomed_at) {
                (Some(why), doomed_at) => {
                    if doomed_at.is_some() {
                        self.reprieve(&verdict.replica, request.dry).await?;
                        report.reprieved.push(doomed);
                    }
                    report.kept.push(kept(&verdict, why));
                }
                (None, None) => {
                    self.doom(&verdict.replica, request.dry).await?;
                    report.doomed.push(doomed);
                }
                (None, Some(at)) if self.is_ripe(at) => ripe.push((verdict, doomed)),
                (None, Some(_)) => report.doomed.push(doomed),
            }
        }
        for (verdict, doomed) in ripe {
            if request.dry || allowed == 0 {
                bar = (!request.dry).then_some("more replicas are due than may be deleted at once");
                report.doomed.push(doomed);
                continue;
            }
            match self.execute_doom(&verdict).await {
                Ok(()) => {
                    (allowed, deleted) = (allowed - 1, true);
                    report.deleted.push(doomed);
                }
                Err(error) => {
                    report.problems.push(Problem::from(&error));
                    report.doomed.push(doomed);
                }
            }
        }
        if let Some(bar) = bar {
            let error = Error::new(Kind::Quota, "some doomed replicas were left").because(bar);
            report.problems.push(Problem::from(&error.hint("run `replicate prune` again if that is what you want")));
        }
        if (request.collect || deleted) && !request.dry {
            self.collect(&mut report).await;
        }
        Ok(report)
    }

    /// What retention will delete, and when.
    pub(crate) async fn doomed(&self) -> Result<Vec<DoomedReport>> {
        let catalogue = self.catalogue().await?;
        let doomed = catalogue.replicas.iter().filter(|replica| replica.doomed_at.is_some());
        let reports = doomed.filter_map(|r| catalogue.points.get(&r.point).map(|point| self.doomed_report(point, r)));
        Ok(reports.collect())
    }

    fn doomed_report(&self, point: &RestorePoint, replica: &Replica) -> DoomedReport {
        let doomed_at = replica.doomed_at.unwrap_or_else(|| self.now());
        let grace = SignedDuration::try_from(self.settings.replica_grace).unwrap_or(SignedDuration::MAX);
        DoomedReport {
            server: point.server.clone(),
            point: point.id.clone(),
            place: replica.place.clone(),
            doomed_at,
            delete_after: doomed_at.saturating_add(grace).unwrap_or(doomed_at),
        }
    }

    /// Whether the grace is over. A mark from the future was made under a wrong clock: it is not believed.
    fn is_ripe(&self, doomed_at: Timestamp) -> bool {
        let age = self.now().duration_since(doomed_at);
        SignedDuration::try_from(self.settings.replica_grace).is_ok_and(|grace| age >= grace)
    }

    /// Every replica of the servers asked for, with what its policy says. Pure but for the policies.
    fn verdicts(
        &self,
        catalogue: &Catalogue,
        held: &BTreeSet<PointId>,
        barred: &BTreeSet<Place>,
        request: &PruneRequest,
    ) -> Vec<Verdict> {
        let policies = self.policies();
        let mut groups: BTreeMap<_, Vec<(&RestorePoint, &Replica)>> = BTreeMap::new();
        for replica in &catalogue.replicas {
            let Some(point) = catalogue.points.get(&replica.point) else { continue };
            let asked = request.server.as_ref().is_none_or(|server| *server == point.server);
            if asked && !barred.contains(&replica.place) {
                let key = (point.server.clone(), replica.place.clone(), point.policy.clone());
                groups.entry(key).or_default().push((point, replica));
            }
        }
        let mut verdicts = Vec::new();
        for ((_, _, policy), members) in groups {
            let policy = policy.and_then(|name| policies.iter().find(|policy| policy.name == name));
            let keeps = policy.map(|policy| self.decide(policy, &members));
            for (point, replica) in members {
                let keep = match &keeps {
                    None => Some("no policy in force says how long to keep it".to_owned()),
                    Some(_) if held.contains(&point.id) => Some("a run or a person holds it".to_owned()),
                    Some(keeps) => keeps.get(&point.id).cloned(),
                };
                verdicts.push(Verdict { point: point.clone(), replica: replica.clone(), keep });
            }
        }
        verdicts
    }

    fn decide(&self, policy: &Policy, members: &[(&RestorePoint, &Replica)]) -> BTreeMap<PointId, String> {
        let candidates: Vec<Candidate> = members
            .iter()
            .map(|(point, replica)| Candidate {
                id: point.id.clone(),
                taken_at: point.taken_at,
                standing: match replica.state {
                    ReplicaState::Damaged => Standing::Damaged,
                    _ if is_checked(replica) => Standing::Good,
                    _ => Standing::Unchecked,
                },
            })
            .collect();
        let zone = policy.schedule.as_ref().and_then(|schedule| TimeZone::get(&schedule.timezone).ok());
        let decision = policy.keep.decide(&candidates, self.now(), &zone.unwrap_or(TimeZone::UTC));
        let reason = |kept: model::Kept| {
            let reasons: Vec<String> = kept.reasons.iter().map(ToString::to_string).collect();
            (kept.point.id, reasons.join(", "))
        };
        decision.keep.into_iter().map(reason).collect()
    }

    pub(crate) async fn holds(&self) -> Result<BTreeSet<PointId>> {
        let holds: Vec<(String, HoldRecord)> = ledger::scan(&*self.ledger, Tree::Holds, "").await?;
        Ok(holds.iter().filter_map(|(key, _)| PointId::new(key.split('/').next()?).ok()).collect())
    }

    /// Keeps a point until somebody takes the hold off.
    async fn hold(&self, point: &PointId) -> Result<()> {
        if !self.catalogue().await?.points.contains_key(point) {
            return Err(Error::new(Kind::NotFound, format!("no restore point {point}"))
                .hint("see what there is with `replicate points`"));
        }
        let hold = HoldRecord { run: point.run(), why: "kept on request".to_owned(), since: self.now() };
        let mut batch = Batch::new();
        batch.put(Tree::Holds, format!("{point}/kept"), &hold)?;
        self.ledger.commit(batch).await
    }

    async fn doom(&self, replica: &Replica, dry: bool) -> Result<()> {
        let doomed = Replica { doomed_at: Some(self.now()), ..replica.clone() };
        let state = if is_checked(replica) { ReplicaState::Doomed } else { replica.state };
        self.put_replica(&Replica { state, ..doomed }, dry).await
    }

    async fn reprieve(&self, replica: &Replica, dry: bool) -> Result<()> {
        let state = match (replica.state, replica.proven_at, replica.verified_at) {
            (ReplicaState::Doomed, Some(_), _) => ReplicaState::Proven,
            (ReplicaState::Doomed, None, Some(_)) => ReplicaState::Verified,
            (ReplicaState::Doomed, None, None) => ReplicaState::Committed,
            (state, ..) => state,
        };
        if replica.unprotected_at.is_some() && !dry {
            self.protect_again(replica).await?;
        }
        let unprotected_at = if dry { replica.unprotected_at } else { None };
        self.put_replica(&Replica { doomed_at: None, state, unprotected_at, ..replica.clone() }, dry).await
    }

    /// Whether images at a place can be protected against deletion.
    fn may_protect(&self, place: &Place) -> bool {
        let Place::Site(name) = place else { return false };
        let target = self.sites.get(name).and_then(|site| site.target());
        target.is_some_and(|target| target.image_options().contains(&ImageOption::Protected))
    }

    /// Gives a replica that was about to be deleted its protection back, if its policy still asks for it.
    async fn protect_again(&self, replica: &Replica) -> Result<()> {
        let (Place::Site(name), Some(image)) = (&replica.place, &replica.image) else { return Ok(()) };
        let catalogue = self.catalogue().await?;
        let policies = self.policies();
        let policy = catalogue.points.get(&replica.point).and_then(|point| point.policy.as_ref());
        let policy = policies.iter().find(|known| Some(&known.name) == policy);
        if !policy.is_some_and(|policy| policy.image_options(&replica.place).protected) {
            return Ok(());
        }
        let Some(target) = self.site(name)?.target() else { return Ok(()) };
        crash::point("prune.protect.before");
        let protected = target.protect(image, true).await;
        crash::point("prune.protect.after");
        match protected {
            // it was deleted, and only its record is left
            Err(error) if error.kind() == Kind::NotFound => Ok(()),
            protected => protected,
        }
    }

    async fn put_replica(&self, replica: &Replica, dry: bool) -> Result<()> {
        if dry {
            return Ok(());
        }
        let mut batch = Batch::new();
        batch.put(Tree::Replicas, replica_key(&replica.point, &replica.place), replica)?;
        self.ledger.commit(batch).await
    }

    /// Deletes a doomed replica if every guard allows it now.
    async fn execute_doom(&self, verdict: &Verdict) -> Result<()> {
        let (point, replica) = (&verdict.point, &verdict.replica);
        let stays = |error: Error| {
            error.within(format!("point {} at {} is doomed, and stays for now", point.id, replica.place))
        };
        let guards = self.guards(point, replica).await.map_err(stays)?;
        // noted before it happens: an image that loses its protection and is kept after all gets it back
        if self.may_protect(&replica.place) && replica.unprotected_at.is_none() {
            let replica = Replica { unprotected_at: Some(self.now()), ..replica.clone() };
            self.put_replica(&replica, false).await?;
        }
        remove(self, &replica.place, point).await.map_err(stays)?;
        let tombstone =
            TombstoneRecord { replica: replica.clone(), server: point.server.clone(), deleted_at: self.now(), guards };
        let key = replica_key(&point.id, &replica.place);
        let mut batch = Batch::new();
        batch.delete(Tree::Replicas, &key);
        batch.put(Tree::Tombstones, &key, &tombstone)?;
        let catalogue = self.catalogue().await?;
        if catalogue.of(&point.id).all(|other| other.place == replica.place) {
            batch.delete(Tree::Points, point_key(point));
        }
        self.ledger.commit(batch).await
    }

    async fn collect(&self, report: &mut PruneReport) {
        for (name, vault) in &self.vaults {
            match vault.collect(self.settings.pack_grace).await {
                Ok(collected) => report.collected.push((name.clone(), collected)),
                Err(error) => {
                    report.problems.push(Problem::from(&error.within(format!("cannot collect vault {name}"))))
                }
            }
        }
    }
}

/// Whether the bytes were checked and no damage is known; a doomed replica may still be that.
pub(crate) fn is_checked(replica: &Replica) -> bool {
    let good = replica.state.is_good() || replica.state == ReplicaState::Doomed;
    good && replica.verified_at.is_some()
}

fn kept(verdict: &Verdict, why: &str) -> KeptReport {
    KeptReport {
        server: verdict.point.server.clone(),
        point: verdict.point.id.clone(),
        place: verdict.replica.place.clone(),
        why: why.to_owned(),
    }
}

/// Deletes a replica where it is; absent is success. Guards are the caller's, but for one: an image that another installation made is
/// refused.
pub(crate) async fn remove(engine: &Engine, place: &Place, point: &RestorePoint) -> Result<()> {
    match place {
        Place::Vault(name) => {
            crash::point("prune.forget.before");
            engine.vault(name)?.forget(&point.id).await?;
            crash::point("prune.forget.after");
        }
        Place::Site(name) => {
            let site = engine.site(name)?;
            let Some(image) = register::find(engine, place, point).await? else { return Ok(()) };
            let owned = site.owned().await?;
            for resource in owned.iter().filter(|r| r.kind == "image" && r.id == image.as_str()) {
                let ours = resource.tags.get(model::tag::OWNER).is_some_and(|owner| owner == engine.owner.as_str());
                if !ours {
                    return Err(Error::new(Kind::Denied, format!("cannot delete image {image} at {place}"))
                        .because("another installation made it"));
                }
                if let Some(target) = site.target() {
                    crash::point("prune.unprotect.before");
                    target.protect(&image, false).await?;
                    crash::point("prune.unprotect.after");
                }
                crash::point("prune.delete.before");
                site.delete(resource).await?;
                crash::point("prune.delete.after");
            }
        }
    }
    Ok(())
}

//! Verification on request: vaults re-read packs, images are read back, and the catalogue learns what is good and what is damaged.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use model::{Error, Kind, Place, PointId, Replica, ReplicaState, Result, VaultName, crash};

use crate::adopt::fresh;
use crate::archive::CheckScope;
use crate::ledger::{self, Batch, Tree};
use crate::plan::Held;
use crate::records::{point_key, replica_key};
use crate::steps::{publish, verify};
use crate::{Engine, Problem, VerifiedReplica, VerifyReport, VerifyRequest};

impl Engine {
    /// Reads replicas back. Damage is in the report and in the catalogue, not an error.
    pub async fn verify(&self, request: &VerifyRequest) -> Result<VerifyReport> {
        if let Some(vault) = &request.vault {
            self.known_vault(vault)?;
        }
        if let Some(site) = &request.site {
            self.site(site)?;
        }
        let mut report = VerifyReport::default();
        let named = request.vault.is_some() || request.site.is_some();
        for place in self.places() {
            let wanted = match &place {
                Place::Vault(name) => request.vault.as_ref() == Some(name),
                Place::Site(name) => request.site.as_ref() == Some(name),
            };
            if named && !wanted {
                continue;
            }
            let held = match self.held(&place).await {
                Ok(held) => held,
                Err(error) => {
                    report.problems.push(Problem::from(&error.within(format!("cannot verify {place}"))));
                    continue;
                }
            };
            let of_server = |held: &Held| request.server.as_ref().is_none_or(|server| *server == held.point.server);
            let held: Vec<Held> = held.into_iter().filter(of_server).collect();
            let checked = match &place {
                Place::Vault(name) => self.scrub_vault(request, name, &place, &held, &mut report).await,
                Place::Site(_) => self.scrub_images(request, &place, &held, &mut report).await,
            };
            if let Err(error) = checked {
                report.problems.push(Problem::from(&error.within(format!("cannot verify {place}"))));
            }
        }
        Ok(report)
    }

    async fn scrub_vault(
        &self,
        request: &VerifyRequest,
        name: &VaultName,
        place: &Place,
        held: &[Held],
        report: &mut VerifyReport,
    ) -> Result<()> {
        let scope = match (&request.scope, &request.server) {
            (CheckScope::All, Some(_)) => CheckScope::Points(held.iter().map(|h| h.point.id.clone()).collect()),
            (scope, _) => scope.clone(),
        };
        let recent = match scope {
            CheckScope::Stale(days) => self.recent_packs(name, days).await?,
            _ => BTreeSet::new(),
        };
        let check = self.vault(name).await?.verify(&scope, &recent, &*self.observer).await?;
        report.bytes += check.bytes;
        let damaged: BTreeMap<&PointId, &String> = check.damaged.iter().map(|(point, why)| (point, why)).collect();
        for held in held {
            let id = &held.point.id;
            match damaged.get(id) {
                Some(why) => {
                    let error = Error::new(Kind::Damaged, format!("point {id} at {place} is damaged"));
                    let error = error.because((*why).clone()).hint("the next run stores what is damaged again");
                    self.judge(held, place, Some(Problem::from(&error)), report).await?;
                }
                None if check.points.contains(id) => self.judge(held, place, None, report).await?,
                None => {}
            }
        }
        let now = self.now();
        for packs in check.packs.chunks(500) {
            let mut batch = Batch::new();
            for pack in packs {
                batch.put(Tree::Scrubs, format!("{name}/{pack}"), &now)?;
            }
            self.ledger.commit(batch).await?;
        }
        Ok(())
    }

    /// Packs that were read back within the last so many days.
    async fn recent_packs(&self, vault: &VaultName, days: u32) -> Result<BTreeSet<String>> {
        let prefix = format!("{vault}/");
        let all: Vec<(String, Timestamp)> = ledger::scan(&*self.ledger, Tree::Scrubs, &prefix).await?;
        let since = self.now() - SignedDuration::from_hours(24 * i64::from(days));
        let recent = all.into_iter().filter(|(_, at)| *at >= since && *at <= self.now());
        Ok(recent.filter_map(|(key, _)| key.strip_prefix(&prefix).map(str::to_owned)).collect())
    }

    async fn scrub_images(
        &self,
        request: &VerifyRequest,
        place: &Place,
        held: &[Held],
        report: &mut VerifyReport,
    ) -> Result<()> {
        for held in held {
            let Some(image) = &held.image else { continue };
            let key = replica_key(&held.point.id, place);
            let known: Option<Replica> = ledger::get(&*self.ledger, Tree::Replicas, &key).await?;
            let wanted = match &request.scope {
                CheckScope::All => true,
                CheckScope::Sample(percent) => (self.random)() % 100 < u64::from(*percent),
                CheckScope::Stale(days) => {
                    let since = self.now() - SignedDuration::from_hours(24 * i64::from(*days));
                    known.as_ref().and_then(|replica| replica.verified_at).is_none_or(|at| at < since)
                }
                CheckScope::Points(points) => points.contains(&held.point.id),
                CheckScope::Added(point) => *point == held.point.id,
            };
            if !wanted {
                continue;
            }
            match verify::image_roots(self, None, place, image, &held.point).await {
                Ok(bytes) => {
                    report.bytes += bytes;
                    self.judge(held, place, None, report).await?;
                }
                Err(error) if error.kind() == Kind::Damaged => {
                    self.judge(held, place, Some(Problem::from(&error)), report).await?;
                }
                Err(error) => report.problems.push(Problem::from(&error)),
            }
        }
        self.look_after_published(place, held, report).await
    }

    /// What is under way to galleries is looked at, and what failed begun anew.
    async fn look_after_published(&self, place: &Place, held: &[Held], report: &mut VerifyReport) -> Result<()> {
        let policies = self.policies();
        let all: BTreeSet<_> =
            held.iter().filter_map(|it| Some((it.point.policy.as_ref()?, &it.point.server))).collect();
        for (policy, server) in all {
            let Some(policy) = policies.iter().find(|it| it.name == *policy) else { continue };
            for message in publish::run(self, policy, server, place).await? {
                let error =
                    Error::new(Kind::Transient, format!("an image of {server} is not published")).because(message);
                report.problems.push(Problem::from(&error));
            }
        }
        Ok(())
    }

    /// Writes the verdict into catalogue and report.
    async fn judge(
        &self,
        held: &Held,
        place: &Place,
        problem: Option<Problem>,
        report: &mut VerifyReport,
    ) -> Result<()> {
        let point = &held.point;
        let key = replica_key(&point.id, place);
        let known: Option<Replica> = ledger::get(&*self.ledger, Tree::Replicas, &key).await?;
        let mut replica = known.unwrap_or_else(|| fresh(&point.id, place));
        replica.image.clone_from(&held.image);
        if problem.is_some() {
            replica.state = ReplicaState::Damaged;
        } else {
            replica.verified_at = Some(self.now());
            if matches!(replica.state, ReplicaState::Committed | ReplicaState::Damaged) {
                replica.state = ReplicaState::Verified;
            }
        }
        let mut batch = Batch::new();
        batch.put(Tree::Points, point_key(point), point)?;
        batch.put(Tree::Replicas, key, &replica)?;
        crash::point("verify.note.before");
        self.ledger.commit(batch).await?;
        let (server, place) = (point.server.clone(), place.clone());
        report.replicas.push(VerifiedReplica { point: point.id.clone(), server, place, problem });
        Ok(())
    }
}

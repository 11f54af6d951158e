//! The catalogue: points with their replicas, how each server stands against its objectives, what runs would do.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use model::{Place, PointId, Policy, PolicyName, Replica, ReplicaState, RestorePoint, Result, ServerName, SiteName};

use crate::ledger::{self, Tree};
use crate::records::{CursorRecord, RunKind, RunRecord, RunState, policy_key};
use crate::route::{Holdings, Links, Scene, Wanted};
use crate::{
    Engine, OpenRunReport, PlanReport, PointReport, Problem, Proof, ProofReport, ServerPlan, ServerStatus, SignedProof,
    StatusReport,
};

/// What the ledger holds of points.
pub(crate) struct Catalogue {
    pub points: BTreeMap<PointId, RestorePoint>,
    pub replicas: Vec<Replica>,
    pub proofs: Vec<ProofReport>,
}

impl Catalogue {
    /// The replicas of a point.
    pub(crate) fn of<'a>(&'a self, point: &'a PointId) -> impl Iterator<Item = &'a Replica> {
        self.replicas.iter().filter(move |replica| replica.point == *point)
    }

    /// The newest point of a server that has a replica which was checked and is not known to be damaged.
    fn newest_good(&self, server: &ServerName, now: Timestamp) -> Option<(&RestorePoint, &Replica)> {
        let good = |replica: &&Replica| replica.verified_at.is_some() && replica.state != ReplicaState::Damaged;
        let of_server = self.points.values().filter(|p| p.server == *server && p.taken_at <= now);
        of_server
            .filter_map(|p| self.of(&p.id).filter(good).max_by_key(|r| r.verified_at).map(|replica| (p, replica)))
            .max_by_key(|(p, _)| p.taken_at)
    }
}

impl Engine {
    pub(crate) async fn catalogue(&self) -> Result<Catalogue> {
        let points: Vec<(String, RestorePoint)> = ledger::scan(&*self.ledger, Tree::Points, "").await?;
        let replicas: Vec<(String, Replica)> = ledger::scan(&*self.ledger, Tree::Replicas, "").await?;
        let proofs: Vec<(String, SignedProof)> = ledger::scan(&*self.ledger, Tree::Proofs, "").await?;
        let proofs = proofs.iter().filter_map(|(_, signed)| brief(signed));
        Ok(Catalogue {
            points: points.into_iter().map(|(_, point)| (point.id.clone(), point)).collect(),
            replicas: replicas.into_iter().map(|(_, replica)| replica).collect(),
            proofs: proofs.collect(),
        })
    }

    /// Points and their replicas, newest first; of one server or all.
    pub async fn points(&self, server: Option<&ServerName>) -> Result<Vec<PointReport>> {
        let catalogue = self.catalogue().await?;
        let wanted = |point: &&RestorePoint| server.is_none_or(|name| *name == point.server);
        let mut points: Vec<PointReport> = catalogue
            .points
            .values()
            .filter(wanted)
            .map(|point| PointReport {
                point: point.clone(),
                replicas: catalogue.of(&point.id).cloned().collect(),
                proof: catalogue.proofs.iter().filter(|p| p.point == point.id).max_by_key(|p| p.at).cloned(),
            })
            .collect();
        points.sort_by(|a, b| {
            (&a.point.server, b.point.taken_at, &b.point.id).cmp(&(&b.point.server, a.point.taken_at, &a.point.id))
        });
        Ok(points)
    }

    /// Per server: last point, lag, proof, what is stuck and why. Servers that no policy covers any more are told as long as they have points.
    pub async fn status(&self) -> Result<StatusReport> {
        let catalogue = self.catalogue().await?;
        let runs = self.runs().await?;
        let mut moves = self.moves().await?;
        moves.retain(|it| it.record.stage.is_open());
        let mut report = StatusReport { moves, ..StatusReport::default() };
        let mut told = BTreeSet::new();
        for policy in self.policies().iter() {
            let mut servers: BTreeSet<ServerName> = BTreeSet::new();
            match self.covered(policy, None).await {
                Ok(found) => servers.extend(found.into_iter().map(|server| server.name)),
                Err(error) => report.problems.push(Problem::from(&error)),
            }
            // a server that cannot be seen now still has its points
            let made = |p: &&RestorePoint| p.policy.as_ref() == Some(&policy.name);
            servers.extend(catalogue.points.values().filter(made).map(|p| p.server.clone()));
            for server in servers {
                let site = Some(policy.select.site.clone());
                report.servers.push(self.standing(&catalogue, &runs, Some(policy), site, &server).await?);
                told.insert(server);
            }
        }
        let rest: BTreeMap<ServerName, Option<SiteName>> =
            catalogue.points.values().map(|p| (p.server.clone(), p.site.clone())).collect();
        for (server, site) in rest.into_iter().filter(|(server, _)| !told.contains(server)) {
            report.servers.push(self.standing(&catalogue, &runs, None, site, &server).await?);
        }
        Ok(report)
    }

    async fn standing(
        &self,
        catalogue: &Catalogue,
        runs: &[RunRecord],
        policy: Option<&Policy>,
        site: Option<SiteName>,
        server: &ServerName,
    ) -> Result<ServerStatus> {
        let now = self.now();
        let newest = catalogue.newest_good(server, now);
        let age = |at: Timestamp| now.duration_since(at).as_secs();
        let lag = newest.map(|(point, _)| age(point.taken_at));
        let of_server = |point: &PointId| catalogue.points.get(point).is_some_and(|p| p.server == *server);
        let proof = catalogue.proofs.iter().filter(|p| p.passed && of_server(&p.point)).max_by_key(|p| p.at).cloned();
        let proof_age = proof.as_ref().map(|proof| age(proof.at));
        let seconds = |limit: Option<std::time::Duration>| limit.map(|limit| limit.as_secs() as i64);
        let rpo = seconds(policy.and_then(|policy| policy.objectives.rpo));
        let proof_limit = seconds(policy.and_then(|policy| policy.objectives.proof));
        let within = |age: Option<i64>, limit: Option<i64>| limit.map(|limit| age.is_some_and(|age| age <= limit));
        let name = policy.map(|policy| &policy.name);
        let mine =
            |run: &&RunRecord| run.server == *server && run.policy.as_ref() == name && run.kind == RunKind::Replicate;
        let open = runs.iter().filter(mine).find(|run| run.state == RunState::Open);
        let last = runs.iter().filter(mine).filter(|run| run.state == RunState::Closed).max_by_key(|r| r.finished_at);
        let good = |p: &&RestorePoint| p.server == *server && catalogue.of(&p.id).any(|r| r.state.is_good());
        Ok(ServerStatus {
            server: server.clone(),
            policy: name.cloned(),
            site,
            last_point: newest.map(|(point, _)| point.id.clone()),
            last_point_at: newest.map(|(point, _)| point.taken_at),
            last_verified_at: newest.and_then(|(_, replica)| replica.verified_at),
            lag_seconds: lag,
            rpo_seconds: rpo,
            rpo_met: within(lag, rpo),
            last_proof: proof,
            proof_age_seconds: proof_age,
            proof_met: within(proof_age, proof_limit),
            points: catalogue.points.values().filter(good).count(),
            next_due: policy.and_then(|policy| self.next_of(policy, server, now)),
            open_run: match open {
                Some(run) => Some(self.open_report(run).await?),
                None => None,
            },
            last_problem: last.and_then(trouble),
        })
    }

    async fn open_report(&self, run: &RunRecord) -> Result<OpenRunReport> {
        let step = self.step_open(&run.id).await?.map(|step| step.step);
        Ok(OpenRunReport {
            run: run.id.clone(),
            started_at: run.started_at,
            attempts: run.attempts,
            step: step.unwrap_or_else(|| "between steps".to_owned()),
            problem: trouble(run),
            next_try: run.next_try,
        })
    }

    /// What runs would do now, and what retention will delete. Looks only.
    pub async fn plan(&self, policy: Option<&PolicyName>) -> Result<PlanReport> {
        let policies: Vec<Policy> = match policy {
            Some(name) => vec![self.policy(name)?],
            None => self.policies().to_vec(),
        };
        let mut report = PlanReport::default();
        for policy in &policies {
            let servers = match self.covered(policy, None).await {
                Ok(servers) => servers,
                Err(error) => {
                    report.problems.push(Problem::from(&error));
                    continue;
                }
            };
            let (servers, _) = self.unmoved(policy, servers).await?;
            let mut held = Holdings::new();
            for place in policy.replicate.iter().map(|destination| &destination.place) {
                let now = self.held(place).await;
                held.push((place.clone(), now.map_err(|error| Problem::from(&error))));
            }
            let places: Vec<Place> = held.iter().map(|(place, _)| place.clone()).collect();
            let links = self.links(&places).await;
            for server in servers {
                report.servers.push(self.plan_server(policy, &server, &held, &links).await?);
            }
        }
        report.doomed = self.doomed().await?;
        Ok(report)
    }

    async fn plan_server(
        &self,
        policy: &Policy,
        server: &cloud::Server,
        held: &Holdings,
        links: &Links,
    ) -> Result<ServerPlan> {
        let key = policy_key(&policy.name, &server.name);
        let cursor: Option<CursorRecord> = ledger::get(&*self.ledger, Tree::Cursors, &key).await?;
        let disks: Vec<_> = server.machine.disks.iter().map(|disk| (disk.name.clone(), disk.size)).collect();
        let wanted: Vec<Wanted> = policy.replicate.iter().map(Wanted::new).collect();
        let scene = Scene { server: &server.name, cursor: cursor.as_ref(), disks: &disks, held, links };
        let destinations = self.ways(&wanted, &scene).await?;
        Ok(ServerPlan {
            policy: policy.name.clone(),
            server: server.name.clone(),
            site: policy.select.site.clone(),
            resume: self.open_run(&policy.name, &server.name).await?.map(|run| run.id),
            consistency: policy.capture.consistency,
            since: cursor.as_ref().map(|cursor| cursor.cursor.clone()),
            base: cursor.as_ref().map(|cursor| cursor.base.clone()),
            disk_bytes: disks.iter().map(|(_, size)| size).sum(),
            destinations,
        })
    }
}

/// Why a run did not do all it should.
fn trouble(run: &RunRecord) -> Option<Problem> {
    run.problem.clone().or_else(|| run.destinations.iter().find_map(|d| d.problem.clone()))
}

/// A proof in brief; one whose signature does not fit is no proof.
fn brief(signed: &SignedProof) -> Option<ProofReport> {
    let proof: Proof = crate::verify_proof(signed, None).ok()?;
    Some(ProofReport {
        run: proof.run,
        point: proof.point,
        at: proof.started_at,
        passed: proof.passed,
        seconds: proof.total_seconds,
    })
}

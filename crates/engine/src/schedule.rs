//! When what is due runs: every occurrence once. The occurrence is recorded in the commit that opens its run, so a crash neither repeats nor
//! loses it.

use jiff::Timestamp;
use model::{Error, Policy, Result, ServerName};

use crate::calendar::{Calendar, Due};
use crate::engine::busy_name;
use crate::ledger::{self, Batch, Tree};
use crate::records::{OccurrenceRecord, RunKind, RunRecord, RunState, policy_key};
use crate::{Engine, Event, Problem, RunsReport};

impl Engine {
    /// Runs everything that is due now, once. A server that is seen for the first time waits for its next occurrence. Trouble of one policy is
    /// told, and the others go on.
    pub async fn run_due(&self) -> Result<RunsReport> {
        let mut report = RunsReport::default();
        for policy in self.policies().iter() {
            let Some(schedule) = &policy.schedule else { continue };
            let due = match (Calendar::new(schedule), self.covered(policy, None).await) {
                (Ok(calendar), Ok(servers)) => {
                    let mut due = Vec::new();
                    let (servers, _) = self.unmoved(policy, servers).await?;
                    for server in servers {
                        if let Some(occurrence) = self.occurrence(&calendar, policy, &server.name).await? {
                            due.push((server.name, occurrence));
                        }
                    }
                    due
                }
                (Err(error), _) | (_, Err(error)) => {
                    self.warn(&error.within(format!("cannot run policy {}", policy.name)));
                    continue;
                }
            };
            if !due.is_empty() {
                self.recall().await?;
            }
            for (server, occurrence) in due {
                report.runs.extend(self.run_occurrence(policy, server, occurrence).await?);
            }
        }
        Ok(report)
    }

    /// Goes on with the moves and runs whose next try has come.
    pub async fn retry_due(&self) -> Result<RunsReport> {
        let mut report = RunsReport::default();
        self.resume_moves(true).await?;
        for run in self.parked().await? {
            if run.next_try.is_some_and(|at| at <= self.now()) {
                self.recall().await?;
                match run.kind {
                    RunKind::Replicate | RunKind::Import => report.runs.push(self.go_on(run).await?),
                    RunKind::Restore | RunKind::Drill => drop(self.clean_up(run).await?),
                }
            }
        }
        Ok(report)
    }

    /// Open runs that nobody executes now and that are gone on with: restores and drills only to be cleaned up.
    async fn parked(&self) -> Result<Vec<RunRecord>> {
        let (mut runs, moving) = (self.runs().await?, self.moving().await?);
        let resumed =
            |run: &RunRecord| matches!(run.kind, RunKind::Replicate | RunKind::Import) || run.next_try.is_some();
        runs.retain(|run| {
            run.state == RunState::Open && resumed(run) && !self.is_active(&run.id) && !moving.contains(&run.id)
        });
        Ok(runs)
    }

    /// When the next run of any policy is due, as far as servers are known, or a parked run is tried again.
    pub async fn next_due(&self) -> Result<Option<Timestamp>> {
        let now = self.now();
        let parked = self.parked().await?.into_iter().filter_map(|run| run.next_try);
        let mut next = parked.chain(self.moves_due().await?).min();
        for policy in self.policies().iter() {
            let Some(calendar) = policy.schedule.as_ref().and_then(|schedule| Calendar::new(schedule).ok()) else {
                continue;
            };
            if let Some(at) = calendar.next_after(now) {
                next = Some(next.map_or(at, |before: Timestamp| before.min(at)));
            }
        }
        Ok(next)
    }

    /// When a server's next run under a policy is due, its jitter included.
    pub(crate) fn next_of(&self, policy: &Policy, server: &ServerName, now: Timestamp) -> Option<Timestamp> {
        let calendar = Calendar::new(policy.schedule.as_ref()?).ok()?;
        let at = calendar.next_after(now)?;
        at.checked_add(calendar.jitter(server)).ok()
    }

    /// The occurrence that is due for a server. What is forgotten, or seen for the first time, is recorded at once.
    async fn occurrence(&self, calendar: &Calendar, policy: &Policy, server: &ServerName) -> Result<Option<Timestamp>> {
        let key = policy_key(&policy.name, server);
        let now = self.now();
        let record: Option<OccurrenceRecord> = ledger::get(&*self.ledger, Tree::Occurrences, &key).await?;
        let handled = match record {
            Some(record) => match calendar.due(server, record.handled, now) {
                Due::Not => return Ok(None),
                Due::Run { occurrence, .. } => return Ok(Some(occurrence)),
                Due::Forget { occurrence, .. } => occurrence,
            },
            None => now,
        };
        let mut batch = Batch::new();
        batch.put(Tree::Occurrences, key, &OccurrenceRecord { handled, run: None })?;
        self.ledger.commit(batch).await?;
        Ok(None)
    }

    async fn run_occurrence(
        &self,
        policy: &Policy,
        server: ServerName,
        occurrence: Timestamp,
    ) -> Result<Option<crate::RunReport>> {
        let Ok(_busy) = self.occupy(busy_name(&policy.name, &server)) else {
            return Ok(Some(self.already_running(policy, server).await?));
        };
        // the daemon may look twice at the same time: whoever came first has recorded the occurrence
        let key = policy_key(&policy.name, &server);
        let record: Option<OccurrenceRecord> = ledger::get(&*self.ledger, Tree::Occurrences, &key).await?;
        if record.is_some_and(|record| record.handled >= occurrence) {
            return Ok(None);
        }
        self.finish_older(policy, &server).await?;
        let run = self.begin(policy, server.clone());
        let record = OccurrenceRecord { handled: occurrence, run: Some(run.id.clone()) };
        let mut batch = Batch::new();
        batch.put(Tree::Occurrences, policy_key(&policy.name, &server), &record)?;
        batch.put(Tree::Runs, run.id.as_str(), &run)?;
        self.ledger.commit(batch).await?;
        Ok(Some(self.execute(run).await?))
    }

    fn warn(&self, error: &Error) {
        let problem = Problem::from(error);
        self.tell(Event::Warning { run: None, message: problem.message });
    }
}

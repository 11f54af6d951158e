//! Intent and outcome of durable steps. A step is begun durably before it acts and finished durably after; a finished step is skipped
//! when its run goes on, one without an outcome is executed again (every step may be: tokens make creating repeatable).

use model::{Error, Kind, Result, RunId};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Engine;
use crate::ledger::{self, Batch, Tree};
use crate::observe::Event;
use crate::records::StepRecord;

/// A step that has begun.
pub(crate) struct Begun {
    record: StepRecord,
    key: String,
    since: std::time::Instant,
}

impl Begun {
    /// How long ago it began.
    pub(crate) fn seconds(&self) -> f64 {
        self.since.elapsed().as_secs_f64()
    }

    /// Whether an earlier execution may have acted already.
    pub(crate) fn is_repeated(&self) -> bool {
        self.record.attempts > 1
    }
}

impl Engine {
    /// What the step produced, if it is done.
    pub(crate) async fn step_done<T: DeserializeOwned>(&self, run: &RunId, step: &str) -> Result<Option<T>> {
        let record: Option<StepRecord> = ledger::get(&*self.ledger, Tree::Journal, &key(run, step)).await?;
        match record {
            Some(StepRecord { done_at: Some(_), outcome, .. }) => {
                serde_json::from_value(outcome).map(Some).map_err(|error| {
                    Error::new(Kind::Damaged, format!("cannot read the outcome of step {step} of run {run}"))
                        .because(error)
                })
            }
            _ => Ok(None),
        }
    }

    /// Whether the step was ever begun.
    pub(crate) async fn step_known(&self, run: &RunId, step: &str) -> Result<bool> {
        Ok(self.ledger.get_raw(Tree::Journal, &key(run, step)).await?.is_some())
    }

    /// Writes the intent.
    pub(crate) async fn step_begin(&self, run: &RunId, step: &str) -> Result<Begun> {
        let key = key(run, step);
        let before: Option<StepRecord> = ledger::get(&*self.ledger, Tree::Journal, &key).await?;
        let record = StepRecord {
            step: step.to_owned(),
            attempts: before.map_or(0, |record| record.attempts) + 1,
            begun_at: self.now(),
            done_at: None,
            outcome: serde_json::Value::Null,
        };
        let mut batch = Batch::new();
        batch.put(Tree::Journal, &key, &record)?;
        self.ledger.commit(batch).await?;
        self.tell(Event::StepStarted { run: run.clone(), step: step.to_owned() });
        Ok(Begun { record, key, since: std::time::Instant::now() })
    }

    /// Writes the outcome, together with what it changes elsewhere in the ledger.
    pub(crate) async fn step_finish<T: Serialize + Sync>(
        &self,
        run: &RunId,
        begun: Begun,
        outcome: &T,
        mut batch: Batch,
    ) -> Result<()> {
        let mut record = begun.record;
        record.done_at = Some(self.now());
        record.outcome = serde_json::to_value(outcome).map_err(|error| {
            Error::new(Kind::Permanent, format!("cannot journal step {} of run {run}", record.step)).because(error)
        })?;
        batch.put(Tree::Journal, &begun.key, &record)?;
        self.ledger.commit(batch).await?;
        let seconds = begun.since.elapsed().as_secs_f64();
        self.tell(Event::StepFinished { run: run.clone(), step: record.step, seconds });
        Ok(())
    }

    /// Notes what is going to be done, for whoever cleans up; nothing to tell a person.
    pub(crate) async fn step_note<T: Serialize + Sync>(&self, run: &RunId, step: &str, note: &T) -> Result<()> {
        let outcome = serde_json::to_value(note).map_err(|error| {
            Error::new(Kind::Permanent, format!("cannot journal step {step} of run {run}")).because(error)
        })?;
        let (now, step) = (self.now(), step.to_owned());
        let record = StepRecord { step: step.clone(), attempts: 1, begun_at: now, done_at: Some(now), outcome };
        let mut batch = Batch::new();
        batch.put(Tree::Journal, key(run, &step), &record)?;
        self.ledger.commit(batch).await
    }

    /// Forgets that steps were done, so that they are executed again.
    pub(crate) async fn steps_reset(&self, run: &RunId, steps: &[String]) -> Result<()> {
        let mut batch = Batch::new();
        for step in steps {
            batch.delete(Tree::Journal, key(run, step));
        }
        self.ledger.commit(batch).await
    }

    /// Adds the removal of a closed run's journal to a batch: the run's record keeps what matters.
    pub(crate) async fn journal_drop(&self, run: &RunId, batch: &mut Batch) -> Result<()> {
        for (key, _) in self.ledger.scan_raw(Tree::Journal, &format!("{run}/")).await? {
            batch.delete(Tree::Journal, key);
        }
        Ok(())
    }

    /// The step of an open run that was begun and not finished, the earliest.
    pub(crate) async fn step_open(&self, run: &RunId) -> Result<Option<StepRecord>> {
        let steps: Vec<(String, StepRecord)> = ledger::scan(&*self.ledger, Tree::Journal, &format!("{run}/")).await?;
        Ok(steps.into_iter().map(|(_, step)| step).filter(|s| s.done_at.is_none()).min_by_key(|s| s.begun_at))
    }
}

fn key(run: &RunId, step: &str) -> String {
    format!("{run}/{step}")
}

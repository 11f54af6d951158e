//! Notices that the ledger is older than the world: an old copy was put back, the daemon's host was set back to a snapshot, or the ledger was
//! lost. Then places hold points of this installation whose runs the ledger never heard of.
//!
//! They are taken in, and nothing that the old ledger says is taken for granted any more: what it calls verified may be damaged since, what
//! it marked for deletion may be wanted again, what it holds open may have ended long ago. Nothing is deleted or overwritten because of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;
use model::{Error, Kind, Place, ReplicaState, Result, RunId};

use crate::adopt::fresh;
use crate::ledger::{self, Batch, Tree};
use crate::plan::Held;
use crate::records::{CursorRecord, RunRecord, RunState, TombstoneRecord, point_key, replica_key};
use crate::steps::retire;
use crate::{Engine, Event, Problem};

/// The longest that a place may take to answer: one that is down must not hold up what goes to the others.
const LIMIT: Duration = Duration::from_secs(60);

/// What places hold of this installation, and the ledger does not know.
struct Unknown {
    place: Place,
    held: Held,
    /// Whether the ledger has never heard that a run made it, either.
    unheard: bool,
}

impl Engine {
    /// Compares the ledger with the world, once per process. Call it before the first act that rests on what the ledger believes.
    pub(crate) async fn recall(&self) -> Result<()> {
        let _one = self.recalling.lock().await;
        if !self.recalled.load(Ordering::SeqCst) {
            self.recall_locked().await?;
        }
        Ok(())
    }

    /// Compares again, whatever was compared before: a host can be set back while the daemon runs. Returns how many replicas were taken in.
    pub(crate) async fn recall_now(&self) -> Result<usize> {
        let _one = self.recalling.lock().await;
        self.recall_locked().await
    }

    async fn recall_locked(&self) -> Result<usize> {
        let unknown = self.unknown().await?;
        let behind = unknown.iter().filter(|found| found.unheard).count();
        let mut batch = Batch::new();
        if behind > 0 {
            self.doubt(&mut batch).await?;
        }
        for Unknown { place, held, .. } in &unknown {
            let replica = model::Replica { image: held.image.clone(), ..fresh(&held.point.id, place) };
            batch.put(Tree::Replicas, replica_key(&held.point.id, place), &replica)?;
            batch.put(Tree::Points, point_key(&held.point), &held.point)?;
        }
        if !unknown.is_empty() {
            model::crash::point("recall.commit.before");
            self.ledger.commit(batch).await?;
            model::crash::point("recall.commit.after");
        }
        if behind > 0 {
            let message = format!(
                "the ledger is older than what vaults and sites hold: {behind} replicas of runs that it never heard of were taken in; \
                 it was lost or set back, so nothing counts as verified, and nothing is deleted, until `replicate verify` has read it"
            );
            self.tell(Event::Warning { run: None, message });
        }
        self.recalled.store(true, Ordering::SeqCst);
        Ok(unknown.len())
    }

    /// What every place holds of ours and the catalogue lacks. A place that does not answer says nothing.
    async fn unknown(&self) -> Result<Vec<Unknown>> {
        let catalogue = self.catalogue().await?;
        let known: BTreeSet<String> = catalogue.replicas.iter().map(|r| replica_key(&r.point, &r.place)).collect();
        let dead: Vec<(String, TombstoneRecord)> = ledger::scan(&*self.ledger, Tree::Tombstones, "").await?;
        let dead: BTreeSet<String> = dead.into_iter().map(|(key, _)| key).collect();
        let runs: BTreeMap<RunId, RunRecord> =
            self.runs().await?.into_iter().map(|run| (run.id.clone(), run)).collect();
        let mut unknown = Vec::new();
        let asked = self.places().into_iter().map(|place| async move {
            let held = tokio::time::timeout(LIMIT, self.held(&place)).await;
            (place, held)
        });
        for (place, held) in join_all(asked).await {
            let held = match held {
                Ok(Ok(held)) => held,
                Ok(Err(error)) => {
                    tracing::debug!(%place, why = error.chain(), "not compared with the ledger");
                    continue;
                }
                Err(_) => {
                    tracing::debug!(%place, "not compared with the ledger: no answer came");
                    continue;
                }
            };
            for held in held.into_iter().filter(|held| held.point.owner.as_ref() == Some(&self.owner)) {
                let (key, run) = (replica_key(&held.point.id, &place), runs.get(&held.point.id.run()));
                let unheard = match run {
                    // what an open run commits is what it has fixed before; it finds that by itself
                    Some(run) if run.state == RunState::Open => match run.point.as_ref() == Some(&held.point) {
                        true => continue,
                        false => true,
                    },
                    run => run.is_none(),
                };
                if !known.contains(&key) && !dead.contains(&key) {
                    unknown.push(Unknown { place: place.clone(), held, unheard });
                }
            }
        }
        Ok(unknown)
    }

    /// Takes back what an old ledger cannot know: verdicts, marks for deletion, change maps, open runs.
    async fn doubt(&self, batch: &mut Batch) -> Result<()> {
        for mut replica in self.catalogue().await?.replicas {
            replica.doomed_at = None;
            if replica.state != ReplicaState::Damaged {
                replica.state = ReplicaState::Committed;
            }
            batch.put(Tree::Replicas, replica_key(&replica.point, &replica.place), &replica)?;
        }
        let cursors: Vec<(String, CursorRecord)> = ledger::scan(&*self.ledger, Tree::Cursors, "").await?;
        cursors.into_iter().for_each(|(key, _)| batch.delete(Tree::Cursors, key));
        self.doubt_moves(batch).await?;
        for run in self.runs().await?.into_iter().filter(|run| run.state == RunState::Open && !self.is_active(&run.id))
        {
            self.close_forgotten(run, batch).await?;
        }
        Ok(())
    }

    /// Ends a run that may have ended long ago. What it committed is at its places; its scratch is for the sweep.
    async fn close_forgotten(&self, mut run: RunRecord, batch: &mut Batch) -> Result<()> {
        let error = Error::new(Kind::Cancelled, format!("{} {} was given up", run.kind.name(), run.id));
        run.problem = Some(Problem::from(&error.because("the ledger is older than what vaults and sites hold")));
        run.lost = true;
        let outcome = retire::outcome(&run);
        retire::close_as(self, &mut run, outcome, batch).await
    }
}

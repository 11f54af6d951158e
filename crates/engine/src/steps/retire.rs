//! Ends a run: the capture is released, the next one's base is noted, what the run held is free.

use cloud::{Capture, Outcome};
use model::{Result, crash};

use super::Context;
use crate::ledger::{self, Batch, Tree};
use crate::records::{CursorRecord, HoldRecord, RunRecord, RunState};
use crate::{DestinationState, Engine, RunOutcome};

/// Ledger name.
pub(crate) const NAME: &str = "retire";

/// Releases and closes. `keep_base`: the point is committed somewhere and the capture held to the end, so its cursor is the new
/// base; otherwise the changes since the old one must be in the next capture.
pub(crate) async fn run(context: &mut Context<'_>, capture: Option<&Capture>, keep_base: bool) -> Result<()> {
    let engine = context.engine;
    let begun = engine.step_begin(&context.run.id, NAME).await?;
    if let (Some(source), Some(capture)) = (context.source()?, capture) {
        crash::point("run.release.before");
        source.release(capture, if keep_base { Outcome::Committed } else { Outcome::Abandoned }).await?;
        crash::point("run.release.after");
    }
    let mut batch = Batch::new();
    if let (true, Some(key), Some(capture)) = (keep_base, context.cursor_key(), capture) {
        match (cursor(context, capture), &capture.cursor) {
            (Some(record), Some(_)) => batch.put(Tree::Cursors, key, &record)?,
            // the source keeps no change map: the next run reads everything
            _ => batch.delete(Tree::Cursors, key),
        }
    }
    close(context, &mut batch).await?;
    engine.ledger.commit(batch).await?;
    drop(begun);
    Ok(())
}

fn cursor(context: &Context<'_>, capture: &Capture) -> Option<CursorRecord> {
    let point = context.run.point.as_ref()?;
    let received = context.run.destinations.iter().map(|d| d.received_bytes).max().unwrap_or(0);
    Some(CursorRecord {
        site: context.run.site.clone()?,
        cursor: capture.cursor.clone()?,
        base: point.id.clone(),
        disks: point.disks.clone(),
        last_bytes: received,
    })
}

/// Closes the run's record by what its destinations say.
pub(crate) async fn close(context: &mut Context<'_>, batch: &mut Batch) -> Result<()> {
    let outcome = outcome(&context.run);
    close_as(context.engine, &mut context.run, outcome, batch).await
}

/// Closes a run's record, lets go of what it held and drops its journal, all in one batch.
pub(crate) async fn close_as(
    engine: &Engine,
    run: &mut RunRecord,
    outcome: RunOutcome,
    batch: &mut Batch,
) -> Result<()> {
    run.state = RunState::Closed;
    run.finished_at = Some(engine.now());
    for destination in run.destinations.iter_mut().filter(|d| d.state != DestinationState::Done) {
        destination.state = DestinationState::GivenUp;
    }
    run.outcome = Some(outcome);
    batch.put(Tree::Runs, run.id.as_str(), run)?;
    let holds: Vec<(String, HoldRecord)> = ledger::scan(&*engine.ledger, Tree::Holds, "").await?;
    for (key, _) in holds.into_iter().filter(|(_, hold)| hold.run == run.id) {
        batch.delete(Tree::Holds, key);
    }
    engine.journal_drop(&run.id, batch).await
}

/// How a run stands, by its destinations.
pub(crate) fn outcome(run: &RunRecord) -> RunOutcome {
    let done = run.destinations.iter().filter(|d| d.state == DestinationState::Done).count();
    match done {
        0 => RunOutcome::Failed,
        n if n == run.destinations.len() => RunOutcome::Done,
        _ => RunOutcome::PartlyDone,
    }
}

//! The daemon's own work: what the last process left open, what is due, retention.

use std::sync::Arc;
use std::time::Duration;

use engine::{CompactedReport, PruneRequest, RunsReport};
use model::{Clock, Result};
use tokio::sync::Semaphore;

use super::State;
use crate::wiring::SystemClock;

/// The longest sleep: the wall clock may jump, and no timer hears of that.
const LONGEST: Duration = Duration::from_secs(20);

/// Runs what is due, until the daemon stops.
pub async fn run(state: Arc<State>, parallel: usize) {
    let turns = Arc::new(Semaphore::new(parallel));
    begin_recovery(&state);
    begin_retention(&state);
    loop {
        tokio::select! {
            () = state.stopping.cancelled() => return,
            () = tokio::time::sleep(pause(&state).await) => {}
        }
        // each turn is work of its own: a server that takes hours does not keep the others waiting
        let Ok(turn) = Arc::clone(&turns).try_acquire_owned() else { continue };
        let busy = Arc::clone(&state);
        state.begin(async move {
            let _turn = turn;
            let engine = busy.engine();
            tell("due runs ended", engine.run_due().await);
            tell("parked runs were tried again", engine.retry_due().await);
        });
    }
}

/// One line for the log.
fn tell(what: &str, report: Result<RunsReport>) {
    match report {
        Ok(report) if report.runs.is_empty() => {}
        Ok(report) => tracing::info!(runs = report.runs.len(), outcome = ?report.outcome(), "{what}"),
        Err(error) => tracing::error!(why = error.chain(), "cannot do its work: {what}"),
    }
}

async fn pause(state: &State) -> Duration {
    match state.engine().next_due().await {
        Ok(Some(due)) => {
            let wait = due.duration_since(SystemClock.now());
            Duration::try_from(wait).unwrap_or_default().clamp(Duration::from_millis(200), LONGEST)
        }
        Ok(None) => LONGEST,
        Err(error) => {
            tracing::error!(why = error.chain(), "cannot see what is due");
            LONGEST
        }
    }
}

/// Goes on with what a dead process left open, then deletes what belongs to nobody.
fn begin_recovery(state: &Arc<State>) {
    let busy = Arc::clone(state);
    state.begin(async move {
        let engine = busy.engine();
        tell("open runs went on", engine.resume().await);
        match engine.sweep().await {
            Ok(report) => tracing::info!(deleted = report.deleted.len(), "swept"),
            Err(error) => tracing::error!(why = error.chain(), "cannot sweep"),
        }
    });
}

fn tell_compacted(report: &CompactedReport) {
    for (vault, done) in &report.vaults {
        let (taken, written) = (done.taken_bytes, done.written_bytes);
        tracing::info!(%vault, taken, written, unreadable = done.unreadable.len(), "compacted");
    }
    for problem in &report.problems {
        tracing::error!(why = problem.message, "cannot compact");
    }
}

fn begin_retention(state: &Arc<State>) {
    let busy = Arc::clone(state);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = busy.stopping.cancelled() => return,
                () = tokio::time::sleep(busy.retention_every()) => {}
            }
            let inner = Arc::clone(&busy);
            busy.begin(async move {
                match inner.engine().prune(&PruneRequest { collect: true, ..PruneRequest::default() }).await {
                    Ok(report) => tracing::info!(
                        marked = report.doomed.len(),
                        deleted = report.deleted.len(),
                        problems = report.problems.len(),
                        "retention applied"
                    ),
                    Err(error) => tracing::error!(why = error.chain(), "cannot apply retention"),
                }
                match inner.engine().compact_due().await {
                    Ok(report) => tell_compacted(&report),
                    Err(error) => tracing::error!(why = error.chain(), "cannot compact"),
                }
            });
        }
    });
}

//! The daemon's own work: what the last process left open, what is due, retention.

use std::sync::Arc;
use std::time::Duration;

use engine::PruneRequest;
use model::Clock;
use tokio::sync::Semaphore;

use super::State;
use crate::wiring::SystemClock;

/// The longest sleep: the wall clock may jump, and no timer hears of that.
const LONGEST: Duration = Duration::from_secs(20);
/// How often retention is applied and vaults are collected.
const RETENTION: Duration = Duration::from_secs(6 * 3600);

/// Runs what is due, until the daemon stops.
pub async fn run(state: Arc<State>) {
    let turns = Arc::new(Semaphore::new(state.parallel_runs));
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
            match busy.engine.run_due().await {
                Ok(report) if report.runs.is_empty() => {}
                Ok(report) => tracing::info!(runs = report.runs.len(), outcome = ?report.outcome(), "due runs ended"),
                Err(error) => tracing::error!(why = error.chain(), "cannot run what is due"),
            }
        });
    }
}

async fn pause(state: &State) -> Duration {
    match state.engine.next_due().await {
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
        match busy.engine.resume().await {
            Ok(report) if report.runs.is_empty() => {}
            Ok(report) => tracing::info!(runs = report.runs.len(), outcome = ?report.outcome(), "open runs went on"),
            Err(error) => tracing::error!(why = error.chain(), "cannot go on with open runs"),
        }
        match busy.engine.sweep().await {
            Ok(report) => tracing::info!(deleted = report.deleted.len(), "swept"),
            Err(error) => tracing::error!(why = error.chain(), "cannot sweep"),
        }
    });
}

fn begin_retention(state: &Arc<State>) {
    let busy = Arc::clone(state);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = busy.stopping.cancelled() => return,
                () = tokio::time::sleep(RETENTION) => {}
            }
            let inner = Arc::clone(&busy);
            busy.begin(async move {
                match inner.engine.prune(&PruneRequest { collect: true, ..PruneRequest::default() }).await {
                    Ok(report) => tracing::info!(
                        marked = report.doomed.len(),
                        deleted = report.deleted.len(),
                        problems = report.problems.len(),
                        "retention applied"
                    ),
                    Err(error) => tracing::error!(why = error.chain(), "cannot apply retention"),
                }
            });
        }
    });
}

//! Where the engine's events go in the daemon: into the log, and to every request that is listening.

use engine::{Event, Observer};
use tokio::sync::broadcast;

/// A slow listener loses progress, never the answer.
const WAITING: usize = 4096;

/// Spreads events.
pub struct Hub {
    send: broadcast::Sender<Event>,
}

impl Default for Hub {
    fn default() -> Self {
        Self { send: broadcast::Sender::new(WAITING) }
    }
}

impl Hub {
    /// All events from now on.
    pub fn listen(&self) -> broadcast::Receiver<Event> {
        self.send.subscribe()
    }
}

impl Observer for Hub {
    fn event(&self, event: &Event) {
        log(event);
        // nobody listening is fine
        let _ = self.send.send(event.clone());
    }
}

/// One line an event, fields not prose.
fn log(event: &Event) {
    match event {
        Event::RunStarted { run, server, what, resumed } => {
            tracing::info!(%run, %server, what, resumed, "run started");
        }
        Event::StepStarted { run, step } => tracing::debug!(%run, step, "step started"),
        Event::StepFinished { run, step, seconds } => tracing::info!(%run, step, seconds, "step finished"),
        Event::StepFailed { run, step, problem } => {
            tracing::warn!(%run, step, why = problem.message, "step failed");
        }
        Event::Progress { .. } => {}
        Event::Rung { run, rung, seconds } => tracing::info!(%run, rung, seconds, "rung reached"),
        Event::FellOver { point, from, problem } => {
            tracing::warn!(%point, from, why = problem.message, "fell over to another replica");
        }
        Event::Warning { run, message } => {
            let run = run.as_ref().map(ToString::to_string);
            tracing::warn!(run, message, "warning");
        }
        Event::RunFinished { run, outcome, seconds } => {
            tracing::info!(%run, ?outcome, seconds, "run finished");
        }
    }
}

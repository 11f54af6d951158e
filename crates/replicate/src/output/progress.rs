//! What long work shows while it goes on: bars with rate and ETA on a terminal, plain lines elsewhere.

use std::collections::{HashMap, HashSet};
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use engine::{Event, Observer, RunOutcome};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use model::RunId;

use super::{Printer, human, note};

/// Plain progress lines come at most so often: a log is not a film.
const PLAIN_PAUSE: Duration = Duration::from_secs(15);

/// Shows events.
pub struct Progress {
    /// None: silence.
    style: Option<Style>,
    state: Mutex<State>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Bars,
    Lines,
}

#[derive(Default)]
struct State {
    bars: MultiProgress,
    shown: HashMap<String, ProgressBar>,
    said: HashMap<String, Instant>,
    /// Runs whose beginning was shown: what belongs to no such run is somebody else's, or only its preparation.
    begun: HashSet<RunId>,
}

impl Progress {
    /// Progress as this invocation wants it.
    pub fn new(printer: Printer) -> Self {
        let style = match (printer.json || printer.quiet, std::io::stderr().is_terminal()) {
            (true, _) => None,
            (false, true) => Some(Style::Bars),
            (false, false) => Some(Style::Lines),
        };
        Self { style, state: Mutex::default() }
    }

    /// Takes all bars away, so that what follows is printed below.
    pub fn finish(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.shown.drain().for_each(|(_, bar)| bar.finish_and_clear());
    }

    fn has_begun(&self, run: &RunId) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).begun.contains(run)
    }

    fn bytes(&self, what: &str, done: u64, total: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match self.style {
            Some(Style::Bars) => {
                if total > 0 && done >= total {
                    if let Some(bar) = state.shown.remove(what) {
                        bar.finish_and_clear();
                    }
                    return;
                }
                let bars = state.bars.clone();
                let bar = state.shown.entry(what.to_owned()).or_insert_with(|| bars.add(new_bar(what, total)));
                bar.set_length(total);
                bar.set_position(done);
            }
            Some(Style::Lines) => {
                let now = Instant::now();
                let begun = *state.said.entry(what.to_owned()).or_insert(now);
                if now.duration_since(begun) >= PLAIN_PAUSE {
                    state.said.insert(what.to_owned(), now);
                    let share = (done * 100).checked_div(total).map(|share| format!(", {share} %")).unwrap_or_default();
                    note(&format!("{what}: {} of {}{share}\n", human::bytes(done), human::bytes(total)));
                }
            }
            None => {}
        }
    }

    fn say(&self, line: &str) {
        match self.style {
            Some(Style::Bars) => {
                let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                state.bars.suspend(|| note(&format!("{line}\n")));
            }
            Some(Style::Lines) => note(&format!("{line}\n")),
            None => {}
        }
    }
}

fn new_bar(what: &str, total: u64) -> ProgressBar {
    let form = "{prefix:<24} {bar:28} {bytes:>11} of {total_bytes:<11} {bytes_per_sec:>13}  {eta} left";
    let style = ProgressStyle::with_template(form).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(total).with_style(style.progress_chars("=> "));
    bar.set_prefix(what.to_owned());
    bar
}

impl Observer for Progress {
    fn event(&self, event: &Event) {
        if self.style.is_none() {
            return;
        }
        match event {
            Event::Progress { what, done, total, .. } => self.bytes(what, *done, *total),
            Event::StepFinished { run, .. } if !self.has_begun(run) => {}
            other => {
                if let Event::RunStarted { run, .. } = other {
                    self.state.lock().unwrap_or_else(PoisonError::into_inner).begun.insert(run.clone());
                }
                if let Some(line) = line(other) {
                    self.say(&line);
                }
            }
        }
    }
}

/// The event in a line, if it is worth one.
fn line(event: &Event) -> Option<String> {
    Some(match event {
        Event::RunStarted { run, server, what, resumed } => {
            let resumed = if *resumed { ", going on where it stopped" } else { "" };
            format!("{what} of {server}: run {run}{resumed}")
        }
        Event::StepFinished { step, seconds, .. } => format!("  {step:<24} {}", human::seconds(*seconds)),
        Event::StepFailed { step, problem, .. } => format!("  {step:<24} cannot go on: {}", problem.message),
        Event::Rung { rung, seconds, .. } => format!("  {rung:<24} after {}", human::seconds(*seconds)),
        Event::FellOver { point, from, problem } => {
            format!("warning: point {point} cannot be read from {from}: {}", problem.message)
        }
        Event::Warning { message, .. } => format!("warning: {message}"),
        Event::RunFinished { run, outcome, seconds } => {
            let how = match outcome {
                RunOutcome::Done => "done",
                RunOutcome::PartlyDone => "partly done",
                RunOutcome::Failed => "failed",
                RunOutcome::AlreadyRunning => "already running",
            };
            format!("run {run}: {how} after {}", human::seconds(*seconds))
        }
        Event::StepStarted { .. } | Event::Progress { .. } => return None,
    })
}

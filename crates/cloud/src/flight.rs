//! How many calls are in flight at once, and how many are made a second.
//!
//! Until the other side throttles, only what is in flight is bounded: a call that goes well while all turns are out adds
//! one, so a long way is soon full. From the first throttling on calls have a *pace*, first what flew then, by its own
//! latency. It is learnt in rounds of half a second's calls: after one of which some were throttled it is what was
//! accepted of it; after one without, a little more, and twice as much more after each that follows. So it stays
//! close to the rate at which throttling begins, whatever the latency is, and a throttled call is made again when it is
//! its turn: nothing stands still for it. A round that is mostly throttled is judged before it is over.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::{Kind, Result};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until};

#[cfg(test)]
mod tests;

/// So many calls alone that are throttled say nothing of how many may fly.
const LEAST: usize = 2;
/// Calls a second below which no throttling brings the pace.
const SLOWEST: f64 = 8.0;
/// Answers that make a round where half a second has fewer.
const FEWEST: f64 = 16.0;
/// Throttled answers that end a round, at most: its first ones still meet calls that were made before.
const MANY: f64 = 64.0;
/// The least part of the pace that one round leaves.
const DEEPEST: f64 = 0.25;
/// What the first round without throttling adds to the pace; each further one adds twice as much as the one before.
const STEP: f64 = 0.01;
/// What one round adds at most.
const LEAP: f64 = 0.25;
/// Rounds without throttling after which it does.
const LEAPING: u32 = 5;
/// Timers are late: as much of the pace is made up for.
const LATE: Duration = Duration::from_millis(10);

/// How many calls may be made at one place.
#[derive(Debug)]
pub struct Flight {
    most: usize,
    permits: Semaphore,
    /// When the next call is made at the pace. Locked while that is waited for, so calls come in their order.
    next: tokio::sync::Mutex<Instant>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    allowed: usize,
    pace: Option<f64>,
    round: Round,
}

/// Answers to calls that were made since the pace changed.
#[derive(Debug, Default)]
struct Round {
    number: u64,
    accepted: u32,
    throttled: u32,
    /// Calls waited for the pace: it is what bounds them.
    waited: bool,
    /// Rounds before it, one after another, in which nothing was throttled.
    calm: u32,
}

/// A call's turn, from before it is made until it is answered or dropped.
#[derive(Debug)]
pub struct Turn<'a> {
    flight: &'a Flight,
    began: Instant,
    round: u64,
    _permit: Option<SemaphorePermit<'a>>,
}

impl Flight {
    /// Begins with `first` calls in flight, and comes to `most` of them where nobody throttles.
    pub fn new(first: usize, most: usize) -> Self {
        let (allowed, most) = (first.max(1), most.max(first).max(1));
        let state = State { allowed, pace: None, round: Round::default() };
        let next = tokio::sync::Mutex::new(Instant::now());
        Self { most, permits: Semaphore::new(allowed), next, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many calls may be in flight now.
    pub fn allowed(&self) -> usize {
        self.state().allowed
    }

    /// Calls a second, once throttling has told them.
    pub fn pace(&self) -> Option<f64> {
        self.state().pace
    }

    /// Waits until one more call may be made.
    pub async fn turn(&self) -> Turn<'_> {
        // the semaphore is never closed
        let permit = self.permits.acquire().await.ok();
        let mut next = self.next.lock().await;
        while let Some(pace) = self.pace() {
            let now = Instant::now();
            let at = (*next).max(now.checked_sub(LATE).unwrap_or(now));
            if at <= now {
                *next = at + Duration::from_secs_f64(1.0 / pace);
                break;
            }
            self.state().round.waited = true;
            sleep_until(at).await;
        }
        Turn { flight: self, began: Instant::now(), round: self.state().round.number, _permit: permit }
    }

    fn accepted(&self, turn: &Turn<'_>) {
        let mut state = self.state();
        // more would not be used where a turn is free
        if self.permits.available_permits() == 0 && state.allowed < self.most {
            state.allowed += 1;
            self.permits.add_permits(1);
        }
        if turn.round == state.round.number {
            state.round.accepted += 1;
            state.judge();
        }
    }

    /// Whether the pace spaces throttled calls.
    fn throttled(&self, turn: &Turn<'_>) -> bool {
        let mut state = self.state();
        let flying = state.allowed.saturating_sub(self.permits.available_permits());
        if flying <= LEAST {
            return false;
        }
        if state.pace.is_none() {
            let latency = turn.began.elapsed().max(Duration::from_millis(1));
            state.begin(flying as f64 / latency.as_secs_f64(), 0);
        } else if turn.round == state.round.number {
            state.round.throttled += 1;
            state.judge();
        }
        true
    }
}

impl State {
    fn begin(&mut self, pace: f64, calm: u32) {
        self.pace = Some(pace.max(SLOWEST));
        self.round = Round { number: self.round.number + 1, calm, ..Round::default() };
    }

    /// Ends the round if it has told enough.
    fn judge(&mut self) {
        let (Some(pace), Round { accepted, throttled, waited, calm, .. }) = (self.pace, &self.round) else { return };
        let (answers, calm) = (f64::from(accepted + throttled), *calm);
        if answers < FEWEST.max(pace / 2.0) && f64::from(*throttled) < (pace / 16.0).clamp(FEWEST, MANY) {
            return;
        }
        match (throttled, waited) {
            (0, true) => self.begin(pace * (1.0 + (STEP * f64::from(calm).exp2()).min(LEAP)), calm + 1),
            // the callers have no use for more
            (0, false) => self.begin(pace, 0),
            _ => match f64::from(*accepted) / answers {
                accepted if accepted > DEEPEST => self.begin(pace * accepted, 0),
                // where the limit is, or whether it is one, is not known: from here it is sought by leaps
                _ => self.begin(pace * DEEPEST, LEAPING),
            },
        }
    }
}

impl Turn<'_> {
    /// Takes an answer as a sign. True: the call was throttled, and if it takes another turn at once, that comes when it
    /// should.
    pub fn end<T>(self, answer: &Result<T>) -> bool {
        match answer {
            Ok(_) => {
                self.flight.accepted(&self);
                false
            }
            Err(error) if error.kind() == Kind::Throttled => {
                self.flight.throttled(&self) && error.retry_after().is_none()
            }
            Err(_) => false,
        }
    }
}

//! How many calls are in flight at once: more as long as all goes well, fewer when the other side throttles.
//!
//! Until the first throttling every call that goes well adds one, so a long way is soon full; from then on every
//! window of them. A throttling takes an eighth. Throttled answers come in bursts: those to calls that were made before the
//! last cut say nothing new. A call waits its turn for every attempt, and holds none while it waits to be tried again.

use std::sync::{Mutex, MutexGuard, PoisonError};

use model::{Kind, Result};
use tokio::sync::{Semaphore, SemaphorePermit};

/// So many are always allowed: one alone that is throttled says nothing of how many may fly.
const LEAST: usize = 2;

/// How many calls may be in flight at one place.
#[derive(Debug)]
pub struct Flight {
    most: usize,
    permits: Semaphore,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    allowed: usize,
    /// Permits that are out and not given back when they come.
    withheld: usize,
    /// Calls that went well since one was added.
    good: usize,
    cuts: u64,
}

/// A call's turn, from before it is made until it is answered or dropped.
#[derive(Debug)]
pub struct Turn<'a> {
    flight: &'a Flight,
    permit: Option<SemaphorePermit<'a>>,
    /// The cuts before it.
    cuts: u64,
}

impl Flight {
    /// Begins with `first` calls in flight, and comes to `most` of them where nobody throttles.
    pub fn new(first: usize, most: usize) -> Self {
        let (allowed, most) = (first.max(1), most.max(first).max(1));
        let state = State { allowed, withheld: 0, good: 0, cuts: 0 };
        Self { most, permits: Semaphore::new(allowed), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many calls may be in flight now.
    pub fn allowed(&self) -> usize {
        self.state().allowed
    }

    /// Waits until one more call may be made.
    pub async fn turn(&self) -> Turn<'_> {
        // the semaphore is never closed
        let permit = self.permits.acquire().await.ok();
        Turn { flight: self, permit, cuts: self.state().cuts }
    }

    fn went_well(&self) {
        let mut state = self.state();
        // more would not be used
        if self.permits.available_permits() > 0 || state.allowed == self.most {
            return;
        }
        state.good += 1;
        if state.cuts > 0 && state.good < state.allowed {
            return;
        }
        (state.good, state.allowed) = (0, state.allowed + 1);
        match state.withheld {
            0 => self.permits.add_permits(1),
            _ => state.withheld -= 1,
        }
    }

    fn throttled(&self, cuts: u64) {
        let mut state = self.state();
        let flying = (state.allowed + state.withheld).saturating_sub(self.permits.available_permits());
        if cuts < state.cuts || flying <= LEAST {
            return;
        }
        let allowed = (flying - flying.div_ceil(8)).clamp(LEAST, state.allowed);
        let less = state.allowed - allowed;
        state.withheld += less - self.permits.forget_permits(less);
        (state.allowed, state.good, state.cuts) = (allowed, 0, state.cuts + 1);
    }
}

impl Turn<'_> {
    /// Takes an answer as a sign.
    pub fn end<T>(self, answer: &Result<T>) {
        match answer {
            Ok(_) => self.flight.went_well(),
            Err(error) if error.kind() == Kind::Throttled => self.flight.throttled(self.cuts),
            Err(_) => {}
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.flight.state();
        if state.withheld > 0
            && let Some(permit) = self.permit.take()
        {
            state.withheld -= 1;
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use model::Error;

    use super::*;

    fn throttled() -> Result<()> {
        Err(Error::new(Kind::Throttled, "cannot put"))
    }

    /// So many turns as there are without waiting.
    fn all(flight: &Flight) -> Vec<Turn<'_>> {
        let turn = || futures::FutureExt::now_or_never(tokio::task::unconstrained(flight.turn()));
        std::iter::from_fn(turn).collect()
    }

    #[tokio::test]
    async fn a_burst_of_throttled_answers_is_one_cut() {
        let flight = Flight::new(32, 64);
        let turns = all(&flight);
        assert_eq!(turns.len(), 32);
        turns.into_iter().for_each(|turn| turn.end(&throttled()));
        assert_eq!((flight.allowed(), all(&flight).len()), (28, 28), "however many were throttled");
        let turns = all(&flight);
        turns.into_iter().for_each(|turn| turn.end(&throttled()));
        assert_eq!((flight.allowed(), all(&flight).len()), (24, 24));
    }

    #[tokio::test]
    async fn it_grows_fast_until_it_is_cut_and_then_by_one_a_window() {
        let flight = Flight::new(8, 64);
        for expected in [16, 32, 64, 64] {
            // each is answered while all others are out
            for _ in 0..flight.allowed() {
                let turns = all(&flight);
                turns.into_iter().next().unwrap().end(&Ok(()));
            }
            assert_eq!(flight.allowed(), expected);
        }
        all(&flight).pop().unwrap().end(&throttled());
        let cut = flight.allowed();
        assert_eq!(cut, 56);
        for _ in 0..cut {
            let turns = all(&flight);
            turns.into_iter().next().unwrap().end(&Ok(()));
        }
        assert_eq!((flight.allowed(), all(&flight).len()), (57, 57));
    }

    #[tokio::test]
    async fn calls_one_by_one_change_nothing() {
        let flight = Flight::new(8, 64);
        for _ in 0..100 {
            flight.turn().await.end(&throttled());
            flight.turn().await.end(&Ok(()));
        }
        assert_eq!((flight.allowed(), all(&flight).len()), (8, 8));
        let narrow = Flight::new(1, 1);
        narrow.turn().await.end(&throttled());
        assert_eq!(all(&narrow).len(), 1);
    }
}

//! The two clocks. Resources live by the *simulated* clock, which is moved and sped up through the control API and
//! survives a restart; signatures are checked against the real one (plus a settable skew), for that is what a
//! client's machine shows.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// How the simulated clock stands to the real one. Part of the saved world.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Clock {
    /// The real instant at which the rest was set.
    since: Timestamp,
    /// What the simulated clock showed then.
    base: Timestamp,
    /// Simulated seconds for a real one.
    speed: f64,
    /// What the simulator's machine shows, less the truth: signatures are held against it.
    pub(crate) skew_seconds: i64,
}

/// The machine's own clock, read here only.
#[allow(clippy::disallowed_methods, reason = "the simulator is where simulated time comes from")]
pub(crate) fn real() -> Timestamp {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::UNIX_EPOCH.checked_add(elapsed).unwrap_or(Timestamp::MAX)
}

impl Default for Clock {
    fn default() -> Self {
        let now = real();
        Self { since: now, base: now, speed: 1.0, skew_seconds: 0 }
    }
}

impl Clock {
    /// Simulated time.
    pub(crate) fn now(&self) -> Timestamp {
        let real = real().duration_since(self.since).as_secs_f64().max(0.0);
        later(self.base, real * self.speed)
    }

    /// What a signature's date is compared with.
    pub(crate) fn wall(&self) -> Timestamp {
        later(real(), self.skew_seconds as f64)
    }

    /// Moves on; the speed is kept.
    pub(crate) fn advance(&mut self, seconds: f64) {
        self.base = later(self.now(), seconds);
        self.since = real();
    }

    /// Runs `speed` simulated seconds for each real one from now on.
    pub(crate) fn run_at(&mut self, speed: f64) {
        self.base = self.now();
        self.since = real();
        self.speed = speed.clamp(0.0, 100_000.0);
    }

    pub(crate) fn speed(&self) -> f64 {
        self.speed
    }
}

/// `seconds` after an instant.
pub(crate) fn later(instant: Timestamp, seconds: f64) -> Timestamp {
    let span = Duration::try_from_secs_f64(seconds.abs()).unwrap_or_default();
    let span = SignedDuration::try_from(span).unwrap_or_default();
    let moved = if seconds < 0.0 { instant.checked_sub(span) } else { instant.checked_add(span) };
    moved.unwrap_or(instant)
}

/// As EC2 writes instants: milliseconds and a Z.
pub(crate) fn iso(instant: Timestamp) -> String {
    instant.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_jumps_and_runs_fast() {
        let mut clock = Clock::default();
        let before = clock.now();
        clock.run_at(0.0);
        clock.advance(120.0);
        let after = clock.now().duration_since(before).as_secs_f64();
        assert!((120.0..180.0).contains(&after), "{after}");
        assert_eq!(clock.now(), clock.now(), "at speed 0 it stands");
        assert_eq!(iso("2026-11-24T03:04:05.6789Z".parse().unwrap()), "2026-11-24T03:04:05.678Z");
    }
}

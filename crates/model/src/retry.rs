//! When to try again: the one rule behind every retry decorator. Pure: who waits, and for which call, is theirs.

use std::time::Duration;

use jiff::Timestamp;

use crate::{Error, Result};

/// How long to try one operation, and how patiently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// The one deadline of an operation, all its attempts and waits included.
    pub deadline: Duration,
    /// Bound of the first wait; each further bound is twice the one before.
    pub first: Duration,
    /// Bound that no wait exceeds, unless the other side asks for a longer one.
    pub longest: Duration,
}

impl Default for Patience {
    /// A quarter of an hour: a service that restarts or throttles for a while does not fail a night's run.
    fn default() -> Self {
        let first = Duration::from_millis(200);
        Self { deadline: Duration::from_secs(15 * 60), first, longest: Duration::from_secs(30) }
    }
}

/// The attempts of one operation so far.
#[derive(Debug, Clone)]
pub struct Attempts {
    patience: Patience,
    bound: Duration,
    failed: u32,
}

impl Patience {
    /// Before the first attempt.
    pub fn attempts(self) -> Attempts {
        Attempts { patience: self, bound: self.first, failed: 0 }
    }
}

impl Attempts {
    /// How many attempts have failed.
    pub fn failed(&self) -> u32 {
        self.failed
    }

    /// An attempt to `what` (`put packs/a in dir:/srv/vault`) failed, `elapsed` after the operation began: how long to wait for the next, or
    /// the error to end with. The wait is spread by `chance`, 0 to 1, and never shorter than the other side asks for.
    pub fn failed_by(&mut self, error: Error, what: &str, elapsed: Duration, chance: f64) -> Result<Duration> {
        self.failed += 1;
        if !error.kind().is_retryable() {
            return Err(error);
        }
        let spread = self.bound.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0);
        let wait = spread.max(error.retry_after().unwrap_or_default());
        if elapsed.saturating_add(wait) >= self.patience.deadline {
            let tries = if self.failed == 1 { "attempt".to_owned() } else { format!("{} attempts", self.failed) };
            let seconds = elapsed.as_secs();
            return Err(error.within(format!("cannot {what}: gave up after {tries} in {seconds} s")));
        }
        self.bound = (self.bound * 2).min(self.patience.longest);
        Ok(wait)
    }
}

/// Reads the value of a `Retry-After` header: seconds, or a date that is compared with `now`.
pub fn parse_retry_after(header: &str, now: Timestamp) -> Option<Duration> {
    let header = header.trim();
    if let Ok(seconds) = header.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::parse(header).ok()?.timestamp();
    Some(Duration::try_from(at.duration_since(now)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    fn throttled() -> Error {
        Error::new(Kind::Throttled, "cannot list servers")
    }

    #[test]
    fn waits_double_up_to_the_longest_and_end_at_the_deadline() {
        let second = Duration::from_secs(1);
        let patience = Patience { deadline: 20 * second, first: second, longest: 4 * second };
        let mut attempts = patience.attempts();
        for seconds in [1, 2, 4, 4] {
            assert_eq!(attempts.failed_by(throttled(), "list servers", second, 1.0).unwrap(), seconds * second);
        }
        assert_eq!(attempts.failed_by(throttled(), "list servers", second, 0.0).unwrap(), 2 * second);
        let error = attempts.failed_by(throttled(), "list servers", 17 * second, 1.0).unwrap_err();
        assert_eq!(error.kind(), Kind::Throttled);
        assert_eq!(error.to_string(), "cannot list servers: gave up after 6 attempts in 17 s");
    }

    #[test]
    fn what_the_other_side_asks_for_is_the_shortest_wait() {
        let mut attempts = Patience::default().attempts();
        let asked = throttled().come_back_after(Duration::from_secs(90)).within("cannot run policy web");
        assert_eq!(attempts.failed_by(asked, "list servers", Duration::ZERO, 0.5).unwrap(), Duration::from_secs(90));
        let never = throttled().come_back_after(Duration::from_secs(3600));
        assert!(attempts.failed_by(never, "list servers", Duration::ZERO, 0.5).is_err(), "beyond the deadline");
    }

    #[test]
    fn what_a_retry_does_not_mend_ends_at_once_and_unchanged() {
        let mut attempts = Patience::default().attempts();
        let denied = Error::new(Kind::Denied, "cannot list servers");
        let error = attempts.failed_by(denied, "list servers", Duration::ZERO, 0.5).unwrap_err();
        assert_eq!((error.chain().as_str(), attempts.failed()), ("cannot list servers", 1));
    }

    #[test]
    fn headers_are_seconds_or_dates() {
        let now: Timestamp = "2026-11-22T03:00:00Z".parse().unwrap();
        assert_eq!(parse_retry_after(" 7 ", now), Some(Duration::from_secs(7)));
        assert_eq!(parse_retry_after("Sun, 22 Nov 2026 03:01:30 GMT", now), Some(Duration::from_secs(90)));
        assert_eq!(parse_retry_after("Sun, 22 Nov 2026 02:00:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(parse_retry_after("soon", now), None);
    }
}

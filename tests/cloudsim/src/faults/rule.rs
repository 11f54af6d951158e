//! A rule: which calls it is about, when it fires, and what it does.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::auth::policy::fits;

/// A rule, with its counters.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    /// A name for the log.
    #[serde(default)]
    pub(crate) name: String,
    /// Pattern of the operation: `PutSnapshotBlock`, `Describe*`.
    pub(crate) operation: String,
    /// Pattern of anything in the request: its path, query and parameters. None: any.
    #[serde(default)]
    pub(crate) about: Option<String>,
    /// Only the so many-th matching call, from 1.
    #[serde(default)]
    pub(crate) nth: Option<u64>,
    /// Every so many-th matching call.
    #[serde(default)]
    pub(crate) every: Option<u64>,
    /// Each matching call with this chance, decided by `seed` and the call's number: the same each time.
    #[serde(default)]
    pub(crate) probability: Option<f64>,
    #[serde(default)]
    pub(crate) seed: u64,
    /// Fires at most so many times.
    #[serde(default)]
    pub(crate) times: Option<u64>,
    pub(crate) fault: Fault,
    /// Matching calls so far.
    #[serde(default)]
    pub(crate) seen: u64,
    #[serde(default)]
    pub(crate) hits: u64,
}

/// What a rule does.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Fault {
    /// This answer instead, without any effect.
    Status {
        status: u16,
        #[serde(default)]
        code: Option<String>,
        #[serde(default)]
        retry_after: Option<u64>,
    },
    Delay {
        seconds: f64,
    },
    /// TCP reset after so many bytes of the answer's body; without `after`, before any.
    Reset {
        #[serde(default)]
        after: Option<usize>,
    },
    /// The connection is closed after so many bytes of the body.
    Truncate {
        after: usize,
    },
    /// One bit of a body is turned, the answer's or (`request`) the request's.
    Flip {
        byte: usize,
        #[serde(default)]
        bit: u8,
        #[serde(default)]
        request: bool,
    },
    /// The call takes effect and its answer is lost.
    Drop,
    /// The call takes effect twice, as when something on the way sends it again.
    Twice,
    /// The answer that the same question had the last time; nothing where it is asked for the first time.
    Stale,
}

impl Rule {
    /// Counts a call, and tells whether the rule fires for it.
    pub(crate) fn fires(&mut self, operation: &str, request: &str) -> bool {
        let about = self.about.as_deref().is_none_or(|pattern| fits(&format!("*{pattern}*"), request));
        if !fits(&self.operation, operation) || !about {
            return false;
        }
        self.seen += 1;
        let now = self.nth.is_none_or(|nth| nth == self.seen)
            && self.every.is_none_or(|every| every > 0 && self.seen.is_multiple_of(every))
            && self.probability.is_none_or(|chance| chance > self.chance())
            && self.times.is_none_or(|times| self.hits < times);
        self.hits += u64::from(now);
        now
    }

    fn chance(&self) -> f64 {
        let mut random = StdRng::seed_from_u64(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.seen);
        random.random()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Rule {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn rules_fire_when_they_say() {
        let mut nth = rule(r#"{"operation":"Put*","nth":3,"fault":{"kind":"drop"}}"#);
        let fired: Vec<bool> = (0..5).map(|_| nth.fires("PutSnapshotBlock", "")).collect();
        assert_eq!(fired, [false, false, true, false, false]);
        assert!(!nth.fires("GetSnapshotBlock", "") && nth.seen == 5);

        let text = r#"{"operation":"*","probability":0.2,"seed":7,"fault":{"kind":"status","status":503}}"#;
        let run = || -> Vec<bool> {
            let mut it = rule(text);
            (0..1000).map(|_| it.fires("X", "")).collect()
        };
        let hits = run().iter().filter(|hit| **hit).count();
        assert!((150..250).contains(&hits), "{hits}");
        assert_eq!(run(), run(), "the same seed, the same faults");

        let mut about = rule(r#"{"operation":"*","about":"snap-1","times":1,"fault":{"kind":"twice"}}"#);
        assert!(!about.fires("X", "snap-2") && about.fires("X", "/snapshots/snap-1/b") && !about.fires("X", "snap-1"));
    }
}

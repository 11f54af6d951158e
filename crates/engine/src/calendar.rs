//! When a policy is due: cron expressions over civil time in a zone, right across changes of the clocks.
//!
//! The crate `cron` only matches fields; it never sees a zone. Expressions are those of crontab (5 fields), with
//! seconds in front (6) and a year behind (7), or an alias such as `@daily`. 0 and 7 are Sunday. If both day fields are
//! restricted (are not `*`), a day that fits either is meant.
//!
//! When clocks go forward, a fixed time that does not exist runs at the first instant after the gap; a schedule with a
//! wildcard or a step in its minutes or hours just goes on. When clocks go back, a fixed time runs once, at its first
//! occurrence, and a wildcard schedule runs in both hours.

mod parse;

use std::time::Duration;

use cron::Schedule as Fields;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use model::{CatchUp, Error, Kind, Result, Schedule, ServerName};
use serde::{Deserialize, Serialize};

/// An occurrence that is found late by no more than this was not missed: the daemon was restarted, or busy.
const PUNCTUAL: SignedDuration = SignedDuration::from_mins(10);

/// If the last occurrence on record lies this far ahead of now, the clock was wrong when it was written.
const CLOCK_WAS_WRONG: SignedDuration = SignedDuration::from_hours(24);

/// Missed occurrences are counted up to here.
const MANY: u32 = 1000;

/// When a policy runs.
#[derive(Debug, Clone)]
pub struct Calendar {
    /// A day fits if any of these fits.
    fields: Vec<Fields>,
    zone: TimeZone,
    /// Whether minutes and hours are given without wildcard or step.
    fixed: bool,
    jitter: Duration,
    catch_up: CatchUp,
    /// Spreads policies of one server apart.
    salt: String,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "due")]
pub enum Due {
    /// Nothing.
    Not,
    /// Run now.
    Run {
        /// The occurrence, by the calendar (without jitter): what the ledger records.
        occurrence: Timestamp,
        /// How many earlier ones this run stands for; counted up to 1000.
        missed: u32,
    },
    /// Record the occurrence as over, and do not run.
    Forget {
        /// The newest one that was missed.
        occurrence: Timestamp,
        /// How many were missed, this one included; counted up to 1000.
        missed: u32,
    },
}

impl Calendar {
    /// Reads a policy's schedule. An expression that never fires is refused.
    pub fn new(schedule: &Schedule) -> Result<Self> {
        let operation = || format!("cannot read the schedule `{}`", schedule.cron);
        let parsed = parse::expression(&schedule.cron)
            .map_err(|why| Error::new(Kind::Invalid, operation()).because(why.reason).hint(why.hint))?;
        let zone = TimeZone::get(&schedule.timezone).map_err(|error| {
            Error::new(Kind::Invalid, format!("cannot find the time zone `{}`", schedule.timezone))
                .because(error)
                .hint("use a name of the IANA database, such as `Europe/Berlin` or `UTC`")
        })?;
        let calendar = Self {
            fields: parsed.fields,
            zone,
            fixed: parsed.fixed,
            jitter: schedule.jitter,
            catch_up: schedule.catch_up,
            salt: schedule.cron.clone(),
        };
        if calendar.first_behind(0).is_none() {
            return Err(Error::new(Kind::Invalid, operation())
                .because("there is no such day: it would never run")
                .hint("check day and month"));
        }
        Ok(calendar)
    }

    /// The next occurrence behind an instant; none if the expression's years are over.
    pub fn next_after(&self, instant: Timestamp) -> Option<Timestamp> {
        let mut offset = i64::from(self.zone.to_offset(instant).seconds());
        // Seconds of local time; what comes must lie behind.
        let mut behind = floor(instant) + offset;
        if self.fixed
            && let Some(change) = self.change_at_or_before(instant)
        {
            // what the change repeats has run before it
            behind = behind.max(change - 1);
        }
        let mut changes = self.zone.following(instant);
        loop {
            let local = self.first_behind(behind)?;
            let Some(change) = changes.next() else { return at(local - offset) };
            let border = floor(change.timestamp());
            if local - offset < border {
                return at(local - offset);
            }
            let new = i64::from(change.offset().seconds());
            if new > offset && self.fixed && local < border + new {
                return at(border);
            }
            behind = if self.fixed { border + offset.max(new) - 1 } else { border + new - 1 };
            offset = new;
        }
    }

    /// The next `count` occurrences behind an instant.
    pub fn upcoming(&self, instant: Timestamp, count: usize) -> Vec<Timestamp> {
        std::iter::successors(self.next_after(instant), |last| self.next_after(*last)).take(count).collect()
    }

    /// The newest occurrence behind `last` and not behind `now`, and how many there are (counted up to 1000).
    pub fn due_between(&self, last: Timestamp, now: Timestamp) -> Option<(Timestamp, u32)> {
        let first = self.next_after(last).filter(|first| *first <= now)?;
        let mut newest = first;
        let mut count = 1;
        while count < MANY {
            match self.next_after(newest) {
                Some(next) if next <= now => (newest, count) = (next, count + 1),
                _ => return Some((newest, count)),
            }
        }
        // too many to walk through: look back from now, further and further
        let mut back = SignedDuration::from_secs(64);
        let begin = loop {
            let from = now.checked_sub(back).unwrap_or(newest).max(newest);
            if from == newest || self.next_after(from).is_some_and(|next| next <= now) {
                break from;
            }
            back = back.saturating_mul(8);
        };
        while let Some(next) = self.next_after(begin.max(newest)).filter(|next| *next <= now) {
            newest = next;
        }
        Some((newest, count))
    }

    /// How much later than the calendar says this server starts: the same every time, spread evenly over servers.
    pub fn jitter(&self, server: &ServerName) -> Duration {
        let bytes = server.as_str().bytes().chain([0]).chain(self.salt.bytes());
        let mut hash = bytes
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        hash ^= hash >> 31;
        Duration::from_secs(hash % (self.jitter.as_secs() + 1))
    }

    /// What is due for a server, of which `last` is the occurrence that was dealt with last (or the instant from which
    /// the policy has been in force). The ledger must hold the answer's occurrence before it is acted on.
    pub fn due(&self, server: &ServerName, last: Timestamp, now: Timestamp) -> Due {
        let jitter = SignedDuration::try_from(self.jitter(server)).unwrap_or(SignedDuration::ZERO);
        let Ok(until) = now.checked_sub(jitter) else { return Due::Not };
        let last = if last.duration_since(now) > CLOCK_WAS_WRONG { until } else { last };
        let Some((occurrence, count)) = self.due_between(last, until) else { return Due::Not };
        let late = until.duration_since(occurrence);
        if self.catch_up == CatchUp::None && late > PUNCTUAL {
            return Due::Forget { occurrence, missed: count };
        }
        Due::Run { occurrence, missed: count - 1 }
    }

    /// The first local second behind `local` that an expression fits.
    fn first_behind(&self, local: i64) -> Option<i64> {
        let local = chrono::DateTime::from_timestamp(local, 0)?;
        self.fields.iter().filter_map(|fields| fields.after(&local).next()).map(|found| found.timestamp()).min()
    }

    /// The local second, before the clocks were changed, of the last change at or before an instant.
    fn change_at_or_before(&self, instant: Timestamp) -> Option<i64> {
        let behind = instant.checked_add(SignedDuration::from_nanos(1)).ok()?;
        let change = floor(self.zone.preceding(behind).next()?.timestamp());
        let before = self.zone.to_offset(at(change - 1)?);
        Some(change + i64::from(before.seconds()))
    }
}

/// The second that an instant lies in.
fn floor(instant: Timestamp) -> i64 {
    instant.as_second() - i64::from(instant.subsec_nanosecond() < 0)
}

fn at(second: i64) -> Option<Timestamp> {
    Timestamp::from_second(second).ok()
}

#[cfg(test)]
mod tests;

//! Which restore points to keep: small pure rules over verified points.
//!
//! Only good (verified or proven) points are counted, so that a streak of failures never ages a working copy out, and
//! the newest good point is kept whatever the rules say. A point that was not checked yet (found by `adopt`, say) pushes
//! nothing out, and stays as long as the rules would keep it if it were good. A point from the future counts for nothing: whoever can forge
//! a date must not be able to push real points out.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use serde::{Deserialize, Serialize};

use crate::PointId;

/// What to keep. A point is kept if any rule keeps it; nothing at all set means: keep everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keep {
    /// The newest so many.
    pub last: u32,
    /// The newest of each of so many hours that have one.
    pub hourly: u32,
    /// The newest of each of so many days.
    pub daily: u32,
    /// The newest of each of so many ISO weeks.
    pub weekly: u32,
    /// The newest of each of so many months.
    pub monthly: u32,
    /// The newest of each of so many years.
    pub yearly: u32,
    /// Everything younger than this, counted from the newest good point.
    pub within: Option<Duration>,
}

/// What is known of a point's bytes at its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// Verified or proven, and not damaged since: it counts.
    Good,
    /// Not read back yet: it may be good, so it stays where a good one would, and counts for nothing.
    Unchecked,
    /// Damage is known.
    Damaged,
}

/// A point that retention decides about: one server's point at one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// Which point.
    pub id: PointId,
    /// Its instant.
    pub taken_at: Timestamp,
    /// What is known of it.
    pub standing: Standing,
}

/// Why a point is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "rule", content = "number")]
pub enum Reason {
    /// The newest good one is always kept.
    NewestGood,
    /// Among the last, counted from 1.
    Last(u32),
    /// The newest of its hour, the n-th hour that has one.
    Hourly(u32),
    /// The newest of its day.
    Daily(u32),
    /// The newest of its week.
    Weekly(u32),
    /// The newest of its month.
    Monthly(u32),
    /// The newest of its year.
    Yearly(u32),
    /// Young enough.
    Within,
    /// No rule is set.
    NoRules,
    /// It is not verified, and nothing newer is: it may be the best there is.
    NothingBetter,
    /// It is not verified yet; if it is good, a rule keeps it.
    Unchecked,
    /// It is dated behind the present: counted for nothing, touched by nothing.
    Future,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::NewestGood => f.write_str("newest verified"),
            Reason::Last(n) => write!(f, "last {n}"),
            Reason::Hourly(n) => write!(f, "hourly {n}"),
            Reason::Daily(n) => write!(f, "daily {n}"),
            Reason::Weekly(n) => write!(f, "weekly {n}"),
            Reason::Monthly(n) => write!(f, "monthly {n}"),
            Reason::Yearly(n) => write!(f, "yearly {n}"),
            Reason::Within => f.write_str("within the period"),
            Reason::NoRules => f.write_str("no rule is set"),
            Reason::Unchecked => f.write_str("not verified yet, a rule would keep it"),
            Reason::NothingBetter => f.write_str("not verified, but nothing newer is"),
            Reason::Future => f.write_str("dated in the future: check the clocks"),
        }
    }
}

/// Why a point is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DropReason {
    /// No rule keeps it.
    NoRule,
    /// It is damaged, and a newer one is good.
    Superseded,
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DropReason::NoRule => "no rule keeps it",
            DropReason::Superseded => "damaged, and a newer one is good",
        })
    }
}

/// A point that is kept, with every reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The point.
    pub point: Candidate,
    /// Why; never empty.
    pub reasons: Vec<Reason>,
}

/// A point that is dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// The point.
    pub point: Candidate,
    /// Why.
    pub reason: DropReason,
}

/// What becomes of each point, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// What stays.
    pub keep: Vec<Kept>,
    /// What may go.
    pub drop: Vec<Dropped>,
}

impl Decision {
    /// Points that are dated in the future: somebody should look at the clocks.
    pub fn future(&self) -> impl Iterator<Item = &Candidate> {
        self.keep.iter().filter(|kept| kept.reasons.contains(&Reason::Future)).map(|kept| &kept.point)
    }

    /// One line per point, newest first: `keep 20261122T030000Z-7f3a9c21: newest verified, daily 1`.
    pub fn explain(&self) -> Vec<String> {
        let mut lines: Vec<(Timestamp, &PointId, String)> = Vec::new();
        for kept in &self.keep {
            let reasons: Vec<String> = kept.reasons.iter().map(Reason::to_string).collect();
            let line = format!("keep {}: {}", kept.point.id, reasons.join(", "));
            lines.push((kept.point.taken_at, &kept.point.id, line));
        }
        for dropped in &self.drop {
            let line = format!("drop {}: {}", dropped.point.id, dropped.reason);
            lines.push((dropped.point.taken_at, &dropped.point.id, line));
        }
        lines.sort_by(|a, b| (b.0, b.1).cmp(&(a.0, a.1)));
        lines.into_iter().map(|(_, _, line)| line).collect()
    }
}

/// Which period of a calendar an instant falls into; equal keys, equal period.
type Period = (i64, i64, i64);

/// A rule that keeps the newest of each of so many periods.
struct Periodic {
    count: u32,
    period: fn(&Zoned) -> Period,
    reason: fn(u32) -> Reason,
}

impl Keep {
    /// Whether no rule is set at all.
    pub fn is_unset(&self) -> bool {
        *self == Self::default()
    }

    /// Decides about all points of one server at one place. Days, weeks, months and years are those of `zone`.
    pub fn decide(&self, points: &[Candidate], now: Timestamp, zone: &TimeZone) -> Decision {
        let mut sorted: Vec<&Candidate> = points.iter().collect();
        sorted.sort_by(|a, b| (b.taken_at, &b.id).cmp(&(a.taken_at, &a.id)));
        let good: Vec<&Candidate> =
            sorted.iter().copied().filter(|p| p.standing == Standing::Good && p.taken_at <= now).collect();
        let newest = good.first().map(|point| point.taken_at);
        let reasons = self.reasons(&good, zone);
        let mut decision = Decision::default();
        for point in sorted {
            let because = if point.taken_at > now {
                Ok(vec![Reason::Future])
            } else if point.standing == Standing::Good {
                let found = good.iter().position(|other| std::ptr::eq(*other, point));
                let reasons = found.and_then(|index| reasons.get(&index)).cloned().unwrap_or_default();
                if reasons.is_empty() { Err(DropReason::NoRule) } else { Ok(reasons) }
            } else if self.is_unset() {
                Ok(vec![Reason::NoRules])
            } else if newest.is_none_or(|newest| newest <= point.taken_at) {
                Ok(vec![Reason::NothingBetter])
            } else if point.standing == Standing::Damaged {
                Err(DropReason::Superseded)
            } else if self.would_keep(&good, point, zone) {
                Ok(vec![Reason::Unchecked])
            } else {
                Err(DropReason::NoRule)
            };
            match because {
                Ok(reasons) => decision.keep.push(Kept { point: point.clone(), reasons }),
                Err(reason) => decision.drop.push(Dropped { point: point.clone(), reason }),
            }
        }
        decision
    }

    /// Whether a rule would keep the point if it were good.
    fn would_keep(&self, good: &[&Candidate], point: &Candidate, zone: &TimeZone) -> bool {
        let newer = |other: &&Candidate| (other.taken_at, &other.id) > (point.taken_at, &point.id);
        let index = good.partition_point(newer);
        let with: Vec<&Candidate> =
            good[..index].iter().copied().chain([point]).chain(good[index..].iter().copied()).collect();
        self.reasons(&with, zone).contains_key(&index)
    }

    /// Why each good point (newest first, by its index) is kept; one without an entry is not.
    fn reasons(&self, good: &[&Candidate], zone: &TimeZone) -> BTreeMap<usize, Vec<Reason>> {
        let mut reasons: BTreeMap<usize, Vec<Reason>> = BTreeMap::new();
        let Some(newest) = good.first() else { return reasons };
        reasons.entry(0).or_default().push(Reason::NewestGood);
        if self.is_unset() {
            for index in 0..good.len() {
                reasons.entry(index).or_default().push(Reason::NoRules);
            }
            return reasons;
        }
        for (index, number) in (0..good.len()).zip(1..=self.last) {
            reasons.entry(index).or_default().push(Reason::Last(number));
        }
        if let Some(within) = self.within {
            for (index, point) in good.iter().enumerate() {
                let age = newest.taken_at.duration_since(point.taken_at).unsigned_abs();
                if age <= within {
                    reasons.entry(index).or_default().push(Reason::Within);
                }
            }
        }
        let civil: Vec<Zoned> = good.iter().map(|point| point.taken_at.to_zoned(zone.clone())).collect();
        for rule in self.periodic() {
            let (mut number, mut last) = (0, None);
            for (index, zoned) in civil.iter().enumerate() {
                let period = (rule.period)(zoned);
                if last == Some(period) {
                    continue;
                }
                if number == rule.count {
                    break;
                }
                (number, last) = (number + 1, Some(period));
                reasons.entry(index).or_default().push((rule.reason)(number));
            }
        }
        reasons
    }

    fn periodic(&self) -> [Periodic; 5] {
        [
            // the hour that a change from summer time repeats is two hours: the offset tells them apart
            Periodic {
                count: self.hourly,
                period: |z| (days(z), i64::from(z.hour()), i64::from(z.offset().seconds())),
                reason: Reason::Hourly,
            },
            Periodic { count: self.daily, period: |z| (days(z), 0, 0), reason: Reason::Daily },
            Periodic {
                count: self.weekly,
                period: |z| {
                    let week = z.date().iso_week_date();
                    (i64::from(week.year()), i64::from(week.week()), 0)
                },
                reason: Reason::Weekly,
            },
            Periodic {
                count: self.monthly,
                period: |z| (i64::from(z.year()), i64::from(z.month()), 0),
                reason: Reason::Monthly,
            },
            Periodic { count: self.yearly, period: |z| (i64::from(z.year()), 0, 0), reason: Reason::Yearly },
        ]
    }
}

/// A number for a civil day.
fn days(zoned: &Zoned) -> i64 {
    i64::from(zoned.year()) * 366 + i64::from(zoned.day_of_year())
}

#[cfg(test)]
mod tests;

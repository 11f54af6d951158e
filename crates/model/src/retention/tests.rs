//! Golden results of each rule, and what holds for any history.

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn point(text: &str, good: bool) -> Candidate {
    let taken_at = at(text);
    Candidate { id: crate::RunId::at(taken_at, 0).point(), taken_at, standing: standing(good) }
}

fn standing(good: bool) -> Standing {
    if good { Standing::Good } else { Standing::Damaged }
}

const STANDINGS: [Standing; 3] = [Standing::Good, Standing::Unchecked, Standing::Damaged];

fn good(texts: &[&str]) -> Vec<Candidate> {
    texts.iter().map(|text| point(text, true)).collect()
}

fn now() -> Timestamp {
    at("2026-11-22T12:00:00Z")
}

/// What is kept, oldest first, as `MM-DD HH`.
fn kept(keep: &Keep, points: &[Candidate], zone: &TimeZone) -> Vec<String> {
    let decision = keep.decide(points, now(), zone);
    assert_eq!(decision.keep.len() + decision.drop.len(), points.len());
    decision.keep.iter().rev().map(|kept| kept.point.taken_at.strftime("%m-%d %H").to_string()).collect()
}

/// Every 6 hours from the end of October 2025 to noon of 2026-11-22.
fn every_six_hours() -> Vec<Candidate> {
    let mut instant = at("2025-10-30T00:00:00Z");
    let mut all = Vec::new();
    while instant <= now() {
        all.push(Candidate { id: crate::RunId::at(instant, 7).point(), taken_at: instant, standing: Standing::Good });
        instant += Duration::from_secs(6 * 3600);
    }
    all
}

#[test]
fn last_keeps_the_newest() {
    let keep = Keep { last: 3, ..Keep::default() };
    assert_eq!(kept(&keep, &every_six_hours(), &TimeZone::UTC), ["11-22 00", "11-22 06", "11-22 12"]);
}

#[test]
fn hourly_keeps_the_newest_of_each_hour_that_has_one() {
    let points =
        good(&["2026-11-22T08:10:00Z", "2026-11-22T08:50:00Z", "2026-11-22T05:00:00Z", "2026-11-22T04:59:59Z"]);
    let keep = Keep { hourly: 2, ..Keep::default() };
    let decision = keep.decide(&points, now(), &TimeZone::UTC);
    let lines = decision.explain();
    assert_eq!(
        lines,
        [
            "keep 20261122T085000Z-00000000: newest verified, hourly 1",
            "drop 20261122T081000Z-00000000: no rule keeps it",
            "keep 20261122T050000Z-00000000: hourly 2",
            "drop 20261122T045959Z-00000000: no rule keeps it",
        ]
    );
}

#[test]
fn daily_weekly_monthly_yearly() {
    let all = every_six_hours();
    let utc = TimeZone::UTC;
    let daily = Keep { daily: 3, ..Keep::default() };
    assert_eq!(kept(&daily, &all, &utc), ["11-20 18", "11-21 18", "11-22 12"]);
    // ISO weeks end on Sunday, and 2026-11-22 is one
    let weekly = Keep { weekly: 3, ..Keep::default() };
    assert_eq!(kept(&weekly, &all, &utc), ["11-08 18", "11-15 18", "11-22 12"]);
    let monthly = Keep { monthly: 3, ..Keep::default() };
    assert_eq!(kept(&monthly, &all, &utc), ["09-30 18", "10-31 18", "11-22 12"]);
    let yearly = Keep { yearly: 5, ..Keep::default() };
    assert_eq!(kept(&yearly, &all, &utc), ["12-31 18", "11-22 12"]);
}

#[test]
fn within_counts_from_the_newest_good_point_not_from_now() {
    let points = good(&["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "2026-01-03T00:00:01Z"]);
    let keep = Keep { within: Some(Duration::from_secs(86_401)), ..Keep::default() };
    assert_eq!(kept(&keep, &points, &TimeZone::UTC), ["01-02 00", "01-03 00"]);
}

#[test]
fn rules_add_up_and_each_says_so() {
    let keep = Keep { last: 1, daily: 2, yearly: 2, ..Keep::default() };
    let decision = keep.decide(&every_six_hours(), now(), &TimeZone::UTC);
    let newest = &decision.keep[0];
    assert_eq!(newest.reasons, [Reason::NewestGood, Reason::Last(1), Reason::Daily(1), Reason::Yearly(1)]);
    assert_eq!(decision.keep.len(), 3);
}

#[test]
fn periods_are_those_of_the_zone() {
    // 23:30 and 00:30 UTC are the same day in Shanghai, and 00:30 and 17:00 are not
    let points = good(&["2026-11-20T23:30:00Z", "2026-11-21T00:30:00Z", "2026-11-21T17:00:00Z"]);
    let keep = Keep { daily: 7, ..Keep::default() };
    let shanghai = TimeZone::get("Asia/Shanghai").unwrap();
    assert_eq!(kept(&keep, &points, &shanghai), ["11-21 00", "11-21 17"]);
    assert_eq!(kept(&keep, &points, &TimeZone::UTC), ["11-20 23", "11-21 17"]);
}

#[test]
fn the_hour_that_summer_time_repeats_is_two_hours() {
    let points = good(&["2026-11-01T05:30:00Z", "2026-11-01T06:30:00Z"]);
    let keep = Keep { hourly: 2, ..Keep::default() };
    let zone = TimeZone::get("America/New_York").unwrap();
    assert_eq!(kept(&keep, &points, &zone).len(), 2);
}

#[test]
fn iso_weeks_around_new_year_are_one_week() {
    let points = good(&["2024-12-30T00:00:00Z", "2025-01-02T00:00:00Z"]);
    let keep = Keep { weekly: 9, ..Keep::default() };
    assert_eq!(kept(&keep, &points, &TimeZone::UTC), ["01-02 00"]);
}

#[test]
fn no_rule_keeps_everything() {
    let mut points = every_six_hours();
    points[3].standing = Standing::Damaged;
    assert_eq!(kept(&Keep::default(), &points, &TimeZone::UTC).len(), points.len());
}

#[test]
fn what_is_not_verified_is_kept_until_something_newer_is() {
    let keep = Keep { last: 1, ..Keep::default() };
    let broken = [point("2026-11-20T00:00:00Z", false), point("2026-11-21T00:00:00Z", false)];
    assert_eq!(kept(&keep, &broken, &TimeZone::UTC).len(), 2, "nothing is verified");
    let mut points = broken.to_vec();
    points.push(point("2026-11-20T12:00:00Z", true));
    let decision = keep.decide(&points, now(), &TimeZone::UTC);
    assert_eq!(
        decision.explain(),
        [
            "keep 20261121T000000Z-00000000: not verified, but nothing newer is",
            "keep 20261120T120000Z-00000000: newest verified, last 1",
            "drop 20261120T000000Z-00000000: damaged, and a newer one is good",
        ]
    );
}

/// After `adopt` nothing is verified: the first new verified point must not age the whole history out.
#[test]
fn what_was_not_checked_yet_stays_where_a_good_point_would() {
    let keep = Keep { last: 1, daily: 5, ..Keep::default() };
    let mut points: Vec<Candidate> =
        (1..=9).map(|day| point(&format!("2026-11-{:02}T00:00:00Z", 10 + day), true)).collect();
    let verified = kept(&keep, &points, &TimeZone::UTC);
    assert_eq!(verified, ["11-15 00", "11-16 00", "11-17 00", "11-18 00", "11-19 00"]);
    points[..8].iter_mut().for_each(|point| point.standing = Standing::Unchecked);
    assert_eq!(kept(&keep, &points, &TimeZone::UTC).len(), 9, "none pushes another one out");
    // as they are verified they count
    points[4..8].iter_mut().for_each(|point| point.standing = Standing::Good);
    assert_eq!(kept(&keep, &points, &TimeZone::UTC), verified);
    let lines = keep.decide(&[points[0].clone(), points[8].clone()], now(), &TimeZone::UTC).explain();
    assert_eq!(lines[1], "keep 20261111T000000Z-00000000: not verified yet, a rule would keep it");
}

#[test]
fn points_from_the_future_push_nothing_out_and_are_reported() {
    let mut points = good(&["2026-11-20T00:00:00Z", "2026-11-21T00:00:00Z"]);
    let before = kept(&Keep { last: 2, ..Keep::default() }, &points, &TimeZone::UTC);
    for day in 1..=9 {
        points.push(point(&format!("2027-01-0{day}T00:00:00Z"), true));
    }
    let decision = Keep { last: 2, ..Keep::default() }.decide(&points, now(), &TimeZone::UTC);
    assert!(decision.drop.is_empty() && before.len() == 2);
    assert_eq!(decision.future().count(), 9);
}

/// Small deterministic random numbers; a failing history is found again by its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % sides
    }

    fn rules(&mut self) -> Keep {
        let mut small = || if self.roll(2) == 0 { 0 } else { self.roll(4) as u32 };
        let (last, hourly, daily) = (small(), small(), small());
        let (weekly, monthly, yearly) = (small(), small(), small());
        let within = (self.roll(4) == 0).then(|| Duration::from_secs(self.roll(40) * 43_200));
        Keep { last, hourly, daily, weekly, monthly, yearly, within }
    }
}

/// What must hold after every decision.
fn check(keep: &Keep, points: &[Candidate], now: Timestamp, decision: &Decision, seed: u64) {
    let past = |point: &&Candidate| point.standing == Standing::Good && point.taken_at <= now;
    let newest = points.iter().filter(past).max_by_key(|point| (point.taken_at, point.id.clone()));
    if let Some(newest) = newest {
        let kept = decision.keep.iter().any(|kept| kept.point.id == newest.id);
        assert!(kept, "seed {seed}: the newest good point is dropped");
    } else {
        assert!(decision.drop.is_empty(), "seed {seed}: something is dropped though nothing is verified");
    }
    assert!(decision.keep.iter().all(|kept| !kept.reasons.is_empty()), "seed {seed}: kept without a reason");
    let good_kept = decision.keep.iter().filter(|kept| past(&&kept.point)).count();
    let good = points.iter().filter(past).count();
    assert!(good_kept >= good.min(keep.last.max(1) as usize), "seed {seed}: {good_kept} of {good} are kept");
    assert_eq!(decision.keep.len() + decision.drop.len(), points.len(), "seed {seed}: a point is lost or doubled");
}

#[test]
fn a_hundred_thousand_random_histories_never_lose_the_last_verified_point() {
    let zones = [TimeZone::UTC, TimeZone::get("America/New_York").unwrap()];
    std::thread::scope(|scope| {
        for part in 0..4 {
            let zones = &zones;
            scope.spawn(move || (part * 25_000..(part + 1) * 25_000).for_each(|seed| history(seed, zones)));
        }
    });
}

/// One server's life: points, failures, damage, clock jumps, prunes.
fn history(seed: u64, zones: &[TimeZone]) {
    let mut dice = Dice(seed);
    let (keep, zone) = (dice.rules(), &zones[dice.roll(2) as usize]);
    let (mut now, mut points, mut pruned): (_, Vec<Candidate>, _) = (at("2026-03-01T00:00:00Z"), Vec::new(), 0);
    for event in 0..12_u32 {
        match dice.roll(8) {
            0..=3 => {
                now += Duration::from_secs(1800 + dice.roll(36) * 3600);
                let id = crate::RunId::at(now, event).point();
                points.push(Candidate { id, taken_at: now, standing: STANDINGS[dice.roll(3) as usize] });
            }
            // a clock jumps back, or far ahead and stays there
            4 => now -= Duration::from_secs(dice.roll(72) * 3600),
            5 if dice.roll(8) == 0 => now += Duration::from_secs(dice.roll(1000) * 86_400),
            6 => {
                let victim = dice.roll(points.len().max(1) as u64) as usize;
                let standing = STANDINGS[dice.roll(3) as usize];
                points.iter_mut().skip(victim).take(1).for_each(|point| point.standing = standing);
            }
            _ => {
                let decision = keep.decide(&points, now, zone);
                check(&keep, &points, now, &decision, seed);
                points = decision.keep.into_iter().map(|kept| kept.point).collect();
                pruned += decision.drop.len();
                if seed.is_multiple_of(8) {
                    let again = keep.decide(&points, now, zone);
                    assert!(again.drop.is_empty(), "seed {seed}: a second decision drops more");
                }
            }
        }
    }
    assert!(!keep.is_unset() || pruned == 0, "seed {seed}: without rules nothing is dropped");
}

#[test]
fn points_that_are_not_good_or_from_the_future_never_push_a_good_one_out() {
    for seed in 0..5_000 {
        let mut dice = Dice(seed);
        let keep = dice.rules();
        let mut random = |standing: Standing, from: i64| {
            let taken_at = now() + Duration::from_secs(dice.roll(400) * 7200) - Duration::from_secs(400 * 7200);
            let taken_at = taken_at + jiff::SignedDuration::from_hours(from);
            let id = crate::RunId::at(taken_at, dice.roll(1 << 32) as u32).point();
            Candidate { id, taken_at, standing }
        };
        let mut points: Vec<Candidate> = (0..12).map(|_| random(Standing::Good, 0)).collect();
        let alone = keep.decide(&points, now(), &TimeZone::UTC);
        points.extend((0..6).map(|index| random(STANDINGS[1 + index % 2], 0)));
        points.extend((0..6).map(|_| random(Standing::Good, 801)));
        let crowded = keep.decide(&points, now(), &TimeZone::UTC);
        for kept in alone.keep {
            assert!(crowded.keep.iter().any(|other| other.point.id == kept.point.id), "seed {seed}: {kept:?}");
        }
    }
}

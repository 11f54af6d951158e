//! The calendar against written-out cases, against another implementation, and over simulated years.

use std::str::FromStr;

use jiff::{ToSpan, Zoned};
use proptest::prelude::*;

use super::*;

fn schedule(cron: &str, zone: &str) -> Schedule {
    Schedule { cron: cron.into(), timezone: zone.into(), jitter: Duration::ZERO, catch_up: CatchUp::Once }
}

fn calendar(cron: &str, zone: &str) -> Calendar {
    Calendar::new(&schedule(cron, zone)).unwrap()
}

fn at_text(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// The next occurrences in local time, as `MM-DD HH:MM:SS±HH`.
fn next(cron: &str, zone: &str, from: &str, count: usize) -> Vec<String> {
    let tz = TimeZone::get(zone).unwrap();
    let upcoming = calendar(cron, zone).upcoming(at_text(from), count);
    upcoming.into_iter().map(|t| t.to_zoned(tz.clone()).strftime("%m-%d %H:%M:%S%:::z").to_string()).collect()
}

const NEW_YORK: &str = "America/New_York";

#[test]
fn five_six_and_seven_fields_and_aliases() {
    let from = "2026-11-22T12:00:00Z";
    assert_eq!(next("0 2 * * *", "UTC", from, 1), ["11-23 02:00:00+00"]);
    assert_eq!(next("30 0 2 * * *", "UTC", from, 1), ["11-23 02:00:30+00"]);
    assert_eq!(next("0 0 2 1 1 * 2028", "UTC", from, 2), ["01-01 02:00:00+00"]);
    assert_eq!(next("@daily", "Asia/Shanghai", from, 1), ["11-23 00:00:00+08"]);
    assert_eq!(next("@weekly", "UTC", from, 1), ["11-29 00:00:00+00"]);
    assert_eq!(next("@hourly", "UTC", from, 2), ["11-22 13:00:00+00", "11-22 14:00:00+00"]);
}

#[test]
fn week_days_are_those_of_crontab() {
    let from = "2026-11-22T12:00:00Z"; // a Sunday
    assert_eq!(next("0 2 * * 1", "UTC", from, 1), ["11-23 02:00:00+00"]);
    for sunday in ["0", "7", "SUN", "sun", "Sunday"] {
        assert_eq!(next(&format!("0 2 * * {sunday}"), "UTC", from, 1), ["11-29 02:00:00+00"], "{sunday}");
    }
    let days = |field: &str| {
        let all = next(&format!("0 0 * * {field}"), "UTC", from, 7);
        all.iter().filter(|t| *t < &"11-30".to_owned()).map(|t| t[3..5].to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(days("1-5"), ["23", "24", "25", "26", "27"]);
    assert_eq!(days("5-7"), ["27", "28", "29"]);
    assert_eq!(days("FRI-SUN"), ["27", "28", "29"]);
    assert_eq!(days("7-1"), ["23", "29"]);
    assert_eq!(days("*/2"), ["24", "26", "28", "29"]);
    assert_eq!(days("1-5/2,6"), ["23", "25", "27", "28"]);
}

#[test]
fn two_restricted_day_fields_are_a_union() {
    let from = "2026-11-01T00:00:00Z";
    assert_eq!(next("0 2 13 * FRI", "UTC", from, 3), ["11-06 02:00:00+00", "11-13 02:00:00+00", "11-20 02:00:00+00"]);
    assert_eq!(next("0 2 14 * FRI", "UTC", from, 3), ["11-06 02:00:00+00", "11-13 02:00:00+00", "11-14 02:00:00+00"]);
    assert_eq!(next("0 2 14 * *", "UTC", from, 2), ["11-14 02:00:00+00", "12-14 02:00:00+00"]);
}

#[test]
fn a_fixed_time_in_the_gap_runs_right_after_it() {
    let got = next("30 2 * * *", NEW_YORK, "2026-03-07T12:00:00Z", 2);
    assert_eq!(got, ["03-08 03:00:00-04", "03-09 02:30:00-04"]);
    // its own time right after the gap is not doubled
    let got = next("30 2,3 * * *", NEW_YORK, "2026-03-08T05:00:00Z", 3);
    assert_eq!(got, ["03-08 03:00:00-04", "03-08 03:30:00-04", "03-09 02:30:00-04"]);
    // half an hour, at midnight, and a whole day
    let got = next("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", 2);
    assert_eq!(got, ["10-04 02:30:00+11", "10-05 02:15:00+11"]);
    let got = next("0 0 * * *", "Africa/Cairo", "2026-04-23T12:00:00Z", 2);
    assert_eq!(got, ["04-24 01:00:00+03", "04-25 00:00:00+03"]);
    let got = next("0 12 * * *", "Pacific/Apia", "2011-12-29T12:00:00Z", 3);
    assert_eq!(got, ["12-29 12:00:00-10", "12-31 00:00:00+14", "12-31 12:00:00+14"]);
}

#[test]
fn a_fixed_time_that_comes_twice_runs_once() {
    let got = next("30 1 * * *", NEW_YORK, "2026-10-31T12:00:00Z", 2);
    assert_eq!(got, ["11-01 01:30:00-04", "11-02 01:30:00-05"]);
    // asked from between the two
    let between = next("30 1 * * *", NEW_YORK, "2026-11-01T06:10:00Z", 1);
    assert_eq!(between, ["11-02 01:30:00-05"]);
    let list = next("0,30 0-2 * * *", NEW_YORK, "2026-11-01T04:59:59Z", 5);
    assert_eq!(
        list,
        ["11-01 01:00:00-04", "11-01 01:30:00-04", "11-01 02:00:00-05", "11-01 02:30:00-05", "11-02 00:00:00-05"]
    );
}

#[test]
fn a_wildcard_schedule_goes_on_through_both() {
    let got = next("*/30 * * * *", NEW_YORK, "2026-11-01T04:59:59Z", 6);
    assert_eq!(
        got,
        [
            "11-01 01:00:00-04",
            "11-01 01:30:00-04",
            "11-01 01:00:00-05",
            "11-01 01:30:00-05",
            "11-01 02:00:00-05",
            "11-01 02:30:00-05",
        ]
    );
    let got = next("15,45 * * * *", NEW_YORK, "2026-03-08T06:30:00Z", 3);
    assert_eq!(got, ["03-08 01:45:00-05", "03-08 03:15:00-04", "03-08 03:45:00-04"]);
}

#[test]
fn what_never_fires_or_cannot_be_read_is_refused_with_advice() {
    let never = Calendar::new(&schedule("0 2 30 2 *", "UTC")).unwrap_err();
    assert!(never.chain().contains("would never run"), "{}", never.chain());
    for bad in [
        "",
        "0 2 * *",
        "61 * * * *",
        "0 25 * * *",
        "0 2 * * 8",
        "0 2 L * *",
        "0 2 * * 5#2",
        "@reboot",
        "0 2 * * 5-2",
        "a b c d e",
    ] {
        let error = Calendar::new(&schedule(bad, "UTC")).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{bad}");
        assert!(error.advice().is_some() && std::error::Error::source(&error).is_some(), "{bad}: {}", error.chain());
    }
    assert!(Calendar::new(&schedule("0 2 * * *", "Mars/Olympus")).unwrap_err().chain().contains("Mars/Olympus"));
    let over = calendar("0 0 2 1 1 * 2020", "UTC");
    assert_eq!(over.next_after(at_text("2026-01-01T00:00:00Z")), None);
}

#[test]
fn missed_occurrences_are_caught_up_once_or_forgotten() {
    let server = ServerName::new("web-1").unwrap();
    let once = calendar("0 3 * * *", "UTC");
    let (last, now) = (at_text("2026-11-18T03:00:00Z"), at_text("2026-11-22T12:00:00Z"));
    let newest = at_text("2026-11-22T03:00:00Z");
    assert_eq!(once.due(&server, last, now), Due::Run { occurrence: newest, missed: 3 });
    assert_eq!(once.due(&server, newest, now), Due::Not);
    let none = Calendar { catch_up: CatchUp::None, ..once };
    assert_eq!(none.due(&server, last, now), Due::Forget { occurrence: newest, missed: 4 });
    let punctual = newest + SignedDuration::from_mins(9);
    assert_eq!(none.due(&server, last, punctual), Due::Run { occurrence: newest, missed: 3 });
}

#[test]
fn a_clock_that_was_wrong_does_not_silence_a_policy_for_years() {
    let server = ServerName::new("web-1").unwrap();
    let daily = calendar("0 3 * * *", "UTC");
    let now = at_text("2026-11-22T12:00:00Z");
    // an hour back: what has run does not run again
    let ahead = at_text("2026-11-22T03:00:00Z");
    assert_eq!(daily.due(&server, ahead, at_text("2026-11-22T02:00:00Z")), Due::Not);
    // it was in 2036 yesterday
    let wrong = at_text("2036-11-21T03:00:00Z");
    assert_eq!(daily.due(&server, wrong, now), Due::Not);
    assert_eq!(calendar("* * * * *", "UTC").due(&server, wrong, now), Due::Not, "from now on, nothing is missed");
}

#[test]
fn many_missed_seconds_are_found_quickly() {
    let busy = calendar("* * * * * *", "UTC");
    let (last, now) = (at_text("2016-01-01T00:00:00Z"), at_text("2026-01-01T00:00:00Z"));
    assert_eq!(busy.due_between(last, now), Some((now, MANY)));
    // dense for an hour every leap day only
    let rare = calendar("* 3 29 2 *", "UTC");
    assert_eq!(
        rare.due_between(at_text("1980-01-01T00:00:00Z"), now),
        Some((at_text("2024-02-29T03:59:00Z"), 660 + 60))
    );
}

#[test]
fn jitter_is_the_same_every_time_and_spreads_servers() {
    let mut policy = schedule("0 3 * * *", "UTC");
    policy.jitter = Duration::from_secs(600);
    let calendar = Calendar::new(&policy).unwrap();
    let servers: Vec<ServerName> = (0..600).map(|n| ServerName::new(format!("web-{n}")).unwrap()).collect();
    let jitters: Vec<u64> = servers.iter().map(|server| calendar.jitter(server).as_secs()).collect();
    assert!(jitters.iter().all(|jitter| *jitter <= 600));
    assert_eq!(jitters[7], Calendar::new(&policy).unwrap().jitter(&servers[7]).as_secs());
    for tenth in 0..10 {
        let here = jitters.iter().filter(|jitter| **jitter / 61 == tenth).count();
        assert!((30..=90).contains(&here), "{here} of 600 in tenth {tenth}");
    }
    let (server, wait) = (&servers[3], SignedDuration::try_from(calendar.jitter(&servers[3])).unwrap());
    let (last, occurrence) = (at_text("2026-11-21T12:00:00Z"), at_text("2026-11-22T03:00:00Z"));
    assert_eq!(calendar.due(server, last, occurrence + wait - SignedDuration::from_secs(1)), Due::Not);
    assert_eq!(calendar.due(server, last, occurrence + wait), Due::Run { occurrence, missed: 0 });
}

/// A daemon that is asked now and then for ten years, sleeps, and is restarted: every occurrence is run or counted as
/// missed, once.
#[test]
fn ten_years_lose_and_double_nothing() {
    for (cron, zone) in [("30 2 * * *", NEW_YORK), ("30 1 * * *", "Europe/Berlin"), ("0 */6 * * 1-5", NEW_YORK)] {
        let calendar = calendar(cron, zone);
        let server = ServerName::new("web-1").unwrap();
        let (start, end) = (at_text("2020-01-01T00:00:00Z"), at_text("2030-01-01T00:00:00Z"));
        let (mut now, mut last, mut accounted, mut step) = (start, start, 0_u64, 7_u64);
        while now < end {
            if let Due::Run { occurrence, missed } = calendar.due(&server, last, now) {
                assert!(occurrence > last && occurrence <= now);
                (last, accounted) = (occurrence, accounted + 1 + u64::from(missed));
            }
            step = step.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            now += SignedDuration::from_mins(1 + (step >> 33) as i64 % 2000);
        }
        let all = std::iter::successors(calendar.next_after(start), |t| calendar.next_after(*t));
        assert_eq!(accounted, all.take_while(|t| *t <= last).count() as u64, "{cron} {zone}");
    }
}

/// The next ten occurrences of another implementation.
fn oracle(cron: &str, from: &Zoned) -> Vec<Timestamp> {
    let found = croner::Cron::from_str(cron).unwrap();
    found.iter_after(from.clone()).take(10).map(|zoned| zoned.timestamp()).collect()
}

fn field(low: u32, high: u32) -> impl Strategy<Value = String> {
    let point = low..=high;
    let range = (low..=high, low..=high).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b)));
    let stepped =
        (low..=high, low..=high, 1..=5_u32).prop_map(|(a, b, step)| format!("{}-{}/{step}", a.min(b), a.max(b)));
    let list = proptest::collection::vec(low..=high, 1..4)
        .prop_map(|all| all.iter().map(u32::to_string).collect::<Vec<_>>().join(","));
    prop_oneof![
        3 => Just("*".to_owned()),
        3 => point.prop_map(|n| n.to_string()),
        1 => range,
        1 => stepped,
        1 => list,
        1 => (1..=(high / 2).max(1)).prop_map(|step| format!("*/{step}")),
    ]
}

fn days() -> impl Strategy<Value = (String, String, String)> {
    let day = prop_oneof![3 => Just("*".to_owned()), 1 => field(1, 28)];
    let weekday = prop_oneof![3 => Just("*".to_owned()), 1 => field(0, 6)];
    (day, field(1, 12), weekday)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any fields, where the clocks are never changed.
    #[test]
    fn equals_the_oracle_in_steady_zones(
        minute in field(0, 59), hour in field(0, 23), (day, month, weekday) in days(),
        days_on in 0..3000_i64, second in 0..86_400_i64, zone in prop_oneof![Just("UTC"), Just("Asia/Shanghai")],
    ) {
        let cron = format!("{minute} {hour} {day} {month} {weekday}");
        let from = (at_text("2024-01-01T00:00:00Z").to_zoned(TimeZone::get(zone).unwrap()))
            .checked_add(days_on.days().seconds(second)).unwrap();
        let ours = calendar(&cron, zone).upcoming(from.timestamp(), 10);
        prop_assert_eq!(ours, oracle(&cron, &from), "{}", cron);
    }

    /// Fixed times and plain wildcards, where both agree on what is fixed, around changes of the clocks.
    #[test]
    fn equals_the_oracle_around_changes_of_the_clocks(
        minute in 0..60_u32, hour in 0..4_u32, wild in 0..4_u32,
        (day, month, weekday) in prop_oneof![4 => Just(("*".into(), "*".into(), "*".into())), 1 => days()],
        change in 0..8_usize, hours_before in 0..50_i64,
    ) {
        let times = match wild {
            0 | 1 => format!("{minute} {hour}"),
            2 => format!("{minute} *"),
            _ => format!("*/{} *", minute % 30 + 1),
        };
        let cron = format!("{times} {day} {month} {weekday}");
        let (zone, instant) = [
            (NEW_YORK, "2026-03-08T07:00:00Z"), (NEW_YORK, "2026-11-01T06:00:00Z"),
            ("Europe/Berlin", "2027-03-28T01:00:00Z"), ("Europe/Berlin", "2027-10-31T01:00:00Z"),
            ("Australia/Lord_Howe", "2026-10-03T15:30:00Z"), ("Australia/Lord_Howe", "2026-04-04T15:00:00Z"),
            ("America/Santiago", "2026-09-06T04:00:00Z"), ("America/Santiago", "2026-04-05T03:00:00Z"),
        ][change];
        let from = (at_text(instant) - SignedDuration::from_hours(hours_before)).to_zoned(TimeZone::get(zone).unwrap());
        let ours = calendar(&cron, zone).upcoming(from.timestamp(), 10);
        prop_assert_eq!(ours, oracle(&cron, &from), "{} {}", cron, zone);
    }
}

//! A policy file: from what it may say to what makes sense.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::time::Duration;

use model::{
    CapturePolicy, CatchUp, Consistency, DrillPolicy, Keep, Objectives, Policy, PolicyName, Probe, Schedule, Select,
    SiteName,
};

use super::destination::destinations;
use super::document::{Document, below, nearest, suggestion};
use super::raw_policy::{
    RawCapture, RawCatchUp, RawConsistency, RawDrill, RawKeep, RawKeepWord, RawObjectives, RawPolicy, RawProbe,
    RawProbeKind, RawSchedule, RawSelect,
};
use super::value::duration;

/// The names that a policy may refer to. Taken from the file as typed, so that a mistake inside a site is not
/// reported a second time by every policy that uses it.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Sites, with whether servers can be captured there and whether images can be put there.
    pub sites: Vec<(String, bool, bool)>,
    /// The provider of each site.
    pub kinds: BTreeMap<String, String>,
    /// What a site encrypts with, where it names a key.
    pub keys: BTreeMap<String, String>,
    /// Sites where nobody freezes a guest: no more than a crash's consistency can be had there.
    pub unfrozen: Vec<String>,
    /// Vaults.
    pub vaults: Vec<String>,
}

/// Checks a policy; what is wrong is noted in `document`.
pub fn policy(document: &mut Document, name: PolicyName, raw: RawPolicy, known: &Known) -> Option<Policy> {
    let select = raw.select.and_then(|raw| select(document, raw, known));
    let schedule = raw.schedule.and_then(|raw| schedule(document, raw));
    let capture = capture(document, raw.capture.unwrap_or_default());
    if let Some(select) = &select
        && capture.required
        && capture.consistency > Consistency::Crash
        && known.unfrozen.iter().any(|site| site == select.site.as_str())
    {
        let (site, level) = (&select.site, capture.consistency);
        let advice = match known.kinds.get(site.as_str()).map(String::as_str) {
            Some("aws") => "give the site `freeze = \"ssm\"`",
            _ => "leave out `required`, or write `consistency = \"crash\"`",
        };
        let text = format!("no capture at `{site}` is of level `{level}` — {advice}");
        document.wrong_value("/capture/required", text);
    }
    let replicate = destinations(document, raw.replicate, known);
    let keep = keep(document, raw.keep);
    let objectives = objectives(document, raw.objectives.unwrap_or_default());
    let drill = drill(document, raw.drill.unwrap_or_default(), known);
    Some(Policy { name, select: select?, schedule, capture, replicate, keep, objectives, drill })
}

fn site(document: &mut Document, at: &str, name: &str, known: &Known) -> Option<(SiteName, bool, bool)> {
    let Some((_, source, target)) = known.sites.iter().find(|(site, ..)| site == name) else {
        let suggestion = suggestion(name, known.sites.iter().map(|(site, ..)| site.as_str()));
        document.wrong_value(at, format!("`{name}` is not a site{suggestion}"));
        return None;
    };
    SiteName::new(name).ok().map(|name| (name, *source, *target))
}

fn select(document: &mut Document, raw: RawSelect, known: &Known) -> Option<Select> {
    let found = raw.site.as_deref().and_then(|name| site(document, "/select/site", name, known));
    if let Some((name, false, _)) = &found {
        document.wrong_value("/select/site", format!("nothing can be captured at `{name}` — give the site `sockets`"));
    }
    let servers = raw.servers.unwrap_or_default();
    for (index, pattern) in servers.iter().enumerate() {
        let fine = |c: char| c.is_ascii_alphanumeric() || "._-:/@+*?".contains(c);
        if pattern.is_empty() || !pattern.chars().all(fine) {
            let text = format!("`{}` is not a pattern of server names", pattern.escape_debug());
            document.wrong_value(
                &format!("/select/servers/{index}"),
                format!("{text} — `*` is any run of characters, `?` is one"),
            );
        }
    }
    Some(Select { site: found?.0, servers, tags: raw.tags })
}

fn schedule(document: &mut Document, raw: RawSchedule) -> Option<Schedule> {
    let timezone = raw.timezone.unwrap_or_else(|| "UTC".to_owned());
    if jiff::tz::TimeZone::get(&timezone).is_err() {
        let zones: Vec<String> = jiff::tz::db().available().map(|zone| zone.to_string()).collect();
        let hint = nearest(&timezone, zones.iter().map(String::as_str))
            .map_or("write an IANA name, `Europe/Berlin`".to_owned(), |zone| format!("did you mean `{zone}`?"));
        document.wrong_value("/schedule/timezone", format!("`{timezone}` is not a time zone — {hint}"));
    }
    let cron = raw.cron?;
    // in a zone that is surely there: a wrong one is reported above, and once is enough
    let (checked, none, once) = ("UTC".to_owned(), Duration::ZERO, CatchUp::Once);
    let trial = Schedule { cron: cron.clone(), timezone: checked, jitter: none, catch_up: once };
    if let Err(error) = engine::Calendar::new(&trial) {
        let why = error.source().map(ToString::to_string).unwrap_or_default();
        // the matcher of fields repeats what it read, and does not say what it wants
        let why = match why.contains(char::is_alphabetic) {
            true => why,
            false => "a field is out of range (minute 0-59, hour 0-23, day 1-31, month 1-12, weekday 0-7)".to_owned(),
        };
        let hint = error.advice().map(|hint| format!(" — {hint}")).unwrap_or_default();
        document.wrong_value("/schedule/cron", format!("`{cron}` is not a schedule: {why}{hint}"));
    }
    let jitter = time(document, "/schedule/jitter", raw.jitter.as_deref()).unwrap_or_default();
    if jitter > Duration::from_secs(86_400) {
        document.wrong_value("/schedule/jitter", "a jitter of more than a day would skip occurrences — at most `24h`");
    }
    let catch_up = match raw.catch_up {
        Some(RawCatchUp::None) => CatchUp::None,
        Some(RawCatchUp::Once) | None => CatchUp::Once,
    };
    Some(Schedule { cron, timezone, jitter, catch_up })
}

fn capture(document: &mut Document, raw: RawCapture) -> CapturePolicy {
    let consistency = match raw.consistency {
        Some(RawConsistency::Crash) => Consistency::Crash,
        Some(RawConsistency::Application) => Consistency::Application,
        Some(RawConsistency::Filesystem) | None => Consistency::Filesystem,
    };
    for (key, hook) in [("before", &raw.before), ("after", &raw.after)] {
        let at = below("/capture", key);
        match hook {
            Some(command) if command.first().is_none_or(String::is_empty) => {
                document.wrong_value(&at, format!("`{key}` names no command"));
            }
            Some(_) if consistency != Consistency::Application => {
                document.wrong_key(&at, format!("`{key}` runs only with `consistency = \"application\"`"));
            }
            _ => {}
        }
    }
    let freeze_limit =
        time(document, "/capture/freeze-limit", raw.freeze_limit.as_deref()).unwrap_or(Duration::from_secs(10));
    if freeze_limit.is_zero() || freeze_limit > Duration::from_secs(600) {
        document
            .wrong_value("/capture/freeze-limit", "a guest may stay frozen for `1s` to `10m`, not longer or shorter");
    }
    CapturePolicy {
        consistency,
        required: raw.required.unwrap_or(false),
        before: raw.before.unwrap_or_default(),
        after: raw.after.unwrap_or_default(),
        freeze_limit,
    }
}

fn keep(document: &mut Document, raw: Option<RawKeep>) -> Keep {
    let rules = match raw {
        None | Some(RawKeep::Word(RawKeepWord::Forever)) => return Keep::default(),
        Some(RawKeep::Rules(rules)) => rules,
    };
    let counts = [
        ("last", rules.last),
        ("hourly", rules.hourly),
        ("daily", rules.daily),
        ("weekly", rules.weekly),
        ("monthly", rules.monthly),
        ("yearly", rules.yearly),
    ];
    for (key, _) in counts.iter().filter(|(_, count)| *count == Some(0)) {
        let text = format!("keep = {{ {key} = 0 }} keeps nothing — use at least 1, leave `{key}` out");
        document.wrong_value(&below("/keep", key), format!("{text}, or write `keep = \"forever\"`"));
    }
    let within = time(document, "/keep/within", rules.within.as_deref());
    if within.is_some_and(|within| within.is_zero()) {
        document.wrong_value("/keep/within", "keep = { within = \"0s\" } keeps nothing — use a longer time");
    }
    if counts.iter().all(|(_, count)| count.is_none()) && rules.within.is_none() && document.is_fine("/keep") {
        document.wrong_value("/keep", "there is no rule — write `{ last = 3, daily = 7 }` or `keep = \"forever\"`");
    }
    Keep {
        last: rules.last.unwrap_or(0),
        hourly: rules.hourly.unwrap_or(0),
        daily: rules.daily.unwrap_or(0),
        weekly: rules.weekly.unwrap_or(0),
        monthly: rules.monthly.unwrap_or(0),
        yearly: rules.yearly.unwrap_or(0),
        within,
    }
}

fn objectives(document: &mut Document, raw: RawObjectives) -> Objectives {
    let mut objective = |key: &str, text: Option<&str>| {
        let at = below("/objectives", key);
        let time = time(document, &at, text);
        if time.is_some_and(|time| time.is_zero()) {
            document.wrong_value(&at, format!("an objective of zero can never be met — give `{key}` a longer time"));
        }
        time
    };
    Objectives {
        rpo: objective("rpo", raw.rpo.as_deref()),
        rto: objective("rto", raw.rto.as_deref()),
        proof: objective("proof", raw.proof.as_deref()),
    }
}

fn drill(document: &mut Document, raw: RawDrill, known: &Known) -> DrillPolicy {
    let found = raw.site.as_deref().and_then(|name| site(document, "/drill/site", name, known));
    if let Some((name, _, false)) = &found {
        document.wrong_value("/drill/site", format!("nothing can be booted at `{name}` — give the site `disks`"));
    }
    let probes = (raw.probes.into_iter().enumerate())
        .filter_map(|(index, raw)| probe(document, raw, &format!("/drill/probes/{index}")))
        .collect();
    let limit = time(document, "/drill/limit", raw.limit.as_deref()).unwrap_or(Duration::from_secs(600));
    if limit.is_zero() {
        document.wrong_value("/drill/limit", "no drill ends in no time — give `limit` some minutes");
    }
    DrillPolicy { site: found.map(|(name, ..)| name), probes, limit }
}

fn probe(document: &mut Document, raw: RawProbe, at: &str) -> Option<Probe> {
    let kind = raw.kind?;
    let (word, needs, may): (_, &[&str], &[&str]) = match kind {
        RawProbeKind::Console => ("console", &["text"], &[]),
        RawProbeKind::Tcp => ("tcp", &["port"], &[]),
        RawProbeKind::Http => ("http", &["port"], &["path", "text"]),
        RawProbeKind::Command => ("command", &["command"], &["text"]),
    };
    let given = [
        ("text", raw.text.is_some()),
        ("port", raw.port.is_some()),
        ("path", raw.path.is_some()),
        ("command", raw.command.is_some()),
    ];
    for (key, given) in given {
        if given && !needs.contains(&key) && !may.contains(&key) {
            document.wrong_key(&below(at, key), format!("a `{word}` probe has no `{key}`"));
        } else if !given && needs.contains(&key) && document.is_fine(at) {
            document.wrong_value(at, format!("a `{word}` probe needs `{key}`"));
        }
    }
    if raw.text.as_deref() == Some("") {
        document.wrong_value(&below(at, "text"), "an empty `text` is found everywhere, so the probe could not fail");
    }
    if let Some(path) = &raw.path
        && !path.starts_with('/')
    {
        document.wrong_value(&below(at, "path"), format!("`{path}` must begin with `/`"));
    }
    if raw.command.as_ref().is_some_and(|command| command.first().is_none_or(String::is_empty)) {
        document.wrong_value(&below(at, "command"), "`command` names no command");
    }
    Some(match kind {
        RawProbeKind::Console => Probe::Console { text: raw.text? },
        RawProbeKind::Tcp => Probe::Tcp { port: raw.port? },
        RawProbeKind::Http => {
            Probe::Http { port: raw.port?, path: raw.path.unwrap_or_else(|| "/".to_owned()), text: raw.text }
        }
        RawProbeKind::Command => Probe::Command { command: raw.command?, text: raw.text },
    })
}

fn time(document: &mut Document, at: &str, text: Option<&str>) -> Option<Duration> {
    duration(text?).map_err(|wrong| document.wrong_value(at, wrong)).ok()
}

//! Reads a cron expression and rewrites it for the crate `cron`: seven fields, week days by name, day fields apart.

use std::str::FromStr;

use cron::Schedule as Fields;

const DAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

/// An expression that was read.
#[derive(Debug)]
pub(super) struct Parsed {
    /// A day fits if any of these fits.
    pub(super) fields: Vec<Fields>,
    /// Whether minutes and hours have neither wildcard nor step.
    pub(super) fixed: bool,
}

/// Why an expression is refused, and what to write instead.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) reason: String,
    pub(super) hint: String,
}

fn wrong(reason: impl Into<String>, hint: &str) -> Wrong {
    Wrong { reason: reason.into(), hint: hint.to_owned() }
}

const FORM: &str = "write `minute hour day month weekday`, such as `0 3 * * *`";

/// Reads an expression of 5 to 7 fields, or an alias.
pub(super) fn expression(text: &str) -> Result<Parsed, Wrong> {
    let text = alias(text.trim())?;
    let fields: Vec<&str> = text.split_ascii_whitespace().collect();
    let [second, minute, hour, day, month, weekday, year] = match fields[..] {
        [minute, hour, day, month, weekday] => ["0", minute, hour, day, month, weekday, "*"],
        [second, minute, hour, day, month, weekday] => [second, minute, hour, day, month, weekday, "*"],
        [second, minute, hour, day, month, weekday, year] => [second, minute, hour, day, month, weekday, year],
        _ => return Err(wrong(format!("it has {} fields, not 5, 6 or 7", fields.len()), FORM)),
    };
    for (name, field) in [("day", day), ("weekday", weekday)] {
        let special = field.contains('#') || (name == "day" && field.contains(['L', 'W', 'l', 'w']));
        if special {
            let reason = format!("`{field}` in the {name} field: `L`, `W` and `#` are not supported");
            return Err(wrong(reason, "name days or week days, such as `1,15` or `MON-FRI`"));
        }
    }
    let weekdays = weekdays(weekday)?;
    let open = |field: &str| field == "*" || field == "?";
    let variants = match (open(day), open(weekday)) {
        (false, false) => vec![(day, "*"), ("*", weekdays.as_str())],
        _ => vec![(day, weekdays.as_str())],
    };
    let read = |(day, weekday): (&str, &str)| {
        Fields::from_str(&format!("{second} {minute} {hour} {day} {month} {weekday} {year}")).map_err(|error| {
            let first = error.to_string().lines().next().unwrap_or_default().to_owned();
            wrong(if first.is_empty() { "a field cannot be read".to_owned() } else { first }, FORM)
        })
    };
    let fixed = ![minute, hour].iter().any(|field| field.contains(['*', '/', '?']));
    Ok(Parsed { fields: variants.into_iter().map(read).collect::<Result<_, _>>()?, fixed })
}

fn alias(text: &str) -> Result<&str, Wrong> {
    Ok(match text {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        _ if text.starts_with('@') => {
            let known = "use `@hourly`, `@daily`, `@weekly`, `@monthly` or `@yearly`";
            return Err(wrong(format!("there is no alias `{text}`"), known));
        }
        _ => text,
    })
}

/// The week days of a field as a list of names: the crate counts 1 as Sunday, crontab as Monday.
fn weekdays(field: &str) -> Result<String, Wrong> {
    if field == "*" || field == "?" {
        return Ok("*".to_owned());
    }
    let mut meant = [false; 7];
    for item in field.split(',') {
        let (range, step) = match item.split_once('/') {
            None => (item, 1),
            Some((range, step)) => match step.parse::<usize>() {
                Ok(step @ 1..=7) => (range, step),
                _ => return Err(bad_weekday(item)),
            },
        };
        let (first, last) = match range.split_once('-') {
            _ if range == "*" => (0, 6),
            Some((first, last)) => {
                let (first, last) = (weekday(first, item)?, weekday(last, item)?);
                // a range may end with Sunday, or begin with it as 7
                match (first, last) {
                    (1.., 0) => (first, 7),
                    (7, 1..=6) => (0, last),
                    _ => (first, last),
                }
            }
            None if item.contains('/') => (weekday(range, item)?, 6),
            None => (weekday(range, item)?, weekday(range, item)?),
        };
        if first > last {
            let reason = format!("the week days `{item}` run backwards");
            return Err(wrong(reason, "put two ranges, such as `SAT,SUN-MON`"));
        }
        (first..=last).step_by(step).for_each(|day| meant[day % 7] = true);
    }
    let names: Vec<&str> = DAYS.iter().zip(meant).filter(|(_, meant)| *meant).map(|(name, _)| *name).collect();
    Ok(names.join(","))
}

fn bad_weekday(item: &str) -> Wrong {
    wrong(format!("`{item}` is no week day"), "use 0 to 7 (0 and 7 are Sunday) or SUN to SAT")
}

/// A week day by number or name; 7 stays 7, so that `5-7` is a range.
fn weekday(text: &str, item: &str) -> Result<usize, Wrong> {
    if let Ok(number) = text.parse::<usize>() {
        return if number <= 7 && text.len() == 1 { Ok(number) } else { Err(bad_weekday(item)) };
    }
    let upper = text.to_ascii_uppercase();
    let long = ["SUNDAY", "MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY"];
    let found = DAYS.iter().zip(long).position(|(short, long)| upper == *short || upper == long);
    found.ok_or_else(|| bad_weekday(item))
}

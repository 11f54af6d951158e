//! Numbers as people read them.

use jiff::Timestamp;

/// `412 MiB`: three significant digits and a binary unit.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let (mut value, mut unit) = (count as f64 / 1024.0, UNITS[0]);
    for next in &UNITS[1..] {
        if value < 999.5 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    match value {
        v if v < 9.995 => format!("{v:.2} {unit}"),
        v if v < 99.95 => format!("{v:.1} {unit}"),
        v => format!("{v:.0} {unit}"),
    }
}

/// `3 d 4 h`, `12 min`, `4.2 s`: the two units that matter.
pub fn seconds(time: f64) -> String {
    if time < 60.0 {
        return format!("{time:.1} s");
    }
    let whole = time.round() as u64;
    let (days, hours, minutes, rest) = (whole / 86_400, whole / 3_600 % 24, whole / 60 % 60, whole % 60);
    let two = |first: u64, unit: &str, second: u64, small: &str| match second {
        0 => format!("{first} {unit}"),
        _ => format!("{first} {unit} {second} {small}"),
    };
    match (days, hours) {
        (0, 0) => two(minutes, "min", rest, "s"),
        (0, _) => two(hours, "h", minutes, "min"),
        _ => two(days, "d", hours, "h"),
    }
}

/// An age or a limit in whole seconds.
pub fn age(whole: i64) -> String {
    match whole {
        ..0 => "in the future".to_owned(),
        0..60 => format!("{whole} s"),
        _ => seconds(whole as f64),
    }
}

/// `2026-11-22 03:00:00 UTC`, the same on every machine.
pub fn instant(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// `1 point`, `2 points`.
pub fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// Reads a size: `1GiB`, `512 MiB`, `2G`; a bare number is MiB.
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let shift = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "m" | "mib" => 20,
        "k" | "kib" => 10,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!([bytes(0), bytes(1023), bytes(1024), bytes(1536 << 20)], ["0 B", "1023 B", "1.00 KiB", "1.50 GiB"]);
        assert_eq!(bytes(1023 << 20), "1.00 GiB");
        assert_eq!(
            [seconds(4.16), seconds(61.0), seconds(7200.0), seconds(90_000.0)],
            ["4.2 s", "1 min 1 s", "2 h", "1 d 1 h"]
        );
        assert_eq!(parse_size("1GiB"), Some(1 << 30));
        assert_eq!(parse_size("512"), Some(512 << 20));
        assert_eq!(parse_size("many"), None);
        assert_eq!(parse_size("99999999999999999G"), None);
    }
}

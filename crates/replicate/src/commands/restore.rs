//! `replicate restore`: a server from its newest verified point, to a site or a file; with `--drill`, the proof that
//! it can be done; with `--final`, a move of it.

use std::path::Path;

use engine::{Choice, DrillRequest, FileFormat, MoveRequest, RestoreRequest, RestoreTo};
use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use model::{Clock, DiskName, Error, Kind, PointId, PolicyName, Result, ServerName, Via};

use super::import::format_of;
use super::{Context, Outcome, absolute, place, site};
use crate::args::{RestoreArgs, ViaArg};
use crate::config::{Settings, duration};
use crate::request::Request;
use crate::wiring::SystemClock;

/// Restores, drills or moves.
pub async fn run(context: &Context, args: RestoreArgs) -> Outcome {
    let settings = context.settings()?;
    let via = match args.via {
        None => Via::Auto,
        Some(ViaArg::Relay) => Via::Relay,
        Some(ViaArg::Blocks) => Via::Blocks,
    };
    if args.last.last {
        let request = Request::Move(moved(&settings, &args, via)?);
        return context.answer(&settings, request).await;
    }
    let choice = Choice {
        server: ServerName::new(args.server.clone())?,
        at: args.at.as_deref().map(|text| when(text, SystemClock.now())).transpose()?,
        point: args.point.clone().map(PointId::new).transpose()?,
        from: args.from.as_deref().map(|text| place(&settings, text)).transpose()?,
        via,
    };
    let request = if args.drill {
        let site = args.to.as_deref().map(|name| site(&settings, name)).transpose()?;
        Request::Drill(DrillRequest { choice, site })
    } else {
        Request::Restore(RestoreRequest { choice, to: to(&settings, &args)? })
    };
    context.answer(&settings, request).await
}

fn moved(settings: &Settings, args: &RestoreArgs, via: Via) -> Result<MoveRequest> {
    let limit = &args.last.stop_limit;
    Ok(MoveRequest {
        server: ServerName::new(args.server.clone())?,
        to: site(settings, args.to.as_deref().unwrap_or_default())?,
        name: args.name.clone().map(ServerName::new).transpose()?,
        policy: args.last.policy.clone().map(PolicyName::new).transpose()?,
        via,
        stop_limit: duration(limit)
            .map_err(|why| Error::new(Kind::Invalid, "cannot use `--stop-limit`").because(why))?,
        force: args.last.force,
        stay_off: args.last.stay_off,
    })
}

fn to(settings: &Settings, args: &RestoreArgs) -> Result<RestoreTo> {
    let text = args.to.as_deref().unwrap_or_default();
    if settings.sites.keys().any(|site| site.as_str() == text) {
        if args.disk.is_some() || args.format.is_some() {
            return Err(Error::new(
                Kind::Invalid,
                format!("`--disk` and `--format` are for files, and `{text}` is a site"),
            )
            .hint(format!("for a file of that name, write `--to ./{text}`")));
        }
        let name = args.name.clone().map(ServerName::new).transpose()?;
        return Ok(RestoreTo::Site { site: site(settings, text)?, name, launch: args.launch || !args.no_launch });
    }
    let path = Path::new(text);
    let by_name = match path.extension().and_then(|end| end.to_str()) {
        Some("qcow2") => Some(FileFormat::Qcow2),
        Some("raw" | "img") => Some(FileFormat::Raw),
        _ => None,
    };
    // a word without a slash and a known ending is more likely a mistyped site than a file
    if by_name.is_none() && !text.contains('/') {
        let error = site(settings, text).err().unwrap_or_else(|| Error::new(Kind::Invalid, "no destination"));
        return Err(error.hint(format!("for a file, write `--to ./{text}` or a name that ends in `.qcow2` or `.raw`")));
    }
    if args.name.is_some() || args.launch || args.no_launch {
        return Err(Error::new(
            Kind::Invalid,
            format!("`--name` and `--launch` are for sites, and `{text}` is a file"),
        ));
    }
    let format = args.format.map(format_of).or(by_name).unwrap_or(FileFormat::Raw);
    Ok(RestoreTo::File { path: absolute(path)?, format, disk: args.disk.clone().map(DiskName::new).transpose()? })
}

/// Reads an instant: RFC 3339, a date and time or a date in this host's time zone (a date means its end: the newest
/// point of that day), or how long ago.
fn when(text: &str, now: Timestamp) -> Result<Timestamp> {
    let zone = TimeZone::system();
    let local = |civil: DateTime| zone.to_timestamp(civil).ok();
    let found = (text.parse::<Timestamp>().ok())
        .or_else(|| text.parse::<Date>().ok().filter(|_| text.len() <= 10).and_then(|day| local(day.at(23, 59, 59, 0))))
        .or_else(|| text.parse::<DateTime>().ok().and_then(local))
        .or_else(|| duration(text.trim_end_matches(" ago")).ok().and_then(|ago| now.checked_sub(ago).ok()));
    found.ok_or_else(|| {
        Error::new(Kind::Invalid, format!("`{text}` is not an instant"))
            .hint("write `2026-11-22`, `\"2026-11-22 03:00\"`, `2026-11-22T03:00:00Z` or how long ago: `6h`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants() {
        let now: Timestamp = "2026-11-22T12:00:00Z".parse().expect("instant");
        assert_eq!(when("2026-11-22T03:00:00Z", now).expect("instant").to_string(), "2026-11-22T03:00:00Z");
        assert_eq!(when("6h", now).expect("instant").to_string(), "2026-11-22T06:00:00Z");
        assert_eq!(when("1d ago", now).expect("instant").to_string(), "2026-11-21T12:00:00Z");
        let day = when("2026-11-21", now).expect("instant");
        assert_eq!(day.to_zoned(TimeZone::system()).strftime("%H:%M:%S").to_string(), "23:59:59");
        let time = when("2026-11-21 03:15", now).expect("instant");
        assert_eq!(time.to_zoned(TimeZone::system()).strftime("%H:%M").to_string(), "03:15");
        for wrong in ["", "yesterday", "2026-13-01", "25:00"] {
            assert!(when(wrong, now).is_err(), "{wrong}");
        }
    }
}

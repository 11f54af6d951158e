//! How moves stand, as a person reads it.

use std::fmt::Write as _;

use cloud::Power;
use engine::{MoveReport, MoveStage};

use super::human::{instant, seconds};
use super::text::indented;

/// All moves.
pub(super) fn list(moves: &[MoveReport]) -> String {
    if moves.is_empty() {
        return "no server was moved\n".to_owned();
    }
    moves.iter().map(text).collect()
}

/// One move.
pub(super) fn text(report: &MoveReport) -> String {
    let record = &report.record;
    let (server, name, to) = (&record.request.server, record.request.new_name(), &record.request.to);
    let stage = record.stage.name();
    let since = instant(record.started_at);
    let mut text = format!("{server}: {stage}, from site {} to site {to}, begun {since}\n", record.site);
    if let Some(point) = &record.point {
        let _ = writeln!(text, "  last point: {point}, taken after it was stopped");
    }
    if let Some(instance) = &record.instance {
        let _ = writeln!(text, "  new server: {name}, instance {instance}");
    }
    for rung in &record.rungs {
        let mark = if rung.passed { "ok" } else { "-" };
        let _ = writeln!(text, "  {:<24} {mark:<7} {:>8}  {}", rung.name, seconds(rung.seconds), rung.detail);
    }
    if let (Some(stopped), Some(launched)) = (record.stopped_at, record.launched_at) {
        let _ =
            writeln!(text, "  launched {} after it was off", seconds(launched.duration_since(stopped).as_secs_f64()));
    }
    text += &indented("  ", record.problem.as_slice());
    text += &indented("  ", record.stuck.as_slice());
    if let Some(at) = record.next_try {
        let _ = writeln!(text, "  next try: {}", instant(at));
    }
    text + &next(report)
}

/// What a person does now.
fn next(report: &MoveReport) -> String {
    let (server, site) = (&report.record.request.server, &report.record.site);
    match report.record.stage {
        MoveStage::Moved => {
            let old = match report.source {
                Some(Power::Off) => format!("  old server: off, kept at site {site}; do not start it\n"),
                Some(Power::On) => format!("  old server: RUNS at site {site}, beside the new one: stop one of them\n"),
                None => format!("  old server: kept at site {site}, which does not tell whether it is off\n"),
            };
            old + &format!(
                "  next: `replicate migrate confirm {server}`, or back with `replicate migrate rollback {server}`\n"
            )
        }
        MoveStage::Confirmed => {
            format!("  next: delete server {server} and its disks at site {site} when you need them no more\n")
        }
        _ => String::new(),
    }
}

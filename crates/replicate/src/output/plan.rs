//! What a run would do, as a person reads it.

use std::fmt::Write as _;

use engine::{DestinationPlan, Mode, PlanReport};
use model::{Place, Via};

use super::human::{bytes, count, seconds};
use super::text::{doomed, indented, problems};

/// The whole plan.
pub(super) fn text(plan: &PlanReport) -> String {
    let mut text = String::new();
    for server in &plan.servers {
        let resume = server.resume.as_ref().map(|run| format!(", going on with run {run}")).unwrap_or_default();
        let _ = writeln!(
            text,
            "{} by {}: {} at site {}, consistency {}{resume}",
            server.server,
            server.policy,
            bytes(server.disk_bytes),
            server.site,
            server.consistency
        );
        for destination in &server.destinations {
            text += &destination_text(destination);
        }
    }
    text += &doomed("will be deleted", &plan.doomed);
    if text.is_empty() && plan.problems.is_empty() {
        text.push_str("nothing to do: no policy covers a server\n");
    }
    text + &problems(&plan.problems)
}

fn destination_text(plan: &DestinationPlan) -> String {
    let mut text = String::new();
    let estimate = bytes(plan.estimated_bytes);
    match (plan.via, &plan.from) {
        (Via::Relay, Some(from)) => {
            let _ = writeln!(text, "  to {}: copied by the provider from {from}, at most {estimate}", plan.place);
        }
        _ => {
            let mode = match plan.mode {
                Mode::Incremental => "changes only",
                Mode::Compare => "reads everything, moves what differs",
                Mode::Full => "everything",
            };
            let parent = plan.parent.as_ref().map(|point| format!(" since {point}")).unwrap_or_default();
            let _ = writeln!(text, "  to {}: {mode}{parent}, at most {estimate}", plan.place);
            if let Some(reason) = &plan.reason {
                let _ = writeln!(text, "    because {reason}");
            }
        }
    }
    if let Some(choice) = &plan.choice {
        let _ = writeln!(text, "    by {}: {choice}", if plan.via == Via::Relay { "relay" } else { "blocks" });
    }
    let _ = writeln!(text, "    steps: {}", plan.steps.join(", "));
    let mut estimates = Vec::new();
    if matches!(plan.place, Place::Site(_)) {
        estimates.extend(plan.estimated_calls.map(|calls| format!("about {}", count(calls as usize, "call"))));
    }
    estimates.extend(plan.estimated_cost.as_ref().map(|cost| format!("{:.2} {}", cost.amount, cost.currency)));
    estimates.extend(plan.estimated_seconds.map(|time| format!("{} at the last run's pace", seconds(time))));
    if !estimates.is_empty() && plan.problem.is_none() {
        let _ = writeln!(text, "    estimate: {}", estimates.join(", "));
    }
    text + &indented("    ", plan.problem.as_slice())
}

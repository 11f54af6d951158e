//! Answers as text.

use std::fmt::Write as _;

use engine::{
    AdoptReport, CompactedReport, DestinationReport, DoomedReport, DrillReport, PointReport, Problem, PruneReport,
    RestoreReport, RunOutcome, RunReport, RunsReport, ServerReport, ServerStatus, StatusReport, SweepReport,
    VerifyReport, verify_proof,
};
use model::{Place, Replica, ReplicaState, Replication, Via};

use super::human::{age, bytes, count, instant, seconds};
use super::moves;
use super::table::table;
use crate::request::Response;

/// The answer as a person reads it.
pub fn response(response: &Response) -> String {
    match response {
        Response::Servers(servers, problems) => servers_text(servers) + &self::problems(problems),
        Response::Plan(plan) => super::plan::text(plan),
        Response::Runs(runs) => runs_text(runs),
        Response::Import(run) => run_text(run),
        Response::Status(status) => status_text(status),
        Response::Points(points) => points_text(points),
        Response::Restore(restore) => restore_text(restore),
        Response::Drill(drill) => drill_text(drill),
        Response::Move(moved) => moves::text(moved),
        Response::Moves(all) => moves::list(all),
        Response::Verify(report) => verify_text(report),
        Response::Prune(report) => prune_text(report),
        Response::Compact(report) => compact_text(report),
        Response::Sweep(report) => sweep_text(report),
        Response::Adopt(report) => adopt_text(report),
    }
}

pub(super) fn problems(problems: &[Problem]) -> String {
    indented("", problems)
}

pub(super) fn indented(indent: &str, problems: &[Problem]) -> String {
    let mut text = String::new();
    for problem in problems {
        let _ = writeln!(text, "{indent}problem: {}", problem.message);
        if let Some(hint) = &problem.hint {
            let _ = writeln!(text, "{indent}  hint: {hint}");
        }
    }
    text
}

fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

fn servers_text(servers: &[ServerReport]) -> String {
    let rows = servers.iter().map(|report| {
        let disks: Vec<String> =
            report.server.machine.disks.iter().map(|disk| format!("{} {}", disk.name, bytes(disk.size))).collect();
        let tags: Vec<String> =
            report.server.machine.tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let power = match report.server.power {
            cloud::Power::On => "on",
            cloud::Power::Off => "off",
        };
        let policies = if report.policies.is_empty() { "none".to_owned() } else { list(&report.policies) };
        vec![
            report.server.name.to_string(),
            report.site.to_string(),
            power.to_owned(),
            disks.join(", "),
            tags.join(", "),
            policies,
        ]
    });
    let text = table(&["server", "site", "power", "disks", "tags", "policies"], rows.collect());
    if text.is_empty() { "no servers\n".to_owned() } else { text }
}

pub(super) fn doomed(title: &str, replicas: &[DoomedReport]) -> String {
    let mut text = String::new();
    for replica in replicas {
        let after = instant(replica.delete_after);
        let _ =
            writeln!(text, "{title}: {} {} at {} (not before {after})", replica.server, replica.point, replica.place);
    }
    text
}

fn runs_text(runs: &RunsReport) -> String {
    if runs.runs.is_empty() {
        return "nothing was due\n".to_owned();
    }
    runs.runs.iter().map(run_text).collect()
}

fn run_text(run: &RunReport) -> String {
    let how = match run.outcome {
        RunOutcome::Done => "done",
        RunOutcome::PartlyDone => "partly done",
        RunOutcome::Failed => "failed",
        RunOutcome::AlreadyRunning => "is running already",
    };
    let mut text = format!("{}: {how}", run.server);
    if let Some(point) = &run.point {
        let _ = write!(text, ", point {point}");
    }
    if let Some(level) = run.consistency {
        let _ = write!(text, ", {level} consistency");
    }
    let _ = writeln!(text, ", {} in {}", bytes(run.disk_bytes), seconds(run.seconds));
    for destination in &run.destinations {
        text += &destination_text(destination);
    }
    for warning in &run.warnings {
        let _ = writeln!(text, "  warning: {warning}");
    }
    text + &indented("  ", run.problem.as_slice())
}

fn destination_text(destination: &DestinationReport) -> String {
    let state = match destination.state {
        engine::DestinationState::Waiting => "waiting",
        engine::DestinationState::Done => "verified",
        engine::DestinationState::Failed => "not done, the next run tries again",
        engine::DestinationState::GivenUp => "given up for this point",
    };
    if let (Via::Relay, Some(from)) = (destination.via, &destination.from) {
        let (moved, took) = (bytes(destination.relayed_bytes), seconds(destination.seconds));
        let text = format!("  {}: {state}; copied by the provider from {from}, {moved} in {took}\n", destination.place);
        return text + &indented("    ", destination.problem.as_slice());
    }
    let way = if destination.incremental { "read changes only" } else { "read everything" };
    let moved = format!("{} new, {} stored", bytes(destination.fresh_bytes), bytes(destination.stored_bytes));
    let sent = bytes(destination.received_bytes);
    let text = format!("  {}: {state}; {way}, moved {sent}: {moved}\n", destination.place);
    text + &indented("    ", destination.problem.as_slice())
}

fn status_text(status: &StatusReport) -> String {
    let met = |met: Option<bool>| match met {
        Some(false) => " (late)",
        _ => "",
    };
    let rows = status.servers.iter().map(|server| {
        let lag = server.lag_seconds.map_or("never".to_owned(), |lag| age(lag) + met(server.rpo_met));
        let objective = server.rpo_seconds.map_or("-".to_owned(), age);
        let proof = server.proof_age_seconds.map_or("never".to_owned(), |proof| age(proof) + met(server.proof_met));
        vec![
            server.server.to_string(),
            server.policy.as_ref().map_or("-".to_owned(), ToString::to_string),
            server.points.to_string(),
            server.last_point_at.map_or("-".to_owned(), instant),
            lag,
            objective,
            proof,
            server.next_due.map_or("-".to_owned(), instant),
        ]
    });
    let head = ["server", "policy", "points", "last point", "lag", "objective", "last proof", "next run"];
    let mut text = table(&head, rows.collect());
    for server in &status.servers {
        text += &stuck(server);
    }
    text.extend(status.moves.iter().map(moves::text));
    if text.is_empty() {
        text.push_str("no servers are known yet: `replicate run POLICY` makes a first point\n");
    }
    text + &problems(&status.problems)
}

fn stuck(server: &ServerStatus) -> String {
    let mut text = String::new();
    if let Some(run) = &server.open_run {
        let since = instant(run.started_at);
        let tries = count(run.attempts as usize, "attempt");
        let next = run.next_try.map(|at| format!(", next try {}", instant(at))).unwrap_or_default();
        let _ =
            writeln!(text, "{}: run {} since {since} stands at `{}` ({tries}{next})", server.server, run.run, run.step);
        text += &indented("  ", run.problem.as_slice());
    }
    if let Some(problem) = &server.last_problem {
        let _ = writeln!(text, "{}: the last run did not do all: {}", server.server, problem.message);
    }
    text
}

fn points_text(points: &[PointReport]) -> String {
    let state = |state: ReplicaState| match state {
        ReplicaState::Committed => "not verified",
        ReplicaState::Verified => "verified",
        ReplicaState::Proven => "proven",
        ReplicaState::Damaged => "DAMAGED",
        ReplicaState::Doomed => "to be deleted",
    };
    let rows = points.iter().map(|report| {
        let published = |replica: &Replica| {
            let regions = &replica.published.as_ref()?.regions;
            let done = regions.values().filter(|state| **state == Replication::Done).count();
            Some(format!(", published in {done} of {}", count(regions.len(), "region")))
        };
        let told = |replica: &Replica| {
            format!("{} ({}{})", replica.place, state(replica.state), published(replica).unwrap_or_default())
        };
        let replicas: Vec<String> = report.replicas.iter().map(told).collect();
        let stored: u64 = report.replicas.iter().map(|replica| replica.stored_bytes).sum();
        vec![
            report.point.server.to_string(),
            report.point.id.to_string(),
            instant(report.point.taken_at),
            report.point.consistency.to_string(),
            bytes(report.point.disks.iter().map(|disk| disk.size).sum()),
            bytes(stored),
            replicas.join(", "),
        ]
    });
    let text = table(&["server", "point", "taken", "consistency", "size", "added", "replicas"], rows.collect());
    if text.is_empty() { "no restore points\n".to_owned() } else { text }
}

fn restore_text(report: &RestoreReport) -> String {
    let mut text = String::new();
    let rate = bytes((report.bytes as f64 / report.seconds.max(0.001)) as u64);
    let (server, point) = (&report.server, &report.point);
    let moved = format!("{} in {} ({rate}/s)", bytes(report.bytes), seconds(report.seconds));
    let how = if report.via == Via::Relay { ", copied by the provider" } else { "" };
    let _ = writeln!(text, "{server}: restored point {point} from {}{how}, {moved}", report.from);
    let _ = writeln!(text, "  chosen: {}", report.chosen);
    if let Some(since) = &report.since {
        let _ = writeln!(text, "  moved only what differs from point {since}, of which the site has an image");
    }
    for skipped in &report.skipped {
        let place = skipped.place.as_ref().map(|place: &Place| format!(" at {place}")).unwrap_or_default();
        let _ = writeln!(text, "  passed over: {}{place}: {}", skipped.point, skipped.why);
    }
    for disk in &report.disks {
        let _ = writeln!(text, "  disk {}: {}, root {} fits", disk.name, bytes(disk.size), &disk.root.to_hex()[..16]);
    }
    for file in &report.files {
        let _ = writeln!(text, "  file: {}", file.display());
    }
    if let Some(image) = &report.image {
        let _ = writeln!(text, "  image: {image}");
    }
    if let Some(instance) = &report.instance {
        let _ = writeln!(text, "  instance: {instance}");
    }
    text
}

fn drill_text(drill: &DrillReport) -> String {
    let verdict = if drill.passed { "PROVEN" } else { "NOT PROVEN" };
    let mut text = format!("{}: {verdict}, point {}\n", drill.restore.server, drill.restore.point);
    text += &restore_text(&drill.restore);
    match verify_proof(&drill.proof, None) {
        Ok(proof) => {
            for rung in &proof.rungs {
                let mark = if rung.passed { "ok" } else { "FAILED" };
                let _ = writeln!(text, "  {:<24} {mark:<7} {:>8}  {}", rung.name, seconds(rung.seconds), rung.detail);
            }
            let total = seconds(proof.total_seconds);
            let _ = writeln!(text, "  from the first byte to the last check: {total}");
        }
        Err(error) => {
            let _ = writeln!(text, "problem: {}", error.chain());
        }
    }
    if let Some(file) = &drill.proof_file {
        let _ = writeln!(text, "  proof: {} (signed by {})", file.display(), drill.proof.public_key);
    }
    if !drill.passed && !drill.console.is_empty() {
        let _ = writeln!(text, "  end of the console:");
        for line in drill.console.lines() {
            let _ = writeln!(text, "    {}", line.escape_debug());
        }
    }
    text
}

fn verify_text(report: &VerifyReport) -> String {
    let damaged = report.replicas.iter().filter(|replica| replica.problem.is_some()).count();
    let looked = count(report.replicas.len(), "replica");
    let mut text = format!("{looked} checked, {} read, {damaged} damaged\n", bytes(report.bytes));
    for replica in &report.replicas {
        if let Some(problem) = &replica.problem {
            let (server, point) = (&replica.server, &replica.point);
            let _ = writeln!(text, "damaged: {server} {point} at {}: {}", replica.place, problem.message);
        }
    }
    text + &problems(&report.problems)
}

fn prune_text(report: &PruneReport) -> String {
    let rows = report
        .kept
        .iter()
        .map(|kept| vec![kept.server.to_string(), kept.point.to_string(), kept.place.to_string(), kept.why.clone()]);
    let mut text = table(&["server", "kept", "place", "because"], rows.collect());
    text += &doomed("marked", &report.doomed);
    text += &doomed("kept after all", &report.reprieved);
    text += &doomed("deleted", &report.deleted);
    for (vault, freed) in &report.collected {
        let packs = count(freed.packs as usize, "pack");
        let _ = writeln!(text, "vault {vault}: freed {} in {packs}, {} marked", bytes(freed.bytes), freed.marked);
    }
    if text.is_empty() {
        text.push_str("nothing to keep and nothing to delete\n");
    }
    text + &problems(&report.problems)
}

fn compact_text(report: &CompactedReport) -> String {
    let mut text = String::new();
    let moved = if report.dry { "would move" } else { "moved" };
    for (vault, done) in &report.vaults {
        let percent = (done.waste * 100).checked_div(done.bytes).unwrap_or_default();
        let packs = count(done.packs as usize, "pack");
        let _ = write!(text, "vault {vault}: {} in {packs}, {percent} % needed by no point; ", bytes(done.bytes));
        let taken = format!("{} in {}", bytes(done.taken_bytes), count(done.taken as usize, "pack"));
        let _ = match (done.taken, report.dry) {
            (0, _) => writeln!(text, "nothing is worth moving"),
            (_, true) => writeln!(text, "{moved} what is needed of {taken}"),
            (_, false) => {
                let points = count(done.points as usize, "point");
                let written = bytes(done.written_bytes);
                writeln!(text, "{moved} what is needed of {taken} into {written}, for {points}")
            }
        };
        if done.points > 0 {
            let _ = writeln!(text, "  `replicate prune` frees the old packs when `pack-grace` is over");
        }
        if done.raced > 0 {
            let raced = count(done.raced as usize, "point");
            let _ = writeln!(text, "  {raced} changed meanwhile: the next compaction sees to them");
        }
        for why in &done.unreadable {
            let _ = writeln!(text, "  left where it is: {why}");
        }
    }
    if text.is_empty() {
        text.push_str("no vault was compacted\n");
    }
    text + &problems(&report.problems)
}

fn sweep_text(report: &SweepReport) -> String {
    let mut text = String::new();
    for (title, found) in [("deleted", &report.deleted), ("in use", &report.in_use)] {
        for resource in found {
            let run = resource.run.as_ref().map(|run| format!(" of run {run}")).unwrap_or_default();
            let _ = writeln!(text, "{title}: {} {} at site {}{run}", resource.kind, resource.id, resource.site);
        }
    }
    if text.is_empty() {
        text.push_str("no leftovers\n");
    }
    text + &problems(&report.problems)
}

fn adopt_text(report: &AdoptReport) -> String {
    let mut text = format!(
        "{} with {}: {} added, {} gone\n",
        count(report.points, "point"),
        count(report.replicas, "replica"),
        report.added,
        report.gone.len()
    );
    for (point, place) in &report.gone {
        let _ = writeln!(text, "gone: {point} at {place}");
    }
    text + &problems(&report.problems)
}

//! kill -9 at every numbered point of what the command does, as a process: run, restore, prune, and the recovery
//! itself. After each death the same command is given again, calmly, and the world must be as if nothing had been.
//!
//! `REPLICATE_SWEEP=full` dies at every point; without it, at every sixth one or so, beginning at another one each time.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a panic is a test's verdict")]

mod common;

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use common::{World, filter};
use serde_json::Value;

/// How the world stands, as far as it must be the same.
#[derive(Debug, PartialEq, Eq)]
struct Standing {
    /// Roots and good places of the points that are left.
    points: BTreeSet<String>,
    /// Open runs.
    open: usize,
    /// Every file of the sites, ids taken out.
    files: BTreeSet<String>,
}

fn standing(world: &World) -> Standing {
    let report = world.json(&["points"]);
    let points = (report["report"].as_array().expect("points").iter())
        .map(|point| {
            let replicas: BTreeSet<String> = (point["replicas"].as_array().expect("replicas").iter())
                .map(|replica| format!("{} {}", replica["place"], replica["state"]))
                .collect();
            format!("{} {} {replicas:?}", point["point"]["server"], point["point"]["disks"])
        })
        .collect();
    let status = world.json(&["status"]);
    let open = (status["report"]["servers"].as_array().expect("servers").iter())
        .filter(|server| !server["open_run"].is_null())
        .count();
    let mut files = BTreeSet::new();
    for site in ["disks", "dr"] {
        list(&world.path(site), &mut files);
    }
    let files = files.into_iter().map(|file| filter(&file, world.folder.path())).collect();
    Standing { points, open, files }
}

fn list(folder: &Path, files: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            list(&path, files);
        } else {
            files.insert(path.display().to_string());
        }
    }
}

/// Dies at the n-th point of the command; false if it ended before it came there.
fn dies(world: &World, arguments: &[&str], n: usize) -> bool {
    let output = world.command(arguments).env("REPLICATE_CRASH_AT", n.to_string()).output().expect("replicate");
    if output.status.signal() == Some(9) {
        return true;
    }
    assert!(output.status.code().is_some(), "{}", output.status);
    false
}

/// How many points a command passes when nothing happens to it.
fn points_of(world: &World, arguments: &[&str]) -> usize {
    let log = world.path("crash.log");
    let output = world.command(arguments).env("REPLICATE_CRASH_LOG", &log).output().expect("replicate");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let count = std::fs::read_to_string(&log).unwrap_or_default().lines().count();
    let _ = std::fs::remove_file(&log);
    count
}

/// The points to die at: all of them, or every `stride`-th.
fn chosen(count: usize, stride: usize) -> Vec<usize> {
    let full = std::env::var_os("REPLICATE_SWEEP").is_some_and(|value| value == "full");
    let offset = std::process::id() as usize;
    (1..=count).filter(|n| full || (n + offset).is_multiple_of(stride)).collect()
}

/// What follows every death: the command again, and the house put in order.
fn recover(world: &World, arguments: &[&str]) {
    world.fine(arguments);
    tidy(world);
}

/// Retention until it has nothing left to do: what it marks first it deletes then, and it refuses to delete much at
/// once (exit 3); so the number of runs does not show.
fn tidy(world: &World) {
    for _ in 0..8 {
        let output = world.run(&["--json", "prune"]);
        assert!(matches!(output.status.code(), Some(0 | 3)), "{}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).expect("json");
        let empty = |key: &str| report["report"][key].as_array().is_some_and(Vec::is_empty);
        if empty("doomed") && empty("problems") {
            break;
        }
    }
    world.fine(&["sweep", "-q"]);
}

/// A world with one committed point, and a disk that has changed since.
fn prepared() -> World {
    let world = World::new();
    world.fine(&["init", "--vault", "main"]);
    world.fine(&["run", "all", "-q"]);
    world.change_disk(7);
    world
}

fn check(world: &World, calm: &Standing, story: &str) {
    let now = standing(world);
    assert_eq!(now, *calm, "{story}");
    world.fine(&["verify", "-q"]);
}

#[test]
fn a_run_survives_death_anywhere() {
    let world = prepared();
    let saved = world.save();
    let command = ["run", "all", "-q"];
    let count = points_of(&world, &command);
    tidy(&world);
    let calm = standing(&world);
    assert!(count > 40 && calm.points.len() == 1 && calm.open == 0, "{count} points, {calm:?}");
    let mut deaths = 0;
    for n in chosen(count, 6) {
        world.reset(&saved);
        deaths += usize::from(dies(&world, &command, n));
        recover(&world, &command);
        check(&world, &calm, &format!("run, died at {n} of {count}"));
    }
    println!("run: {deaths} deaths at {count} points");
    assert!(deaths > 10);
}

#[test]
fn a_recovery_survives_death_anywhere() {
    let world = prepared();
    let saved = world.save();
    let command = ["run", "all", "-q"];
    let count = points_of(&world, &command);
    tidy(&world);
    let calm = standing(&world);
    let mut pairs = 0;
    for (turn, first) in chosen(count, 15).into_iter().enumerate() {
        world.reset(&saved);
        if !dies(&world, &command, first) {
            continue;
        }
        let wounded = world.save();
        // a few deaths of the recovery for each death of the run, others each time
        for second in (1 + turn % 7..=count).step_by(31) {
            world.reset(&wounded);
            if !dies(&world, &command, second) {
                break;
            }
            pairs += 1;
            recover(&world, &command);
            check(&world, &calm, &format!("run, died at {first}, then at {second}"));
        }
    }
    println!("recovery: {pairs} pairs");
    assert!(pairs > 3);
}

#[test]
fn a_restore_survives_death_anywhere() {
    let world = prepared();
    world.fine(&["run", "all", "-q"]);
    tidy(&world);
    let saved = world.save();
    for command in [
        &["restore", "web-1", "--to", "here", "--no-launch", "--from", "vault:main", "-q"][..],
        &["restore", "web-1", "--to", "./disk.qcow2", "-q"],
    ] {
        world.reset(&saved);
        let before = standing(&world);
        let count = points_of(&world, command);
        world.fine(&["sweep", "-q"]);
        let calm = standing(&world);
        assert_eq!(calm.points, before.points, "a restore makes no points");
        let mut deaths = 0;
        for n in chosen(count, 4) {
            world.reset(&saved);
            deaths += usize::from(dies(&world, command, n));
            // a restore that died is cleaned up by whoever sweeps, and is given again; a file that is whole stays
            world.fine(&["sweep", "-q"]);
            let again = world.run(command);
            let whole = world.path("disk.qcow2").exists();
            assert!(again.status.success() || whole, "{}", String::from_utf8_lossy(&again.stderr));
            world.fine(&["sweep", "-q"]);
            let now = standing(&world);
            assert_eq!((&now.points, now.open), (&calm.points, 0), "died at {n} of {count}: {command:?}");
            let scratch = |standing: &Standing| {
                let inner =
                    |file: &&String| file.contains(".scratch") || file.contains(".making") || file.ends_with("part");
                standing.files.iter().filter(inner).cloned().collect::<BTreeSet<_>>()
            };
            assert_eq!(scratch(&now), scratch(&calm), "died at {n} of {count}: {command:?}");
        }
        println!("{}: {deaths} deaths at {count} points", command[3]);
        assert!(deaths > 1);
    }
}

#[test]
fn a_prune_survives_death_anywhere() {
    let world = prepared();
    world.fine(&["run", "all", "-q"]);
    let saved = world.save();
    let command = ["prune", "-q"];
    let mut count = points_of(&world, &command);
    count = count.max(points_of(&world, &command));
    tidy(&world);
    let calm = standing(&world);
    assert_eq!(calm.points.len(), 1);
    let mut deaths = 0;
    for n in chosen(2 * count, 6) {
        world.reset(&saved);
        // the first half dies while marking, the second while deleting
        if n > count {
            world.fine(&command);
        }
        deaths += usize::from(dies(&world, &command, if n > count { n - count } else { n }));
        tidy(&world);
        check(&world, &calm, &format!("prune, died at {n} of {count}"));
    }
    println!("prune: {deaths} deaths at {count} points");
    assert!(deaths > 1);
}

#[test]
fn a_ledger_that_was_killed_tells_no_lies() {
    // after every death, what the ledger calls good must be good, before any recovery
    let world = prepared();
    let saved = world.save();
    let command = ["run", "all", "-q"];
    let count = points_of(&world, &command);
    for n in chosen(count, 19) {
        world.reset(&saved);
        dies(&world, &command, n);
        let report: Value = world.json(&["verify"]);
        assert!(report["report"]["problems"].as_array().is_some_and(Vec::is_empty), "died at {n}: {report}");
    }
}

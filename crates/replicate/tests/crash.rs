//! kill -9 at every numbered point of what the command does, as a process: run, import, restore, prune, adopt, keys, and the
//! recovery itself. After each death the same command is given again, calmly, and the world must be as if nothing had been.
//!
//! `REPLICATE_SWEEP=full` dies at every point, and at every seventh of what comes after every third; without it at some of them, beginning
//! at another one each time. (All pairs are the engine's own sweep, which needs fewer processes.)

#![allow(clippy::expect_used, clippy::print_stdout, clippy::unwrap_used, reason = "a panic is a test's verdict")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;

use common::{Saved, World, filter, is_full};
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

/// Every point if all are wanted, else every `stride`-th.
fn all_or(stride: usize) -> usize {
    if is_full() { 1 } else { stride }
}

/// The one sweep: in fresh copies of `saved` the command dies at every `stride`-th of its points; after each
/// death the survivor does and judges what comes next. Returns how many deaths there were.
fn sweep(world: &World, saved: &Saved, command: &[&str], stride: usize, mut survivor: impl FnMut(usize)) -> usize {
    let mut deaths = 0;
    for n in (1 + std::process::id() as usize % stride..).step_by(stride) {
        world.reset(saved);
        if !world.dies(command, n) {
            break;
        }
        deaths += 1;
        survivor(n);
    }
    deaths
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

/// How the world stands after the command and a tidy house, when nothing happens to it.
fn calm(world: &World, command: &[&str]) -> Standing {
    recover(world, command);
    let calm = standing(world);
    assert_eq!(calm.open, 0, "{calm:?}");
    calm
}

fn check(world: &World, calm: &Standing, story: &str) {
    let now = standing(world);
    assert_eq!(now, *calm, "{story}");
    world.fine(&["verify", "-q"]);
}

/// Sweeps a command that is simply given again, and its recovery: at some deaths (`stride.1`), what comes after dies too.
fn again(world: &World, command: &[&str], stride: (usize, usize, usize)) {
    let stride = if is_full() { (1, 3, 7) } else { stride };
    let saved = world.save();
    let calm = calm(world, command);
    let mut pairs = 0;
    let deaths = sweep(world, &saved, command, stride.0, |n| {
        recover(world, command);
        check(world, &calm, &format!("{command:?} died at {n}"));
    });
    sweep(world, &saved, command, stride.1, |first| {
        let wounded = world.save();
        pairs += sweep(world, &wounded, command, stride.2, |second| {
            recover(world, command);
            check(world, &calm, &format!("{command:?} died at {first}, then at {second}"));
        });
    });
    println!("{command:?}: {deaths} deaths, {pairs} pairs");
    assert!(deaths > 1 && pairs > 0);
}

#[test]
fn a_run_survives_death_anywhere() {
    again(&prepared(), &["run", "all", "-q"], (6, 15, 31));
}

#[test]
fn a_prune_survives_death_anywhere() {
    let world = prepared();
    world.fine(&["run", "all", "-q"]);
    let fresh = world.save();
    again(&world, &["prune", "-q"], (2, 4, 5));
    // the first only marks, the second deletes
    world.reset(&fresh);
    world.fine(&["prune", "-q"]);
    again(&world, &["prune", "-q"], (3, 7, 7));
}

#[test]
fn a_compaction_survives_death_anywhere() {
    let world = prepared();
    world.fine(&["run", "all", "-q"]);
    // the first point goes, and with it the need for a twelfth of the first pack
    tidy(&world);
    again(&world, &["compact", "--waste", "1", "-q"], (2, 3, 4));
    let report = world.json(&["compact", "--waste", "1", "--dry-run"]);
    assert_eq!(report["report"]["vaults"][0][1]["taken"], 0, "{report}");
}

/// An import that died goes on from the ledger; one that died before it was noted is given again. Either way there is one point of it.
#[test]
fn an_import_survives_death_anywhere() {
    let world = prepared();
    std::fs::write(world.path("old.raw"), common::pattern(5, 1 << 20)).expect("disk");
    let command = ["import", "old.raw", "--server", "old", "--to", "vault:main", "--to", "dr", "-q"];
    let saved = world.save();
    let calm = calm(&world, &command);
    let deaths = sweep(&world, &saved, &command, all_or(7), |n| {
        // a run resumes nothing but its own: the daemon's start does
        daemon_starts(&world);
        if !standing(&world).points.iter().any(|point| point.starts_with("\"old\"")) {
            world.fine(&command);
        }
        tidy(&world);
        check(&world, &calm, &format!("import died at {n}"));
    });
    println!("import: {deaths} deaths");
    assert!(deaths > 3);
}

/// What a start of the daemon does with what a dead process left; then it stops.
fn daemon_starts(world: &World) {
    let log = std::fs::File::create(world.path("daemon.log")).expect("log");
    let daemon = world.command(&["daemon"]).stdout(std::process::Stdio::null()).stderr(log).spawn();
    let mut daemon = daemon.expect("daemon");
    let end = std::time::Instant::now() + std::time::Duration::from_secs(120);
    while !world.read("daemon.log").contains("swept") {
        assert!(std::time::Instant::now() < end, "the daemon does not sweep: {}", world.read("daemon.log"));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let told = std::process::Command::new("kill").arg(daemon.id().to_string()).status();
    assert!(told.expect("kill").success() && daemon.wait().expect("daemon").success());
    std::fs::remove_file(world.path("daemon.log")).expect("log");
}

#[test]
fn a_restore_survives_death_anywhere() {
    let world = prepared();
    recover(&world, &["run", "all", "-q"]);
    let saved = world.save();
    let before = standing(&world);
    for command in [
        &["restore", "web-1", "--to", "here", "--no-launch", "--from", "vault:main", "-q"][..],
        &["restore", "web-1", "--to", "./disk.qcow2", "-q"],
    ] {
        world.reset(&saved);
        world.fine(command);
        let calm = standing(&world);
        assert_eq!(calm.points, before.points, "a restore makes no points");
        let deaths = sweep(&world, &saved, command, all_or(4), |n| {
            // a restore that died is cleaned up by whoever sweeps, and is given again; a file that is whole stays
            world.fine(&["sweep", "-q"]);
            let again = world.run(command);
            let whole = world.path("disk.qcow2").exists();
            assert!(again.status.success() || whole, "{}", String::from_utf8_lossy(&again.stderr));
            check(&world, &calm, &format!("{command:?} died at {n}"));
        });
        println!("{}: {deaths} deaths", command[3]);
        assert!(deaths > 1);
    }
}

#[test]
fn an_adoption_survives_death_anywhere() {
    let world = prepared();
    recover(&world, &["run", "all", "-q"]);
    std::fs::remove_dir_all(world.path("ledger")).expect("ledger");
    let (saved, command) = (world.save(), ["adopt", "-q"]);
    world.fine(&command);
    world.fine(&["verify", "-q"]);
    let calm = standing(&world);
    let deaths = sweep(&world, &saved, &command, all_or(3), |n| {
        world.fine(&command);
        world.fine(&["verify", "-q"]);
        check(&world, &calm, &format!("adopt died at {n}"));
    });
    println!("adopt: {deaths} deaths");
    assert!(deaths > 1);
}

/// A recipient is added, the old one removed: at every instant some key that the administrator has opens the vault.
#[test]
fn a_rotation_of_keys_survives_death_anywhere() {
    let world = prepared();
    world.write("pass.txt", "correct horse battery staple");
    let saved = world.save();
    let add = ["key", "add", "main", "--passphrase-file", "pass.txt", "-q"];
    let opens = |with: &[&str]| world.run(&[&["key", "test", "main", "-q"], with].concat()).status.success();
    let mut deaths = sweep(&world, &saved, &add, 1, |n| {
        assert!(opens(&["--age-file", "key.txt"]), "died at {n}");
        world.fine(&add);
        assert!(opens(&["--passphrase-file", "pass.txt"]) && opens(&["--age-file", "key.txt"]), "died at {n}");
    });
    world.reset(&saved);
    world.fine(&add);
    let recipients = world.json(&["key", "list", "main"]);
    let age =
        recipients.as_array().expect("recipients").iter().find(|one| one["kind"] == "age").expect("age")["id"].clone();
    let remove = ["key", "remove", "main", age.as_str().expect("id"), "-q"];
    let saved = world.save();
    deaths += sweep(&world, &saved, &remove, 1, |n| {
        assert!(opens(&["--passphrase-file", "pass.txt"]), "died at {n}");
        // the key in the configuration may be the removed one already: then there is nothing left to remove
        if opens(&[]) {
            world.fine(&remove);
        }
        assert!(opens(&["--passphrase-file", "pass.txt"]) && !opens(&["--age-file", "key.txt"]), "died at {n}");
    });
    println!("keys: {deaths} deaths");
    assert!(deaths >= 4);
}

#[test]
fn a_ledger_that_was_killed_tells_no_lies() {
    // after every death, what the ledger calls good must be good, before any recovery
    let world = prepared();
    let saved = world.save();
    let deaths = sweep(&world, &saved, &["run", "all", "-q"], all_or(19), |n| {
        let report: Value = world.json(&["verify"]);
        assert!(report["report"]["problems"].as_array().is_some_and(Vec::is_empty), "died at {n}: {report}");
    });
    assert!(deaths > 2);
}

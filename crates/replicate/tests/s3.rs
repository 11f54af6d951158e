//! The program with a vault on a real S3 server: from `init` to `adopt`, killed in between, and two installations that share the vault.
//!
//! One test with parts, so that the server starts once. Skipped, loudly, where the server cannot be had.

#![cfg(feature = "aws")]
#![allow(clippy::expect_used, clippy::print_stdout, clippy::unwrap_used, reason = "a panic is a test's verdict")]

mod common;

use common::{World, is_full, pattern};
use serde_json::Value;
use tests::seaweed::{ACCESS, SECRET, Seaweed};

/// A world whose vault `main` is `prefix` of the bucket `vaults`.
fn world(server: &Seaweed, prefix: &str) -> World {
    let world = World::new();
    world.secret("s3-access", ACCESS);
    world.secret("s3-secret", SECRET);
    let s3 = format!(
        "url = \"s3://vaults/{prefix}\"\ns3 = {{ endpoint = \"{}\", region = \"us-east-1\", path-style = true, \
         access-key = \"file:s3-access\", secret-key = \"file:s3-secret\" }}",
        server.endpoint()
    );
    let settings = world.read("replicate.toml").replace("url = \"dir:vault\"", &s3);
    world.write("replicate.toml", &settings);
    world
}

fn report(world: &World, arguments: &[&str]) -> Value {
    world.json(arguments)["report"].clone()
}

/// The names of the points, each with its places and what is known of them.
fn points(world: &World) -> Vec<String> {
    let points = report(world, &["points"]);
    let places = |point: &Value| -> Vec<String> {
        point["replicas"].as_array().unwrap().iter().map(|r| format!("{} {}", r["place"], r["state"])).collect()
    };
    points.as_array().unwrap().iter().map(|point| format!("{} {:?}", point["point"]["id"], places(point))).collect()
}

/// What the vault of a run took of the last point.
fn moved(run: &Value, field: &str) -> u64 {
    let destinations = run["runs"][0]["destinations"].as_array().unwrap().iter();
    destinations.filter(|d| d["place"]["vault"] == "main").map(|d| d[field].as_u64().unwrap()).sum()
}

fn restores(world: &World, server: &str, expected: &[u8], story: &str) {
    let _ = std::fs::remove_file(world.path("back.raw"));
    world.fine(&["restore", server, "--to", "./back.raw", "--from", "vault:main", "-q"]);
    assert!(std::fs::read(world.path("back.raw")).unwrap() == expected, "{story}");
    std::fs::remove_file(world.path("back.raw")).unwrap();
}

fn disk(world: &World) -> Vec<u8> {
    std::fs::read(world.path("guests/web-1.raw")).unwrap()
}

#[test]
fn a_vault_on_s3() {
    let server = match Seaweed::start(&["vaults"]) {
        Ok(server) => server,
        Err(why) => return println!("SKIPPED: the program is not tested with a vault on S3: {why}"),
    };
    a_life(&server);
    large_packs_go_up_in_parts(&server);
    killed_anywhere(&server);
    two_installations_race(&server);
}

fn a_life(server: &Seaweed) {
    let world = world(server, "life");
    // the other destination gets its image, so the advice stands in the run's report
    let early = world.run(&["run", "all"]);
    let said = String::from_utf8_lossy(&early.stdout).into_owned() + &String::from_utf8_lossy(&early.stderr);
    assert!(!early.status.success() && said.contains("replicate init --vault main"), "{said}");
    world.fine(&["init", "--vault", "main"]);
    assert!(!world.run(&["init", "--vault", "main"]).status.success(), "there is one already");
    world.fine(&["doctor", "main"]);
    std::fs::write(world.path("old.raw"), pattern(5, 1 << 20)).unwrap();
    world.fine(&["import", "old.raw", "--server", "old", "--to", "vault:main", "-q"]);
    let first = report(&world, &["run", "all"]);
    assert!(moved(&first, "stored_bytes") > 3 << 20, "{first}");
    world.change_disk(7);
    let second = report(&world, &["run", "all"]);
    assert!((1..1 << 20).contains(&moved(&second, "stored_bytes")), "256 KiB changed: {second}");
    assert!(report(&world, &["verify"])["problems"].as_array().unwrap().is_empty());
    restores(&world, "web-1", &disk(&world), "the newest point");
    restores(&world, "old", &pattern(5, 1 << 20), "the import");
    // keep.last is 1: the older point goes, and the collector looks at the bucket
    assert_eq!(report(&world, &["prune"])["doomed"].as_array().unwrap().len(), 2);
    let pruned = report(&world, &["prune"]);
    assert_eq!(pruned["deleted"].as_array().unwrap().len(), 2, "{pruned}");
    assert!(pruned["collected"].as_array().unwrap().len() == 1, "{pruned}");
    let before = points(&world);
    assert_eq!(before.len(), 2);
    std::fs::remove_dir_all(world.path("ledger")).unwrap();
    world.fine(&["adopt", "-q"]);
    world.fine(&["verify", "-q"]);
    assert_eq!(points(&world), before);
    restores(&world, "web-1", &disk(&world), "after all was forgotten");
    world.secret("s3-secret", "not the secret");
    let refused = world.run(&["key", "test", "main"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(12) && said.contains("check the vault's credentials"), "{said}");
    assert!(!said.contains("not the secret"), "{said}");
}

fn large_packs_go_up_in_parts(server: &Seaweed) {
    let world = world(server, "parts");
    world.fine(&["init", "--vault", "main"]);
    std::fs::write(world.path("big.raw"), pattern(9, 36 << 20)).unwrap();
    let import = ["import", "big.raw", "--server", "big", "--to", "vault:main", "-q"];
    let passed = world.points(&import);
    assert!(passed.iter().filter(|point| *point == "bucket.s3.complete.after").count() >= 2, "{passed:?}");
    restores(&world, "big", &pattern(9, 36 << 20), "in parts");
}

/// Dies at points of runs, one after the other on the same vault; each time the next run finishes.
fn killed_anywhere(server: &Seaweed) {
    let world = world(server, "killed");
    world.fine(&["init", "--vault", "main"]);
    world.fine(&["run", "all", "-q"]);
    let (mut deaths, stride) = (0, if is_full() { 1 } else { 17 });
    for n in (1 + std::process::id() as usize % stride..).step_by(stride) {
        world.change_disk(n as u64 + 100);
        if !world.dies(&["run", "all", "-q"], n) {
            break;
        }
        deaths += 1;
        world.fine(&["run", "all", "-q"]);
        world.fine(&["verify", "-q"]);
        restores(&world, "web-1", &disk(&world), &format!("died at {n}"));
    }
    for _ in 0..80 {
        let output = world.run(&["--json", "prune"]);
        let pruned: Value = serde_json::from_slice(&output.stdout).unwrap();
        if pruned["report"]["doomed"].as_array().unwrap().is_empty() {
            break;
        }
    }
    assert_eq!(points(&world).len(), 1);
    restores(&world, "web-1", &disk(&world), "after retention");
    println!("S3: killed at {deaths} points, recovered each time");
    assert!(deaths > 2);
}

/// Two installations with servers of the same name write to one vault at the same time, and prune it.
fn two_installations_race(server: &Seaweed) {
    let (one, two) = (world(server, "shared"), world(server, "shared"));
    one.fine(&["init", "--vault", "main"]);
    for round in 0..3 {
        one.change_disk(200 + round);
        two.change_disk(200 + round / 2);
        let children = [&one, &two].map(|world| world.command(&["run", "all", "-q"]).spawn().unwrap());
        for mut child in children {
            assert!(child.wait().unwrap().success());
        }
        let children = [&one, &two].map(|world| world.command(&["prune", "-q"]).spawn().unwrap());
        for mut child in children {
            assert!(matches!(child.wait().unwrap().code(), Some(0 | 3)));
        }
    }
    for world in [&one, &two] {
        world.fine(&["verify", "-q"]);
        let (named, all) = (newest(world), points(world));
        let named = named.as_str();
        let arguments = ["restore", "web-1", "--point", named, "--to", "./back.raw", "--from", "vault:main", "-q"];
        world.fine(&arguments);
        assert!(std::fs::read(world.path("back.raw")).unwrap() == disk(world), "{named} of {all:?}");
    }
}

/// The newest point of an installation itself: only its own have an image at its own site. Ids of one second are in no order.
fn newest(world: &World) -> String {
    let points = report(world, &["points"]);
    let at_dr = |point: &&Value| point["replicas"].as_array().unwrap().iter().any(|r| r["place"]["site"] == "dr");
    let taken = |point: &&Value| point["point"]["taken_at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let newest = points.as_array().unwrap().iter().filter(at_dr).max_by_key(taken).unwrap();
    newest["point"]["id"].as_str().unwrap().to_owned()
}

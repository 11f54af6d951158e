//! The program with a site of kind `aws`, on the simulated cloud: from a powered-off guest to AMIs and back, killed in
//! between, and from an instance into a vault.

#![cfg(feature = "aws")]
#![allow(clippy::expect_used, clippy::print_stdout, clippy::unwrap_used, reason = "a panic is a test's verdict")]

mod common;

use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;

use common::{World, pattern};
use serde_json::{Value, json};
use tests::sim::CloudSim;

const REGION: &str = "eu-west-1";

/// A world with the site `aws`, and a server whose disk has 64 MiB.
fn world(sim: &CloudSim) -> World {
    let (world, account) = (World::new(), &sim.greeting["accounts"][0]);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    world.secret(
        "aws-credentials",
        &format!(
            "[recovery]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
            text(&account["access-key"]),
            text(&account["secret-key"])
        ),
    );
    let at = &sim.greeting["regions"][REGION];
    let site = format!(
        "[sites.aws]\nkind = \"aws\"\nregion = \"{REGION}\"\nprofile = \"recovery\"\nrole = {}\nscratch = \"scratch\"\n\
         endpoints = {{ ec2 = {}, ebs = {}, sts = {} }}\n[vaults.main]",
        account["roles"][0], at["ec2"], at["ebs"], at["sts"]
    );
    world.write("replicate.toml", &world.read("replicate.toml").replace("[vaults.main]", &site));
    world.write(
        "policies/all.toml",
        "select = { site = \"here\" }\nreplicate = [{ to = \"aws\" }]\nkeep = { last = 1 }\n",
    );
    std::fs::write(world.path("guests/web-1.raw"), pattern(1, 64 << 20)).unwrap();
    world.fine(&["init", "--vault", "main"]);
    world
}

fn calls(sim: &CloudSim, operation: &str) -> usize {
    let calls = sim.control("GET", "calls", &Value::Null);
    calls.as_array().unwrap().iter().filter(|call| call["operation"] == operation).count()
}

/// Kinds of everything that exists at the simulator, but for terminated instances.
fn kinds(sim: &CloudSim) -> Vec<String> {
    let state = sim.control("GET", "state", &Value::Null);
    let all = state["resources"].as_array().unwrap().iter().filter(|it| it["state"] != "gone");
    let mut kinds: Vec<String> = all.map(|it| it["kind"].as_str().unwrap().to_owned()).collect();
    kinds.sort();
    kinds
}

fn change(world: &World, seed: u64, len: usize) {
    let disk = std::fs::OpenOptions::new().write(true).open(world.path("guests/web-1.raw")).unwrap();
    disk.write_all_at(&pattern(seed, len), 8 << 20).unwrap();
}

fn restores(world: &World, story: &str) {
    let _ = std::fs::remove_file(world.path("back.raw"));
    world.fine(&["restore", "web-1", "--to", "./back.raw", "--from", "aws", "-q"]);
    let equal =
        std::fs::read(world.path("back.raw")).unwrap() == std::fs::read(world.path("guests/web-1.raw")).unwrap();
    assert!(equal, "{story}");
}

fn prune(world: &World) {
    for _ in 0..80 {
        // 3: more is due than may be deleted at once
        let output = world.run(&["--json", "prune"]);
        assert!(matches!(output.status.code(), Some(0 | 3)), "{}", String::from_utf8_lossy(&output.stderr));
        let pruned: Value = serde_json::from_slice(&output.stdout).unwrap();
        if pruned["report"]["doomed"].as_array().unwrap().is_empty() {
            return;
        }
    }
    panic!("retention does not come to an end");
}

#[test]
fn images_at_aws() {
    let sim = CloudSim::start(&["--calm", "--no-qemu"]);
    let world = world(&sim);
    world.fine(&["check"]);
    world.fine(&["run", "all", "-q"]);
    let first = calls(&sim, "PutSnapshotBlock");
    assert_eq!(first, 128);
    restores(&world, "the first point");
    // one percent of the disk
    change(&world, 7, 640 << 10);
    let (puts, gets) = (calls(&sim, "PutSnapshotBlock"), calls(&sim, "GetSnapshotBlock"));
    world.fine(&["run", "all", "-q"]);
    let (puts, gets) = (calls(&sim, "PutSnapshotBlock") - puts, calls(&sim, "GetSnapshotBlock") - gets);
    println!("1 % changed: {puts} of {first} blocks were put, {gets} were read");
    assert!(puts as f64 <= 0.02 * first as f64 && gets <= 8, "{puts} put, {gets} read");
    restores(&world, "the second point");
    prune(&world);
    assert_eq!(kinds(&sim), ["image", "snapshot"], "the older image is gone, its snapshot too");
    // all is forgotten, and found again by the tags
    std::fs::remove_dir_all(world.path("ledger")).unwrap();
    std::fs::remove_dir_all(world.path("scratch")).unwrap();
    world.fine(&["adopt", "-q"]);
    world.fine(&["verify", "-q"]);
    restores(&world, "after all was forgotten");
}

/// Dies at points of runs, one after the other; each time the next run finishes, and at the end nothing is left over.
#[test]
fn killed_anywhere() {
    let sim = CloudSim::start(&["--calm", "--no-qemu"]);
    let world = world(&sim);
    std::fs::write(world.path("guests/web-1.raw"), pattern(1, 9 << 20)).unwrap();
    world.fine(&["run", "all", "-q"]);
    let full = std::env::var_os("REPLICATE_SWEEP").is_some_and(|value| value == "full");
    let (mut deaths, stride) = (0, if full { 1 } else { 7 });
    for n in (1 + std::process::id() as usize % stride..).step_by(stride) {
        change(&world, n as u64 + 100, 256 << 10);
        let output = world.command(&["run", "all", "-q"]).env("REPLICATE_CRASH_AT", n.to_string()).output().unwrap();
        if output.status.signal() != Some(9) {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            break;
        }
        deaths += 1;
        world.fine(&["run", "all", "-q"]);
        restores(&world, &format!("died at {n}"));
    }
    prune(&world);
    world.fine(&["sweep", "-q"]);
    println!("killed at {deaths} points, recovered each time");
    assert!(deaths > 3);
    assert_eq!(kinds(&sim), ["image", "snapshot"]);
}

/// An instance's disks, in full and then what changed.
#[test]
fn a_server_at_aws() {
    let sim = CloudSim::start(&["--calm", "--no-qemu"]);
    let world = world(&sim);
    let account = sim.greeting["accounts"][0]["account"].clone();
    let file = world.path("guests/web-1.raw");
    let wanted = json!({"account": account, "region": REGION, "name": "app-1", "disks": [file], "running": false});
    let made = sim.control("POST", "servers", &wanted);
    let volume = sim.volume(made["volumes"][0].as_str().unwrap());
    world.write(
        "policies/all.toml",
        "select = { site = \"aws\" }\nreplicate = [{ to = \"vault:main\" }, { to = \"dr\" }]\nkeep = { last = 1 }\n",
    );
    world.fine(&["servers", "aws"]);
    world.fine(&["run", "all", "-q"]);
    assert_eq!(calls(&sim, "ListChangedBlocks"), 0);
    std::fs::OpenOptions::new()
        .write(true)
        .open(&volume)
        .unwrap()
        .write_all_at(&pattern(3, 640 << 10), 8 << 20)
        .unwrap();
    let gets = calls(&sim, "GetSnapshotBlock");
    world.fine(&["run", "all", "-q"]);
    let gets = calls(&sim, "GetSnapshotBlock") - gets;
    assert!(calls(&sim, "ListChangedBlocks") > 0 && gets <= 3, "{gets} blocks were read");
    world.fine(&["verify", "-q"]);
    for from in ["vault:main", "dr"] {
        let _ = std::fs::remove_file(world.path("back.raw"));
        world.fine(&["restore", "app-1", "--to", "./back.raw", "--from", from, "-q"]);
        assert!(std::fs::read(world.path("back.raw")).unwrap() == std::fs::read(&volume).unwrap(), "{from}");
    }
    let snapshots = kinds(&sim).iter().filter(|kind| *kind == "snapshot").count();
    assert_eq!(snapshots, 1, "the base of the next capture is all that is left at the source");
}

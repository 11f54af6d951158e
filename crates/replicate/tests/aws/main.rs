//! The program with a site of kind `aws`, on the simulated cloud: from a powered-off guest to AMIs and back, killed in
//! between, and from an instance into a vault.

#![cfg(feature = "aws")]
#![allow(clippy::expect_used, clippy::print_stdout, clippy::unwrap_used, reason = "a panic is a test's verdict")]

#[path = "../common/mod.rs"]
mod common;
mod freeze;
mod iam;
mod journey;
mod judge;
mod launch;
mod storm;

use std::os::unix::fs::FileExt;

use common::{World, is_full, pattern};
use serde_json::{Value, json};
use tests::sim::CloudSim;

const REGION: &str = "eu-west-1";

/// Another region of the same account.
const FAR: &str = "us-east-1";

/// A site of the configuration.
fn site(sim: &CloudSim, name: &str, region: &str) -> String {
    let (role, at) = (&sim.greeting["accounts"][0]["roles"][0], &sim.greeting["regions"][region]);
    format!(
        "[sites.{name}]\nkind = \"aws\"\nregion = \"{region}\"\nprofile = \"recovery\"\nrole = {role}\nscratch = \"scratch\"\n\
         endpoints = {{ ec2 = {}, ebs = {}, sts = {}, ssm = {} }}\n",
        at["ec2"], at["ebs"], at["sts"], at["ssm"]
    )
}

/// A world with the sites `aws` and `far`, and a server whose disk has 64 MiB.
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
    let sites = site(sim, "aws", REGION) + &site(sim, "far", FAR) + "[vaults.main]";
    world.write("replicate.toml", &world.read("replicate.toml").replace("[vaults.main]", &sites));
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
    restores_from(world, "aws", story);
}

fn restores_from(world: &World, from: &str, story: &str) {
    let _ = std::fs::remove_file(world.path("back.raw"));
    world.fine(&["restore", "web-1", "--to", "./back.raw", "--from", from, "-q"]);
    let equal =
        std::fs::read(world.path("back.raw")).unwrap() == std::fs::read(world.path("guests/web-1.raw")).unwrap();
    assert!(equal, "{story}");
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
    world.prune();
    assert_eq!(kinds(&sim), ["image", "snapshot"], "the older image is gone, its snapshot too");
    // all is forgotten, and found again by the tags
    std::fs::remove_dir_all(world.path("ledger")).unwrap();
    std::fs::remove_dir_all(world.path("scratch")).unwrap();
    world.fine(&["adopt", "-q"]);
    world.fine(&["verify", "-q"]);
    restores(&world, "after all was forgotten");
}

/// A policy for two regions: the second gets a copy from the first, of which only what changed is read back.
const REGIONS: &str =
    "select = { site = \"here\" }\nreplicate = [{ to = \"aws\" }, { to = \"far\" }]\nkeep = { last = 1 }\n";

/// Blocks that were put and read at a region.
fn traffic(sim: &CloudSim, region: &str) -> (usize, usize) {
    let calls = sim.control("GET", "calls", &Value::Null);
    let calls = calls.as_array().unwrap().iter().filter(|call| call["region"] == region);
    let of = |operation: &str| calls.clone().filter(|call| call["operation"] == operation).count();
    (of("PutSnapshotBlock"), of("GetSnapshotBlock"))
}

#[test]
fn from_region_to_region() {
    let sim = CloudSim::start(&["--calm", "--no-qemu"]);
    let world = world(&sim);
    world.write("policies/all.toml", REGIONS);
    let plan = world.fine(&["plan", "all"]);
    assert!(plan.contains("relay"), "{plan}");
    world.fine(&["run", "all", "-q"]);
    // what we put at the first region and read back there, as every image; what the copy has brought is read back
    assert_eq!((traffic(&sim, REGION), traffic(&sim, FAR)), ((128, 128), (0, 128)));
    restores_from(&world, "far", "the first copy");
    change(&world, 7, 640 << 10);
    let (near, far) = (traffic(&sim, REGION), traffic(&sim, FAR));
    world.fine(&["run", "all", "-q"]);
    let since = |now: (usize, usize), then: (usize, usize)| (now.0 - then.0, now.1 - then.1);
    let (near, far) = (since(traffic(&sim, REGION), near), since(traffic(&sim, FAR), far));
    println!("1 % changed: put and read {near:?} at the first region, {far:?} at the second");
    assert!(near.0 == 2 && far.0 == 0 && far.1 == 2, "{near:?} {far:?}");
    restores_from(&world, "far", "the second copy");
    assert_eq!(calls(&sim, "CopyImage"), 2);
    world.prune();
    assert_eq!(kinds(&sim), ["image", "image", "snapshot", "snapshot"]);
    // all is forgotten, and found again by the tags of the copies
    std::fs::remove_dir_all(world.path("ledger")).unwrap();
    std::fs::remove_dir_all(world.path("scratch")).unwrap();
    world.fine(&["adopt", "-q"]);
    world.fine(&["verify", "-q"]);
    restores_from(&world, "far", "after all was forgotten");
}

/// Dies at points of runs, one after the other; each time the next run finishes, and at the end nothing is left over.
#[test]
fn killed_anywhere() {
    let sim = CloudSim::start(&["--calm", "--no-qemu"]);
    let world = world(&sim);
    dies_everywhere(&sim, &world, &["aws"]);
}

/// The same with a copy to a second region.
#[test]
fn killed_while_copying() {
    let sim = CloudSim::start(&["--calm", "--no-qemu"]);
    let world = world(&sim);
    world.write("policies/all.toml", REGIONS);
    dies_everywhere(&sim, &world, &["aws", "far"]);
}

fn dies_everywhere(sim: &CloudSim, world: &World, places: &[&str]) {
    std::fs::write(world.path("guests/web-1.raw"), pattern(1, 9 << 20)).unwrap();
    world.fine(&["run", "all", "-q"]);
    let (mut deaths, stride) = (0, if is_full() { 1 } else { 7 });
    for n in (1 + std::process::id() as usize % stride..).step_by(stride) {
        change(world, n as u64 + 100, 256 << 10);
        if !world.dies(&["run", "all", "-q"], n) {
            break;
        }
        deaths += 1;
        world.fine(&["run", "all", "-q"]);
        for place in places {
            restores_from(world, place, &format!("died at {n}"));
        }
    }
    world.prune();
    world.fine(&["sweep", "-q"]);
    println!("killed at {deaths} points, recovered each time");
    assert!(deaths > 3);
    let mut expected = ["image", "snapshot"].repeat(places.len());
    expected.sort_unstable();
    assert_eq!(kinds(sim), expected);
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

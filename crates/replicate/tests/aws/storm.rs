//! One call in five goes wrong in one of seven ways, run after run: an instance is captured into AWS itself and into a
//! vault, and restored from both.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;

use serde_json::{Value, json};
use tests::sim::CloudSim;

use super::common::is_full;
use super::common::{World, pattern};
use super::{REGION, world};

/// A number that may be asked for.
fn asked(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().map_or(usual, |number| number.parse().expect("a number"))
}

/// The same storm each time, unless another one is asked for.
fn seed() -> u64 {
    asked("REPLICATE_SEED", 20_261_128)
}

fn begin(sim: &CloudSim) {
    let faults = [
        json!({ "kind": "status", "status": 500 }),
        json!({ "kind": "status", "status": 503 }),
        json!({ "kind": "status", "status": 429 }),
        json!({ "kind": "reset" }),
        json!({ "kind": "truncate", "after": 100 }),
        json!({ "kind": "drop" }),
        json!({ "kind": "twice" }),
    ];
    println!("the storm's seed is {}", seed());
    for (nth, fault) in faults.iter().enumerate() {
        // one call in five: each of them is spared by all seven with a chance of four in five
        let rule = json!({ "operation": "*", "probability": 0.0314, "seed": seed() + nth as u64, "fault": fault });
        sim.control("POST", "rules", &rule);
    }
}

/// A command until it goes well: done, or to be given again. Answers how often it was.
fn at_last(world: &World, arguments: &[&str]) -> usize {
    let mut again = 0;
    loop {
        let output = world.run(arguments);
        if output.status.success() {
            return again;
        }
        again += 1;
        assert!(again < 20, "{arguments:?} does not end: {}", String::from_utf8_lossy(&output.stderr));
    }
}

fn log(sim: &CloudSim, which: &str) -> Vec<Value> {
    sim.control("GET", which, &Value::Null).as_array().cloned().unwrap()
}

/// Bytes of blocks that were put again though the program had been told that they are there, and of all that were put.
fn again(sim: &CloudSim) -> (u64, u64) {
    let hits = log(sim, "hits");
    let hit: BTreeSet<&str> = hits.iter().filter_map(|hit| hit["request"].as_str()).collect();
    let (mut told, mut lost, mut put) = (BTreeSet::new(), 0, 0);
    for call in log(sim, "calls").iter().filter(|call| call["operation"] == "PutSnapshotBlock") {
        put += 512 << 10;
        // of whatever snapshot: a disk that is begun anew shows here
        let index = call["http"]["path"].as_str().and_then(|path| path.rsplit('/').next()).unwrap().to_owned();
        let key = (index, call["http"]["headers"]["x-amz-checksum"].to_string());
        if told.contains(&key) {
            lost += 512 << 10;
        } else if call["status"] == 201 && !hit.contains(call["request"].as_str().unwrap()) {
            told.insert(key);
        }
    }
    (lost, put)
}

/// What exists, by kind and id, without the server that is captured.
fn there(sim: &CloudSim, ours: &[String]) -> BTreeSet<(String, String)> {
    let state = sim.control("GET", "state", &Value::Null);
    let all = state["resources"].as_array().unwrap().iter().filter(|it| it["state"] != "gone");
    let named = all.map(|it| (it["kind"].as_str().unwrap().to_owned(), it["id"].as_str().unwrap().to_owned()));
    named.filter(|(_, id)| !ours.contains(id)).collect()
}

/// The images that the ledger knows at AWS.
fn known(world: &World) -> BTreeSet<String> {
    let points = world.json(&["points"]);
    let replicas = points["report"].as_array().unwrap().iter().flat_map(|point| point["replicas"].as_array().unwrap());
    replicas.filter_map(|it| it["image"].as_str().map(str::to_owned)).collect()
}

#[test]
fn a_storm_of_faults() {
    let sim = CloudSim::start(&["--calm", "--no-qemu"]);
    let world = world(&sim);
    std::fs::write(world.path("guests/web-1.raw"), pattern(1, 9 << 20)).unwrap();
    let wanted = json!({
        "account": sim.greeting["accounts"][0]["account"], "region": REGION, "name": "app-1",
        "disks": [world.path("guests/web-1.raw")], "running": false,
    });
    let made = sim.control("POST", "servers", &wanted);
    let volume = sim.volume(made["volumes"][0].as_str().unwrap());
    let own = there(&sim, &[]).into_iter().map(|(_, id)| id).collect::<Vec<_>>();
    world.write(
        "policies/all.toml",
        "select = { site = \"aws\" }\nreplicate = [{ to = \"aws\" }, { to = \"vault:main\" }]\nkeep = { last = 1 }\n",
    );
    begin(&sim);
    let (runs, mut given_again) = (asked("REPLICATE_RUNS", if is_full() { 200 } else { 4 }), 0);
    for n in 0..runs {
        let disk = std::fs::OpenOptions::new().write(true).open(&volume).unwrap();
        disk.write_all_at(&pattern(1000 + n, 1 << 20), (n % 7) << 20).unwrap();
        given_again += at_last(&world, &["run", "all", "-q"]);
        if n % 20 == 3 {
            for from in ["aws", "vault:main"] {
                let _ = std::fs::remove_file(world.path("back.raw"));
                given_again += at_last(&world, &["restore", "app-1", "--to", "./back.raw", "--from", from, "-q"]);
                let equal = std::fs::read(world.path("back.raw")).unwrap() == std::fs::read(&volume).unwrap();
                assert!(equal, "run {n}, from {from}");
            }
        }
    }
    let (hits, calls, (lost, put)) = (log(&sim, "hits").len(), log(&sim, "calls").len(), again(&sim));
    sim.control("DELETE", "rules", &Value::Null);
    println!("{runs} runs, {given_again} given again; {hits} faults beside {calls} calls that were made");
    println!("of {put} bytes of blocks {lost} were put though they had arrived and the program knew it");
    assert!(hits * 6 > calls, "the storm was felt: {hits} faults, {calls} calls");
    // few runs say little: a disk that is begun anew once is half of what they put
    assert!(runs < 20 || lost * 10 <= put, "{lost} of {put} bytes were put again");
    world.fine(&["verify", "-q"]);
    world.prune();
    world.fine(&["sweep", "-q"]);
    let there = there(&sim, &own);
    let of = |kind: &str| there.iter().filter(|(it, _)| it == kind).map(|(_, id)| id.clone()).collect::<BTreeSet<_>>();
    assert_eq!(of("image"), known(&world), "what exists is what the ledger knows");
    assert_eq!(of("image").len(), 1);
    // the image's, and the base of the next capture
    assert_eq!((of("snapshot").len(), there.len()), (2, 3), "{there:?}");
}

//! EC2 does not show for two minutes what it has just made: a restore that dies in that time is not ended before its
//! server would be seen, and then the server is named.

use serde_json::{Value, json};
use tests::sim::CloudSim;

use super::common::{World, pattern};
use super::world;

const RESTORE: [&str; 8] = ["restore", "web-1", "--from", "aws", "--to", "aws", "--name", "web-2"];

/// The number of the first crash point of a name that the restore passes: of a calm one, whose server goes again.
fn number_of(sim: &CloudSim, world: &World, name: &str) -> usize {
    let points = world.points(&RESTORE);
    assert_eq!(instances(sim).len(), 1);
    1 + points.iter().position(|point| point == name).expect(name)
}

fn instances(sim: &CloudSim) -> Vec<String> {
    let state = sim.control("GET", "state", &Value::Null);
    let all = state["resources"].as_array().unwrap().iter();
    let alive = all.filter(|it| it["kind"] == "instance" && it["state"] != "gone");
    alive.map(|it| it["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_server_that_is_launched_and_not_seen_is_no_orphan() {
    let sim = CloudSim::start(&["--calm", "--no-qemu"]);
    let world = world(&sim);
    std::fs::write(world.path("guests/web-1.raw"), pattern(1, 2 << 20)).unwrap();
    world.fine(&["run", "all", "-q"]);
    let number = number_of(&sim, &world, "aws.instance-run.after");
    let known = instances(&sim);
    let settings = |seconds: u64| json!({ "weather": { "invisible_seconds": seconds } });
    // of what is made until then nothing is looked for again but the server: the image is waited for
    sim.control("POST", "clock", &json!({ "speed": 120 }));
    sim.control("PATCH", "settings", &settings(120));
    let died = world.dies(&RESTORE, number);
    sim.control("POST", "clock", &json!({ "speed": 0 }));
    assert!(died);
    let new: Vec<String> = instances(&sim).into_iter().filter(|id| !known.contains(id)).collect();
    assert_eq!(new.len(), 1, "it died after the launch");
    let swept = world.run(&["sweep"]);
    let said = String::from_utf8_lossy(&[swept.stdout, swept.stderr].concat()).into_owned();
    assert!(said.contains("may not show it yet"), "{said}");
    sim.control("POST", "clock", &json!({ "advance": 121 }));
    let swept = world.run(&["sweep"]);
    let said = String::from_utf8_lossy(&[swept.stdout, swept.stderr].concat()).into_owned();
    println!("{said}");
    assert!(said.contains(&new[0]) && said.contains("was left as it is"), "{said}");
    assert!(instances(&sim).contains(&new[0]), "the server runs on");
    world.fine(&["sweep"]);
}

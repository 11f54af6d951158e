//! The program dies between the freeze of a guest and its thaw: the guest goes on, and the next run finishes.

use std::time::{Duration, Instant};

use serde_json::json;
use tests::guest::guest;
use tests::sim::CloudSim;

use super::{REGION, world};

/// The last order that the guest's console has told of.
fn orders(sim: &CloudSim) -> Option<u64> {
    sim.console().rsplit_once("REPLICATE-SEQ ")?.1.split_whitespace().next()?.parse().ok()
}

/// Waits until the guest has taken so many orders.
fn until(sim: &CloudSim, count: u64) {
    let end = Instant::now() + Duration::from_secs(400);
    while orders(sim).is_none_or(|now| now < count) {
        assert!(Instant::now() < end, "it has not taken {count} orders:\n{}", sim.console());
        std::thread::sleep(Duration::from_secs(1));
    }
}

#[test]
fn killed_while_a_guest_is_frozen() {
    let Some(guest) = guest() else { return };
    let sim = CloudSim::start(&["--calm"]);
    let world = world(&sim);
    let settings = world.read("replicate.toml");
    world.write("replicate.toml", &settings.replace("[sites.aws]\n", "[sites.aws]\nfreeze = \"ssm\"\n"));
    world.write(
        "policies/all.toml",
        "select = { site = \"aws\" }\nreplicate = [{ to = \"dr\" }]\nkeep = { last = 1 }\n\
         capture = { consistency = \"filesystem\", freeze-limit = \"20s\" }\n",
    );
    let account = &sim.greeting["accounts"][0]["account"];
    let app = json!({"account": account, "region": REGION, "name": "app-1", "disks": [guest.raw]});
    sim.control("POST", "servers", &app);
    until(&sim, 1);
    let run = |crash: Option<usize>| {
        let _ = std::fs::remove_file(world.path("points.log"));
        let mut command = world.command(&["run", "all"]);
        command.env("REPLICATE_CRASH_LOG", world.path("points.log"));
        if let Some(number) = crash {
            command.env("REPLICATE_CRASH_AT", number.to_string());
        }
        let output = command.output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    // the first run opens the ledger anew, and passes other points for it
    run(None);
    let (done, said) = run(None);
    assert!(done && said.contains("filesystem consistency") && !said.contains("warning"), "{said}");
    let number = 1 + world.read("points.log").lines().position(|line| line.contains("aws.thaw.before")).unwrap();
    let (done, said) = run(Some(number));
    assert!(!done, "{said}");
    let last = world.read("points.log");
    assert!(last.lines().last().unwrap().contains("aws.thaw.before"), "it died elsewhere:\n{last}");
    until(&sim, orders(&sim).unwrap() + 30);
    let (done, said) = run(None);
    println!("{said}");
    assert!(done && said.contains("crash consistency") && said.contains("when its snapshots were taken"), "{said}");
}

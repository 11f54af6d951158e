//! The program dies between the freeze of a guest and its thaw: the guest goes on, and the next run finishes.

use std::time::{Duration, Instant};

use serde_json::json;
use tests::guest::guest;
use tests::sim::CloudSim;

use super::journey::told;
use super::{REGION, world};

/// The last order that the guest's console has told of.
fn orders(sim: &CloudSim) -> Option<u64> {
    told(&sim.console(), "REPLICATE-SEQ ")
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
    let run = || {
        let output = world.run(&["run", "all"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    // a guest that is emulated may be too slow for its appointment on a busy machine, which is told
    let mut said = String::new();
    for _ in 0..3 {
        said = run();
        if said.contains("filesystem consistency") {
            break;
        }
    }
    assert!(said.contains("filesystem consistency") && !said.contains("warning"), "{said}");
    assert!(world.dies(&["run", "all", "-q"], "aws.thaw.before"), "it was not asked to thaw");
    until(&sim, orders(&sim).unwrap() + 30);
    let said = run();
    println!("{said}");
    assert!(said.contains("crash consistency") && said.contains("when its snapshots were taken"), "{said}");
}

//! A real guest goes from cloud to cloud, is captured there while it runs and writes, and is proven wherever it arrives:
//! its file system is whole, and what its console had told before the capture is there.
//!
//! The nine directions between QEMU, AWS and Azure, and who boots what went that way:
//!
//! | from \ to | QEMU | AWS | Azure |
//! | --- | --- | --- | --- |
//! | QEMU | `tests/it/qemu_source`, `tests/it/qemu_target.rs` | `from_aws_everywhere`: the server that it starts with | `from_azure_everywhere`, the same; `tests/it/azure/journey.rs` |
//! | AWS | `from_aws_everywhere` | `from_aws_everywhere`: the image that the second region got by relay | `from_aws_everywhere` |
//! | Azure | `tests/it/azure/journey.rs` | `from_azure_everywhere` | `from_azure_everywhere` |

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::guest::guest;
use tests::sim::CloudSim;

use super::common::World;
use super::world;

/// Boots took up to 166 seconds on the busiest machine.
const BOOT: Duration = Duration::from_secs(400);
const READY: &str = "REPLICATE-READY";

/// A world with sites at AWS and Azure, and the guest as the server `web-1`, which is off.
fn with_guest(sim: &CloudSim, raw: &Path) -> World {
    let (world, azure) = (world(sim), &sim.greeting["azure"]);
    let secret = azure["secret"].as_str().unwrap();
    world.secret("azure-secret", secret);
    let subnets = "/subscriptions/s/resourceGroups/net/providers/Microsoft.Network/virtualNetworks/n/subnets";
    let site = format!(
        "[sites.azure]\nkind = \"azure\"\nsubscription = {}\nresource-group = \"prod\"\nlocation = \"westeurope\"\n\
         tenant = {}\nclient = {}\nsecret = \"file:azure-secret\"\narm-endpoint = {}\nlogin-endpoint = {}\n\
         [sites.azure.restore]\nsize = \"Standard_B1s\"\nsubnet = \"{subnets}/servers\"\ndrill-subnet = \"{subnets}/drills\"\n\
         [vaults.main]",
        azure["subscription"], azure["tenant"], azure["client"], azure["arm"], azure["login"]
    );
    world.write("replicate.toml", &world.read("replicate.toml").replace("[vaults.main]", &site));
    std::fs::copy(raw, world.path("guests/web-1.raw")).unwrap();
    world
}

fn policy(world: &World, from: &str, to: &[&str]) {
    let to: Vec<String> = to.iter().map(|to| format!("{{ to = \"{to}\" }}")).collect();
    let text = format!(
        "select = {{ site = \"{from}\" }}\nreplicate = [{}]\nkeep = {{ last = 1 }}\n\
         [drill]\nlimit = \"{}s\"\nprobes = [{{ kind = \"console\", text = \"{READY}\" }}]\n",
        to.join(", "),
        BOOT.as_secs()
    );
    world.write("policies/all.toml", &text);
}

/// The last number behind a word on a console.
pub fn told(console: &str, word: &str) -> Option<u64> {
    let after = console.rsplit_once(word)?.1;
    after.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Waits until the guest of a console is up and has told of its orders; answers the last of them.
fn speaks(console: impl Fn() -> String) -> u64 {
    let end = Instant::now() + BOOT;
    loop {
        let console = console();
        if let Some(last) = told(&console, "REPLICATE-SEQ ").filter(|_| console.contains(READY)) {
            return last;
        }
        assert!(Instant::now() < end, "no guest after {} s:\n{console}", BOOT.as_secs());
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// The same of the guest that was started at a cloud.
fn runs(sim: &CloudSim) -> u64 {
    speaks(|| sim.console())
}

/// Proves the newest point at a place: it boots there, its orders are whole, and those that were told of are among them.
fn proven(world: &World, server: &str, place: &str, orders: u64, boots: u64) {
    let begun = Instant::now();
    let drill = world.json(&["restore", server, "--from", place, "--to", place, "--drill", "-q"]);
    assert_eq!(drill["report"]["passed"], Value::Bool(true), "{place}: {drill:#}");
    let console = drill["report"]["console"].as_str().unwrap();
    let line = console.lines().find(|line| line.contains(READY)).unwrap_or_else(|| panic!("{place}:\n{console}"));
    println!("{place}: PROVEN in {} s: {line}", begun.elapsed().as_secs());
    assert!(line.contains("broken=0"), "{place}: {line}");
    assert!(
        told(line, "orders=").unwrap() >= orders,
        "{place}: {orders} orders were told of before the capture: {line}"
    );
    assert_eq!(told(line, "boots="), Some(boots), "{place}: {line}");
}

/// Runs the policy while the guest writes; answers the last order that was told of before.
fn captured_while_it_writes(sim: &CloudSim, world: &World) -> u64 {
    let orders = runs(sim);
    world.fine(&["run", "all", "-q"]);
    let after = told(&sim.console(), "REPLICATE-SEQ ").unwrap();
    assert!(after > orders, "the guest wrote nothing while it was captured");
    orders
}

#[test]
fn from_aws_everywhere() {
    let Some(guest) = guest() else { return };
    let sim = CloudSim::start(&["--calm"]);
    let world = with_guest(&sim, &guest.raw);
    policy(&world, "here", &["aws"]);
    world.fine(&["run", "all", "-q"]);
    let restored = world.json(&["restore", "web-1", "--from", "aws", "--to", "aws", "--name", "app-1", "-q"]);
    println!("{}", restored["report"]["instance"]);
    policy(&world, "aws", &["aws", "far", "azure", "dr"]);
    let orders = captured_while_it_writes(&sim, &world);
    let copies = super::calls(&sim, "CopyImage");
    assert_eq!(copies, 1, "the second region was not relayed to");
    world.fine(&["verify", "-q"]);
    for place in ["far", "azure", "dr"] {
        proven(&world, "app-1", place, orders, 2);
    }
}

#[test]
fn from_azure_everywhere() {
    let Some(guest) = guest() else { return };
    let sim = CloudSim::start(&["--calm"]);
    let world = with_guest(&sim, &guest.raw);
    policy(&world, "here", &["azure"]);
    world.fine(&["run", "all", "-q"]);
    world.fine(&["restore", "web-1", "--from", "azure", "--to", "azure", "--name", "app-1", "-q"]);
    policy(&world, "azure", &["aws", "azure"]);
    let orders = captured_while_it_writes(&sim, &world);
    world.fine(&["verify", "-q"]);
    for place in ["aws", "azure"] {
        proven(&world, "app-1", place, orders, 2);
    }
}

/// Moves `app-1`, which has told of `orders` and goes on, and looks whether the last that it took is in the cloud.
fn moved(sim: &CloudSim, world: &World, to: &str, orders: u64) {
    let moved = world.json(&["restore", "app-1", "--to", to, "--final", "-q"]);
    let report = &moved["report"];
    assert_eq!((&report["stage"], &report["source"]), (&"moved".into(), &"off".into()), "{moved:#}");
    let console = sim.console();
    let last = told(&console, "goodbye=").unwrap_or_else(|| panic!("it did not shut down in order:\n{console}"));
    println!("moved after order {orders}, shut down with order {last}, and it is there");
    assert!(last > orders && console.contains("broken=0"), "{console}");
}

/// The power of a server at each site that has it.
fn power(world: &World, server: &str) -> Vec<(String, String)> {
    let servers = world.json(&["servers", "-q"]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = servers["report"][0].as_array().unwrap().iter().filter(|it| it["server"]["name"] == server);
    all.map(|it| (text(&it["site"]), text(&it["server"]["power"]))).collect()
}

/// A guest that QEMU runs is moved to AWS while it writes, and the move is confirmed.
#[test]
fn from_a_host_to_aws_for_good() {
    let Some(guest) = guest() else { return };
    let sim = CloudSim::start(&["--calm"]);
    let world = with_guest(&sim, &guest.raw);
    let host = "disks = \"dr\"\nsockets = \"dr/*.qmp\"\n";
    world.write("replicate.toml", &world.read("replicate.toml").replace("disks = \"dr\"\n", host));
    policy(&world, "here", &["dr"]);
    world.fine(&["run", "all", "-q"]);
    let restored = world.json(&["restore", "web-1", "--from", "dr", "--to", "dr", "--name", "app-1", "-q"]);
    policy(&world, "dr", &["aws"]);
    let log = world.path("dr/instances").join(restored["report"]["instance"].as_str().unwrap()).join("console.log");
    let orders = speaks(|| std::fs::read_to_string(&log).unwrap_or_default());
    moved(&sim, &world, "aws", orders);
    world.fine(&["migrate", "confirm", "app-1", "-q"]);
    // nobody but a person deletes it
    let left = [("aws", "on"), ("dr", "off")].map(|(site, power)| (site.to_owned(), power.to_owned()));
    assert_eq!(power(&world, "app-1"), left);
}

/// A server is moved from AWS to Azure while it writes: it shuts down, its last order is there, and it comes back when a person wants it.
#[test]
fn from_aws_to_azure_for_good() {
    let Some(guest) = guest() else { return };
    let sim = CloudSim::start(&["--calm"]);
    let world = with_guest(&sim, &guest.raw);
    policy(&world, "here", &["aws"]);
    world.fine(&["run", "all", "-q"]);
    world.fine(&["restore", "web-1", "--from", "aws", "--to", "aws", "--name", "app-1", "-q"]);
    policy(&world, "aws", &["azure"]);
    moved(&sim, &world, "azure", runs(&sim));
    let status = world.fine(&["migrate", "status"]);
    assert!(
        status.contains("app-1: moved, from site aws to site azure") && status.contains("old server: off"),
        "{status}"
    );
    let refused = world.run(&["run", "all", "--server", "app-1"]);
    assert_eq!(refused.status.code(), Some(2), "{}", String::from_utf8_lossy(&refused.stderr));
    world.fine(&["migrate", "rollback", "app-1", "--destroy", "-q"]);
    assert_eq!(power(&world, "app-1"), [("aws".to_owned(), "on".to_owned())]);
}

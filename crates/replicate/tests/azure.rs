//! The program with sites of kind `azure`, on the simulated cloud: from a powered-off guest to images in two regions and
//! back, killed in between, in a storm, and from a machine into a vault.

#![cfg(feature = "azure")]
#![allow(clippy::expect_used, clippy::print_stdout, clippy::unwrap_used, reason = "a panic is a test's verdict")]

mod common;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use common::{World, is_full, pattern};
use serde_json::{Value, json};
use tests::sim::CloudSim;

/// A world with sites in two regions, and a server whose disk has `mib` MiB.
fn world(sim: &CloudSim, mib: usize) -> World {
    let (world, azure) = (World::new(), &sim.greeting["azure"]);
    world.secret("azure-secret", azure["secret"].as_str().unwrap());
    let network = "/subscriptions/s/resourceGroups/net/providers/Microsoft.Network/virtualNetworks/n/subnets";
    let site = |name: &str, group: &str, location: &str| {
        format!(
            "[sites.{name}]\nkind = \"azure\"\nsubscription = {}\nresource-group = \"{group}\"\nlocation = \"{location}\"\n\
             tenant = {}\nclient = {}\nsecret = \"file:azure-secret\"\nscratch = \"scratch\"\narm-endpoint = {}\n\
             login-endpoint = {}\ndisk-encryption-set = {}\n[sites.{name}.restore]\nsize = \"Standard_B1s\"\nsubnet = \"{network}/servers\"\n",
            azure["subscription"],
            azure["tenant"],
            azure["client"],
            azure["arm"],
            azure["login"],
            azure["groups"].as_array().unwrap().iter().find(|it| it["name"] == group).unwrap()["encryption-set"]
        )
    };
    let sites = site("azure-we", "prod", "westeurope") + &site("azure-ne", "dr", "northeurope");
    world.write("replicate.toml", &world.read("replicate.toml").replace("[vaults.main]", &(sites + "[vaults.main]")));
    policy(&world, "here", "{ to = \"azure-we\" }");
    std::fs::write(world.path("guests/web-1.raw"), pattern(1, mib << 20)).unwrap();
    world.fine(&["init", "--vault", "main"]);
    world
}

fn policy(world: &World, site: &str, to: &str) {
    let text = format!("select = {{ site = \"{site}\" }}\nreplicate = [{to}]\nkeep = {{ last = 1 }}\n");
    world.write("policies/all.toml", &text);
}

/// The calls of an operation, and the sum of one of their numbers.
fn sum(sim: &CloudSim, operation: &str, key: &str) -> u64 {
    let calls = sim.control("GET", "calls", &Value::Null);
    let calls = calls.as_array().unwrap().iter().filter(|call| call["operation"] == operation);
    calls.map(|call| call[key].as_u64().unwrap_or_default()).sum()
}

/// Everything that exists at the simulator, access that is open among it.
fn left(sim: &CloudSim) -> Vec<String> {
    let state = sim.control("GET", "state", &Value::Null);
    let all = state["azure"].as_array().unwrap().iter();
    let mut all: Vec<String> = all
        .map(|it| {
            let open = if it["state"] == "open" { " open" } else { "" };
            format!("{}{open}", it["kind"].as_str().unwrap())
        })
        .collect();
    all.sort();
    all
}

/// The names of the snapshots, and of the images that the program knows.
fn held(sim: &CloudSim, world: &World) -> (BTreeSet<String>, BTreeSet<String>) {
    let state = sim.control("GET", "state", &Value::Null);
    let name = |id: &Value| id.as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    let snapshots = state["azure"].as_array().unwrap().iter().filter(|it| it["kind"] == "snapshot");
    let there = snapshots.map(|it| name(&it["id"])).collect();
    let points = world.json(&["points"]);
    let replicas = points["report"].as_array().unwrap().iter().flat_map(|point| point["replicas"].as_array().unwrap());
    (there, replicas.filter_map(|it| it["image"].as_str().map(str::to_owned)).collect())
}

fn change(world: &World, seed: u64, len: usize) {
    let disk = std::fs::OpenOptions::new().write(true).open(world.path("guests/web-1.raw")).unwrap();
    disk.write_all_at(&pattern(seed, len), 4 << 20).unwrap();
}

fn restores(world: &World, from: &str, story: &str) {
    let _ = std::fs::remove_file(world.path("back.raw"));
    world.fine(&["restore", "web-1", "--to", "./back.raw", "--from", from, "-q"]);
    let there = std::fs::read(world.path("back.raw")).unwrap();
    assert!(there == std::fs::read(world.path("guests/web-1.raw")).unwrap(), "{story}");
}

#[test]
fn images_at_azure() {
    let sim = CloudSim::start(&["--calm", "--no-qemu"]);
    let world = world(&sim, 64);
    world.fine(&["check"]);
    world.fine(&["run", "all", "-q"]);
    let first = sum(&sim, "PutPage", "received");
    assert!(first > 64 << 20);
    restores(&world, "azure-we", "the first point");
    // one percent of the disk
    change(&world, 7, 640 << 10);
    let read = sum(&sim, "GetBlob", "sent");
    world.fine(&["run", "all", "-q"]);
    let (sent, read) = (sum(&sim, "PutPage", "received") - first, sum(&sim, "GetBlob", "sent") - read);
    println!("1 % changed: {sent} bytes of {first} were sent, {read} were read");
    assert!(sent * 50 <= 64 << 20 && read * 25 <= 64 << 20, "{sent} sent, {read} read");
    restores(&world, "azure-we", "the second point");
    world.prune();
    assert_eq!(left(&sim), ["snapshot"], "the older image is gone, the disks of both too");
    // all is forgotten, and found again by the tags
    std::fs::remove_dir_all(world.path("ledger")).unwrap();
    std::fs::remove_dir_all(world.path("scratch")).unwrap();
    world.fine(&["adopt", "-q"]);
    world.fine(&["verify", "-q"]);
    restores(&world, "azure-we", "after all was forgotten");
}

/// The image goes to one region, and from there to the other inside Azure.
#[test]
fn from_region_to_region() {
    let sim = CloudSim::start(&["--calm", "--no-qemu"]);
    let world = world(&sim, 64);
    policy(&world, "here", "{ to = \"azure-we\" }, { to = \"azure-ne\", via = \"relay\" }");
    world.fine(&["check"]);
    sim.control("PATCH", "settings", &json!({ "weather": { "copy_seconds": 1 } }));
    let report = world.json(&["run", "all"]);
    let text = report.to_string();
    assert!(text.contains("relay"), "{text}");
    let sent = sum(&sim, "PutPage", "received");
    assert!(sent < 65 << 20, "it was sent once: {sent}");
    assert_eq!(left(&sim), ["snapshot", "snapshot"]);
    restores(&world, "azure-ne", "the relayed image");
    world.fine(&["verify", "-q"]);
    // the next point: the relay is insisted on, whatever it costs inside
    change(&world, 9, 640 << 10);
    let (sent, read) = (sum(&sim, "PutPage", "received"), sum(&sim, "GetBlob", "sent"));
    world.fine(&["run", "all", "-q"]);
    let (sent, read) = (sum(&sim, "PutPage", "received") - sent, sum(&sim, "GetBlob", "sent") - read);
    println!("of the second point {sent} bytes were sent and {read} read");
    assert!(sent * 50 <= 64 << 20 && read * 10 <= 64 << 20, "{sent} sent, {read} read");
    restores(&world, "azure-ne", "the second relayed image");
    world.prune();
    assert_eq!(left(&sim), ["snapshot", "snapshot"]);
}

/// Dies at points of runs, one after the other; each time the next run finishes, and at the end there is what is expected.
fn killed(to: &str, expected: &[&str], stride: usize) {
    let sim = CloudSim::start(&["--calm", "--no-qemu"]);
    let world = world(&sim, 9);
    policy(&world, "here", to);
    world.fine(&["run", "all", "-q"]);
    let (mut deaths, stride) = (0, if is_full() { 1 } else { stride });
    for n in (1..).step_by(stride) {
        change(&world, n as u64 + 100, 256 << 10);
        if !world.dies(&["run", "all", "-q"], n) {
            break;
        }
        deaths += 1;
        world.fine(&["run", "all", "-q"]);
        restores(&world, "azure-we", &format!("died at {n}"));
    }
    world.prune();
    world.fine(&["sweep", "-q"]);
    println!("killed at {deaths} points, recovered each time");
    assert!(deaths > 3);
    // a dead process cannot end its access for reading: that runs out by itself, and is no resource
    let left: Vec<String> = left(&sim).into_iter().map(|it| it.trim_end_matches(" open").to_owned()).collect();
    assert_eq!(left, expected);
    let (there, known) = held(&sim, &world);
    assert_eq!(there, known);
}

#[test]
fn killed_anywhere() {
    killed("{ to = \"azure-we\" }", &["snapshot"], 9);
}

#[test]
fn killed_anywhere_on_the_way_to_another_region() {
    killed("{ to = \"azure-we\" }, { to = \"azure-ne\", via = \"relay\" }", &["snapshot"; 2], 17);
}

#[test]
fn killed_anywhere_on_the_way_to_a_gallery() {
    let to = "{ to = \"azure-we\", gallery = { name = \"replicas\" } }";
    killed(to, &["definition", "disk of a version", "snapshot", "version"], 11);
}

/// Nobody waits for a region: a later run and a check look how far it is; whatever is published goes with its image.
#[test]
fn images_in_a_gallery() {
    let sim = CloudSim::start(&["--calm", "--no-qemu"]);
    let world = world(&sim, 20);
    let settings = world.read("replicate.toml");
    let without_key: Vec<&str> = settings.lines().filter(|line| !line.starts_with("disk-encryption-set")).collect();
    world.write("replicate.toml", &without_key.join("\n"));
    policy(&world, "here", "{ to = \"azure-we\", gallery = { name = \"replicas\", regions = [\"eastus\"] } }");
    world.fine(&["check"]);
    let weather = |weather: Value| sim.control("PATCH", "settings", &json!({ "weather": weather }));
    weather(json!({ "replicate_seconds": 5000, "bad_regions": ["eastus"] }));
    let report = world.json(&["run", "all"]);
    assert!(report.to_string().contains("did not come to eastus"), "{report}");
    assert_eq!(report["report"]["runs"][0]["outcome"], "done", "the point is made all the same");
    let published = |text: &str| {
        let points = world.run(&["points"]);
        let said = String::from_utf8_lossy(&points.stdout).into_owned();
        assert!(said.contains(text), "{said}");
    };
    published("published in 0 of 2 regions");
    sim.control("POST", "clock", &json!({ "advance": 5001 }));
    weather(json!({ "replicate_seconds": 0, "bad_regions": [] }));
    // taken out, put in again, there
    assert!(!world.run(&["verify", "azure-we", "-q"]).status.success(), "a region has failed");
    published("published in 1 of 2 regions");
    change(&world, 3, 4096);
    world.fine(&["run", "all", "-q"]);
    world.fine(&["verify", "azure-we", "-q"]);
    let points = world.json(&["points"]);
    let regions = points["report"].as_array().unwrap().iter().map(|it| &it["replicas"][0]["published"]["regions"]);
    assert!(regions.clone().count() == 2, "{points}");
    assert!(regions.clone().all(|it| *it == json!({ "eastus": "done", "westeurope": "done" })), "{points}");
    world.prune();
    assert_eq!(left(&sim), ["definition", "disk of a version", "snapshot", "version"]);
}

/// One call in five goes wrong in one of five ways, run after run.
#[test]
fn a_storm_of_faults() {
    let sim = CloudSim::start(&["--calm", "--no-qemu"]);
    let world = world(&sim, 12);
    let faults = [
        json!({ "kind": "status", "status": 503, "code": "ServerBusy" }),
        json!({ "kind": "status", "status": 429, "code": "TooManyRequests", "retry_after": 0 }),
        json!({ "kind": "drop" }),
        json!({ "kind": "reset" }),
        json!({ "kind": "twice" }),
    ];
    // the same storm each time; `REPLICATE_SEED` makes another one
    let seed = std::env::var("REPLICATE_SEED").map_or(20, |seed| seed.parse().unwrap());
    for (nth, fault) in faults.iter().enumerate() {
        let rule = json!({ "operation": "*", "probability": 0.04, "seed": seed + nth as u64, "fault": fault });
        sim.control("POST", "rules", &rule);
    }
    let (runs, mut resumed) = (if is_full() { 200 } else { 6 }, 0);
    for n in 0..runs {
        change(&world, 1000 + n, 256 << 10);
        let mut tries = 0;
        // done, or to be given again
        while !world.run(&["run", "all", "-q"]).status.success() {
            tries += 1;
            assert!(tries < 20, "run {n} does not end");
        }
        resumed += tries;
    }
    let hits = sim.control("GET", "hits", &Value::Null).as_array().unwrap().len();
    let (lost, put) = again(&sim);
    sim.control("DELETE", "rules", &Value::Null);
    println!(
        "seed {seed}: {runs} runs, {resumed} given again, {hits} faults; of {put} bytes {lost} were sent though they \
         had arrived"
    );
    assert!(hits as u64 > runs, "the storm was felt: {hits}");
    assert!(lost * 10 <= put, "{lost} of {put} bytes were sent again");
    restores(&world, "azure-we", "after the storm");
    world.prune();
    world.fine(&["sweep", "-q"]);
    let (there, known) = held(&sim, &world);
    assert_eq!(there, known, "what exists is what the ledger knows");
    assert_eq!(there.len(), 1);
    world.fine(&["verify", "-q"]);
}

/// Bytes of pages that were put again though the client had been told that they are there, and of all that were put.
fn again(sim: &CloudSim) -> (u64, u64) {
    let hits = sim.control("GET", "hits", &Value::Null);
    let hit: BTreeSet<&str> = hits.as_array().unwrap().iter().map(|hit| hit["request"].as_str().unwrap()).collect();
    let calls = sim.control("GET", "calls", &Value::Null);
    let mut told = BTreeSet::new();
    let (mut lost, mut put) = (0, 0);
    for call in calls.as_array().unwrap().iter().filter(|call| call["operation"] == "PutPage") {
        let bytes = call["received"].as_u64().unwrap_or_default();
        put += bytes;
        let text = |key: &str| call[key].as_str().unwrap_or_default().to_owned();
        // a disk's name is its token's, so an attempt from the beginning shows here
        let key = (text("resource"), text("range"), text("content"));
        if told.contains(&key) {
            lost += bytes;
        } else if !hit.contains(call["request"].as_str().unwrap()) {
            told.insert(key);
        }
    }
    (lost, put)
}

/// A machine's disks: restored there, captured into a vault, in full and then what changed.
#[test]
fn a_server_at_azure() {
    let sim = CloudSim::start(&["--calm", "--no-qemu"]);
    let world = world(&sim, 24);
    world.fine(&["run", "all", "-q"]);
    world.fine(&["restore", "web-1", "--to", "azure-we", "-q"]);
    policy(&world, "azure-we", "{ to = \"vault:main\" }, { to = \"azure-ne\" }");
    world.fine(&["servers", "azure-we"]);
    world.fine(&["run", "all", "-q"]);
    let read = sum(&sim, "GetBlob", "sent");
    world.fine(&["run", "all", "-q"]);
    println!("nothing changed: {} bytes were read", sum(&sim, "GetBlob", "sent") - read);
    assert!(sum(&sim, "GetPageRangesDiff", "status") > 0);
    restores(&world, "vault:main", "the machine's disk is the guest's");
    world.fine(&["verify", "-q"]);
}

/// The machine `web-1` with two disks at Azure, a guest's that was restored there; the files of its disks, the system's
/// first. `firmware` is its line in the guest's description.
fn a_pair(sim: &CloudSim, world: &World, firmware: &str) -> Vec<PathBuf> {
    let disks: String = ["web-1", "data"]
        .iter()
        .map(|name| {
            let file = world.path(&format!("guests/{name}.raw"));
            std::fs::write(&file, pattern(name.len() as u64, 20 << 20)).unwrap();
            format!("[[disks]]\nname = \"{name}\"\npath = \"{}\"\nformat = \"raw\"\n", file.display())
        })
        .collect();
    world.write("guests/web-1.toml", &format!("{firmware}\n{disks}"));
    world.fine(&["run", "all", "-q"]);
    world.fine(&["restore", "web-1", "--to", "azure-we", "-q"]);
    let state = sim.control("GET", "state", &Value::Null);
    let mut disks: Vec<(String, PathBuf)> = state["azure"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|it| it["kind"] == "disk")
        .map(|it| (it["id"].as_str().unwrap().to_owned(), sim.managed_disk(it["file"].as_str().unwrap())))
        .collect();
    disks.sort();
    disks.into_iter().map(|(_, file)| file).collect()
}

/// A running machine of two disks is captured by a restore point, into a vault and into an image of another region;
/// whatever the death, both disks of every place are of one instant afterwards, and nothing is left over.
#[test]
fn killed_while_a_machine_of_two_disks_is_captured() {
    let sim = CloudSim::start(&["--calm", "--no-qemu"]);
    let world = world(&sim, 20);
    let disks = a_pair(&sim, &world, "");
    assert_eq!(disks.len(), 2);
    policy(&world, "azure-we", "{ to = \"vault:main\" }, { to = \"azure-ne\" }");
    world.fine(&["run", "all", "-q"]);
    let (mut deaths, stride) = (0, if is_full() { 1 } else { 17 });
    for n in (1..).step_by(stride) {
        for disk in &disks {
            let disk = std::fs::OpenOptions::new().write(true).open(disk).unwrap();
            disk.write_all_at(&pattern(n as u64 + 100, 128 << 10), 4 << 20).unwrap();
        }
        if !world.dies(&["run", "all", "-q"], n) {
            break;
        }
        deaths += 1;
        world.fine(&["run", "all", "-q"]);
        for from in ["vault:main", "azure-ne"] {
            for (name, disk) in ["os", "lun-0"].into_iter().zip(&disks) {
                let _ = std::fs::remove_file(world.path("back.raw"));
                world.fine(&["restore", "web-1", "--to", "./back.raw", "--from", from, "--disk", name, "-q"]);
                let there = std::fs::read(world.path("back.raw")).unwrap();
                assert!(there == std::fs::read(disk).unwrap(), "{name} of {from}, died at {n}");
            }
        }
    }
    world.prune();
    world.fine(&["sweep", "-q"]);
    println!("killed at {deaths} points, recovered each time");
    assert!(deaths > 3);
    let left: Vec<String> = left(&sim).into_iter().map(|it| it.trim_end_matches(" open").to_owned()).collect();
    // the machine with its disks and the base of its next capture; the guest's image, the restore's own, and the image in
    // the other region
    let mut expected = vec!["collection", "disk", "disk", "disk of a point", "disk of a point", "machine"];
    expected.extend(["snapshot"; 6]);
    assert_eq!(left, expected);
}

/// A restore of two disks dies: afterwards its server is there with both, as its owner's own and secured as it was, or nothing is.
fn killed_while_launched(firmware: &str, security: &Value) {
    let sim = CloudSim::start(&["--calm", "--no-qemu"]);
    let world = world(&sim, 20);
    a_pair(&sim, &world, firmware);
    let points =
        world.points(&["restore", "web-1", "--from", "azure-we", "--to", "azure-we", "--name", "web-1-0", "-q"]);
    // behind it the restore is done, and nobody has to name its server
    let done = 1 + points.iter().rposition(|point| point == "ledger.commit.before").unwrap();
    let (mut deaths, mut servers, stride) = (0, 0, if is_full() { 1 } else { 5 });
    for n in (1..).step_by(stride) {
        let before = left(&sim).len();
        let name = format!("web-1-{n}");
        let restore = ["restore", "web-1", "--from", "azure-we", "--to", "azure-we", "--name", &name, "-q"];
        if !world.dies(&restore, n) {
            break;
        }
        deaths += 1;
        // it names a server that was launched
        let swept = world.run(&["sweep"]);
        let said = String::from_utf8_lossy(&[swept.stdout, swept.stderr].concat()).into_owned();
        world.fine(&["sweep", "-q"]);
        let state = sim.control("GET", "state", &Value::Null);
        let server = state["azure"]
            .as_array()
            .unwrap()
            .iter()
            .find(|it| it["kind"] == "machine" && it["id"].as_str().unwrap().ends_with(&format!("/{name}")));
        assert!(server.is_none_or(|it| it["security"] == *security), "died at {n}: {server:?}");
        let launched = server.is_some();
        let scratch = state["azure"].as_array().unwrap().iter().filter(|it| it["tags"]["replicate:role"] == "scratch");
        assert_eq!(scratch.count(), 0, "died at {n}: {said}");
        // a server stays with its disks and its image
        assert_eq!(left(&sim).len() - before, if launched { 5 } else { 0 }, "died at {n}: {said}");
        assert_eq!(said.contains(&name), launched && n <= done, "died at {n}: {said}");
        servers += usize::from(launched);
    }
    println!("killed at {deaths} points, after which {servers} servers were there, each with both disks");
    assert!(deaths > 3);
}

#[test]
fn killed_while_two_disks_are_launched() {
    killed_while_launched("", &Value::Null);
}

#[test]
fn killed_while_a_server_with_secure_boot_is_launched() {
    let security =
        json!({ "securityType": "TrustedLaunch", "uefiSettings": { "secureBootEnabled": true, "vTpmEnabled": true } });
    killed_while_launched("firmware = { kind = \"uefi\", secure-boot = true }", &security);
}

/// A token of the identity that the simulator gives to its own machine, and when it ends.
fn token_of_machine(sim: &CloudSim) -> Value {
    let (host, _) = sim.greeting["azure"]["arm"].as_str().unwrap()["http://".len()..].split_once('/').unwrap();
    let head = "GET /azure/identity/token?api-version=2019-08-01&resource=x HTTP/1.1";
    let secret = sim.greeting["azure"]["secret"].as_str().unwrap();
    let mut stream = std::net::TcpStream::connect(host).unwrap();
    write!(stream, "{head}\r\nhost: {host}\r\nx-identity-header: {secret}\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

/// A key and its certificate, as PEM.
fn certificate(world: &World) -> (String, String) {
    let line = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=replicate -keyout key.pem -out app.crt";
    let made =
        std::process::Command::new("openssl").args(line.split(' ')).current_dir(world.path("")).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    (world.read("key.pem"), world.read("app.crt"))
}

/// Each way to sign in, once: a certificate, this machine's identity, a pod's, and the user of `az`.
#[test]
fn who_signs_in() {
    let sim = CloudSim::start(&["--calm", "--no-qemu"]);
    let (world, azure) = (world(&sim, 20), &sim.greeting["azure"]);
    let before = world.read("replicate.toml");
    let three = format!("tenant = {}\nclient = {}\nsecret = \"file:azure-secret\"\n", azure["tenant"], azure["client"]);
    let signs_in = |lines: &str| world.write("replicate.toml", &before.replace(&three, lines));
    let client = azure["client"].as_str().unwrap();
    let knows = |what: &str| sim.control("PUT", &format!("credentials?application={client}"), &json!(what));

    signs_in(&three.replace("secret = \"file:azure-secret\"", "certificate = \"file:app.pem\""));
    let ((key, known), (other_key, other)) = (certificate(&world), certificate(&world));
    knows(&known);
    for (pem, why) in [
        (format!("{other_key}{other}"), "AADSTS700027"),
        (format!("{other_key}{known}"), "another certificate's"),
        (known.clone(), "no private key"),
        (String::new(), "no certificate"),
    ] {
        world.secret("app.pem", &pem);
        let refused = world.run(&["servers", "azure-we"]);
        let said = String::from_utf8_lossy(&[refused.stdout, refused.stderr].concat()).into_owned();
        assert_eq!(refused.status.code(), Some(12), "{said}");
        assert!(said.contains(why) && said.contains("hint: "), "{said}");
        assert!(!said.contains("PRIVATE") && !said.contains(&other_key[100..140]), "{said}");
    }
    world.secret("app.pem", &format!("{key}{known}"));
    world.fine(&["servers", "azure-we"]);

    let fine = |environment: &[(&str, &str)]| {
        let done = world.command(&["servers", "azure-we"]).envs(environment.iter().copied()).output().unwrap();
        assert!(done.status.success(), "{environment:?}: {}", String::from_utf8_lossy(&done.stderr));
    };
    let host = azure["arm"].as_str().unwrap().trim_end_matches("/arm");
    let endpoint = format!("{host}/identity/token");
    let machine = [("IDENTITY_ENDPOINT", endpoint.as_str()), ("IDENTITY_HEADER", azure["secret"].as_str().unwrap())];
    signs_in("identity = \"managed\"\n");
    fine(&machine);
    signs_in(&format!("identity = \"managed\"\nclient = \"{client}\"\n"));
    fine(&machine);

    signs_in("identity = \"workload\"\n");
    knows("token-of-a-service-account");
    world.secret("federated", "token-of-a-service-account");
    let file = world.path("federated").display().to_string();
    let tenant = azure["tenant"].as_str().unwrap();
    fine(&[("AZURE_TENANT_ID", tenant), ("AZURE_CLIENT_ID", client), ("AZURE_FEDERATED_TOKEN_FILE", &file)]);

    signs_in("identity = \"cli\"\n");
    let token = token_of_machine(&sim);
    let said = format!(
        "{{\"accessToken\": {}, \"expires_on\": {}, \"tokenType\": \"Bearer\"}}",
        token["access_token"],
        token["expires_on"].as_str().unwrap()
    );
    let script =
        "#!/bin/sh\ncase \"$*\" in *get-access-token*--scope*/.default*) cat <<'.'\nSAID\n.\n;; *) exit 1;; esac\n";
    world.write("bin/az", &script.replace("SAID", &said));
    std::fs::set_permissions(world.path("bin/az"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", world.path("bin").display(), std::env::var("PATH").unwrap());
    fine(&[("PATH", &path)]);
}

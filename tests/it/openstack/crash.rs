//! kill -9 at numbered points of capture, upload, import, launch and drill, as processes, against real services. After
//! each death the next process recovers, and the judge must find nothing that the ledger does not know, and nothing twice.
//!
//! Without `REPLICATE_SWEEP=full` every so-manieth point is died at, beginning at another one each time.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use engine::{CheckScope, Choice, DrillRequest, PruneRequest, RunOutcome, VerifyRequest};
use model::{ImageId, InstanceId, Place, Policy, ServerName};

use super::house::{House, ONE, SERVER, TWO, at, in_vault, policy, site_name};
use super::lab::{Lab, Thing, World, lab};

const PROJECT: &str = "crash";
const CLOUDS: [&str; 2] = ["crash", "crash-two"];
const FOLDER: &str = "REPLICATE_TEST_FOLDER";
const SCENARIO: &str = "REPLICATE_TEST_SCENARIO";
const CLOUDS_FILE: &str = "REPLICATE_TEST_CLOUDS";

/// A stopped server: a capture of it takes seconds, and what is proved here does not depend on what it writes.
fn policies() -> Vec<Policy> {
    vec![policy("web", ONE, SERVER, &[in_vault(), at(TWO)])]
}

async fn act(house: &House, scenario: &str) {
    let choice =
        Choice { server: ServerName::new(SERVER).unwrap(), at: None, point: None, from: None, via: model::Via::Auto };
    match scenario {
        "run" => {
            house.run("web").await;
        }
        // image and server at the other region, then both are deleted as a person would
        "restore" => {
            let made = house.restore(SERVER, at(TWO), ONE).await;
            gone(house, made.instance.unwrap(), made.image.unwrap()).await;
        }
        "drill" => {
            let choice = Choice { from: Some(in_vault()), ..choice };
            let drill = house.engine.drill(&DrillRequest { choice, site: Some(site_name(TWO)) }).await.unwrap();
            assert!(drill.passed, "{drill:#?}");
        }
        "recover" => recover(house).await,
        other => panic!("no scenario {other}"),
    }
}

async fn gone(house: &House, instance: InstanceId, image: ImageId) {
    house.target(ONE).destroy(&instance).await.unwrap();
    for resource in house.one.owned().await.unwrap() {
        if resource.id == image.as_str() {
            house.one.delete(&resource).await.unwrap();
        }
    }
}

/// What the next start does.
async fn recover(house: &House) {
    for run in house.engine.resume().await.unwrap().runs {
        assert_eq!(run.outcome, RunOutcome::Done, "{run:#?}");
    }
    let swept = house.engine.sweep().await.unwrap();
    assert!(swept.problems.is_empty() && swept.in_use.is_empty(), "{swept:#?}");
    for _ in 0..2 {
        let pruned = house.engine.prune(&PruneRequest::default()).await.unwrap();
        assert!(pruned.problems.is_empty(), "{pruned:#?}");
    }
    let all = VerifyRequest { scope: CheckScope::All, vault: None, site: None, server: None };
    let verified = house.engine.verify(&all).await.unwrap();
    assert!(verified.is_good(), "{verified:#?}");
    let adopted = house.engine.adopt().await.unwrap();
    assert!(adopted.gone.is_empty() && adopted.problems.is_empty(), "{adopted:#?}");
}

/// The child: does what it is told in the folder that it is told, and may be killed meanwhile.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the child of the sweeps"]
async fn child() {
    let (Some(folder), Ok(scenario)) = (std::env::var_os(FOLDER), std::env::var(SCENARIO)) else { return };
    let clouds = std::env::var_os(CLOUDS_FILE).unwrap();
    let house = House::open(Path::new(&clouds), Path::new(&folder), PROJECT, policies()).await;
    act(&house, &scenario).await;
}

/// Runs a scenario in a process of its own; true if it was killed at the point.
fn spawn(lab: &Lab, folder: &Path, scenario: &str, at: Option<usize>) -> bool {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "openstack::crash::child", "--ignored", "--nocapture", "--test-threads=1"]);
    command.env(FOLDER, folder).env(SCENARIO, scenario).env(CLOUDS_FILE, lab.clouds());
    command.env("REPLICATE_CRASH_LOG", folder.join("points")).env_remove("REPLICATE_CRASH_AT");
    let _ = std::fs::remove_file(folder.join("points"));
    if let Some(at) = at {
        command.env("REPLICATE_CRASH_AT", at.to_string());
    }
    let output = command.output().unwrap();
    let killed = output.status.signal() == Some(9);
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(killed || output.status.success(), "{scenario}: {said}");
    killed
}

/// The points that the last process has passed.
fn passed(folder: &Path) -> Vec<String> {
    std::fs::read_to_string(folder.join("points")).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// The points to die at: all of them, or one of so many.
fn chosen(count: usize, stride: usize) -> Vec<usize> {
    let full = std::env::var_os("REPLICATE_SWEEP").is_some_and(|value| value == "full");
    let offset = std::process::id() as usize;
    (1..=count).filter(|n| full || (n + offset).is_multiple_of(stride)).collect()
}

/// What the ledger knows to be at the sites.
async fn known(lab: &Lab, folder: &Path) -> BTreeMap<String, usize> {
    let house = House::open(&lab.clouds(), folder, PROJECT, policies()).await;
    let mut images = BTreeMap::new();
    for point in house.engine.points(None).await.unwrap() {
        for replica in point.replicas.iter().filter(|replica| matches!(replica.place, Place::Site(_))) {
            *images.entry(replica.image.as_ref().unwrap().to_string()).or_default() += 1;
        }
    }
    images
}

/// What a restore that died while its server was being launched leaves on purpose: somebody may use it already.
fn left_running(world: &World, new: &BTreeSet<Thing>) -> BTreeSet<Thing> {
    let servers: Vec<&str> = (world.of(CLOUDS[0], "servers").iter())
        .filter(|server| server["metadata"]["replicate:role"] == "replica")
        .map(|server| server["metadata"]["replicate:run"].as_str().unwrap())
        .collect();
    assert!(servers.len() <= 1, "one restore, {} servers", servers.len());
    new.iter().filter(|thing| thing.cloud == CLOUDS[0]).cloned().collect()
}

/// Kills a scenario at its points, one after another in the same house, and looks with the judge after each recovery.
async fn sweep(lab: &Lab, folder: &Path, scenario: &str, stride: usize) {
    let before = lab.judge(&CLOUDS);
    let there: BTreeSet<Thing> = before.things();
    assert!(!spawn(lab, folder, scenario, None));
    let count = passed(folder).len();
    spawn(lab, folder, "recover", None);
    let mut deaths = 0;
    for n in chosen(count, stride) {
        if !spawn(lab, folder, scenario, Some(n)) {
            continue;
        }
        deaths += 1;
        let story =
            format!("{scenario}, died at {n} of {count}: {}", passed(folder).last().cloned().unwrap_or_default());
        spawn(lab, folder, "recover", None);
        // recovering twice is as recovering once
        spawn(lab, folder, "recover", None);
        let world = lab.judge(&CLOUDS);
        let known = known(lab, folder).await;
        assert!(known.values().all(|count| *count == 1), "{story}: twice in the ledger: {known:?}");
        let mut new = world.since(&before);
        new.retain(|thing| !(thing.kind == "images" && known.contains_key(&thing.id)));
        if scenario == "restore" {
            let left = left_running(&world, &new);
            new.retain(|thing| !left.contains(thing));
            forget_restored(lab, folder).await;
        }
        assert!(new.is_empty(), "{story}: left behind: {new:?}");
        let images =
            world.of(CLOUDS[1], "images").iter().filter(|image| known.contains_key(image["id"].as_str().unwrap()));
        assert_eq!(images.count(), known.len(), "{story}: the ledger knows an image that is not there");
        let lost: Vec<&Thing> = there.iter().filter(|thing| thing.kind != "images").collect();
        assert!(lost.iter().all(|thing| world.things().contains(thing)), "{story}: something of the user's is gone");
    }
    println!("{scenario}: died at {deaths} of {count} points");
    assert!(deaths > 1, "{scenario}: {deaths} deaths at {count} points");
}

/// Deletes the server and the image that a restore has left.
async fn forget_restored(lab: &Lab, folder: &Path) {
    let house = House::open(&lab.clouds(), folder, PROJECT, policies()).await;
    let mut owned = house.one.owned().await.unwrap();
    owned.sort_by_key(|resource| resource.kind != "instance");
    for resource in owned {
        house.one.delete(&resource).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_restores_and_drills_survive_death_anywhere() {
    let Some(lab) = lab() else { return };
    lab.clean(PROJECT);
    let image = lab.guest_image(PROJECT);
    let made = lab.hands(&["serve", PROJECT, SERVER, "image", &image]);
    lab.console(PROJECT, &made, "REPLICATE-READY");
    lab.hands(&["stop", PROJECT, &made]);
    let folder = tempfile::tempdir().unwrap();
    for (scenario, stride) in [("run", 11), ("restore", 9), ("drill", 13)] {
        sweep(&lab, folder.path(), scenario, stride).await;
    }
    lab.clean(PROJECT);
}

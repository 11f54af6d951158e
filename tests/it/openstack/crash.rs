//! kill -9 at points of capture, upload, relay, restore, launch, drill and deletion, as processes, against real services.
//! After each death the next process recovers, and the judge must find nothing that the ledger does not know, and nothing
//! twice.
//!
//! A sample dies once after each kind of call that makes or deletes something. The sweep dies at numbered points of all,
//! `REPLICATE_SWEEP=calls` at every one before or behind a call to the cloud (an hour), `full` at every one (hours), else at a
//! dozen of each scenario; they lie evenly, and `REPLICATE_SEED` moves them on. `REPLICATE_SCENARIO=relay` sweeps that one alone.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use cloud::openstack::{LaunchSpec, MacChoice, NetworkSpec};
use engine::{CheckScope, Choice, DrillRequest, PruneRequest, RunOutcome, VerifyRequest};
use model::{Kind, Place, Policy, ServerName};

use super::house::{House, ONE, SERVER, Setup, TWO, at, in_vault, policy, site_name};
use super::lab::{Lab, Thing, World, lab};

const PROJECT: &str = "crash";
const CLOUDS: [&str; 2] = ["crash", "crash-two"];

/// The sample: a scenario and the point where it dies; then where its recovery dies, if it does.
const SAMPLE: [(&str, &[&str]); 6] = [
    ("run", &["openstack.capture.image.after"]),
    ("run", &["openstack.stage.after", "openstack.image-delete.after"]),
    ("drill", &["openstack.import-staged.after"]),
    ("relay", &["openstack.import.after"]),
    ("restore", &["openstack.server-create.after"]),
    ("drill", &["openstack.server-create.after"]),
];
const SCENARIOS: [&str; 4] = ["run", "relay", "restore", "drill"];
const FOLDER: &str = "REPLICATE_TEST_FOLDER";
const SCENARIO: &str = "REPLICATE_TEST_SCENARIO";
const CLOUDS_FILE: &str = "REPLICATE_TEST_CLOUDS";

/// A stopped server: a capture of it takes seconds, and what is proved here does not depend on what it writes.
/// `pair` sends no byte through us to the second region: Glance there fetches the image that the first one gets.
fn policies() -> Vec<Policy> {
    let mut pair = policy("pair", ONE, SERVER, &[at(ONE), at(TWO)]);
    pair.replicate[1].via = model::Via::Relay;
    vec![policy("web", ONE, SERVER, &[in_vault(), at(TWO)]), pair]
}

/// What a restored server gets: disks that are volumes, and a port of its own, so that its launch has the most to lose.
fn launched() -> LaunchSpec {
    let network = NetworkSpec { network: "net".to_owned(), address: Some("10.0.2.77".to_owned()), mac: MacChoice::New };
    LaunchSpec { networks: Some(vec![network]), boot_from_volume: Some(true), ..LaunchSpec::default() }
}

async fn house(clouds: &Path, folder: &Path) -> House {
    House::open(clouds, folder, PROJECT, Setup { launched: launched(), ..policies().into() }).await
}

async fn act(house: &House, folder: &Path, scenario: &str) {
    let choice =
        Choice { server: ServerName::new(SERVER).unwrap(), at: None, point: None, from: None, via: model::Via::Auto };
    match scenario {
        "run" => drop(house.run("web").await),
        "relay" => {
            let run = house.run("pair").await;
            assert!(run.destinations.iter().any(|there| there.via == model::Via::Relay), "{run:#?}");
        }
        "restore" => drop(house.restore(SERVER, in_vault(), ONE).await),
        "drill" => {
            let choice = Choice { from: Some(in_vault()), ..choice };
            let drill = house.engine.drill(&DrillRequest { choice, site: Some(site_name(TWO)) }).await.unwrap();
            assert!(drill.passed, "{drill:#?}");
        }
        "recover" => recover(house, folder).await,
        other => panic!("no scenario {other}"),
    }
}

/// Deletes the server that a restore has left, what it is connected to, and its image, as a person would. What belongs
/// to a policy stays.
async fn forget_restored(house: &House) {
    let mut owned = house.one.owned().await.unwrap();
    owned.retain(|resource| !resource.tags.contains_key("replicate:policy"));
    owned.sort_by_key(|resource| resource.kind != "instance");
    for resource in owned {
        house.one.delete(&resource).await.unwrap();
    }
}

/// What the next start does.
async fn recover(house: &House, folder: &Path) {
    for run in house.engine.resume().await.unwrap().runs {
        assert_eq!(run.outcome, RunOutcome::Done, "{run:#?}");
    }
    let swept = house.engine.sweep().await.unwrap();
    assert!(swept.problems.is_empty() && swept.in_use.is_empty(), "{swept:#?}");
    // recovering twice is as recovering once
    assert!(house.engine.resume().await.unwrap().runs.is_empty());
    let again = house.engine.sweep().await.unwrap();
    assert!(again.problems.is_empty() && again.deleted.is_empty(), "{again:#?}");
    // after several deaths more may be due than is deleted at once
    for last in [false, false, true] {
        let mut pruned = house.engine.prune(&PruneRequest::default()).await.unwrap();
        pruned.problems.retain(|problem| last || problem.kind != Kind::Quota);
        assert!(pruned.problems.is_empty(), "{pruned:#?}");
    }
    let all = VerifyRequest { scope: CheckScope::All, vault: None, site: None, server: None };
    let verified = house.engine.verify(&all).await.unwrap();
    assert!(verified.is_good(), "{verified:#?}");
    let adopted = house.engine.adopt().await.unwrap();
    assert!(adopted.gone.is_empty() && adopted.problems.is_empty(), "{adopted:#?}");
    std::fs::write(folder.join("known"), serde_json::to_string(&known(house).await).unwrap()).unwrap();
}

/// The images that the ledger knows to be at the sites, each with how often.
async fn known(house: &House) -> BTreeMap<String, usize> {
    let mut images = BTreeMap::new();
    for point in house.engine.points(None).await.unwrap() {
        for replica in point.replicas.iter().filter(|replica| matches!(replica.place, Place::Site(_))) {
            *images.entry(replica.image.as_ref().unwrap().to_string()).or_default() += 1;
        }
    }
    images
}

/// The child: does what it is told in the folder that it is told, and may be killed meanwhile.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the child of the sweeps"]
async fn child() {
    let (Some(folder), Ok(scenario)) = (std::env::var_os(FOLDER), std::env::var(SCENARIO)) else { return };
    let clouds = std::env::var_os(CLOUDS_FILE).unwrap();
    let folder = Path::new(&folder);
    act(&house(Path::new(&clouds), folder).await, folder, &scenario).await;
}

/// Runs a scenario in a process of its own; true if it was killed at the point.
fn spawn(lab: &Lab, folder: &Path, scenario: &str, at: Option<&str>) -> bool {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "openstack::crash::child", "--ignored", "--nocapture", "--test-threads=1"]);
    command.env(FOLDER, folder).env(SCENARIO, scenario).env(CLOUDS_FILE, lab.clouds());
    command.env("REPLICATE_CRASH_LOG", folder.join("points")).env_remove("REPLICATE_CRASH_AT");
    let _ = std::fs::remove_file(folder.join("points"));
    if let Some(at) = at {
        command.env("REPLICATE_CRASH_AT", at);
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

/// The points to die at: all of them, those of calls to the cloud, or a few that lie evenly.
fn chosen(points: &[String]) -> Vec<usize> {
    let count = points.len();
    let deaths = match std::env::var("REPLICATE_SWEEP").as_deref() {
        Ok("full") => count,
        Ok("calls") => return (1..=count).filter(|n| points[n - 1].contains(" openstack.")).collect(),
        _ => 12.min(count),
    };
    let offset = std::env::var("REPLICATE_SEED").map_or(0, |seed| seed.parse().unwrap());
    // the middle of each of so many parts
    (0..deaths).map(|part| ((2 * part + 1) * count / (2 * deaths) + offset) % count + 1).collect()
}

/// What a restore that died while its server was being launched leaves on purpose, since somebody may use it already:
/// one server, with its image, its disk and its port. Without a server there is nothing to use.
fn left_running(world: &World, new: &BTreeSet<Thing>, story: &str) -> BTreeSet<Thing> {
    let ours = |server: &&serde_json::Value| server["metadata"]["replicate:role"] == "replica";
    let servers = world.of(CLOUDS[0], "servers").iter().filter(ours).count();
    if servers == 0 {
        return BTreeSet::new();
    }
    let left: BTreeSet<Thing> = new.iter().filter(|thing| thing.cloud == CLOUDS[0]).cloned().collect();
    for kind in ["servers", "images", "volumes", "ports"] {
        let count = left.iter().filter(|thing| thing.kind == kind).count();
        assert_eq!(count, 1, "{story}: {count} {kind} of one server");
    }
    left
}

/// Kills a scenario at its points, one after another in the same house, and looks with the judge after each recovery.
async fn sweep(lab: &Lab, folder: &Path, scenario: &str) {
    let before = lab.judge(&CLOUDS);
    // the first time differs from all others, which find something to build on
    let mut points = Vec::new();
    for time in ["first", "second"] {
        assert!(!spawn(lab, folder, scenario, None));
        points = passed(folder);
        spawn(lab, folder, "recover", None);
        judged(&before, &tidy(lab, folder, &before).await, folder, scenario, &format!("{scenario}, the {time}"));
    }
    let count = points.len();
    let mut deaths = 0;
    for n in chosen(&points) {
        if !spawn(lab, folder, scenario, Some(&n.to_string())) {
            spawn(lab, folder, "recover", None);
            tidy(lab, folder, &before).await;
            continue;
        }
        deaths += 1;
        let last = passed(folder).last().cloned().unwrap_or_default();
        let story = format!("{scenario}, died at {n} of {count}: {last}");
        spawn(lab, folder, "recover", None);
        judged(&before, &tidy(lab, folder, &before).await, folder, scenario, &story);
        println!("{story}: nothing is left");
    }
    println!("{scenario}: died at {deaths} of {count} points");
    assert!(deaths > 1, "{scenario}: {deaths} deaths at {count} points");
}

/// Looks with the judge, and takes away the server of a restore that it saw.
async fn tidy(lab: &Lab, folder: &Path, before: &World) -> World {
    let world = lab.judge(&CLOUDS);
    if world.since(before).iter().any(|thing| thing.kind == "servers") {
        forget_restored(&house(&lab.clouds(), folder).await).await;
    }
    world
}

/// Nothing is there that the ledger does not know, nothing twice, and nothing of the user's is gone.
fn judged(before: &World, world: &World, folder: &Path, scenario: &str, story: &str) {
    let known: BTreeMap<String, usize> =
        serde_json::from_str(&std::fs::read_to_string(folder.join("known")).unwrap()).unwrap();
    assert!(known.values().all(|count| *count == 1), "{story}: twice in the ledger: {known:?}");
    let mut new = world.since(before);
    new.retain(|thing| !(thing.kind == "images" && known.contains_key(&thing.id)));
    if scenario == "restore" {
        let left = left_running(world, &new, story);
        new.retain(|thing| !left.contains(thing));
    }
    assert!(new.is_empty(), "{story}: left behind: {new:?}");
    let there = world.things();
    let images: BTreeSet<&str> =
        there.iter().filter(|thing| thing.kind == "images").map(|thing| thing.id.as_str()).collect();
    let lost: Vec<&String> = known.keys().filter(|image| !images.contains(image.as_str())).collect();
    assert!(lost.is_empty(), "{story}: the ledger knows images that are not there: {lost:?}");
    let lost = before.things().into_iter().filter(|thing| thing.kind != "images" && !there.contains(thing));
    assert_eq!(lost.count(), 0, "{story}: something of the user's is gone");
}

/// A server that was stopped after it had written.
fn serve(lab: &Lab) {
    lab.clean(PROJECT);
    let image = lab.guest_image(PROJECT);
    let made = lab.hands(&["serve", PROJECT, SERVER, "image", &image]);
    lab.console(PROJECT, &made, "REPLICATE-READY");
    lab.hands(&["stop", PROJECT, &made]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_call_survives_death_behind_it() {
    let Some(lab) = lab() else { return };
    serve(&lab);
    let folder = tempfile::tempdir().unwrap();
    let before = lab.judge(&CLOUDS);
    for (scenario, points) in SAMPLE {
        let mut next = scenario;
        for point in points {
            assert!(spawn(&lab, folder.path(), next, Some(point)), "{scenario} does not come to {point}");
            next = "recover";
        }
        spawn(&lab, folder.path(), "recover", None);
        let story = format!("{scenario}, died at {}", points.join(", then at "));
        judged(&before, &tidy(&lab, folder.path(), &before).await, folder.path(), scenario, &story);
        println!("{story}: nothing is left");
    }
    lab.clean(PROJECT);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a dozen deaths of each scenario: an hour"]
async fn runs_relays_restores_and_drills_survive_death_anywhere() {
    let Some(lab) = lab() else { return };
    serve(&lab);
    let folder = tempfile::tempdir().unwrap();
    let wanted = std::env::var("REPLICATE_SCENARIO").ok();
    // what is restored is there
    assert!(!spawn(&lab, folder.path(), "run", None));
    spawn(&lab, folder.path(), "recover", None);
    for scenario in SCENARIOS.iter().filter(|it| wanted.as_ref().is_none_or(|wanted| wanted == *it)) {
        sweep(&lab, folder.path(), scenario).await;
    }
    lab.clean(PROJECT);
}

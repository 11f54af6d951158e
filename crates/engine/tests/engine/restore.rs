//! Restores and drills: choice, falling over, files, guests that boot and guests that do not.

use std::time::Duration;

use cloud::memory::{BootScript, Fault, Rule};
use cloud::{Cloud, Source, Target};
use engine::{Choice, DrillRequest, FileFormat, RestoreRequest, RestoreTo, verify_proof};
use model::{Kind, Place, Probe, ReplicaState, ServerName};

use crate::archive::root;
use crate::house::{House, disk, server, site, site_place, vault_place};

fn choice() -> Choice {
    Choice { server: server(), at: None, point: None, from: None, via: model::Via::Auto }
}

fn to_site(name: &str, launch: bool) -> RestoreTo {
    RestoreTo::Site { site: site("lab"), name: Some(ServerName::new(name).unwrap()), launch }
}

fn drill() -> DrillRequest {
    DrillRequest { choice: choice(), site: Some(site("lab")) }
}

async fn state_at(house: &House, place: &Place) -> ReplicaState {
    let points = house.engine().await.points(None).await.unwrap();
    points[0].replicas.iter().find(|r| r.place == *place).unwrap().state
}

#[tokio::test]
async fn a_restored_server_runs_with_the_points_bytes_and_no_sweep_touches_it() {
    let house = House::new();
    house.run().await;
    let then = house.bytes("vda");
    house.write("vda", 0, 0x99, 4096);
    let request = RestoreRequest { choice: choice(), to: to_site("web-new", true) };
    let report = house.engine().await.restore(&request).await.unwrap();
    assert!(report.instance.is_some() && report.image.is_some());
    assert_eq!(report.from, vault_place());
    let name = ServerName::new("web-new").unwrap();
    assert_eq!(house.lab.read(&name, &disk("vda"), 0, then.len()).unwrap(), then);
    assert_ne!(house.bytes("vda"), then, "the source is not touched");
    house.engine().await.sweep().await.unwrap();
    assert_eq!(house.lab.servers().await.unwrap().len(), 2);
    // it is no replica: neither the catalogue nor a rebuilt one counts it
    house.engine().await.adopt().await.unwrap();
    let points = house.engine().await.points(None).await.unwrap();
    assert!(points[0].replicas.iter().all(|r| r.place != Place::Site(site("lab"))));
    house.assert_clean().await;
}

#[tokio::test]
async fn the_newest_verified_point_at_the_wished_time_is_taken() {
    let house = House::new();
    house.run().await;
    let first = house.engine().await.points(None).await.unwrap()[0].point.clone();
    house.write("vda", 0, 0x12, 512);
    house.run().await;
    let path = house.folder.path().join("disk.raw");
    let to = RestoreTo::File { path: path.clone(), format: FileFormat::Raw, disk: Some(disk("vda")) };
    let at = Some(first.taken_at);
    let report = house
        .engine()
        .await
        .restore(&RestoreRequest { choice: Choice { at, ..choice() }, to: to.clone() })
        .await
        .unwrap();
    assert_eq!(report.point, first.id);
    assert_eq!(root(&std::fs::read(&path).unwrap()), first.disks[0].root);
    // a file is never overwritten, and a refused restore leaves nothing
    let again = RestoreRequest { choice: choice(), to };
    assert_eq!(house.engine().await.restore(&again).await.unwrap_err().kind(), Kind::Exists);
    assert_eq!(root(&std::fs::read(&path).unwrap()), first.disks[0].root);
    let early = Choice { at: Some("2020-01-01T00:00:00Z".parse().unwrap()), ..choice() };
    let to = to_site("x", false);
    let error = house.engine().await.restore(&RestoreRequest { choice: early, to }).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
}

#[tokio::test]
async fn two_disks_become_two_files_in_either_form() {
    let house = House::new();
    house.run().await;
    for (format, extension) in [(FileFormat::Raw, "raw"), (FileFormat::Qcow2, "qcow2")] {
        let path = house.folder.path().join(format!("out.{extension}"));
        let to = RestoreTo::File { path, format, disk: None };
        let report = house.engine().await.restore(&RestoreRequest { choice: choice(), to }).await.unwrap();
        assert_eq!(report.files.len(), 2);
        for (file, name) in report.files.iter().zip(["vda", "vdb"]) {
            let form = if format == FileFormat::Raw { disk::Format::Raw } else { disk::Format::Qcow2 };
            let reader = disk::open_file(file, form).await.unwrap();
            let bytes = reader.read_at(0, house.bytes(name).len()).await.unwrap();
            assert_eq!(bytes.to_vec(), house.bytes(name), "{format:?} {name}");
        }
    }
}

#[tokio::test]
async fn a_damaged_archive_falls_over_to_the_image_and_is_noted() {
    let house = House::new();
    let point = house.run().await.runs[0].point.clone().unwrap();
    house.vault.state.lock().unwrap().damaged.insert(point);
    let request = RestoreRequest { choice: choice(), to: to_site("web-2", false) };
    let report = house.engine().await.restore(&request).await.unwrap();
    assert_eq!(report.from, site_place());
    assert_eq!(report.skipped.len(), 1);
    assert_eq!(state_at(&house, &vault_place()).await, ReplicaState::Damaged);
    house.assert_clean().await;
}

#[tokio::test]
async fn a_vault_that_does_not_answer_falls_over_too() {
    let house = House::new();
    house.run().await;
    house.vault.state.lock().unwrap().down = Some(Kind::Transient);
    let request = RestoreRequest { choice: choice(), to: to_site("web-2", false) };
    let report = house.engine().await.restore(&request).await.unwrap();
    assert_eq!(report.from, site_place());
    assert_eq!(state_at(&house, &vault_place()).await, ReplicaState::Verified, "silence is no damage");
}

#[tokio::test]
async fn wrong_bytes_are_refused_and_nothing_is_left() {
    let house = House::new();
    house.run().await;
    house.vault.state.lock().unwrap().down = Some(Kind::Transient);
    let images = house.remote.images().await.unwrap();
    house.remote.damage_image(&images[0].0, &disk("vdb"), 70_000).unwrap();
    let before = house.lab.owned().await.unwrap().len();
    let request = RestoreRequest { choice: choice(), to: to_site("web-2", true) };
    let error = house.engine().await.restore(&request).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Damaged, "{}", error.chain());
    assert_eq!(house.lab.owned().await.unwrap().len(), before);
    let path = house.folder.path().join("x.raw");
    let to = RestoreTo::File { path: path.clone(), format: FileFormat::Raw, disk: Some(disk("vdb")) };
    house.vault.state.lock().unwrap().down = Some(Kind::Transient);
    house.engine().await.restore(&RestoreRequest { choice: choice(), to }).await.unwrap_err();
    assert!(!path.exists());
    let left = std::fs::read_dir(house.folder.path()).unwrap().flatten();
    assert!(left.map(|e| e.file_name()).all(|name| !name.to_string_lossy().starts_with("x.raw")));
}

#[tokio::test]
async fn a_drill_that_passes_is_proved_and_destroyed() {
    let mut house = House::new();
    house.policy.drill.probes = vec![
        Probe::Console { text: "multi-user".to_owned() },
        Probe::Command { command: vec!["echo".to_owned(), "alive".to_owned()], text: Some("alive".to_owned()) },
    ];
    house.run().await;
    let report = house.engine().await.drill(&drill()).await.unwrap();
    assert!(report.passed, "{report:?}");
    let key = house.engine().await.proof_key();
    let proof = verify_proof(&report.proof, Some(&key)).unwrap();
    let names: Vec<&str> = proof.rungs.iter().map(|rung| rung.name.as_str()).collect();
    assert_eq!(names[..4], ["firmware", "kernel", "root", "ready"]);
    assert_eq!(names.len(), 6);
    let point = &house.engine().await.points(None).await.unwrap()[0].point;
    assert_eq!((&proof.point, &proof.disks), (&point.id, &point.disks));
    // changed by one digit, it is no proof; nor is it one of somebody else's
    let mut forged = report.proof.clone();
    forged.proof = forged.proof.replacen("\"passed\":true", "\"passed\":true ", 1);
    assert_eq!(verify_proof(&forged, None).unwrap_err().kind(), Kind::Damaged);
    assert_eq!(verify_proof(&report.proof, Some("bm90IG91cnM=")).unwrap_err().kind(), Kind::Denied);
    let file: engine::SignedProof =
        serde_json::from_slice(&std::fs::read(report.proof_file.unwrap()).unwrap()).unwrap();
    assert_eq!(file, report.proof);
    assert_eq!(state_at(&house, &vault_place()).await, ReplicaState::Proven);
    let status = house.engine().await.status().await.unwrap();
    assert_eq!(status.servers[0].last_proof.as_ref().unwrap().run, proof.run);
    assert!(house.lab.images().await.unwrap().is_empty());
    house.assert_clean().await;
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(house.folder.path().join("proof.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_guest_that_does_not_live_never_passes() {
    let late = BootScript {
        console: [
            "SeaBIOS",
            "Linux version 6",
            "EXT4-fs (vda1): mounted filesystem",
            "server login: ",
            "Kernel panic - x",
        ]
        .map(str::to_owned)
        .to_vec(),
        lines_per_look: 1,
        panics: true,
        ..BootScript::default()
    };
    let quiet = BootScript { panics: true, ..BootScript::default() };
    let stops = BootScript { stops: true, ..BootScript::default() };
    let silent = BootScript { console: Vec::new(), agent: false, ..BootScript::default() };
    let slow = BootScript { console: vec!["SeaBIOS".to_owned()], agent: false, ..BootScript::default() };
    for (name, script) in [
        ("panic", BootScript::panic()),
        ("nothing", BootScript::nothing_to_boot()),
        ("late", late),
        ("quiet", quiet),
        ("stops", stops),
        ("silent", silent),
        ("slow", slow),
    ] {
        let mut house = House::new();
        house.policy.drill.limit = Duration::from_millis(50);
        // keeps the late one watched until it dies
        house.policy.drill.probes = vec![Probe::Console { text: "never shown".to_owned() }];
        if name != "late" {
            house.policy.drill.probes.clear();
        }
        house.run().await;
        house.lab.script_boot(&server(), script);
        let report = house.engine().await.drill(&drill()).await.unwrap();
        assert!(!report.passed, "{name} passed");
        let proof = verify_proof(&report.proof, None).unwrap();
        assert!(!proof.passed && proof.rungs.iter().any(|rung| !rung.passed), "{name}: {proof:?}");
        assert_eq!(state_at(&house, &vault_place()).await, ReplicaState::Verified, "{name}");
        assert!(house.engine().await.status().await.unwrap().servers[0].last_proof.is_none());
        house.assert_clean().await;
    }
}

#[tokio::test]
async fn a_probe_that_fails_fails_the_drill() {
    let mut house = House::new();
    house.policy.drill.limit = Duration::from_millis(50);
    house.policy.drill.probes = vec![Probe::Tcp { port: 22 }];
    house.run().await;
    let report = house.engine().await.drill(&drill()).await.unwrap();
    assert!(!report.passed);
    house.assert_clean().await;
}

#[tokio::test]
async fn a_replica_at_the_drills_site_boots_itself_and_stays() {
    let house = House::new();
    house.run().await;
    let request = DrillRequest { choice: Choice { from: Some(site_place()), ..choice() }, site: Some(site("remote")) };
    let report = house.engine().await.drill(&request).await.unwrap();
    assert!(report.passed);
    assert_eq!(house.remote.images().await.unwrap().len(), 1);
    assert_eq!(state_at(&house, &site_place()).await, ReplicaState::Proven);
    house.assert_clean().await;
}

/// A site that has the first point as an image; the second one is in the vault alone.
async fn lagging() -> (House, RestoreRequest) {
    let mut house = House::new();
    house.run().await;
    house.policy.replicate.retain(|destination| destination.place == vault_place());
    house.write("vda", 3 * 65_536, 0x77, 512);
    house.run().await;
    let to = RestoreTo::Site { site: site("remote"), name: None, launch: false };
    (house, RestoreRequest { choice: choice(), to })
}

#[tokio::test]
async fn a_site_that_has_an_older_image_gets_only_what_differs() {
    let (house, request) = lagging().await;
    let first = house.engine().await.points(None).await.unwrap();
    let older = first.iter().map(|p| &p.point).min_by_key(|p| p.taken_at).unwrap().id.clone();
    let report = house.engine().await.restore(&request).await.unwrap();
    assert_eq!((report.from, report.since, report.bytes), (vault_place(), Some(older), 65_536));
    for name in ["vda", "vdb"] {
        let reader = house.remote.open_image(report.image.as_ref().unwrap(), &disk(name)).await.unwrap();
        let wanted = house.bytes(name);
        assert_eq!(reader.read_at(0, wanted.len()).await.unwrap().to_vec(), wanted);
    }
    house.assert_clean().await;
}

#[tokio::test]
async fn a_damaged_image_is_not_built_on() {
    let (house, request) = lagging().await;
    let image = house.remote.images().await.unwrap()[0].0.clone();
    house.remote.damage_image(&image, &disk("vda"), 0).unwrap();
    let report = house.engine().await.restore(&request).await.unwrap();
    assert_eq!((&report.from, &report.since), (&vault_place(), &None));
    let reader = house.remote.open_image(report.image.as_ref().unwrap(), &disk("vda")).await.unwrap();
    let wanted = house.bytes("vda");
    assert_eq!(reader.read_at(0, wanted.len()).await.unwrap().to_vec(), wanted);
    house.assert_clean().await;
}

/// A site that shows late what it has made: a restore dies while its server is launched, before (`made` is false) or after.
async fn died_at_the_launch(made: bool) -> House {
    let house = House::new();
    house.run().await;
    house.lab.set_lag(Duration::from_secs(180));
    let fault = if made { Fault::HangAfter } else { Fault::HangBefore };
    house.lab.inject(Rule::always("launch", fault));
    let engine = house.engine().await;
    let request = RestoreRequest { choice: choice(), to: to_site("web-new", true) };
    let died = tokio::time::timeout(Duration::from_secs(2), engine.restore(&request)).await;
    assert!(died.is_err(), "{died:?}");
    drop(engine);
    house.lab.heal();
    house
}

#[tokio::test]
async fn a_server_that_is_not_seen_yet_is_waited_for_and_named() {
    let house = died_at_the_launch(true).await;
    house.lab.inject(Rule::always("owned", Fault::Stale(1)));
    let swept = house.engine().await.sweep().await.unwrap();
    assert_eq!(swept.problems.len(), 1, "{swept:?}");
    assert!(swept.problems[0].message.contains("may not show it yet"), "{swept:?}");
    house.clock.advance(20);
    house.lab.heal();
    let swept = house.engine().await.sweep().await.unwrap();
    assert_eq!(swept.problems, []);
    let events = format!("{:?}", house.recorder.0.lock().unwrap());
    assert!(events.contains("was left as it is"), "{events}");
    assert_eq!(house.lab.servers().await.unwrap().len(), 2);
    let images = house.lab.owned().await.unwrap().into_iter().filter(|it| it.kind == "image").count();
    assert_eq!(images, 1, "the server's image stays with it");
}

#[tokio::test]
async fn a_server_that_never_was_is_not_waited_for_for_ever() {
    let house = died_at_the_launch(false).await;
    for (later, open) in [(0, 1), (100, 1), (81, 0)] {
        house.clock.advance(later);
        let swept = house.engine().await.sweep().await.unwrap();
        assert_eq!(swept.problems.len(), open, "{later} s later: {swept:?}");
    }
    house.assert_clean().await;
    assert_eq!(house.lab.owned().await.unwrap().iter().filter(|it| it.kind == "image").count(), 0);
}

/// A launch that failed may have made its server all the same, and a site that cannot be looked at does not tell: what that
/// server needs stays until somebody can see.
#[tokio::test]
async fn a_failed_restore_whose_site_cannot_be_looked_at_stays_open() {
    let house = House::new();
    house.run().await;
    house.lab.set_lag(Duration::from_secs(180));
    house.lab.inject(Rule::always("launch", Fault::FailAfter(Kind::Permanent)));
    house.lab.inject(Rule::always("owned", Fault::FailBefore(Kind::Denied)));
    let request = RestoreRequest { choice: choice(), to: to_site("web-new", true) };
    let error = house.engine().await.restore(&request).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Permanent, "{}", error.chain());
    house.lab.heal();
    let images = async || house.lab.owned().await.unwrap().into_iter().filter(|it| it.kind == "image").count();
    assert_eq!((images().await, house.lab.servers().await.unwrap().len()), (1, 2), "its image went from under it");
    // and the next look ends it: the server is there, and stays
    assert_eq!(house.engine().await.sweep().await.unwrap().problems, []);
    let events = format!("{:?}", house.recorder.0.lock().unwrap());
    assert!(events.contains("was left as it is"), "{events}");
    assert_eq!((images().await, house.lab.servers().await.unwrap().len()), (1, 2));
}

//! Runs: happy path, increments, destinations that fail, captures that are lost.

use cloud::Target;
use engine::{DestinationState, RunOutcome};
use model::Kind;

use crate::archive::root;
use crate::house::{HALF, House, disk, server, site_place, vault_place};

fn received(report: &engine::RunsReport, place: &model::Place) -> u64 {
    report.runs[0].destinations.iter().find(|d| d.place == *place).unwrap().received_bytes
}

#[tokio::test]
async fn a_run_brings_one_point_to_every_destination() {
    let house = House::new();
    let report = house.run().await;
    assert_eq!(report.outcome(), RunOutcome::Done, "{report:?}");
    let point = report.runs[0].point.clone().unwrap();
    let held = house.vault.state.lock().unwrap().points[&point].clone();
    assert_eq!(*held.1[&disk("vda")], house.bytes("vda"));
    assert_eq!(held.0.disks[1].root, root(&house.bytes("vdb")));
    let images = house.remote.images().await.unwrap();
    assert_eq!(images.len(), 1);
    assert_eq!(images[0].1, held.0, "every destination carries the same point");
    house.assert_clean().await;
}

#[tokio::test]
async fn the_source_is_read_once_for_all_destinations() {
    let house = House::new();
    house.run().await;
    let reads = house.lab.calls().iter().filter(|call| *call == "read").count();
    let house = House {
        policy: model::Policy { replicate: vec![vault_place().into()], ..crate::house::policy() },
        ..House::new()
    };
    house.run().await;
    assert_eq!(reads, house.lab.calls().iter().filter(|call| *call == "read").count());
}

#[tokio::test]
async fn an_increment_moves_what_changed() {
    let house = House::new();
    house.run().await;
    house.write("vda", HALF + 65_536, 0x33, 512);
    let report = house.run().await;
    assert_eq!(report.outcome(), RunOutcome::Done);
    for place in [vault_place(), site_place()] {
        assert_eq!(received(&report, &place), 65_536, "one leaf changed");
    }
    assert!(report.runs[0].destinations.iter().all(|d| d.incremental));
    let point = report.runs[0].point.clone().unwrap();
    assert_eq!(*house.vault.state.lock().unwrap().points[&point].1[&disk("vda")], house.bytes("vda"));
}

#[tokio::test]
async fn a_lost_change_map_reads_all_and_moves_differences() {
    let house = House::new();
    house.run().await;
    house.write("vda", 0, 0x44, 512);
    house.lab.lose_change_maps(&server()).unwrap();
    let report = house.run().await;
    assert_eq!(report.outcome(), RunOutcome::Done);
    assert!(report.runs[0].destinations.iter().all(|d| !d.incremental));
    assert_eq!(received(&report, &vault_place()), 65_536);
    // and the next one is incremental again
    house.write("vda", 0, 0x45, 512);
    assert!(house.run().await.runs[0].destinations.iter().all(|d| d.incremental));
}

#[tokio::test]
async fn a_destination_that_fails_does_not_stop_the_other_and_is_caught_up() {
    let house = House::new();
    house.run().await;
    house.vault.state.lock().unwrap().down = Some(Kind::Transient);
    house.write("vda", 0, 0x55, 512);
    let parked = house.run().await;
    assert_eq!(parked.outcome(), RunOutcome::PartlyDone);
    assert_eq!(house.remote.images().await.unwrap().len(), 2);
    house.vault.state.lock().unwrap().down = None;
    // what the guest writes now is not in the point
    house.write("vda", 0, 0x66, 512);
    let resumed = house.run().await;
    assert_eq!(resumed.outcome(), RunOutcome::Done, "{resumed:?}");
    assert!(resumed.runs[0].resumed);
    assert_eq!(resumed.runs[0].point, parked.runs[0].point);
    let point = resumed.runs[0].point.clone().unwrap();
    assert_eq!(house.vault.state.lock().unwrap().points[&point].1[&disk("vda")][0], 0x55);
    house.assert_clean().await;
}

#[tokio::test]
async fn a_destination_that_missed_a_point_gets_a_right_one_next() {
    let mut house = House::new();
    house.settings.max_attempts = 1;
    house.run().await;
    house.vault.state.lock().unwrap().down = Some(Kind::Transient);
    house.write("vda", 0, 0x77, 512);
    let report = house.run().await;
    assert_eq!(report.outcome(), RunOutcome::PartlyDone);
    assert!(report.runs[0].destinations.iter().any(|d| d.state == DestinationState::GivenUp));
    house.vault.state.lock().unwrap().down = None;
    house.write("vdb", 0, 0x78, 512);
    let report = house.run().await;
    assert_eq!(report.outcome(), RunOutcome::Done);
    let at = |place: &model::Place| report.runs[0].destinations.iter().find(|d| d.place == *place).unwrap().clone();
    assert!(at(&site_place()).incremental && !at(&vault_place()).incremental);
    assert_eq!(at(&vault_place()).received_bytes, 2 * 65_536, "both changes, and nothing else");
    let point = report.runs[0].point.clone().unwrap();
    let state = house.vault.state.lock().unwrap();
    assert_eq!(*state.points[&point].1[&disk("vda")], house.bytes("vda"));
}

#[tokio::test]
async fn a_lost_capture_ends_its_run_and_a_new_one_begins() {
    let house = House::new();
    house.vault.state.lock().unwrap().down = Some(Kind::Transient);
    let parked = house.run().await;
    assert_eq!(parked.outcome(), RunOutcome::PartlyDone);
    house.vault.state.lock().unwrap().down = None;
    house.lab.kill(&server()).unwrap();
    let report = house.run().await;
    assert_eq!(report.outcome(), RunOutcome::Done, "{report:?}");
    assert_ne!(report.runs[0].point, parked.runs[0].point);
    house.assert_clean().await;
}

#[tokio::test]
async fn a_base_that_rotted_at_a_destination_is_found_by_its_root_and_healed() {
    let house = House::new();
    house.run().await;
    let images = house.remote.images().await.unwrap();
    house.remote.damage_image(&images[0].0, &disk("vda"), HALF - 7).unwrap();
    house.write("vdb", 0, 0x34, 512);
    let report = house.run().await;
    assert_eq!(report.outcome(), RunOutcome::Done, "{report:?}");
    assert!(report.runs[0].destinations.iter().all(|d| !d.incremental), "everything was read again");
    let point = report.runs[0].point.clone().unwrap();
    let images = house.remote.images().await.unwrap();
    let (image, _) = images.iter().find(|(_, held)| held.id == point).unwrap();
    let reader = house.remote.open_image(image, &disk("vda")).await.unwrap();
    let bytes = reader.read_at(0, 2 * HALF as usize).await.unwrap();
    assert_eq!(bytes.to_vec(), house.bytes("vda"));
    house.assert_clean().await;
}

#[tokio::test]
async fn files_become_a_point_also_when_the_import_is_interrupted() {
    let house = House::new();
    let path = house.folder.path().join("appliance.raw");
    let bytes: Vec<u8> = (0..2 * HALF).map(|at| (at / 512 % 251) as u8).collect();
    std::fs::write(&path, &bytes).unwrap();
    let request = engine::ImportRequest {
        files: vec![path],
        format: None,
        server: server(),
        to: vec![vault_place(), site_place()],
        arch: model::Arch::X86_64,
        firmware: model::Firmware::Bios,
        memory: 1 << 28,
        vcpus: 1,
    };
    house.vault.state.lock().unwrap().down = Some(Kind::Transient);
    let report = house.engine().await.import(&request).await.unwrap();
    assert_eq!(report.outcome, RunOutcome::PartlyDone, "{report:?}");
    house.vault.state.lock().unwrap().down = None;
    let resumed = house.engine().await.resume().await.unwrap();
    assert_eq!(resumed.outcome(), RunOutcome::Done);
    assert_eq!(resumed.runs[0].point, report.point);
    let point = report.point.unwrap();
    assert_eq!(*house.vault.state.lock().unwrap().points[&point].1[&disk("vda")], bytes);
    house.assert_clean().await;
}

#[tokio::test]
async fn a_second_run_of_one_server_is_told_so() {
    let house = House::new();
    house.lab.inject(cloud::memory::Rule::new(
        "capture",
        1,
        cloud::memory::Fault::Delay(std::time::Duration::from_millis(50)),
    ));
    let engine = house.engine().await;
    let request = house.request();
    let (first, second) = tokio::join!(engine.run(&request), engine.run(&request));
    let mut outcomes = [first.unwrap().outcome(), second.unwrap().outcome()];
    outcomes.sort();
    assert_eq!(outcomes, [RunOutcome::Done, RunOutcome::AlreadyRunning]);
    assert_eq!(house.remote.images().await.unwrap().len(), 1);
}

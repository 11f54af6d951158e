//! Retention with its guards, verification, amnesia, the schedule.

use std::time::Duration;

use cloud::Target;
use engine::ledger::MemoryLedger;
use engine::{CheckScope, CompactRequest, CompactSettings, PruneRequest, RunOutcome, VerifyRequest};
use model::{CatchUp, Kind, ReplicaState, Schedule, VaultName};

use crate::house::{House, disk, vault_place};

fn everything() -> VerifyRequest {
    VerifyRequest { scope: CheckScope::All, vault: None, site: None, server: None }
}

async fn three_points() -> House {
    let mut house = House::new();
    house.policy.keep.last = 1;
    for byte in 1..=3 {
        house.write("vda", 0, byte, 512);
        assert_eq!(house.run().await.outcome(), RunOutcome::Done);
    }
    house
}

async fn prune(house: &House) -> engine::PruneReport {
    house.engine().await.prune(&PruneRequest::default()).await.unwrap()
}

#[tokio::test]
async fn deletion_takes_a_mark_a_grace_and_a_second_look() {
    let house = three_points().await;
    let dry = PruneRequest { dry: true, ..PruneRequest::default() };
    assert_eq!(house.engine().await.prune(&dry).await.unwrap().doomed.len(), 4);
    assert!(house.engine().await.plan(None).await.unwrap().doomed.is_empty(), "dry is dry");
    assert_eq!(prune(&house).await.doomed.len(), 4);
    assert_eq!(house.engine().await.plan(None).await.unwrap().doomed.len(), 4, "plan shows them");
    house.clock.advance(71 * 3600);
    assert!(prune(&house).await.deleted.is_empty(), "the grace is not over");
    house.clock.advance(2 * 3600);
    let report = prune(&house).await;
    assert_eq!(report.deleted.len(), 3, "not more than a few at once: {report:?}");
    assert_eq!(report.problems.len(), 1);
    assert_eq!(prune(&house).await.deleted.len(), 1);
    assert_eq!(house.vault.state.lock().unwrap().points.len(), 1);
    assert_eq!(house.remote.images().await.unwrap().len(), 1);
    assert_eq!(house.engine().await.points(None).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_clock_that_jumps_deletes_nothing() {
    let house = three_points().await;
    prune(&house).await;
    house.clock.advance(-10 * 365 * 86_400);
    assert!(prune(&house).await.deleted.is_empty());
    assert_eq!(house.vault.state.lock().unwrap().points.len(), 3);
}

#[tokio::test]
async fn a_doomed_point_can_be_kept() {
    let house = three_points().await;
    let doomed = prune(&house).await.doomed;
    let keep = PruneRequest { keep: Some(doomed[0].point.clone()), ..PruneRequest::default() };
    let report = house.engine().await.prune(&keep).await.unwrap();
    assert_eq!(report.reprieved.len(), 2);
    house.clock.advance(100 * 3600);
    prune(&house).await;
    assert_eq!(house.engine().await.points(None).await.unwrap().len(), 2);
    let points = house.engine().await.points(None).await.unwrap();
    assert!(points.iter().all(|p| p.replicas.iter().all(|r| r.state == ReplicaState::Verified)));
}

#[tokio::test]
async fn the_last_good_replica_stays_though_it_was_doomed() {
    let house = three_points().await;
    prune(&house).await;
    // the newest turns out damaged everywhere: the doomed ones are what is left
    let newest = house.engine().await.points(None).await.unwrap()[0].point.id.clone();
    house.vault.state.lock().unwrap().damaged.insert(newest.clone());
    let images = house.remote.images().await.unwrap();
    let (image, _) = images.iter().find(|(_, point)| point.id == newest).unwrap();
    house.remote.damage_image(image, &disk("vda"), 0).unwrap();
    let report = house.engine().await.verify(&everything()).await.unwrap();
    assert_eq!(report.replicas.iter().filter(|r| r.problem.is_some()).count(), 2);
    house.clock.advance(100 * 3600);
    for _ in 0..4 {
        prune(&house).await;
        house.clock.advance(100 * 3600);
    }
    let points = house.engine().await.points(None).await.unwrap();
    for place in [vault_place(), crate::house::site_place()] {
        let good = points
            .iter()
            .flat_map(|p| &p.replicas)
            .filter(|r| r.place == place && r.verified_at.is_some() && r.state != ReplicaState::Damaged);
        assert!(good.count() >= 1, "{place}: {points:?}");
    }
}

#[tokio::test]
async fn replicas_that_are_gone_are_not_counted_as_survivors() {
    let house = three_points().await;
    prune(&house).await;
    // somebody deletes the newest behind our back, everywhere
    let newest = house.engine().await.points(None).await.unwrap()[0].point.id.clone();
    house.vault.state.lock().unwrap().points.remove(&newest);
    for (image, point) in house.remote.images().await.unwrap() {
        if point.id == newest {
            use cloud::Cloud;
            let owned = house.remote.owned().await.unwrap();
            house.remote.delete(owned.iter().find(|r| r.id == image.as_str()).unwrap()).await.unwrap();
        }
    }
    house.clock.advance(100 * 3600);
    let report = prune(&house).await;
    assert!(report.deleted.is_empty(), "{report:?}");
    assert!(!report.problems.is_empty());
    assert_eq!(house.vault.state.lock().unwrap().points.len(), 2);
}

#[tokio::test]
async fn a_place_that_cannot_be_listed_decides_nothing() {
    let house = three_points().await;
    prune(&house).await;
    house.clock.advance(100 * 3600);
    house.vault.state.lock().unwrap().down = Some(Kind::Transient);
    prune(&house).await;
    house.vault.state.lock().unwrap().down = None;
    assert_eq!(house.vault.state.lock().unwrap().points.len(), 3);
}

#[tokio::test]
async fn damage_is_found_noted_and_healed_by_reading_again() {
    let house = House::new();
    let point = house.run().await.runs[0].point.clone().unwrap();
    assert!(house.engine().await.verify(&everything()).await.unwrap().is_good());
    house.vault.state.lock().unwrap().damaged.insert(point.clone());
    let report = house.engine().await.verify(&everything()).await.unwrap();
    assert!(!report.is_good());
    assert_eq!(house.engine().await.status().await.unwrap().servers[0].points, 1, "the image is still good");
    house.vault.state.lock().unwrap().damaged.clear();
    assert!(house.engine().await.verify(&everything()).await.unwrap().is_good());
    let points = house.engine().await.points(None).await.unwrap();
    assert!(points[0].replicas.iter().all(|r| r.state == ReplicaState::Verified));
}

#[tokio::test]
async fn vaults_are_compacted_when_their_time_has_come() {
    let mut house = three_points().await;
    let name = VaultName::new("main").unwrap();
    let settings =
        CompactSettings { waste: 40, every: Some(Duration::from_secs(86_400)), ..CompactSettings::default() };
    house.settings.compaction.insert(name.clone(), settings.clone());
    let due = async |house: &House| house.engine().await.compact_due().await.unwrap();
    let seen = |house: &House| house.vault.state.lock().unwrap().compactions.len();
    let report = due(&house).await;
    assert_eq!(report.vaults[0].0, name);
    assert_eq!(
        (report.vaults[0].1.taken, report.vaults[0].1.packs),
        (4, 9),
        "batch after batch, until nothing is left"
    );
    assert_eq!(seen(&house), 2);
    assert_eq!(house.vault.state.lock().unwrap().compactions[0].waste, 40);
    house.clock.advance(86_399);
    assert!(due(&house).await.vaults.is_empty());
    house.clock.advance(1);
    assert_eq!(due(&house).await.vaults.len(), 1);
    // a clock that was wrong for a day does not put it off for a year
    house.clock.advance(-365 * 86_400);
    assert_eq!(due(&house).await.vaults.len(), 1);
    // a failure is told, and no reason to wait
    house.clock.advance(2 * 86_400);
    house.vault.state.lock().unwrap().down = Some(Kind::Transient);
    assert_eq!(due(&house).await.problems.len(), 1);
    house.vault.state.lock().unwrap().down = None;
    assert_eq!(due(&house).await.vaults.len(), 1);
    house.settings.compaction.insert(name, CompactSettings { every: None, ..settings });
    house.clock.advance(365 * 86_400);
    assert!(due(&house).await.vaults.is_empty(), "never");
    // on request, with what the request says
    let request = CompactRequest { waste: Some(7), recompress: true, dry: true, ..CompactRequest::default() };
    house.engine().await.compact(&request).await.unwrap();
    let last = house.vault.state.lock().unwrap().compactions.last().cloned().unwrap();
    assert_eq!((last.waste, last.recompress_after), (7, Some(Duration::ZERO)));
}

#[tokio::test]
async fn a_damaged_replica_is_made_again_by_the_same_run() {
    let house = House::new();
    house.run().await;
    // what the next run seals is damaged before it is checked
    house.clock.advance(3600);
    let engine = house.engine().await;
    house.remote.inject(cloud::memory::Rule::new(
        "read",
        1,
        cloud::memory::Fault::Break(cloud::memory::Promise::Bytes),
    ));
    house.write("vda", 0, 0x61, 512);
    let report = engine.run(&house.request()).await.unwrap();
    house.remote.heal();
    assert_eq!(report.outcome(), RunOutcome::PartlyDone, "{report:?}");
    let report = house.engine().await.run(&house.request()).await.unwrap();
    assert_eq!(report.outcome(), RunOutcome::Done, "{report:?}");
    assert!(house.engine().await.verify(&everything()).await.unwrap().is_good());
}

#[tokio::test]
async fn amnesia_with_an_empty_ledger_everything_is_found_again() {
    let mut house = three_points().await;
    let drill = engine::DrillRequest {
        choice: engine::Choice {
            server: crate::house::server(),
            at: None,
            point: None,
            from: None,
            via: model::Via::Auto,
        },
        site: Some(crate::house::site("lab")),
    };
    assert!(house.engine().await.drill(&drill).await.unwrap().passed);
    let before = house.engine().await.points(None).await.unwrap();
    let owner = house.engine().await.owner().clone();
    house.ledger = std::sync::Arc::new(MemoryLedger::new());
    let engine = house.engine().await;
    assert_eq!(*engine.owner(), owner, "the installation knows itself");
    // restore needs no catalogue at all
    let to = engine::RestoreTo::Site { site: crate::house::site("lab"), name: None, launch: false };
    let choice =
        engine::Choice { server: crate::house::server(), at: None, point: None, from: None, via: model::Via::Auto };
    let restored = engine.restore(&engine::RestoreRequest { choice, to }).await.unwrap();
    assert_eq!(restored.point, before[0].point.id);
    let report = engine.adopt().await.unwrap();
    assert_eq!((report.points, report.replicas, report.added), (3, 6, 6));
    engine.verify(&everything()).await.unwrap();
    let after = engine.points(None).await.unwrap();
    let shape = |points: &[engine::PointReport]| -> Vec<_> {
        points
            .iter()
            .map(|p| {
                let replicas = p.replicas.iter().map(|r| (r.place.clone(), r.image.clone(), r.state));
                (p.point.clone(), replicas.collect::<Vec<_>>(), p.proof.clone())
            })
            .collect()
    };
    assert_eq!(shape(&before), shape(&after));
    assert_eq!(engine.adopt().await.unwrap().added, 0);
    // the next run goes on: no change map is trusted, and only differences move
    house.write("vda", 0, 0x71, 512);
    let run = house.run().await;
    assert_eq!(run.outcome(), RunOutcome::Done);
    assert!(run.runs[0].destinations.iter().all(|d| !d.incremental && d.received_bytes == 65_536), "{run:?}");
}

#[tokio::test]
async fn what_was_deleted_behind_our_back_is_forgotten_by_adopt() {
    let house = three_points().await;
    let gone = house.engine().await.points(None).await.unwrap()[2].point.id.clone();
    house.vault.state.lock().unwrap().points.remove(&gone);
    let report = house.engine().await.adopt().await.unwrap();
    assert_eq!(report.gone, [(gone, vault_place())]);
    house.vault.state.lock().unwrap().down = Some(Kind::Transient);
    let report = house.engine().await.adopt().await.unwrap();
    assert_eq!(report.problems.len(), 1);
    assert_eq!(report.replicas, 5, "silence is no absence");
}

#[tokio::test]
async fn every_occurrence_runs_once() {
    let mut house = House::new();
    house.policy.schedule = Some(Schedule {
        cron: "0 4 * * *".to_owned(),
        timezone: "UTC".to_owned(),
        jitter: Duration::ZERO,
        catch_up: CatchUp::Once,
    });
    assert!(house.engine().await.run_due().await.unwrap().runs.is_empty(), "seen for the first time");
    house.clock.advance(3600);
    assert_eq!(house.engine().await.run_due().await.unwrap().runs.len(), 1);
    assert!(house.engine().await.run_due().await.unwrap().runs.is_empty(), "not twice");
    house.clock.advance(3 * 86_400);
    assert_eq!(house.engine().await.run_due().await.unwrap().runs.len(), 1, "however many were missed");
    assert!(house.engine().await.run_due().await.unwrap().runs.is_empty());
    assert!(house.engine().await.next_due().await.unwrap().is_some());
    // a destination that is down does not keep the next point from the other
    house.vault.state.lock().unwrap().down = Some(Kind::Transient);
    for _ in 0..2 {
        house.clock.advance(86_400);
        let report = house.engine().await.run_due().await.unwrap();
        assert_eq!(report.outcome(), RunOutcome::PartlyDone);
    }
    assert_eq!(house.remote.images().await.unwrap().len(), 4);
}

#[tokio::test]
async fn status_measures_from_the_verified_point() {
    let mut house = House::new();
    house.policy.objectives.rpo = Some(Duration::from_secs(7200));
    house.run().await;
    house.clock.advance(7200);
    assert_eq!(house.engine().await.status().await.unwrap().servers[0].rpo_met, Some(true));
    // newer, but never verified: nothing is gained
    house.vault.state.lock().unwrap().down = Some(Kind::Denied);
    house.remote.inject(cloud::memory::Rule::always("create_disk", cloud::memory::Fault::FailBefore(Kind::Quota)));
    let report = house.run().await;
    assert_eq!(report.outcome(), RunOutcome::Failed);
    let status = house.engine().await.status().await.unwrap();
    assert_eq!(status.servers[0].rpo_met, Some(false));
    assert_eq!(status.servers[0].lag_seconds, Some(3 * 3600));
    let open = status.servers[0].open_run.as_ref().unwrap();
    assert!(open.problem.is_some());
}

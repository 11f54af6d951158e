//! The ledger is set back to an older state of itself: to every state that it ever had, one after the other. Whatever it has forgotten, no
//! replica is deleted because of it, no restored server is touched, and everything that is there is known again.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use cloud::{Source, Target};
use engine::ledger::MemoryLedger;
use engine::{
    CheckScope, Choice, DrillRequest, Event, PruneRequest, RestoreRequest, RestoreTo, RunOutcome, VerifyRequest,
};
use model::{Place, PointId, ReplicaState, ServerName};

use crate::house::{House, server, site, site_place, vault_place};

type There = BTreeSet<(Place, PointId)>;

fn choice() -> Choice {
    Choice { server: server(), at: None, point: None, from: None, via: model::Via::Auto }
}

async fn there(house: &House) -> There {
    let archived: Vec<PointId> = house.vault.state.lock().unwrap().points.keys().cloned().collect();
    let imaged = house.remote.images().await.unwrap().into_iter().map(|(_, point)| (site_place(), point.id));
    archived.into_iter().map(|id| (vault_place(), id)).chain(imaged).collect()
}

/// What the catalogue knows and believes in.
async fn known(house: &House) -> There {
    let points = house.engine().await.points(None).await.unwrap();
    points.into_iter().flat_map(|p| p.replicas.into_iter().map(move |r| (r.place, p.point.id.clone()))).collect()
}

async fn prune(house: &House) -> engine::PruneReport {
    house.engine().await.prune(&PruneRequest::default()).await.unwrap()
}

async fn run(house: &House, byte: u8) {
    house.write("vda", 0, byte, 512);
    let report = house.run().await;
    assert_eq!(report.outcome(), RunOutcome::Done, "{report:?}");
}

/// A life with everything that the ledger remembers: runs, marks for deletion, one that is taken back, deletions, a drill, a server that was
/// restored. Returns the ledger after each commit, and how many there were when the last run began.
async fn life(house: &mut House) -> (Vec<MemoryLedger>, usize) {
    let past = Arc::new(Mutex::new(Vec::new()));
    house.past = Some(past.clone());
    house.policy.keep.last = 3;
    for byte in 1..=4 {
        run(house, byte).await;
    }
    let doomed = prune(house).await.doomed;
    assert_eq!(doomed.len(), 2);
    let drill = DrillRequest { choice: choice(), site: Some(site("lab")) };
    assert!(house.engine().await.drill(&drill).await.unwrap().passed);
    let to = RestoreTo::Site { site: site("lab"), name: Some(ServerName::new("new").unwrap()), launch: true };
    house.engine().await.restore(&RestoreRequest { choice: choice(), to }).await.unwrap();
    // somebody wants the doomed one after all; its hold is the last that an older ledger would know of it
    let keep = PruneRequest { keep: Some(doomed[0].point.clone()), ..PruneRequest::default() };
    assert_eq!(house.engine().await.prune(&keep).await.unwrap().reprieved.len(), 2);
    run(house, 5).await;
    house.clock.advance(100 * 3600);
    prune(house).await;
    house.clock.advance(100 * 3600);
    assert_eq!(prune(house).await.deleted.len(), 2);
    let before_last = past.lock().unwrap().len();
    run(house, 6).await;
    house.past = None;
    let past = past.lock().unwrap().drain(..).collect();
    (past, before_last)
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_is_set_back_to_any_state_deletes_nothing_and_learns_everything() {
    let states = life(&mut House::new()).await.0.len();
    let (mut noticed, mut older) = (0, 0);
    for state in 0..states {
        let mut house = House::new();
        let (past, before_last) = life(&mut house).await;
        assert_eq!(past.len(), states, "the same life each time");
        let truth = there(&house).await;
        house.ledger = Arc::new(past[state].copy());
        house.clock.advance(3600);
        let engine = house.engine().await;
        engine.resume().await.unwrap();
        let swept = engine.sweep().await.unwrap();
        assert!(swept.problems.is_empty(), "state {state}: {swept:?}");
        drop(engine);
        let warned = |event: &Event| matches!(event, Event::Warning { message, .. } if message.contains("set back"));
        noticed += usize::from(house.recorder.0.lock().unwrap().iter().any(warned));
        for _ in 0..3 {
            prune(&house).await;
            house.clock.advance(100 * 3600);
        }
        if state < before_last {
            older += 1;
            let left = there(&house).await;
            assert!(left.is_superset(&truth), "state {state}: {:?} is deleted", truth.difference(&left));
        }
        assert_eq!(house.lab.servers().await.unwrap().len(), 2, "state {state}: the restored server is gone");
        run(&house, 7).await;
        for _ in 0..2 {
            prune(&house).await;
            house.clock.advance(100 * 3600);
        }
        if state < before_last {
            assert!(there(&house).await.is_superset(&truth), "state {state}: a new verified point ages the others out");
        }
        house.assert_clean().await;
        assert!(known(&house).await.is_superset(&there(&house).await), "state {state}");
    }
    println!("{states} states of a ledger, {older} of them older than the last run, noticed {noticed} times");
    assert!(older > 60 && noticed >= older, "{noticed} of {older} were noticed");
}

#[tokio::test(start_paused = true)]
async fn retention_goes_on_when_a_person_has_looked() {
    let mut house = House::new();
    let (past, before_last) = life(&mut house).await;
    house.ledger = Arc::new(past[before_last / 2].copy());
    run(&house, 7).await;
    for _ in 0..3 {
        house.clock.advance(100 * 3600);
        assert!(prune(&house).await.deleted.is_empty());
    }
    let engine = house.engine().await;
    engine.adopt().await.unwrap();
    let all = VerifyRequest { scope: CheckScope::All, vault: None, site: None, server: None };
    assert!(engine.verify(&all).await.unwrap().is_good());
    for _ in 0..6 {
        house.clock.advance(100 * 3600);
        prune(&house).await;
    }
    let points = house.engine().await.points(None).await.unwrap();
    assert_eq!(points.len(), 3, "keep.last: {points:?}");
    assert!(points.iter().all(|p| p.replicas.iter().all(|r| r.state == ReplicaState::Verified)));
}

/// Points of others in a shared vault are neither taken in nor an alarm.
#[tokio::test]
async fn another_installation_in_the_same_vault_is_no_amnesia() {
    let (house, mut other) = (House::new(), House::new());
    house.run().await;
    other.vault = house.vault.clone();
    other.counter.store(1000, std::sync::atomic::Ordering::SeqCst);
    other.run().await;
    assert_eq!(house.vault.state.lock().unwrap().points.len(), 2);
    house.run().await;
    assert!(!house.recorder.0.lock().unwrap().iter().any(|event| matches!(event, Event::Warning { .. })));
    assert_eq!(house.engine().await.points(None).await.unwrap().len(), 2);
}

//! Moves: a server is stopped, captured a last time, launched elsewhere; confirmed or taken back. Whatever fails or dies, one of the two
//! servers is the one that runs, never both, and somebody is told.

use std::time::Duration;

use cloud::Cloud;
use cloud::memory::{BootScript, Fault, Rule};
use engine::{MoveEnd, MoveReport, MoveRequest, MoveStage, RunOutcome};
use model::{Kind, Role, Via};

use crate::crash::{Cut, arm, disarm, survives};
use crate::house::{HALF, House, disk, server, site};

pub fn request() -> MoveRequest {
    MoveRequest {
        server: server(),
        to: site("remote"),
        name: None,
        policy: None,
        via: Via::Auto,
        stop_limit: Duration::from_secs(60),
        force: false,
        stay_off: false,
    }
}

/// A house with a point, and a server that writes until the very end.
pub async fn lived_in() -> House {
    let house = House::new();
    assert_eq!(house.run().await.outcome(), RunOutcome::Done);
    house.write("vda", HALF, 0x31, 4096);
    house.lab.set_last_words(&server(), &disk("vdb"), HALF + 512, &[0x77; 512]).unwrap();
    house.clock.advance(3600);
    house
}

fn on(house: &House) -> (bool, bool) {
    (house.lab.is_on(&server()), house.remote.is_on(&server()))
}

async fn open_moves(house: &House) -> Vec<MoveReport> {
    house.engine().await.status().await.unwrap().moves
}

/// The new server has every byte of the old one.
fn same_bytes(house: &House) {
    for name in ["vda", "vdb"] {
        let there = house.remote.read(&server(), &disk(name), 0, 2 * HALF as usize).unwrap();
        assert!(there == house.bytes(name), "{name} differs");
    }
    assert_eq!(house.bytes("vdb")[HALF as usize + 512..][..512], [0x77; 512]);
}

async fn instances(house: &House) -> usize {
    house.remote.owned().await.unwrap().iter().filter(|resource| resource.kind == "instance").count()
}

#[tokio::test]
async fn a_move_takes_the_last_write_along_and_leaves_the_source_marked() {
    let house = lived_in().await;
    let engine = house.engine().await;
    let moved = engine.migrate(&request()).await.unwrap();
    assert_eq!((moved.record.stage, moved.source), (MoveStage::Moved, Some(cloud::Power::Off)));
    assert!(moved.record.rungs.iter().any(|rung| rung.name == "ready" && rung.passed));
    assert_eq!((on(&house), instances(&house).await), ((false, true), 1));
    same_bytes(&house);
    house.assert_clean().await;
    // asked again, it says the same; another move is refused
    assert_eq!(engine.migrate(&request()).await.unwrap().record, moved.record);
    let other = MoveRequest { stay_off: true, ..request() };
    assert_eq!(engine.migrate(&other).await.unwrap_err().kind(), Kind::Invalid);
    // no run captures the source, and status tells
    let points = engine.points(None).await.unwrap().len();
    let named = engine::RunRequest { server: Some(server()), ..house.request() };
    assert!(engine.run(&named).await.unwrap_err().to_string().contains("moved"));
    assert!(engine.run(&house.request()).await.unwrap().runs.is_empty());
    assert!(engine.plan(None).await.unwrap().servers.is_empty());
    assert_eq!(engine.points(None).await.unwrap().len(), points);
    assert_eq!(open_moves(&house).await.len(), 1);
    // confirmed: the source may go, and is still not captured as long as it is off
    let confirmed = engine.end_move(&server(), MoveEnd::Confirm).await.unwrap();
    assert_eq!(confirmed.record.stage, MoveStage::Confirmed);
    assert!(open_moves(&house).await.is_empty());
    assert!(engine.run(&house.request()).await.unwrap().runs.is_empty());
    assert_eq!(engine.end_move(&server(), MoveEnd::Destroy).await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(on(&house), (false, true));
    house.lab.power(&server(), cloud::Power::On).unwrap();
    assert_eq!(engine.run(&house.request()).await.unwrap().runs.len(), 1);
}

#[tokio::test]
async fn a_person_goes_back() {
    for end in [MoveEnd::Destroy, MoveEnd::Keep] {
        let house = lived_in().await;
        house.engine().await.migrate(&request()).await.unwrap();
        let back = house.engine().await.end_move(&server(), end).await.unwrap();
        assert_eq!((back.record.stage, back.record.problem), (MoveStage::RolledBack, None));
        assert_eq!(on(&house), (true, false));
        assert_eq!(instances(&house).await, usize::from(end == MoveEnd::Keep));
        house.assert_clean().await;
        assert_eq!(house.run().await.outcome(), RunOutcome::Done);
        if end == MoveEnd::Destroy {
            house.engine().await.migrate(&request()).await.unwrap();
            same_bytes(&house);
        }
    }
}

#[tokio::test]
async fn what_cannot_work_is_refused_before_anything_is_stopped() {
    let refused = |house: House, request: MoveRequest, why: &'static str| async move {
        let error = house.engine().await.migrate(&request).await.unwrap_err();
        assert!(error.chain().contains(why), "{}", error.chain());
        assert!(house.lab.is_on(&server()) && !house.lab.calls().contains(&"stop".to_owned()), "{why}");
        assert!(house.engine().await.moves().await.unwrap().is_empty());
    };
    let house = lived_in().await;
    house.lab.take_switch();
    refused(house, request(), "a memory site cannot switch its servers off").await;
    let house = lived_in().await;
    house.remote.add_server(server(), crate::house::machine());
    refused(house, request(), "has a server web-1 already").await;
    refused(lived_in().await, MoveRequest { to: site("lab"), ..request() }, "no policy of another site covers it")
        .await;
    refused(lived_in().await, MoveRequest { to: site("nowhere"), ..request() }, "no site nowhere").await;
    // no destination takes points: the usual run says so
    let mut house = lived_in().await;
    house.policy.replicate.truncate(2);
    house.policy.replicate.remove(0);
    house.remote.inject(Rule::always("register", Fault::FailBefore(Kind::Quota)));
    refused(house, request(), "no destination has a new point").await;
}

/// Whatever fails before the new server has come up, the old one runs again and nothing is left.
#[tokio::test]
async fn a_failure_starts_the_source_again() {
    type Failure = fn(&House);
    let cases: [(&str, Failure); 5] = [
        ("did not shut down within 60 s", |house| house.lab.set_stubborn(&server(), true).unwrap()),
        ("injected", |house| house.lab.inject(Rule::new("capture", 2, Fault::FailBefore(Kind::Permanent)))),
        ("injected", |house| house.remote.inject(Rule::new("launch", 1, Fault::FailBefore(Kind::Quota)))),
        ("injected", |house| house.remote.inject(Rule::new("launch", 1, Fault::FailAfter(Kind::Permanent)))),
        ("does not run at site remote", |house| house.remote.script_boot(&server(), BootScript::panic())),
    ];
    for (why, fail) in cases {
        let house = lived_in().await;
        fail(&house);
        let error = house.engine().await.migrate(&request()).await.unwrap_err();
        assert!(error.chain().contains(why) && error.to_string().contains("it runs again"), "{}", error.chain());
        assert_eq!((on(&house), instances(&house).await), ((true, false), 0), "{why}");
        house.lab.heal();
        house.remote.heal();
        house.lab.set_stubborn(&server(), false).unwrap();
        house.remote.script_boot(&server(), BootScript::default());
        house.engine().await.resume().await.unwrap();
        house.assert_clean().await;
        assert!(open_moves(&house).await.is_empty());
        house.engine().await.migrate(&request()).await.unwrap();
        assert_eq!(on(&house), (false, true), "{why}");
        same_bytes(&house);
    }
}

#[tokio::test]
async fn power_is_cut_only_if_asked_and_a_source_stays_off_if_asked() {
    let house = lived_in().await;
    house.lab.set_stubborn(&server(), true).unwrap();
    house.engine().await.migrate(&MoveRequest { force: true, ..request() }).await.unwrap();
    assert_eq!(on(&house), (false, true));
    let house = lived_in().await;
    house.remote.inject(Rule::new("launch", 1, Fault::FailBefore(Kind::Quota)));
    let asked = MoveRequest { stay_off: true, ..request() };
    let error = house.engine().await.migrate(&asked).await.unwrap_err();
    assert!(error.to_string().contains("stands at `launching`"), "{}", error.chain());
    assert_eq!(on(&house), (false, false));
    let told = open_moves(&house).await;
    assert!(told[0].record.stuck.is_some() && told[0].record.next_try.is_some());
    house.clock.advance(3600);
    house.engine().await.retry_due().await.unwrap();
    assert_eq!(on(&house), (false, true));
    same_bytes(&house);
}

/// A source that cannot be started yet is tried again, and told meanwhile.
#[tokio::test]
async fn a_way_back_that_is_blocked_is_tried_again() {
    let house = lived_in().await;
    house.remote.inject(Rule::new("launch", 1, Fault::FailBefore(Kind::Quota)));
    house.lab.inject(Rule::new("start", 1, Fault::FailBefore(Kind::Permanent)));
    let error = house.engine().await.migrate(&request()).await.unwrap_err();
    assert!(error.to_string().contains("stands at `rolling back`"), "{}", error.chain());
    assert_eq!(open_moves(&house).await[0].record.stage, MoveStage::RollingBack);
    house.clock.advance(60);
    assert!(house.engine().await.next_due().await.unwrap().is_some_and(|at| at <= model::Clock::now(&*house.clock)));
    house.engine().await.retry_due().await.unwrap();
    assert_eq!(on(&house), (true, false));
    // a server there that nobody knows of may be the moved one: then the source stays off
    house.remote.inject(Rule::new("launch", 1, Fault::FailBefore(Kind::Quota)));
    house.lab.inject(Rule::new("start", 1, Fault::FailBefore(Kind::Permanent)));
    house.clock.advance(60);
    house.engine().await.migrate(&request()).await.unwrap_err();
    house.remote.add_server(server(), crate::house::machine());
    let back = house.engine().await.end_move(&server(), MoveEnd::Destroy).await.unwrap_err();
    assert!(back.chain().contains("both would run"), "{}", back.chain());
    assert_eq!(on(&house), (false, true));
}

/// A launch that died may have made a server that its site does not show yet: until it must show it, the source stays off.
#[tokio::test]
async fn a_way_back_waits_for_a_server_that_is_not_seen_yet() {
    for made in [true, false] {
        let house = lived_in().await;
        house.remote.set_lag(Duration::from_secs(180));
        house.remote.inject(Rule::always("launch", if made { Fault::HangAfter } else { Fault::HangBefore }));
        let engine = house.engine().await;
        let died = tokio::time::timeout(Duration::from_secs(5), engine.migrate(&request())).await;
        assert!(died.is_err(), "{died:?}");
        drop(engine);
        house.remote.heal();
        if made {
            house.remote.inject(Rule::always("owned", Fault::Stale(1)));
        }
        for _ in 0..2 {
            let error = house.engine().await.end_move(&server(), MoveEnd::Destroy).await.unwrap_err();
            assert!(error.chain().contains("may not show it yet"), "{}", error.chain());
            assert_eq!(on(&house), (false, made), "a source was started beside its new server");
            house.clock.advance(60);
        }
        if made {
            // now it is seen, long before it must be
            house.remote.heal();
        } else {
            house.clock.advance(61);
        }
        let back = house.engine().await.end_move(&server(), MoveEnd::Destroy).await.unwrap();
        assert_eq!((back.record.stage, back.record.problem), (MoveStage::RolledBack, None));
        assert_eq!((on(&house), instances(&house).await), ((true, false), 0));
        house.assert_clean().await;
    }
}

/// A ledger that is older than the world decides nothing about either server.
#[tokio::test]
async fn a_ledger_that_was_set_back_leaves_both_servers_as_they_are() {
    let mut house = lived_in().await;
    house.blade.set(0);
    let past = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    house.past = Some(past.clone());
    house.engine().await.migrate(&request()).await.unwrap();
    house.past = None;
    let states: Vec<_> = past.lock().unwrap().drain(..).collect();
    // the newest first: what a run adds for an older one would tell that the ledger was set back
    for state in states.into_iter().rev() {
        house.ledger = std::sync::Arc::new(state);
        house.engine().await.resume().await.unwrap();
        house.engine().await.sweep().await.unwrap();
        house.engine().await.run(&house.request()).await.unwrap();
        assert_eq!((on(&house), instances(&house).await), ((false, true), 1));
        same_bytes(&house);
    }
}

/// Death at every effect of a move, and of one that fails; the next start ends it the one way or the other.
async fn deaths(prepare: fn(&House), goes: bool) -> u64 {
    let mut total = 0;
    for cut in [Cut::Ledger, Cut::LabBefore, Cut::LabAfter, Cut::RemoteBefore, Cut::RemoteAfter] {
        for n in 1.. {
            let house = lived_in().await;
            prepare(&house);
            let calls = |house: &House| (house.lab.calls().len() + house.remote.calls().len()) as u64;
            let before = calls(&house);
            arm(&house, cut, n);
            let done = survives(async { house.engine().await.migrate(&request()).await.is_ok() }).await;
            disarm(&house);
            let context = format!("{cut:?} {n}");
            assert_ne!(on(&house), (true, true), "{context}: both run");
            if done && n > calls(&house) - before {
                assert!(n > 20, "{context} was never hit");
                break;
            }
            total += u64::from(!done);
            // whoever is killed has told it before the source is off
            if !house.lab.is_on(&server()) && !done {
                assert_eq!(open_moves(&house).await.len(), 1, "{context}: off, and nobody is told");
            }
            settled(&house, goes, &context).await;
        }
    }
    total
}

async fn settled(house: &House, goes: bool, context: &str) {
    let engine = house.engine().await;
    engine.resume().await.unwrap();
    let swept = engine.sweep().await.unwrap();
    assert!(swept.problems.is_empty() && swept.in_use.is_empty(), "{context}: {swept:?}");
    let moves = engine.moves().await.unwrap();
    assert!(moves.len() <= 1, "{context}");
    let stage = moves.first().map_or(MoveStage::RolledBack, |moved| moved.record.stage);
    match stage {
        MoveStage::Moved if goes => {
            assert_eq!(on(house), (false, true), "{context}");
            same_bytes(house);
            assert_eq!(instances(house).await, 1, "{context}");
        }
        MoveStage::RolledBack => {
            assert_eq!((on(house), instances(house).await), ((true, false), 0), "{context}");
            assert!(!goes || moves.is_empty(), "{context}");
        }
        other => panic!("{context}: {other:?}"),
    }
    let restored = |resource: &cloud::Resource| {
        resource.kind == "image" && resource.tags.get("replicate:step").is_some_and(|step| step.starts_with("restore"))
    };
    let left = house.remote.owned().await.unwrap().into_iter().filter(restored).count();
    assert_eq!(left, usize::from(stage == MoveStage::Moved), "{context}: images of restores");
    assert!(house.remote.owned().await.unwrap().iter().all(|resource| resource.role == Role::Replica), "{context}");
    house.assert_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_move_survives_death_at_every_effect() {
    println!("{} deaths of a move, all survived", deaths(|_| {}, true).await);
}

/// A launch that is refused each time; nothing of a launched server is taken back after a death.
#[tokio::test(start_paused = true)]
async fn a_move_that_fails_survives_death_too() {
    let prepare = |house: &House| house.remote.set_capacity(1);
    println!("{} deaths of a move that goes back, all survived", deaths(prepare, false).await);
}

#[tokio::test(start_paused = true)]
async fn a_way_back_survives_death_too() {
    for cut in [Cut::Ledger, Cut::LabBefore, Cut::LabAfter, Cut::RemoteBefore, Cut::RemoteAfter] {
        for n in 1.. {
            let house = lived_in().await;
            house.engine().await.migrate(&request()).await.unwrap();
            arm(&house, cut, n);
            let engine = house.engine().await;
            let done = survives(async { engine.end_move(&server(), MoveEnd::Destroy).await.unwrap() }).await;
            disarm(&house);
            assert_ne!(on(&house), (true, true), "{cut:?} {n}");
            if done {
                assert!(n > 1);
                break;
            }
            // the decision is in the ledger, or it has to be given again
            let engine = house.engine().await;
            engine.resume().await.unwrap();
            if engine.moves().await.unwrap()[0].record.stage == MoveStage::Moved {
                engine.end_move(&server(), MoveEnd::Destroy).await.unwrap();
            }
            settled(&house, false, &format!("{cut:?} {n}")).await;
        }
    }
}

//! Death at every effect: before and after each ledger commit, each call of a provider, each change of a vault. Whatever is cut off, the
//! next process finishes it: nothing lost, nothing twice, nothing left over, nobody frozen.
//!
//! A call that is hit never returns; time is virtual, so a timeout tells at once that everything hangs, and dropping the engine is the
//! crash.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cloud::Target;
use cloud::memory::{Fault, Rule};
use engine::{Choice, RestoreRequest, RestoreTo, RunOutcome};
use model::PointId;

use crate::house::{HALF, House, disk, server, site};

/// Who is hit.
#[derive(Debug, Clone, Copy)]
pub enum Cut {
    Ledger,
    LabBefore,
    LabAfter,
    RemoteBefore,
    RemoteAfter,
    ZoneBefore,
    ZoneAfter,
}

const CUTS: [Cut; 5] = [Cut::Ledger, Cut::LabBefore, Cut::LabAfter, Cut::RemoteBefore, Cut::RemoteAfter];

pub fn arm(house: &House, cut: Cut, n: u64) {
    match cut {
        Cut::Ledger => house.blade.set(n),
        Cut::LabBefore => house.lab.inject(Rule::new("*", n, Fault::HangBefore)),
        Cut::LabAfter => house.lab.inject(Rule::new("*", n, Fault::HangAfter)),
        Cut::RemoteBefore => house.remote.inject(Rule::new("*", n, Fault::HangBefore)),
        Cut::RemoteAfter => house.remote.inject(Rule::new("*", n, Fault::HangAfter)),
        Cut::ZoneBefore => house.zone().inject(Rule::new("*", n, Fault::HangBefore)),
        Cut::ZoneAfter => house.zone().inject(Rule::new("*", n, Fault::HangAfter)),
    }
}

pub fn disarm(house: &House) {
    house.blade.set(0);
    house.lab.heal();
    house.remote.heal();
    if let Some(zone) = &house.zone {
        zone.heal();
    }
}

/// Runs until done or dead. `false`: it died.
pub async fn survives<T>(work: impl Future<Output = T>) -> bool {
    tokio::time::timeout(Duration::from_secs(3600), work).await.is_ok()
}

/// A house with one point everywhere, and changes since.
async fn lived_in() -> House {
    let house = House::new();
    assert_eq!(house.run().await.outcome(), RunOutcome::Done);
    house.write("vda", HALF, 0x31, 4096);
    house.write("vdb", 0, 0x32, 512);
    house.clock.advance(3600);
    house
}

/// What a restart does: go on with what is open, sweep.
pub async fn restart(house: &House) {
    let engine = house.engine().await;
    let resumed = engine.resume().await.unwrap();
    for run in &resumed.runs {
        assert_eq!(run.outcome, RunOutcome::Done, "{run:?}");
    }
    let swept = engine.sweep().await.unwrap();
    assert!(swept.problems.is_empty() && swept.in_use.is_empty(), "{swept:?}");
}

async fn whole(house: &House, context: &str) {
    let report = house.engine().await.run(&house.request()).await.unwrap();
    assert_eq!(report.outcome(), RunOutcome::Done, "{context}: {report:?}");
    let point = report.runs[0].point.clone().unwrap();
    let archived: BTreeSet<PointId>;
    {
        let state = house.vault.state.lock().unwrap();
        for name in ["vda", "vdb"] {
            assert_eq!(*state.points[&point].1[&disk(name)], house.bytes(name), "{context}: {name}");
        }
        archived = state.points.keys().cloned().collect();
    }
    let images = house.remote.images().await.unwrap();
    let imaged: BTreeSet<PointId> = images.iter().map(|(_, point)| point.id.clone()).collect();
    assert_eq!(imaged.len(), images.len(), "{context}: an image twice");
    assert_eq!(archived, imaged, "{context}: the places differ");
    assert!((2..=3).contains(&archived.len()), "{context}: {archived:?}");
    house.assert_clean().await;
    let status = house.engine().await.status().await.unwrap();
    assert!(status.servers[0].open_run.is_none(), "{context}");
    // the catalogue says what is there, and that it was checked
    let points = house.engine().await.points(None).await.unwrap();
    assert_eq!(points.len(), archived.len(), "{context}");
    assert!(points.iter().all(|p| p.replicas.len() == 2 && p.replicas.iter().all(|r| r.state.is_good())), "{context}");
}

#[tokio::test(start_paused = true)]
async fn a_run_survives_death_at_every_effect() {
    let mut total: u64 = 0;
    for cut in CUTS {
        for n in 1.. {
            let house = lived_in().await;
            let calls = |house: &House| (house.lab.calls().len() + house.remote.calls().len()) as u64;
            let before = calls(&house);
            arm(&house, cut, n);
            let request = house.request();
            let done = survives(async { house.engine().await.run(&request).await }).await;
            disarm(&house);
            // reads have no effect to hang behind: such a number is passed by
            if done && n > calls(&house) - before {
                assert!(n > 8, "{cut:?} was never hit: {n}");
                break;
            }
            total += u64::from(!done);
            restart(&house).await;
            whole(&house, &format!("{cut:?} {n}")).await;
        }
    }
    println!("{total} deaths of a run, all survived");
}

#[tokio::test(start_paused = true)]
async fn a_recovery_survives_death_too() {
    let mut total = 0;
    for n in (3..40).step_by(6) {
        for (cut, step) in [(Cut::Ledger, 3), (Cut::LabAfter, 2), (Cut::RemoteAfter, 2)] {
            for m in (1..).step_by(step) {
                let house = lived_in().await;
                house.blade.set(n);
                let request = house.request();
                survives(async { house.engine().await.run(&request).await }).await;
                disarm(&house);
                arm(&house, cut, m);
                let done = survives(async {
                    let engine = house.engine().await;
                    engine.resume().await.unwrap();
                    engine.sweep().await.unwrap()
                })
                .await;
                disarm(&house);
                if done {
                    break;
                }
                total += 1;
                restart(&house).await;
                whole(&house, &format!("{n}, then {cut:?} {m}")).await;
            }
        }
    }
    assert!(total > 40, "only {total} pairs");
    println!("{total} pairs of deaths, all survived");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_lost_makes_nothing_twice() {
    for n in 1.. {
        let house = lived_in().await;
        house.remote.inject(Rule::new("*", n, Fault::FailAfter(model::Kind::Transient)));
        let report = house.engine().await.run(&house.request()).await.unwrap();
        let hit = !house.remote.hits().is_empty();
        house.remote.heal();
        if !hit {
            assert!(n > 8);
            break;
        }
        if report.outcome() != RunOutcome::Done {
            restart(&house).await;
        }
        whole(&house, &format!("lost answer {n}")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_restore_that_dies_leaves_nothing_and_can_be_repeated() {
    let request = RestoreRequest {
        choice: Choice { server: server(), at: None, point: None, from: None, via: model::Via::Auto },
        to: RestoreTo::Site { site: site("lab"), name: Some(model::ServerName::new("web-new").unwrap()), launch: true },
    };
    let mut total = 0;
    for cut in [Cut::Ledger, Cut::LabBefore, Cut::LabAfter] {
        for n in 1.. {
            let house = lived_in().await;
            arm(&house, cut, n);
            let done = survives(async { house.engine().await.restore(&request).await.unwrap() }).await;
            disarm(&house);
            if done {
                assert!(n > 4);
                break;
            }
            total += 1;
            let before = house.lab.images().await.unwrap().len();
            restart(&house).await;
            house.assert_clean().await;
            let engine = house.engine().await;
            let repeated = engine.restore(&request).await;
            // a server whose launch had begun may run already: then its name is taken, and that is told
            match repeated {
                Ok(report) => assert_eq!(report.disks.len(), 2),
                Err(error) => {
                    assert!(before == 1 && error.kind() == model::Kind::Exists, "{cut:?} {n}: {}", error.chain())
                }
            }
            house.assert_clean().await;
        }
    }
    println!("{total} deaths of a restore, all survived");
}

#[tokio::test(start_paused = true)]
async fn a_drill_that_dies_is_destroyed() {
    let request = engine::DrillRequest {
        choice: Choice { server: server(), at: None, point: None, from: None, via: model::Via::Auto },
        site: Some(site("lab")),
    };
    for cut in [Cut::Ledger, Cut::LabBefore, Cut::LabAfter] {
        for n in 1.. {
            let house = lived_in().await;
            arm(&house, cut, n);
            let done = survives(async { house.engine().await.drill(&request).await.unwrap() }).await;
            disarm(&house);
            if done {
                assert!(n > 4);
                break;
            }
            restart(&house).await;
            house.assert_clean().await;
            assert!(house.lab.images().await.unwrap().is_empty(), "{cut:?} {n}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_prune_that_dies_is_finished_by_the_next() {
    for n in 1.. {
        let mut house = House::new();
        house.policy.keep.last = 1;
        for _ in 0..3 {
            house.run().await;
        }
        let prune = engine::PruneRequest::default();
        house.engine().await.prune(&prune).await.unwrap();
        house.clock.advance(80 * 3600);
        house.blade.set(n);
        let done = survives(async { house.engine().await.prune(&prune).await.unwrap() }).await;
        let passed = house.blade.passed.load(Ordering::SeqCst);
        disarm(&house);
        house.clock.advance(1);
        for _ in 0..2 {
            house.engine().await.prune(&prune).await.unwrap();
        }
        let points = house.engine().await.points(None).await.unwrap();
        assert_eq!(points.len(), 1, "{n}: {points:?}");
        assert_eq!(points[0].replicas.len(), 2);
        assert_eq!(house.vault.state.lock().unwrap().points.len(), 1);
        assert_eq!(house.remote.images().await.unwrap().len(), 1);
        if done {
            assert!(passed > 4 && n > 4);
            break;
        }
    }
}

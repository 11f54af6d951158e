//! Death at every effect of a run, a fallback and a restore whose bytes the provider copies: nothing lost, nothing twice, no copy left over.

use std::collections::BTreeSet;

use cloud::Target;
use cloud::memory::{Fault, Rule};
use engine::{Choice, RestoreRequest, RestoreTo, RunOutcome};
use model::{Kind, PointId, Via};

use crate::crash::{Cut, arm, disarm, restart, survives};
use crate::house::{HALF, House, disk, server, site};

/// A house with one point everywhere, and changes since that the policy wants copied.
async fn lived_in() -> House {
    let mut house = House::with_zone();
    house.policy.replicate[2].via = Via::Relay;
    house.policy.replicate[2].image.hide_older = true;
    assert_eq!(house.run().await.outcome(), RunOutcome::Done);
    house.write("vda", HALF, 0x31, 4096);
    house.write("vdb", 0, 0x32, 512);
    house.clock.advance(3600);
    house
}

async fn whole(house: &House, context: &str) {
    let report = house.engine().await.run(&house.request()).await.unwrap();
    assert_eq!(report.outcome(), RunOutcome::Done, "{context}: {report:?}");
    let mut places: Vec<BTreeSet<PointId>> = vec![house.vault.state.lock().unwrap().points.keys().cloned().collect()];
    for cloud in [&house.remote, house.zone()] {
        let images = cloud.images().await.unwrap();
        let points: BTreeSet<PointId> = images.iter().map(|(_, point)| point.id.clone()).collect();
        assert_eq!(points.len(), images.len(), "{context}: an image twice at {cloud:?}");
        places.push(points);
        let (image, _) = images.iter().max_by_key(|(_, point)| point.taken_at).unwrap();
        for name in ["vda", "vdb"] {
            let reader = cloud.open_image(image, &disk(name)).await.unwrap();
            let bytes = reader.read_at(0, 2 * HALF as usize).await.unwrap();
            assert!(bytes == house.bytes(name), "{context}: {name} at {cloud:?}");
        }
    }
    assert!(places.windows(2).all(|pair| pair[0] == pair[1]), "{context}: the places differ: {places:?}");
    house.assert_clean().await;
    let points = house.engine().await.points(None).await.unwrap();
    assert_eq!(points.len(), places[0].len(), "{context}");
    assert!(points.iter().all(|p| p.replicas.len() == 3 && p.replicas.iter().all(|r| r.state.is_good())), "{context}");
}

async fn sweep(cuts: &[Cut], prepare: impl Fn(&House)) -> u64 {
    let mut total = 0;
    for cut in cuts {
        for n in 1.. {
            let house = lived_in().await;
            prepare(&house);
            arm(&house, *cut, n);
            let request = house.request();
            let done = survives(async { house.engine().await.run(&request).await }).await;
            // a site that does not answer when the ledger is compared with the world stops nothing
            let hit = !done || !house.zone().hits().is_empty();
            disarm(&house);
            if !hit {
                assert!(n > 4, "{cut:?} was never hit: {n}");
                break;
            }
            total += u64::from(!done);
            restart(&house).await;
            whole(&house, &format!("{cut:?} {n}")).await;
        }
    }
    total
}

#[tokio::test(start_paused = true)]
async fn a_run_that_copies_survives_death_at_every_effect() {
    let total = sweep(&[Cut::Ledger, Cut::ZoneBefore, Cut::ZoneAfter], |_| {}).await;
    assert!(total > 60, "only {total} deaths");
    println!("{total} deaths of a run that copies, all survived");
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_makes_no_copy_twice() {
    for n in 1.. {
        let house = lived_in().await;
        house.zone().inject(Rule::new("*", n, Fault::FailAfter(Kind::Transient)));
        let report = house.engine().await.run(&house.request()).await.unwrap();
        let hit = !house.zone().hits().is_empty();
        house.zone().heal();
        if !hit {
            assert!(n > 8, "{n}");
            break;
        }
        if report.outcome() != RunOutcome::Done {
            restart(&house).await;
        }
        whole(&house, &format!("lost answer {n}")).await;
    }
}

/// The copy fails for good, so that blocks follow: a death anywhere on that way makes neither two images nor a leftover.
#[tokio::test(start_paused = true)]
async fn the_way_back_to_blocks_survives_death_too() {
    let mut total = 0;
    for n in 1.. {
        let mut house = lived_in().await;
        house.policy.replicate[2].via = Via::Auto;
        // the bytes that changed are more than the whole of what lies at the source, so that a copy is chosen
        house.write("vda", 0, 0x51, HALF as usize);
        house.lab.lose_change_maps(&server()).unwrap();
        house.zone().inject(Rule::always("state", Fault::FailBefore(Kind::Permanent)));
        house.blade.set(n);
        let request = house.request();
        let engine = house.engine().await;
        let done = survives(async {
            engine.run(&request).await.unwrap();
            engine.resume().await.unwrap()
        })
        .await;
        house.blade.set(0);
        drop(engine);
        assert!(house.zone().calls().iter().any(|call| call == "copy") || !done, "no copy was tried");
        // whoever comes next keeps to what was decided, or falls back by itself
        for _ in 0..2 {
            house.engine().await.resume().await.unwrap();
        }
        house.zone().heal();
        restart(&house).await;
        whole(&house, &format!("fallback {n}")).await;
        if done {
            assert!(n > 20);
            break;
        }
        total += 1;
    }
    println!("{total} deaths on the way back to blocks, all survived");
}

#[tokio::test(start_paused = true)]
async fn a_restore_that_copies_and_dies_leaves_nothing() {
    let request = RestoreRequest {
        choice: Choice { server: server(), at: None, point: None, from: None, via: Via::Relay },
        to: RestoreTo::Site { site: site("remote"), name: None, launch: false },
    };
    for cut in [Cut::Ledger, Cut::RemoteBefore, Cut::RemoteAfter] {
        let mut ended = false;
        for n in 1.. {
            let house = lived_in().await;
            let before = house.remote.images().await.unwrap().len();
            arm(&house, cut, n);
            let done = survives(async { house.engine().await.restore(&request).await.unwrap() }).await;
            disarm(&house);
            if done {
                assert!(n > 4);
                break;
            }
            restart(&house).await;
            house.assert_clean().await;
            // what is left belongs to a restore that was over and noted as such; only its answer got lost
            let left = house.remote.images().await.unwrap().len() - before;
            assert!(left <= 1 && !ended, "{cut:?} {n}: {left} images are left");
            ended = left == 1;
            house.engine().await.restore(&request).await.unwrap();
        }
    }
}

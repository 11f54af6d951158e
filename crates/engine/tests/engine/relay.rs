//! Destinations that the provider copies to: chosen when that is cheaper, equal, never half, and back to blocks when a copy fails.

use cloud::memory::{Fault, Promise, Rule};
use cloud::{Cloud, Target};
use engine::{Choice, DestinationState, RestoreRequest, RestoreTo, RunOutcome, RunsReport};
use model::{Kind, Place, Prices, Role, Via};

use crate::house::{HALF, House, disk, server, site, site_place, vault_place, zone_place};

fn at<'a>(report: &'a RunsReport, place: &Place) -> &'a engine::DestinationReport {
    report.runs[0].destinations.iter().find(|d| d.place == *place).unwrap()
}

fn calls(house: &House, name: &str) -> usize {
    house.zone().calls().iter().filter(|call| *call == name).count()
}

/// The bytes of the newest image of the zone.
async fn newest(house: &House, name: &str) -> Vec<u8> {
    let images = house.zone().images().await.unwrap();
    let (image, _) = images.last().unwrap();
    let reader = house.zone().open_image(image, &disk(name)).await.unwrap();
    reader.read_at(0, 2 * HALF as usize).await.unwrap().to_vec()
}

fn said(house: &House, what: &str) -> bool {
    let events = house.recorder.0.lock().unwrap();
    events.iter().any(|event| serde_json::to_string(event).unwrap().contains(what))
}

#[tokio::test]
async fn the_second_site_is_copied_to_by_the_provider_once_the_first_is_verified() {
    let house = House::with_zone();
    let report = house.run().await;
    assert_eq!(report.outcome(), RunOutcome::Done, "{report:?}");
    assert_eq!((at(&report, &site_place()).via, at(&report, &zone_place()).via), (Via::Blocks, Via::Relay));
    assert_eq!(at(&report, &zone_place()).from, Some(site("remote")));
    assert!(at(&report, &zone_place()).relayed_bytes > 0 && at(&report, &zone_place()).received_bytes == 0);
    assert_eq!((calls(&house, "create_disk"), calls(&house, "copy"), calls(&house, "commit")), (0, 1, 1));
    for name in ["vda", "vdb"] {
        assert_eq!(newest(&house, name).await, house.bytes(name));
    }
    assert_eq!(house.zone().images().await.unwrap()[0].1, house.remote.images().await.unwrap()[0].1);
    let points = house.engine().await.points(None).await.unwrap();
    assert!(points[0].replicas.len() == 3 && points[0].replicas.iter().all(|r| r.state.is_good()), "{points:?}");
    house.assert_clean().await;
}

#[tokio::test]
async fn an_increment_goes_as_blocks_where_that_is_less_than_a_whole_image() {
    let house = House::with_zone();
    house.run().await;
    house.write("vda", HALF, 0x33, 512);
    let plan = house.engine().await.plan(None).await.unwrap();
    let zone = plan.servers[0].destinations.iter().find(|d| d.place == zone_place()).unwrap();
    let choice = zone.choice.as_deref().unwrap();
    assert!(zone.via == Via::Blocks && choice.contains("whole image"), "{choice}");
    let report = house.run().await;
    assert_eq!(at(&report, &zone_place()).via, Via::Blocks);
    assert_eq!(at(&report, &zone_place()).received_bytes, 65_536);
    assert_eq!(newest(&house, "vda").await, house.bytes("vda"));
}

#[tokio::test]
async fn prices_decide_where_both_ways_have_one() {
    let mut house = House::with_zone();
    let price = |inbound, relay| Prices { currency: "EUR".to_owned(), inbound, relay };
    house.settings.prices.insert(site("remote"), price(Some(0.0), Some(0.02)));
    house.settings.prices.insert(site("zone"), price(Some(0.0), None));
    async fn plan(house: &House) -> engine::DestinationPlan {
        house.engine().await.plan(None).await.unwrap().servers[0].destinations[2].clone()
    }
    let dear = plan(&house).await;
    assert_eq!(dear.via, Via::Blocks, "{dear:?}");
    house.settings.prices.insert(site("zone"), price(Some(0.09), None));
    let cheap = plan(&house).await;
    assert_eq!((cheap.via, cheap.from.clone()), (Via::Relay, Some(site("remote"))), "{cheap:?}");
    assert_eq!(cheap.estimated_cost.as_ref().unwrap().currency, "EUR");
    assert_eq!(cheap.steps, ["relay-zone", "commit-zone"]);
    assert!(cheap.estimated_seconds.is_none(), "nothing ran yet, so no pace is known");
    house.run().await;
    assert!(plan(&house).await.estimated_seconds.is_some());
}

#[tokio::test]
async fn a_policy_may_insist_on_either_way() {
    let mut house = House::with_zone();
    house.policy.replicate[2].via = Via::Blocks;
    let report = house.run().await;
    assert_eq!((at(&report, &zone_place()).via, calls(&house, "copy")), (Via::Blocks, 0));
    house.policy.replicate[2].via = Via::Relay;
    house.write("vda", 0, 0x77, 512);
    let report = house.run().await;
    assert_eq!((at(&report, &zone_place()).via, calls(&house, "copy")), (Via::Relay, 1), "{report:?}");
    // nothing to copy from: refused, and no blocks are sent instead
    house.policy.replicate.remove(1);
    house.write("vda", 0, 0x78, 512);
    let report = house.run().await;
    let problem = at(&report, &zone_place()).problem.clone().unwrap();
    assert!(problem.kind == Kind::Invalid && problem.hint.is_some(), "{problem:?}");
    assert_eq!((report.outcome(), calls(&house, "create_disk")), (RunOutcome::PartlyDone, 2));
}

#[tokio::test]
async fn a_copy_that_fails_is_told_leaves_nothing_and_is_replaced_by_blocks() {
    for (operation, fault) in [
        ("copy", Fault::FailBefore(Kind::Permanent)),
        ("copy", Fault::FailAfter(Kind::Permanent)),
        ("state", Fault::FailBefore(Kind::Permanent)),
        ("copy", Fault::Break(Promise::Bytes)),
    ] {
        let house = House::with_zone();
        house.zone().inject(Rule::new(operation, 1, fault.clone()));
        let report = house.run().await;
        assert_eq!(report.outcome(), RunOutcome::PartlyDone, "{operation} {fault:?}");
        let problem = at(&report, &zone_place()).problem.clone().unwrap();
        assert!(problem.hint.unwrap().contains("blocks are sent instead"), "{operation} {fault:?}");
        assert!(house.zone().owned().await.unwrap().is_empty(), "{operation} {fault:?}: the copy is left");
        assert_eq!(house.zone().hits().len(), 1);
        let report = house.run().await;
        assert_eq!(report.outcome(), RunOutcome::Done, "{report:?}");
        assert_eq!((at(&report, &zone_place()).via, calls(&house, "copy")), (Via::Blocks, 1));
        assert_eq!(newest(&house, "vda").await, house.bytes("vda"));
        assert_eq!(house.zone().images().await.unwrap().len(), 1);
        house.assert_clean().await;
    }
}

#[tokio::test]
async fn a_source_that_fails_makes_the_copy_blocks() {
    let house = House::with_zone();
    house.remote.inject(Rule::new("register", 1, Fault::FailBefore(Kind::Permanent)));
    let report = house.run().await;
    assert_eq!(at(&report, &zone_place()).state, DestinationState::Failed);
    assert_eq!(calls(&house, "copy"), 0, "there was nothing to copy from");
    let report = house.run().await;
    assert_eq!(report.outcome(), RunOutcome::Done, "{report:?}");
    assert_eq!(newest(&house, "vdb").await, house.bytes("vdb"));
}

#[tokio::test]
async fn the_providers_own_proof_spares_reading_the_copy_back() {
    let house = House::with_zone();
    house.zone().set_copies(0, None, true);
    assert_eq!(house.run().await.outcome(), RunOutcome::Done);
    assert_eq!(calls(&house, "read"), 0);
    let house = House::with_zone();
    assert_eq!(house.run().await.outcome(), RunOutcome::Done);
    assert!(calls(&house, "read") > 0);
}

#[tokio::test(start_paused = true)]
async fn a_copy_waits_for_a_slot_and_not_for_ever() {
    let mut house = House::with_zone();
    house.zone().set_copies(1, Some(0), false);
    house.settings.relay_limit = std::time::Duration::from_secs(60);
    let waited = house.run().await;
    assert_eq!(at(&waited, &zone_place()).problem.as_ref().unwrap().kind, Kind::Quota);
    assert!(calls(&house, "copy") > 100);
    let house = House::with_zone();
    house.zone().inject(Rule { times: 5, ..Rule::new("copy", 1, Fault::FailBefore(Kind::Quota)) });
    assert_eq!(house.run().await.outcome(), RunOutcome::Done);
    assert_eq!(calls(&house, "copy"), 6);
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_never_ends_is_given_up() {
    let mut house = House::with_zone();
    house.zone().set_copies(u32::MAX, None, false);
    house.settings.relay_limit = std::time::Duration::from_secs(60);
    let report = house.run().await;
    assert_eq!(report.outcome(), RunOutcome::PartlyDone);
    assert!(house.zone().owned().await.unwrap().is_empty());
    assert_eq!(house.run().await.outcome(), RunOutcome::Done, "by blocks");
}

fn restore(via: Via, name: &str) -> RestoreRequest {
    RestoreRequest {
        choice: Choice { server: server(), at: None, point: None, from: None, via },
        to: RestoreTo::Site { site: site(name), name: Some(model::ServerName::new("web-new").unwrap()), launch: false },
    }
}

#[tokio::test]
async fn a_restore_takes_the_nearest_replica_and_lets_the_provider_copy() {
    let mut house = House::with_zone();
    house.policy.replicate.pop();
    house.run().await;
    let engine = house.engine().await;
    let report = engine.restore(&restore(Via::Auto, "zone")).await.unwrap();
    assert_eq!((report.via, report.from.clone()), (Via::Relay, site_place()), "{report:?}");
    assert_eq!((calls(&house, "create_disk"), calls(&house, "copy")), (0, 1));
    let reader = house.zone().open_image(report.image.as_ref().unwrap(), &disk("vda")).await.unwrap();
    assert_eq!(reader.read_at(0, 2 * HALF as usize).await.unwrap().to_vec(), house.bytes("vda"));
    // no replica of a policy, and no scratch: it belongs to whoever restored it
    assert!(house.zone().owned().await.unwrap().iter().all(|resource| resource.role == Role::Replica));
    engine.adopt().await.unwrap();
    assert!(engine.points(None).await.unwrap()[0].replicas.iter().all(|r| r.place != zone_place()));
    let report = engine.restore(&restore(Via::Blocks, "zone")).await.unwrap();
    assert_eq!((report.via, report.from), (Via::Blocks, vault_place()));
    let refused = engine.restore(&restore(Via::Relay, "lab")).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Invalid);
}

#[tokio::test]
async fn a_restore_whose_copy_fails_is_done_by_blocks() {
    let mut house = House::with_zone();
    house.policy.replicate.pop();
    house.run().await;
    house.zone().inject(Rule::new("state", 1, Fault::FailBefore(Kind::Permanent)));
    let report = house.engine().await.restore(&restore(Via::Auto, "zone")).await.unwrap();
    assert_eq!(report.via, Via::Blocks);
    assert!(said(&house, "blocks are sent"));
    assert_eq!(house.zone().owned().await.unwrap().len(), 1);
    house.assert_clean().await;
}

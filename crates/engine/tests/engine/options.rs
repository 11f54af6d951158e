//! What a policy asks of images: it reaches them by either way, and retention deals with what protects them.

use std::time::Duration;

use cloud::Target;
use engine::{PruneReport, PruneRequest, RunOutcome};
use model::{ImageOptions, Kind, ReplicaState};

use crate::house::{House, site_place, zone_place};

fn options() -> ImageOptions {
    ImageOptions {
        name: Some("{server} as of {point}".to_owned()),
        tags: [("team".to_owned(), "recovery".to_owned())].into(),
        protected: true,
        ..ImageOptions::default()
    }
}

async fn prune(house: &House) -> PruneReport {
    house.engine().await.prune(&PruneRequest::default()).await.unwrap()
}

#[tokio::test]
async fn images_look_as_the_policy_says_whether_written_or_copied() {
    let mut house = House::with_zone();
    house.policy.replicate[1].image = options();
    house.policy.replicate[2].image = options();
    let report = house.run().await;
    assert_eq!(report.outcome(), RunOutcome::Done, "{report:?}");
    for cloud in [&house.remote, house.zone()] {
        let (image, point) = cloud.images().await.unwrap().remove(0);
        let (looks, protected, hidden) = cloud.dress(&image).unwrap();
        assert_eq!(looks.name, Some(format!("web-1 as of {}", point.id)));
        assert_eq!((protected, hidden, looks.tags["team"].as_str()), (true, false, "recovery"));
    }
}

#[tokio::test]
async fn what_a_site_does_not_have_ends_only_its_own_destination() {
    let mut house = House::with_zone();
    house.policy.replicate[1].image.encryption = Some("key".to_owned());
    let report = house.run().await;
    let remote = report.runs[0].destinations.iter().find(|d| d.place == site_place()).unwrap();
    assert_eq!(remote.problem.as_ref().unwrap().kind, Kind::Invalid);
    assert_eq!(report.outcome(), RunOutcome::PartlyDone);
    assert!(house.remote.images().await.unwrap().is_empty());
}

async fn three_protected_points() -> House {
    let mut house = House::new();
    house.policy.keep.last = 1;
    house.policy.replicate[1].image = options();
    for byte in 1..=3 {
        house.write("vda", 0, byte, 512);
        assert_eq!(house.run().await.outcome(), RunOutcome::Done);
    }
    house
}

#[tokio::test]
async fn retention_takes_the_protection_off_before_it_deletes() {
    let house = three_protected_points().await;
    prune(&house).await;
    house.clock.advance(80 * 3600);
    for _ in 0..2 {
        prune(&house).await;
    }
    let images = house.remote.images().await.unwrap();
    assert_eq!(images.len(), 1);
    assert!(house.remote.dress(&images[0].0).unwrap().1, "the one that is kept stays protected");
}

#[tokio::test]
async fn a_reprieved_image_gets_its_protection_back() {
    let house = three_protected_points().await;
    let doomed = prune(&house).await.doomed;
    house.clock.advance(80 * 3600);
    // the protection goes, and then the deletion fails
    house.remote.inject(cloud::memory::Rule::always("delete", cloud::memory::Fault::FailBefore(Kind::Transient)));
    let report = prune(&house).await;
    assert!(!report.problems.is_empty(), "{report:?}");
    let unprotected = || async {
        let images = house.remote.images().await.unwrap();
        images.iter().filter(|(image, _)| !house.remote.dress(image).unwrap().1).count()
    };
    assert!(unprotected().await > 0);
    for doomed in doomed.iter().filter(|doomed| doomed.place == site_place()) {
        let keep = PruneRequest { keep: Some(doomed.point.clone()), ..PruneRequest::default() };
        house.engine().await.prune(&keep).await.unwrap();
    }
    house.remote.heal();
    assert_eq!((unprotected().await, house.remote.images().await.unwrap().len()), (0, 3));
    let points = house.engine().await.points(None).await.unwrap();
    let here = points.iter().flat_map(|p| &p.replicas).filter(|r| r.place == site_place());
    assert!(here.clone().all(|r| r.unprotected_at.is_none() && r.state == ReplicaState::Verified), "{points:?}");
}

#[tokio::test]
async fn an_immutable_image_outlives_its_time_in_retention() {
    let mut house = House::new();
    house.policy.keep.last = 1;
    house.policy.replicate[1].image.immutability = Some(Duration::from_secs(200 * 3600));
    for byte in 1..=2 {
        house.write("vda", 0, byte, 512);
        house.run().await;
    }
    prune(&house).await;
    house.clock.advance(80 * 3600);
    let report = prune(&house).await;
    assert!(report.problems.iter().any(|p| p.message.contains("immutable until")), "{report:?}");
    assert_eq!(house.remote.images().await.unwrap().len(), 2);
    house.clock.advance(200 * 3600);
    assert!(prune(&house).await.problems.is_empty());
    assert_eq!(house.remote.images().await.unwrap().len(), 1);
}

#[tokio::test]
async fn only_the_newest_image_stays_on_the_lists_and_the_older_ones_are_still_replicas() {
    let mut house = House::with_zone();
    for place in [1, 2] {
        house.policy.replicate[place].image.hide_older = true;
    }
    for byte in 1..=3 {
        house.write("vda", 0, byte, 512);
        assert_eq!(house.run().await.outcome(), RunOutcome::Done);
    }
    for cloud in [&house.remote, house.zone()] {
        let images = cloud.images().await.unwrap();
        let hidden: Vec<bool> = images.iter().map(|(image, _)| cloud.dress(image).unwrap().2).collect();
        assert_eq!(hidden, [true, true, false]);
    }
    let hides = house.remote.calls().iter().filter(|call| *call == "hide").count();
    assert_eq!(hides, 2, "what is hidden is not hidden again");
    // a point whose newer sibling cannot hide it is no worse for it, and the next run makes up for it
    house.zone().inject(cloud::memory::Rule::new("hide", 1, cloud::memory::Fault::FailBefore(Kind::Transient)));
    house.write("vda", 0, 9, 512);
    let report = house.run().await;
    assert_eq!(report.outcome(), RunOutcome::Done);
    assert!(report.runs[0].warnings.iter().any(|warning| warning.contains("still listed")), "{report:?}");
    house.run().await;
    let zone = house.zone().images().await.unwrap();
    assert_eq!(zone.iter().filter(|(image, _)| !house.zone().dress(image).unwrap().2).count(), 1);
    assert!(
        house
            .engine()
            .await
            .points(None)
            .await
            .unwrap()
            .iter()
            .all(|p| { p.replicas.iter().any(|r| r.place == zone_place() && r.state.is_good()) })
    );
}

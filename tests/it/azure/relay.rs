//! Copies between two regions by Azure itself.

use cloud::{Cloud, CopyRequest, CopyState, conformance};
use disk::{LEAF, Silent};
use model::{DiskName, ImageId, ImageOptions, Kind, Role};
use serde_json::json;

use super::lab::{Conforms, Lab, all_passed, forged, lab, token};
use super::suites::{nothing_left, point};

const SIZE: u64 = 32 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_of_relays_passes() {
    let lab = lab(false, true).await;
    let probe = Conforms { server: None, file: None };
    all_passed(&conformance::relay(lab.site().as_ref(), lab.other_region().as_ref(), &probe).await, &[]);
    nothing_left(&lab, &[]).await;
}

/// An image in the first region, and the request to copy it.
async fn made(lab: &Lab, from: &dyn Cloud) -> CopyRequest {
    let (target, disk, token_here) = (from.target().unwrap(), DiskName::new("vda").unwrap(), token("made"));
    let (made, mut writer) = target.create_disk(&disk, SIZE, None, &token_here).await.unwrap();
    for index in 0..SIZE / LEAF - 8 {
        writer.write(index * LEAF, vec![index as u8 | 1; LEAF as usize].into()).await.unwrap();
    }
    let point = point(SIZE, writer.finish().await.unwrap().root);
    let options = ImageOptions::default();
    let image = target.register(&[made], &point, &options, Role::Replica, &token_here).await.unwrap();
    nothing_left(lab, &[&format!("snapshot {image}")]).await;
    let from = from.relay().unwrap().peer().await.unwrap();
    CopyRequest { from, image, point, options, token: token("copy") }
}

async fn count(lab: &Lab, operation: &str, key: &str) -> u64 {
    let calls = lab.control("GET", "calls", None).await;
    let calls = calls.as_array().unwrap().iter().filter(|call| call["operation"] == operation);
    calls.map(|call| call[key].as_u64().unwrap_or_default()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_takes_its_time_and_no_byte_passes_here() {
    let lab = lab(false, true).await;
    let (here, there) = (lab.site(), lab.other_region());
    let request = made(&lab, here.as_ref()).await;
    lab.control("PATCH", "settings", Some(&json!({ "weather": { "copy_seconds": 300 } }))).await;
    let (relay, sent) = (there.relay().unwrap(), count(&lab, "PutPage", "received").await);
    let copy = relay.copy(&request).await.unwrap();
    let CopyState::Running { done, total } = relay.state(&copy).await.unwrap() else { panic!("it is not whole") };
    assert!(done < SIZE && total == Some(SIZE), "{done} of {total:?}");
    lab.control("POST", "clock", Some(&json!({ "advance": 150 }))).await;
    let CopyState::Running { done, .. } = relay.state(&copy).await.unwrap() else { panic!("it is not whole") };
    assert!((SIZE / 3..SIZE * 2 / 3).contains(&done), "{done}");
    lab.control("POST", "clock", Some(&json!({ "advance": 151 }))).await;
    let CopyState::Done { moved, proof } = relay.state(&copy).await.unwrap() else { panic!("it is whole") };
    assert!(moved == SIZE && proof.is_none());
    // the service compares all of it with our sums, and nothing is read here
    let disk = &request.point.disks[0];
    let compared = there.target().unwrap().check_written(&copy.image, disk, &Silent).await.unwrap();
    assert!(compared.is_some_and(|bytes| bytes >= SIZE - 8 * LEAF), "{compared:?}");
    let image = relay.commit(&copy, &request, Role::Replica).await.unwrap();
    assert_eq!(count(&lab, "PutPage", "received").await, sent, "nothing was sent");
    assert_eq!(count(&lab, "GetBlob", "sent").await, 0);
    let names = [&request.image, &image].map(|image| format!("snapshot {image}"));
    nothing_left(&lab, &names.each_ref().map(String::as_str)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_fails_or_is_another_is_told() {
    let lab = lab(false, true).await;
    let (here, there) = (lab.site(), lab.other_region());
    let request = made(&lab, here.as_ref()).await;
    let relay = there.relay().unwrap();
    let mut copy = relay.copy(&request).await.unwrap();
    assert!(matches!(relay.state(&copy).await.unwrap(), CopyState::Done { .. }));
    // as the simulator copies well, what we know of the bytes stands for a copy gone wrong: other bytes, and none
    let (target, disk) = (there.target().unwrap(), &request.point.disks[0]);
    for leaf in [3, SIZE / LEAF - 2] {
        let known = forged(&lab, disk, leaf).await;
        let error = target.check_written(&copy.image, disk, &Silent).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Damaged, "{}", error.chain());
        known.put_back();
    }
    assert!(target.check_written(&copy.image, disk, &Silent).await.unwrap().is_some());
    nothing_left(
        &lab,
        &[&request.image, &copy.image].map(|image| format!("snapshot {image}")).each_ref().map(String::as_str),
    )
    .await;
    copy.image = ImageId::new("rpl-nothing-i").unwrap();
    copy.handle[0]["image"] = json!("rpl-nothing-i");
    assert_eq!(relay.state(&copy).await.unwrap_err().kind(), Kind::NotFound);
    // a group of the same region, and another subscription
    let mut from = request.from.clone();
    from.region = "northeurope/other".to_owned();
    assert_eq!(relay.route(&from).await.unwrap_err().kind(), Kind::Invalid);
    from = request.from.clone();
    from.domain = "elsewhere".to_owned();
    assert_eq!(relay.route(&from).await.unwrap_err().kind(), Kind::Invalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_waits_for_its_turn_and_is_begun_once() {
    let lab = lab(false, true).await;
    let (here, there) = (lab.site(), lab.other_region());
    let request = made(&lab, here.as_ref()).await;
    let relay = there.relay().unwrap();
    let full = json!({ "kind": "status", "status": 409, "code": "CopyQuotaExceeded" });
    let rule = json!({ "operation": "Snapshots_CreateOrUpdate", "times": 1, "fault": full });
    lab.control("POST", "rules", Some(&rule)).await;
    let error = relay.copy(&request).await.unwrap_err();
    assert!(error.kind() == Kind::Quota && error.advice().is_some(), "{}", error.chain());
    // its answer is lost, and then everything takes effect twice
    for fault in [json!({ "kind": "drop" }), json!({ "kind": "twice" })] {
        let rule = json!({ "operation": "Snapshots_*", "times": 3, "fault": fault });
        lab.control("POST", "rules", Some(&rule)).await;
    }
    let copy = relay.copy(&request).await.unwrap();
    assert!(matches!(relay.state(&copy).await.unwrap(), CopyState::Done { .. }));
    let image = relay.commit(&copy, &request, Role::Replica).await.unwrap();
    let names = [&request.image, &image].map(|image| format!("snapshot {image}"));
    nothing_left(&lab, &names.each_ref().map(String::as_str)).await;
    assert_eq!(there.owned().await.unwrap().len(), 1);
}

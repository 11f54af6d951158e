//! Images that nobody deletes before their time.

use std::time::Duration;

use disk::LEAF;
use model::{DiskName, ImageOptions, Kind, PointDisk, Role};
use serde_json::json;

use super::lab::{lab, token};
use super::suites::{nothing_left, point};

const DAY: u64 = 86_400;

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_kept_for_its_time_and_no_longer() {
    let lab = lab(false, true).await;
    let (site, size) = (lab.site(), 20 << 20);
    let (target, token) = (site.target().unwrap(), token("kept"));
    let (mut made, mut known) = (Vec::new(), Vec::new());
    for name in ["vda", "vdb"] {
        let name = DiskName::new(name).unwrap();
        let (disk, mut writer) = target.create_disk(&name, size, None, &token).await.unwrap();
        writer.write(0, vec![1; LEAF as usize].into()).await.unwrap();
        known.push(PointDisk { name, size, root: writer.finish().await.unwrap().root });
        made.push(disk);
    }
    let mut point = point(size, known[0].root);
    point.disks = known;
    // a day and a second are two days
    let options = ImageOptions { immutability: Some(Duration::from_secs(DAY + 1)), ..ImageOptions::default() };
    // it dies after the commit and before the second lock
    let rule = json!({
        "operation": "Snapshots_updateImmutabilityPolicyLock", "about": "-i/", "fault": { "kind": "status", "status": 403 },
    });
    lab.control("POST", "rules", Some(&rule)).await;
    let register = || target.register(&made, &point, &options, Role::Replica, &token);
    assert_eq!(register().await.unwrap_err().kind(), Kind::Denied);
    assert_eq!(target.images().await.unwrap().len(), 1);
    lab.control("DELETE", "rules", None).await;
    let image = register().await.unwrap();
    assert_eq!(register().await.unwrap(), image);
    let calls = lab.control("GET", "calls", None).await;
    let locks = calls
        .as_array()
        .unwrap()
        .iter()
        .filter(|call| call["operation"] == "Snapshots_updateImmutabilityPolicyLock" && call["status"] == 202);
    assert_eq!(locks.count(), 2, "each snapshot is locked once");
    let resource = site.owned().await.unwrap().into_iter().find(|it| it.kind == "image").unwrap();
    for advance in [0, DAY] {
        lab.control("POST", "clock", Some(&json!({ "advance": advance }))).await;
        let refused = site.delete(&resource).await.unwrap_err();
        assert!(refused.kind() == Kind::Denied && refused.advice().is_some(), "{}", refused.chain());
        nothing_left(&lab, &[&format!("snapshot {image}"), &format!("snapshot {image}-1")]).await;
        assert_eq!(lab.left().await.len(), 2, "no half of it went");
    }
    lab.control("POST", "clock", Some(&json!({ "advance": DAY + 60 }))).await;
    site.delete(&resource).await.unwrap();
    nothing_left(&lab, &[]).await;
}

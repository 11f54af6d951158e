//! Images as versions of a gallery: nobody waits for far regions, one that failed is begun anew, and a version goes with its image.

use std::collections::BTreeMap;
use std::sync::Arc;

use cloud::{Cloud, Resource};
use disk::LEAF;
use model::{
    DiskName, Gallery, ImageId, ImageOptions, Kind, OwnerId, Published, Replication, RestorePoint, Role, RunId, Token,
    tag,
};
use serde_json::{Value, json};

use super::lab::{Lab, lab, open, token};
use super::suites::{nothing_left, point};

const SIZE: u64 = 24 << 20;

fn options(regions: &[&str]) -> ImageOptions {
    let regions = regions.iter().map(|region| (*region).to_owned()).collect();
    let gallery = Gallery { name: "replicas".to_owned(), regions, shallow: false };
    ImageOptions { gallery: Some(gallery), ..ImageOptions::default() }
}

async fn image(site: &Arc<dyn Cloud>, step: &str, options: &ImageOptions) -> (ImageId, RestorePoint) {
    image_of(site, &token(step), "2026-11-30T03:04:05Z", options).await
}

async fn image_of(site: &Arc<dyn Cloud>, token: &Token, at: &str, options: &ImageOptions) -> (ImageId, RestorePoint) {
    let (target, disk) = (site.target().unwrap(), DiskName::new("vda").unwrap());
    let (made, mut writer) = target.create_disk(&disk, SIZE, None, token).await.unwrap();
    writer.write(0, vec![token.step.len() as u8; LEAF as usize].into()).await.unwrap();
    let mut point = point(SIZE, writer.finish().await.unwrap().root);
    point.id = token.run.point();
    point.taken_at = at.parse().unwrap();
    (target.register(&[made], &point, options, Role::Replica, token).await.unwrap(), point)
}

async fn weather(lab: &Lab, weather: Value) {
    lab.control("PATCH", "settings", Some(&json!({ "weather": weather }))).await;
}

async fn later(lab: &Lab, seconds: u32) {
    lab.control("POST", "clock", Some(&json!({ "advance": seconds }))).await;
}

/// How often operations were asked for.
async fn asked(lab: &Lab, operations: &[&str]) -> Vec<usize> {
    let calls = lab.control("GET", "calls", None).await;
    let count = |name: &str| calls.as_array().unwrap().iter().filter(|call| call["operation"] == name).count();
    operations.iter().map(|name| count(name)).collect()
}

fn states(published: &Published) -> BTreeMap<&str, &str> {
    let word = |state: &Replication| match state {
        Replication::Underway => "underway",
        Replication::Done => "done",
        Replication::Failed(_) => "failed",
    };
    published.regions.iter().map(|(region, state)| (region.as_str(), word(state))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_begun_once_and_goes_with_its_image() {
    let lab = lab(false, true).await;
    let (site, options) = (lab.site(), options(&["North Europe"]));
    weather(&lab, json!({ "replicate_seconds": 1000 })).await;
    let (image, _) = image(&site, "image", &options).await;
    let target = site.target().unwrap();
    let published = target.publish(&image, &options).await.unwrap();
    assert_eq!(published.version, "replicas/images/web-1-v1/versions/2026.1130.30405");
    assert_eq!(states(&published), [("northeurope", "underway"), ("westeurope", "underway")].into());
    let again = target.publish(&image, &options).await.unwrap();
    assert!(!again.is_whole());
    later(&lab, 1001).await;
    let whole = target.publish(&image, &options).await.unwrap();
    assert!(whole.is_whole() && states(&whole)["northeurope"] == "done");
    assert_eq!(whole.asked.regions, ["North Europe"]);
    let operations =
        ["GalleryImages_CreateOrUpdate", "GalleryImageVersions_CreateOrUpdate", "GalleryImageVersions_Update"];
    assert_eq!(asked(&lab, &operations).await, [1, 1, 0]);
    // a region more and one less, as the policy says by now
    let other = self::options(&["swedencentral"]);
    target.publish(&image, &other).await.unwrap();
    later(&lab, 1001).await;
    let moved = target.publish(&image, &other).await.unwrap();
    assert_eq!(states(&moved), [("swedencentral", "done"), ("westeurope", "done")].into());
    // it is still the image that it was, and is registered no second time
    let held = target.images().await.unwrap();
    assert_eq!(held.len(), 1);
    let resource = site.owned().await.unwrap().into_iter().find(|it| it.id == image.as_str()).unwrap();
    site.delete(&resource).await.unwrap();
    nothing_left(&lab, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_failed_is_taken_out_and_put_in_again() {
    let lab = lab(false, true).await;
    let (site, options) = (lab.site(), options(&["northeurope", "eastus"]));
    weather(&lab, json!({ "bad_regions": ["eastus"], "replicate_seconds": 100 })).await;
    let (image, _) = image(&site, "image", &options).await;
    let target = site.target().unwrap();
    let begun = target.publish(&image, &options).await.unwrap();
    assert_eq!(states(&begun)["eastus"], "failed");
    later(&lab, 101).await;
    // others are not held up by it
    let looked = target.publish(&image, &options).await.unwrap();
    assert_eq!((states(&looked)["northeurope"], states(&looked)["eastus"]), ("done", "failed"));
    weather(&lab, json!({ "bad_regions": [] })).await;
    let out = target.publish(&image, &options).await.unwrap();
    assert_eq!((states(&out)["eastus"], out.is_whole()), ("underway", false));
    later(&lab, 101).await;
    assert!(target.publish(&image, &options).await.unwrap().is_whole());
    // the site's own region: nothing can be had, and all is begun anew
    let resource = site.owned().await.unwrap().into_iter().find(|it| it.id == image.as_str()).unwrap();
    site.delete(&resource).await.unwrap();
    weather(&lab, json!({ "bad_regions": ["westeurope"] })).await;
    let (image, _) = self::image(&site, "other", &options).await;
    let looked = target.publish(&image, &options).await.unwrap();
    assert_eq!(states(&looked)["westeurope"], "failed");
    later(&lab, 101).await;
    target.publish(&image, &options).await.unwrap();
    weather(&lab, json!({ "bad_regions": [] })).await;
    target.publish(&image, &options).await.unwrap();
    later(&lab, 101).await;
    assert!(target.publish(&image, &options).await.unwrap().is_whole());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_kept_as_long_as_its_image() {
    let lab = lab(false, true).await;
    let site = lab.site();
    let day = std::time::Duration::from_secs(86_400);
    let options = ImageOptions { immutability: Some(day), ..options(&[]) };
    let (image, _) = image(&site, "image", &options).await;
    site.target().unwrap().publish(&image, &options).await.unwrap();
    let resource = site.owned().await.unwrap().into_iter().find(|it| it.id == image.as_str()).unwrap();
    let denied = site.delete(&resource).await.unwrap_err();
    assert!(denied.kind() == Kind::Denied && denied.chain().contains("version"), "{}", denied.chain());
    later(&lab, 86_400 + 60).await;
    site.delete(&resource).await.unwrap();
    nothing_left(&lab, &[]).await;
}

/// Somebody deletes the snapshot in the portal.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_whose_image_is_gone_is_a_leftover() {
    let lab = lab(false, true).await;
    let (site, options) = (lab.site(), options(&["northeurope"]));
    let (kept, _) = image(&site, "kept", &options).await;
    let (gone, point) = image_of(&site, &token("gone"), "2026-11-30T04:04:05Z", &options).await;
    let versions = || async {
        let owned = site.owned().await.unwrap().into_iter();
        owned.filter(|it| it.kind == "version").collect::<Vec<Resource>>()
    };
    assert_eq!(versions().await, []);
    for image in [&kept, &gone] {
        assert!(site.target().unwrap().publish(image, &options).await.unwrap().is_whole());
    }
    // what a late list tells of the snapshots is no proof
    let rule = json!({ "operation": "Snapshots_List", "times": 1, "fault": { "kind": "stale" } });
    lab.control("POST", "rules", Some(&rule)).await;
    assert_eq!(versions().await, []);
    assert_eq!(versions().await, []);

    let by_hand = |image: &ImageId, like: &Resource| Resource {
        kind: "snapshot".to_owned(),
        id: image.to_string(),
        ..like.clone()
    };
    let like = site.owned().await.unwrap().remove(0);
    site.delete(&by_hand(&gone, &like)).await.unwrap();
    let left = versions().await;
    assert_eq!(left.len(), 1);
    let [version, other] = ["40405", "30405"].map(|n| format!("replicas/images/web-1-v1/versions/2026.1130.{n}"));
    assert_eq!((&left[0].id, left[0].role), (&version, Role::Scratch));
    assert_eq!(left[0].tags.get(tag::POINT), Some(&point.id.to_string()));
    // one of an image that is there is not deleted so
    let other = Resource { id: other, ..left[0].clone() };
    assert!(site.delete(&other).await.unwrap_err().chain().contains("its image is there"));
    for _ in 0..2 {
        site.delete(&left[0]).await.unwrap();
        assert_eq!(versions().await, []);
    }
    assert!(site.target().unwrap().publish(&kept, &options).await.unwrap().is_whole());
    // with the last one goes the definition
    site.delete(&by_hand(&kept, &like)).await.unwrap();
    site.delete(&other).await.unwrap();
    nothing_left(&lab, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_has_the_sites_key_and_goes_nowhere_without_it() {
    let lab = lab(false, true).await;
    let site = open(cloud_azure::compute::AzureConfig { encryption_set: Some(lab.set_of("prod")), ..lab.config() });
    let (image, _) = image(&site, "image", &options(&[])).await;
    let target = site.target().unwrap();
    let refused = target.publish(&image, &options(&["northeurope"])).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Invalid, "{}", refused.chain());
    assert!(target.publish(&image, &options(&[])).await.unwrap().is_whole());
    let calls = lab.control("GET", "calls", None).await;
    let call = calls.as_array().unwrap().iter().find(|it| it["operation"] == "GalleryImageVersions_CreateOrUpdate");
    let region = &call.unwrap()["body"]["properties"]["publishingProfile"]["targetRegions"][0];
    assert_eq!(region["encryption"]["osDiskImage"]["diskEncryptionSetId"], lab.set_of("prod"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_way_is_told_and_not_touched() {
    let lab = lab(false, true).await;
    let site = lab.site();
    let (image, _) = image(&site, "image", &options(&[])).await;
    let target = site.target().unwrap();
    let mut absent = options(&[]);
    absent.gallery.as_mut().unwrap().name = "nobodys".to_owned();
    let error = target.publish(&image, &absent).await.unwrap_err();
    assert!(
        error.kind() == Kind::NotFound && error.advice().is_some_and(|it| it.contains("az sig")),
        "{}",
        error.chain()
    );
    // when the policy names one that there is
    assert!(target.publish(&image, &options(&[])).await.unwrap().is_whole());
    // another image of the server that was taken in the same second
    let again = token("image");
    let other = Token { run: RunId::new("20261122T030000Z-000000bb").unwrap(), ..again };
    let (late, _) = image_of(&site, &other, "2026-11-30T03:04:05Z", &options(&[])).await;
    let error = target.publish(&late, &options(&[])).await.unwrap_err();
    assert!(error.kind() == Kind::Exists && error.chain().contains("another point"), "{}", error.chain());
    let late = site.owned().await.unwrap().into_iter().find(|it| it.id == late.as_str()).unwrap();
    site.delete(&late).await.unwrap();
    assert!(target.publish(&image, &options(&[])).await.unwrap().is_whole(), "it is still there");
    // a definition that is another installation's
    let owner = OwnerId::new("others").unwrap();
    let (theirs, _) = image_of(&site, &Token { owner, ..token("theirs") }, "2026-11-30T03:04:06Z", &options(&[])).await;
    let error = target.publish(&theirs, &options(&[])).await.unwrap_err();
    assert!(error.kind() == Kind::Exists && error.chain().contains("installation"), "{}", error.chain());
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_days_make_no_second_version_and_leave_none() {
    let faults = [
        json!({ "kind": "drop" }),
        json!({ "kind": "twice" }),
        json!({ "kind": "reset" }),
        json!({ "kind": "status", "status": 503, "code": "ServerBusy", "retry_after": 0 }),
    ];
    for fault in faults {
        let lab = lab(false, true).await;
        let (site, options) = (lab.site(), options(&["northeurope"]));
        let (image, _) = image(&site, "image", &options).await;
        for operation in ["Snapshots_Update", "GalleryImages_*", "GalleryImageVersions_*"] {
            let rule = json!({ "operation": operation, "times": 2, "fault": fault });
            lab.control("POST", "rules", Some(&rule)).await;
        }
        assert!(site.target().unwrap().publish(&image, &options).await.unwrap().is_whole(), "{fault}");
        let versions = lab.left().await.into_iter().filter(|it| it.starts_with("version ")).count();
        assert_eq!(versions, 1, "{fault}");
        for operation in ["GalleryImages_Delete", "GalleryImageVersions_Delete"] {
            let rule = json!({ "operation": operation, "times": 1, "fault": fault });
            lab.control("POST", "rules", Some(&rule)).await;
        }
        let resource = site.owned().await.unwrap().into_iter().find(|it| it.id == image.as_str()).unwrap();
        site.delete(&resource).await.unwrap();
        nothing_left(&lab, &[]).await;
    }
}

//! What Azure does on a bad day: operations that take time, lists that begin empty, answers that are lost, busy blobs.

use disk::{LEAF, Silent};
use model::{DiskName, ImageOptions, Kind, Role};
use serde_json::json;

use super::journey::request;
use super::lab::{lab, token};
use super::suites::{nothing_left, point, server, server_of};

#[tokio::test(flavor = "multi_thread")]
async fn lost_answers_and_busy_blobs_leave_no_duplicate_and_no_open_access() {
    let lab = lab(false, true).await;
    let rules = [
        json!({ "operation": "PutPage", "every": 5, "fault": { "kind": "status", "status": 503, "code": "ServerBusy" } }),
        json!({ "operation": "*CreateOrUpdate", "every": 3, "fault": { "kind": "drop" } }),
        json!({ "operation": "*Update", "every": 4, "fault": { "kind": "status", "status": 429, "code": "TooManyRequests", "retry_after": 1 } }),
        json!({ "operation": "GetBlob", "every": 4, "fault": { "kind": "truncate", "after": 1000 } }),
    ];
    for rule in rules {
        lab.control("POST", "rules", Some(&rule)).await;
    }
    let (site, size, name) = (lab.site(), 32 << 20, DiskName::new("vda").unwrap());
    let target = site.target().unwrap();
    let (made, mut writer) = target.create_disk(&name, size, None, &token("storm")).await.unwrap();
    for index in 0..size / LEAF {
        writer.write(index * LEAF, vec![index as u8 | 1; LEAF as usize].into()).await.unwrap();
    }
    let root = writer.finish().await.unwrap().root;
    let options = ImageOptions::default();
    let image = target.register(&[made], &point(size, root), &options, Role::Replica, &token("storm")).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let reader = target.open_image(&image, &name).await.unwrap();
    let file = disk::create_file(folder.path().join("it"), disk::Format::Raw, size, None).await.unwrap();
    let read = disk::transfer(reader.as_ref(), vec![file], &Silent).await.unwrap();
    assert_eq!(read.into_iter().next().unwrap().unwrap().root, root);
    drop(reader);
    let hits = lab.control("GET", "hits", None).await;
    assert!(hits.as_array().is_some_and(|hits| hits.len() > 5), "the storm was felt: {hits}");
    nothing_left(&lab, &[&format!("snapshot {image}")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_take_time_and_lists_begin_empty() {
    let lab = lab(false, false).await;
    // a quarter of an hour of weather in as many seconds; a listing of more than two ranges times out
    lab.control("POST", "clock", Some(&json!({ "speed": 60 }))).await;
    lab.control("PATCH", "settings", Some(&json!({ "limits": { "ranges_in_time": 2 } }))).await;
    super::journey::one_percent(&lab).await;
}

#[tokio::test]
async fn a_wrong_secret_is_told_and_never_shown() {
    let lab = lab(false, true).await;
    let config = lab.config();
    std::fs::write(lab.secret(), "hunter2\n").unwrap();
    let site = cloud_azure::compute::AzureSite::new(config);
    let error = cloud::Cloud::owned(&site).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    assert!(!error.chain().contains("hunter2") && error.advice().is_some(), "{}", error.chain());
}

#[tokio::test]
async fn a_machine_of_somebody_else_is_not_touched() {
    let lab = lab(false, true).await;
    let site = lab.site();
    let (name, _) = server(&lab, &site, "web-1").await;
    let before = lab.left().await;
    let target = site.target().unwrap();
    let (disk, token) = (DiskName::new("vda").unwrap(), token("another"));
    let (made, writer) = target.create_disk(&disk, 20 << 20, None, &token).await.unwrap();
    let root = writer.finish().await.unwrap().root;
    let options = ImageOptions::default();
    let image = target.register(&[made], &point(20 << 20, root), &options, Role::Scratch, &token).await.unwrap();
    let options = cloud::LaunchOptions { name, network: cloud::Network::Site, ports: Vec::new(), ephemeral: false };
    assert_eq!(target.launch(&image, &options, &token).await.unwrap_err().kind(), Kind::Exists);
    site.delete(&site.owned().await.unwrap().into_iter().find(|it| it.kind == "image").unwrap()).await.unwrap();
    let before: Vec<&str> = before.iter().map(String::as_str).collect();
    nothing_left(&lab, &before).await;
}

#[tokio::test]
async fn disks_that_run_apart_are_told_of_or_refused() {
    let lab = lab(false, true).await;
    let site = lab.site();
    let (name, _) = server_of(&lab, &site, "web-1", &["vda", "vdb"]).await;
    let (source, before) = (site.source().unwrap(), lab.left().await);
    // a machine of which Azure makes no restore point
    let fault = json!({ "kind": "status", "status": 409, "code": "OperationNotAllowed" });
    lab.control("POST", "rules", Some(&json!({ "operation": "RestorePoints_Create", "fault": fault }))).await;
    let mut wanted = request(&name, "apart", None);
    wanted.consistent.required = true;
    let refused = source.capture(&wanted).await.unwrap_err();
    assert!(refused.kind() == Kind::Invalid && refused.advice().is_some(), "{}", refused.chain());
    wanted.consistent.required = false;
    let capture = source.capture(&wanted).await.unwrap();
    assert!(capture.disks.len() == 2 && capture.warnings.iter().any(|it| it.contains("apart")), "{capture:?}");
    source.release(&capture, cloud::Outcome::Abandoned).await.unwrap();
    let before: Vec<&str> = before.iter().map(String::as_str).collect();
    nothing_left(&lab, &before).await;
}

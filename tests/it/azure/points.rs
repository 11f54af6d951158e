//! All disks of a running machine at one instant: a restore point, read in full and then what changed.

use std::path::PathBuf;
use std::sync::Arc;

use cloud::{Capture, Cloud, Outcome};
use disk::{DiskRead, LEAF};
use model::ServerName;
use serde_json::json;

use super::journey::request;
use super::lab::{Lab, lab, write_at};
use super::suites::{nothing_left, server_of};

const SIZE: usize = 24 << 20;

async fn whole(reader: &dyn DiskRead) -> Vec<u8> {
    reader.read_at(0, SIZE).await.unwrap().to_vec()
}

async fn capture(site: &dyn Cloud, name: &ServerName, step: &str, since: Option<&Capture>) -> Capture {
    captured(site, name, step, since, true).await
}

async fn captured(site: &dyn Cloud, name: &ServerName, step: &str, since: Option<&Capture>, required: bool) -> Capture {
    let mut wanted = request(name, step, since.and_then(|before| before.cursor.clone()));
    wanted.consistent.required = required;
    site.source().unwrap().capture(&wanted).await.unwrap()
}

/// A server with two disks, and the file of the second.
async fn two_disks(lab: &Lab, site: &Arc<dyn Cloud>) -> (ServerName, PathBuf) {
    server_of(lab, site, "web-1", &["vda", "vdb"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn several_disks_are_captured_at_one_instant() {
    let lab = lab(false, true).await;
    let site = lab.site();
    let (name, file) = two_disks(&lab, &site).await;
    let (source, before) = (site.source().unwrap(), lab.left().await);
    let first = capture(site.as_ref(), &name, "first", None).await;
    assert!(first.disks.len() == 2 && first.warnings.is_empty(), "{first:?}");
    assert_eq!(capture(site.as_ref(), &name, "first", None).await, first, "the same token finds the same point");
    let bytes = std::fs::read(&file).unwrap()[..SIZE].to_vec();
    write_at(&file, 3 * LEAF, &[7; LEAF as usize]).unwrap();
    let reader = source.open(&first, &first.disks[1].name, false).await.unwrap();
    assert!(whole(reader.as_ref()).await == bytes, "what came later is not in it");
    drop(reader);
    source.release(&first, Outcome::Committed).await.unwrap();
    let gone = source.open(&first, &first.disks[1].name, false).await.map(drop);
    assert!(gone.is_err(), "it was released");
    // the next one reads what changed, of disks of one family
    let second = capture(site.as_ref(), &name, "second", Some(&first)).await;
    assert!(second.disks.iter().all(|disk| disk.incremental), "{second:?}");
    let reader = source.open(&second, &second.disks[1].name, true).await.unwrap();
    let changed = reader.extents(0).await.unwrap();
    let changed: u64 = changed.as_slice().iter().map(|extent| extent.len).sum();
    assert_eq!(changed, LEAF);
    assert!(whole(reader.as_ref()).await == std::fs::read(&file).unwrap()[..SIZE]);
    drop(reader);
    source.release(&second, Outcome::Committed).await.unwrap();
    let owned = site.owned().await.unwrap();
    let bases: Vec<&str> = owned.iter().filter(|it| it.kind == "base").map(|it| it.id.as_str()).collect();
    assert_eq!(bases, [second.cursor.as_ref().unwrap().as_str()], "the earlier base is gone");
    for it in owned.iter().filter(|it| it.kind == "base") {
        site.delete(it).await.unwrap();
    }
    nothing_left(&lab, &before.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

/// Bases that nobody knows any more go with the next commit, and snapshots are compared with what a point holds.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_point_holds_and_snapshots_are_of_one_family() {
    let lab = lab(false, true).await;
    let site = lab.site();
    let (name, file) = two_disks(&lab, &site).await;
    let source = site.source().unwrap();
    let before = lab.left().await;
    for step in ["lost", "first"] {
        let capture = capture(site.as_ref(), &name, step, None).await;
        source.release(&capture, Outcome::Committed).await.unwrap();
    }
    let bases = site.owned().await.unwrap().into_iter().filter(|it| it.kind == "base").count();
    assert_eq!(bases, 1, "a base that no run knows is gone");
    let first = capture(site.as_ref(), &name, "third", None).await;
    source.release(&first, Outcome::Committed).await.unwrap();
    let fault = json!({ "kind": "status", "status": 409, "code": "OperationNotAllowed" });
    lab.control("POST", "rules", Some(&json!({ "operation": "RestorePoints_Create", "fault": fault }))).await;
    write_at(&file, 5 * LEAF, &[9; 4096]).unwrap();
    let second = captured(site.as_ref(), &name, "second", Some(&first), false).await;
    assert!(second.warnings.len() == 1 && second.disks.iter().all(|disk| disk.incremental), "{second:?}");
    let reader = source.open(&second, &second.disks[1].name, true).await.unwrap();
    assert_eq!(reader.extents(0).await.unwrap().as_slice().iter().map(|extent| extent.len).sum::<u64>(), 4096);
    drop(reader);
    source.release(&second, Outcome::Committed).await.unwrap();
    for it in site.owned().await.unwrap().iter().filter(|it| it.kind == "base") {
        site.delete(it).await.unwrap();
    }
    nothing_left(&lab, &before.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

/// Answers are lost, calls take effect twice, and what a dead process was reading is still open.
#[tokio::test(flavor = "multi_thread")]
async fn a_bad_day_leaves_no_second_point() {
    let lab = lab(false, true).await;
    let site = lab.site();
    let (name, _) = two_disks(&lab, &site).await;
    let (source, before) = (site.source().unwrap(), lab.left().await);
    for (every, fault) in [(2, json!({ "kind": "drop" })), (3, json!({ "kind": "twice" }))] {
        for operation in ["RestorePoint*", "DiskRestorePoint_*"] {
            let rule = json!({ "operation": operation, "every": every, "fault": fault, "times": 4 });
            lab.control("POST", "rules", Some(&rule)).await;
        }
    }
    let held = capture(site.as_ref(), &name, "bad", None).await;
    let reader = source.open(&held, &held.disks[0].name, false).await.unwrap();
    let points = lab.left().await.iter().filter(|it| it.starts_with("collection")).count();
    assert_eq!(points, 1);
    // whoever reads is not asked: what is to go does not wait for a dead process
    source.release(&held, Outcome::Abandoned).await.unwrap();
    drop(reader);
    nothing_left(&lab, &before.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

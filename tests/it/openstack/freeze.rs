//! Captures of a guest that Nova freezes through its agent: what its disks show, that it goes on, and what is said where
//! Nova cannot. The volumes of this cloud are files, of which Nova makes the snapshots itself.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use cloud::openstack::OpenStackSite;
use cloud::{Capture, CaptureRequest, Consistent, Hook, Outcome, Source};
use model::{Consistency, DiskName};

use super::lab::{LIMIT, Lab, lab, last_order};
use super::source::{ROOT_AT, orders, request, site};

const PROJECT: &str = "frozen";
const AGENT: &str = "hw_qemu_guest_agent=yes";
const REQUIRED: &str = "os_require_quiesce=yes";

/// Whether a captured ext4 has a journal that must be replayed: not, if it was frozen.
async fn needs_recovery(site: &OpenStackSite, capture: &Capture, disk: &str, offset: u64) -> bool {
    let reader = site.open(capture, &DiskName::new(disk).unwrap(), false).await.unwrap();
    tests::guest::needs_recovery(&reader.read_at(offset + 1024, 1024).await.unwrap())
}

fn files(run: &str, required: bool) -> CaptureRequest {
    let (level, hook, freeze_limit) = (Consistency::Filesystem, Hook::default(), Duration::from_secs(10));
    CaptureRequest { consistent: Consistent { level, required, hook, freeze_limit }, ..request("web-1", run) }
}

/// A server on two volumes whose image has properties, while it writes; its id.
fn serve(lab: &Lab, properties: &[&str]) -> String {
    let disk = lab.guest.qcow2.to_str().unwrap();
    let guest = lab.hands(&[&["upload", PROJECT, "guest", disk, "qcow2"][..], properties].concat());
    let id = lab.hands(&["serve", PROJECT, "web-1", "volume", &guest, &lab.data_image(PROJECT, properties)]);
    lab.console(PROJECT, &id, "REPLICATE-SEQ");
    id
}

/// It takes more orders: nothing is frozen.
async fn goes_on(lab: &Lab, id: &str) {
    let orders = || last_order(&lab.hands(&["console", PROJECT, id]));
    let (before, until) = (orders(), Instant::now() + LIMIT);
    while orders() < before + 10 {
        assert!(Instant::now() < until, "the guest stands since order {before}");
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "two servers on volumes, and some captures: minutes"]
async fn a_guest_with_an_agent_is_frozen_by_nova_and_goes_on() {
    let Some(lab) = lab() else { return };
    lab.clean(PROJECT);
    let site = site(&lab.clouds(), PROJECT);
    let id = serve(&lab, &[AGENT]);
    let before = lab.judge(&[PROJECT]);
    let capture = site.capture(&files("20261122T030000Z-00000001", false)).await.unwrap();
    // Nova tells nobody that it froze, so no more is promised
    assert_eq!(capture.consistency, Consistency::Crash);
    assert!(capture.warnings[0].contains("os_require_quiesce"), "{:?}", capture.warnings);
    for (disk, at) in [("vda", ROOT_AT), ("vdb", 0)] {
        assert!(!needs_recovery(&site, &capture, disk, at).await, "{disk} was not frozen");
    }
    let (root, data) = orders(&site, &capture).await;
    println!("frozen: orders {root} and {data}");
    assert!(root > 0 && (root == data || root == data + 1), "disks of two moments: {root} {data}");
    goes_on(&lab, &id).await;
    site.release(&capture, Outcome::Committed).await.unwrap();
    assert_eq!(lab.judge(&[PROJECT]).since(&before), BTreeSet::new());
    lab.hands(&["delete", PROJECT, &id]);

    let id = serve(&lab, &[AGENT, REQUIRED]);
    let before = lab.judge(&[PROJECT]);
    let error = site.capture(&files("20261122T030000Z-00000002", true)).await.unwrap_err();
    println!("{}\nhint: {}", error.chain(), error.advice().unwrap_or_default());
    assert!(error.advice().is_some_and(|hint| hint.contains("as files")), "{error:?}");
    assert_eq!(lab.judge(&[PROJECT]).since(&before), BTreeSet::new());
    goes_on(&lab, &id).await;
    let capture = site.capture(&files("20261122T030000Z-00000003", false)).await.unwrap();
    println!("{:?} {:?}", capture.consistency, capture.warnings);
    assert_eq!(capture.consistency, Consistency::Crash);
    assert!(capture.warnings[0].contains("Nova could not freeze it"), "{capture:#?}");
    assert!(capture.warnings[1].contains("not atomic"), "{capture:#?}");
    let (root, data) = orders(&site, &capture).await;
    assert!(root > 0 && data > 0);
    goes_on(&lab, &id).await;
    site.release(&capture, Outcome::Committed).await.unwrap();
    assert_eq!(lab.judge(&[PROJECT]).since(&before), BTreeSet::new());
    lab.clean(PROJECT);
}

//! Captures of a guest that Nova freezes through its agent: what its disks show, that it goes on, and what is said where
//! nobody answers.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use cloud::openstack::OpenStackSite;
use cloud::{Capture, CaptureRequest, Consistent, Hook, Outcome, Source};
use model::{Consistency, DiskName, Kind};

use super::lab::{LIMIT, lab, last_order};
use super::source::{ROOT_AT, orders, request, site};

const PROJECT: &str = "frozen";
/// What an image must say for Nova to freeze, and to fail where it cannot.
const FREEZES: [&str; 2] = ["hw_qemu_guest_agent=yes", "os_require_quiesce=yes"];

/// Whether a captured ext4 has a journal that must be replayed: not, if it was frozen.
async fn needs_recovery(site: &OpenStackSite, capture: &Capture, disk: &str, offset: u64) -> bool {
    let reader = site.open(capture, &DiskName::new(disk).unwrap(), false).await.unwrap();
    let block = reader.read_at(offset + 1024, 1024).await.unwrap();
    assert_eq!(&block[0x38..0x3a], [0x53, 0xef], "no ext4");
    block[0x60] & 4 != 0
}

fn wanted(server: &str, run: &str, level: Consistency) -> CaptureRequest {
    let consistent = Consistent { level, required: true, hook: Hook::default(), freeze_limit: Duration::from_secs(10) };
    CaptureRequest { consistent, ..request(server, run) }
}

async fn clean(site: &OpenStackSite, capture: &Capture) -> [bool; 2] {
    [!needs_recovery(site, capture, "vda", ROOT_AT).await, !needs_recovery(site, capture, "vdb", 0).await]
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "two servers on volumes, and some captures: minutes"]
async fn a_guest_with_an_agent_is_frozen_by_nova_and_goes_on() {
    let Some(lab) = lab() else { return };
    lab.clean(PROJECT);
    let site = site(&lab.clouds(), PROJECT);
    let disk = lab.guest.qcow2.to_str().unwrap();
    let guest = lab.hands(&[&["upload", PROJECT, "guest", disk, "qcow2"][..], &FREEZES].concat());
    let data = lab.data_image(PROJECT, &FREEZES);
    let id = lab.hands(&["serve", PROJECT, "web-1", "volume", &guest, &data]);
    lab.console(PROJECT, &id, "REPLICATE-SEQ");
    // no agent of it will ever answer
    lab.hands(&["serve", PROJECT, "deaf-1", "volume", &data]);
    let before = lab.judge(&[PROJECT]);

    let frozen = wanted("web-1", "20261122T030000Z-00000002", Consistency::Filesystem);
    let capture = site.capture(&frozen).await.unwrap();
    assert_eq!((capture.consistency, capture.warnings.as_slice()), (Consistency::Filesystem, [].as_slice()));
    assert_eq!(clean(&site, &capture).await, [true; 2], "a file system that was not frozen");
    let (root, on_data) = orders(&site, &capture).await;
    println!("orders {root} and {on_data}");
    assert!(root > 0 && (root == on_data || root == on_data + 1), "disks of two moments: {root} {on_data}");
    let until = Instant::now() + LIMIT;
    while last_order(&lab.hands(&["console", PROJECT, &id])) < root + 10 {
        assert!(Instant::now() < until, "the guest stands since order {root}");
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    site.release(&capture, Outcome::Committed).await.unwrap();

    let deaf = wanted("deaf-1", "20261122T030000Z-00000003", Consistency::Filesystem);
    let error = site.capture(&deaf).await.unwrap_err();
    println!("{}", error.chain());
    assert_ne!(error.kind(), Kind::Transient, "it will never answer: {error:?}");
    assert_eq!(lab.judge(&[PROJECT]).since(&before), BTreeSet::new());
    lab.clean(PROJECT);
}

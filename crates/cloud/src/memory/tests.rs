//! Behaviour of the memory cloud.

use std::sync::Arc;
use std::time::Duration;

use disk::LEAF;
use model::{
    Arch, Consistency, Cursor, DiskBus, DiskName, DiskSpec, Firmware, Kind, MachineSpec, ManualClock, OwnerId, RunId,
    ServerName, SiteName, Token,
};

use super::{Fault, MemoryCloud, Rule};
use crate::{Capture, CaptureRequest, Cloud, Consistent, Hook, Outcome, Source, Target};

const SIZE: u64 = 8 * LEAF;

fn name<T: TryFrom<String, Error = model::Error>>(text: &str) -> T {
    T::try_from(text.to_owned()).unwrap()
}

pub(crate) fn machine(disks: &[&str]) -> MachineSpec {
    let disk = |disk: &&str| DiskSpec { name: name(disk), size: SIZE, bus: DiskBus::Virtio, serial: None };
    MachineSpec {
        arch: Arch::X86_64,
        firmware: Firmware::Bios,
        memory: 1 << 30,
        vcpus: 1,
        chipset: None,
        flavor: None,
        disks: disks.iter().map(disk).collect(),
        nics: Vec::new(),
        agent: true,
        tpm: false,
        tags: Default::default(),
    }
}

fn cloud() -> (MemoryCloud, ServerName, DiskName) {
    let clock = Arc::new(ManualClock::new("2026-11-22T03:00:00Z".parse().unwrap()));
    let cloud = MemoryCloud::new(name::<SiteName>("lab"), clock);
    let server: ServerName = name("web-1");
    cloud.add_server(server.clone(), machine(&["vda", "vdb"]));
    (cloud, server, name("vda"))
}

fn token(run: &str) -> Token {
    Token {
        owner: name::<OwnerId>("test"),
        policy: None,
        server: name("web-1"),
        run: name::<RunId>(run),
        step: "capture".into(),
    }
}

fn request(run: &str, level: Consistency, since: Option<Cursor>) -> CaptureRequest {
    let consistent = Consistent { level, required: false, hook: Hook::default(), freeze_limit: Duration::from_secs(1) };
    CaptureRequest { server: name("web-1"), consistent, since, token: token(run) }
}

async fn first_bytes(cloud: &MemoryCloud, capture: &Capture, disk: &DiskName) -> Vec<u8> {
    cloud.open(capture, disk, false).await.unwrap().read_at(0, 512).await.unwrap().to_vec()
}

#[tokio::test]
async fn a_capture_pins_and_a_restarted_process_reads_it() {
    let (cloud, server, vda) = cloud();
    cloud.write(&server, &vda, 0, &[1; 512]).unwrap();
    let capture = cloud.capture(&request("r1", Consistency::Crash, None)).await.unwrap();
    cloud.write(&server, &vda, 0, &[2; 512]).unwrap();
    let restarted = cloud.clone();
    let journalled: Capture = serde_json::from_str(&serde_json::to_string(&capture).unwrap()).unwrap();
    assert_eq!(first_bytes(&restarted, &journalled, &vda).await, [1; 512]);
    assert_eq!(restarted.capture(&request("r1", Consistency::Crash, None)).await.unwrap(), capture);
    restarted.release(&journalled, Outcome::Abandoned).await.unwrap();
    assert_eq!(cloud.open(&capture, &vda, false).await.err().unwrap().kind(), Kind::NotFound);
    assert!(cloud.owned().await.unwrap().is_empty());
}

#[tokio::test]
async fn changes_follow_the_committed_cursor_and_survive_abandoned_captures() {
    let (cloud, server, vda) = cloud();
    let one = cloud.capture(&request("r1", Consistency::Crash, None)).await.unwrap();
    cloud.release(&one, Outcome::Committed).await.unwrap();
    cloud.write(&server, &vda, 2 * LEAF, &[7; 512]).unwrap();
    let given_up = cloud.capture(&request("r2", Consistency::Crash, one.cursor.clone())).await.unwrap();
    cloud.write(&server, &vda, 4 * LEAF, &[7; 512]).unwrap();
    cloud.release(&given_up, Outcome::Abandoned).await.unwrap();
    let two = cloud.capture(&request("r3", Consistency::Crash, one.cursor.clone())).await.unwrap();
    let reader = cloud.open(&two, &vda, true).await.unwrap();
    let changed = reader.extents(0).await.unwrap();
    let starts: Vec<u64> = changed.as_slice().iter().map(|extent| extent.offset).collect();
    assert_eq!((reader.is_incremental(), starts), (true, vec![2 * LEAF, 4 * LEAF]));
    cloud.release(&two, Outcome::Committed).await.unwrap();
    let late = cloud.capture(&request("r4", Consistency::Crash, one.cursor)).await.unwrap();
    assert!(!late.disks[0].incremental, "the old cursor is gone once its successor is committed");
}

#[tokio::test]
async fn a_killed_guest_loses_captures_and_change_maps_and_says_why() {
    let (cloud, server, vda) = cloud();
    let one = cloud.capture(&request("r1", Consistency::Crash, None)).await.unwrap();
    cloud.kill(&server).unwrap();
    let again = cloud.capture(&request("r1", Consistency::Crash, None)).await;
    assert_eq!(again.err().unwrap().kind(), Kind::Damaged);
    assert_eq!(cloud.open(&one, &vda, false).await.err().unwrap().kind(), Kind::Damaged);
    cloud.release(&one, Outcome::Abandoned).await.unwrap();
    let two = cloud.capture(&request("r2", Consistency::Filesystem, one.cursor)).await.unwrap();
    assert_eq!((two.consistency, two.disks[0].incremental), (Consistency::Crash, false));
    assert!(two.warnings[0].contains("killed, not shut down"), "{:?}", two.warnings);
}

#[tokio::test]
async fn a_failed_snapshot_thaws_and_a_crash_in_between_is_found_by_the_next_process() {
    let (cloud, server, vda) = cloud();
    cloud.inject(Rule::new("snapshot", 1, Fault::FailBefore(Kind::Permanent)));
    assert!(cloud.capture(&request("r1", Consistency::Filesystem, None)).await.is_err());
    assert!(!cloud.is_frozen(&server));
    cloud.inject(Rule::new("snapshot", 1, Fault::HangBefore));
    let wanted = request("r2", Consistency::Filesystem, None);
    let crash = tokio::time::timeout(Duration::from_millis(10), cloud.capture(&wanted));
    assert!(crash.await.is_err());
    assert_eq!(cloud.write(&server, &vda, 0, &[1; 512]).unwrap_err().kind(), Kind::Transient);
    let left = cloud.owned().await.unwrap();
    assert_eq!((left.len(), left[0].kind.as_str()), (1, "capture"));
    cloud.delete(&left[0]).await.unwrap();
    cloud.write(&server, &vda, 0, &[1; 512]).unwrap();
    assert_eq!(cloud.hits().len(), 2);
}

#[tokio::test]
async fn an_answer_that_is_lost_has_had_its_effect_and_is_found_by_its_token() {
    let (cloud, ..) = cloud();
    cloud.inject(Rule::new("capture", 1, Fault::FailAfter(Kind::Transient)));
    assert!(cloud.capture(&request("r1", Consistency::Crash, None)).await.is_err());
    assert_eq!(cloud.owned().await.unwrap().len(), 1);
    cloud.capture(&request("r1", Consistency::Crash, None)).await.unwrap();
    assert_eq!(cloud.owned().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_writer_is_fenced_by_the_next_one_of_its_token() {
    let (cloud, _, vda) = cloud();
    let (_, mut old) = cloud.create_disk(&vda, SIZE, None, &token("r1")).await.unwrap();
    old.write(0, vec![1; 512].into()).await.unwrap();
    let (disk, new) = cloud.create_disk(&vda, SIZE, None, &token("r1")).await.unwrap();
    assert_eq!(old.write(512, vec![1; 512].into()).await.unwrap_err().kind(), Kind::Cancelled);
    let root = new.finish().await.unwrap().root;
    assert_eq!(root, disk::RootBuilder::new(SIZE).finish(), "the disk is emptied");
    assert_eq!((disk.name, cloud.owned().await.unwrap().len()), (vda, 1));
}

#[tokio::test]
async fn a_kept_cloud_outlives_its_process() {
    let folder = std::env::temp_dir().join(format!("replicate-kept-{}", std::process::id()));
    let open = || {
        let clock = Arc::new(ManualClock::new("2026-11-22T03:00:00Z".parse().unwrap()));
        MemoryCloud::kept(name("lab"), clock, &folder).unwrap()
    };
    let (server, vda): (ServerName, DiskName) = (name("web-1"), name("vda"));
    let first = open();
    first.add_server(server.clone(), machine(&["vda", "vdb"]));
    first.write(&server, &vda, 4096, &[5; 512]).unwrap();
    let capture = first.capture(&request("r1", Consistency::Crash, None)).await.unwrap();
    first.write(&server, &vda, 0, &[6; 512]).unwrap();
    let (disk, mut writer) = first.create_disk(&vda, SIZE, None, &token("r1")).await.unwrap();
    writer.write(LEAF, vec![7; LEAF as usize].into()).await.unwrap();
    let root = writer.finish().await.unwrap().root;
    let owned = first.owned().await.unwrap();
    drop(first);
    let second = open();
    assert_eq!(second.owned().await.unwrap(), owned);
    assert_eq!(second.capture(&request("r1", Consistency::Crash, None)).await.unwrap(), capture);
    assert_eq!(first_bytes(&second, &capture, &vda).await, [0; 512]);
    assert_eq!(second.read(&server, &vda, 0, 512).unwrap(), [6; 512]);
    second.release(&capture, Outcome::Committed).await.unwrap();
    let next = open().capture(&request("r2", Consistency::Crash, capture.cursor)).await.unwrap();
    assert!(next.disks.iter().all(|disk| disk.incremental), "change maps are kept");
    let (again, writer) = open().create_disk(&vda, SIZE, None, &token("r1")).await.unwrap();
    assert_eq!(again, disk);
    assert_ne!(writer.finish().await.unwrap().root, root, "the same token empties the disk");
    std::fs::remove_dir_all(&folder).unwrap();
}

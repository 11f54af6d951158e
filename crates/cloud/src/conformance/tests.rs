//! The suites pass on the memory cloud, and each check fails when the cloud breaks its promise.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use disk::LEAF;
use model::{DiskName, Kind, ManualClock, OwnerId, Result, RunId, ServerName, SiteName};

use super::{Finding, Probe, Verdict, relay, source, target};
use crate::memory::{Fault, MemoryCloud, Promise as P, Rule, tests::machine};

struct Hands(MemoryCloud);

fn server() -> ServerName {
    ServerName::new("web-1").unwrap()
}

#[async_trait]
impl Probe for Hands {
    fn owner(&self) -> OwnerId {
        OwnerId::new("conformance-test").unwrap()
    }

    fn run(&self) -> RunId {
        RunId::new("20261122T030000Z-00000001").unwrap()
    }

    fn server(&self) -> Option<ServerName> {
        Some(server())
    }

    fn may_switch(&self) -> bool {
        true
    }

    fn may_launch(&self) -> bool {
        true
    }

    fn disk_size(&self) -> u64 {
        1 << 20
    }

    fn limit(&self) -> Duration {
        Duration::from_secs(2)
    }

    async fn write(&self, server: &ServerName, disk: &DiskName, offset: u64, data: &[u8]) -> Option<Result<()>> {
        Some(self.0.write(server, disk, offset, data))
    }

    async fn frozen(&self, server: &ServerName) -> Option<Result<bool>> {
        Some(Ok(self.0.is_frozen(server)))
    }

    async fn lose_changes(&self, server: &ServerName) -> Option<Result<()>> {
        Some(self.0.lose_change_maps(server))
    }
}

fn cloud() -> MemoryCloud {
    let cloud = MemoryCloud::new(SiteName::new("lab").unwrap(), clock());
    let mut spec = machine(&["vda", "vdb"]);
    for disk in &mut spec.disks {
        disk.size = 20 * LEAF + 512;
    }
    cloud.add_server(server(), spec);
    for disk in ["vda", "vdb"] {
        cloud.write(&server(), &DiskName::new(disk).unwrap(), 2 * LEAF, &[9; 3 * LEAF as usize]).unwrap();
    }
    cloud
}

/// The three suites; images are relayed here from a second cloud that keeps its promises.
async fn all(cloud: &MemoryCloud) -> Vec<Finding> {
    let hands = Hands(cloud.clone());
    let other = MemoryCloud::new(SiteName::new("other").unwrap(), clock());
    MemoryCloud::join(&[cloud, &other]);
    cloud.set_copies(2, None, false);
    let mut findings = source(cloud, &hands).await;
    findings.extend(target(cloud, &hands).await);
    findings.extend(relay(&other, cloud, &hands).await);
    findings
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new("2026-11-22T03:00:00Z".parse().unwrap()))
}

fn failed(findings: &[Finding]) -> BTreeSet<String> {
    findings.iter().filter(|f| f.verdict == Verdict::Failed).map(|f| f.name.clone()).collect()
}

#[tokio::test]
async fn the_memory_cloud_keeps_every_promise() {
    let findings = all(&cloud()).await;
    let not_passed: Vec<_> = findings.iter().filter(|finding| finding.verdict != Verdict::Passed).collect();
    assert!(not_passed.is_empty(), "{not_passed:#?}");
    assert!(findings.len() >= 40, "{} checks", findings.len());
}

/// Every broken promise with the operation that breaks it.
const MUTANTS: &[(&str, P)] = &[
    ("capture", P::SameToken),
    ("create_disk", P::SameToken),
    ("register", P::SameToken),
    ("launch", P::SameToken),
    ("capture", P::Tagged),
    ("create_disk", P::Tagged),
    ("register", P::Tagged),
    ("launch", P::Tagged),
    ("create_disk", P::RoleKept),
    ("capture", P::AllDisks),
    ("extents", P::OnlyChanges),
    ("capture", P::OneInstant),
    ("capture", P::EveryChange),
    ("capture", P::CursorKnown),
    ("capture", P::Thawed),
    ("capture", P::AbandonKeeps),
    ("release", P::AbsentIsSuccess),
    ("delete", P::AbsentIsSuccess),
    ("destroy", P::AbsentIsSuccess),
    ("extents", P::FullReader),
    ("read", P::Bytes),
    ("read", P::WholeAnswer),
    ("open", P::IncrementalTold),
    ("create_disk", P::BaseKept),
    ("create_disk", P::Emptied),
    ("zero", P::ZeroIsData),
    ("write", P::Bytes),
    ("write", P::Bounds),
    ("finish", P::TrueRoot),
    ("has_leaf", P::LeafTruth),
    ("register", P::RoleKept),
    ("register", P::PointCarried),
    ("register", P::DisksExist),
    ("launch", P::ImageUntouched),
    ("destroy", P::Destroyed),
    ("owned", P::OwnedComplete),
    ("delete", P::Deleted),
    ("release", P::Deleted),
    ("describe", P::NotFoundTold),
    ("open_image", P::NotFoundTold),
    ("register", P::OptionsKept),
    ("register", P::OptionsRefused),
    ("protect", P::OptionsKept),
    ("images", P::HiddenListed),
    ("route", P::StrangerRefused),
    ("copy", P::SameToken),
    ("copy", P::Tagged),
    ("copy", P::RoleKept),
    ("copy", P::Bytes),
    ("copy", P::PointCarried),
    ("copy", P::NotFoundTold),
    ("state", P::NotFoundTold),
    ("commit", P::RoleKept),
    ("stop", P::Switched),
    ("stop", P::AbsentIsSuccess),
    ("stop", P::NotFoundTold),
    ("stop", P::Bytes),
    ("start", P::Switched),
    ("start", P::AbsentIsSuccess),
];

#[tokio::test]
async fn every_broken_promise_is_noticed_and_every_check_can_fail() {
    let every: BTreeSet<String> = all(&cloud()).await.into_iter().map(|finding| finding.name).collect();
    let mut wrong = Vec::new();
    let mut caught: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for &(operation, promise) in MUTANTS {
        let cloud = cloud();
        cloud.inject(Rule::always(operation, Fault::Break(promise)));
        let failed = failed(&all(&cloud).await);
        if cloud.hits().is_empty() {
            wrong.push(format!("{operation} {promise:?} was never broken"));
        }
        if failed.is_empty() {
            wrong.push(format!("{operation} {promise:?} was not noticed"));
        }
        for name in failed {
            caught.entry(name).or_default().push(format!("{operation} {promise:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let never: Vec<_> = every.iter().filter(|name| !caught.contains_key(*name)).collect();
    assert!(never.is_empty(), "no mutant makes these fail: {never:?}");
}

#[tokio::test]
async fn a_cloud_that_answers_nothing_yields_findings() {
    let cloud = cloud();
    MemoryCloud::join(&[&cloud, &MemoryCloud::new(SiteName::new("other").unwrap(), clock())]);
    cloud.inject(Rule::always("*", Fault::FailBefore(Kind::Denied)));
    let hands = Hands(cloud.clone());
    let mut findings = source(&cloud, &hands).await;
    findings.extend(target(&cloud, &hands).await);
    findings.extend(relay(&cloud, &cloud, &hands).await);
    assert!(findings.iter().all(|finding| finding.verdict != Verdict::Passed), "{findings:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_cloud_that_hangs_yields_findings() {
    let cloud = cloud();
    cloud.inject(Rule::always("*", Fault::HangBefore));
    let findings = source(&cloud, &Hands(cloud.clone())).await;
    assert!(findings[0].detail.contains("no answer within 2 s"), "{findings:#?}");
}

struct Blind;

impl Probe for Blind {
    fn owner(&self) -> OwnerId {
        OwnerId::new("conformance-test").unwrap()
    }

    fn run(&self) -> RunId {
        RunId::new("20261122T030000Z-00000002").unwrap()
    }

    fn server(&self) -> Option<ServerName> {
        Some(server())
    }
}

#[tokio::test]
async fn what_cannot_be_tried_is_skipped_with_its_reason() {
    let cloud = cloud();
    let mut findings = source(&cloud, &Blind).await;
    findings.extend(target(&cloud, &Blind).await);
    assert!(failed(&findings).is_empty(), "{findings:#?}");
    let skipped: Vec<_> = findings.iter().filter(|finding| finding.verdict == Verdict::Skipped).collect();
    assert!(skipped.iter().any(|finding| finding.name == "capture.one-instant"));
    assert!(skipped.iter().all(|finding| !finding.detail.is_empty()));
}

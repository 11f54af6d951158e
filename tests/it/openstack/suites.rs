//! The conformance suite of targets, on real services, and uploads that break; and the judge's word that nothing is left.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cloud::conformance::{self, Finding, Probe, Verdict};
use cloud::openstack::{OpenStackConfig, OpenStackSite};
use cloud::{Cloud, RetryOptions, Retrying, Target};
use disk::{Format, LEAF};
use model::{DiskName, OwnerId, RunId, ServerName, Token};

use super::house::{SERVER, TWO, region_config, usual};
use super::lab::{LIMIT, Lab, lab};

/// A project in which anything may be made.
struct Conforms {
    run: &'static str,
    server: bool,
}

#[async_trait]
impl Probe for Conforms {
    fn owner(&self) -> OwnerId {
        OwnerId::new("tests").unwrap()
    }

    fn run(&self) -> RunId {
        RunId::new(self.run).unwrap()
    }

    fn server(&self) -> Option<ServerName> {
        self.server.then(|| ServerName::new(SERVER).unwrap())
    }

    fn may_launch(&self) -> bool {
        true
    }

    fn limit(&self) -> Duration {
        LIMIT
    }
}

/// Nothing failed, and nothing was skipped but what a test may name.
fn all_passed(findings: &[Finding], may_skip: &[&str]) {
    for finding in findings {
        println!("{:?} {}: {}", finding.verdict, finding.name, finding.detail);
    }
    let of = |verdict| findings.iter().filter(move |finding| finding.verdict == verdict);
    assert_eq!(of(Verdict::Failed).count(), 0, "{findings:#?}");
    let skipped: Vec<&str> = of(Verdict::Skipped).map(|finding| finding.name.as_str()).collect();
    assert!(skipped.iter().all(|name| may_skip.contains(name)), "skipped: {skipped:?}");
    assert!(of(Verdict::Passed).count() > 4, "{findings:#?}");
}

/// Checks a suite between two looks of the judge.
async fn leaves_nothing(lab: &Lab, project: &str, suite: impl Future<Output = Vec<Finding>>, may_skip: &[&str]) {
    let clouds = [project, &format!("{project}-two")];
    let before = lab.judge(&clouds);
    all_passed(&suite.await, may_skip);
    let left = lab.judge(&clouds).since(&before);
    assert!(left.is_empty(), "left behind: {left:?}");
}

fn site(lab: &Lab, folder: &Path, (format, staged): (Format, bool)) -> OpenStackSite {
    let config = region_config(&lab.clouds(), folder, TWO, "target-two-least", usual());
    OpenStackSite::new(OpenStackConfig { format, staged, ..config })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_of_targets_passes() {
    let Some(lab) = lab() else { return };
    let project = "target";
    lab.clean(project);
    // the last one through Glance's staging place
    let ways = [
        ((Format::Qcow2, false), "20261122T030000Z-00000001"),
        ((Format::Raw, false), "20261122T030000Z-00000002"),
        ((Format::Qcow2, true), "20261122T030000Z-00000003"),
    ];
    for (way, run) in ways {
        let folder = tempfile::tempdir().unwrap();
        let site = site(&lab, folder.path(), way);
        let retrying = Retrying::new(Arc::new(site.clone()), RetryOptions::default());
        let probe = Conforms { run, server: false };
        leaves_nothing(&lab, project, conformance::target(&retrying, &probe), &[]).await;
        let scratch = walk(folder.path());
        assert!(scratch.is_empty(), "left in the scratch folder: {scratch:?}");
        broken_uploads(&lab, &site, run).await;
    }
}

/// Files below a folder.
fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

/// Writers that break off at all stages of an upload, each followed at once by the next one of their token: Glance has yet to
/// notice. The last one writes all, and its image is the only one.
async fn broken_uploads(lab: &Lab, site: &OpenStackSite, run: &str) {
    const SIZE: u64 = 512 * LEAF;
    let disk = DiskName::new("vda").unwrap();
    let token = Token {
        owner: OwnerId::new("tests").unwrap(),
        policy: None,
        server: ServerName::new(SERVER).unwrap(),
        run: RunId::new(run).unwrap(),
        step: "broken".to_owned(),
    };
    let before = lab.judge(&["target-two"]);
    for pieces in [1, 1, 3, 8, 16, 32, 32] {
        let (_, mut writer) = site.create_disk(&disk, SIZE, None, &token).await.unwrap();
        let known = [model::Extent::data(0, SIZE)].into_iter().collect();
        writer.announce(&known).await.unwrap();
        for piece in 0..pieces {
            writer.write(piece * 16 * LEAF, vec![piece as u8 | 1; 16 * LEAF as usize].into()).await.unwrap();
        }
        // what was written is on its way, or all of it but for the end
        drop(writer);
    }
    let (_, mut writer) = site.create_disk(&disk, SIZE, None, &token).await.unwrap();
    writer.write(0, vec![7; LEAF as usize].into()).await.unwrap();
    writer.finish().await.unwrap_or_else(|error| panic!("{}", error.chain()));
    let world = lab.judge(&["target-two"]);
    let new = world.since(&before);
    assert_eq!(new.len(), 1, "{new:?}");
    assert_eq!(world.image("target-two", &new.first().unwrap().id)["status"], "active");
    for resource in site.owned().await.unwrap() {
        site.delete(&resource).await.unwrap();
    }
    let left = lab.judge(&["target-two"]).since(&before);
    assert!(left.is_empty(), "left behind: {left:?}");
}

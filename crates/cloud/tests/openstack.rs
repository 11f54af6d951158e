//! The provider `openstack` against real services: `REPLICATE_OPENSTACK` is the folder of their `clouds.yaml`,
//! `tests/run.sh openstack` starts them. Skipped, loudly, where there are none.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a panic is a test's verdict, and a skip is told")]

use std::path::PathBuf;

use async_trait::async_trait;
use cloud::conformance::{self, Probe, Verdict};
use cloud::openstack::{CloudRef, OpenStackConfig, OpenStackSite, Restore};
use cloud::{Cloud, RetryOptions, Retrying};
use disk::Format;
use model::{OwnerId, RunId, SiteName};

/// A site at the test cloud, if it runs.
fn site(format: Format, scratch: PathBuf) -> Option<OpenStackSite> {
    let Some(folder) = std::env::var_os("REPLICATE_OPENSTACK") else {
        println!("SKIPPED: no OpenStack runs: `tests/run.sh openstack` starts one");
        return None;
    };
    let project = std::env::var("REPLICATE_OPENSTACK_PROJECT").unwrap_or_else(|_| "target".to_owned());
    let config = OpenStackConfig {
        site: SiteName::new("os").unwrap(),
        cloud: CloudRef {
            cloud: project,
            file: Some(PathBuf::from(folder).join("clouds.yaml")),
            region: None,
            interface: None,
        },
        scratch,
        format,
        restore: Restore::default(),
    };
    Some(OpenStackSite::new(config))
}

struct Suite {
    run: RunId,
    launch: bool,
}

#[async_trait]
impl Probe for Suite {
    fn owner(&self) -> OwnerId {
        OwnerId::new("conformance").unwrap()
    }

    fn run(&self) -> RunId {
        self.run.clone()
    }

    fn may_launch(&self) -> bool {
        self.launch
    }

    fn limit(&self) -> std::time::Duration {
        std::time::Duration::from_secs(1800)
    }
}

async fn passes(format: Format, launch: bool) {
    let scratch = tempfile::tempdir().unwrap();
    let Some(site) = site(format, scratch.path().to_owned()) else { return };
    let site = Retrying::new(std::sync::Arc::new(site), RetryOptions::default());
    let random = blake3::hash(scratch.path().to_str().unwrap().as_bytes());
    let seed = u32::from_le_bytes(random.as_bytes()[..4].try_into().unwrap());
    let run = RunId::at("2026-11-22T03:00:00Z".parse().unwrap(), seed);
    let findings = conformance::target(&site, &Suite { run, launch }).await;
    for finding in &findings {
        println!("{:?} {}: {}", finding.verdict, finding.name, finding.detail);
    }
    let not: Vec<_> = findings.iter().filter(|finding| finding.verdict == Verdict::Failed).collect();
    assert!(not.is_empty(), "{not:#?}");
    assert!(findings.len() > 10 && site.owned().await.is_ok());
    let left = std::fs::read_dir(scratch.path().join("os")).map_or(0, |entries| entries.count());
    assert_eq!(left, 0, "something is left in the scratch folder");
}

#[tokio::test]
async fn the_suite_of_targets_holds_with_qcow2() {
    passes(Format::Qcow2, true).await;
}

#[tokio::test]
async fn the_suite_of_targets_holds_with_raw() {
    passes(Format::Raw, false).await;
}

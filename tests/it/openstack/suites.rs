//! The conformance suite of targets, on real services, and the judge's word that it leaves nothing.

use std::time::Duration;

use async_trait::async_trait;
use cloud::conformance::{self, Finding, Probe, Verdict};
use model::{OwnerId, RunId, ServerName};

use super::house::{SERVER, TWO, region, usual};
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

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_of_targets_passes() {
    let Some(lab) = lab() else { return };
    let project = "target";
    lab.clean(project);
    let folder = tempfile::tempdir().unwrap();
    let site = region(&lab.clouds(), folder.path(), TWO, "target-two-least", usual());
    let probe = Conforms { run: "20261122T030000Z-00000001", server: false };
    leaves_nothing(&lab, project, conformance::target(&site, &probe), &[]).await;
}

//! What every provider promises, checked on a live site: one file per promise.
//!
//! The suites never panic and never stop early; they return [`Finding`]s, which `doctor` prints and tests assert on.
//! Everything they make carries the probe's run, and is deleted at the end. Point the source suite at a server that
//! may be captured at will: its captures take the place of that server's increments.

mod capture;
mod changed;
mod content;
mod launch;
mod options;
mod register;
mod relay;
mod sweep;
mod switch;
mod tags;
#[cfg(test)]
mod tests;
mod tokens;
mod write;

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use disk::LEAF;
use model::{
    Arch, Consistency, Cursor, DiskBus, DiskName, DiskSpec, Error, Firmware, ImageId, MachineSpec, OwnerId, PointDisk,
    RestorePoint, Result, RunId, ServerName, Tags, Token, tag,
};
use serde::{Deserialize, Serialize};

use crate::{Capture, CaptureRequest, Cloud, Consistent, Hook, Outcome, Resource, Source, Target};

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The promise holds.
    Passed,
    /// It does not.
    Failed,
    /// It could not be tried; the detail says why.
    Skipped,
}

/// What came of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// A stable name: `capture.same-token`.
    pub name: String,
    /// The promise in words.
    pub promise: String,
    /// How it ended.
    pub verdict: Verdict,
    /// Numbers, or why it failed or was skipped.
    pub detail: String,
}

/// What the suites need to know about a site, and what a person there can do. An action that is impossible answers
/// `None`, and the checks that need it are skipped.
#[async_trait]
pub trait Probe: Send + Sync {
    /// Whose tags everything made carries.
    fn owner(&self) -> OwnerId;

    /// A run of its own: everything that carries it is deleted at the end.
    fn run(&self) -> RunId;

    /// A server that may be captured.
    fn server(&self) -> Option<ServerName> {
        None
    }

    /// Whether the server may be switched off and on.
    fn may_switch(&self) -> bool {
        false
    }

    /// Whether an instance may be launched.
    fn may_launch(&self) -> bool {
        false
    }

    /// The size of disks that the target suite makes: a multiple of 1 MiB, at least 1 MiB.
    fn disk_size(&self) -> u64 {
        4 << 20
    }

    /// The longest that one check may take.
    fn limit(&self) -> Duration {
        Duration::from_secs(300)
    }

    /// Lets the guest write to its disk, so that it has arrived there when this returns.
    async fn write(&self, _server: &ServerName, _disk: &DiskName, _offset: u64, _data: &[u8]) -> Option<Result<()>> {
        None
    }

    /// Whether the guest's file systems are frozen.
    async fn frozen(&self, _server: &ServerName) -> Option<Result<bool>> {
        None
    }

    /// Loses what the site knows about changes of a server.
    async fn lose_changes(&self, _server: &ServerName) -> Option<Result<()>> {
        None
    }
}

/// Why a check did not pass.
#[derive(Debug)]
enum Stop {
    Failed(String),
    Skipped(String),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Failed(error.chain())
    }
}

/// What a check returns: a detail worth printing.
type Check<T = String> = std::result::Result<T, Stop>;

/// Ends a check as failed unless something holds.
fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Check<()> {
    if holds { Ok(()) } else { Err(Stop::Failed(otherwise())) }
}

fn skip<T>(why: &str) -> Check<T> {
    Err(Stop::Skipped(why.to_owned()))
}

/// A site under test and what was found so far.
struct Bench<'a> {
    cloud: &'a dyn Cloud,
    probe: &'a dyn Probe,
    findings: Mutex<Vec<Finding>>,
    captures: Mutex<Vec<Capture>>,
}

/// Runs the suite of a source. A site that is no source has one skipped finding.
pub async fn source(cloud: &dyn Cloud, probe: &dyn Probe) -> Vec<Finding> {
    let bench = Bench::new(cloud, probe);
    let why = match (cloud.source(), probe.server()) {
        (None, _) => Some("the site is not a source"),
        (_, None) => Some("no server may be captured"),
        _ => None,
    };
    if let Some(why) = why {
        bench.check("source", "servers can be captured", async { skip(why) }).await;
        return bench.into_findings();
    }
    capture::check(&bench).await;
    tokens::source(&bench).await;
    tags::source(&bench).await;
    changed::check(&bench).await;
    switch::check(&bench).await;
    bench.clean_up().await;
    bench.into_findings()
}

/// Runs the suite of a target. A site that is no target has one skipped finding.
pub async fn target(cloud: &dyn Cloud, probe: &dyn Probe) -> Vec<Finding> {
    let bench = Bench::new(cloud, probe);
    if cloud.target().is_none() {
        bench.check("target", "images can be made", async { skip("the site is not a target") }).await;
        return bench.into_findings();
    }
    write::check(&bench).await;
    tokens::target(&bench).await;
    tags::target(&bench).await;
    register::check(&bench).await;
    options::check(&bench).await;
    launch::check(&bench).await;
    sweep::check(&bench).await;
    bench.clean_up().await;
    bench.into_findings()
}

/// Runs the suite of a relay: images are made at `from` and copied to `to`. A pair without the role has one skipped
/// finding.
pub async fn relay(from: &dyn Cloud, to: &dyn Cloud, probe: &dyn Probe) -> Vec<Finding> {
    let (source, bench) = (Bench::new(from, probe), Bench::new(to, probe));
    if to.relay().is_none() || from.relay().is_none() || from.target().is_none() {
        let why = "the provider of the two sites copies no images between them";
        bench.check("relay", "images can be copied", async { skip(why) }).await;
        return bench.into_findings();
    }
    relay::check(&relay::Pair { from: &source, to: &bench }).await;
    source.clean_up().await;
    bench.clean_up().await;
    let mut findings = bench.into_findings();
    findings.extend(source.into_findings());
    findings
}

impl<'a> Bench<'a> {
    fn new(cloud: &'a dyn Cloud, probe: &'a dyn Probe) -> Self {
        Self { cloud, probe, findings: Mutex::default(), captures: Mutex::default() }
    }

    fn into_findings(self) -> Vec<Finding> {
        self.findings.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one check under the probe's limit and writes down what came of it.
    async fn check(&self, name: &str, promise: &str, check: impl Future<Output = Check> + Send) {
        let limit = self.probe.limit();
        let (verdict, detail) = match tokio::time::timeout(limit, check).await {
            Ok(Ok(detail)) => (Verdict::Passed, detail),
            Ok(Err(Stop::Failed(detail))) => (Verdict::Failed, detail),
            Ok(Err(Stop::Skipped(detail))) => (Verdict::Skipped, detail),
            Err(_) => (Verdict::Failed, format!("no answer within {} s", limit.as_secs())),
        };
        let finding = Finding { name: name.to_owned(), promise: promise.to_owned(), verdict, detail };
        self.findings.lock().unwrap_or_else(PoisonError::into_inner).push(finding);
    }

    fn source(&self) -> Check<&dyn Source> {
        self.cloud.source().ok_or_else(|| Stop::Skipped("the site is not a source".to_owned()))
    }

    fn target(&self) -> Check<&dyn Target> {
        self.cloud.target().ok_or_else(|| Stop::Skipped("the site is not a target".to_owned()))
    }

    fn server(&self) -> Check<ServerName> {
        self.probe.server().ok_or_else(|| Stop::Skipped("no server may be captured".to_owned()))
    }

    /// A token of this bench's run.
    fn token(&self, step: &str) -> Check<Token> {
        let server = match self.probe.server() {
            Some(server) => server,
            None => ServerName::new("conformance")?,
        };
        let step = format!("conformance-{step}");
        Ok(Token { owner: self.probe.owner(), policy: None, server, run: self.probe.run(), step })
    }

    fn request(&self, step: &str, level: Consistency, since: Option<Cursor>) -> Check<CaptureRequest> {
        let freeze_limit = Duration::from_secs(10);
        let consistent = Consistent { level, required: false, hook: Hook::default(), freeze_limit };
        Ok(CaptureRequest { server: self.server()?, consistent, since, token: self.token(step)? })
    }

    /// Captures the server; the clean-up will release it. A site may hold one capture of a server at a time, so
    /// captures of earlier checks go first.
    async fn capture(&self, step: &str, since: Option<Cursor>) -> Check<Capture> {
        let step_tag = self.token(step)?.step;
        for left in self.mine().await?.iter().filter(|left| left.kind == "capture") {
            if left.tags.get(tag::STEP) != Some(&step_tag) {
                self.cloud.delete(left).await?;
            }
        }
        let capture = self.source()?.capture(&self.request(step, Consistency::Crash, since)?).await?;
        self.captures.lock().unwrap_or_else(PoisonError::into_inner).push(capture.clone());
        Ok(capture)
    }

    /// Lets the guest write, or skips the check.
    async fn guest_writes(&self, disk: &DiskName, offset: u64, data: &[u8]) -> Check<()> {
        match self.probe.write(&self.server()?, disk, offset, data).await {
            Some(done) => Ok(done?),
            None => skip("nothing can be written inside the server from here"),
        }
    }

    /// Whatever carries this bench's run.
    async fn mine(&self) -> Check<Vec<Resource>> {
        let (owner, run) = (self.probe.owner(), self.probe.run());
        let ours = |resource: &Resource| {
            let has = |key: &str, value: &str| resource.tags.get(key).is_some_and(|found| found == value);
            has(tag::OWNER, owner.as_str()) && has(tag::RUN, run.as_str())
        };
        Ok(self.cloud.owned().await?.into_iter().filter(ours).collect())
    }

    /// Resources of one kind that a step has made.
    async fn made(&self, kind: &str, step: &str) -> Check<Vec<Resource>> {
        let step = self.token(step)?.step;
        let all = self.mine().await?;
        Ok(all.into_iter().filter(|r| r.kind == kind && r.tags.get(tag::STEP) == Some(&step)).collect())
    }

    /// A restore point to register disks with.
    fn point(&self, disks: Vec<PointDisk>) -> Check<RestorePoint> {
        let spec = |disk: &PointDisk| DiskSpec {
            name: disk.name.clone(),
            size: disk.size,
            bus: DiskBus::Virtio,
            serial: Some("conformance".to_owned()),
        };
        let machine = MachineSpec {
            arch: Arch::X86_64,
            firmware: Firmware::Bios,
            memory: 128 << 20,
            vcpus: 1,
            chipset: None,
            flavor: None,
            disks: disks.iter().map(spec).collect(),
            nics: Vec::new(),
            agent: false,
            tpm: false,
            tags: Tags::from([("purpose".to_owned(), "conformance".to_owned())]),
        };
        Ok(RestorePoint {
            id: self.probe.run().point(),
            server: self.token("point")?.server,
            site: Some(self.cloud.site().clone()),
            policy: None,
            owner: None,
            taken_at: jiff::Timestamp::UNIX_EPOCH,
            consistency: Consistency::Crash,
            machine,
            disks,
            program: concat!("replicate ", env!("CARGO_PKG_VERSION")).to_owned(),
        })
    }

    /// Number of whole leaves of the disks that the target suite makes.
    fn leaves(&self) -> u64 {
        (self.probe.disk_size() / LEAF).max(16)
    }

    /// Deletes everything of this bench's run, and sees that nothing is left.
    async fn clean_up(&self) {
        let check = async {
            let captures = std::mem::take(&mut *self.captures.lock().unwrap_or_else(PoisonError::into_inner));
            if let Some(source) = self.cloud.source() {
                for capture in captures {
                    // also after a commit: its cursor is nobody's base
                    source.release(&capture, Outcome::Abandoned).await?;
                }
            }
            let left = self.mine().await?;
            for resource in &left {
                if let (Some(target), "image") = (self.cloud.target(), resource.kind.as_str()) {
                    target.protect(&ImageId::new(resource.id.as_str())?, false).await?;
                }
                self.cloud.delete(resource).await?;
            }
            let still: Vec<String> = self.mine().await?.iter().map(|r| format!("{} {}", r.kind, r.id)).collect();
            ensure(still.is_empty(), || format!("still there after deletion: {}", still.join(", ")))?;
            Ok(format!("{} deleted", left.len()))
        };
        self.check("sweep.clean", "nothing of a dead run is left after a sweep", check).await;
    }
}

//! The project as a source: the suite of sources on both kinds of servers, the moment that a capture shows, and kills
//! at every point.

use std::collections::BTreeSet;
use std::io::{Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use cloud::conformance::{self, Probe, Verdict};
use cloud::openstack::{CloudRef, OpenStackConfig, OpenStackSite, Restore};
use cloud::{Capture, CaptureRequest, Cloud, Consistent, Hook, Outcome, Power, Retrying, Source};
use disk::{DiskRead, Format};
use model::{Change, Consistency, DiskName, OwnerId, RunId, ServerName, SiteName, Token};

use super::lab::{LIMIT, Lab, lab};

/// The project of the kills.
const PROJECT: &str = "killed";
const OWNER: &str = "tests";
/// Where the guest's root file system begins on its disk: see `make_disk` of the guest's script.
pub const ROOT_AT: u64 = 36_864 * 512;
const CLOUDS: &str = "REPLICATE_TEST_CLOUDS";
const RUN: &str = "REPLICATE_TEST_RUN";

pub fn site(clouds: &Path, project: &str) -> OpenStackSite {
    let cloud =
        CloudRef { cloud: format!("{project}-least"), file: Some(clouds.to_owned()), region: None, interface: None };
    OpenStackSite::new(OpenStackConfig {
        site: SiteName::new("lab").unwrap(),
        cloud,
        scratch: std::env::temp_dir().join("replicate-openstack-source"),
        format: Format::Qcow2,
        staged: false,
        restore: Restore::default(),
    })
}

fn name(text: &str) -> ServerName {
    ServerName::new(text).unwrap()
}

pub fn request(server: &str, run: &str) -> CaptureRequest {
    let (level, hook, freeze_limit) = (Consistency::Crash, Hook::default(), Duration::from_secs(10));
    let run = RunId::new(run).unwrap();
    let token = Token {
        owner: OwnerId::new(OWNER).unwrap(),
        policy: None,
        server: name(server),
        run,
        step: "capture".to_owned(),
    };
    let consistent = Consistent { level, required: false, hook, freeze_limit };
    CaptureRequest { server: name(server), consistent, since: None, token }
}

fn serve(lab: &Lab, project: &str, server: &str, boots_from: &str) {
    let id =
        lab.hands(&["serve", project, server, boots_from, &lab.guest_image(project), &lab.data_image(project, &[])]);
    lab.console(project, &id, "REPLICATE-SEQ");
}

struct Suite(&'static str);

#[async_trait]
impl Probe for Suite {
    fn owner(&self) -> OwnerId {
        OwnerId::new(OWNER).unwrap()
    }

    fn run(&self) -> RunId {
        RunId::new(format!("20261122T030000Z-{}", self.0)).unwrap()
    }

    fn server(&self) -> Option<ServerName> {
        Some(name(self.0))
    }

    fn may_switch(&self) -> bool {
        true
    }

    fn limit(&self) -> Duration {
        LIMIT
    }
}

/// Writes a disk into a file with holes.
async fn write_out(reader: &dyn DiskRead, file: &Path) {
    use std::os::unix::fs::FileExt;
    let out = std::fs::File::create(file).unwrap();
    out.set_len(reader.size()).unwrap();
    let mut at = 0;
    while at < reader.size() {
        let page = reader.extents(at).await.unwrap();
        for extent in page.as_slice() {
            at = extent.end();
            let mut from = extent.offset;
            while extent.change == Change::Data && from < extent.end() {
                let len = (extent.end() - from).min(1 << 20);
                out.write_all_at(&reader.read_at(from, len as usize).await.unwrap(), from).unwrap();
                from += len;
            }
        }
    }
}

/// A file of a file system that was cut off by the capture: its journal is played first, as a boot would.
fn read_file(disk: &Path, offset: u64, file: &str) -> String {
    let part = disk.with_extension("part");
    let (mut from, mut to) = (std::fs::File::open(disk).unwrap(), std::fs::File::create(&part).unwrap());
    from.seek(SeekFrom::Start(offset)).unwrap();
    std::io::copy(&mut from, &mut to).unwrap();
    let checked = Command::new("e2fsck").arg("-fy").arg(&part).output().unwrap();
    assert!(checked.status.code().is_some_and(|code| code < 4), "{}", String::from_utf8_lossy(&checked.stdout));
    let read = Command::new("debugfs").args(["-R", &format!("cat {file}")]).arg(&part).output().unwrap();
    String::from_utf8_lossy(&read.stdout).trim().to_owned()
}

/// The last order on the root disk and on the data disk.
pub async fn orders(site: &dyn Source, capture: &Capture) -> (u64, u64) {
    let folder = tempfile::tempdir().unwrap();
    let mut seen = Vec::new();
    for (disk, offset, file) in [("vda", ROOT_AT, "/data/seq"), ("vdb", 0, "/seq")] {
        let reader = site.open(capture, &DiskName::new(disk).unwrap(), false).await.unwrap();
        let path: PathBuf = folder.path().join(disk);
        write_out(reader.as_ref(), &path).await;
        seen.push(read_file(&path, offset, file).parse().unwrap());
    }
    (seen[0], seen[1])
}

/// Captures the writing guest as it is, and looks at the moment that its disks show.
async fn moment(site: &OpenStackSite, server: &str, run: &str) {
    let capture = site.capture(&request(server, run)).await.unwrap();
    let told = capture.warnings.iter().any(|warning| warning.starts_with("multi-disk instant not atomic"));
    let (root, data) = orders(site, &capture).await;
    println!("{server}: orders {root} and {data}, warnings {:?}", capture.warnings);
    let power = site.describe(&name(server)).await.unwrap().power;
    assert_eq!(told, power == Power::On);
    assert!(told || root == data || root == data + 1, "disks of two moments, and nobody was told: {root} {data}");
    assert!(root > 0 && data > 0);
    site.release(&capture, Outcome::Committed).await.unwrap();
}

/// Every promise of a source, and the moment that a capture shows, of a server that runs and of the same one when it is off.
async fn captured(project: &str, boots_from: &str) {
    let Some(lab) = lab() else { return };
    lab.clean(project);
    let (site, server) = (site(&lab.clouds(), project), "web-1");
    serve(&lab, project, server, boots_from);
    let before = lab.judge(&[project]);
    let retrying = Retrying::new(Arc::new(site.clone()), Default::default());
    for finding in conformance::source(&retrying, &Suite(server)).await {
        println!("{boots_from}: {:?} {} {}", finding.verdict, finding.name, finding.detail);
        assert_ne!(finding.verdict, Verdict::Failed, "{}: {}", finding.name, finding.detail);
    }
    moment(&site, server, "20261122T030000Z-00000001").await;
    lab.hands(&["stop", project, server]);
    moment(&site, server, "20261122T030000Z-00000002").await;
    assert_eq!(lab.judge(&[project]).since(&before), BTreeSet::new());
    lab.clean(project);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "some twenty volumes, one after another: minutes"]
async fn a_server_on_volumes_is_captured_as_every_source_promises() {
    captured("volumes", "volume").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_on_an_image_is_captured_as_every_source_promises() {
    captured("source", "image").await;
}

/// A whole life of a capture, at whatever point it is.
async fn live(site: &OpenStackSite, run: &str) {
    let capture = site.capture(&request("web-1", run)).await.unwrap();
    for disk in &capture.disks {
        let reader = site.open(&capture, &disk.name, false).await.unwrap();
        assert_eq!(reader.read_at(0, 4096).await.unwrap().len(), 4096);
    }
    site.release(&capture, Outcome::Committed).await.unwrap();
}

/// The child process: does the work, and dies where it is told to.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the child of a_kill_at_every_point_leaves_nothing"]
async fn child() {
    let (Some(clouds), Ok(run)) = (std::env::var_os(CLOUDS), std::env::var(RUN)) else { return };
    live(&site(Path::new(&clouds), PROJECT), &run).await;
}

/// Whether it was killed, and where.
fn run_child(lab: &Lab, run: &str, at: u64) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("points");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "openstack::source::child", "--ignored"]).env(CLOUDS, lab.clouds()).env(RUN, run);
    command.env("REPLICATE_CRASH_AT", at.to_string()).env("REPLICATE_CRASH_LOG", &log);
    let output = command.output().unwrap();
    let killed = output.status.signal() == Some(9);
    assert!(killed || output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let points = std::fs::read_to_string(&log).unwrap();
    killed.then(|| points.lines().last().unwrap_or_default().to_owned())
}

/// Sweeps until the judge sees nothing new: what a service was still making shows up late.
async fn sweep(lab: &Lab, site: &OpenStackSite, before: &super::lab::World, when: &str) {
    let until = Instant::now() + LIMIT;
    loop {
        for resource in site.owned().await.unwrap() {
            assert_eq!(resource.tags["replicate:owner"], OWNER, "{resource:?}");
            site.delete(&resource).await.unwrap();
        }
        let left = lab.judge(&[PROJECT]).since(before);
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < until, "killed at {when}: {left:?} is left");
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "kills a capture of a volume-backed server at every point: half an hour"]
async fn a_kill_at_every_point_leaves_nothing() {
    let Some(lab) = lab() else { return };
    lab.clean(PROJECT);
    let site = site(&lab.clouds(), PROJECT);
    serve(&lab, PROJECT, "web-1", "volume");
    let before = lab.judge(&[PROJECT]);
    let mut resumed = 0;
    for at in 1.. {
        let run = format!("20261122T030000Z-{at:08x}");
        let Some(when) = run_child(&lab, &run, at) else { break };
        // the run goes on, or it is given up: both must end with nothing left. One that releases its capture takes it no more
        if at % 2 == 0 && !when.contains("openstack.release.") {
            live(&site, &run).await;
            resumed += 1;
        }
        sweep(&lab, &site, &before, &when).await;
        println!("killed at {when}: nothing is left");
    }
    assert!(resumed >= 10, "{resumed} points");
    lab.clean(PROJECT);
}

//! The provider `aws` against the simulated cloud: both conformance suites, and what AWS alone does.

#![allow(clippy::expect_used, clippy::print_stdout, clippy::unwrap_used, reason = "a panic is a test's verdict")]

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use async_trait::async_trait;
use cloud::conformance::{self, Finding, Probe, Verdict};
use cloud::{Cloud, RetryOptions, Retrying};
use cloud_aws::ec2::{AwsConfig, AwsSite, Endpoints, Restore};
use disk::LEAF;
use jiff::Timestamp;
use model::{
    Clock, DiskName, ImageOptions, OwnerId, PointDisk, RestorePoint, Result, Role, RunId, ServerName, SiteName, Token,
};
use serde_json::{Value, json};
use tests::sim::CloudSim;

const REGION: &str = "eu-west-1";

struct Now;

impl Clock for Now {
    #[allow(clippy::disallowed_methods, reason = "the simulator's clock is the machine's")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

fn config(sim: &CloudSim, scratch: &std::path::Path) -> AwsConfig {
    let (region, account) = (&sim.greeting["regions"][REGION], &sim.greeting["accounts"][0]);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    AwsConfig {
        site: SiteName::new("aws-eu").unwrap(),
        region: REGION.to_owned(),
        profile: None,
        keys: Some((text(&account["access-key"]), text(&account["secret-key"]).into())),
        role: None,
        endpoints: Endpoints {
            ec2: Some(text(&region["ec2"])),
            ebs: Some(text(&region["ebs"])),
            sts: Some(text(&region["sts"])),
        },
        kms_key: None,
        scratch: scratch.to_owned(),
        restore: Restore::default(),
    }
}

fn open(config: AwsConfig) -> Retrying {
    Retrying::new(Arc::new(AwsSite::new(config, Arc::new(Now))), RetryOptions::default())
}

/// A server `web-1` of two disks that nobody but the test writes to; answers the volumes.
fn server(sim: &CloudSim, folder: &std::path::Path) -> Vec<String> {
    let mut disks = Vec::new();
    for name in ["root", "data"] {
        let file = folder.join(format!("{name}.raw"));
        std::fs::write(&file, vec![if name == "root" { 7 } else { 9 }; 3 << 20]).unwrap();
        disks.push(file);
    }
    let account = sim.greeting["accounts"][0]["account"].clone();
    let wanted = json!({"account": account, "region": REGION, "name": "web-1", "disks": disks, "running": false});
    let made = sim.control("POST", "servers", &wanted);
    made["volumes"].as_array().unwrap().iter().map(|it| it.as_str().unwrap().to_owned()).collect()
}

struct Conforms<'a> {
    sim: &'a CloudSim,
    run: &'static str,
    /// By device.
    volumes: Vec<(String, String)>,
}

#[async_trait]
impl Probe for Conforms<'_> {
    fn owner(&self) -> OwnerId {
        OwnerId::new("tests").unwrap()
    }

    fn run(&self) -> RunId {
        RunId::new(self.run).unwrap()
    }

    fn server(&self) -> Option<ServerName> {
        (!self.volumes.is_empty()).then(|| ServerName::new("web-1").unwrap())
    }

    fn may_launch(&self) -> bool {
        true
    }

    async fn write(&self, _server: &ServerName, disk: &DiskName, offset: u64, data: &[u8]) -> Option<Result<()>> {
        let volume = self.volumes.iter().find(|(name, _)| name == disk.as_str()).map(|(_, id)| self.sim.volume(id))?;
        let file = std::fs::File::options().write(true).open(volume).unwrap();
        file.write_all_at(data, offset).unwrap();
        Some(Ok(()))
    }
}

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

/// What exists, but for what was there before.
fn state(sim: &CloudSim) -> Vec<Value> {
    let all = sim.control("GET", "state", &Value::Null);
    let all = all["resources"].as_array().cloned().unwrap();
    // EC2 shows a terminated instance for an hour
    all.into_iter().filter(|it| it["state"] != "gone").collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_of_targets_passes_and_leaves_nothing() {
    let (sim, folder) = (CloudSim::start(&["--calm", "--no-qemu"]), tempfile::tempdir().unwrap());
    let before = state(&sim);
    let site = open(config(&sim, folder.path()));
    let probe = Conforms { sim: &sim, run: "20261122T030000Z-00000001", volumes: Vec::new() };
    all_passed(&conformance::target(&site, &probe).await, &[]);
    assert_eq!(state(&sim), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_of_sources_passes_and_leaves_nothing() {
    let (sim, folder) = (CloudSim::start(&["--calm", "--no-qemu"]), tempfile::tempdir().unwrap());
    let volumes = server(&sim, folder.path());
    let before = state(&sim);
    let site = open(config(&sim, folder.path()));
    let described = site.source().unwrap().describe(&ServerName::new("web-1").unwrap()).await.unwrap();
    let names = described.machine.disks.iter().map(|disk| disk.name.to_string());
    let probe = Conforms { sim: &sim, run: "20261122T030000Z-00000002", volumes: names.zip(volumes).collect() };
    all_passed(&conformance::source(&site, &probe).await, &["capture.thawed", "changes.lost"]);
    assert_eq!(state(&sim), before);
}

fn token(step: &str) -> Token {
    Token {
        owner: OwnerId::new("tests").unwrap(),
        policy: None,
        server: ServerName::new("web-1").unwrap(),
        run: RunId::new("20261122T030000Z-00000003").unwrap(),
        step: step.to_owned(),
    }
}

fn point(size: u64, root: model::DiskRoot) -> RestorePoint {
    let name = DiskName::new("vda").unwrap();
    serde_json::from_value(json!({
        "id": "20261122T030000Z-00000003", "server": "web-1", "taken_at": "2026-11-22T03:00:00Z",
        "consistency": "crash", "program": "replicate 0.1.0",
        "machine": { "arch": "x86-64", "firmware": { "kind": "bios" }, "memory": 268_435_456, "vcpus": 1,
            "disks": [{ "name": "vda", "size": size, "bus": "virtio" }] },
        "disks": [PointDisk { name, size, root }],
    }))
    .unwrap()
}

/// Bytes of `name` that the simulator was sent.
fn puts(sim: &CloudSim) -> usize {
    let calls = sim.control("GET", "calls", &Value::Null);
    calls.as_array().unwrap().iter().filter(|call| call["operation"] == "PutSnapshotBlock").count()
}

/// Writes a disk on `base`: the leaves that `changed` names, all of them without a base.
async fn image(
    site: &dyn Cloud,
    step: &str,
    size: u64,
    base: Option<&model::ImageId>,
    leaves: &[(u64, u8)],
) -> (model::ImageId, disk::Written) {
    let (target, name) = (site.target().unwrap(), DiskName::new("vda").unwrap());
    let (disk, mut writer) = target.create_disk(&name, size, base, &token(step)).await.unwrap();
    for (index, byte) in leaves {
        writer.write(index * LEAF, vec![*byte; LEAF as usize].into()).await.unwrap();
    }
    let written = writer.finish().await.unwrap();
    let options = ImageOptions::default();
    let point = point(size, written.root);
    let id = target.register(&[disk], &point, &options, Role::Replica, &token(step)).await.unwrap();
    (id, written)
}

async fn read(site: &dyn Cloud, image: &model::ImageId, size: u64) -> Vec<u8> {
    let reader = site.target().unwrap().open_image(image, &DiskName::new("vda").unwrap()).await.unwrap();
    let mut all = Vec::new();
    while (all.len() as u64) < size {
        let take = (size as usize - all.len()).min(1 << 20);
        all.extend_from_slice(&reader.read_at(all.len() as u64, take).await.unwrap());
    }
    all
}

fn bytes(size: u64, leaves: &[(u64, u8)]) -> Vec<u8> {
    let mut all = vec![0; size as usize];
    for (index, byte) in leaves {
        all[(index * LEAF) as usize..][..LEAF as usize].fill(*byte);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_puts_what_changed_whether_or_not_its_hashes_are_known() {
    let (sim, folder) = (CloudSim::start(&["--calm", "--no-qemu"]), tempfile::tempdir().unwrap());
    let site = open(config(&sim, folder.path()));
    let size = 64 << 20;
    let all: Vec<(u64, u8)> = (0..size / LEAF).map(|index| (index, 1 + (index % 200) as u8)).collect();
    let (first, written) = image(&site, "first", size, None, &all).await;
    assert_eq!((puts(&sim), written.stored), (128, size));
    let change = [(9, 250), (500, 251)];
    let mut expected = all.clone();
    for (index, byte) in change {
        expected[index as usize].1 = byte;
    }
    let (second, written) = image(&site, "second", size, Some(&first), &change).await;
    assert_eq!((puts(&sim), written.stored, written.fresh), (130, 1 << 20, 2 * LEAF));
    assert!(read(&site, &second, size).await == bytes(size, &expected));
    let target = site.target().unwrap();
    let disk = |root| PointDisk { name: DiskName::new("vda").unwrap(), size, root };
    let checked = target.check_written(&second, &disk(written.root), &disk::Silent).await.unwrap();
    assert_eq!(checked, Some(1 << 20), "only what was put is read back");
    let wrong = target.check_written(&second, &disk(model::DiskRoot([7; 32])), &disk::Silent).await.unwrap_err();
    assert_eq!(wrong.kind(), model::Kind::Damaged);
    assert_eq!(target.check_written(&first, &disk(written.root), &disk::Silent).await.unwrap(), None);
    // a host that knows nothing of the base reads it once, and comes to the same root
    let other = tempfile::tempdir().unwrap();
    let elsewhere = open(config(&sim, other.path()));
    let (third, again) = image(&elsewhere, "third", size, Some(&first), &change).await;
    assert_eq!((puts(&sim), again.root), (132, written.root));
    assert!(read(&site, &third, size).await == bytes(size, &expected));
    assert!(read(&site, &first, size).await == bytes(size, &all), "the base has changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_writes_is_zero_in_an_encrypted_snapshot_too() {
    let (sim, folder) = (CloudSim::start(&["--calm", "--no-qemu"]), tempfile::tempdir().unwrap());
    let account = sim.greeting["accounts"][0]["account"].as_str().unwrap();
    let key = format!("arn:aws:kms:{REGION}:{account}:key/replicas");
    let encrypted = AwsConfig { kms_key: Some(key), ..config(&sim, folder.path()) };
    let (plain, site) = (open(config(&sim, folder.path())), open(encrypted));
    let size = 4 << 20;
    let leaves = [(3, 5), (40, 6)];
    let (image_1, written) = image(&site, "one", size, None, &leaves).await;
    assert_eq!(written.stored, 1 << 30, "every block of the volume");
    assert!(read(&site, &image_1, size).await == bytes(size, &leaves));
    // a parent of the same key is one; of none, it is read and written over
    let (image_2, written) = image(&site, "two", size, Some(&image_1), &[(3, 9)]).await;
    assert_eq!(written.stored, 512 << 10);
    assert!(read(&site, &image_2, size).await == bytes(size, &[(3, 9), (40, 6)]));
    let (bare, _) = image(&plain, "three", size, None, &leaves).await;
    let (image_4, written) = image(&site, "four", size, Some(&bare), &[(40, 8)]).await;
    assert_eq!(written.stored, 1 << 30);
    assert!(read(&site, &image_4, size).await == bytes(size, &[(3, 5), (40, 8)]));
}

/// With all delays and the lag of reads, in simulated time that runs fast; some calls fail in every way.
#[tokio::test(flavor = "multi_thread")]
async fn bad_weather_and_faults_cost_time_alone() {
    let (sim, folder) = (CloudSim::start(&["--no-qemu"]), tempfile::tempdir().unwrap());
    sim.control("POST", "clock", &json!({"speed": 60}));
    let rules = [
        json!({"operation": "PutSnapshotBlock", "every": 5, "fault": {"kind": "status", "status": 503, "code": "Unavailable"}}),
        json!({"operation": "PutSnapshotBlock", "every": 7, "fault": {"kind": "drop"}}),
        json!({"operation": "GetSnapshotBlock", "every": 4, "fault": {"kind": "flip", "byte": 4711, "bit": 3}}),
        json!({"operation": "GetSnapshotBlock", "every": 9, "fault": {"kind": "truncate", "after": 300_000}}),
        json!({"operation": "StartSnapshot", "nth": 1, "fault": {"kind": "drop"}}),
        json!({"operation": "CompleteSnapshot", "nth": 1, "fault": {"kind": "drop"}}),
        json!({"operation": "RegisterImage", "nth": 1, "fault": {"kind": "drop"}}),
        json!({"operation": "DeregisterImage", "nth": 1, "fault": {"kind": "drop"}}),
        json!({"operation": "RunInstances", "nth": 1, "fault": {"kind": "drop"}}),
        json!({"operation": "Describe*", "every": 11, "fault": {"kind": "status", "status": 503, "code": "RequestLimitExceeded"}}),
    ];
    for rule in &rules {
        sim.control("POST", "rules", rule);
    }
    let site = open(config(&sim, folder.path()));
    let size = 16 << 20;
    let all: Vec<(u64, u8)> = (0..size / LEAF).map(|index| (index, 1 + (index % 200) as u8)).collect();
    let (first, _) = image(&site, "first", size, None, &all).await;
    let (second, _) = image(&site, "second", size, Some(&first), &[(9, 250)]).await;
    let mut expected = all.clone();
    expected[9].1 = 250;
    assert!(read(&site, &second, size).await == bytes(size, &expected));
    let target = site.target().unwrap();
    let options = cloud::LaunchOptions {
        name: ServerName::new("drill").unwrap(),
        network: cloud::Network::Isolated,
        ports: Vec::new(),
        ephemeral: true,
    };
    let instance = target.launch(&second, &options, &token("launch")).await.unwrap();
    assert_eq!(target.launch(&second, &options, &token("launch")).await.unwrap(), instance);
    assert!(state(&sim).iter().any(|it| it["about"]["isolated"] == true), "the drill is isolated");
    target.destroy(&instance.id).await.unwrap();
    for image in [&first, &second] {
        for resource in site.owned().await.unwrap().iter().filter(|it| it.id == image.as_str()) {
            site.delete(resource).await.unwrap();
        }
    }
    let left = state(&sim);
    assert!(left.is_empty(), "{left:#?}");
}

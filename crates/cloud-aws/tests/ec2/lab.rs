//! The simulated cloud, sites of it, and what tests put there.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use async_trait::async_trait;
use cloud::conformance::{Finding, Probe, Verdict};
use cloud::{Cloud, RetryOptions, Retrying};
use cloud_aws::ec2::{AwsConfig, AwsSite, Endpoints, Restore};
use disk::LEAF;
use jiff::Timestamp;
use model::{
    Clock, DiskName, ImageOptions, OwnerId, PointDisk, RestorePoint, Result, Role, RunId, ServerName, SiteName, Token,
};
use serde_json::{Value, json};
use tests::sim::CloudSim;

pub const REGION: &str = "eu-west-1";

pub struct Now;

impl Clock for Now {
    #[allow(clippy::disallowed_methods, reason = "the simulator's clock is the machine's")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

pub fn config(sim: &CloudSim, scratch: &std::path::Path) -> AwsConfig {
    config_of(sim, scratch, REGION)
}

/// The first account in a region.
pub fn config_of(sim: &CloudSim, scratch: &std::path::Path, name: &str) -> AwsConfig {
    let (region, account) = (&sim.greeting["regions"][name], &sim.greeting["accounts"][0]);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    AwsConfig {
        site: SiteName::new(name).unwrap(),
        region: name.to_owned(),
        profile: None,
        keys: Some((text(&account["access-key"]), text(&account["secret-key"]).into())),
        role: None,
        endpoints: Endpoints {
            ec2: Some(text(&region["ec2"])),
            ebs: Some(text(&region["ebs"])),
            sts: Some(text(&region["sts"])),
            ssm: Some(text(&region["ssm"])),
        },
        kms_key: None,
        scratch: scratch.to_owned(),
        restore: Restore::default(),
        freeze: None,
    }
}

pub fn open(config: AwsConfig) -> Retrying {
    Retrying::new(Arc::new(AwsSite::new(config, Arc::new(Now))), RetryOptions::default())
}

/// A server `web-1` of two disks that nobody but the test writes to; answers the volumes.
pub fn server(sim: &CloudSim, folder: &std::path::Path) -> Vec<String> {
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

pub struct Conforms<'a> {
    pub sim: &'a CloudSim,
    pub run: &'static str,
    /// By device.
    pub volumes: Vec<(String, String)>,
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

    fn may_switch(&self) -> bool {
        true
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

pub fn all_passed(findings: &[Finding], may_skip: &[&str]) {
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
pub fn state(sim: &CloudSim) -> Vec<Value> {
    let all = sim.control("GET", "state", &Value::Null);
    let all = all["resources"].as_array().cloned().unwrap();
    // EC2 shows a terminated instance for an hour
    all.into_iter().filter(|it| it["state"] != "gone").collect()
}

pub fn token(step: &str) -> Token {
    Token {
        owner: OwnerId::new("tests").unwrap(),
        policy: None,
        server: ServerName::new("web-1").unwrap(),
        run: RunId::new("20261122T030000Z-00000003").unwrap(),
        step: step.to_owned(),
    }
}

pub fn point(size: u64, root: model::DiskRoot) -> RestorePoint {
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

/// Blocks that the simulator was sent.
pub fn puts(sim: &CloudSim) -> usize {
    calls(sim, "PutSnapshotBlock").len()
}

/// The calls of an operation.
pub fn calls(sim: &CloudSim, operation: &str) -> Vec<Value> {
    let calls = sim.control("GET", "calls", &Value::Null);
    calls.as_array().unwrap().iter().filter(|call| call["operation"] == operation).cloned().collect()
}

/// Writes a disk on `base`: the leaves that `changed` names, all of them without a base.
pub async fn image(
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

pub async fn read(site: &dyn Cloud, image: &model::ImageId, size: u64) -> Vec<u8> {
    let reader = site.target().unwrap().open_image(image, &DiskName::new("vda").unwrap()).await.unwrap();
    let mut all = Vec::new();
    while (all.len() as u64) < size {
        let take = (size as usize - all.len()).min(1 << 20);
        all.extend_from_slice(&reader.read_at(all.len() as u64, take).await.unwrap());
    }
    all
}

pub fn bytes(size: u64, leaves: &[(u64, u8)]) -> Vec<u8> {
    let mut all = vec![0; size as usize];
    for (index, byte) in leaves {
        all[(index * LEAF) as usize..][..LEAF as usize].fill(*byte);
    }
    all
}

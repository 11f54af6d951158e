//! Writes a disk to the simulated AWS and reads it back through the provider, with latency and a limit of requests:
//! what `tests/bench/aws.sh` measures.
//!
//! ```text
//! aws LIMIT BURST LATENCY SECONDS
//! ```
//! LIMIT block requests a second for a snapshot, of which BURST are had at once after a pause, LATENCY in milliseconds for
//! each, for about SECONDS. One line of figures for each way; those of a burst are not counted as the limit's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use cloud::{Cloud, RetryOptions, Retrying};
use cloud_aws::ec2::{AwsConfig, AwsSite, Endpoints, Restore};
use disk::{Discard, DiskRead, DiskWrite, Silent, transfer};
use jiff::Timestamp;
use model::{
    Clock, DiskName, DiskRoot, Extent, ExtentList, ImageId, ImageOptions, OwnerId, PointDisk, Result, Role, RunId,
    ServerName, SiteName, Token,
};
use serde_json::{Value, json};
use tests::sim::CloudSim;

const REGION: &str = "eu-west-1";
const BLOCK: u64 = 512 << 10;

/// A disk that costs nothing to read.
struct Somewhere(u64, Bytes);

#[async_trait]
impl DiskRead for Somewhere {
    fn size(&self) -> u64 {
        self.0
    }

    async fn extents(&self, from: u64) -> Result<ExtentList> {
        let mut list = ExtentList::new();
        list.push(Extent::data(from, self.0 - from));
        Ok(list)
    }

    async fn read_at(&self, _offset: u64, len: usize) -> Result<Bytes> {
        Ok(self.1.slice(..len))
    }

    fn describe(&self) -> String {
        "a disk".to_owned()
    }
}

struct Now;

impl Clock for Now {
    #[allow(clippy::disallowed_methods, reason = "the simulator's clock is the machine's")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

fn site(sim: &CloudSim, scratch: &std::path::Path) -> Retrying {
    let (region, account) = (&sim.greeting["regions"][REGION], &sim.greeting["accounts"][0]);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let config = AwsConfig {
        site: SiteName::new("bench").unwrap(),
        region: REGION.to_owned(),
        profile: None,
        keys: Some((text(&account["access-key"]), text(&account["secret-key"]).into())),
        role: None,
        endpoints: Endpoints { ec2: Some(text(&region["ec2"])), ebs: Some(text(&region["ebs"])), sts: None, ssm: None },
        kms_key: None,
        scratch: scratch.to_owned(),
        restore: Restore::default(),
        freeze: None,
    };
    Retrying::new(Arc::new(AwsSite::new(config, Arc::new(Now))), RetryOptions::default())
}

fn token() -> Token {
    Token {
        owner: OwnerId::new("bench").unwrap(),
        policy: None,
        server: ServerName::new("bench").unwrap(),
        run: RunId::new("20261122T030000Z-7f3a9c21").unwrap(),
        step: "bench".to_owned(),
    }
}

fn name() -> DiskName {
    DiskName::new("vda").unwrap()
}

async fn register(site: &Retrying, disk: cloud::ImageDisk, size: u64, root: DiskRoot) -> ImageId {
    let point = serde_json::from_value(json!({
        "id": "20261122T030000Z-7f3a9c21", "server": "bench", "taken_at": "2026-11-22T03:00:00Z",
        "consistency": "crash", "program": "bench",
        "machine": { "arch": "x86-64", "firmware": { "kind": "bios" }, "memory": 268_435_456, "vcpus": 1,
            "disks": [{ "name": "vda", "size": size, "bus": "virtio" }] },
        "disks": [PointDisk { name: name(), size, root }],
    }))
    .unwrap();
    let target = site.target().unwrap();
    target.register(&[disk], &point, &ImageOptions::default(), Role::Scratch, &token()).await.unwrap()
}

/// What one way came to.
struct Figures<'a> {
    sim: &'a CloudSim,
    limit: f64,
    burst: f64,
    blocks: u64,
}

impl Figures<'_> {
    fn print(&self, way: &str, operation: &str, began: Instant) {
        let seconds = began.elapsed().as_secs_f64();
        let calls = self.sim.control("GET", "calls", &Value::Null);
        let calls: Vec<&Value> = calls.as_array().unwrap().iter().filter(|it| it["operation"] == operation).collect();
        let throttled = calls.iter().filter(|it| it["error"] == "RequestThrottledException").count();
        let blocks = self.blocks as f64;
        println!(
            "{way}: {blocks} blocks in {seconds:.1} s, {:.0} a second, {:.1} % of the limit; {throttled} of {} calls \
             throttled; peak memory {} MiB",
            blocks / seconds,
            (blocks - self.burst) * 100.0 / seconds / self.limit,
            calls.len(),
            peak_mib()
        );
    }
}

fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() >> 10
}

#[tokio::main]
async fn main() {
    let numbers: Vec<f64> = std::env::args().skip(1).map(|it| it.parse().expect("a number")).collect();
    let [limit, burst, latency, seconds] = numbers[..] else { panic!("four numbers") };
    let (sim, scratch) = (CloudSim::start(&["--calm", "--no-qemu"]), tempfile::tempdir().unwrap());
    let limits = json!({ "blocks": [1e6, 1e6], "blocks_of_snapshot": [burst, limit], "parallel": 1000 });
    sim.control("PATCH", "settings", &json!({ "limits": limits }));
    let delay = json!({ "kind": "delay", "seconds": latency / 1000.0 });
    for operation in ["PutSnapshotBlock", "GetSnapshotBlock"] {
        sim.control("POST", "rules", &json!({ "operation": operation, "fault": delay }));
    }
    let (site, blocks) = (site(&sim, scratch.path()), (limit * seconds) as u64);
    let size = blocks * BLOCK;
    let figures = Figures { sim: &sim, limit, burst, blocks };
    println!("{limit} requests a second, {burst} at once, {latency} ms each:");

    let (disk, writer) = site.target().unwrap().create_disk(&name(), size, None, &token()).await.unwrap();
    let began = Instant::now();
    let from = Somewhere(size, Bytes::from(vec![7; 1 << 20]));
    let written = transfer(&from, vec![writer], &Silent).await.unwrap();
    figures.print("write", "PutSnapshotBlock", began);
    let root = written.into_iter().next().unwrap().unwrap().root;

    let image = register(&site, disk, size, root).await;
    let reader = site.target().unwrap().open_image(&image, &name()).await.unwrap();
    let began = Instant::now();
    let to: Vec<Box<dyn DiskWrite>> = vec![Box::new(Discard::new(size))];
    let read = transfer(&*reader, to, &Silent).await.unwrap().remove(0).unwrap();
    assert_eq!(read.received, size);
    figures.print("read", "GetSnapshotBlock", began);
}

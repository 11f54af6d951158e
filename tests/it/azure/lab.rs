//! A simulated cloud in this process, and sites of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use cloud::conformance::{Finding, Probe, Verdict};
use cloud::records::{self, Record, RecordWriter};
use cloud::{Cloud, RetryOptions, Retrying};
use cloud_azure::compute::{AzureConfig, AzureSite, LaunchSpec, Restore};
use cloud_azure::identity::{Identity, Login, Secret};
use cloudsim::{Options, Sim};
use model::{DiskName, ManualClock, OwnerId, PointDisk, Result, RunId, ServerName, SiteName, Token};
use serde_json::Value;
use tokio::task::JoinHandle;

/// A simulator that ends with the test. What it was asked is judged then.
pub struct Lab {
    folder: tempfile::TempDir,
    azure: Value,
    serving: JoinHandle<std::io::Result<()>>,
    sim: Arc<Sim>,
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.serving.abort();
        self.sim.shut_down();
        if !std::thread::panicking() {
            tests::judge::requests(&self.folder.path().join("sim/calls.jsonl"));
        }
    }
}

/// Starts one; `calm`: nothing takes time.
pub async fn lab(qemu: bool, calm: bool) -> Lab {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("sim");
    let options = Options { data, regions: vec!["eu-west-1".to_owned()], qemu, calm };
    let sim = Arc::new(Sim::open(&options).unwrap());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let greeting = cloudsim::greeting(&sim, listener.local_addr().unwrap());
    let serving = tokio::spawn(cloudsim::serve(sim.clone(), listener));
    Lab { folder, azure: greeting["azure"].clone(), serving, sim }
}

impl Lab {
    fn text(&self, key: &str) -> String {
        self.azure[key].as_str().unwrap().to_owned()
    }

    /// The file with the application's secret.
    pub fn secret(&self) -> PathBuf {
        self.folder.path().join("secret")
    }

    /// The login of an application; all have the same secret.
    pub fn login(&self, client: &str) -> Login {
        let secret = self.secret();
        std::fs::write(&secret, format!("# of the application\n{}\n", self.text("secret"))).unwrap();
        let (tenant, client) = (self.text("tenant"), client.to_owned());
        // a secret is good at any time
        let clock = Arc::new(ManualClock::new(jiff::Timestamp::UNIX_EPOCH));
        Login::new(Identity::Secret { tenant, client, secret: Secret::File(secret) }, self.text("login"), clock)
    }

    /// The disk encryption set of a group.
    pub fn set_of(&self, group: &str) -> String {
        let groups = self.azure["groups"].as_array().unwrap();
        let found = groups.iter().find(|it| it["name"] == group).unwrap();
        found["encryption-set"].as_str().unwrap().to_owned()
    }

    /// The group `prod` in westeurope.
    pub fn config(&self) -> AzureConfig {
        let network = "/subscriptions/s/resourceGroups/net/providers/Microsoft.Network/virtualNetworks/n/subnets";
        let usual = LaunchSpec {
            size: Some("Standard_B1s".to_owned()),
            subnet: Some(format!("{network}/servers")),
            drill_subnet: Some(format!("{network}/drills")),
            ..LaunchSpec::default()
        };
        AzureConfig {
            site: SiteName::new("azure-we").unwrap(),
            subscription: self.text("subscription"),
            group: "prod".to_owned(),
            location: "westeurope".to_owned(),
            login: self.login(&self.text("client")),
            arm: self.text("arm"),
            storage: "StandardSSD_LRS".to_owned(),
            encryption_set: None,
            scratch: self.folder.path().join("scratch"),
            restore: Restore { usual, ..Restore::default() },
        }
    }

    /// The group `dr` in northeurope.
    pub fn config_there(&self) -> AzureConfig {
        let site = SiteName::new("azure-ne").unwrap();
        AzureConfig { site, group: "dr".to_owned(), location: "northeurope".to_owned(), ..self.config() }
    }

    pub fn other_region(&self) -> Arc<dyn Cloud> {
        open(self.config_there())
    }

    pub fn site(&self) -> Arc<dyn Cloud> {
        open(self.config())
    }

    /// Where the simulator keeps the bytes of disks.
    pub fn disks(&self) -> PathBuf {
        self.folder.path().join("sim/azure")
    }

    /// Asks the simulator something about itself.
    pub async fn control(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let arm = self.text("arm");
        let host = arm.trim_start_matches("http://").split('/').next().unwrap().to_owned();
        let body = body.map(Value::to_string).unwrap_or_default();
        let head = format!(
            "{method} /_sim/{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = tokio::task::spawn_blocking(move || {
            use std::io::{Read, Write};
            let mut stream = std::net::TcpStream::connect(host).unwrap();
            stream.write_all(head.as_bytes()).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        })
        .await
        .unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 20"), "{answer}");
        serde_json::from_str(body).unwrap_or_default()
    }

    /// What of Azure exists, as the simulator sees it: kind and name, with `!` where access is open.
    pub async fn left(&self) -> Vec<String> {
        let state = self.control("GET", "state", None).await;
        let all = state["azure"].as_array().unwrap().iter().map(|it| {
            let name = it["id"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
            let open = if it["state"] == "open" { "!" } else { "" };
            format!("{} {name}{open}", it["kind"].as_str().unwrap())
        });
        all.collect()
    }
}

/// A site as the program opens it.
pub fn open(config: AzureConfig) -> Arc<dyn Cloud> {
    Arc::new(Retrying::new(Arc::new(AzureSite::new(config)), RetryOptions::default()))
}

/// A group in which anything may be made.
pub struct Conforms {
    pub server: Option<ServerName>,
    /// The file of the server's one disk.
    pub file: Option<PathBuf>,
}

#[async_trait]
impl Probe for Conforms {
    fn owner(&self) -> OwnerId {
        OwnerId::new("tests").unwrap()
    }

    fn run(&self) -> RunId {
        RunId::new("20261122T030000Z-00000001").unwrap()
    }

    fn server(&self) -> Option<ServerName> {
        self.server.clone()
    }

    fn may_switch(&self) -> bool {
        true
    }

    fn may_launch(&self) -> bool {
        true
    }

    async fn write(&self, _: &ServerName, _: &DiskName, offset: u64, data: &[u8]) -> Option<Result<()>> {
        Some(write_at(self.file.as_ref()?, offset, data))
    }
}

/// Writes as a guest would.
pub fn write_at(file: &Path, offset: u64, data: &[u8]) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let opened = std::fs::File::options().write(true).open(file);
    opened.and_then(|file| file.write_all_at(data, offset)).map_err(|error| model::Error::io("cannot write", error))
}

/// A token of a run of another time than the probe's.
pub fn token(step: &str) -> Token {
    Token {
        owner: OwnerId::new("tests").unwrap(),
        policy: None,
        server: ServerName::new("web-1").unwrap(),
        run: RunId::new("20261121T030000Z-000000aa").unwrap(),
        step: step.to_owned(),
    }
}

/// Nothing failed, and nothing was skipped but what a test may name.
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

/// The record of a disk as it was, while another one is in its place.
pub struct Known {
    place: PathBuf,
    bytes: Vec<u8>,
}

impl Known {
    pub fn put_back(self) {
        std::fs::write(self.place, self.bytes).unwrap();
    }
}

/// Lets one leaf of a disk be known as another than it is.
pub async fn forged(lab: &Lab, disk: &PointDisk, leaf: u64) -> Known {
    let place = lab.config().scratch.join("azure-leaves").join(disk.root.to_string());
    let bytes = std::fs::read(&place).unwrap();
    let record = Record::open(place.clone(), disk.size).await.unwrap();
    let other = records::noted(vec![0x5a; disk::LEAF as usize].into()).await.unwrap()[0];
    let mut out = RecordWriter::create(place.clone(), disk.size).await.unwrap();
    for index in 0..disk.size.div_ceil(disk::LEAF) {
        out.push(&if index == leaf { other } else { record.noted(index).unwrap() }).unwrap();
    }
    out.finish().await.unwrap();
    Known { place, bytes }
}

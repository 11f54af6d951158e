//! An engine whose sites are the two regions of the test cloud and a QEMU host, with a vault and a ledger in a folder:
//! a process that dies leaves the folder, and the next one goes on.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cloud::openstack::{CloudRef, LaunchSpec, MacChoice, NetworkSpec, OpenStackConfig, OpenStackSite, Restore};
use cloud::qemu::{Accelerator, QemuConfig, QemuSite, TargetConfig};
use cloud::{Cloud, Retrying, Target};
use disk::{Format, Silent};
use engine::ledger::SledLedger;
use engine::{
    Archive, Choice, Engine, Parts, RestoreReport, RestoreRequest, RestoreTo, RunReport, RunRequest, Settings,
};
use model::{
    CapturePolicy, Clock, Consistency, DiskName, DiskRoot, DrillPolicy, ImageId, InstanceId, Keep, ManualClock,
    Objectives, Place, Policy, PolicyName, Probe, Select, ServerName, SiteName, VaultName,
};
use vault::bucket::{Bucket, DirBucket};
use vault::{Identity, Options, Recipient, Vault};

use super::lab::LIMIT;

/// A fixed age key: a passphrase is slow by intent.
const AGE_SECRET: &str = "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33";
const AGE_PUBLIC: &str = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";

/// The sites: RegionOne, RegionTwo, a host with QEMU.
pub const ONE: &str = "one";
pub const TWO: &str = "two";
pub const HOST: &str = "host";
/// The server that is captured.
pub const SERVER: &str = "web-1";
/// The name of a server that was restored.
pub const RESTORED: &str = "web-1-restored";

pub fn site_name(name: &str) -> SiteName {
    SiteName::new(name).unwrap()
}

pub fn in_vault() -> Place {
    Place::Vault(VaultName::new("main").unwrap())
}

pub fn at(site: &str) -> Place {
    Place::Site(site_name(site))
}

/// What restored servers get where a test asks for nothing else.
pub fn usual() -> LaunchSpec {
    let network = NetworkSpec { network: "net".to_owned(), address: None, mac: MacChoice::New };
    LaunchSpec { networks: Some(vec![network]), ..LaunchSpec::default() }
}

/// A region of the test cloud as a site.
pub fn region(lab_clouds: &Path, folder: &Path, name: &str, cloud: &str, usual: LaunchSpec) -> OpenStackSite {
    OpenStackSite::new(region_config(lab_clouds, folder, name, cloud, usual))
}

/// How it is set up.
pub fn region_config(lab_clouds: &Path, folder: &Path, name: &str, cloud: &str, usual: LaunchSpec) -> OpenStackConfig {
    OpenStackConfig {
        site: site_name(name),
        cloud: CloudRef { cloud: cloud.to_owned(), file: Some(lab_clouds.to_owned()), region: None, interface: None },
        scratch: folder.join("scratch"),
        format: Format::Qcow2,
        // one region is uploaded to, the other one imports
        staged: name == TWO,
        restore: Restore { usual, ..Restore::default() },
    }
}

/// A host with QEMU as a site.
fn host(folder: &Path, clock: Arc<dyn Clock>) -> QemuSite {
    let config = QemuConfig {
        site: site_name(HOST),
        sockets: format!("{}/host/run/*.qmp", folder.display()),
        disks: folder.join("host/disks"),
        scratch: None,
        scratch_limit: None,
        jobs_only: false,
        target: TargetConfig { accelerator: Accelerator::Tcg, ..TargetConfig::default() },
    };
    QemuSite::new(config, clock)
}

/// How a house is set up.
pub struct Setup {
    pub policies: Vec<Policy>,
    /// What servers get that are restored to the regions.
    pub launched: LaunchSpec,
    /// What stands between a region and who retries its calls.
    pub under: fn(Arc<dyn Cloud>) -> Arc<dyn Cloud>,
}

impl From<Vec<Policy>> for Setup {
    fn from(policies: Vec<Policy>) -> Self {
        Self { policies, launched: usual(), under: |site| site }
    }
}

/// What is set up in a folder.
pub struct House {
    pub engine: Engine,
    pub one: Arc<dyn Cloud>,
    pub two: Arc<dyn Cloud>,
    pub host: Arc<dyn Cloud>,
}

/// A policy that keeps the last point of a server.
pub fn policy(name: &str, site: &str, server: &str, places: &[Place]) -> Policy {
    let seen = Probe::Console { text: "REPLICATE-READY".to_owned() };
    Policy {
        name: PolicyName::new(name).unwrap(),
        select: Select { site: site_name(site), servers: vec![server.to_owned()], tags: Default::default() },
        schedule: None,
        capture: CapturePolicy {
            consistency: Consistency::Crash,
            required: false,
            before: Vec::new(),
            after: Vec::new(),
            freeze_limit: Duration::from_secs(30),
        },
        replicate: places.iter().cloned().map(Into::into).collect(),
        keep: Keep { last: 1, ..Keep::default() },
        objectives: Objectives::default(),
        drill: DrillPolicy { site: None, probes: vec![seen], limit: LIMIT },
    }
}

async fn vault(path: &Path, clock: Arc<dyn Clock>) -> Vault {
    let options = Options { threads: 2, ..Options::new(clock) };
    if path.exists() {
        let bucket: Arc<dyn Bucket> = Arc::new(DirBucket::open(path).unwrap());
        Vault::open(bucket, &[Identity::AgeSecret(AGE_SECRET.to_owned().into())], options).await.unwrap()
    } else {
        let bucket: Arc<dyn Bucket> = Arc::new(DirBucket::create(path).unwrap());
        Vault::create(bucket, &[Recipient::AgePublic(AGE_PUBLIC.to_owned())], options).await.unwrap()
    }
}

impl House {
    /// Opens the house of a project in a folder, as a new process does.
    pub async fn open(clouds: &Path, folder: &Path, project: &str, setup: impl Into<Setup>) -> Self {
        let Setup { policies, launched, under } = setup.into();
        // every house that is opened in a folder lives an hour later than the one before; all of them later than the
        // services, whose clocks date the captures
        let hours = std::fs::read_to_string(folder.join("hours")).map_or(0, |text| text.parse().unwrap());
        std::fs::write(folder.join("hours"), (hours + 1_i64).to_string()).unwrap();
        let clock = Arc::new(ManualClock::new("2060-11-22T03:00:00Z".parse().unwrap()));
        clock.advance(3600 * hours);
        let clock: Arc<dyn Clock> = clock;
        let retrying =
            |site: Arc<dyn Cloud>| -> Arc<dyn Cloud> { Arc::new(Retrying::new(under(site), Default::default())) };
        let one = retrying(Arc::new(region(clouds, folder, ONE, &format!("{project}-least"), launched.clone())));
        let two = retrying(Arc::new(region(clouds, folder, TWO, &format!("{project}-two-least"), launched)));
        let host: Arc<dyn Cloud> = Arc::new(host(folder, clock.clone()));
        let archive: Arc<dyn Archive> = Arc::new(vault(&folder.join("vault"), clock.clone()).await);
        let counter = AtomicU64::new(u64::from(std::process::id()) << 8);
        let parts = Parts {
            ledger: Arc::new(SledLedger::open(&folder.join("ledger")).await.unwrap()),
            folder: Some(folder.join("ledger")),
            clock,
            random: Arc::new(move || counter.fetch_add(1, Ordering::SeqCst)),
            sites: [(ONE, one.clone()), (TWO, two.clone()), (HOST, host.clone())]
                .map(|(name, site)| (site_name(name), site))
                .into(),
            vaults: [(VaultName::new("main").unwrap(), archive.into())].into(),
            policies,
            observer: Arc::new(engine::Silent),
            settings: Settings { replica_grace: Duration::ZERO, pack_grace: Duration::ZERO, ..Settings::default() },
        };
        Self { engine: Engine::new(parts).await.unwrap(), one, two, host }
    }

    /// Runs a policy of one server, and every destination has it.
    pub async fn run(&self, policy: &str) -> RunReport {
        let request = RunRequest { policy: PolicyName::new(policy).unwrap(), server: None };
        let mut report = self.engine.run(&request).await.unwrap();
        assert_eq!(report.outcome(), engine::RunOutcome::Done, "{report:#?}");
        report.runs.remove(0)
    }

    pub fn site(&self, name: &str) -> &Arc<dyn Cloud> {
        match name {
            ONE => &self.one,
            TWO => &self.two,
            _ => &self.host,
        }
    }

    pub fn target(&self, name: &str) -> &dyn Target {
        self.site(name).target().unwrap()
    }

    /// Restores the newest point of a server from a place to a site, and launches it there under another name.
    pub async fn restore(&self, server: &str, from: Place, to: &str) -> RestoreReport {
        let name = |name: &str| ServerName::new(name).unwrap();
        let choice = Choice { server: name(server), at: None, point: None, from: Some(from), via: model::Via::Auto };
        let to = RestoreTo::Site { site: site_name(to), name: Some(name(RESTORED)), launch: true };
        self.engine.restore(&RestoreRequest { choice, to }).await.unwrap()
    }

    /// What the console of an instance shows, once it shows a text.
    pub async fn console(&self, site: &str, instance: &InstanceId, text: &str) -> String {
        let until = Instant::now() + LIMIT;
        loop {
            let mut console = self.target(site).console(instance).await.unwrap().text;
            // whole lines only: a number that is still being written is another one
            console.truncate(console.rfind('\n').map_or(0, |end| end + 1));
            if console.contains(text) {
                return console;
            }
            assert!(Instant::now() < until, "no {text} on the console at {site}:\n{console}");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// The root of an image's disk, read back from where it is.
    pub async fn root(&self, site: &str, image: &ImageId, disk: &DiskName) -> DiskRoot {
        let reader = self.target(site).open_image(image, disk).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let writer = disk::create_file(folder.path().join("disk"), Format::Raw, reader.size(), None).await.unwrap();
        let done = disk::transfer(reader.as_ref(), vec![writer], &Silent).await.unwrap();
        done.into_iter().next().unwrap().unwrap().root
    }
}

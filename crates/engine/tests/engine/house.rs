//! A house for tests: a memory cloud with a server, a second one as a destination, an archive, a ledger, and a blade that cuts the
//! process off at the n-th durable effect.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cloud::memory::MemoryCloud;
use engine::ledger::{Batch, Ledger, MemoryLedger, Tree};
use engine::{Archive, Engine, Event, Observer, Parts, RunRequest, RunsReport, Settings};
use model::{
    Arch, CapturePolicy, Clock, Consistency, DiskBus, DiskName, DiskSpec, DrillPolicy, Firmware, Keep, MachineSpec,
    ManualClock, Objectives, Place, Policy, PolicyName, Result, Select, ServerName, SiteName, Tags, VaultName,
};

use crate::archive::MemoryArchive;

/// Half a disk: two leaves.
pub const HALF: u64 = 128 * 1024;

/// Cuts everything off at the n-th effect: the call hangs for ever, before or after the effect, and the test drops the engine. That is a
/// crash without the cost of a process.
#[derive(Default)]
pub struct Blade {
    pub passed: AtomicU64,
    pub at: AtomicU64,
    pub fallen: tokio::sync::Notify,
}

impl Blade {
    pub async fn before(&self) {
        self.pass().await;
    }

    pub async fn after(&self) {
        self.pass().await;
    }

    async fn pass(&self) {
        let number = self.passed.fetch_add(1, Ordering::SeqCst) + 1;
        if number == self.at.load(Ordering::SeqCst) {
            self.fallen.notify_one();
            std::future::pending::<()>().await;
        }
    }

    /// Falls at the `n`-th effect from now; 0: never.
    pub fn set(&self, n: u64) {
        self.passed.store(0, Ordering::SeqCst);
        self.at.store(n, Ordering::SeqCst);
    }
}

/// A ledger under the blade.
pub struct CutLedger {
    pub inner: Arc<MemoryLedger>,
    pub blade: Arc<Blade>,
    pub past: Past,
}

/// The ledger as it was after each commit, if anybody wants to know.
pub type Past = Option<Arc<Mutex<Vec<MemoryLedger>>>>;

#[async_trait]
impl Ledger for CutLedger {
    async fn get_raw(&self, tree: Tree, key: &str) -> Result<Option<Bytes>> {
        self.inner.get_raw(tree, key).await
    }

    async fn scan_raw(&self, tree: Tree, prefix: &str) -> Result<Vec<(String, Bytes)>> {
        self.inner.scan_raw(tree, prefix).await
    }

    async fn commit(&self, batch: Batch) -> Result<()> {
        self.blade.before().await;
        self.inner.commit(batch).await?;
        if let Some(past) = &self.past {
            past.lock().unwrap().push(self.inner.copy());
        }
        self.blade.after().await;
        Ok(())
    }

    fn describe(&self) -> String {
        "test".to_owned()
    }
}

#[derive(Default)]
pub struct Recorder(pub Mutex<Vec<Event>>);

impl Observer for Recorder {
    fn event(&self, event: &Event) {
        self.0.lock().unwrap().push(event.clone());
    }
}

pub struct House {
    pub clock: Arc<ManualClock>,
    pub blade: Arc<Blade>,
    pub ledger: Arc<MemoryLedger>,
    pub lab: MemoryCloud,
    pub remote: MemoryCloud,
    /// A third site, which images are copied to from the second by their provider.
    pub zone: Option<MemoryCloud>,
    pub vault: MemoryArchive,
    pub policy: Policy,
    pub recorder: Arc<Recorder>,
    pub folder: tempfile::TempDir,
    pub counter: Arc<AtomicU64>,
    pub settings: Settings,
    pub past: Past,
}

pub fn server() -> ServerName {
    ServerName::new("web-1").unwrap()
}

pub fn disk(name: &str) -> DiskName {
    DiskName::new(name).unwrap()
}

pub fn site(name: &str) -> SiteName {
    SiteName::new(name).unwrap()
}

pub fn vault_place() -> Place {
    Place::Vault(VaultName::new("main").unwrap())
}

pub fn site_place() -> Place {
    Place::Site(site("remote"))
}

pub fn zone_place() -> Place {
    Place::Site(site("zone"))
}

pub fn machine() -> MachineSpec {
    let spec = |name: &str| DiskSpec { name: disk(name), size: 2 * HALF, bus: DiskBus::Virtio, serial: None };
    MachineSpec {
        arch: Arch::X86_64,
        firmware: Firmware::Bios,
        memory: 1 << 28,
        vcpus: 1,
        chipset: None,
        flavor: None,
        disks: vec![spec("vda"), spec("vdb")],
        nics: Vec::new(),
        agent: true,
        tpm: false,
        tags: Tags::new(),
    }
}

pub fn policy() -> Policy {
    Policy {
        name: PolicyName::new("web").unwrap(),
        select: Select { site: site("lab"), servers: vec!["web-*".to_owned()], tags: BTreeMap::new() },
        schedule: None,
        capture: CapturePolicy {
            consistency: Consistency::Filesystem,
            required: false,
            before: Vec::new(),
            after: Vec::new(),
            freeze_limit: Duration::from_secs(10),
        },
        replicate: vec![vault_place().into(), site_place().into()],
        keep: Keep::default(),
        objectives: Objectives::default(),
        drill: DrillPolicy { site: None, probes: Vec::new(), limit: Duration::from_secs(60) },
    }
}

/// In memory where there is such a place: hundreds of houses would wait for fsync most of the time.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

impl House {
    pub fn new() -> Self {
        let clock = Arc::new(ManualClock::new("2026-11-22T03:00:00Z".parse().unwrap()));
        let time: Arc<dyn Clock> = clock.clone();
        let blade = Arc::new(Blade::default());
        let lab = MemoryCloud::new(site("lab"), time.clone());
        lab.add_server(server(), machine());
        let house = Self {
            clock,
            blade: blade.clone(),
            ledger: Arc::new(MemoryLedger::new()),
            lab,
            remote: MemoryCloud::new(site("remote"), time),
            zone: None,
            vault: MemoryArchive::new(blade),
            policy: policy(),
            recorder: Arc::default(),
            folder: folder(),
            counter: Arc::new(AtomicU64::new(7)),
            settings: Settings {
                drill_poll: Duration::from_millis(1),
                program_hash: || "00".to_owned(),
                ..Settings::default()
            },
            past: None,
        };
        house.write("vda", 0, 0x11, HALF as usize);
        house.write("vdb", 65_536, 0x22, 4096);
        house
    }

    /// A house whose policy also replicates to a third site, of the provider of the second.
    pub fn with_zone() -> Self {
        let mut house = Self::new();
        let zone = MemoryCloud::new(site("zone"), house.clock.clone());
        MemoryCloud::join(&[&house.remote, &zone]);
        zone.set_copies(2, None, false);
        house.policy.replicate.push(zone_place().into());
        house.settings.relay_poll = Duration::from_millis(1);
        house.zone = Some(zone);
        house
    }

    pub fn zone(&self) -> &MemoryCloud {
        self.zone.as_ref().unwrap()
    }

    /// The guest writes.
    pub fn write(&self, name: &str, offset: u64, byte: u8, len: usize) {
        self.lab.write(&server(), &disk(name), offset, &vec![byte; len]).unwrap();
    }

    /// A new process.
    pub async fn engine(&self) -> Engine {
        let ledger =
            Arc::new(CutLedger { inner: self.ledger.clone(), blade: self.blade.clone(), past: self.past.clone() });
        self.engine_on(ledger).await
    }

    pub async fn engine_on(&self, ledger: Arc<dyn Ledger>) -> Engine {
        let vault: Arc<dyn Archive> = Arc::new(self.vault.clone());
        let lab: Arc<dyn cloud::Cloud> = Arc::new(self.lab.clone());
        let remote: Arc<dyn cloud::Cloud> = Arc::new(self.remote.clone());
        let mut sites: BTreeMap<_, _> = [(site("lab"), lab), (site("remote"), remote)].into_iter().collect();
        if let Some(zone) = self.zone.clone() {
            sites.insert(site("zone"), Arc::new(zone) as Arc<dyn cloud::Cloud>);
        }
        let counter = self.counter.clone();
        let parts = Parts {
            ledger,
            folder: Some(self.folder.path().to_owned()),
            clock: self.clock.clone(),
            random: Arc::new(move || counter.fetch_add(1, Ordering::SeqCst)),
            sites,
            vaults: [(VaultName::new("main").unwrap(), vault.into())].into_iter().collect(),
            policies: vec![self.policy.clone()],
            observer: self.recorder.clone(),
            settings: self.settings.clone(),
        };
        Engine::new(parts).await.unwrap()
    }

    pub fn request(&self) -> RunRequest {
        RunRequest { policy: self.policy.name.clone(), server: None }
    }

    /// One run in a new process, an hour after the last.
    pub async fn run(&self) -> RunsReport {
        self.clock.advance(3600);
        self.engine().await.run(&self.request()).await.unwrap()
    }

    /// The bytes of the server's disk now.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        self.lab.read(&server(), &disk(name), 0, 2 * HALF as usize).unwrap()
    }

    /// Nothing of ours is left where it must not be: no capture, no scratch disk, nobody frozen.
    pub async fn assert_clean(&self) {
        use cloud::Cloud;
        assert!(!self.lab.is_frozen(&server()), "the guest is frozen");
        for cloud in [&self.lab, &self.remote].into_iter().chain(&self.zone) {
            let left: Vec<_> =
                cloud.owned().await.unwrap().into_iter().filter(|r| r.role == model::Role::Scratch).collect();
            assert!(left.is_empty(), "left at {}: {left:?}", cloud.site());
        }
    }
}

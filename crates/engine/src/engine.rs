//! The engine: everything it works with, and what every verb needs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cloud::Cloud;
use jiff::Timestamp;
use model::{
    Clock, Error, Kind, OwnerId, Policy, PolicyName, PriceList, Result, RunId, ServerName, SiteName, VaultName,
};

use crate::archive::{Archive, LazyArchive};
use crate::compact::CompactSettings;
use crate::ledger::{self, Batch, Ledger, Tree};
use crate::proof::Signer;
use crate::records::RunRecord;
use crate::{Event, Observer, Problem, ServerReport, identity};

/// What an engine is made of; `wiring` fills it in.
pub struct Parts {
    /// The journal and catalogue.
    pub ledger: Arc<dyn Ledger>,
    /// Folder beside or of the ledger, for the installation's id, the signing key and proofs; none: they last as long
    /// as the process (tests).
    pub folder: Option<PathBuf>,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// 64 random bits, for ids.
    pub random: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Sites by name.
    pub sites: BTreeMap<SiteName, Arc<dyn Cloud>>,
    /// Vaults by name.
    pub vaults: BTreeMap<VaultName, LazyArchive>,
    /// Validated policies.
    pub policies: Vec<Policy>,
    /// Who is told what happens.
    pub observer: Arc<dyn Observer>,
    /// The rest.
    pub settings: Settings,
}

/// What may be tuned.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `replicate 0.1.0`: goes into points and proofs.
    pub program: String,
    /// Computes the BLAKE3 of the executable, for proofs: only a drill pays for it.
    pub program_hash: fn() -> String,
    /// How long a doomed replica stays before it is deleted.
    pub replica_grace: Duration,
    /// How long an unneeded pack of a vault stays.
    pub pack_grace: Duration,
    /// After so many executions of a run its failing destinations are given up.
    pub max_attempts: u32,
    /// How long a run that could not be finished waits for its next try; it doubles each time.
    pub retry_first: Duration,
    /// The longest of these waits.
    pub retry_longest: Duration,
    /// How often a drill looks at its guest.
    pub drill_poll: Duration,
    /// Servers that are worked on at once.
    pub parallel: usize,
    /// How often a copy by a provider is looked at.
    pub relay_poll: Duration,
    /// The longest that such a copy may take, the wait for a free slot included.
    pub relay_limit: Duration,
    /// What sites charge, as far as it is configured.
    pub prices: PriceList,
    /// How vaults are compacted; those that are not named: as usual.
    pub compaction: BTreeMap<VaultName, CompactSettings>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            program: concat!("replicate ", env!("CARGO_PKG_VERSION")).to_owned(),
            program_hash: String::new,
            replica_grace: Duration::from_secs(72 * 3600),
            pack_grace: Duration::from_secs(24 * 3600),
            // together with the waits: some hours
            max_attempts: 12,
            retry_first: Duration::from_secs(15),
            retry_longest: Duration::from_secs(30 * 60),
            drill_poll: Duration::from_millis(500),
            parallel: 2,
            relay_poll: Duration::from_secs(5),
            relay_limit: Duration::from_secs(12 * 3600),
            prices: PriceList::new(),
            compaction: BTreeMap::new(),
        }
    }
}

/// Runs policies, restores, drills, and keeps the catalogue.
pub struct Engine {
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) folder: Option<PathBuf>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Fn() -> u64 + Send + Sync>,
    pub(crate) sites: BTreeMap<SiteName, Arc<dyn Cloud>>,
    pub(crate) vaults: BTreeMap<VaultName, LazyArchive>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) settings: Settings,
    pub(crate) owner: OwnerId,
    pub(crate) signer: Arc<Signer>,
    policies: Arc<Vec<Policy>>,
    guards: Arc<Guards>,
    /// One comparison with the world at a time; and whether there was one.
    pub(crate) recalling: tokio::sync::Mutex<()>,
    pub(crate) recalled: AtomicBool,
}

/// Who does what in this process; shared by the engines that follow each other over one ledger.
#[derive(Default)]
struct Guards {
    busy: Mutex<BTreeSet<String>>,
    active: Mutex<BTreeSet<RunId>>,
    turns: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Engine {
    /// Puts an engine together: reads or makes the installation's id and signing key. Nothing runs yet; call [`resume`](Self::resume)
    /// when the process is the one that owns the ledger for good (the daemon), or let the next verb do it.
    pub async fn new(parts: Parts) -> Result<Self> {
        let owner = identity::owner(&*parts.ledger, parts.folder.as_deref(), (parts.random)()).await?;
        let signer = Arc::new(Signer::open(parts.folder.as_deref())?);
        Ok(Self {
            ledger: parts.ledger,
            folder: parts.folder,
            clock: parts.clock,
            random: parts.random,
            sites: parts.sites,
            vaults: parts.vaults,
            observer: parts.observer,
            settings: parts.settings,
            owner,
            signer,
            policies: Arc::new(parts.policies),
            guards: Arc::default(),
            recalling: tokio::sync::Mutex::default(),
            recalled: AtomicBool::new(false),
        })
    }

    /// This engine with other sites, vaults, policies and settings (SIGHUP): the same ledger, the same installation. What runs goes on with the
    /// old wiring, and each of the two knows what the other one is doing.
    pub fn rewired(
        &self,
        sites: BTreeMap<SiteName, Arc<dyn Cloud>>,
        vaults: BTreeMap<VaultName, LazyArchive>,
        policies: Vec<Policy>,
        settings: Settings,
    ) -> Self {
        Self {
            ledger: self.ledger.clone(),
            folder: self.folder.clone(),
            clock: self.clock.clone(),
            random: self.random.clone(),
            sites,
            vaults,
            observer: self.observer.clone(),
            settings,
            owner: self.owner.clone(),
            signer: self.signer.clone(),
            policies: Arc::new(policies),
            guards: self.guards.clone(),
            recalling: tokio::sync::Mutex::default(),
            recalled: AtomicBool::new(false),
        }
    }

    /// This installation's id.
    pub fn owner(&self) -> &OwnerId {
        &self.owner
    }

    /// The public key of this installation's proofs, base64.
    pub fn proof_key(&self) -> String {
        self.signer.public_key()
    }

    /// The policies in force.
    pub fn policies(&self) -> Arc<Vec<Policy>> {
        self.policies.clone()
    }

    /// All servers of one site or of every site, with the policies that cover them. Sites that cannot be asked are
    /// told beside the others' answers; one that is alone fails.
    pub async fn servers(&self, site: Option<&SiteName>) -> Result<(Vec<ServerReport>, Vec<Problem>)> {
        if let Some(site) = site {
            self.site(site)?;
        }
        let policies = self.policies();
        let (mut found, mut problems) = (Vec::new(), Vec::new());
        let asked = self.sites.iter().filter(|(name, _)| site.is_none_or(|wanted| wanted == *name));
        let asked: Vec<_> = asked.filter_map(|(name, cloud)| Some((name, cloud.source()?))).collect();
        for &(name, source) in &asked {
            match source.servers().await {
                Ok(servers) => found.extend(servers.into_iter().map(|server| {
                    let covered =
                        |p: &&Policy| p.select.site == *name && p.select.covers(&server.name, &server.machine.tags);
                    let names = policies.iter().filter(covered).map(|p| p.name.clone()).collect();
                    ServerReport { site: name.clone(), server, policies: names }
                })),
                Err(error) => {
                    let error = error.within(format!("cannot list servers of site {name}"));
                    // nothing was done, and why decides how the command ends
                    if asked.len() == 1 {
                        return Err(error);
                    }
                    problems.push(Problem::from(&error));
                }
            }
        }
        Ok((found, problems))
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn tell(&self, event: Event) {
        self.observer.event(&event);
    }

    pub(crate) fn policy(&self, name: &PolicyName) -> Result<Policy> {
        self.policies().iter().find(|policy| policy.name == *name).cloned().ok_or_else(|| {
            Error::new(Kind::Invalid, format!("no policy {name}")).hint("see the policies with `replicate check`")
        })
    }

    pub(crate) fn site(&self, name: &SiteName) -> Result<&Arc<dyn Cloud>> {
        self.sites.get(name).ok_or_else(|| {
            Error::new(Kind::Invalid, format!("no site {name}")).hint("sites are configured in `replicate.toml`")
        })
    }

    /// A vault of the configuration, opened if it was not yet.
    pub(crate) async fn vault(&self, name: &VaultName) -> Result<&Arc<dyn Archive>> {
        self.known_vault(name)?.get().await
    }

    /// A vault of the configuration, as it is.
    pub(crate) fn known_vault(&self, name: &VaultName) -> Result<&LazyArchive> {
        self.vaults.get(name).ok_or_else(|| {
            Error::new(Kind::Invalid, format!("no vault {name}")).hint("vaults are configured in `replicate.toml`")
        })
    }

    /// A new run id.
    pub(crate) fn fresh_run(&self) -> RunId {
        RunId::at(self.now(), (self.random)() as u32)
    }

    pub(crate) async fn save_run(&self, run: &RunRecord) -> Result<()> {
        let mut batch = Batch::new();
        batch.put(Tree::Runs, run.id.as_str(), run)?;
        self.ledger.commit(batch).await
    }

    pub(crate) async fn runs(&self) -> Result<Vec<RunRecord>> {
        Ok(ledger::scan(&*self.ledger, Tree::Runs, "").await?.into_iter().map(|(_, run)| run).collect())
    }

    /// Takes `name` for this process until the guard is dropped; [`Kind::Exists`] if it is taken.
    pub(crate) fn occupy(&self, name: String) -> Result<Busy<'_>> {
        let mut busy = self.guards.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if !busy.insert(name.clone()) {
            return Err(Error::new(Kind::Exists, format!("{name} is already running"))
                .hint("wait until it ends, or see `replicate status`"));
        }
        Ok(Busy { engine: self, name })
    }

    /// Runs of one server take turns, whatever their policies: two captures at once would freeze a guest twice.
    pub(crate) fn turn(&self, run: &RunRecord) -> Arc<tokio::sync::Mutex<()>> {
        let name = match (&run.site, run.kind) {
            (Some(site), crate::RunKind::Replicate) => format!("{site}/{}", run.server),
            _ => run.id.to_string(),
        };
        self.guards.turns.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default().clone()
    }

    /// Marks a run as executed by this process, so that nobody sweeps or resumes it meanwhile.
    pub(crate) fn activate(&self, run: &RunId) -> Active<'_> {
        self.guards.active.lock().unwrap_or_else(PoisonError::into_inner).insert(run.clone());
        Active { engine: self, run: run.clone() }
    }

    /// Whether this process executes the run right now.
    pub(crate) fn is_active(&self, run: &RunId) -> bool {
        self.guards.active.lock().unwrap_or_else(PoisonError::into_inner).contains(run)
    }
}

/// Keeps the same policy from running twice for one server.
pub(crate) struct Busy<'a> {
    engine: &'a Engine,
    name: String,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.engine.guards.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}

/// A run that is being executed.
pub(crate) struct Active<'a> {
    engine: &'a Engine,
    run: RunId,
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.engine.guards.active.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.run);
    }
}

/// The name under which a server is occupied under a policy.
pub(crate) fn busy_name(policy: &PolicyName, server: &ServerName) -> String {
    format!("policy {policy} for server {server}")
}

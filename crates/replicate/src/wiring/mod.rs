//! The only place that opens sites, vaults and the ledger, and that stacks decorators around them.

mod sites;
mod vaults;

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use engine::ledger::{Ledger, SledLedger};
use engine::{Archive, Engine, LazyArchive, Observer, Parts};
use jiff::Timestamp;
use model::{Clock, Error, Kind, Result, SiteName, VaultName};

use crate::config::{Settings, VaultSettings};

pub use sites::open_site;
pub use vaults::{create_vault, open_bucket, open_vault, recipient};

/// The wall clock. The one place of the program that reads it.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "everything else asks this clock")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// All sites of the configuration, each with retries.
pub fn sites(settings: &Settings, clock: &Arc<dyn Clock>) -> BTreeMap<SiteName, Arc<dyn cloud::Cloud>> {
    settings.sites.iter().map(|(name, site)| (name.clone(), open_site(name, site, clock))).collect()
}

/// All vaults of the configuration; each is opened when it is first needed, so that a command that needs none is not
/// stopped by one that cannot be reached.
pub fn vaults(settings: &Settings, clock: &Arc<dyn Clock>) -> BTreeMap<VaultName, LazyArchive> {
    let lazy = |(name, settings): (&VaultName, &VaultSettings)| {
        let parts = Arc::new((name.clone(), settings.clone(), Arc::clone(clock)));
        let open = move || {
            let parts = Arc::clone(&parts);
            async move {
                let (name, settings, clock) = &*parts;
                let vault: Arc<dyn Archive> = Arc::new(open_vault(name, settings, clock).await?);
                Ok(vault)
            }
        };
        (name.clone(), LazyArchive::new(open))
    };
    settings.vaults.iter().map(lazy).collect()
}

/// Opens the ledger and puts the engine together. [`Kind::Exists`]: another process has the ledger.
pub async fn engine(settings: &Settings, observer: Arc<dyn Observer>) -> Result<Engine> {
    std::fs::create_dir_all(&settings.ledger).map_err(|source| {
        Error::io(format!("cannot create ledger `{}`", settings.ledger.display()), source)
            .hint("`ledger` in the configuration says where it is")
    })?;
    let ledger: Arc<dyn Ledger> = Arc::new(SledLedger::open(&settings.ledger).await?);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let parts = Parts {
        ledger,
        folder: Some(settings.ledger.clone()),
        random: Arc::new(rand::random::<u64>),
        sites: sites(settings, &clock),
        vaults: vaults(settings, &clock),
        policies: settings.policies.values().cloned().collect(),
        observer,
        settings: tuned(settings),
        clock,
    };
    Engine::new(parts).await
}

/// The engine as other settings want it, over the same ledger.
pub fn rewired(engine: &Engine, settings: &Settings) -> Engine {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let policies = settings.policies.values().cloned().collect();
    engine.rewired(sites(settings, &clock), vaults(settings, &clock), policies, tuned(settings))
}

fn tuned(settings: &Settings) -> engine::Settings {
    engine::Settings {
        program: concat!("replicate ", env!("CARGO_PKG_VERSION")).to_owned(),
        program_hash: || program_hash().unwrap_or_default(),
        parallel: settings.daemon.parallel_runs,
        replica_grace: settings.replica_grace,
        pack_grace: settings.pack_grace,
        prices: settings.prices.clone(),
        compaction: settings.vaults.iter().map(|(name, vault)| (name.clone(), vault.compact.clone())).collect(),
        ..engine::Settings::default()
    }
}

/// BLAKE3 of the executable, for proofs. A program that cannot read itself (deleted by an update) signs without.
fn program_hash() -> Option<String> {
    let mut file = std::fs::File::open("/proc/self/exe").ok()?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).ok()? {
            0 => return Some(hasher.finalize().to_hex().to_string()),
            count => hasher.update(&buffer[..count]),
        };
    }
}

/// The error for a name that the configuration does not have.
pub fn unknown(what: &str, name: &str, known: impl Iterator<Item = String>) -> Error {
    let known: Vec<String> = known.collect();
    let suggestion = crate::config::suggestion(name, known.iter().map(String::as_str));
    Error::new(Kind::Invalid, format!("`{name}` is not a {what}{suggestion}"))
}

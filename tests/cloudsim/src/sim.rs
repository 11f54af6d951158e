//! The simulator as a whole: the world, its bytes, its logs, its machines.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::error::Answer;
use crate::http::Response;
use crate::hypervisor::Machines;
use crate::limit::Limiter;
use crate::log::Log;
use crate::ssm::commands::Commands;
use crate::store::blocks::Blocks;
use crate::store::maps::Maps;
use crate::world::World;
use crate::world::settings::Weather;

/// How a simulator is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// Everything is kept here.
    pub data: PathBuf,
    /// Regions that every account has.
    pub regions: Vec<String>,
    /// Whether a launched instance boots. Without, instances are `running` and that is all.
    pub qemu: bool,
    /// Whether a fresh world starts without delays and without lag of reads.
    pub calm: bool,
}

/// A simulated cloud.
#[derive(Debug)]
pub struct Sim {
    pub(crate) folder: PathBuf,
    world: Mutex<World>,
    pub(crate) blocks: Blocks,
    pub(crate) maps: Maps,
    pub(crate) calls: Log,
    pub(crate) hits: Log,
    pub(crate) limiter: Limiter,
    pub(crate) machines: Machines,
    /// What Systems Manager was told to run. They end with their machines, and so with the simulator.
    pub(crate) commands: Arc<Commands>,
    /// The last answer to every question, for stale reads.
    pub(crate) earlier: Mutex<HashMap<String, Response>>,
}

impl Sim {
    /// Opens what a folder holds, or starts anew there.
    pub fn open(options: &Options) -> std::io::Result<Self> {
        let folder = options.data.clone();
        std::fs::create_dir_all(folder.join("volumes"))?;
        std::fs::create_dir_all(folder.join("azure"))?;
        let fresh = !folder.join("world.json").exists();
        let mut world = World::open(&folder, &options.regions)?;
        if fresh && options.calm {
            world.settings.weather = Weather::calm();
            world.save(&folder)?;
        }
        let blocks = Blocks::open(folder.join("blocks"))?;
        let maps = Maps::open(folder.join("maps"), &blocks, |id| {
            world.snapshots.contains_key(id) || world.azure.resources.values().any(|it| it.unique == id)
        })?;
        blocks.sweep()?;
        sweep(&folder.join("volumes"), |id| world.volumes.contains_key(id))?;
        sweep(&folder.join("azure"), |id| world.azure.resources.values().any(|it| it.unique == id))?;
        let sim = Self {
            calls: Log::open(&folder, "calls.jsonl")?,
            hits: Log::open(&folder, "hits.jsonl")?,
            machines: Machines::new(folder.join("machines"), options.qemu)?,
            folder,
            world: Mutex::new(world),
            blocks,
            maps,
            limiter: Limiter::default(),
            commands: Arc::default(),
            earlier: Mutex::new(HashMap::new()),
        };
        crate::hypervisor::hold::restart(&sim);
        Ok(sim)
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        // whoever panicked under the lock had not saved: the next change saves a whole world again
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the world, or changes what need not be saved at once.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut World) -> T) -> T {
        look(&mut self.lock())
    }

    /// Changes the world and saves it; a refusal saves nothing, so a change must refuse before it alters anything.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut World) -> Answer<T>) -> Answer<T> {
        let mut world = self.lock();
        let made = change(&mut world)?;
        world.save(&self.folder)?;
        Ok(made)
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.lock().now()
    }

    /// The file of a volume.
    pub(crate) fn volume(&self, id: &str) -> PathBuf {
        self.folder.join("volumes").join(id)
    }

    /// The file of a managed disk.
    pub(crate) fn azure_disk(&self, unique: &str) -> PathBuf {
        self.folder.join("azure").join(unique)
    }

    /// Ends all machines. They start again when the simulator does.
    pub fn shut_down(&self) {
        self.machines.stop_all();
    }
}

/// Deletes files that the world does not know: a crash between a file and its entry leaves such.
fn sweep(folder: &Path, known: impl Fn(&str) -> bool) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if !known(path.file_name().and_then(|name| name.to_str()).unwrap_or_default()) {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

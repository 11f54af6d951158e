//! The simulator as a whole: the world, its bytes, its logs, its machines.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::error::Answer;
use crate::http::Response;
use crate::hypervisor::Machines;
use crate::limit::Limiter;
use crate::log::Log;
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
    /// The last answer to every question, for stale reads.
    pub(crate) earlier: Mutex<HashMap<String, Response>>,
}

impl Sim {
    /// Opens what a folder holds, or starts anew there.
    pub fn open(options: &Options) -> std::io::Result<Self> {
        let folder = options.data.clone();
        std::fs::create_dir_all(folder.join("volumes"))?;
        let fresh = !folder.join("world.json").exists();
        let mut world = World::open(&folder, &options.regions)?;
        if fresh && options.calm {
            world.settings.weather = Weather::calm();
            world.save(&folder)?;
        }
        let blocks = Blocks::open(folder.join("blocks"))?;
        let maps = Maps::open(folder.join("maps"), &blocks, |id| world.snapshots.contains_key(id))?;
        blocks.sweep()?;
        for entry in std::fs::read_dir(folder.join("volumes"))? {
            let path = entry?.path();
            let id = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if !world.volumes.contains_key(id) {
                std::fs::remove_file(path)?;
            }
        }
        let sim = Self {
            calls: Log::open(&folder, "calls.jsonl")?,
            hits: Log::open(&folder, "hits.jsonl")?,
            machines: Machines::new(folder.join("machines"), options.qemu)?,
            folder,
            world: Mutex::new(world),
            blocks,
            maps,
            limiter: Limiter::default(),
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

    /// Ends all machines. They start again when the simulator does.
    pub fn shut_down(&self) {
        self.machines.stop_all();
    }
}

//! The simulated accounts: everything that must survive a restart except the blocks themselves. It is held in memory
//! and written as one file, anew and renamed into place, before a change is answered: kill -9 leaves the one before
//! or the one after.

pub(crate) mod fixtures;
pub(crate) mod ids;
pub(crate) mod resource;
pub(crate) mod settings;
pub(crate) mod tokens;

use std::collections::BTreeMap;
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::auth::policy::Policy;
use crate::auth::principal::{Account, Session};
use crate::azure::state::Azure;
use crate::clock::{Clock, later};
use crate::faults::rule::Rule;
use resource::{Attachment, Base, Fixture, Group, Image, Instance, Snapshot, Tags, Volume};
use settings::Settings;

/// Everything that is saved.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct World {
    pub(crate) clock: Clock,
    pub(crate) settings: Settings,
    pub(crate) accounts: BTreeMap<String, Account>,
    pub(crate) sessions: BTreeMap<String, Session>,
    /// Policy documents by principal (an ARN, or `*`).
    pub(crate) policies: BTreeMap<String, Policy>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) tokens: BTreeMap<String, tokens::Use>,
    pub(crate) snapshots: BTreeMap<String, Snapshot>,
    pub(crate) images: BTreeMap<String, Image>,
    pub(crate) volumes: BTreeMap<String, Volume>,
    pub(crate) instances: BTreeMap<String, Instance>,
    pub(crate) groups: BTreeMap<String, Group>,
    pub(crate) vpcs: BTreeMap<String, Fixture>,
    pub(crate) subnets: BTreeMap<String, Fixture>,
    pub(crate) key_pairs: BTreeMap<String, Fixture>,
    pub(crate) templates: BTreeMap<String, Fixture>,
    /// Images that were deregistered: what asks for one is told something else than for one that never was.
    pub(crate) gone: std::collections::BTreeSet<String>,
    #[serde(default)]
    pub(crate) azure: Azure,
    /// The next writer of blocks: two snapshots that share a block name the same writer.
    pub(crate) writers: u64,
    /// Counts addresses.
    pub(crate) addresses: u64,
}

const FILE: &str = "world.json";

impl World {
    /// The saved world of a folder, or a fresh one with the given regions.
    pub(crate) fn open(folder: &Path, regions: &[String]) -> std::io::Result<Self> {
        let mut world = match std::fs::read(folder.join(FILE)) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(std::io::Error::other)?,
            Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => World::default(),
            Err(other) => return Err(other),
        };
        fixtures::furnish(&mut world, regions);
        world.save(folder)?;
        Ok(world)
    }

    /// Writes it beside and renames it into place.
    pub(crate) fn save(&self, folder: &Path) -> std::io::Result<()> {
        let fresh = folder.join("world.json.new");
        std::fs::write(&fresh, serde_json::to_vec(self).map_err(std::io::Error::other)?)?;
        std::fs::rename(fresh, folder.join(FILE))
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// What a new resource has, with the lag of reads that the settings ask for.
    pub(crate) fn base(&self, prefix: &str, account: &str, region: &str, tags: Tags) -> Base {
        let now = self.now();
        Base {
            id: ids::fresh(prefix),
            account: account.to_owned(),
            region: region.to_owned(),
            created: now,
            visible: later(now, self.settings.weather.invisible_seconds),
            tags,
            tags_before: Tags::new(),
            // tags of the create call come with the resource
            tags_visible: now,
        }
    }

    /// A writer's number for blocks.
    pub(crate) fn writer(&mut self) -> u64 {
        self.writers += 1;
        self.writers
    }

    /// The volumes of an instance, the root first, then by device.
    pub(crate) fn attached_to(&self, id: &str, root: &str) -> Vec<(&Attachment, &Volume)> {
        let attached = self.volumes.values().filter_map(|it| Some((it.attached.as_ref()?, it)));
        let mut found: Vec<_> = attached.filter(|(at, _)| at.instance == id).collect();
        found.sort_by_key(|(at, _)| (at.device != root, at.device.clone()));
        found
    }

    /// The base of whatever has this id.
    pub(crate) fn find(&mut self, id: &str) -> Option<&mut Base> {
        let prefix = id.split('-').next().unwrap_or_default();
        match prefix {
            "snap" => self.snapshots.get_mut(id).map(|it| &mut it.base),
            "ami" => self.images.get_mut(id).map(|it| &mut it.base),
            "vol" => self.volumes.get_mut(id).map(|it| &mut it.base),
            "i" => self.instances.get_mut(id).map(|it| &mut it.base),
            "sg" => self.groups.get_mut(id).map(|it| &mut it.base),
            "vpc" => self.vpcs.get_mut(id).map(|it| &mut it.base),
            "subnet" => self.subnets.get_mut(id).map(|it| &mut it.base),
            "key" => self.key_pairs.get_mut(id).map(|it| &mut it.base),
            "lt" => self.templates.get_mut(id).map(|it| &mut it.base),
            _ => None,
        }
    }

    /// Everything that can carry tags, with its type's name.
    pub(crate) fn bases(&self) -> impl Iterator<Item = (&'static str, &Base)> {
        let snapshots = self.snapshots.values().map(|it| ("snapshot", &it.base));
        let images = self.images.values().map(|it| ("image", &it.base));
        let volumes = self.volumes.values().map(|it| ("volume", &it.base));
        let instances = self.instances.values().map(|it| ("instance", &it.base));
        let groups = self.groups.values().map(|it| ("security-group", &it.base));
        snapshots.chain(images).chain(volumes).chain(instances).chain(groups)
    }
}

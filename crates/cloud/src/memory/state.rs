//! What the memory cloud holds: servers, captures, scratch disks, images, instances.

use std::collections::BTreeMap;

use jiff::Timestamp;
use model::{
    CaptureId, Consistency, Cursor, DiskName, Error, ImageId, ImageOptions, InstanceId, Kind, MachineSpec,
    RestorePoint, Result, Role, ServerName, Tags, tag,
};
use serde::{Deserialize, Serialize};

use super::boot::BootScript;
use super::bytes::{ChangeMap, SparseDisk, mark};
use crate::{Capture, Network, Power, Resource};

/// A server.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Machine {
    pub(super) spec: MachineSpec,
    pub(super) power: Power,
    /// Whether its file systems were left clean when it went off.
    pub(super) clean: bool,
    /// Whether the guest agent answers.
    pub(super) agent: bool,
    /// Which capture has frozen it, with that one's tags.
    pub(super) frozen: Option<(CaptureId, Tags)>,
    pub(super) disks: BTreeMap<DiskName, SparseDisk>,
    /// Changes since each cursor.
    pub(super) tracked: BTreeMap<Cursor, BTreeMap<DiskName, ChangeMap>>,
    /// Cursors whose change map is gone, and why.
    pub(super) lost: BTreeMap<Cursor, String>,
    /// Whether its system does not shut down when it is asked to.
    pub(super) stubborn: bool,
    /// What its system writes while it shuts down.
    pub(super) last_words: Option<(DiskName, u64, Vec<u8>)>,
}

impl Machine {
    /// A running server without any byte on its disks.
    pub(super) fn new(spec: MachineSpec) -> Self {
        let disks = spec.disks.iter().map(|disk| (disk.name.clone(), SparseDisk::new(disk.size))).collect();
        let agent = spec.agent;
        Self {
            spec,
            power: Power::On,
            clean: true,
            agent,
            frozen: None,
            disks,
            tracked: BTreeMap::new(),
            lost: BTreeMap::new(),
            stubborn: false,
            last_words: None,
        }
    }

    /// The guest writes; what lies behind the disk's end is refused.
    pub(super) fn write(&mut self, disk: &DiskName, offset: u64, data: &[u8]) -> Result<()> {
        let operation = || format!("cannot write to disk {disk}");
        let bytes = self.disks.get_mut(disk).ok_or_else(|| Error::new(Kind::NotFound, operation()))?;
        if !bytes.holds(offset, data.len() as u64) {
            return Err(Error::new(Kind::Invalid, operation()).because("the range ends behind the disk"));
        }
        bytes.write(offset, data);
        for map in self.tracked.values_mut().filter_map(|maps| maps.get_mut(disk)) {
            mark(map, offset, data.len() as u64);
        }
        Ok(())
    }

    /// Forgets all change maps, as a killed hypervisor does.
    pub(super) fn lose_changes(&mut self, why: &str) {
        for (cursor, _) in std::mem::take(&mut self.tracked) {
            self.lost.insert(cursor, why.to_owned());
        }
    }
}

/// A capture and the bytes that it pins.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Pinned {
    pub(super) made: u64,
    pub(super) tags: Tags,
    pub(super) capture: Capture,
    pub(super) disks: BTreeMap<DiskName, SparseDisk>,
    /// Changes since the capture's base, where they are known.
    pub(super) changes: BTreeMap<DiskName, ChangeMap>,
    /// Why it can no longer be read.
    pub(super) lost: Option<String>,
    /// Broken on purpose: these disks are read as they are now, not as they were.
    pub(super) torn: Vec<DiskName>,
}

/// A disk that is being written, or waits to be registered.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Scratch {
    pub(super) made: u64,
    pub(super) tags: Tags,
    pub(super) name: DiskName,
    pub(super) disk: SparseDisk,
    pub(super) finished: bool,
    /// Counts the times it was opened for writing; a writer of an earlier time is refused.
    pub(super) opened: u64,
    pub(super) hidden: u32,
}

/// A native image.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Image {
    pub(super) made: u64,
    pub(super) tags: Tags,
    pub(super) point: Option<RestorePoint>,
    pub(super) disks: BTreeMap<DiskName, SparseDisk>,
    pub(super) hidden: u32,
    pub(super) options: ImageOptions,
    pub(super) protected: bool,
    /// Nobody deletes it before.
    pub(super) locked_until: Option<Timestamp>,
    /// Whether people's lists leave it out.
    pub(super) off_lists: bool,
    /// Set as long as the bytes are on their way from another site.
    pub(super) copying: Option<Copying>,
}

/// Bytes of a copy that is under way.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Copying {
    pub(super) disks: BTreeMap<DiskName, SparseDisk>,
    /// It is whole after so many more looks.
    pub(super) looks: u32,
}

/// How copies from other sites go.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Copies {
    /// How many looks see a copy under way.
    pub(super) looks: u32,
    /// How many may be under way at once.
    pub(super) slots: Option<usize>,
    /// Whether the site proves by itself that the bytes are equal.
    pub(super) proves: bool,
}

/// An instance.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Running {
    pub(super) made: u64,
    pub(super) tags: Tags,
    pub(super) script: BootScript,
    pub(super) looks: usize,
    pub(super) network: Network,
    /// The server that it is, unless it is thrown away afterwards.
    pub(super) server: Option<ServerName>,
    pub(super) hidden: u32,
}

/// Everything.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Inner {
    pub(super) sequence: u64,
    pub(super) servers: BTreeMap<ServerName, Machine>,
    pub(super) captures: BTreeMap<CaptureId, Pinned>,
    pub(super) disks: BTreeMap<String, Scratch>,
    pub(super) images: BTreeMap<ImageId, Image>,
    pub(super) instances: BTreeMap<InstanceId, Running>,
    /// Memory in bytes that a launched machine may have.
    pub(super) capacity: Option<u64>,
    /// How images of a server boot; anything else boots if its first disk has data.
    pub(super) boots: BTreeMap<ServerName, BootScript>,
    pub(super) copies: Copies,
    /// What hooks were asked for, in order.
    pub(super) hooks: Vec<Vec<String>>,
    /// Whether servers cannot be switched.
    pub(super) no_switch: bool,
}

impl Inner {
    pub(super) fn next(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// Every disk, whatever it belongs to.
    pub(super) fn every_disk(&mut self) -> impl Iterator<Item = &mut SparseDisk> {
        let servers = self.servers.values_mut().flat_map(|machine| machine.disks.values_mut());
        let captures = self.captures.values_mut().flat_map(|pinned| pinned.disks.values_mut());
        let images = self.images.values_mut().flat_map(|image| {
            let copying = image.copying.as_mut().into_iter().flat_map(|copying| copying.disks.values_mut());
            image.disks.values_mut().chain(copying)
        });
        servers.chain(captures).chain(images).chain(self.disks.values_mut().map(|scratch| &mut scratch.disk))
    }

    pub(super) fn server(&mut self, name: &ServerName) -> Result<&mut Machine> {
        self.servers.get_mut(name).ok_or_else(|| Error::new(Kind::NotFound, format!("cannot find server {name}")))
    }

    /// A capture that can still be read.
    pub(super) fn pinned(&self, id: &CaptureId) -> Result<&Pinned> {
        let operation = || format!("cannot read capture {id}");
        let pinned = self.captures.get(id).ok_or_else(|| Error::new(Kind::NotFound, operation()))?;
        match &pinned.lost {
            Some(why) => Err(Error::new(Kind::Damaged, operation()).because(why.as_str())),
            None => Ok(pinned),
        }
    }

    pub(super) fn image(&mut self, id: &ImageId) -> Result<&mut Image> {
        let operation = || format!("cannot find image {id}");
        let image = self.images.get_mut(id).ok_or_else(|| Error::new(Kind::NotFound, operation()))?;
        seen(&mut image.hidden, operation)?;
        Ok(image)
    }

    pub(super) fn instance(&mut self, id: &InstanceId) -> Result<&mut Running> {
        let operation = || format!("cannot find instance {id}");
        let instance = self.instances.get_mut(id).ok_or_else(|| Error::new(Kind::NotFound, operation()))?;
        seen(&mut instance.hidden, operation)?;
        Ok(instance)
    }

    /// Removes what a capture has left at its server; `drop` is the cursor that nobody needs any more.
    pub(super) fn end_capture(&mut self, id: &CaptureId, server: &ServerName, drop: Option<&Cursor>) -> bool {
        if let Some(machine) = self.servers.get_mut(server) {
            if machine.frozen.as_ref().is_some_and(|(by, _)| by == id) {
                machine.frozen = None;
            }
            if let Some(cursor) = drop {
                machine.tracked.remove(cursor);
                machine.lost.remove(cursor);
            }
        }
        self.captures.remove(id).is_some()
    }

    /// Everything that carries tags, oldest first, with the number that counts what was made.
    pub(super) fn tagged(&self) -> Vec<(u64, Resource)> {
        let mut all = Vec::new();
        let mut add = |made: u64, kind: &str, id: &str, tags: &Tags| {
            if tags.contains_key(tag::OWNER) {
                let role = match tags.get(tag::ROLE).map(String::as_str) {
                    Some("replica") => Role::Replica,
                    _ => Role::Scratch,
                };
                all.push((made, Resource { kind: kind.to_owned(), id: id.to_owned(), role, tags: tags.clone() }));
            }
        };
        for (id, pinned) in &self.captures {
            add(pinned.made, "capture", id.as_str(), &pinned.tags);
        }
        for (id, tags) in self.servers.values().filter_map(|machine| machine.frozen.as_ref()) {
            if !self.captures.contains_key(id) {
                add(0, "capture", id.as_str(), tags);
            }
        }
        for (id, disk) in &self.disks {
            add(disk.made, "disk", id, &disk.tags);
        }
        for (id, image) in &self.images {
            add(image.made, "image", id.as_str(), &image.tags);
        }
        for (id, instance) in &self.instances {
            add(instance.made, "instance", id.as_str(), &instance.tags);
        }
        all.sort_by_key(|(made, _)| *made);
        all
    }
}

/// Counts a look at something that is not visible yet.
pub(super) fn seen(hidden: &mut u32, operation: impl Fn() -> String) -> Result<()> {
    if *hidden == 0 {
        return Ok(());
    }
    *hidden -= 1;
    Err(Error::new(Kind::NotYetVisible, operation()).because("it was made a moment ago"))
}

/// What a capture can reach and why not more.
pub(super) fn reachable(machine: &Machine) -> (Consistency, Option<&'static str>) {
    match (machine.power, machine.agent) {
        (Power::On, true) => (Consistency::Application, None),
        (Power::On, false) => (Consistency::Crash, Some("the guest agent does not answer")),
        (Power::Off, _) if machine.clean => (Consistency::Application, None),
        (Power::Off, _) => (Consistency::Crash, Some("the server was killed, not shut down")),
    }
}

/// A timestamp that survives being written as text with milliseconds.
pub(super) fn whole_millisecond(instant: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(instant.as_millisecond()).unwrap_or(instant)
}

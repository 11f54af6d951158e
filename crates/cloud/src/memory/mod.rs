//! The reference provider: a whole cloud in memory, with faults as data.
//!
//! All handles of one cloud share its state, so that a second handle is what a restarted process sees. Tests write to
//! servers' disks, switch servers off or kill them, script how images boot, and add [`Rule`]s for what goes wrong.

mod boot;
mod bytes;
mod fault;
mod source;
mod state;
mod stream;
mod target;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use model::{CaptureId, Clock, DiskName, Error, ImageId, InstanceId, Kind, MachineSpec, Result, ServerName, SiteName};

pub use boot::BootScript;
pub use fault::{Fault, Hit, Promise, Rule};

use crate::{Cloud, Network, Power, Resource, Source, Target};
use bytes::mark;
use fault::{Entered, Faults};
use state::{Inner, Machine};

/// Locks, also after a panic of another holder: a test that failed elsewhere is not hidden by a second panic here.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct State {
    inner: Mutex<Inner>,
    faults: Faults,
    clock: Arc<dyn Clock>,
}

/// A cloud in memory. Clones are handles of the same cloud.
#[derive(Clone)]
pub struct MemoryCloud {
    site: SiteName,
    state: Arc<State>,
}

impl std::fmt::Debug for MemoryCloud {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryCloud").field("site", &self.site).finish_non_exhaustive()
    }
}

/// What a person at the site does: nothing here is part of the provider traits, and no fault touches it.
impl MemoryCloud {
    /// An empty cloud.
    pub fn new(site: SiteName, clock: Arc<dyn Clock>) -> Self {
        let state = State { inner: Mutex::default(), faults: Faults::default(), clock };
        Self { site, state: Arc::new(state) }
    }

    /// Adds a running server; its disks are zero. A server of that name is replaced.
    pub fn add_server(&self, name: ServerName, machine: MachineSpec) {
        locked(&self.state.inner).servers.insert(name, Machine::new(machine));
    }

    /// Removes a server, its disks and its captures' bytes, as when its host burns.
    pub fn remove_server(&self, name: &ServerName) {
        let mut inner = locked(&self.state.inner);
        inner.servers.remove(name);
        for pinned in inner.captures.values_mut().filter(|pinned| pinned.capture.server == *name) {
            pinned.lost = Some("the server is gone".to_owned());
        }
    }

    /// The guest writes to one of its disks. Refused with [`Kind::Transient`] while it is frozen.
    pub fn write(&self, server: &ServerName, disk: &DiskName, offset: u64, data: &[u8]) -> Result<()> {
        let mut inner = locked(&self.state.inner);
        let machine = inner.server(server)?;
        let operation = || format!("cannot write to disk {disk} of server {server}");
        if machine.frozen.is_some() {
            return Err(Error::new(Kind::Transient, operation()).because("its file systems are frozen"));
        }
        let bytes = machine.disks.get_mut(disk).ok_or_else(|| Error::new(Kind::NotFound, operation()))?;
        if !bytes.holds(offset, data.len() as u64) {
            return Err(Error::new(Kind::Invalid, operation()).because("the range ends behind the disk"));
        }
        bytes.write(offset, data);
        for map in machine.tracked.values_mut().filter_map(|maps| maps.get_mut(disk)) {
            mark(map, offset, data.len() as u64);
        }
        Ok(())
    }

    /// Reads a server's disk as it is now.
    pub fn read(&self, server: &ServerName, disk: &DiskName, offset: u64, len: usize) -> Result<Vec<u8>> {
        let mut inner = locked(&self.state.inner);
        let operation = || format!("cannot read disk {disk} of server {server}");
        let machine = inner.server(server)?;
        let bytes = machine.disks.get(disk).ok_or_else(|| Error::new(Kind::NotFound, operation()))?;
        if !bytes.holds(offset, len as u64) {
            return Err(Error::new(Kind::Invalid, operation()).because("the range ends behind the disk"));
        }
        Ok(bytes.read(offset, len))
    }

    /// Grows a server's disk.
    pub fn grow(&self, server: &ServerName, disk: &DiskName, size: u64) -> Result<()> {
        let mut inner = locked(&self.state.inner);
        let machine = inner.server(server)?;
        let Some(bytes) = machine.disks.get_mut(disk) else {
            return Err(Error::new(Kind::NotFound, format!("cannot grow disk {disk} of server {server}")));
        };
        let old = bytes.size();
        bytes.grow(size);
        for map in machine.tracked.values_mut().filter_map(|maps| maps.get_mut(disk)) {
            mark(map, old, size.saturating_sub(old));
        }
        for spec in machine.spec.disks.iter_mut().filter(|spec| spec.name == *disk) {
            spec.size = spec.size.max(size);
        }
        Ok(())
    }

    /// Switches a server on, or off in an orderly way: change maps survive.
    pub fn power(&self, server: &ServerName, power: Power) -> Result<()> {
        let mut inner = locked(&self.state.inner);
        let machine = inner.server(server)?;
        (machine.power, machine.clean) = (power, true);
        Ok(())
    }

    /// Kills a server: it is off, its change maps are lost, captures of it can no longer be read.
    pub fn kill(&self, server: &ServerName) -> Result<()> {
        let mut inner = locked(&self.state.inner);
        let machine = inner.server(server)?;
        (machine.power, machine.clean, machine.frozen) = (Power::Off, false, None);
        machine.lose_changes("the change map is gone: the guest was killed");
        for pinned in inner.captures.values_mut().filter(|pinned| pinned.capture.server == *server) {
            pinned.lost = Some("the guest was killed while the capture was held".to_owned());
        }
        Ok(())
    }

    /// Loses a server's change maps; it runs on.
    pub fn lose_change_maps(&self, server: &ServerName) -> Result<()> {
        locked(&self.state.inner).server(server)?.lose_changes("the change map is gone");
        Ok(())
    }

    /// Loses what a capture pins, as when the copy-before-write filter breaks.
    pub fn lose_capture(&self, capture: &CaptureId) {
        if let Some(pinned) = locked(&self.state.inner).captures.get_mut(capture) {
            pinned.lost = Some("the snapshot was broken".to_owned());
        }
    }

    /// Lets the guest agent answer or not.
    pub fn set_agent(&self, server: &ServerName, answers: bool) -> Result<()> {
        locked(&self.state.inner).server(server)?.agent = answers;
        Ok(())
    }

    /// Whether the server's file systems are frozen.
    pub fn is_frozen(&self, server: &ServerName) -> bool {
        locked(&self.state.inner).servers.get(server).is_some_and(|machine| machine.frozen.is_some())
    }

    /// How images of this server boot from now on.
    pub fn script_boot(&self, server: &ServerName, script: BootScript) {
        locked(&self.state.inner).boots.insert(server.clone(), script);
    }

    /// The memory that a launched machine may have at most.
    pub fn set_capacity(&self, memory: u64) {
        locked(&self.state.inner).capacity = Some(memory);
    }

    /// Flips one bit of an image's disk, as a failing store does.
    pub fn damage_image(&self, image: &ImageId, disk: &DiskName, offset: u64) -> Result<()> {
        let mut inner = locked(&self.state.inner);
        let Some(bytes) = inner.image(image)?.disks.get_mut(disk) else {
            return Err(Error::new(Kind::NotFound, format!("cannot find disk {disk} of image {image}")));
        };
        let byte = bytes.read(offset, 1);
        bytes.write(offset, &[byte[0] ^ 1]);
        Ok(())
    }

    /// The network of an instance, if it is there.
    pub fn network(&self, instance: &InstanceId) -> Option<Network> {
        locked(&self.state.inner).instances.get(instance).map(|running| running.network)
    }

    /// Hooks that captures were asked to run, in order. They are recorded, not run.
    pub fn hooks(&self) -> Vec<Vec<String>> {
        locked(&self.state.inner).hooks.clone()
    }

    /// Adds a fault.
    pub fn inject(&self, rule: Rule) {
        self.state.faults.add(rule);
    }

    /// Removes all faults; the log of hits stays.
    pub fn heal(&self) {
        self.state.faults.clear();
    }

    /// Every fault that happened.
    pub fn hits(&self) -> Vec<Hit> {
        self.state.faults.hits()
    }

    /// The name of every call that arrived, in order: what a step repeated, what a plan cost.
    pub fn calls(&self) -> Vec<String> {
        self.state.faults.calls()
    }

    /// One call of the provider: faults, effect, faults.
    async fn call<T: Send>(
        &self,
        operation: &'static str,
        effect: impl FnOnce(&mut Inner, &Entered<'_>) -> Result<T> + Send,
    ) -> Result<T> {
        let entered = self.state.faults.enter(operation).await?;
        let answer = effect(&mut locked(&self.state.inner), &entered)?;
        entered.leave().await?;
        Ok(answer)
    }
}

#[async_trait]
impl Cloud for MemoryCloud {
    fn site(&self) -> &SiteName {
        &self.site
    }

    fn kind(&self) -> &'static str {
        "memory"
    }

    fn source(&self) -> Option<&dyn Source> {
        Some(self)
    }

    fn target(&self) -> Option<&dyn Target> {
        Some(self)
    }

    async fn owned(&self) -> Result<Vec<Resource>> {
        self.call("owned", |inner, call| {
            let mut all: Vec<Resource> = inner.tagged().into_iter().map(|(_, resource)| resource).collect();
            all.truncate(all.len().saturating_sub(call.stale()));
            if call.breaks(Promise::OwnedComplete) {
                all.pop();
            }
            Ok(all)
        })
        .await
    }

    async fn delete(&self, resource: &Resource) -> Result<()> {
        self.call("delete", |inner, call| {
            if call.breaks(Promise::Deleted) {
                return Ok(());
            }
            let found = remove(inner, resource)?;
            if !found && call.breaks(Promise::AbsentIsSuccess) {
                return Err(Error::new(Kind::NotFound, format!("cannot delete {} {}", resource.kind, resource.id)));
            }
            Ok(())
        })
        .await
    }
}

/// Removes a resource of any kind and tells whether it was there.
fn remove(inner: &mut Inner, resource: &Resource) -> Result<bool> {
    let id = resource.id.as_str();
    Ok(match resource.kind.as_str() {
        "capture" => {
            let id = CaptureId::new(id)?;
            let held = inner.captures.get(&id).map(|p| (p.capture.server.clone(), p.capture.cursor.clone()));
            let frozen = inner.servers.iter().find(|(_, m)| m.frozen.as_ref().is_some_and(|(by, _)| *by == id));
            match held.or_else(|| frozen.map(|(name, _)| (name.clone(), None))) {
                Some((server, cursor)) => {
                    inner.end_capture(&id, &server, cursor.as_ref());
                    true
                }
                None => false,
            }
        }
        "disk" => inner.disks.remove(id).is_some(),
        "image" => inner.images.remove(&ImageId::new(id)?).is_some(),
        "instance" => target::destroy(inner, &InstanceId::new(id)?),
        kind => {
            return Err(Error::new(Kind::Invalid, format!("cannot delete {kind} {id}")).because("no such kind here"));
        }
    })
}

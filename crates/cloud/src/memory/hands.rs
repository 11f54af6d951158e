//! What a person at the site does: nothing here is part of the provider traits, and no fault touches it.

use std::ops::{Deref, DerefMut};
use std::sync::MutexGuard;

use model::{CaptureId, DiskName, Error, ImageId, ImageOptions, InstanceId, Kind, MachineSpec, Result, ServerName};

use super::boot::BootScript;
use super::bytes::mark;
use super::keep::Folder;
use super::state::{Copies, Inner, Machine};
use super::{MemoryCloud, locked};
use crate::{Network, Power};

/// Access to the cloud that is kept, if it has a folder, when it ends.
struct Edit<'a>(MutexGuard<'a, Inner>, Option<&'a Folder>);

impl Deref for Edit<'_> {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl DerefMut for Edit<'_> {
    fn deref_mut(&mut self) -> &mut Inner {
        &mut self.0
    }
}

impl Drop for Edit<'_> {
    fn drop(&mut self) {
        if let Some(folder) = self.1
            && let Err(error) = folder.save(&mut self.0)
        {
            // the next call of the provider saves again, and answers with the error
            tracing::error!(error = error.chain(), "the memory cloud is not kept");
        }
    }
}

impl MemoryCloud {
    fn edit(&self) -> Edit<'_> {
        Edit(locked(&self.state.inner), self.state.folder.as_ref())
    }

    /// Adds a running server; its disks are zero. A server of that name is replaced.
    pub fn add_server(&self, name: ServerName, machine: MachineSpec) {
        self.edit().servers.insert(name, Machine::new(machine));
    }

    /// Removes a server, its disks and its captures' bytes, as when its host burns.
    pub fn remove_server(&self, name: &ServerName) {
        let mut inner = self.edit();
        inner.servers.remove(name);
        for pinned in inner.captures.values_mut().filter(|pinned| pinned.capture.server == *name) {
            pinned.lost = Some("the server is gone".to_owned());
        }
    }

    /// The guest writes to one of its disks. Refused with [`Kind::Transient`] while it is frozen.
    pub fn write(&self, server: &ServerName, disk: &DiskName, offset: u64, data: &[u8]) -> Result<()> {
        let mut inner = self.edit();
        let machine = inner.server(server)?;
        let operation = || format!("cannot write to disk {disk} of server {server}");
        if machine.frozen.is_some() {
            return Err(Error::new(Kind::Transient, operation()).because("its file systems are frozen"));
        }
        machine.write(disk, offset, data).map_err(|error| error.within(operation()))
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
        let mut inner = self.edit();
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
        let mut inner = self.edit();
        let machine = inner.server(server)?;
        (machine.power, machine.clean) = (power, true);
        Ok(())
    }

    /// Whether the server runs.
    pub fn is_on(&self, server: &ServerName) -> bool {
        locked(&self.state.inner).servers.get(server).is_some_and(|machine| machine.power == Power::On)
    }

    /// Lets a server's system not shut down when it is asked to.
    pub fn set_stubborn(&self, server: &ServerName, stubborn: bool) -> Result<()> {
        self.edit().server(server)?.stubborn = stubborn;
        Ok(())
    }

    /// What a server's system writes while it shuts down.
    pub fn set_last_words(&self, server: &ServerName, disk: &DiskName, offset: u64, data: &[u8]) -> Result<()> {
        self.edit().server(server)?.last_words = Some((disk.clone(), offset, data.to_vec()));
        Ok(())
    }

    /// Makes it a cloud whose servers cannot be switched.
    pub fn take_switch(&self) {
        self.edit().no_switch = true;
    }

    /// Kills a server: it is off, its change maps are lost, captures of it can no longer be read.
    pub fn kill(&self, server: &ServerName) -> Result<()> {
        let mut inner = self.edit();
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
        self.edit().server(server)?.lose_changes("the change map is gone");
        Ok(())
    }

    /// Loses what a capture pins, as when the copy-before-write filter breaks.
    pub fn lose_capture(&self, capture: &CaptureId) {
        if let Some(pinned) = self.edit().captures.get_mut(capture) {
            pinned.lost = Some("the snapshot was broken".to_owned());
        }
    }

    /// Lets the guest agent answer or not.
    pub fn set_agent(&self, server: &ServerName, answers: bool) -> Result<()> {
        self.edit().server(server)?.agent = answers;
        Ok(())
    }

    /// Whether the server's file systems are frozen.
    pub fn is_frozen(&self, server: &ServerName) -> bool {
        locked(&self.state.inner).servers.get(server).is_some_and(|machine| machine.frozen.is_some())
    }

    /// How images of this server boot from now on.
    pub fn script_boot(&self, server: &ServerName, script: BootScript) {
        self.edit().boots.insert(server.clone(), script);
    }

    /// The memory that a launched machine may have at most.
    pub fn set_capacity(&self, memory: u64) {
        self.edit().capacity = Some(memory);
    }

    /// How copies from other sites go: under way for so many looks, so many at once, proved by the site itself or not.
    pub fn set_copies(&self, looks: u32, slots: Option<usize>, proves: bool) {
        self.edit().copies = Copies { looks, slots, proves };
    }

    /// What a policy has asked of an image, whether it is protected, and whether it is off people's lists.
    pub fn dress(&self, image: &ImageId) -> Option<(ImageOptions, bool, bool)> {
        let inner = locked(&self.state.inner);
        inner.images.get(image).map(|image| (image.options.clone(), image.protected, image.off_lists))
    }

    /// Flips one bit of an image's disk, as a failing store does.
    pub fn damage_image(&self, image: &ImageId, disk: &DiskName, offset: u64) -> Result<()> {
        let mut inner = self.edit();
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
}

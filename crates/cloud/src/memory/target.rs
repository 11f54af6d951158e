//! The memory cloud as a target: disks, images, and instances that boot as their script says.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use async_trait::async_trait;
use disk::{DiskRead, DiskWrite};
use jiff::Timestamp;
use model::{
    DiskName, Error, ImageId, ImageOption, ImageOptions, InstanceId, Kind, RestorePoint, Result, Role, ServerName,
    Tags, Token, tag,
};

use super::MemoryCloud;
use super::boot::BootScript;
use super::bytes::SparseDisk;
use super::fault::{Entered, Promise};
use super::state::{Image, Inner, Machine, Running, Scratch, seen};
use super::stream::{CaptureReader, Of, ScratchWriter};
use crate::{Console, ImageDisk, Instance, LaunchOptions, ProbeState, Target};

/// What can be asked of images here: everything but what is a matter of storage.
pub const IMAGE_OPTIONS: &[ImageOption] = &[
    ImageOption::Name,
    ImageOption::Tags,
    ImageOption::Visibility,
    ImageOption::Share,
    ImageOption::Protected,
    ImageOption::Immutability,
    ImageOption::HideOlder,
];

#[async_trait]
impl Target for MemoryCloud {
    fn image_options(&self) -> &'static [ImageOption] {
        IMAGE_OPTIONS
    }

    async fn create_disk(
        &self,
        disk: &DiskName,
        size: u64,
        base: Option<&ImageId>,
        token: &Token,
    ) -> Result<(ImageDisk, Box<dyn DiskWrite>)> {
        self.call("create_disk", |inner, call| {
            let mut id = format!("{}/{disk}", token.name());
            if inner.disks.contains_key(&id) && call.breaks(Promise::SameToken) {
                id = format!("{id}-{}", inner.next());
            }
            let before = inner.disks.remove(&id);
            let opened = before.as_ref().map_or(1, |scratch| scratch.opened + 1);
            let bytes = match (base, before) {
                (_, Some(scratch)) if call.breaks(Promise::Emptied) => scratch.disk,
                (Some(base), _) if !call.breaks(Promise::BaseKept) => base_bytes(inner, base, disk, size)?,
                _ => SparseDisk::new(size),
            };
            let scratch = Scratch {
                made: inner.next(),
                tags: tags(token, if call.breaks(Promise::RoleKept) { Role::Replica } else { Role::Scratch }, call),
                name: disk.clone(),
                disk: bytes,
                finished: false,
                opened,
                hidden: call.invisible(),
            };
            inner.disks.insert(id.clone(), scratch);
            let writer = ScratchWriter::new(self, id.clone(), opened, size, base.is_some());
            Ok((ImageDisk { name: disk.clone(), id }, Box::new(writer) as Box<dyn DiskWrite>))
        })
        .await
    }

    async fn open_image(&self, image: &ImageId, disk: &DiskName) -> Result<Box<dyn DiskRead>> {
        self.call("open_image", |inner, call| {
            if !inner.images.contains_key(image) && call.breaks(Promise::NotFoundTold) {
                return Err(Error::new(Kind::Permanent, format!("cannot open image {image}")));
            }
            let size = inner.image(image)?.disks.get(disk).map(SparseDisk::size);
            let size =
                size.ok_or_else(|| Error::new(Kind::NotFound, format!("cannot open disk {disk} of image {image}")))?;
            let of = Of::Image(image.clone());
            Ok(Box::new(CaptureReader::new(self, of, disk.clone(), size, false)) as Box<dyn DiskRead>)
        })
        .await
    }

    async fn register(
        &self,
        disks: &[ImageDisk],
        point: &RestorePoint,
        options: &ImageOptions,
        role: Role,
        token: &Token,
    ) -> Result<ImageId> {
        self.call("register", |inner, call| {
            if !call.breaks(Promise::OptionsRefused) {
                options.within(IMAGE_OPTIONS, "memory")?;
            }
            let mut id = ImageId::new(token.name())?;
            if inner.images.contains_key(&id) {
                if !call.breaks(Promise::SameToken) {
                    return Ok(id);
                }
                id = ImageId::new(format!("{id}-{}", inner.next()))?;
            }
            let role = if call.breaks(Promise::RoleKept) { Role::Scratch } else { role };
            let mut image = Image {
                made: inner.next(),
                tags: tags(token, role, call),
                point: (!call.breaks(Promise::PointCarried)).then(|| point.clone()),
                disks: take_disks(inner, disks, &id, call)?,
                hidden: call.invisible(),
                ..Image::default()
            };
            if !call.breaks(Promise::OptionsKept) {
                dress(&mut image, options, role, self.state.clock.now());
            }
            inner.images.insert(id.clone(), image);
            Ok(id)
        })
        .await
    }

    async fn images(&self) -> Result<Vec<(ImageId, RestorePoint)>> {
        self.call("images", |inner, call| {
            let mut all: Vec<_> = inner.images.iter_mut().collect();
            all.sort_by_key(|(_, image)| image.made);
            let seen_now = all.len().saturating_sub(call.stale());
            let mut list = Vec::new();
            for (id, image) in all.into_iter().take(seen_now) {
                let replica = image.tags.get(tag::ROLE).is_some_and(|role| role == "replica");
                let listed = !image.off_lists || !call.breaks(Promise::HiddenListed);
                if replica
                    && listed
                    && seen(&mut image.hidden, String::new).is_ok()
                    && let Some(point) = &image.point
                {
                    list.push((id.clone(), point.clone()));
                }
            }
            Ok(list)
        })
        .await
    }

    async fn protect(&self, image: &ImageId, on: bool) -> Result<()> {
        self.call("protect", |inner, call| {
            let now = self.state.clock.now();
            let found = inner.image(image)?;
            if !on {
                unlocked(image, found, now)?;
            }
            if !call.breaks(Promise::OptionsKept) {
                found.protected = on;
            }
            Ok(())
        })
        .await
    }

    async fn hide(&self, image: &ImageId, hidden: bool) -> Result<()> {
        self.call("hide", |inner, _| {
            inner.image(image)?.off_lists = hidden;
            Ok(())
        })
        .await
    }

    async fn launch(&self, image: &ImageId, options: &LaunchOptions, token: &Token) -> Result<Instance> {
        self.call("launch", |inner, call| {
            let mut id = InstanceId::new(token.name())?;
            if inner.instances.contains_key(&id) {
                if !call.breaks(Promise::SameToken) {
                    let ports = addresses(&inner.instances[&id].script, options);
                    return Ok(Instance { id, ports });
                }
                id = InstanceId::new(format!("{id}-{}", inner.next()))?;
            }
            let running = boot(inner, image, options, token, call)?;
            let ports = addresses(&running.script, options);
            inner.instances.insert(id.clone(), running);
            Ok(Instance { id, ports })
        })
        .await
    }

    async fn probe(&self, instance: &InstanceId) -> Result<ProbeState> {
        self.call("probe", |inner, _| {
            let running = inner.instance(instance)?;
            let (_, booted) = running.script.shown(running.looks);
            let script = &running.script;
            let (panicked, stopped) = (booted && script.panics, booted && script.stops);
            Ok(ProbeState { running: !stopped, agent: booted && script.agent && !panicked && !stopped, panicked })
        })
        .await
    }

    async fn console(&self, instance: &InstanceId) -> Result<Console> {
        self.call("console", |inner, _| {
            let running = inner.instance(instance)?;
            running.looks += 1;
            Ok(Console { text: running.script.shown(running.looks).0 })
        })
        .await
    }

    async fn execute(&self, instance: &InstanceId, command: &[String], _limit: Duration) -> Result<(i32, String)> {
        self.call("execute", |inner, _| {
            let running = inner.instance(instance)?;
            let (_, booted) = running.script.shown(running.looks);
            if !(booted && running.script.agent) {
                let operation = format!("cannot run a command in instance {instance}");
                return Err(Error::new(Kind::Transient, operation).because("the guest agent does not answer"));
            }
            Ok(running.script.execute(command))
        })
        .await
    }

    async fn destroy(&self, instance: &InstanceId) -> Result<()> {
        self.call("destroy", |inner, call| {
            if call.breaks(Promise::Destroyed) {
                return Ok(());
            }
            if !destroy(inner, instance) && call.breaks(Promise::AbsentIsSuccess) {
                return Err(Error::new(Kind::NotFound, format!("cannot destroy instance {instance}")));
            }
            Ok(())
        })
        .await
    }
}

/// Removes an instance, and the server that it is.
pub(super) fn destroy(inner: &mut Inner, instance: &InstanceId) -> bool {
    let Some(running) = inner.instances.remove(instance) else { return false };
    if let Some(server) = running.server {
        inner.servers.remove(&server);
    }
    true
}

/// Gives an image what a policy asks of it; what keeps it from being deleted only as a replica.
pub(super) fn dress(image: &mut Image, options: &ImageOptions, role: Role, now: Timestamp) {
    for (key, value) in &options.tags {
        image.tags.entry(key.clone()).or_insert_with(|| value.clone());
    }
    image.options = options.clone();
    if role == Role::Replica {
        image.protected = options.protected;
        image.locked_until = options.immutability.and_then(|time| now.checked_add(time).ok());
    }
}

fn unlocked(id: &ImageId, image: &Image, now: Timestamp) -> Result<()> {
    match image.locked_until.filter(|until| *until > now) {
        Some(until) => Err(Error::new(Kind::Denied, format!("cannot delete image {id}"))
            .because(format!("it is immutable until {until}"))),
        None => Ok(()),
    }
}

/// Refuses what is protected or locked.
pub(super) fn may_delete(id: &ImageId, image: &Image, now: Timestamp) -> Result<()> {
    unlocked(id, image, now)?;
    if image.protected {
        return Err(Error::new(Kind::Denied, format!("cannot delete image {id}")).because("it is protected"));
    }
    Ok(())
}

pub(super) fn tags(token: &Token, role: Role, call: &Entered<'_>) -> Tags {
    if call.breaks(Promise::Tagged) { Tags::new() } else { token.tags(role) }
}

/// The bytes that a disk begins with.
fn base_bytes(inner: &mut Inner, base: &ImageId, disk: &DiskName, size: u64) -> Result<SparseDisk> {
    let operation = || format!("cannot create disk {disk} on image {base}");
    let found = inner.image(base).map_err(|error| error.within(operation()))?.disks.get(disk);
    let mut bytes = found
        .cloned()
        .ok_or_else(|| Error::new(Kind::NotFound, operation()).because("the image has no disk of that name"))?;
    if bytes.size() > size {
        return Err(Error::new(Kind::Invalid, operation()).because("the disk is smaller than the image's"));
    }
    bytes.grow(size);
    Ok(bytes)
}

/// Moves finished scratch disks into an image: all or none.
fn take_disks(
    inner: &mut Inner,
    disks: &[ImageDisk],
    image: &ImageId,
    call: &Entered<'_>,
) -> Result<BTreeMap<DiskName, SparseDisk>> {
    let operation = || format!("cannot register image {image}");
    if disks.is_empty() {
        return Err(Error::new(Kind::Invalid, operation()).because("it has no disk"));
    }
    for disk in disks {
        let because = |why: &str| format!("disk {} {why}", disk.id);
        match inner.disks.get_mut(&disk.id) {
            None if call.breaks(Promise::DisksExist) => {}
            None => return Err(Error::new(Kind::NotFound, operation()).because(because("does not exist"))),
            Some(scratch) if !scratch.finished => {
                return Err(Error::new(Kind::Invalid, operation()).because(because("was not finished")));
            }
            Some(scratch) if scratch.name != disk.name => {
                return Err(Error::new(Kind::Invalid, operation()).because(because("has another name")));
            }
            Some(scratch) => seen(&mut scratch.hidden, operation)?,
        }
    }
    let keep = call.breaks(Promise::SameToken);
    let taken = disks.iter().filter_map(|disk| {
        let bytes = inner.disks.get(&disk.id).map(|scratch| scratch.disk.clone());
        if !keep {
            inner.disks.remove(&disk.id);
        }
        bytes.map(|bytes| (disk.name.clone(), bytes))
    });
    Ok(taken.collect())
}

/// Starts a machine from an image.
fn boot(
    inner: &mut Inner,
    image: &ImageId,
    options: &LaunchOptions,
    token: &Token,
    call: &Entered<'_>,
) -> Result<Running> {
    let operation = || format!("cannot launch image {image}");
    let (capacity, made) = (inner.capacity, inner.next());
    let found = inner.image(image).map_err(|error| error.within(operation()))?;
    let Some(point) = found.point.clone() else {
        return Err(Error::new(Kind::Invalid, operation()).because("it carries no restore point"));
    };
    let disks = found.disks.clone();
    if call.breaks(Promise::ImageUntouched)
        && let Some(bytes) = found.disks.values_mut().next()
    {
        bytes.write(0, b"written by the guest");
    }
    if let Some(capacity) = capacity.filter(|capacity| point.machine.memory > *capacity) {
        let why = format!("it needs {} bytes of memory, {capacity} are there", point.machine.memory);
        return Err(Error::new(Kind::Quota, operation()).because(why));
    }
    let first = point.machine.disks.first().and_then(|spec| disks.get(&spec.name));
    let script = match first {
        Some(bytes) if bytes.has_data() => inner.boots.get(&point.server).cloned().unwrap_or_default(),
        _ => BootScript::nothing_to_boot(),
    };
    let server = if options.ephemeral { None } else { Some(become_server(inner, options, point, disks)?) };
    // a restored server is kept: it must never look like the leftovers of a run
    let role = if options.ephemeral { Role::Scratch } else { Role::Replica };
    let tags = tags(token, role, call);
    Ok(Running { made, tags, script, looks: 0, network: options.network, server, hidden: call.invisible() })
}

/// Makes a launched machine a server of the site, so that it can be captured again.
fn become_server(
    inner: &mut Inner,
    options: &LaunchOptions,
    point: RestorePoint,
    disks: BTreeMap<DiskName, SparseDisk>,
) -> Result<ServerName> {
    let name = options.name.clone();
    if inner.servers.contains_key(&name) {
        return Err(Error::new(Kind::Exists, format!("cannot launch server {name}"))
            .because("a server of that name runs here")
            .hint("choose another name"));
    }
    inner.servers.insert(name.clone(), Machine { disks, ..Machine::new(point.machine) });
    Ok(name)
}

/// Where the asked ports can be reached; a port that nothing serves leads to one that refuses.
fn addresses(script: &BootScript, options: &LaunchOptions) -> Vec<(u16, SocketAddr)> {
    let closed = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    options.ports.iter().map(|port| (*port, script.ports.get(port).copied().unwrap_or(closed))).collect()
}

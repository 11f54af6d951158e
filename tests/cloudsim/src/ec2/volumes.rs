//! Volumes: made, attached, detached, deleted, described.

use super::filter::{self, Fields};
use super::find::Cx;
use super::keys;
use super::page;
use super::params::Params;
use super::register::VOLUME_TYPES;
use super::tags;
use super::xml::{Maybe, Xml, list, text};
use crate::clock::{iso, later};
use crate::error::{Answer, ApiError};
use crate::hypervisor::hold;
use crate::store::GIB;
use crate::store::maps::Map;
use crate::world::fixtures::{zone_id, zones};
use crate::world::resource::{Attachment, Base, Mapping, Tags, Volume, Wish};

/// A new volume of an image's disk, its file made already. `base` gives it its name.
pub(crate) fn of(cx: &Cx<'_>, base: Base, mapping: &Mapping, zone: &str, available: jiff::Timestamp) -> Answer<Volume> {
    let sim = cx.sim;
    let mut map = Map::new();
    let mut pattern = None;
    if let Some(id) = &mapping.snapshot {
        let absent = || ApiError::internal(format!("{id} has no blocks"));
        map = sim.maps.share(id, &sim.blocks).ok_or_else(absent)?;
        pattern = sim.with(|world| {
            let snapshot = world.snapshots.get(id);
            // only an unencrypted chain's first snapshot promises zeroes for what was never written
            let loose = snapshot.is_some_and(|it| it.key.is_some() || it.parent.is_some());
            loose.then_some(world.settings.weather.unwritten_pattern)
        });
    }
    let made = crate::store::volume::create(&sim.volume(&base.id), mapping.gib * GIB, &map, &sim.blocks, pattern);
    map.values().for_each(|block| sim.blocks.release(&block.hash));
    made?;
    Ok(Volume {
        base,
        zone: zone.to_owned(),
        gib: mapping.gib,
        kind: mapping.kind.clone(),
        iops: mapping.iops.or((mapping.kind == "gp3").then_some(3000)),
        throughput: mapping.throughput.or((mapping.kind == "gp3").then_some(125)),
        snapshot: mapping.snapshot.clone(),
        key: mapping.key.clone(),
        available,
        attached: None,
        last_snapshot: None,
    })
}

pub(crate) fn create(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let zone = params.need("AvailabilityZone")?;
    let encrypted = params.flag("Encrypted")?.unwrap_or(false);
    let chosen = keys::chosen(cx, encrypted, params.get("KmsKeyId"));
    let mut mapping = Mapping {
        snapshot: params.get("SnapshotId"),
        gib: params.number("Size")?.unwrap_or_default(),
        kind: params.word("VolumeType", &VOLUME_TYPES)?.unwrap_or_else(|| "gp2".to_owned()),
        iops: params.number("Iops")?,
        throughput: params.number("Throughput")?,
        ..Mapping::default()
    };
    let tags = tags::specified(params, &["volume"], "volume")?;
    let token = params.get("ClientToken").map(|token| cx.token("CreateVolume", &token, params));
    params.done()?;
    if let Some(made) = cx.sim.with(|world| world.made(token.as_ref()))? {
        return one(cx, &made.concat());
    }
    if !zones(cx.region()).contains(&zone) {
        let message = format!("The zone '{zone}' does not exist.");
        return Err(ApiError::refuse("InvalidZone.NotFound", message));
    }
    let (base, available) = cx.sim.with(|world| -> Answer<_> {
        if let Some(id) = &mapping.snapshot {
            let snapshot = cx.snapshot(world, id)?;
            if snapshot.state(world.now()) != "completed" {
                let message = format!("Snapshot '{id}' is not in the 'completed' state");
                return Err(ApiError::refuse("IncorrectState", message));
            }
            if mapping.gib == 0 {
                mapping.gib = snapshot.gib;
            }
            if mapping.gib < snapshot.gib {
                let message = format!("Value ({}) for parameter size is smaller than the snapshot's", mapping.gib);
                return Err(ApiError::refuse("InvalidParameterValue", message));
            }
            mapping.key = snapshot.key.clone();
        }
        let base = world.base("vol", cx.account(), cx.region(), tags);
        let available = later(base.created, world.settings.weather.volume_seconds);
        Ok((base, available))
    })?;
    if mapping.gib == 0 {
        return Err(ApiError::missing("size/snapshot"));
    }
    mapping.key = chosen.map(|(key, _)| key).or(mapping.key);
    let volume = of(cx, base, &mapping, &zone, available)?;
    let fresh = volume.base.id.clone();
    let id = cx.sim.change(|world| {
        if let Some(made) = world.made(token.as_ref())? {
            return Ok(made.concat());
        }
        world.remember(token.as_ref(), vec![fresh.clone()]);
        world.volumes.insert(fresh.clone(), volume);
        Ok(fresh.clone())
    })?;
    if id != fresh {
        std::fs::remove_file(cx.sim.volume(&fresh))?;
    }
    one(cx, &id)
}

fn one(cx: &Cx<'_>, id: &str) -> Answer<Vec<Xml>> {
    cx.sim.with(|world| {
        let now = world.now();
        let found = world.volumes.get(id).map(|it| info(it, now));
        found.ok_or_else(|| ApiError::refuse("InvalidVolume.NotFound", format!("The volume '{id}' does not exist.")))
    })
}

fn state(volume: &Volume, now: jiff::Timestamp) -> &'static str {
    match volume.attached {
        Some(_) => "in-use",
        None if now < volume.available => "creating",
        None => "available",
    }
}

fn attachment(volume: &str, at: &Attachment, status: &'static str) -> Vec<Xml> {
    vec![
        text("volumeId", volume),
        text("instanceId", &at.instance),
        text("device", &at.device),
        text("status", status),
        text("attachTime", iso(at.at)),
        text("deleteOnTermination", at.delete),
    ]
}

fn info(volume: &Volume, now: jiff::Timestamp) -> Vec<Xml> {
    let attached = volume.attached.iter().map(|at| attachment(&volume.base.id, at, "attached"));
    let mut xml = vec![
        text("volumeId", &volume.base.id),
        text("size", volume.gib),
        text("snapshotId", volume.snapshot.as_deref().unwrap_or_default()),
        text("availabilityZone", &volume.zone),
        text("availabilityZoneId", zone_id(&volume.zone)),
        text("status", state(volume, now)),
        text("createTime", iso(volume.base.created)),
        list("attachmentSet", attached),
        tags::set(volume.base.tags(now)),
        text("volumeType", &volume.kind),
        text("encrypted", volume.key.is_some()),
        text("multiAttachEnabled", false),
    ];
    xml.maybe("iops", volume.iops);
    xml.maybe("throughput", volume.throughput);
    xml.maybe("kmsKeyId", volume.key.as_ref());
    xml
}

const FILTERS: [&str; 12] = [
    "attachment.delete-on-termination",
    "attachment.device",
    "attachment.instance-id",
    "attachment.status",
    "availability-zone",
    "create-time",
    "encrypted",
    "size",
    "snapshot-id",
    "status",
    "volume-id",
    "volume-type",
];

pub(crate) fn describe(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let ids = params.list("VolumeId");
    let filters = filter::read(params, &FILTERS)?;
    let page = page::read(params, "DescribeVolumes", (5, 1000), !ids.is_empty())?;
    params.done()?;
    let items = cx.sim.with(|world| -> Answer<Vec<_>> {
        let now = world.now();
        for id in &ids {
            cx.volume(world, id)?;
        }
        let found = world.volumes.values().filter(|it| {
            let mut fields: Fields = vec![
                ("availability-zone", it.zone.clone()),
                ("create-time", iso(it.base.created)),
                ("encrypted", it.key.is_some().to_string()),
                ("size", it.gib.to_string()),
                ("status", state(it, now).to_owned()),
                ("volume-id", it.base.id.clone()),
                ("volume-type", it.kind.clone()),
            ];
            fields.extend(it.snapshot.iter().map(|id| ("snapshot-id", id.clone())));
            if let Some(at) = &it.attached {
                fields.push(("attachment.delete-on-termination", at.delete.to_string()));
                fields.push(("attachment.device", at.device.clone()));
                fields.push(("attachment.instance-id", at.instance.clone()));
                fields.push(("attachment.status", "attached".to_owned()));
            }
            cx.owns(&it.base, now)
                && (ids.is_empty() || ids.contains(&it.base.id))
                && filter::all_fit(&filters, &fields, it.base.tags(now))
        });
        Ok(found.map(|it| (it.base.id.clone(), info(it, now))).collect())
    })?;
    Ok(page.of(cx, "volumeSet", items))
}

pub(crate) fn attach(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let (id, instance, device) = (params.need("VolumeId")?, params.need("InstanceId")?, params.need("Device")?);
    params.done()?;
    let (at, runs) = cx.sim.change(|world| {
        let now = world.now();
        let found = cx.instance(world, &instance)?.clone();
        if !matches!(found.state(now).1, "running" | "stopped") {
            let message = format!("Instance '{instance}' is not 'running'");
            return Err(ApiError::refuse("IncorrectState", message));
        }
        let taken =
            |it: &&Volume| it.attached.as_ref().is_some_and(|at| at.instance == instance && at.device == device);
        if world.volumes.values().any(|it| taken(&it)) {
            let message =
                format!("Invalid value '{device}' for unixDevice. Attachment point {device} is already in use");
            return Err(ApiError::refuse("InvalidParameterValue", message));
        }
        let volume = cx.volume(world, &id)?;
        if state(volume, now) != "available" {
            let message = format!("{id} is in state '{}'", state(volume, now));
            let code = if volume.attached.is_some() { "VolumeInUse" } else { "IncorrectState" };
            return Err(ApiError::refuse(code, message));
        }
        if volume.zone != found.zone {
            let message = format!("The volume '{id}' is not in the same availability zone as instance '{instance}'");
            return Err(ApiError::refuse("InvalidVolume.ZoneMismatch", message));
        }
        let at = Attachment { instance: instance.clone(), device: device.clone(), at: now, delete: false };
        volume.attached = Some(at.clone());
        Ok((at, found.wish == Wish::Running))
    })?;
    if runs && let Err(why) = hold::plug(cx.sim, &instance, &id) {
        detached(cx, &id)?;
        return Err(why);
    }
    Ok(attachment(&id, &at, "attaching"))
}

fn detached(cx: &Cx<'_>, id: &str) -> Answer<()> {
    cx.sim.change(|world| {
        if let Some(volume) = world.volumes.get_mut(id) {
            volume.attached = None;
        }
        Ok(())
    })
}

pub(crate) fn detach(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let id = params.need("VolumeId")?;
    let (instance, device) = (params.get("InstanceId"), params.get("Device"));
    params.flag("Force")?;
    params.done()?;
    let at = cx.sim.with(|world| -> Answer<Attachment> {
        let volume = cx.volume(world, &id)?.clone();
        let fits = |at: &Attachment| {
            instance.as_ref().is_none_or(|it| *it == at.instance) && device.as_ref().is_none_or(|it| *it == at.device)
        };
        let at = volume
            .attached
            .filter(fits)
            .ok_or_else(|| ApiError::refuse("IncorrectState", format!("Volume '{id}' is in the 'available' state.")))?;
        let runs = world.instances.get(&at.instance).is_some_and(|it| it.wish == Wish::Running && it.root == at.device);
        if runs {
            let message = format!("Unable to detach root volume '{id}' from instance '{}'", at.instance);
            return Err(ApiError::refuse("OperationNotPermitted", message));
        }
        Ok(at)
    })?;
    hold::unplug(cx.sim, &at.instance, &id)?;
    detached(cx, &id)?;
    Ok(attachment(&id, &at, "detaching"))
}

pub(crate) fn delete(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let id = params.need("VolumeId")?;
    params.done()?;
    cx.sim.change(|world| {
        let volume = cx.volume(world, &id)?;
        if let Some(at) = &volume.attached {
            let message = format!("Volume {id} is currently attached to {}", at.instance);
            return Err(ApiError::refuse("VolumeInUse", message));
        }
        world.volumes.remove(&id);
        Ok(())
    })?;
    std::fs::remove_file(cx.sim.volume(&id))?;
    Ok(vec![text("return", true)])
}

/// Tags of what a launch makes.
pub(crate) fn launch_tags(params: &Params) -> Answer<(Tags, Tags)> {
    let types = ["instance", "volume", "network-interface"];
    Ok((tags::specified(params, &types, "instance")?, tags::specified(params, &types, "volume")?))
}

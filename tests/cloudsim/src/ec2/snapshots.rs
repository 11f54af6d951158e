//! Snapshots of volumes: made at one instant, described, deleted.

use super::filter::{self, Fields};
use super::find::Cx;
use super::page;
use super::params::Params;
use super::tags;
use super::xml::{Maybe, Xml, list, text};
use crate::clock::{iso, later};
use crate::error::{Answer, ApiError};
use crate::hypervisor::hold;
use crate::store::maps::Map;
use crate::world::World;
use crate::world::resource::{Making, Snapshot, Tags, Wish};

/// A snapshot to be made of a volume.
pub(crate) struct Wanted {
    pub(crate) volume: String,
    pub(crate) description: String,
    pub(crate) tags: Tags,
}

pub(crate) fn create_many(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let spec = params.below("InstanceSpecification");
    let instance = spec.need("InstanceId")?;
    let without_boot = spec.flag("ExcludeBootVolume")?.unwrap_or(false);
    let without = spec.list("ExcludeDataVolumeId");
    let description = params.get("Description").unwrap_or_default();
    let copy_tags = params.word("CopyTagsFromSource", &["volume"])?.is_some();
    params.word("Location", &["regional"])?;
    let tags = tags::specified(params, &["snapshot"], "snapshot")?;
    params.done()?;
    let wanted = cx.sim.with(|world| -> Answer<Vec<Wanted>> {
        let root = cx.instance(world, &instance)?.root.clone();
        let mut wanted = Vec::new();
        for volume in world.volumes.values() {
            let Some(attached) = volume.attached.as_ref().filter(|it| it.instance == instance) else { continue };
            let is_root = attached.device == root;
            if (is_root && without_boot) || (!is_root && without.contains(&volume.base.id)) {
                continue;
            }
            let mut all = if copy_tags { volume.base.tags.clone() } else { Tags::new() };
            all.extend(tags.clone());
            let order = (!is_root, attached.device.clone());
            wanted
                .push((order, Wanted { volume: volume.base.id.clone(), description: description.clone(), tags: all }));
        }
        wanted.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(wanted.into_iter().map(|(_, it)| it).collect())
    })?;
    if wanted.is_empty() {
        return Err(ApiError::refuse(
            "InvalidParameterValue",
            format!("No volumes of {instance} are to be snapshotted"),
        ));
    }
    let made = make(cx, &wanted)?;
    let items = cx.sim.with(|world| {
        let now = world.now();
        let found = made.iter().filter_map(|id| world.snapshots.get(id));
        found.map(|it| info(it, now, "state")).collect::<Vec<_>>()
    });
    Ok(vec![list("snapshotSet", items)])
}

pub(crate) fn create(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let volume = params.need("VolumeId")?;
    let description = params.get("Description").unwrap_or_default();
    params.word("Location", &["regional"])?;
    let tags = tags::specified(params, &["snapshot"], "snapshot")?;
    params.done()?;
    let made = make(cx, &[Wanted { volume, description, tags }])?;
    let xml = cx.sim.with(|world| {
        let now = world.now();
        made.first().and_then(|id| world.snapshots.get(id)).map(|it| info(it, now, "status"))
    });
    Ok(xml.unwrap_or_default())
}

/// Takes snapshots of volumes at one instant: a machine that uses one of them stands still meanwhile.
pub(crate) fn make(cx: &Cx<'_>, wanted: &[Wanted]) -> Answer<Vec<String>> {
    let sim = cx.sim;
    let (sources, machines) = sim.with(|world| -> Answer<_> {
        let (mut sources, mut machines) = (Vec::new(), Vec::new());
        let now = world.now();
        for one in wanted {
            let most = world.settings.limits.pending_of_volume;
            let pending = world.snapshots.values().filter(|it| it.volume == one.volume && it.state(now) == "pending");
            if pending.count() >= most {
                let message = "Maximum allowed in-progress snapshots for a single volume exceeded.";
                return Err(ApiError::refuse("ConcurrentSnapshotLimitExceeded", message));
            }
            let volume = cx.volume(world, &one.volume)?.clone();
            if now < volume.available {
                let message = format!("The volume '{}' is 'creating'", one.volume);
                return Err(ApiError::refuse("IncorrectState", message));
            }
            if let Some(attached) = &volume.attached
                && world.instances.get(&attached.instance).is_some_and(|it| it.wish == Wish::Running)
            {
                machines.push(attached.instance.clone());
            }
            let writer = world.writer();
            sources.push((volume, writer));
        }
        machines.sort();
        machines.dedup();
        Ok((sources, machines))
    })?;
    let still = hold::still(sim, &machines)?;
    let mut maps = Vec::new();
    for (volume, writer) in &sources {
        let before = volume.last_snapshot.as_ref().or(volume.snapshot.as_ref());
        let before = before.and_then(|id| sim.maps.with(id, Map::clone)).unwrap_or_default();
        maps.push(crate::store::volume::read(&sim.volume(&volume.base.id), &before, *writer, &sim.blocks)?);
    }
    drop(still);
    sim.change(|world| {
        let mut made = Vec::new();
        for ((one, (volume, _)), map) in wanted.iter().zip(&sources).zip(maps) {
            let base = world.base("snap", cx.account(), cx.region(), one.tags.clone());
            let id = base.id.clone();
            sim.maps.create(&id, map)?;
            let snapshot = Snapshot {
                volume: one.volume.clone(),
                gib: volume.gib,
                description: one.description.clone(),
                key: volume.key.clone(),
                completes: later(base.created, world.settings.weather.snapshot_seconds),
                making: Making::Volume,
                lineage: one.volume.clone(),
                ..empty(base)
            };
            world.snapshots.insert(id.clone(), snapshot);
            if let Some(volume) = world.volumes.get_mut(&one.volume) {
                volume.last_snapshot = Some(id.clone());
            }
            made.push(id);
        }
        Ok(made)
    })
}

/// A snapshot of which nothing is known yet.
pub(crate) fn empty(base: crate::world::resource::Base) -> Snapshot {
    Snapshot {
        volume: "vol-ffffffff".to_owned(),
        gib: 0,
        description: String::new(),
        key: None,
        completes: base.created,
        failed: None,
        making: Making::Copy,
        parent: None,
        lineage: base.id.clone(),
        shared: Default::default(),
        lock: None,
        archived: false,
        minutes: None,
        base,
    }
}

/// As it is shown. `state` is the name of the state's element, which differs between calls.
fn info(snapshot: &Snapshot, now: jiff::Timestamp, state: &'static str) -> Vec<Xml> {
    let mut xml = vec![
        text("snapshotId", &snapshot.base.id),
        text("volumeId", &snapshot.volume),
        text(state, snapshot.state(now)),
        text("startTime", iso(snapshot.base.created)),
        text("progress", snapshot.progress(now)),
        text("ownerId", &snapshot.base.account),
        text("volumeSize", snapshot.gib),
        text("description", &snapshot.description),
        text("encrypted", snapshot.key.is_some()),
    ];
    xml.push(tags::set(snapshot.base.tags(now)));
    xml
}

/// All that DescribeSnapshots shows.
fn full(sim: &crate::sim::Sim, snapshot: &Snapshot, now: jiff::Timestamp) -> Vec<Xml> {
    let mut xml = info(snapshot, now, "status");
    let state = snapshot.state(now);
    xml.push(text("storageTier", if snapshot.archived { "archive" } else { "standard" }));
    xml.push(text("transferType", if snapshot.minutes.is_some() { "time-based" } else { "standard" }));
    xml.maybe("completionDurationMinutes", snapshot.minutes);
    xml.maybe("kmsKeyId", snapshot.key.as_ref());
    xml.maybe("statusMessage", snapshot.failed.as_ref());
    if state == "completed" {
        xml.push(text("completionTime", iso(snapshot.completes)));
        let blocks = sim.maps.with(&snapshot.base.id, |map| map.len()).unwrap_or_default();
        xml.push(text("fullSnapshotSizeInBytes", blocks * crate::store::BLOCK));
    }
    xml
}

const FILTERS: [&str; 10] = [
    "description",
    "encrypted",
    "owner-id",
    "progress",
    "snapshot-id",
    "start-time",
    "status",
    "storage-tier",
    "volume-id",
    "volume-size",
];

pub(crate) fn describe(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let (ids, owners, restorable) = (params.list("SnapshotId"), params.list("Owner"), params.list("RestorableBy"));
    let filters = filter::read(params, &FILTERS)?;
    let page = page::read(params, "DescribeSnapshots", (5, 1000), !ids.is_empty())?;
    params.done()?;
    let owners: Vec<String> =
        owners.into_iter().map(|it| if it == "self" { cx.account().to_owned() } else { it }).collect();
    let items = cx.sim.with(|world| -> Answer<Vec<_>> {
        let now = world.now();
        for id in &ids {
            cx.snapshot(world, id)?;
        }
        let found = world.snapshots.values().filter(|it| {
            cx.sees(&it.base, now)
                && it.is_open_to(cx.account())
                && (ids.is_empty() || ids.contains(&it.base.id))
                && (owners.is_empty() || owners.contains(&it.base.account))
                && (restorable.is_empty()
                    || restorable.iter().any(|who| it.is_open_to(if who == "self" { cx.account() } else { who })))
                && filter::all_fit(&filters, &fields(it, now), it.base.tags(now))
        });
        Ok(found.map(|it| (it.base.id.clone(), full(cx.sim, it, now))).collect())
    })?;
    Ok(page.of(cx, "snapshotSet", items))
}

fn fields(it: &Snapshot, now: jiff::Timestamp) -> Fields {
    vec![
        ("description", it.description.clone()),
        ("encrypted", it.key.is_some().to_string()),
        ("owner-id", it.base.account.clone()),
        ("progress", it.progress(now)),
        ("snapshot-id", it.base.id.clone()),
        ("start-time", iso(it.base.created)),
        ("status", it.state(now).to_owned()),
        ("storage-tier", if it.archived { "archive" } else { "standard" }.to_owned()),
        ("volume-id", it.volume.clone()),
        ("volume-size", it.gib.to_string()),
    ]
}

/// Why a snapshot cannot be deleted, if it cannot.
pub(crate) fn deletable(world: &World, id: &str) -> Answer<()> {
    let now = world.now();
    let uses = |image: &&crate::world::resource::Image| {
        image.mappings.iter().any(|mapping| mapping.snapshot.as_deref() == Some(id))
    };
    if let Some(image) = world.images.values().find(uses) {
        let message = format!("The snapshot {id} is currently in use by {}", image.base.id);
        return Err(ApiError::refuse("InvalidSnapshot.InUse", message));
    }
    let lock = world.snapshots.get(id).and_then(|it| it.lock.as_ref());
    if lock.is_some_and(|lock| now < lock.expires) {
        let message = format!("The snapshot {id} is locked and cannot be deleted.");
        return Err(ApiError::refuse("OperationNotPermitted", message));
    }
    Ok(())
}

/// Takes a snapshot out of the world; its bytes go when the world has been saved.
pub(crate) fn remove(cx: &Cx<'_>, id: &str) -> Answer<()> {
    cx.sim.change(|world| {
        cx.own_snapshot(world, id)?;
        deletable(world, id)?;
        world.snapshots.remove(id);
        Ok(())
    })?;
    cx.sim.maps.delete(id, &cx.sim.blocks);
    Ok(())
}

pub(crate) fn delete(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let id = params.need("SnapshotId")?;
    params.done()?;
    remove(cx, &id)?;
    Ok(vec![text("return", true)])
}

//! Copies from another region or account. They take time and a slot of the destination, and a key that the
//! destination cannot use is noticed only afterwards.

use super::find::Cx;
use super::keys;
use super::params::Params;
use super::register;
use super::snapshots::empty;
use super::tags;
use super::xml::{Xml, text};
use crate::clock::later;
use crate::error::{Answer, ApiError};
use crate::store::maps::Map;
use crate::world::World;
use crate::world::resource::{Image, Making, Mapping, Snapshot, Tags};

/// The caller, looking at the region that a copy comes from.
fn abroad(cx: &Cx<'_>, region: &str) -> Answer<crate::auth::Caller> {
    let known = cx.sim.with(|world| {
        world.accounts.get(cx.account()).is_some_and(|account| account.regions.iter().any(|name| name == region))
    });
    if !known {
        return Err(ApiError::refuse("InvalidParameterValue", format!("Invalid source region: {region}")));
    }
    Ok(crate::auth::Caller { region: region.to_owned(), ..cx.caller.clone() })
}

/// How a copy of a snapshot is to be.
struct Plan {
    description: String,
    key: Option<(String, bool)>,
    tags: Tags,
    minutes: Option<u64>,
}

fn copy(cx: &Cx<'_>, world: &mut World, source: &Snapshot, plan: Plan) -> Snapshot {
    let base = world.base("snap", cx.account(), cx.region(), plan.tags);
    let key = plan.key.or_else(|| source.key.as_ref().map(|_| (keys::default(cx.account(), cx.region()), true)));
    let failed = key.as_ref().filter(|(_, fine)| !fine).map(|_| "Given key ID is not accessible".to_owned());
    let key = key.map(|(key, _)| key);
    let seconds = plan.minutes.map_or(world.settings.weather.copy_seconds, |minutes| minutes as f64 * 60.0);
    Snapshot {
        gib: source.gib,
        description: plan.description,
        lineage: format!("{}/{}/{}", source.lineage, cx.region(), key.as_deref().unwrap_or("plain")),
        key,
        completes: later(base.created, seconds),
        failed,
        making: Making::Copy,
        minutes: plan.minutes,
        ..empty(base)
    }
}

/// Only one whose key its owner may use can be copied by another account.
fn readable(cx: &Cx<'_>, world: &World, id: &str) -> Answer<Snapshot> {
    let source = cx.snapshot(world, id)?.clone();
    if source.state(world.now()) != "completed" {
        return Err(ApiError::refuse("IncorrectState", format!("The snapshot '{id}' is not in the 'completed' state")));
    }
    Ok(source)
}

fn minutes(given: Option<u64>) -> Answer<Option<u64>> {
    match given {
        Some(minutes) if minutes % 15 != 0 || !(15..=2880).contains(&minutes) => {
            Err(ApiError::value("CompletionDurationMinutes", &minutes.to_string()))
        }
        other => Ok(other),
    }
}

pub(crate) fn snapshot(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let region = params.need("SourceRegion")?;
    let id = params.need("SourceSnapshotId")?;
    let encrypted = params.flag("Encrypted")?.unwrap_or(false);
    let plan = Plan {
        description: params.get("Description").unwrap_or_default(),
        key: keys::chosen(cx, encrypted, params.get("KmsKeyId")),
        tags: tags::specified(params, &["snapshot"], "snapshot")?,
        minutes: minutes(params.number("CompletionDurationMinutes")?)?,
    };
    // sent by some clients; the signature's region is the destination here
    params.get("PresignedUrl");
    if params.get("DestinationRegion").is_some_and(|name| name != cx.region()) {
        return Err(ApiError::refuse("InvalidParameterValue", "DestinationRegion is not the region that was called"));
    }
    params.done()?;
    let abroad = abroad(cx, &region)?;
    let there = Cx { caller: &abroad, ..*cx };
    let source = cx.sim.with(|world| readable(&there, world, &id))?;
    let map = share(cx, &source)?;
    let tags = plan.tags.clone();
    let made = cx.sim.change(|world| {
        let now = world.now();
        let copying = world
            .snapshots
            .values()
            .filter(|it| cx.owns_by_now(&it.base) && matches!(it.making, Making::Copy) && it.state(now) == "pending");
        let most = world.settings.limits.snapshot_copies;
        if copying.count() >= most {
            let message =
                format!("Too many snapshot copies in progress. The limit is {most} for this destination region.");
            return Err(ApiError::refuse("ResourceLimitExceeded", message));
        }
        let made = copy(cx, world, &source, plan);
        let id = made.base.id.clone();
        cx.sim.maps.create(&id, map.clone())?;
        world.snapshots.insert(id.clone(), made);
        Ok(id)
    });
    let made = made.inspect_err(|_| release(cx, &map))?;
    Ok(vec![text("snapshotId", made), tags::set(&tags)])
}

fn share(cx: &Cx<'_>, source: &Snapshot) -> Answer<Map> {
    let id = &source.base.id;
    cx.sim.maps.share(id, &cx.sim.blocks).ok_or_else(|| ApiError::internal(format!("{id} has no blocks")))
}

fn release(cx: &Cx<'_>, map: &Map) {
    map.values().for_each(|block| cx.sim.blocks.release(&block.hash));
}

/// What a request for a copy of an image asks for.
struct Order {
    source: String,
    name: String,
    description: Option<String>,
    encrypted: bool,
    key: Option<String>,
    copy_tags: bool,
    tags: Tags,
    snapshot_tags: Tags,
    minutes: Option<u64>,
    token: Option<String>,
}

pub(crate) fn image(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let region = params.need("SourceRegion")?;
    let types = ["image", "snapshot"];
    let order = Order {
        source: params.need("SourceImageId")?,
        name: register::name(params)?,
        description: params.get("Description"),
        encrypted: params.flag("Encrypted")?.unwrap_or(false),
        key: params.get("KmsKeyId"),
        copy_tags: params.flag("CopyImageTags")?.unwrap_or(false),
        tags: tags::specified(params, &types, "image")?,
        snapshot_tags: tags::specified(params, &types, "snapshot")?,
        minutes: minutes(params.number("SnapshotCopyCompletionDurationMinutes")?)?,
        token: params.get("ClientToken"),
    };
    params.done()?;
    let token = order.token.as_ref().map(|token| cx.token("CopyImage", token, params));
    let abroad = abroad(cx, &region)?;
    let there = Cx { caller: &abroad, ..*cx };
    let made = cx.sim.change(|world| {
        if let Some(made) = world.made(token.as_ref())? {
            return Ok(made.concat());
        }
        let made = copy_image(cx, &there, world, &order)?;
        world.remember(token.as_ref(), vec![made.clone()]);
        Ok(made)
    })?;
    Ok(vec![text("imageId", made)])
}

/// Copies of an image's snapshots, by device, not yet in the world.
fn copy_disks(
    cx: &Cx<'_>,
    world: &mut World,
    image: &str,
    sources: &[(String, Snapshot)],
    order: &Order,
) -> Answer<Vec<(String, Snapshot)>> {
    let mut parts = Vec::new();
    for (device, found) in sources {
        let plan = Plan {
            description: format!(
                "Copied for DestinationAmi {image} from SourceAmi {} for SourceSnapshot {}.",
                order.source, found.base.id
            ),
            key: keys::chosen(cx, order.encrypted, order.key.clone()),
            tags: order.snapshot_tags.clone(),
            minutes: order.minutes,
        };
        let map = share(cx, found)?;
        let mut made = copy(cx, world, found, plan);
        // these do not take the slots of copied snapshots
        made.making = Making::Volume;
        cx.sim.maps.create(&made.base.id, map)?;
        parts.push((device.clone(), made));
    }
    Ok(parts)
}

/// The snapshots of an image by device. One that is shared brings them along only where they are shared as well.
fn disks(there: &Cx<'_>, world: &World, image: &Image) -> Answer<Vec<(String, Snapshot)>> {
    let mapped = image.mappings.iter().filter_map(|it| Some((&it.device, it.snapshot.as_ref()?)));
    let found = mapped.map(|(device, id)| {
        let snapshot = readable(there, world, id).map_err(|_| {
            let message = format!("You do not have permission to access the storage of this ami: {id}");
            ApiError::refuse("InvalidRequest", message)
        })?;
        Ok((device.clone(), snapshot))
    });
    found.collect()
}

fn copy_image(cx: &Cx<'_>, there: &Cx<'_>, world: &mut World, order: &Order) -> Answer<String> {
    let id = order.source.as_str();
    let now = world.now();
    let source = there.image(world, id)?.clone();
    if source.state(now) != "available" {
        let message = format!("The image ID '{id}' is not available");
        return Err(ApiError::refuse("InvalidAMIID.Unavailable", message));
    }
    register::name_is_free(cx, world, &order.name)?;
    let copying = world.images.values().filter(|it| cx.owns_by_now(&it.base) && it.copying && now < it.available);
    let most = world.settings.limits.image_copies;
    if copying.count() >= most {
        let message = format!("Too many AMI copies in progress. The limit is {most} for this destination region.");
        return Err(ApiError::refuse("ResourceLimitExceeded", message));
    }
    let sources = disks(there, world, &source)?;
    let mut base = world.base("ami", cx.account(), cx.region(), order.tags.clone());
    if order.copy_tags && source.base.account == cx.account() {
        let mut tags = source.base.tags.clone();
        tags.append(&mut base.tags);
        base.tags = tags;
    }
    let seconds = order.minutes.map_or(world.settings.weather.copy_seconds, |minutes| minutes as f64 * 60.0);
    let parts = copy_disks(cx, world, &base.id, &sources, order)?;
    let failed = parts.iter().find_map(|(_, made)| made.failed.clone());
    let mut mappings: Vec<Mapping> = source.mappings.clone();
    for (device, made) in parts {
        for mapping in mappings.iter_mut().filter(|it| it.device == device) {
            mapping.snapshot = Some(made.base.id.clone());
            mapping.encrypted = made.key.is_some();
            mapping.key = made.key.clone();
        }
        world.snapshots.insert(made.base.id.clone(), made);
    }
    let made = base.id.clone();
    let image = Image {
        name: order.name.clone(),
        description: order.description.clone().or_else(|| source.description.clone()),
        available: later(now, seconds),
        failed,
        copying: true,
        mappings,
        shared: Default::default(),
        deprecated: None,
        protected: false,
        protected_until: None,
        source_instance: None,
        source_image: Some((id.to_owned(), source.base.region.clone())),
        last_launch: None,
        base,
        ..source
    };
    world.images.insert(made.clone(), image);
    Ok(made)
}

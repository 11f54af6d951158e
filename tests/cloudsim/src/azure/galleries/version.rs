//! Versions: how they are shown, made, changed, deleted, and what is made of them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::arm::body;
use super::super::disks::{invalid, source};
use super::super::operations;
use super::super::state::{GROUPS, Kind, Resource};
use super::body::{Publishing, TargetRegion, VersionBody, VersionUpdate};
use super::{absent, definition, last, place};
use crate::clock::later;
use crate::error::{Answer, ApiError};
use crate::http::{Request, Response};
use crate::sim::Sim;
use crate::world::World;
use crate::world::ids;
use crate::world::resource::Tags;

/// Regions that there are beside those of the groups.
const REGIONS: [&str; 2] = ["eastus", "swedencentral"];

/// A version. What it holds of each disk lies among the resources, below its id.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Version {
    pub(crate) id: String,
    pub(crate) location: String,
    pub(crate) tags: Tags,
    created: Timestamp,
    storage: Value,
    regions: BTreeMap<String, Region>,
    mode: String,
    exclude: bool,
    end: Option<Timestamp>,
    blocked: bool,
    removable: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Region {
    asked: TargetRegion,
    began: Timestamp,
    /// None: it failed.
    ready: Option<Timestamp>,
}

impl Version {
    fn is_under_way(&self, now: Timestamp) -> bool {
        self.regions.values().any(|region| region.ready.is_some_and(|ready| now < ready))
    }

    fn has_failed(&self) -> bool {
        self.regions.values().any(|region| region.ready.is_none())
    }

    fn idle(&self, now: Timestamp) -> Answer<()> {
        match self.is_under_way(now) {
            true => Err(ApiError::new(409, "OperationNotAllowed", "The image version is still being replicated.")),
            false => Ok(()),
        }
    }
}

fn version<'w>(world: &'w World, id: &str) -> Answer<&'w Version> {
    world.azure.versions.get(&id.to_lowercase()).ok_or_else(|| absent(id))
}

pub(super) fn look(sim: &Sim, id: &str, request: &Request) -> Answer<Response> {
    sim.with(|world| {
        let expand = request.query("$expand") == Some("ReplicationStatus");
        Ok(Response::json(200, &show(version(world, id)?, world.now(), expand)))
    })
}

pub(super) fn list(sim: &Sim, id: &str) -> Answer<Response> {
    sim.with(|world| {
        let start = format!("{}/", id.to_lowercase());
        let all = world.azure.versions.iter().filter(|(id, _)| id.starts_with(&start));
        let all: Vec<Value> = all.map(|(_, it)| show(it, world.now(), false)).collect();
        Ok(Response::json(200, &json!({ "value": all })))
    })
}

fn show(it: &Version, now: Timestamp, expand: bool) -> Value {
    let state = match (it.is_under_way(now), it.has_failed()) {
        (true, _) => "Updating",
        (false, true) => "Failed",
        (false, false) => "Succeeded",
    };
    let mut publishing = json!({
        "targetRegions": it.regions.values().map(|region| &region.asked).collect::<Vec<_>>(),
        "replicaCount": 1, "excludeFromLatest": it.exclude, "publishedDate": it.created,
        "storageAccountType": "Standard_LRS", "replicationMode": it.mode,
    });
    if let Some(end) = it.end {
        publishing["endOfLifeDate"] = json!(end);
    }
    let mut properties = json!({
        "publishingProfile": publishing, "storageProfile": it.storage, "provisioningState": state,
        "safetyProfile": {
            "allowDeletionOfReplicatedLocations": it.removable, "blockDeletionBeforeEndOfLife": it.blocked,
            "reportedForPolicyViolation": false,
        },
    });
    if expand {
        properties["replicationStatus"] = status(it, now);
    }
    json!({
        "id": it.id, "name": last(&it.id), "type": "Microsoft.Compute/galleries/images/versions",
        "location": it.location, "tags": it.tags, "properties": properties,
    })
}

fn status(it: &Version, now: Timestamp) -> Value {
    let of = |region: &Region| match region.ready {
        None => ("Failed", 0, "Replication failed: the region has no capacity."),
        Some(ready) if now >= ready => ("Completed", 100, ""),
        Some(ready) => {
            let whole = ready.duration_since(region.began).as_secs_f64().max(0.001);
            ("Replicating", (now.duration_since(region.began).as_secs_f64() / whole * 100.0) as i32, "")
        }
    };
    let summary = it.regions.values().map(|region| {
        let (state, progress, details) = of(region);
        json!({ "region": region.asked.name, "state": state, "details": details, "progress": progress })
    });
    let whole = match (it.is_under_way(now), it.has_failed()) {
        (true, _) => "InProgress",
        (false, true) => "Failed",
        (false, false) => "Completed",
    };
    json!({ "aggregatedState": whole, "summary": summary.collect::<Vec<Value>>() })
}

/// The regions as they are asked for; those that a version has already stay as they are.
fn regions(world: &World, publishing: &Publishing, home: &str, known: &Version) -> Answer<BTreeMap<String, Region>> {
    let (now, weather) = (world.now(), &world.settings.weather);
    let mut all = BTreeMap::new();
    for asked in &publishing.target_regions {
        let name = asked.place();
        let exists = REGIONS.contains(&name.as_str()) || GROUPS.iter().any(|(_, place)| *place == name);
        if !exists {
            return Err(invalid(format!("The region '{}' is not known.", asked.name)));
        }
        asked.check(&name)?;
        let fresh = Region {
            asked: asked.clone(),
            began: now,
            ready: (!weather.bad_regions.contains(&name)).then(|| later(now, weather.replicate_seconds)),
        };
        let kept = known.regions.get(&name).map(|kept| Region { asked: asked.clone(), ..kept.clone() });
        if all.insert(name, kept.unwrap_or(fresh)).is_some() {
            return Err(invalid(format!("The region '{}' is named twice.", asked.name)));
        }
    }
    if !all.contains_key(home) {
        return Err(invalid(format!("The target regions must have the version's own, {home}.")));
    }
    if known.mode == "Shallow" && (all.len() > 1 || publishing.target_regions.iter().any(TargetRegion::is_more)) {
        return Err(invalid("A shallow version has one replica in its own region, with the platform's key."));
    }
    if !known.removable && known.regions.keys().any(|name| !all.contains_key(name)) {
        let message = "Removing replicated locations is not allowed by the version's safety profile.";
        return Err(ApiError::new(409, "OperationNotAllowed", message));
    }
    Ok(all)
}

/// The operation that ends with the last region, and fails with any.
fn begin(world: &mut World, it: &Version, shown: &Value) -> String {
    let bad = it.regions.iter().find(|(_, region)| region.ready.is_none());
    let operation = match bad {
        Some((name, _)) => {
            let message = format!("The replication job has failed for region {name}.");
            operations::begin_failing(world, "ReplicationJobFailed", &message)
        }
        None => {
            let mut done = shown.clone();
            done["properties"]["provisioningState"] = "Succeeded".into();
            operations::begin(world, Some(done))
        }
    };
    let until = it.regions.values().filter_map(|region| region.ready).max();
    if let (Some(until), Some(operation)) = (until, world.azure.operations.get_mut(&operation)) {
        operation.ready = operation.ready.max(until);
    }
    operation
}

/// PUT by name: makes a version, or changes its tags and how it is published.
pub(super) fn create(sim: &Sim, id: &str, request: &Request) -> Answer<Response> {
    let wanted: VersionBody = body(request)?;
    place::check_number(last(id))?;
    let properties = &wanted.properties;
    let (shown, location, operation, held) = sim.change(|world| {
        let known = version(world, id).ok().cloned();
        let now = world.now();
        let publishing = &properties.publishing_profile;
        let safety = &properties.safety_profile;
        let base = known.clone().unwrap_or_else(|| Version {
            id: id.to_owned(),
            location: wanted.location.clone(),
            tags: Tags::new(),
            created: now,
            storage: properties.storage_profile.shown(),
            regions: BTreeMap::new(),
            mode: publishing.replication_mode.clone().unwrap_or_else(|| "Full".to_owned()),
            exclude: false,
            end: None,
            blocked: false,
            removable: safety.allow_deletion_of_replicated_locations,
        });
        base.idle(now)?;
        if base.location != wanted.location || base.storage != properties.storage_profile.shown() {
            return Err(ApiError::new(409, "PropertyChangeNotAllowed", "A version's source is not changed."));
        }
        let held = match known {
            Some(_) => Vec::new(),
            None => sources(world, id, &wanted)?,
        };
        let made = Version {
            tags: wanted.tags.clone(),
            regions: regions(world, publishing, &wanted.location, &base)?,
            exclude: publishing.exclude_from_latest.unwrap_or(false),
            end: publishing.end_of_life_date,
            blocked: safety.block_deletion_before_end_of_life.unwrap_or(false),
            removable: safety.allow_deletion_of_replicated_locations,
            ..base
        };
        let (shown, location) = (show(&made, now, false), made.location.clone());
        let operation = begin(world, &made, &shown);
        world.azure.versions.insert(id.to_lowercase(), made);
        Ok((shown, location, operation, held))
    })?;
    for (from, resource) in held {
        let map = sim.maps.share(&from, &sim.blocks).unwrap_or_default();
        sim.maps.create(&resource.unique, map)?;
        sim.change(|world| {
            world.azure.resources.insert(resource.id.to_lowercase(), resource);
            Ok(())
        })?;
    }
    Ok(Response { status: 201, ..operations::accepted(sim, request, &location, &operation, Some(shown)) })
}

/// What a new version holds of each disk, with the name of the bytes that it has from its source.
fn sources(world: &World, id: &str, wanted: &VersionBody) -> Answer<Vec<(String, Resource)>> {
    let above = id.rsplit_once("/versions/").map_or(id, |(above, _)| above);
    let of = &definition(world, above)?.properties;
    let mut all = Vec::new();
    for (key, from) in wanted.properties.storage_profile.all() {
        let from = source(world, Some(&from.id))?;
        let Kind::Snapshot { .. } = from.kind else { return Err(invalid("Only snapshots are published here.")) };
        if from.location != wanted.location {
            return Err(invalid("The source is in another region than the version."));
        }
        if key == "os" {
            let generation = from.generation.clone().unwrap_or_else(|| "V1".to_owned());
            if of["hyperVGeneration"].as_str().unwrap_or("V1") != generation {
                return Err(invalid(format!("The source is of hyperVGeneration {generation}, the definition is not.")));
            }
            if of.to_string().contains("TrustedLaunchSupported") {
                let message = "The security type 'TrustedLaunchSupported' is not supported for the source. Currently only \
                               Vhd Blob, User Image and Gallery Image Version sources are supported.";
                return Err(invalid(message));
            }
        }
        let unique = ids::request();
        let held = Resource {
            id: format!("{id}/disks/{key}"),
            name: key,
            kind: Kind::Snapshot { incremental: false, copied: None, kept: None, locked: false },
            tags: Tags::new(),
            family: unique.clone(),
            unique,
            access: None,
            ..from.clone()
        };
        all.push((from.unique, held));
    }
    Ok(all)
}

pub(super) fn update(sim: &Sim, id: &str, request: &Request) -> Answer<Response> {
    let wanted: VersionUpdate = body(request)?;
    let (shown, location, operation) = sim.change(|world| {
        let known = version(world, id)?.clone();
        known.idle(world.now())?;
        let mut made = known.clone();
        if let Some(publishing) = &wanted.publishing() {
            if !publishing.target_regions.is_empty() {
                made.regions = regions(world, publishing, &known.location, &known)?;
            }
            made.exclude = publishing.exclude_from_latest.unwrap_or(known.exclude);
            made.end = publishing.end_of_life_date.or(known.end);
        }
        made.tags = wanted.tags.unwrap_or(known.tags);
        let (shown, location) = (show(&made, world.now(), false), made.location.clone());
        let operation = begin(world, &made, &shown);
        world.azure.versions.insert(id.to_lowercase(), made);
        Ok((shown, location, operation))
    })?;
    Ok(Response { status: 200, ..operations::accepted(sim, request, &location, &operation, Some(shown)) })
}

pub(super) fn delete(sim: &Sim, id: &str, request: &Request) -> Answer<Response> {
    if sim.with(|world| version(world, id).is_err()) {
        return Ok(Response::new(204, "application/json", ""));
    }
    let (gone, location, operation) = sim.change(|world| {
        let (it, now) = (version(world, id)?.clone(), world.now());
        it.idle(now)?;
        if it.blocked && it.end.is_some_and(|end| now < end) {
            let message =
                "The image version cannot be deleted before its endOfLifeDate: blockDeletionBeforeEndOfLife is set.";
            return Err(ApiError::new(409, "OperationNotAllowed", message));
        }
        let below = format!("{}/", id.to_lowercase());
        let inside = |id: &String| id.starts_with(&below);
        let gone: Vec<String> =
            world.azure.resources.iter().filter(|(id, _)| inside(id)).map(|(_, it)| it.unique.clone()).collect();
        world.azure.resources.retain(|id, _| !inside(id));
        world.azure.versions.remove(&id.to_lowercase());
        Ok((gone, it.location, operations::begin(world, None)))
    })?;
    gone.iter().for_each(|unique| sim.maps.delete(unique, &sim.blocks));
    Ok(operations::accepted(sim, request, &location, &operation, None))
}

/// What a version holds of a disk, for a disk in that region.
pub(in crate::azure) fn held(world: &World, id: &str, lun: Option<u32>, location: &str) -> Answer<Resource> {
    let it = version(world, id)?;
    let ready = it.regions.get(location).and_then(|region| region.ready).filter(|ready| world.now() >= *ready);
    if ready.is_none() {
        let message = format!("The gallery image {id} is not available in {location} region.");
        return Err(ApiError::new(404, "GalleryImageNotFound", message));
    }
    let key = lun.map_or("os".to_owned(), |lun| lun.to_string());
    let found = world.azure.resources.get(&format!("{id}/disks/{key}").to_lowercase());
    found.cloned().ok_or_else(|| invalid(format!("The gallery image has no disk {key}.")))
}

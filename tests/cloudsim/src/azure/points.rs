//! Restore points of virtual machines: all disks of one at the same instant, in a collection that belongs to the machine.
//! What a point holds of a disk is a snapshot of the disk's family, read as snapshots are.
//!
//! As in the provider's specifications: a collection has tags and a place, a point has neither; input of a point's
//! consistency is `CrashConsistent` only, and the other kind, which needs an agent in the guest, is not simulated.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::arm::{body, find};
use super::disks::invalid;
use super::state::{Kind, Resource, Vm};
use super::{access, machines, operations, snapshots};
use crate::error::{Answer, ApiError};
use crate::http::{Request, Response};
use crate::hypervisor::hold;
use crate::sim::Sim;
use crate::world::World;
use crate::world::ids;
use crate::world::resource::Tags;

/// A collection of restore points.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Collection {
    pub(crate) id: String,
    pub(crate) location: String,
    pub(crate) tags: Tags,
    /// The machine's id.
    pub(crate) of: String,
}

/// A restore point.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Point {
    id: String,
    created: jiff::Timestamp,
    ready: jiff::Timestamp,
    /// The machine as it was: what `sourceMetadata` shows.
    machine: Value,
}

/// `C[/restorePoints/P[/diskRestorePoints/D[/action]]]` behind `restorePointCollections`.
struct Place<'a> {
    /// How many of those names there are.
    depth: usize,
    action: Option<&'a str>,
    /// Of what is named, without the action.
    id: String,
    /// Of what it is in.
    above: String,
}

fn place(path: &str) -> Option<Place<'_>> {
    let path = path.trim_matches('/');
    let parts: Vec<&str> = path.split('/').collect();
    let at = parts.iter().position(|part| part.eq_ignore_ascii_case("restorePointCollections"))?;
    let behind = &parts[at + 1..];
    let words = ["restorePoints", "diskRestorePoints"];
    if words.iter().zip([1, 3]).any(|(word, at)| behind.get(at).is_some_and(|part| !part.eq_ignore_ascii_case(word))) {
        return None;
    }
    let (depth, action): (usize, _) = match behind.len() {
        0 => (0, None),
        1 => (1, None),
        3 => (2, None),
        // a list of what is in it
        4 => (2, Some(behind[3])),
        5 => (3, None),
        6 => (3, Some(behind[5])),
        _ => return None,
    };
    let up_to = |count: usize| format!("/{}", parts[..at + 1 + count].join("/"));
    let own = (depth * 2).saturating_sub(1);
    Some(Place { depth, action, id: up_to(own), above: up_to(own.saturating_sub(2)) })
}

/// Whether a path is about any of this.
pub(super) fn is_one(path: &str) -> bool {
    path.to_lowercase().contains("/restorepointcollections")
}

/// The operation's id in the specifications.
pub(super) fn name(method: &str, path: &str) -> String {
    let Some(place) = place(path) else { return String::new() };
    let action = place.action.map(str::to_ascii_lowercase);
    match (method, place.depth, action.as_deref()) {
        ("GET", 0, _) => "RestorePointCollections_List",
        ("PUT", 1, _) => "RestorePointCollections_CreateOrUpdate",
        ("PATCH", 1, _) => "RestorePointCollections_Update",
        ("GET", 1, _) => "RestorePointCollections_Get",
        ("DELETE", 1, _) => "RestorePointCollections_Delete",
        ("PUT", 2, None) => "RestorePoints_Create",
        ("GET", 2, None) => "RestorePoints_Get",
        ("DELETE", 2, None) => "RestorePoints_Delete",
        ("GET", 2, _) => "DiskRestorePoint_ListByRestorePoint",
        ("GET", 3, None) => "DiskRestorePoint_Get",
        ("POST", 3, Some("begingetaccess")) => "DiskRestorePoint_GrantAccess",
        ("POST", 3, Some("endgetaccess")) => "DiskRestorePoint_RevokeAccess",
        _ => "",
    }
    .to_owned()
}

pub(super) fn call(sim: &Sim, path: &str, request: &Request) -> Answer<Response> {
    let place = place(path).ok_or_else(nothing)?;
    match name(&request.method, path).as_str() {
        "RestorePointCollections_List" => list(sim, &place.id, request),
        "RestorePointCollections_CreateOrUpdate" => create_collection(sim, &place.id, request),
        "RestorePointCollections_Update" => tag(sim, &place.id, request),
        "RestorePointCollections_Get" => {
            sim.with(|world| Ok(Response::json(200, &show(collection(world, &place.id)?))))
        }
        "RestorePoints_Create" => create(sim, &place, request),
        "RestorePoints_Get" => sim.with(|world| Ok(Response::json(200, &show_point(point(world, &place.id)?, world)))),
        "RestorePointCollections_Delete" | "RestorePoints_Delete" => delete(sim, &place, request),
        "DiskRestorePoint_ListByRestorePoint" => sim.with(|world| {
            let all = held(world, &place.id).map(show_disk);
            Ok(Response::json(200, &json!({ "value": all.collect::<Vec<Value>>() })))
        }),
        "DiskRestorePoint_Get" => sim.with(|world| Ok(Response::json(200, &show_disk(find(world, &place.id)?)))),
        "DiskRestorePoint_GrantAccess" => access::grant(sim, &place.id, request),
        "DiskRestorePoint_RevokeAccess" => access::revoke(sim, &place.id, request),
        _ => Err(nothing()),
    }
}

fn nothing() -> ApiError {
    ApiError::new(404, "InvalidResourceType", "nothing is simulated there")
}

fn absent(id: &str) -> ApiError {
    ApiError::new(404, "ResourceNotFound", format!("The Resource under {id} was not found."))
}

fn collection<'w>(world: &'w World, id: &str) -> Answer<&'w Collection> {
    world.azure.collections.get(&id.to_lowercase()).ok_or_else(|| absent(id))
}

fn point<'w>(world: &'w World, id: &str) -> Answer<&'w Point> {
    world.azure.points.get(&id.to_lowercase()).ok_or_else(|| absent(id))
}

/// What the points below an id hold of disks.
fn held<'w>(world: &'w World, above: &str) -> impl Iterator<Item = &'w Resource> {
    let start = format!("{}/", above.to_lowercase());
    world.azure.resources.iter().filter(move |(id, _)| id.starts_with(&start)).map(|(_, it)| it)
}

fn last(id: &str) -> &str {
    id.rsplit('/').next().unwrap_or_default()
}

fn show(it: &Collection) -> Value {
    json!({
        "id": it.id, "name": last(&it.id), "type": "Microsoft.Compute/restorePointCollections",
        "location": it.location, "tags": it.tags,
        "properties": {
            "source": { "id": it.of, "location": it.location }, "provisioningState": "Succeeded",
            "restorePointCollectionId": blake(&it.id),
        },
    })
}

/// Something like the provider's ids.
fn blake(text: &str) -> String {
    crate::store::hash_hex(text.as_bytes())[..32].to_owned()
}

fn show_point(it: &Point, world: &World) -> Value {
    let state = if world.now() < it.ready { "Creating" } else { "Succeeded" };
    json!({
        "id": it.id, "name": last(&it.id), "type": "Microsoft.Compute/restorePointCollections/restorePoints",
        "properties": {
            "sourceMetadata": it.machine, "provisioningState": state, "consistencyMode": "CrashConsistent",
            "timeCreated": it.created,
        },
    })
}

fn show_disk(it: &Resource) -> Value {
    let mut properties = json!({
        "timeCreated": it.created, "sourceResourceId": it.source, "familyId": it.family,
        "sourceUniqueId": it.family, "networkAccessPolicy": "AllowAll", "publicNetworkAccess": "Enabled",
        "encryption": it.encryption,
    });
    for (name, value) in [("osType", &it.os_type), ("hyperVGeneration", &it.generation)] {
        if let Some(value) = value {
            properties[name] = json!(value);
        }
    }
    let kind = "Microsoft.Compute/restorePointCollections/restorePoints/diskRestorePoints";
    json!({ "id": it.id, "name": it.name, "type": kind, "properties": properties })
}

fn list(sim: &Sim, id: &str, request: &Request) -> Answer<Response> {
    let group = id.to_lowercase().split("/providers/").next().unwrap_or_default().to_owned();
    let (all, between) = sim.with(|world| {
        let all = world.azure.collections.iter().filter(|(id, _)| id.starts_with(&group)).map(|(_, it)| show(it));
        (all.collect::<Vec<Value>>(), world.settings.weather.empty_pages)
    });
    if between && request.query("$skiptoken").is_none() {
        let host = request.header("host").unwrap_or_default();
        let version = request.query("api-version").unwrap_or_default();
        let next = format!("http://{host}/azure/arm{id}?api-version={version}&$skiptoken=1");
        return Ok(Response::json(200, &json!({ "value": [], "nextLink": next })));
    }
    Ok(Response::json(200, &json!({ "value": all })))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CollectionBody {
    location: String,
    #[serde(default)]
    tags: Tags,
    properties: CollectionProperties,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CollectionProperties {
    source: Reference,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reference {
    id: String,
}

/// PUT by name; the machine of a collection is not changed.
fn create_collection(sim: &Sim, id: &str, request: &Request) -> Answer<Response> {
    let wanted: CollectionBody = body(request)?;
    let (new, shown) = sim.change(|world| {
        let vm = machines::vm(world, &wanted.properties.source.id)?;
        if vm.location != wanted.location {
            return Err(invalid("The machine is in another region: that needs a collection of its points."));
        }
        let known = world.azure.collections.get(&id.to_lowercase());
        if known.is_some_and(|known| !known.of.eq_ignore_ascii_case(&wanted.properties.source.id)) {
            return Err(ApiError::new(409, "PropertyChangeNotAllowed", "Changing property 'source' is not allowed."));
        }
        let (new, of) = (known.is_none(), vm.id.clone());
        let made = Collection { id: id.to_owned(), location: wanted.location, tags: wanted.tags, of };
        let shown = show(&made);
        world.azure.collections.insert(id.to_lowercase(), made);
        Ok((new, shown))
    })?;
    Ok(Response::json(if new { 201 } else { 200 }, &shown))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Update {
    tags: Tags,
}

fn tag(sim: &Sim, id: &str, request: &Request) -> Answer<Response> {
    let wanted: Update = body(request)?;
    let shown = sim.change(|world| {
        collection(world, id)?;
        if let Some(it) = world.azure.collections.get_mut(&id.to_lowercase()) {
            it.tags = wanted.tags;
        }
        Ok(show(collection(world, id)?))
    })?;
    Ok(Response::json(200, &shown))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PointBody {
    properties: PointProperties,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct PointProperties {
    consistency_mode: String,
}

/// Makes a point: the machine stands still until all its disks were read.
fn create(sim: &Sim, place: &Place<'_>, request: &Request) -> Answer<Response> {
    let wanted: PointBody = body(request)?;
    if wanted.properties.consistency_mode != "CrashConsistent" {
        return Err(invalid("consistencyMode can only be CrashConsistent in a request."));
    }
    let (vm, of, disks) = sim.with(|world| -> Answer<_> {
        let of = collection(world, &place.above)?.clone();
        if world.azure.points.contains_key(&place.id.to_lowercase()) {
            let message = format!("Restore point {} exists, and cannot be updated.", last(&place.id));
            return Err(ApiError::new(409, "OperationNotAllowed", message));
        }
        let vm = machines::vm(world, &of.of)?.clone();
        let disks: Answer<Vec<Resource>> = vm.disks.iter().map(|id| find(world, id).cloned()).collect();
        Ok((vm, of, disks?))
    })?;
    let mut made = Vec::new();
    {
        let _still = hold::still(sim, std::slice::from_ref(&vm.unique))?;
        for disk in &disks {
            let unique = ids::request();
            let name = format!("{}_{}", disk.name, ids::request());
            sim.maps.create(&unique, snapshots::pages(sim, disk)?)?;
            made.push((unique, name));
        }
    }
    let (shown, operation) = sim.change(|world| {
        let it = put(world, &place.id, &vm, &disks, &made);
        let shown = show_point(&it, world);
        let mut done = shown.clone();
        done["properties"]["provisioningState"] = "Succeeded".into();
        world.azure.points.insert(place.id.to_lowercase(), it);
        Ok((shown, operations::begin(world, Some(done))))
    })?;
    // points are `created` where disks are `accepted`
    Ok(Response { status: 201, ..operations::accepted(sim, request, &of.location, &operation, Some(shown)) })
}

/// Puts what was read of the disks into the world, under names and the names of their bytes. The point of it.
fn put(world: &mut World, id: &str, vm: &Vm, disks: &[Resource], made: &[(String, String)]) -> Point {
    let now = world.now();
    let ready = crate::clock::later(now, world.settings.weather.arm_seconds);
    let mut machine = machines::show(vm, world)["properties"].clone();
    for key in ["provisioningState", "timeCreated", "networkProfile"] {
        machine.as_object_mut().map(|all| all.remove(key));
    }
    machine["location"] = json!(vm.location);
    for (nth, ((unique, name), disk)) in made.iter().zip(disks).enumerate() {
        let id = format!("{id}/diskRestorePoints/{name}");
        let storage = &mut machine["storageProfile"];
        let shown = if nth == 0 { &mut storage["osDisk"] } else { &mut storage["dataDisks"][nth - 1] };
        shown.as_object_mut().map(|all| all.remove("createOption"));
        shown["diskRestorePoint"] = json!({ "id": id });
        shown["diskSizeGB"] = json!(disk.bytes.div_ceil(crate::store::GIB));
        let held = Resource {
            id: id.clone(),
            name: name.clone(),
            kind: Kind::Snapshot { incremental: true, copied: None, kept: None, locked: false },
            created: now,
            ready,
            unique: unique.clone(),
            tags: Tags::default(),
            source: Some(disk.id.clone()),
            access: None,
            ..disk.clone()
        };
        world.azure.resources.insert(id.to_lowercase(), held);
        let at_disk = world.azure.resources.get_mut(&disk.id.to_lowercase());
        if let Some(Resource { kind: Kind::Disk { last, .. }, .. }) = at_disk {
            *last = Some(unique.clone());
        }
    }
    Point { id: id.to_owned(), created: now, ready, machine }
}

/// Deletes a collection with its points, or one of them.
fn delete(sim: &Sim, place: &Place<'_>, request: &Request) -> Answer<Response> {
    let known = sim.with(|world| collection(world, &place.id).is_ok() || point(world, &place.id).is_ok());
    if !known {
        return Ok(Response::new(204, "application/json", ""));
    }
    let (gone, location, operation) = sim.change(|world| {
        let gone: Vec<Resource> = held(world, &place.id).cloned().collect();
        if let Some(open) = gone.iter().find(|it| it.access.as_ref().is_some_and(|name| access::is_open(world, name))) {
            let message = format!("Disk restore point {} has an active SAS: revoke it first.", open.name);
            return Err(ApiError::new(409, "OperationNotAllowed", message));
        }
        let of = if place.depth == 1 { &place.id } else { &place.above };
        let location = collection(world, of)?.location.clone();
        let (own, below) = (place.id.to_lowercase(), format!("{}/", place.id.to_lowercase()));
        world.azure.resources.retain(|id, _| !id.starts_with(&below));
        world.azure.points.retain(|id, _| *id != own && !id.starts_with(&below));
        world.azure.collections.remove(&own);
        Ok((gone, location, operations::begin(world, None)))
    })?;
    gone.iter().for_each(|it| sim.maps.delete(&it.unique, &sim.blocks));
    Ok(operations::accepted(sim, request, &location, &operation, None))
}

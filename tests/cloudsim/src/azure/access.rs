//! beginGetAccess and endGetAccess: a SAS for the bytes of a disk or snapshot, and its end.

use serde::Deserialize;
use serde_json::json;

use super::arm::{body, find};
use super::disks::invalid;
use super::state::{Access, Kind, Power, Resource, Vm};
use super::{operations, vhd};
use crate::clock::later;
use crate::error::{Answer, ApiError};
use crate::http::{Request, Response};
use crate::sim::Sim;
use crate::world::World;
use crate::world::ids;

/// At most so many of a family are open at once.
const MOST: usize = 5;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Grant {
    access: String,
    duration_in_seconds: u64,
    #[serde(default)]
    file_format: Option<String>,
}

/// Whether a SAS still opens anything.
pub(super) fn is_open(world: &World, name: &str) -> bool {
    world.azure.accesses.get(name).is_some_and(|it| world.now() < it.expires)
}

pub(super) fn grant(sim: &Sim, id: &str, request: &Request) -> Answer<Response> {
    let wanted: Grant = body(request)?;
    let write = match wanted.access.as_str() {
        "Read" => false,
        "Write" => true,
        other => return Err(invalid(format!("access {other} is not simulated"))),
    };
    if wanted.file_format.as_deref().is_some_and(|format| format != "VHD") {
        return Err(invalid("fileFormat is VHD here"));
    }
    let host = request.header("host").unwrap_or_default().to_owned();
    let (location, operation) = sim.change(|world| {
        let found = super::disks::source(world, Some(&id.to_owned())).or_else(|why| {
            // a disk that waits for its upload can be opened for writing only
            let found = find(world, id)?;
            let waits = matches!(found.kind, Kind::Disk { upload: Some(_), .. });
            if waits && write { Ok(found.clone()) } else { Err(why) }
        })?;
        if write && !matches!(found.kind, Kind::Disk { upload: Some(_), .. }) {
            let message = "Write access is for disks with createOption Upload, until they have been uploaded.";
            return Err(ApiError::new(409, "OperationNotAllowed", message));
        }
        let runs = |vm: &Vm| vm.has(&found.id) && vm.power != Power::Deallocated;
        if let Some(vm) = world.azure.machines.values().find(|vm| runs(vm)) {
            let message = format!("Disk {} is attached to the running VM {}: take a snapshot.", found.name, vm.name);
            return Err(ApiError::new(409, "OperationNotAllowed", message));
        }
        if found.access.as_ref().is_some_and(|name| is_open(world, name)) {
            let message = format!("{} has an active SAS already: revoke it first.", found.name);
            return Err(ApiError::new(409, "OperationNotAllowed", message));
        }
        let open = world
            .azure
            .resources
            .values()
            .filter(|it| it.family == found.family && it.access.as_ref().is_some_and(|name| is_open(world, name)));
        if open.count() >= MOST {
            let message = format!("Not more than {MOST} snapshots of a family can be open at once.");
            return Err(ApiError::new(409, "OperationNotAllowed", message));
        }
        let name = ids::request();
        let signature = ids::capitals(43);
        let expires = later(world.now(), wanted.duration_in_seconds as f64);
        let access = Access { resource: id.to_lowercase(), write, expires, signature: signature.clone() };
        world.azure.accesses.insert(name.clone(), access);
        if let Some(it) = world.azure.resources.get_mut(&id.to_lowercase()) {
            it.access = Some(name.clone());
        }
        let url = format!(
            "http://{host}/azure/blob/md-{}/{name}/abcd?sv=2018-03-28&sr=b&si={name}&sig={signature}%3D",
            &found.unique[..8]
        );
        let operation = operations::begin(world, Some(json!({ "accessSAS": url })));
        Ok((found.location, operation))
    })?;
    Ok(operations::accepted(sim, request, &location, &operation, None))
}

pub(super) fn revoke(sim: &Sim, id: &str, request: &Request) -> Answer<Response> {
    let found = sim.with(|world| find(world, id).cloned())?;
    let problem = match found.kind {
        Kind::Disk { upload: Some(_), .. } => uploaded(sim, &found)?,
        _ => None,
    };
    let operation = sim.change(|world| {
        if let Some(name) = &found.access {
            world.azure.accesses.remove(name);
        }
        let Some(it) = world.azure.resources.get_mut(&id.to_lowercase()) else { return Ok(String::new()) };
        it.access = None;
        if let (Kind::Disk { upload, .. }, None) = (&mut it.kind, &problem) {
            *upload = None;
        }
        Ok(match &problem {
            Some(why) => operations::begin_failing(world, "InvalidVhd", why),
            None => operations::begin(world, None),
        })
    })?;
    Ok(operations::accepted(sim, request, &found.location, &operation, None))
}

/// Takes the footer off an upload; or tells what is wrong with it.
fn uploaded(sim: &Sim, disk: &Resource) -> Answer<Option<String>> {
    let path = sim.azure_disk(&disk.unique);
    if let Some(why) = vhd::problem(&path, disk.bytes)? {
        return Ok(Some(why));
    }
    std::fs::File::options().write(true).open(path)?.set_len(disk.bytes)?;
    Ok(None)
}

//! The Resource Manager: who may ask, what a path means, and lists.

use serde_json::{Value, json};

use super::state::{GROUPS, Kind, Resource, SUBSCRIPTION};
use super::{access, disks, encryption, galleries, machines, operations, points, rights, snapshots, trusted};
use crate::error::{Answer, ApiError};
use crate::http::{Request, Response};
use crate::sim::Sim;
use crate::world::World;

/// A path below a subscription.
struct Target<'a> {
    group: Option<&'a str>,
    kind: &'a str,
    name: Option<&'a str>,
    action: Option<&'a str>,
}

/// `subscriptions/S[/resourceGroups/G]/providers/Microsoft.Compute/KIND[/NAME[/ACTION]]`.
fn target(path: &str) -> Option<Target<'_>> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let is = |at: usize, word: &str| parts.get(at).is_some_and(|part| part.eq_ignore_ascii_case(word));
    if !is(0, "subscriptions") || !is(1, SUBSCRIPTION) {
        return None;
    }
    let (group, at) = if is(2, "resourceGroups") { (Some(*parts.get(3)?), 4) } else { (None, 2) };
    if !is(at, "providers") || !is(at + 1, "Microsoft.Compute") || parts.len() > at + 5 {
        return None;
    }
    let kind = *parts.get(at + 2)?;
    Some(Target { group, kind, name: parts.get(at + 3).copied(), action: parts.get(at + 4).copied() })
}

/// The operation's id in the specifications.
pub(super) fn name(method: &str, path: &str) -> String {
    if path.contains("/locations/") {
        return "Operations_Get".to_owned();
    }
    if points::is_one(path) {
        return points::name(method, path);
    }
    if galleries::is_one(path) {
        return galleries::name(method, path);
    }
    if encryption::is_one(path) {
        return "DiskEncryptionSets_Get".to_owned();
    }
    let Some(target) = target(path) else { return String::new() };
    let kind = match target.kind.to_ascii_lowercase().as_str() {
        "disks" => "Disks",
        "virtualmachines" => "VirtualMachines",
        _ => "Snapshots",
    };
    let what = match (method, target.name, target.action) {
        ("POST", _, Some(action)) if action.eq_ignore_ascii_case("beginGetAccess") => "GrantAccess",
        ("POST", _, Some(action)) if action.eq_ignore_ascii_case("endGetAccess") => "RevokeAccess",
        ("POST", _, Some(action)) => return format!("{kind}_{action}"),
        ("GET", _, Some(_)) => "InstanceView",
        ("PUT", ..) => "CreateOrUpdate",
        ("PATCH", ..) => "Update",
        ("DELETE", ..) => "Delete",
        ("GET", Some(_), _) => "Get",
        _ => "List",
    };
    format!("{kind}_{what}")
}

pub(super) fn call(sim: &Sim, path: &str, request: &Request) -> Answer<Response> {
    let application = authenticate(sim, request)?;
    if request.query("api-version").is_none() {
        let message = "The api-version query parameter (?api-version=) is required for all requests.";
        return Err(ApiError::refuse("MissingApiVersionParameter", message));
    }
    rights::permit(sim, &application, &rights::needs(&request.method, path, &request.body))?;
    if path.contains("/locations/") {
        return operations::get(sim, path, request);
    }
    if points::is_one(path) {
        return points::call(sim, path, request);
    }
    if galleries::is_one(path) {
        return galleries::call(sim, path, request);
    }
    if encryption::is_one(path) {
        return encryption::call(path, request);
    }
    let target = target(path).ok_or_else(|| nothing(path))?;
    let is_disk = target.kind.eq_ignore_ascii_case("disks");
    let is_machine = target.kind.eq_ignore_ascii_case("virtualMachines");
    if !is_disk && !is_machine && !target.kind.eq_ignore_ascii_case("snapshots") {
        return Err(nothing(path));
    }
    if let Some(group) = target.group
        && !GROUPS.iter().any(|(name, _)| name.eq_ignore_ascii_case(group))
    {
        let message = format!("Resource group '{group}' could not be found.");
        return Err(ApiError::new(404, "ResourceGroupNotFound", message));
    }
    let Some(name) = target.name else { return list(sim, path, &target, request) };
    if name.len() > 80 || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
        return Err(ApiError::refuse("InvalidResourceName", format!("The name '{name}' is not valid.")));
    }
    // the id without an action
    let own = path.trim_matches('/');
    let own = own.strip_suffix(target.action.unwrap_or_default()).unwrap_or(own);
    let id = format!("/{}", own.trim_end_matches('/'));
    let action = target.action.map(str::to_ascii_lowercase);
    if is_machine {
        return of_machine(sim, &id, name, action.as_deref(), request);
    }
    match (request.method.as_str(), action.as_deref()) {
        ("GET", None) => sim.with(|world| Ok(Response::json(200, &show(find(world, &id)?, world)))),
        ("PUT", None) if is_disk => disks::create(sim, &id, name, request),
        ("PUT", None) => snapshots::create(sim, &id, name, request),
        ("PATCH", None) => tag(sim, &id, request),
        ("DELETE", None) => delete(sim, &id, request),
        ("POST", Some("begingetaccess")) => access::grant(sim, &id, request),
        ("POST", Some("endgetaccess")) => access::revoke(sim, &id, request),
        ("POST", Some("updateimmutabilitypolicy")) if !is_disk => snapshots::keep(sim, &id, request, false),
        ("POST", Some("updateimmutabilitypolicylock")) if !is_disk => snapshots::keep(sim, &id, request, true),
        _ => Err(nothing(path)),
    }
}

fn nothing(path: &str) -> ApiError {
    ApiError::new(404, "InvalidResourceType", format!("nothing is simulated at {path}"))
}

/// A call about one machine.
fn of_machine(sim: &Sim, id: &str, name: &str, action: Option<&str>, request: &Request) -> Answer<Response> {
    match (request.method.as_str(), action) {
        ("GET", None) => sim.with(|world| Ok(Response::json(200, &machines::show(machines::vm(world, id)?, world)))),
        ("GET", Some("instanceview")) => machines::instance_view(sim, id),
        ("PUT", None) => machines::create(sim, id, name, request),
        ("PATCH", None) => trusted::update(sim, id, request),
        ("DELETE", None) => machines::delete(sim, id, request),
        ("POST", Some("retrievebootdiagnosticsdata")) => machines::diagnostics(sim, id, request),
        ("POST", Some(action @ ("start" | "poweroff" | "deallocate"))) => machines::power(sim, id, action, request),
        _ => Err(nothing(id)),
    }
}

/// The application whose token it is, good or not.
pub(super) fn application(sim: &Sim, request: &Request) -> Option<String> {
    let token = request.header("authorization")?.strip_prefix("Bearer ")?;
    sim.with(|world| world.azure.tokens.get(token).map(|(_, application)| application.clone()))
}

/// The application that asks.
fn authenticate(sim: &Sim, request: &Request) -> Answer<String> {
    let denied = |code: &str, message: &str| Err(ApiError::new(401, code, message));
    let Some(token) = request.header("authorization").and_then(|it| it.strip_prefix("Bearer ")) else {
        return denied("AuthenticationFailed", "Authentication failed. The 'Authorization' header is missing.");
    };
    let (known, now) = sim.with(|world| (world.azure.tokens.get(token).cloned(), world.now()));
    match known {
        None => denied("InvalidAuthenticationToken", "The access token is invalid."),
        Some((until, _)) if now >= until => {
            denied("ExpiredAuthenticationToken", "The access token expiry time has passed.")
        }
        Some((_, application)) => Ok(application),
    }
}

/// A resource by its id, whatever its case.
pub(super) fn find<'w>(world: &'w World, id: &str) -> Answer<&'w Resource> {
    world.azure.resources.get(&id.to_lowercase()).ok_or_else(|| {
        let name = id.rsplit('/').next().unwrap_or_default();
        let message = format!("The Resource 'Microsoft.Compute/{name}' under {id} was not found.");
        ApiError::new(404, "ResourceNotFound", message)
    })
}

/// A body that has only what is known here.
pub(super) fn body<T: for<'de> serde::Deserialize<'de>>(request: &Request) -> Answer<T> {
    serde_json::from_slice(&request.body)
        .map_err(|why| ApiError::refuse("InvalidRequestContent", format!("The request content was invalid: {why}")))
}

/// A resource as it is shown.
pub(super) fn show(it: &Resource, world: &World) -> Value {
    let now = world.now();
    let mut properties = json!({
        "provisioningState": if now < it.ready { "Updating" } else { "Succeeded" },
        "timeCreated": it.created,
        "uniqueId": it.unique,
        "diskSizeBytes": it.bytes,
        "diskSizeGB": it.bytes.div_ceil(crate::store::GIB),
        "diskState": disks::state(it, world),
        "creationData": { "createOption": it.option },
        "encryption": it.encryption,
        "networkAccessPolicy": "AllowAll",
        "publicNetworkAccess": "Enabled",
    });
    if let Some(source) = &it.source {
        properties["creationData"]["sourceResourceId"] = json!(source);
    }
    for (name, value) in [("osType", &it.os_type), ("hyperVGeneration", &it.generation)] {
        if let Some(value) = value {
            properties[name] = json!(value);
        }
    }
    if let Some(security) = &it.security {
        properties["securityProfile"] = json!({ "securityType": security });
    }
    let user = world.azure.machines.values().find(|vm| vm.has(&it.id)).map(|vm| json!(vm.id));
    let kind = match &it.kind {
        Kind::Disk { upload, .. } => {
            if let Some(bytes) = upload {
                properties["creationData"]["uploadSizeBytes"] = json!(bytes);
            }
            "disks"
        }
        Kind::Snapshot { .. } => {
            snapshots::describe(it, now, &mut properties);
            "snapshots"
        }
    };
    let mut shown = json!({
        "id": it.id, "name": it.name, "type": format!("Microsoft.Compute/{kind}"), "location": it.location,
        "tags": it.tags, "sku": { "name": it.sku }, "properties": properties,
    });
    if let Some(user) = user {
        shown["managedBy"] = user;
    }
    shown
}

/// Where the weather asks for it, the first page of a list is empty and says where the rest is.
fn list(sim: &Sim, path: &str, target: &Target<'_>, request: &Request) -> Answer<Response> {
    let version = request.query("api-version").unwrap_or_default();
    let start = target.group.map(|group| format!("/resourcegroups/{}/", group.to_lowercase()));
    let here = |id: &str| start.as_ref().is_none_or(|start| id.contains(start));
    let (items, between) = sim.with(|world| {
        let items: Vec<Value> = match target.kind.to_ascii_lowercase().as_str() {
            "virtualmachines" => {
                let all = world.azure.machines.iter().filter(|(id, _)| here(id));
                all.map(|(_, it)| machines::show(it, world)).collect()
            }
            kind => {
                let all = world
                    .azure
                    .resources
                    .iter()
                    .filter(|(id, it)| matches!(it.kind, Kind::Disk { .. }) == (kind == "disks") && here(id))
                    .filter(|(id, _)| !points::is_one(id) && !galleries::is_one(id));
                all.map(|(_, it)| show(it, world)).collect()
            }
        };
        (items, world.settings.weather.empty_pages)
    });
    if between && request.query("$skiptoken").is_none() {
        let host = request.header("host").unwrap_or_default();
        let next = format!("http://{host}/azure/arm/{}?api-version={version}&$skiptoken=1", path.trim_matches('/'));
        return Ok(Response::json(200, &json!({ "value": [], "nextLink": next })));
    }
    Ok(Response::json(200, &json!({ "value": items })))
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Update {
    tags: crate::world::resource::Tags,
}

/// Changes the tags: all of them, as given.
fn tag(sim: &Sim, id: &str, request: &Request) -> Answer<Response> {
    let wanted: Update = body(request)?;
    let shown = sim.change(|world| {
        find(world, id)?;
        if let Some(it) = world.azure.resources.get_mut(&id.to_lowercase()) {
            it.tags = wanted.tags;
        }
        Ok(show(find(world, id)?, world))
    })?;
    Ok(Response::json(200, &shown))
}

fn delete(sim: &Sim, id: &str, request: &Request) -> Answer<Response> {
    if sim.with(|world| find(world, id).is_err()) {
        return Ok(Response::new(204, "application/json", ""));
    }
    let (gone, operation) = sim.change(|world| {
        let it = find(world, id)?.clone();
        if it.access.as_ref().is_some_and(|name| access::is_open(world, name)) {
            let message = format!("Disk or snapshot {} has an active SAS: revoke it with endGetAccess first.", it.name);
            return Err(ApiError::new(409, "OperationNotAllowed", message));
        }
        if let Some(vm) = world.azure.machines.values().find(|vm| vm.has(&it.id)) {
            let message = format!("Disk {} is attached to VM {}.", it.name, vm.id);
            return Err(ApiError::new(409, "OperationNotAllowed", message));
        }
        snapshots::deletable(&it, world.now())?;
        world.azure.resources.remove(&id.to_lowercase());
        Ok((it, operations::begin(world, None)))
    })?;
    match gone.kind {
        Kind::Disk { .. } => std::fs::remove_file(sim.azure_disk(&gone.unique))?,
        Kind::Snapshot { .. } => sim.maps.delete(&gone.unique, &sim.blocks),
    }
    Ok(operations::accepted(sim, request, &gone.location, &operation, None))
}

//! Virtual machines of attached disks: booted, stopped, and listened to through boot diagnostics.

use serde::Deserialize;
use serde_json::{Value, json};

use super::access::is_open;
use super::arm::{body, find};
use super::disks::invalid;
use super::state::{Access, Kind, Power, Vm};
use super::{operations, trusted};
use crate::clock::later;
use crate::error::{Answer, ApiError};
use crate::http::{Request, Response};
use crate::hypervisor::{Device, Machine};
use crate::sim::Sim;
use crate::world::World;
use crate::world::ids;
use crate::world::resource::Tags;

/// More memory than this is not given to a guest.
const MEMORY_MIB: u64 = 512;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    location: String,
    #[serde(default)]
    tags: Tags,
    properties: Properties,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Properties {
    hardware_profile: Hardware,
    storage_profile: Storage,
    network_profile: Network,
    #[serde(default)]
    diagnostics_profile: Option<Value>,
    #[serde(default)]
    security_profile: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Hardware {
    vm_size: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Storage {
    os_disk: Disk,
    #[serde(default)]
    data_disks: Vec<Disk>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Disk {
    #[serde(default)]
    lun: u32,
    create_option: String,
    #[serde(default)]
    os_type: Option<String>,
    managed_disk: Reference,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Network {
    #[serde(default)]
    network_interfaces: Vec<Reference>,
    #[serde(default)]
    network_api_version: Option<String>,
    #[serde(default)]
    network_interface_configurations: Vec<Card>,
}

/// A network interface that is made with the machine. Nothing is simulated of it but that it is there.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Card {
    name: String,
    properties: CardProperties,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct CardProperties {
    #[serde(default, rename = "primary")]
    _primary: bool,
    #[serde(default, rename = "deleteOption")]
    _delete_option: Option<String>,
    #[serde(default, rename = "networkSecurityGroup")]
    _network_security_group: Option<Reference>,
    ip_configurations: Vec<Value>,
}

/// The ids of the cards, of which some are made here.
fn cards(id: &str, network: &Network) -> Answer<Vec<String>> {
    let group = id.split("/providers/").next().unwrap_or_default();
    let mut cards: Vec<String> = network.network_interfaces.iter().map(|it| it.id.clone()).collect();
    for card in &network.network_interface_configurations {
        if network.network_api_version.is_none() {
            return Err(invalid("networkApiVersion is required with networkInterfaceConfigurations."));
        }
        let subnet = card.properties.ip_configurations.first().and_then(|it| it["properties"]["subnet"]["id"].as_str());
        if subnet.is_none() {
            return Err(invalid(format!("The network interface {} has no subnet.", card.name)));
        }
        cards.push(format!("{group}/providers/Microsoft.Network/networkInterfaces/{}", card.name));
    }
    if cards.is_empty() {
        return Err(invalid("A virtual machine must have at least one network interface."));
    }
    Ok(cards)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reference {
    id: String,
}

pub(super) fn vm<'w>(world: &'w World, id: &str) -> Answer<&'w Vm> {
    world.azure.machines.get(&id.to_lowercase()).ok_or_else(|| {
        let name = id.rsplit('/').next().unwrap_or_default();
        let message = format!("The Resource 'Microsoft.Compute/virtualMachines/{name}' was not found.");
        ApiError::new(404, "ResourceNotFound", message)
    })
}

pub(super) fn show(it: &Vm, world: &World) -> Value {
    let disk = |id: &String| {
        let name = world.azure.resources.get(&id.to_lowercase()).map(|it| it.name.clone()).unwrap_or_default();
        json!({ "name": name, "createOption": "Attach", "managedDisk": { "id": id } })
    };
    let mut disks = it.disks.iter().map(disk);
    let mut os = disks.next().unwrap_or_default();
    os["osType"] = json!(it.os_type);
    let data: Vec<Value> = disks
        .enumerate()
        .map(|(lun, mut disk)| {
            disk["lun"] = json!(lun);
            disk
        })
        .collect();
    let cards: Vec<Value> = it.cards.iter().map(|id| json!({ "id": id })).collect();
    let now = world.now();
    let mut properties = json!({
        "vmId": it.unique,
        "provisioningState": if now < it.ready { "Updating" } else { "Succeeded" },
        "timeCreated": it.created,
        "hardwareProfile": { "vmSize": it.size },
        "storageProfile": { "osDisk": os, "dataDisks": data },
        "networkProfile": { "networkInterfaces": cards },
    });
    if let Some(security) = &it.security {
        properties["securityProfile"] = security.clone();
    }
    json!({
        "id": it.id, "name": it.name, "type": "Microsoft.Compute/virtualMachines", "location": it.location,
        "tags": it.tags, "properties": properties,
    })
}

fn plan(world: &World, id: &str, name: &str, wanted: &Body) -> Answer<Vm> {
    let storage = &wanted.properties.storage_profile;
    let mut data: Vec<&Disk> = storage.data_disks.iter().collect();
    data.sort_by_key(|disk| disk.lun);
    let mut disks = Vec::new();
    let mut uefi = false;
    for disk in std::iter::once(&storage.os_disk).chain(data) {
        if disk.create_option != "Attach" {
            return Err(invalid(format!("createOption {} of a machine's disk is not simulated", disk.create_option)));
        }
        let found = super::disks::source(world, Some(&disk.managed_disk.id))?;
        let refused = |why: &str| ApiError::new(409, "ConflictingUserInput", format!("Disk {} {why}.", found.name));
        match &found.kind {
            Kind::Snapshot { .. } => return Err(invalid("A snapshot cannot be attached")),
            _ if found.location != wanted.location => return Err(refused("is in another region")),
            _ if world.azure.machines.values().any(|it| it.has(&found.id)) => {
                return Err(refused("is attached to another machine"));
            }
            _ if found.access.as_ref().is_some_and(|name| is_open(world, name)) => {
                return Err(refused("has an active SAS"));
            }
            _ => {}
        }
        if disks.is_empty() {
            uefi = found.generation.as_deref() == Some("V2");
        }
        disks.push(found.id.clone());
    }
    let security = wanted.properties.security_profile.clone();
    trusted::fits(security.as_ref(), find(world, &disks[0])?, &wanted.properties.hardware_profile.vm_size)?;
    let cards = cards(id, &wanted.properties.network_profile)?;
    let now = world.now();
    Ok(Vm {
        id: id.to_owned(),
        name: name.to_owned(),
        location: wanted.location.clone(),
        tags: wanted.tags.clone(),
        created: now,
        ready: later(now, world.settings.weather.instance_seconds),
        unique: ids::request(),
        size: wanted.properties.hardware_profile.vm_size.clone(),
        os_type: storage.os_disk.os_type.clone().unwrap_or_else(|| "Linux".to_owned()),
        disks,
        cards,
        uefi,
        security,
        diagnostics: wanted
            .properties
            .diagnostics_profile
            .as_ref()
            .is_some_and(|it| it["bootDiagnostics"]["enabled"] == true),
        power: Power::Running,
    })
}

/// PUT by name: once more with the same disks changes tags and nothing else.
pub(super) fn create(sim: &Sim, id: &str, name: &str, request: &Request) -> Answer<Response> {
    let wanted: Body = body(request)?;
    let only_new = request.header("if-none-match") == Some("*");
    let (shown, location, operation) = sim.change(|world| {
        let made = match world.azure.machines.get(&id.to_lowercase()).cloned() {
            Some(known) if only_new => {
                let message = format!("The resource {} exists, and If-None-Match was given.", known.name);
                return Err(ApiError::new(412, "PreconditionFailed", message));
            }
            Some(known) if known.has(&wanted.properties.storage_profile.os_disk.managed_disk.id) => {
                Vm { tags: wanted.tags.clone(), ..known }
            }
            Some(known) => {
                let message = format!("Changing property 'osDisk' of {} is not allowed.", known.name);
                return Err(ApiError::new(409, "PropertyChangeNotAllowed", message));
            }
            None => plan(world, id, name, &wanted)?,
        };
        let location = made.location.clone();
        world.azure.machines.insert(id.to_lowercase(), made);
        let shown = show(vm(world, id)?, world);
        let mut done = shown.clone();
        done["properties"]["provisioningState"] = "Succeeded".into();
        Ok((shown, location, operations::begin(world, Some(done))))
    })?;
    boot(sim, id)?;
    // machines are `created` where disks are `accepted`
    Ok(Response { status: 201, ..operations::accepted(sim, request, &location, &operation, Some(shown)) })
}

/// Starts the machine of a virtual machine that is to run.
pub(super) fn boot(sim: &Sim, id: &str) -> Answer<()> {
    let machine = sim.with(|world| -> Answer<Option<Machine>> {
        let it = vm(world, id)?;
        if it.power != Power::Running {
            return Ok(None);
        }
        let mut disks = Vec::new();
        for disk in &it.disks {
            let unique = find(world, disk)?.unique.clone();
            disks.push((format!("md-{}", &unique[..18]), sim.azure_disk(&unique)));
        }
        let number = ids::capitals(2).into_bytes();
        Ok(Some(Machine {
            id: it.unique.clone(),
            architecture: "x86_64".to_owned(),
            uefi: it.uefi,
            memory_mib: MEMORY_MIB,
            mac: format!("00:0d:3a:00:{:02x}:{:02x}", number[0], number[1]),
            disks,
            device: Device::Scsi,
        }))
    })?;
    if let Some(machine) = machine {
        sim.machines.start(&machine)?;
    }
    Ok(())
}

/// start, powerOff, deallocate.
pub(super) fn power(sim: &Sim, id: &str, action: &str, request: &Request) -> Answer<Response> {
    let wanted = match action {
        "start" => Power::Running,
        "poweroff" => Power::Stopped,
        _ => Power::Deallocated,
    };
    let (it, operation) = sim.change(|world| {
        let it = vm(world, id)?.clone();
        if let Some(known) = world.azure.machines.get_mut(&id.to_lowercase()) {
            known.power = wanted;
        }
        Ok((it, operations::begin(world, None)))
    })?;
    if wanted == Power::Running {
        boot(sim, id)?;
    } else {
        let patience = if request.query("skipShutdown") == Some("true") { 0 } else { 10 };
        sim.machines.stop(&it.unique, std::time::Duration::from_secs(patience));
    }
    Ok(operations::accepted(sim, request, &it.location, &operation, None))
}

/// Deletes a virtual machine; its disks stay, as the provider's default is.
pub(super) fn delete(sim: &Sim, id: &str, request: &Request) -> Answer<Response> {
    if sim.with(|world| vm(world, id).is_err()) {
        return Ok(Response::new(204, "application/json", ""));
    }
    let (it, operation) = sim.change(|world| {
        let it = vm(world, id)?.clone();
        world.azure.machines.remove(&id.to_lowercase());
        Ok((it, operations::begin(world, None)))
    })?;
    sim.machines.stop(&it.unique, std::time::Duration::ZERO);
    Ok(operations::accepted(sim, request, &it.location, &operation, None))
}

pub(super) fn instance_view(sim: &Sim, id: &str) -> Answer<Response> {
    sim.with(|world| {
        let it = vm(world, id)?;
        let (code, words) = match it.power {
            Power::Running => ("PowerState/running", "VM running"),
            Power::Stopped => ("PowerState/stopped", "VM stopped"),
            Power::Deallocated => ("PowerState/deallocated", "VM deallocated"),
        };
        let status = |code: &str, words: &str| json!({ "code": code, "level": "Info", "displayStatus": words });
        let generation = if it.uefi { "V2" } else { "V1" };
        let statuses = [status("ProvisioningState/succeeded", "Provisioning succeeded"), status(code, words)];
        Ok(Response::json(200, &json!({ "hyperVGeneration": generation, "statuses": statuses })))
    })
}

/// An address of the serial console's log.
pub(super) fn diagnostics(sim: &Sim, id: &str, request: &Request) -> Answer<Response> {
    let host = request.header("host").unwrap_or_default();
    let (name, signature) = (ids::request(), ids::capitals(43));
    sim.change(|world| {
        if !vm(world, id)?.diagnostics {
            let message = "Boot diagnostics are not enabled for the virtual machine.";
            return Err(ApiError::new(409, "OperationNotAllowed", message));
        }
        let expires = later(world.now(), 7200.0);
        let resource = id.to_lowercase();
        world
            .azure
            .accesses
            .insert(name.clone(), Access { resource, write: false, expires, signature: signature.clone() });
        Ok(())
    })?;
    let at = format!("http://{host}/azure/blob/console/{name}/serialconsole.log?si={name}&sig={signature}%3D");
    Ok(Response::json(200, &json!({ "serialConsoleLogBlobUri": at })))
}

/// What the serial console said.
pub(super) fn console(sim: &Sim, path: &str, request: &Request) -> Answer<Response> {
    let denied = || ApiError::new(403, "AuthenticationFailed", "Server failed to authenticate the request.");
    let name = path.split('/').nth(1).unwrap_or_default();
    let unique = sim.with(|world| {
        let access = world.azure.accesses.get(name).filter(|it| world.now() < it.expires).ok_or_else(denied)?;
        if request.query("sig") != Some(&format!("{}=", access.signature)) {
            return Err(denied());
        }
        Ok(vm(world, &access.resource)?.unique.clone())
    })?;
    let text = sim.machines.console(&unique, 1 << 20).unwrap_or_default();
    Ok(Response::new(200, "application/octet-stream", text).with("x-ms-blob-type", "AppendBlob"))
}

/// Boots again what was running when the simulator ended.
pub(crate) fn restart(sim: &Sim) {
    let all: Vec<String> = sim.with(|world| world.azure.machines.keys().cloned().collect());
    for id in all {
        if boot(sim, &id).is_err() {
            ended(sim, &id);
        }
    }
}

fn ended(sim: &Sim, id: &str) {
    let _ = sim.change(|world| {
        if let Some(it) = world.azure.machines.get_mut(id) {
            it.power = Power::Stopped;
        }
        Ok(())
    });
}

/// A guest has shut itself down.
pub(crate) fn noticed(sim: &Sim, machine: &str) {
    let found =
        sim.with(|world| world.azure.machines.iter().find(|(_, it)| it.unique == machine).map(|(id, _)| id.clone()));
    if let Some(id) = found {
        ended(sim, &id);
    }
}

//! Managed disks: empty, of a snapshot, or to be uploaded into.

use serde::Deserialize;

use super::arm::{body, find, show};
use super::encryption::Encryption;
use super::state::{Kind, Power, Resource};
use super::{access, galleries, operations, vhd};
use crate::clock::later;
use crate::error::{Answer, ApiError};
use crate::http::{Request, Response};
use crate::sim::Sim;
use crate::store::maps::Map;
use crate::store::{GIB, volume};
use crate::world::World;
use crate::world::ids;
use crate::world::resource::Tags;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    pub(super) location: String,
    #[serde(default)]
    pub(super) tags: Tags,
    #[serde(default)]
    pub(super) sku: Option<Sku>,
    pub(super) properties: Properties,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sku {
    pub(super) name: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Properties {
    pub(super) creation_data: CreationData,
    #[serde(default, rename = "diskSizeGB")]
    pub(super) gib: Option<u64>,
    #[serde(default)]
    pub(super) os_type: Option<String>,
    #[serde(default, rename = "hyperVGeneration")]
    pub(super) generation: Option<String>,
    #[serde(default)]
    pub(super) security_profile: Option<Security>,
    #[serde(default)]
    pub(super) encryption: Encryption,
    #[serde(default)]
    pub(super) incremental: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Security {
    pub(super) security_type: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct CreationData {
    pub(super) create_option: String,
    #[serde(default)]
    pub(super) source_resource_id: Option<String>,
    #[serde(default)]
    pub(super) upload_size_bytes: Option<u64>,
    #[serde(default)]
    pub(super) provisioned_bandwidth_copy_speed: Option<String>,
    #[serde(default)]
    gallery_image_reference: Option<GalleryReference>,
}

/// A version of a gallery's, and which of its data disks; none: the system's.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GalleryReference {
    id: String,
    #[serde(default)]
    lun: Option<u32>,
}

pub(super) fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::refuse("InvalidParameter", message)
}

/// The diskState of the provider.
pub(super) fn state(it: &Resource, world: &World) -> &'static str {
    let open = it.access.as_ref().is_some_and(|name| access::is_open(world, name));
    let user = world.azure.machines.values().find(|vm| vm.has(&it.id));
    match (&it.kind, user.map(|vm| vm.power)) {
        (Kind::Disk { upload: Some(_), .. }, _) if open => "ActiveUpload",
        (Kind::Disk { upload: Some(_), .. }, _) => "ReadyToUpload",
        _ if open => "ActiveSAS",
        (_, Some(Power::Deallocated)) => "Reserved",
        (_, Some(_)) => "Attached",
        (_, None) => "Unattached",
    }
}

/// A resource that can be copied from.
pub(super) fn source(world: &World, id: Option<&String>) -> Answer<Resource> {
    let id = id.ok_or_else(|| invalid("Required parameter 'creationData.sourceResourceId' is missing (null)."))?;
    let found = find(world, id)?;
    match &found.kind {
        Kind::Disk { upload: Some(_), .. } => {
            Err(ApiError::new(409, "OperationNotAllowed", format!("Disk {} has not been uploaded.", found.name)))
        }
        Kind::Snapshot { copied: Some(until), .. } if world.now() < *until => {
            Err(ApiError::new(409, "OperationNotAllowed", format!("Snapshot {} is still being copied.", found.name)))
        }
        _ => Ok(found.clone()),
    }
}

pub(super) fn fresh(id: &str, name: &str, body: &Body, world: &World, kind: Kind) -> Resource {
    let now = world.now();
    let unique = ids::request();
    Resource {
        id: id.to_owned(),
        name: name.to_owned(),
        kind,
        location: body.location.clone(),
        tags: body.tags.clone(),
        created: now,
        ready: later(now, world.settings.weather.arm_seconds),
        bytes: 0,
        sku: body.sku.as_ref().map_or_else(|| "Standard_LRS".to_owned(), |sku| sku.name.clone()),
        os_type: body.properties.os_type.clone(),
        generation: body.properties.generation.clone(),
        security: body.properties.security_profile.as_ref().map(|it| it.security_type.clone()),
        encryption: body.properties.encryption.clone(),
        option: body.properties.creation_data.create_option.clone(),
        source: body.properties.creation_data.source_resource_id.clone(),
        family: unique.clone(),
        access: None,
        unique,
    }
}

/// PUT by name: once more with the same name changes tags and nothing else.
pub(super) fn create(sim: &Sim, id: &str, name: &str, request: &Request) -> Answer<Response> {
    let wanted: Body = body(request)?;
    if let Some(done) = again(sim, id, &wanted, request)? {
        return Ok(done);
    }
    let (resource, map) = plan(sim, id, name, &wanted)?;
    let file = sim.azure_disk(&resource.unique);
    let made = volume::create(&file, resource.bytes, &map, &sim.blocks, None);
    map.values().for_each(|block| sim.blocks.release(&block.hash));
    made?;
    if let Kind::Disk { upload: Some(bytes), .. } = resource.kind {
        std::fs::File::options().write(true).open(&file)?.set_len(bytes)?;
    }
    insert(sim, id, resource, request)
}

/// Puts a new resource into the world and answers.
pub(super) fn insert(sim: &Sim, id: &str, resource: Resource, request: &Request) -> Answer<Response> {
    let location = resource.location.clone();
    let (shown, operation) = sim.change(|world| {
        world.azure.resources.insert(id.to_lowercase(), resource);
        let shown = show(find(world, id)?, world);
        let mut done = shown.clone();
        done["properties"]["provisioningState"] = "Succeeded".into();
        Ok((shown, operations::begin(world, Some(done))))
    })?;
    Ok(operations::accepted(sim, request, &location, &operation, Some(shown)))
}

/// The answer for a name that exists already.
pub(super) fn again(sim: &Sim, id: &str, wanted: &Body, request: &Request) -> Answer<Option<Response>> {
    let known = sim.with(|world| find(world, id).ok().cloned());
    let Some(known) = known else { return Ok(None) };
    let data = &wanted.properties.creation_data;
    let same = known.option == data.create_option
        && known.source.as_deref().map(str::to_lowercase) == data.source_resource_id.as_deref().map(str::to_lowercase)
        && known.location == wanted.location
        && known.encryption.is_same(&wanted.properties.encryption);
    if !same {
        let message = format!("Changing property 'creationData' or 'encryption' of {} is not allowed.", known.name);
        return Err(ApiError::new(409, "PropertyChangeNotAllowed", message));
    }
    insert(sim, id, Resource { tags: wanted.tags.clone(), ..known }, request).map(Some)
}

fn plan(sim: &Sim, id: &str, name: &str, wanted: &Body) -> Answer<(Resource, Map)> {
    let data = &wanted.properties.creation_data;
    if wanted.properties.incremental.is_some() {
        return Err(invalid("A disk is not incremental."));
    }
    wanted.properties.encryption.usable(&wanted.location)?;
    sim.with(|world| {
        let kind = Kind::Disk { upload: data.upload_size_bytes, last: None };
        let mut made = fresh(id, name, wanted, world, kind);
        let mut map = Map::new();
        match data.create_option.as_str() {
            "Empty" => {
                let gib =
                    wanted.properties.gib.ok_or_else(|| invalid("Required parameter 'diskSizeGB' is missing."))?;
                made.bytes = gib * GIB;
            }
            "Upload" => {
                let bytes = data.upload_size_bytes.unwrap_or_default();
                made.bytes = vhd::size(bytes).ok_or_else(|| {
                    invalid("uploadSizeBytes is from 20 MiB to 32 TiB, a whole number of MiB, and 512 bytes more.")
                })?;
            }
            "Copy" | "Restore" if wanted.properties.security_profile.is_some() => {
                let message = "Security Type 'TrustedLaunch' is not supported for CreateOption 'Copy'. Supported create \
                               options are FromImage, Import, ImportSecure, UploadPreparedSecure.";
                return Err(ApiError::refuse("BadRequest", message));
            }
            "Copy" | "Restore" => {
                let from = source(world, data.source_resource_id.as_ref())?;
                if !matches!(from.kind, Kind::Snapshot { .. }) {
                    return Err(invalid("Only snapshots are copied into disks here."));
                }
                if from.location != wanted.location {
                    return Err(invalid(format!("The source is in {}: copy the snapshot first.", from.location)));
                }
                made.bytes = wanted.properties.gib.map_or(from.bytes, |gib| gib * GIB);
                if made.bytes < from.bytes {
                    return Err(invalid("The disk is smaller than its source."));
                }
                made.os_type = made.os_type.or(from.os_type);
                made.generation = made.generation.or(from.generation);
                made.security = made.security.or(from.security);
                map = sim.maps.share(&from.unique, &sim.blocks).unwrap_or_default();
            }
            "FromImage" => {
                let of = data.gallery_image_reference.as_ref();
                let of = of.ok_or_else(|| invalid("Only images of galleries are simulated."))?;
                let from = galleries::held(world, &of.id, of.lun, &wanted.location)?;
                (made.bytes, made.os_type, made.generation) = (from.bytes, from.os_type, from.generation);
                map = sim.maps.share(&from.unique, &sim.blocks).unwrap_or_default();
            }
            other => return Err(invalid(format!("createOption {other} is not simulated"))),
        }
        Ok((made, map))
    })
}

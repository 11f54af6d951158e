//! Compute galleries: definitions of images and versions of them. Every group has the gallery `replicas`.
//!
//! A version is made of snapshots of its own region and holds what they hold. To each of its regions it is copied for itself
//! (`replicate_seconds`); a region that the settings list among `bad_regions` when that begins fails, and stays so until it is taken out of
//! the version's regions and put in again. While any is under way the version is not changed and not deleted, which is a guess.

mod body;
mod place;
mod version;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::body::DefinitionBody;
pub(super) use self::place::{is_one, name};
pub(crate) use self::version::Version;
pub(super) use self::version::held;
use super::arm::body;
use super::operations;
use super::state::GROUPS;
use crate::error::{Answer, ApiError};
use crate::http::{Request, Response};
use crate::sim::Sim;
use crate::world::World;
use crate::world::resource::Tags;

const GALLERY: &str = "replicas";

/// What versions have in common.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Definition {
    id: String,
    location: String,
    tags: Tags,
    properties: Value,
}

impl Definition {
    /// As the control tells of it.
    pub(crate) fn neutral(&self) -> Value {
        json!({ "kind": "definition", "id": self.id, "region": self.location, "tags": self.tags, "state": "there" })
    }
}

pub(super) fn call(sim: &Sim, path: &str, request: &Request) -> Answer<Response> {
    let id = format!("/{}", path.trim_matches('/'));
    let operation = name(&request.method, path);
    if operation == "Galleries_ListByResourceGroup" {
        let all: Vec<Value> = gallery(&format!("{id}/{GALLERY}")).into_iter().collect();
        return Ok(Response::json(200, &json!({ "value": all })));
    }
    if operation != "Galleries_Get" {
        gallery(&id)?;
    }
    match operation.as_str() {
        "Galleries_Get" => gallery(&id).map(|shown| Response::json(200, &shown)),
        "GalleryImages_ListByGallery" => list_definitions(sim, &id),
        "GalleryImages_Get" => sim.with(|world| Ok(Response::json(200, &show_definition(definition(world, &id)?)))),
        "GalleryImages_CreateOrUpdate" => define(sim, &id, request),
        "GalleryImages_Delete" => delete_definition(sim, &id, request),
        "GalleryImageVersions_Get" => version::look(sim, &id, request),
        "GalleryImageVersions_ListByGalleryImage" => version::list(sim, &id),
        "GalleryImageVersions_CreateOrUpdate" => version::create(sim, &id, request),
        "GalleryImageVersions_Update" => version::update(sim, &id, request),
        "GalleryImageVersions_Delete" => version::delete(sim, &id, request),
        _ => Err(ApiError::new(404, "InvalidResourceType", "nothing is simulated there")),
    }
}

fn absent(id: &str) -> ApiError {
    ApiError::new(404, "ResourceNotFound", format!("The Resource under {id} was not found."))
}

/// The gallery that an id is in.
fn gallery(id: &str) -> Answer<Value> {
    let parts: Vec<&str> = id.split('/').collect();
    let (group, named) = (parts.get(4).copied().unwrap_or_default(), parts.get(8).copied().unwrap_or_default());
    let place = GROUPS.iter().find(|(name, _)| name.eq_ignore_ascii_case(group)).map(|(_, place)| place);
    match place.filter(|_| named.eq_ignore_ascii_case(GALLERY)) {
        Some(place) => Ok(json!({
            "id": parts[..9].join("/"), "name": GALLERY, "type": "Microsoft.Compute/galleries", "location": place,
            "properties": { "provisioningState": "Succeeded" },
        })),
        None => Err(absent(id)),
    }
}

fn definition<'w>(world: &'w World, id: &str) -> Answer<&'w Definition> {
    world.azure.definitions.get(&id.to_lowercase()).ok_or_else(|| absent(id))
}

fn last(id: &str) -> &str {
    id.rsplit('/').next().unwrap_or_default()
}

fn show_definition(it: &Definition) -> Value {
    let mut properties = it.properties.clone();
    properties["provisioningState"] = "Succeeded".into();
    json!({
        "id": it.id, "name": last(&it.id), "type": "Microsoft.Compute/galleries/images", "location": it.location,
        "tags": it.tags, "properties": properties,
    })
}

fn list_definitions(sim: &Sim, id: &str) -> Answer<Response> {
    let below = format!("{}/", id.to_lowercase());
    let all: Vec<Value> = sim.with(|world| {
        let here = world.azure.definitions.iter().filter(|(id, _)| id.starts_with(&below));
        here.map(|(_, it)| show_definition(it)).collect()
    });
    Ok(Response::json(200, &json!({ "value": all })))
}

/// PUT by name; what a definition says of its images is not changed.
fn define(sim: &Sim, id: &str, request: &Request) -> Answer<Response> {
    let wanted: DefinitionBody = body(request)?;
    wanted.properties.check()?;
    let properties = json!(wanted.properties);
    let (shown, location, operation) = sim.change(|world| {
        if definition(world, id).is_ok_and(|known| known.properties != properties) {
            return Err(ApiError::new(409, "PropertyChangeNotAllowed", "A definition's properties are not changed."));
        }
        let made = Definition { id: id.to_owned(), location: wanted.location, tags: wanted.tags, properties };
        let (shown, location) = (show_definition(&made), made.location.clone());
        world.azure.definitions.insert(id.to_lowercase(), made);
        Ok((shown.clone(), location, operations::begin(world, Some(shown))))
    })?;
    Ok(Response { status: 201, ..operations::accepted(sim, request, &location, &operation, Some(shown)) })
}

fn delete_definition(sim: &Sim, id: &str, request: &Request) -> Answer<Response> {
    if sim.with(|world| definition(world, id).is_err()) {
        return Ok(Response::new(204, "application/json", ""));
    }
    let (location, operation) = sim.change(|world| {
        let below = format!("{}/", id.to_lowercase());
        if world.azure.versions.keys().any(|id| id.starts_with(&below)) {
            let message = "Can not delete resource before nested resources are deleted.";
            return Err(ApiError::new(409, "CannotDeleteResource", message));
        }
        let location = definition(world, id)?.location.clone();
        world.azure.definitions.remove(&id.to_lowercase());
        Ok((location, operations::begin(world, None)))
    })?;
    Ok(operations::accepted(sim, request, &location, &operation, None))
}

//! What we have made at the site, and deleting it.
//!
//! * `capture`: what the source holds of a server, whatever it consists of.
//! * `image`: a registered image, of the boot disk; its other disks' images go with it.
//! * `disk`: an image that is being written. One that no registered image lists is scratch, whatever its mark says: the
//!   registration that it waited for has not come.
//! * `upload`: a file in the scratch folder.
//! * `instance`: a server that was launched.
//! * `volume`: a disk of such a server.
//! * `network`, `subnet`, `port`: what such a server is connected to.

use model::{Error, InstanceId, Kind, Result, Role, Tags};

use super::api::Service;
use super::api::glance::{Glance, Image};
use super::api::neutron::{Neutron, Thing};
use super::api::nova::Nova;
use super::http::Client;
use super::{OpenStackSite, marks, source, target};
use crate::Resource;

/// Everything of the project that carries our tags, of every owner.
pub(super) async fn owned(site: &OpenStackSite) -> Result<Vec<Resource>> {
    let mut found = source::owned(&site.client).await?;
    let images = images(site).await?;
    let listed = target::referenced(&images);
    for image in images.into_iter().filter(|image| !listed.contains(&image.id)) {
        let Some((role, tags)) = marks::of_properties(&image.properties) else { continue };
        match image.properties.contains_key(marks::POINT) {
            true => {
                let tags = target::all_tags(&image, tags);
                found.push(resource("image", image.id, role, tags));
            }
            false => found.push(resource("disk", image.id, Role::Scratch, tags)),
        }
    }
    for (mark, tags) in site.scratch().list().await? {
        found.push(resource("upload", mark, Role::Scratch, tags));
    }
    let client = &site.client;
    if client.has(Service::Compute).await? {
        for server in Nova(client).servers().await? {
            if let Some((role, tags)) = marks::of_metadata(&server.metadata) {
                let id = target::id_of(&server.id, &tags)?;
                found.push(resource("instance", id.to_string(), role, tags));
            }
        }
    }
    if client.has(Service::Volume).await? {
        let volumes = target::volumes(client).await?.into_iter();
        found.extend(volumes.map(|(id, role, tags)| resource("volume", id, role, tags)));
    }
    if client.has(Service::Network).await? {
        let project = [("project_id", client.project().await?)];
        for thing in [Thing::Port, Thing::Subnet, Thing::Network] {
            for item in Neutron(client).list(thing, &project).await? {
                if let Some((role, tags)) = marks::of_description(&item.description) {
                    found.push(resource(thing.word(), item.id, role, tags));
                }
            }
        }
    }
    Ok(found)
}

/// All images of ours, hidden ones too. An image that another project shares with us can carry any tag it likes.
pub(super) async fn images(site: &OpenStackSite) -> Result<Vec<Image>> {
    let project = site.client.project().await?;
    let query = [("tag", marks::OURS.to_owned()), ("owner", project.clone())];
    let mut images = Glance(&site.client).list(&query).await?;
    images.retain(|image| image.owner.as_ref().is_none_or(|owner| *owner == project));
    Ok(images)
}

fn resource(kind: &str, id: String, role: Role, tags: Tags) -> Resource {
    Resource { kind: kind.to_owned(), id, role, tags }
}

/// Deletes what we have made. Absent is success.
pub(super) async fn delete(site: &OpenStackSite, resource: &Resource) -> Result<()> {
    let (client, id) = (&site.client, resource.id.as_str());
    match resource.kind.as_str() {
        "capture" => source::delete(client, resource).await,
        "image" => delete_image(site, id).await,
        "disk" => {
            site.pipes.stop(id);
            delete_disk(client, id).await
        }
        "upload" => site.scratch().remove(id).await,
        "instance" => target::destroy(client, &InstanceId::new(id)?).await,
        "volume" => target::delete_volume(client, id).await,
        "network" => Neutron(client).delete(Thing::Network, id).await,
        "subnet" => Neutron(client).delete(Thing::Subnet, id).await,
        "port" => Neutron(client).delete(Thing::Port, id).await,
        kind => Err(Error::new(Kind::Invalid, format!("cannot delete {kind} {id}"))
            .because("an OpenStack site makes no such thing")),
    }
}

/// Deletes an image, then those of its other disks: without the first they are leftovers.
async fn delete_image(site: &OpenStackSite, id: &str) -> Result<()> {
    site.pipes.stop(id);
    let image = match Glance(&site.client).show(id).await {
        Err(error) if error.kind() == Kind::NotFound => return Ok(()),
        image => image?,
    };
    delete_disk(&site.client, id).await?;
    for disk in target::disks_of(&image).into_iter().filter(|disk| disk.image != id) {
        site.pipes.stop(&disk.image);
        delete_disk(&site.client, &disk.image).await?;
    }
    Ok(())
}

async fn delete_disk(client: &Client, id: &str) -> Result<()> {
    model::crash::point("openstack.image-delete.before");
    Glance(client).delete(id).await?;
    model::crash::point("openstack.image-delete.after");
    Ok(())
}

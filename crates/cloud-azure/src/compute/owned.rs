//! What we have made in the group, and deleting it.
//!
//! * `image`: a registered image; the snapshots of its other disks go with it.
//! * `snapshot`: one of an image that was not registered, which is scratch, whatever its mark says.
//! * `disk`: a managed disk that is being uploaded, or was and waits for its registration.
//! * `capture`: what the source holds of a server, however many snapshots it is, or a collection with its restore point.
//! * `base`: a capture that was committed, which the next one is compared with. Its role is that of a replica: no sweep
//!   may take it, and the next commit does.
//! * `instance`: a machine that was launched; its disks are not listed while they are attached to it.
//! * `volume`: a disk of a machine that is not there.
//! * `version`: one of a gallery whose image is not there, which is scratch, whatever its mark says.

use std::collections::{BTreeMap, BTreeSet};

use model::{Error, InstanceId, Kind, Result, Role, Tags};

use super::arm::What;
use super::http::Client;
use super::{marks, source, target};
use cloud::Resource;

fn resource(kind: &str, id: String, role: Role, tags: Tags) -> Resource {
    Resource { kind: kind.to_owned(), id, role, tags }
}

/// Everything of the group that carries our tags, of every owner.
pub(super) async fn owned(client: &Client) -> Result<Vec<Resource>> {
    let mut found = Vec::new();
    // before the snapshots: a version is named by its image's before it is begun
    let versions = target::versions(client).await?;
    let snapshots = client.list(What::Snapshot).await?;
    let published: BTreeSet<&String> = snapshots.iter().filter_map(|it| it.tags.get(marks::VERSION)).collect();
    for (path, version) in versions.into_iter().filter(|(path, _)| !published.contains(path)) {
        if let Some((_, tags)) = marks::ours(&version.tags)
            && target::is_orphan(client, &path, &version).await?
        {
            found.push(resource("version", path, Role::Scratch, tags));
        }
    }
    let images: BTreeSet<String> =
        snapshots.iter().filter(|it| it.tags.contains_key(marks::REGISTERED)).map(|it| it.name.clone()).collect();
    let mut captures = BTreeMap::new();
    for it in snapshots {
        let Some((role, tags)) = marks::ours(&it.tags) else { continue };
        if images.contains(&it.name) {
            found.push(resource("image", it.name, role, tags));
        } else if let Some((stem, base)) = source::part_of(&it) {
            captures.insert(stem.to_owned(), (if base { "base" } else { "capture" }, role, tags));
        } else if target::image_of(&it.name).is_none_or(|image| !images.contains(image)) {
            found.push(resource("snapshot", it.name, Role::Scratch, tags));
        }
    }
    for it in client.list(What::Collection).await? {
        if let (Some((role, tags)), Some((stem, base))) = (marks::ours(&it.tags), source::part_of(&it)) {
            captures.insert(stem.to_owned(), (if base { "base" } else { "capture" }, role, tags));
        }
    }
    found.extend(captures.into_iter().map(|(stem, (kind, role, tags))| resource(kind, stem, role, tags)));
    for it in client.list(What::Disk).await? {
        let Some((role, tags)) = marks::ours(&it.tags) else { continue };
        let attached = it.managed_by.as_ref().is_some_and(|machine| !machine.is_empty());
        match it.tags.get(marks::PART).map(String::as_str) {
            Some("volume") if attached => {}
            Some("volume") => found.push(resource("volume", it.name, role, tags)),
            _ => found.push(resource("disk", it.name, Role::Scratch, tags)),
        }
    }
    for it in client.list(What::Machine).await? {
        if let Some((role, tags)) = marks::ours(&it.tags)
            && let Some(id) = target::id_of(&it.name, &it.tags)
        {
            found.push(resource("instance", id.to_string(), role, tags));
        }
    }
    Ok(found)
}

/// Deletes what we have made. Absent is success.
pub(super) async fn delete(client: &Client, resource: &Resource) -> Result<()> {
    let id = resource.id.as_str();
    match resource.kind.as_str() {
        "image" => target::delete_image(client, id).await,
        "snapshot" => client.delete(What::Snapshot, id).await,
        "capture" | "base" => source::remove(client, id).await,
        "version" => target::delete_orphan(client, id).await,
        "disk" | "volume" => client.delete(What::Disk, id).await,
        "instance" => target::destroy(client, &InstanceId::new(id)?).await,
        kind => Err(Error::new(Kind::Invalid, format!("cannot delete {kind} {id}"))
            .because("an Azure site makes no such thing")),
    }
}

//! What we have made at the site, and deleting it.
//!
//! * `image`: an AMI; its snapshots go with it.
//! * `disk`: a snapshot that is or was written or copied for an image. One that no image refers to is scratch, whatever its tag
//!   says: the registration that it waited for has not come, or its image has gone.
//! * `capture`: the snapshots of one instant of a server.
//! * `base`: a snapshot of the last committed capture, which the next one is compared with; it is no leftover.
//! * `instance`, `security-group`: a launched server, and what isolates it.

use std::collections::{BTreeMap, BTreeSet};

use cloud::Resource;
use model::{Error, InstanceId, Kind, Result, Role, Tags, tag};

use super::config::Clients;
use super::{AwsSite, capture, image, instance, isolate, marks, records, snapshot};

fn resource(kind: &str, id: &str, role: Role, tags: Tags) -> Resource {
    Resource { kind: kind.to_owned(), id: id.to_owned(), role, tags }
}

/// Everything of the account in this region that carries our tags, of every owner.
pub(super) async fn owned(clients: &Clients) -> Result<Vec<Resource>> {
    let ours = || vec![marks::tagged(tag::OWNER, None)];
    let mut found = Vec::new();
    // snapshots first: one whose image is registered meanwhile is then seen in the list of images
    let snapshots = snapshot::list(clients, ours()).await?;
    let images = image::list(clients, Vec::new()).await?;
    let needed: BTreeSet<String> = images.iter().flat_map(|image| image.snapshots.clone()).collect();
    for image in images {
        if let Some((role, _)) = marks::ours(&image.tags) {
            found.push(resource("image", &image.id, role, marks::shown(&image.tags)));
        }
    }
    let mut captures: BTreeMap<String, Tags> = BTreeMap::new();
    for held in snapshots.into_iter().filter(|held| !needed.contains(&held.id)) {
        let Some((_, tags)) = marks::ours(&held.tags) else { continue };
        if [marks::MARK, marks::COPY].iter().any(|mark| held.tags.contains_key(*mark)) {
            let mut tags = tags;
            tags.insert(tag::ROLE.to_owned(), "scratch".to_owned());
            found.push(resource("disk", &held.id, Role::Scratch, tags));
        } else if held.tags.contains_key(marks::BASE) {
            found.push(resource("base", &held.id, Role::Replica, tags));
        } else {
            captures.entry(capture::name_of(&tags)).or_default().extend(tags);
        }
    }
    found.extend(captures.into_iter().map(|(id, tags)| resource("capture", &id, Role::Scratch, tags)));
    for it in instance::list(clients, ours()).await? {
        let (all, id) = (marks::of_ec2(it.tags()), it.instance_id().unwrap_or_default());
        if let Some((role, tags)) = marks::ours(&all) {
            found.push(resource("instance", &format!("{id}/{}", capture::name_of(&tags)), role, tags));
        }
    }
    for group in isolate::list(clients, ours()).await? {
        if let Some((role, tags)) = marks::ours(&group.tags) {
            found.push(resource("security-group", &group.id, role, tags));
        }
    }
    Ok(found)
}

/// Deletes what we have made. Absent is success.
pub(super) async fn delete(site: &AwsSite, resource: &Resource) -> Result<()> {
    let (clients, id) = (site.clients().await?, resource.id.as_str());
    match resource.kind.as_str() {
        "image" => {
            for snapshot in image::delete(clients, id).await? {
                records::forget(&site.config.scratch, &snapshot);
            }
            Ok(())
        }
        "disk" | "base" => {
            snapshot::delete(clients, id).await?;
            records::forget(&site.config.scratch, id);
            Ok(())
        }
        "capture" => capture::remove(clients, &resource.tags).await,
        "instance" => instance::destroy(clients, &InstanceId::new(id)?).await,
        "security-group" => isolate::delete(clients, id).await,
        kind => {
            Err(Error::new(Kind::Invalid, format!("cannot delete {kind} {id}"))
                .because("an AWS site makes no such thing"))
        }
    }
}

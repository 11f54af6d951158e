//! What a capture leaves at the site while it is held: how it is marked, found again and deleted.
//!
//! Everything carries the tags of the token from its create call on, with one exception: the snapshots that
//! `createImage` or a group snapshot make take their name from ours and no tags. Until they are tagged, that name is
//! what finds them: it tells run, step and owner.

use jiff::Timestamp;
use model::{DiskName, Result, Role, Tags, Token, crash, tag};

use crate::Resource;
use crate::openstack::api::Service;
use crate::openstack::api::cinder::{Cinder, Snapshot, Volume};
use crate::openstack::api::glance::{Glance, Image};
use crate::openstack::http::Client;
pub(super) use crate::openstack::marks::{DISK, PART};
use crate::openstack::volume;
use crate::openstack::wait::{Attempts, Bound};

/// On every part of a capture that is complete: how many there are, and the consistency reached.
pub(super) const PINNED: &str = "replicate:pinned";

/// [`PART`] of an image that is the root disk.
pub(super) const ROOT: &str = "root";
/// [`PART`] of an image of a volume-backed server: it has no bytes, its snapshots have.
pub(super) const RECORD: &str = "record";
/// [`PART`] of a snapshot of a volume.
pub(super) const SNAPSHOT: &str = "snapshot";
/// [`PART`] of a volume made of a snapshot.
pub(super) const VOLUME: &str = "volume";
/// [`PART`] of an image made of such a volume.
pub(super) const EXPORT: &str = "export";

/// What Nova puts before the image's name.
const OF_IMAGE: &str = "snapshot for ";

/// Which capture: the same token has the same key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    owner: String,
    run: String,
    step: String,
}

impl Key {
    pub(super) fn of(token: &Token) -> Self {
        Self { owner: token.owner.to_string(), run: token.run.to_string(), step: token.step.clone() }
    }

    pub(super) fn of_tags(tags: &Tags) -> Option<Self> {
        let get = |key| tags.get(key).cloned();
        Some(Self { owner: get(tag::OWNER)?, run: get(tag::RUN)?, step: get(tag::STEP)? })
    }

    /// The name of everything that belongs to it. No id has a space in it.
    pub(super) fn name(&self) -> String {
        format!("replicate {} {} {}", self.run, self.step, self.owner)
    }

    fn of_name(name: &str) -> Option<Self> {
        let name = name.strip_prefix(OF_IMAGE).unwrap_or(name);
        let mut words = name.strip_prefix("replicate ")?.split(' ').map(str::to_owned);
        let (run, step, owner) = (words.next()?, words.next()?, words.next()?);
        Some(Self { owner, run, step })
    }

    /// The tags that can be told of a thing that has no tags yet.
    fn tags(&self) -> Tags {
        let all = [(tag::OWNER, &*self.owner), (tag::RUN, &self.run), (tag::STEP, &self.step), (tag::ROLE, "scratch")];
        all.into_iter().chain([(PART, SNAPSHOT)]).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }
}

/// The tags of a part.
pub(super) fn tags_of(token: &Tags, part: &str, disk: Option<&DiskName>) -> Tags {
    let mut tags = token.clone();
    tags.insert(PART.to_owned(), part.to_owned());
    if let Some(disk) = disk {
        tags.insert(DISK.to_owned(), disk.to_string());
    }
    tags
}

/// Something that a capture made.
#[derive(Debug, Clone)]
pub(super) enum Thing {
    Image(Box<Image>),
    Volume(Volume),
    Snapshot(Snapshot),
}

/// A thing with its marks.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) key: Key,
    pub(super) tags: Tags,
    pub(super) thing: Thing,
}

impl Part {
    fn of_image(image: Image) -> Option<Self> {
        let ours = image.properties.iter().filter(|(key, _)| key.starts_with("replicate:"));
        let tags = ours.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect();
        Self::of_tags(tags, Thing::Image(Box::new(image)))
    }

    fn of_snapshot(snapshot: Snapshot) -> Option<Self> {
        let tags = snapshot.metadata.clone();
        if tags.contains_key(PART) {
            return Self::of_tags(tags, Thing::Snapshot(snapshot));
        }
        let key = Key::of_name(snapshot.name.as_deref()?)?;
        Some(Self { tags: key.tags(), key, thing: Thing::Snapshot(snapshot) })
    }

    fn of_tags(tags: Tags, thing: Thing) -> Option<Self> {
        let scratch = tags.get(tag::ROLE).is_some_and(|role| role == "scratch");
        (scratch && tags.contains_key(PART)).then_some(())?;
        Some(Self { key: Key::of_tags(&tags)?, tags, thing })
    }

    pub(super) fn is(&self, part: &str) -> bool {
        self.tags.get(PART).is_some_and(|found| found == part)
    }

    /// Whether a disk of the capture is in it, and it is not merely made of such a part so that that can be read.
    pub(super) fn has_bytes(&self) -> bool {
        self.tags.contains_key(DISK) && !self.is(VOLUME) && !self.is(EXPORT)
    }

    pub(super) fn holds(&self, disk: &DiskName) -> bool {
        self.tags.get(DISK).is_some_and(|found| found == disk.as_str())
    }

    pub(super) fn id(&self) -> &str {
        match &self.thing {
            Thing::Image(image) => &image.id,
            Thing::Volume(volume) => &volume.id,
            Thing::Snapshot(snapshot) => &snapshot.id,
        }
    }

    /// When the service began to make it.
    pub(super) fn created(&self) -> Option<Timestamp> {
        let text = match &self.thing {
            Thing::Image(image) => image.property("created_at")?,
            Thing::Snapshot(snapshot) => snapshot.created_at.as_str(),
            Thing::Volume(_) => return None,
        };
        // Cinder leaves the zone out
        let zoned = if text.ends_with('Z') { text.to_owned() } else { format!("{text}Z") };
        zoned.parse().ok()
    }
}

/// Everything of captures at the site, of one capture if a key is given. Complete, or an error.
pub(super) async fn held(client: &Client, key: Option<&Key>) -> Result<Vec<Part>> {
    let mut filter = vec![("owner", client.project().await?)];
    if let Some(key) = key {
        filter.push((tag::RUN, key.run.clone()));
    }
    let images = Glance(client).list(&filter).await?;
    let mut parts: Vec<Part> = images.into_iter().filter_map(Part::of_image).collect();
    if client.has(Service::Volume).await? {
        let cinder = Cinder(client);
        let volumes = cinder.volumes().await?.into_iter();
        parts.extend(volumes.filter_map(|volume| Part::of_tags(volume.metadata.clone(), Thing::Volume(volume))));
        parts.extend(cinder.snapshots().await?.into_iter().filter_map(Part::of_snapshot));
    }
    parts.retain(|part| key.is_none_or(|key| part.key == *key));
    Ok(parts)
}

/// All captures at the site, each as one resource whatever it consists of.
pub(in crate::openstack) async fn owned(client: &Client) -> Result<Vec<Resource>> {
    let mut parts = held(client, None).await?;
    parts.sort_by(|a, b| a.key.cmp(&b.key));
    let mut all: Vec<Resource> = Vec::new();
    for part in parts {
        let id = part.key.name();
        let mut tags = part.tags;
        tags.retain(|key, _| ![PART, DISK, PINNED].contains(&key.as_str()));
        match all.last_mut().filter(|last| last.id == id) {
            Some(last) => last.tags.extend(tags),
            None => all.push(Resource { kind: "capture".to_owned(), id, role: Role::Scratch, tags }),
        }
    }
    Ok(all)
}

/// Deletes all of a capture: images, then volumes, then the snapshots that those were made of. Absent is success.
pub(super) async fn remove(client: &Client, key: &Key) -> Result<()> {
    let parts = held(client, Some(key)).await?;
    let operation = format!("cannot delete capture `{}`", key.name());
    for part in &parts {
        if let Thing::Image(image) = &part.thing {
            crash::point("openstack.release.image.before");
            Glance(client).delete(&image.id).await?;
            crash::point("openstack.release.image.after");
        }
    }
    let mut bound = Bound::new(&operation);
    for part in &parts {
        if let Thing::Volume(volume) = &part.thing {
            volume::remove(client, &volume.id, &mut bound).await?;
        }
    }
    for part in &parts {
        if let Thing::Snapshot(snapshot) = &part.thing {
            remove_snapshot(client, &snapshot.id, &mut bound).await?;
        }
    }
    Ok(())
}

async fn remove_snapshot(client: &Client, id: &str, bound: &mut Bound) -> Result<()> {
    let (cinder, mut attempts) = (Cinder(client), Attempts::default());
    while let Some(snapshot) = bound.look(|| cinder.snapshot(id)).await? {
        let (what, state) = (format!("snapshot {id}"), snapshot.status);
        if !["creating", "deleting", "unmanaging", "restoring"].contains(&state.as_str()) {
            attempts.next(bound, &what, &state)?;
            crash::point("openstack.release.snapshot.before");
            match &snapshot.group_snapshot_id {
                Some(group) => cinder.delete_group_snapshot(group).await?,
                None => cinder.delete_snapshot(id).await?,
            }
            crash::point("openstack.release.snapshot.after");
        }
        bound.pause(&format!("{what} is {state}")).await?;
    }
    Ok(())
}

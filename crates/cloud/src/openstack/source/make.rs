//! Making the parts of a capture: every create call carries the marks, every wait has a bound.
//!
//! Volumes first: drivers that ask Nova for the snapshot of an attached volume are refused while Nova makes an image
//! of the server.

use std::collections::BTreeMap;

use model::{DiskName, Error, Kind, Result, Tags, crash};
use serde_json::{Value, json};

use super::inventory::Seen;
use super::machine::{Disk, Place};
use super::parts::{self, Key, RECORD, ROOT, SNAPSHOT, Thing, tags_of};
use super::way::{Volumes, Way};
use crate::openstack::api::cinder::Cinder;
use crate::openstack::api::glance::{Glance, Status};
use crate::openstack::api::nova::Nova;
use crate::openstack::http::Client;
use crate::openstack::wait::Bound;

/// A capture that is being made.
pub(super) struct Making<'a> {
    pub(super) client: &'a Client,
    pub(super) seen: &'a Seen,
    pub(super) disks: &'a [Disk],
    /// The tags of its token.
    pub(super) tags: Tags,
    pub(super) key: Key,
}

impl Making<'_> {
    /// Makes everything and waits until it can be read.
    pub(super) async fn all(&self, way: &Way) -> Result<()> {
        self.idle_server().await?;
        match &way.volumes {
            Volumes::None => {}
            Volumes::Image => self.by_image().await?,
            Volumes::Group(group) => self.by_group(group).await?,
            Volumes::Each => self.each().await?,
        }
        if way.root {
            self.idle_server().await?;
            self.root().await?;
        }
        Ok(())
    }

    /// Disk by volume.
    fn volumes(&self) -> BTreeMap<&str, &DiskName> {
        self.disks
            .iter()
            .filter_map(|disk| match &disk.place {
                Place::Volume(id) => Some((id.as_str(), &disk.spec.name)),
                _ => None,
            })
            .collect()
    }

    /// Waits until the server has no task: Nova takes one at a time.
    async fn idle_server(&self) -> Result<()> {
        let (nova, id) = (Nova(self.client), &self.seen.record.id);
        let mut bound = Bound::new(format!("cannot begin with server {id}"));
        while let Some(server) = bound.look(|| nova.server(id)).await? {
            let Some(task) = server.task else { return Ok(()) };
            bound.pause(&format!("it is busy with the task `{task}`")).await?;
        }
        Err(bound.error(Kind::NotFound, "it is gone"))
    }

    async fn create_image(&self, tags: &Tags) -> Result<String> {
        let id = &self.seen.record.id;
        let action = json!({ "createImage": { "name": self.key.name(), "metadata": tags } });
        crash::point("openstack.capture.image.before");
        let answer = Nova(self.client).action(id, "make an image of", &action).await?;
        crash::point("openstack.capture.image.after");
        let image = answer.get("image_id").and_then(Value::as_str);
        image.map(str::to_owned).ok_or_else(|| {
            Error::new(Kind::Permanent, format!("cannot make an image of server {id}"))
                .because("Nova's answer has no id of an image")
        })
    }

    /// The root disk of an image-backed server.
    async fn root(&self) -> Result<()> {
        let root = self.disks.iter().find(|disk| disk.place == Place::Root);
        let Some(root) = root else { return Ok(()) };
        let image = self.create_image(&tags_of(&self.tags, ROOT, Some(&root.spec.name))).await?;
        let (glance, nova, server) = (Glance(self.client), Nova(self.client), &self.seen.record.id);
        let mut bound = Bound::of_size(format!("cannot make image {image} of server {server}"), root.spec.size);
        while let Some(seen) = bound.look(|| glance.show(&image)).await? {
            match seen.status {
                Status::Active => return Ok(()),
                Status::Queued | Status::Saving | Status::Uploading | Status::Importing => {}
                other => return Err(bound.error(Kind::Permanent, format!("the image became {other:?}").to_lowercase())),
            }
            // Nova deletes or forgets an image that it could not make, and tells nobody
            let idle = bound.look(|| nova.server(server)).await?.is_none_or(|server| server.task.is_none());
            bound.idle(idle, &format!("the image is {:?}", seen.status).to_lowercase()).await?;
        }
        Err(bound
            .error(Kind::Permanent, "Nova gave the image up")
            .hint("see `openstack server event list` and Nova's log"))
    }

    /// All volumes of a volume-backed server, by `createImage`.
    async fn by_image(&self) -> Result<()> {
        let image = self.create_image(&tags_of(&self.tags, RECORD, None)).await?;
        let mut bound = Bound::new(format!("cannot find the snapshots of image {image}"));
        let glance = Glance(self.client);
        let image = bound.look(|| glance.show(&image)).await?;
        let mapping = image.as_ref().and_then(|image| image.property("block_device_mapping")).unwrap_or("[]");
        let snapshots = snapshots_in(mapping)
            .ok_or_else(|| bound.error(Kind::Permanent, "its `block_device_mapping` is not understood"))?;
        self.adopt(&snapshots, "openstack.capture.tag").await
    }

    /// All volumes by one snapshot of their group. Its members are listed with the group snapshot from the start.
    async fn by_group(&self, group: &str) -> Result<()> {
        let cinder = Cinder(self.client);
        crash::point("openstack.capture.group.before");
        let made = cinder.create_group_snapshot(group, &self.key.name(), "made by replicate").await?;
        crash::point("openstack.capture.group.after");
        let held = parts::held(self.client, Some(&self.key)).await?;
        let of_group = |part: &parts::Part| match &part.thing {
            Thing::Snapshot(snapshot) if snapshot.group_snapshot_id.as_deref() == Some(&made.id) => {
                Some(snapshot.id.clone())
            }
            _ => None,
        };
        let snapshots: Vec<String> = held.iter().filter_map(of_group).collect();
        self.adopt(&snapshots, "openstack.capture.tag").await
    }

    /// Waits for snapshots that the service made in one go, and tags them. A volume that is no disk of the server (its
    /// group has it) stays without a disk.
    async fn adopt(&self, snapshots: &[String], point: &str) -> Result<()> {
        let volumes = self.volumes();
        for id in snapshots {
            let snapshot = self.await_snapshot(id).await?;
            let disk = volumes.get(snapshot.volume_id.as_str()).copied();
            crash::point(point);
            Cinder(self.client).tag_snapshot(id, &tags_of(&self.tags, SNAPSHOT, disk)).await?;
        }
        Ok(())
    }

    /// One snapshot after another, as close together as calls can be; then all are waited for.
    async fn each(&self) -> Result<()> {
        let mut made = Vec::new();
        for (volume, disk) in self.volumes() {
            let tags = tags_of(&self.tags, SNAPSHOT, Some(disk));
            crash::point("openstack.capture.snapshot.before");
            made.push(Cinder(self.client).create_snapshot(volume, &self.key.name(), &tags).await?.id);
            crash::point("openstack.capture.snapshot.after");
        }
        for id in made {
            self.await_snapshot(&id).await?;
        }
        Ok(())
    }

    async fn await_snapshot(&self, id: &str) -> Result<crate::openstack::api::cinder::Snapshot> {
        let cinder = Cinder(self.client);
        let mut bound = Bound::new(format!("cannot make snapshot {id}"));
        while let Some(snapshot) = bound.look(|| cinder.snapshot(id)).await? {
            match snapshot.status.as_str() {
                "available" => return Ok(snapshot),
                "creating" => bound.pause("it is still being made").await?,
                other => {
                    let why = format!("Cinder says `{other}` of the snapshot of volume {}", snapshot.volume_id);
                    return Err(bound.error(Kind::Permanent, why).hint("see `openstack volume message list`"));
                }
            }
        }
        Err(bound.error(Kind::Permanent, "Cinder gave it up").hint("see `openstack volume message list`"))
    }
}

/// The snapshots that the image of a volume-backed server names.
fn snapshots_in(mapping: &str) -> Option<Vec<String>> {
    let entries: Vec<Value> = serde_json::from_str(mapping).ok()?;
    let of_snapshot = |entry: &&Value| entry.get("source_type").and_then(Value::as_str) == Some("snapshot");
    let ids = entries.iter().filter(of_snapshot).map(|entry| entry.get("snapshot_id")?.as_str().map(str::to_owned));
    ids.collect()
}

//! The volumes of a restored server, made of its image: made here rather than by Nova, so that they have a name, our
//! marks from their first moment, and are found again by whoever comes after a crash.
//!
//! They are made whole for every restore. A volume that is kept per replica and patched with what changed would be
//! cheaper, but Cinder has no call that writes bytes: it takes an instance of ours in that cloud, to which the volume
//! is attached, and a daemon in it that writes. Where the daemon runs elsewhere, each version would be a server to
//! start, to reach and to pay; so a new version of an image is uploaded whole, and `plan` says so.

use model::{Kind, RestorePoint, Result, Role, Tags, Token, crash, tag};
use serde_json::{Value, json};

use super::super::api::cinder::{Cinder, NewVolume};
use super::super::http::Client;
use super::super::marks::{self, DISK, PART};
use super::super::restore::LaunchSpec;
use super::super::volume;
use super::super::wait::Bound;
use super::image::DiskImage;

const GIB: u64 = 1 << 30;

/// What a launch makes volumes for.
pub(super) struct Wanted<'a> {
    pub(super) client: &'a Client,
    pub(super) point: &'a RestorePoint,
    pub(super) spec: &'a LaunchSpec,
    pub(super) token: &'a Token,
    pub(super) role: Role,
}

impl Wanted<'_> {
    /// The disks as Nova wants them told: the boot disk first, from its image or a volume of it, the others as volumes.
    /// Those of a drill go with its server.
    pub(super) async fn devices(&self, disks: &[DiskImage], from_volume: bool) -> Result<Vec<Value>> {
        let drill = self.role == Role::Scratch;
        let mut devices = Vec::new();
        let mut made = Vec::new();
        for (index, disk) in disks.iter().enumerate() {
            if index == 0 && !from_volume {
                devices.push(json!({
                    "boot_index": 0, "uuid": disk.image, "source_type": "image", "destination_type": "local",
                    "delete_on_termination": true,
                }));
                continue;
            }
            let (volume, size) = self.volume(disk).await?;
            devices.push(json!({
                "boot_index": if index == 0 { 0 } else { -1 }, "uuid": volume, "source_type": "volume",
                "destination_type": "volume", "delete_on_termination": drill,
            }));
            made.push((volume, size));
        }
        // all of them are filled at once
        for (volume, size) in made {
            available(self.client, &volume, size).await?;
        }
        Ok(devices)
    }

    /// Begins to make the volume of a disk, or finds it.
    async fn volume(&self, disk: &DiskImage) -> Result<(String, u64)> {
        let bytes = self.point.disks.iter().find(|known| known.name == disk.name).map_or(0, |known| known.size);
        let mut tags = self.token.tags(self.role);
        tags.insert(DISK.to_owned(), disk.name.to_string());
        let cinder = Cinder(self.client);
        for known in cinder.volumes().await?.into_iter().filter(|volume| volume.metadata == tags) {
            // one that could not be filled never is, and one that goes with a server that was given up is no use
            if !["error", "deleting", "error_deleting"].contains(&known.status.as_str()) {
                return Ok((known.id, bytes));
            }
            delete(self.client, &known.id).await?;
        }
        let name = format!("{}-{}", self.token.server, disk.name);
        let new = NewVolume {
            name: &name,
            size: Some(bytes.div_ceil(GIB).max(1)),
            snapshot_id: None,
            image: Some(&disk.image),
            volume_type: self.spec.volume_type.as_deref(),
            metadata: &tags,
        };
        crash::point("openstack.volume-create.before");
        let volume = cinder.create_volume(&new).await?;
        crash::point("openstack.volume-create.after");
        Ok((volume.id, bytes))
    }
}

async fn available(client: &Client, id: &str, size: u64) -> Result<()> {
    let cinder = Cinder(client);
    let mut bound = Bound::of_size(format!("cannot fill volume {id}"), size);
    while let Some(volume) = bound.look(|| cinder.volume(id)).await? {
        match volume.status.as_str() {
            "available" | "in-use" => return Ok(()),
            "creating" | "downloading" => bound.pause(&format!("it is {}", volume.status)).await?,
            other => {
                let why = format!("Cinder says `{other}` of it");
                return Err(bound.error(Kind::Permanent, why).hint("see `openstack volume message list`"));
            }
        }
    }
    Err(bound.error(Kind::Permanent, "it is gone"))
}

/// Our volumes that belong to servers, with their tags; what a capture holds is the source's.
pub(in crate::openstack) async fn owned(client: &Client) -> Result<Vec<(String, Role, Tags)>> {
    let volumes = Cinder(client).volumes().await?.into_iter();
    let ours = volumes.filter(|volume| volume.metadata.contains_key(DISK) && !volume.metadata.contains_key(PART));
    Ok(ours
        .filter_map(|volume| marks::of_metadata(&volume.metadata).map(|(role, tags)| (volume.id, role, tags)))
        .collect())
}

/// Deletes what a drill's server left. The name is that of its run and step.
pub(super) async fn remove(client: &Client, name: &str) -> Result<()> {
    for (id, role, tags) in owned(client).await? {
        let part = |key: &str| tags.get(key).map_or("", String::as_str);
        if role == Role::Scratch && format!("replicate-{}-{}", part(tag::RUN), part(tag::STEP)) == name {
            delete(client, &id).await?;
        }
    }
    Ok(())
}

/// Deletes a volume and waits until it is gone. Absent is success.
pub(in crate::openstack) async fn delete(client: &Client, id: &str) -> Result<()> {
    volume::remove(client, id, &mut Bound::new(format!("cannot delete volume {id}"))).await
}

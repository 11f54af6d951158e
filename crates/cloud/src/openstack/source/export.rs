//! Reading a snapshot: Cinder hands out no bytes of one, so a volume is made of it, and an image of the volume.
//!
//! Each step looks for what an earlier process made and goes on from there. The volume goes as soon as its image is
//! whole; the image goes when the capture is released.

use model::{DiskName, Kind, Result, Tags, crash};

use super::parts::{self, EXPORT, Key, Part, Thing, VOLUME, tags_of};
use crate::openstack::api::cinder::{Cinder, NewVolume, Volume};
use crate::openstack::api::glance::{Glance, Image, Status};
use crate::openstack::http::Client;
use crate::openstack::volume;
use crate::openstack::wait::Bound;

/// qcow2 leaves out what is zero: an image of a volume that is hardly used would else have its whole size.
const FORMAT: &str = "qcow2";
/// What every service can do.
const PLAIN: &str = "raw";

/// A snapshot that is to be read.
pub(super) struct Export<'a> {
    pub(super) client: &'a Client,
    pub(super) key: &'a Key,
    /// The tags of the capture's token.
    pub(super) tags: &'a Tags,
    pub(super) disk: &'a DiskName,
    pub(super) snapshot: &'a str,
}

impl Export<'_> {
    /// The id of an image that has the snapshot's bytes.
    pub(super) async fn image(&self) -> Result<String> {
        let operation = format!("cannot read snapshot {}", self.snapshot);
        let snapshot = Cinder(self.client).snapshot(self.snapshot).await?;
        let mut bound = Bound::of_size(operation, snapshot.size << 30);
        let held = parts::held(self.client, Some(self.key)).await?;
        let mine = |part: &&Part| part.holds(self.disk);
        let volume = held.iter().filter(mine).find_map(|part| match &part.thing {
            Thing::Volume(volume) => Some(volume.clone()),
            _ => None,
        });
        for part in held.iter().filter(mine).filter(|part| part.is(EXPORT)) {
            let Thing::Image(image) = &part.thing else { continue };
            if image.status == Status::Active {
                return self.done(image.id.clone(), volume.as_ref(), &mut bound).await;
            }
            match &volume {
                Some(volume) if volume.status == "uploading" => {
                    self.await_image(&image.id, &volume.id, &mut bound).await?;
                    return self.done(image.id.clone(), Some(volume), &mut bound).await;
                }
                // nobody fills it any more
                _ => Glance(self.client).delete(&image.id).await?,
            }
        }
        let volume = match volume {
            Some(volume) => volume,
            None => self.make_volume().await?,
        };
        self.await_volume(&volume.id, &mut bound).await?;
        let image = self.make_image(&volume.id, &mut bound).await?;
        self.done(image, Some(&volume), &mut bound).await
    }

    /// The volume has done its duty.
    async fn done(&self, image: String, volume: Option<&Volume>, bound: &mut Bound) -> Result<String> {
        if let Some(volume) = volume {
            volume::remove(self.client, &volume.id, bound).await?;
        }
        Ok(image)
    }

    async fn make_volume(&self) -> Result<Volume> {
        let metadata = tags_of(self.tags, VOLUME, Some(self.disk));
        let (name, snapshot_id) = (self.key.name(), Some(self.snapshot));
        let (size, image, volume_type) = (None, None, None);
        let new = NewVolume { name: &name, size, snapshot_id, image, volume_type, metadata: &metadata };
        crash::point("openstack.export.volume.before");
        let volume = Cinder(self.client).create_volume(&new).await?;
        crash::point("openstack.export.volume.after");
        Ok(volume)
    }

    async fn await_volume(&self, id: &str, bound: &mut Bound) -> Result<()> {
        let cinder = Cinder(self.client);
        while let Some(volume) = bound.look(|| cinder.volume(id)).await? {
            match volume.status.as_str() {
                "available" => return Ok(()),
                "creating" | "downloading" | "uploading" => {}
                other => {
                    let why = format!("Cinder says `{other}` of volume {id} made of it");
                    volume::remove(self.client, id, bound).await?;
                    return Err(bound.error(Kind::Permanent, why).hint("see `openstack volume message list`"));
                }
            }
            bound.pause(&format!("volume {id} is {}", volume.status)).await?;
        }
        Err(bound.error(Kind::Permanent, format!("volume {id} made of it is gone")))
    }

    /// Has an image made of the volume. The image takes its properties, our tags among them, from the volume.
    async fn make_image(&self, volume: &str, bound: &mut Bound) -> Result<String> {
        let cinder = Cinder(self.client);
        cinder.set_image_metadata(volume, &tags_of(self.tags, EXPORT, Some(self.disk))).await?;
        crash::point("openstack.export.image.before");
        let image = match cinder.upload_to_image(volume, &self.key.name(), FORMAT).await {
            Err(error) if error.kind() == Kind::Invalid => {
                tracing::debug!(error = error.chain(), "the image is made as it is");
                cinder.upload_to_image(volume, &self.key.name(), PLAIN).await?
            }
            other => other?,
        };
        crash::point("openstack.export.image.after");
        self.await_image(&image, volume, bound).await?;
        Ok(image)
    }

    /// Watches image and volume: an upload may end without the image being told.
    async fn await_image(&self, image: &str, volume: &str, bound: &mut Bound) -> Result<()> {
        let (glance, cinder) = (Glance(self.client), Cinder(self.client));
        while let Some(Image { status, .. }) = bound.look(|| glance.show(image)).await? {
            match status {
                Status::Active => return Ok(()),
                Status::Queued | Status::Saving | Status::Uploading | Status::Importing => {}
                other => {
                    return Err(bound.error(Kind::Permanent, format!("image {image} became {other:?}").to_lowercase()));
                }
            }
            let uploading = bound.look(|| cinder.volume(volume)).await?.is_some_and(|v| v.status == "uploading");
            bound.idle(!uploading, &format!("image {image} is {status:?}").to_lowercase()).await?;
        }
        Err(bound
            .error(Kind::Permanent, format!("Cinder gave image {image} up"))
            .hint("see `openstack volume message list`"))
    }
}

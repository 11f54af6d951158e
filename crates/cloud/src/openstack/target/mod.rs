//! The target side of an OpenStack project: disks and images in Glance, instances at Nova.

mod file;
mod image;
mod instance;
mod look;
mod net;
mod qcow2;
mod stores;
mod stream;
#[cfg(test)]
mod tests;
mod upload;
mod volumes;

use std::fmt::Write as _;
use std::time::Duration;

use async_trait::async_trait;
use disk::{DiskRead, DiskWrite, Format};
use model::{DiskName, Error, ImageId, ImageOption, ImageOptions, InstanceId, Kind, RestorePoint, Result, Role, Token};

pub(super) use self::file::Scratch;
pub(super) use self::image::{DiskImage, carried, commit, disks_of, list_disks, referenced, show};
pub(super) use self::instance::{destroy, id_of};
pub use self::look::OPTIONS;
pub(super) use self::look::{all_tags, fits};
pub(super) use self::upload::{Copied, take_up};
pub(super) use self::volumes::{delete as delete_volume, owned as volumes};

use super::api::glance::{Glance, Image};
use super::{OpenStackSite, owned, read};
use crate::{Console, ImageDisk, Instance, LaunchOptions, ProbeState, Target, WriteStyle};

/// Bytes as people and Glance write them.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // a String takes everything
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl OpenStackSite {
    /// The Glance image that holds a disk of a registered image.
    async fn disk_image(&self, image: &ImageId, disk: &DiskName) -> Result<Image> {
        let boot = image::show(&self.client, image).await?;
        let Some(held) = disks_of(&boot).into_iter().find(|held| held.name == *disk) else {
            return Err(Error::new(Kind::NotFound, format!("cannot open disk {disk} of image {image}"))
                .because("it has no such disk"));
        };
        if held.image == boot.id {
            return Ok(boot);
        }
        Glance(&self.client).show(&held.image).await
    }
}

#[async_trait]
impl Target for OpenStackSite {
    fn image_options(&self) -> &'static [ImageOption] {
        OPTIONS
    }

    fn write_style(&self) -> WriteStyle {
        // Glance patches nothing
        WriteStyle { patches: false, request: None }
    }

    async fn create_disk(
        &self,
        disk: &DiskName,
        size: u64,
        base: Option<&ImageId>,
        token: &Token,
    ) -> Result<(ImageDisk, Box<dyn DiskWrite>)> {
        if size == 0 || !size.is_multiple_of(512) {
            return Err(Error::new(Kind::Invalid, format!("cannot create disk {disk}"))
                .because(format!("{size} bytes are no whole sectors")));
        }
        let base = match base {
            Some(image) => Some(self.open_image(image, disk).await?),
            None => None,
        };
        let upload = upload::Upload::begin(self, token, disk).await?;
        let made = ImageDisk { name: disk.clone(), id: upload.mark.clone() };
        let writer: Box<dyn DiskWrite> = match self.config.format {
            Format::Raw => Box::new(stream::StreamWriter::new(upload, size, None)),
            Format::Qcow2 => Box::new(qcow2::Qcow2Writer::new(upload, self.scratch(), size, token)),
        };
        // Glance patches nothing: what the base has and does not arrive is read there and sent again
        let writer = match base {
            Some(base) => disk::over(base, writer),
            None => writer,
        };
        Ok((made, writer))
    }

    async fn open_image(&self, image: &ImageId, disk: &DiskName) -> Result<Box<dyn DiskRead>> {
        let held = self.disk_image(image, disk).await?;
        read::open(&self.client, &held).await
    }

    async fn register(
        &self,
        disks: &[ImageDisk],
        point: &RestorePoint,
        options: &ImageOptions,
        role: Role,
        token: &Token,
    ) -> Result<ImageId> {
        image::register(&self.client, disks, point, options, role, token).await
    }

    async fn protect(&self, image: &ImageId, on: bool) -> Result<()> {
        look::set(&self.client, image, "protected", on, "openstack.image-protect").await
    }

    async fn hide(&self, image: &ImageId, hidden: bool) -> Result<()> {
        look::set(&self.client, image, "os_hidden", hidden, "openstack.image-hide").await
    }

    async fn images(&self) -> Result<Vec<(ImageId, RestorePoint)>> {
        Ok(image::replicas(&owned::images(self).await?))
    }

    async fn launch(&self, image: &ImageId, options: &LaunchOptions, token: &Token) -> Result<Instance> {
        instance::launch(self, image, options, token).await
    }

    async fn probe(&self, instance: &InstanceId) -> Result<ProbeState> {
        instance::probe(&self.client, instance).await
    }

    async fn console(&self, instance: &InstanceId) -> Result<Console> {
        Ok(Console { text: instance::console(&self.client, instance).await? })
    }

    async fn execute(&self, instance: &InstanceId, _command: &[String], _limit: Duration) -> Result<(i32, String)> {
        Err(Error::new(Kind::Invalid, format!("cannot run a command in instance {instance}"))
            .because("OpenStack offers no way into a guest")
            .hint("prove it by what its console says, or by a port that it opens"))
    }

    async fn destroy(&self, instance: &InstanceId) -> Result<()> {
        instance::destroy(&self.client, instance).await
    }
}

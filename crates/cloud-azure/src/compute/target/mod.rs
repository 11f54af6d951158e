//! The target side of a resource group: disks, images, instances.

mod image;
mod instance;
mod write;

use std::time::Duration;

use async_trait::async_trait;
use disk::{DiskRead, DiskWrite};
use model::{DiskName, Error, ImageId, ImageOption, ImageOptions, InstanceId, Kind, RestorePoint, Result, Role, Token};

pub(super) use self::image::{delete as delete_image, image_of};
pub(super) use self::instance::{destroy, id_of};

use super::arm::What;
use super::read::BlobDisk;
use super::{AzureSite, blob, marks};
use cloud::{Console, ImageDisk, Instance, LaunchOptions, ProbeState, Target, WriteStyle};

#[async_trait]
impl Target for AzureSite {
    fn image_options(&self) -> &'static [ImageOption] {
        cloud::AZURE_IMAGE_OPTIONS
    }

    fn write_style(&self) -> WriteStyle {
        // a managed disk can be written only while it is uploaded, as a whole
        WriteStyle { patches: false, request: Some(blob::PUT) }
    }

    async fn create_disk(
        &self,
        disk: &DiskName,
        size: u64,
        base: Option<&ImageId>,
        token: &Token,
    ) -> Result<(ImageDisk, Box<dyn DiskWrite>)> {
        let base = match base {
            Some(image) => Some(self.open_image(image, disk).await?),
            None => None,
        };
        let upload = write::begin(self, token, disk, size).await?;
        let made = ImageDisk { name: disk.clone(), id: upload.id().to_owned() };
        let writer: Box<dyn DiskWrite> = Box::new(upload);
        // what the base has and does not arrive is read there and sent again
        Ok((made, base.into_iter().fold(writer, |writer, base| disk::over(base, writer))))
    }

    async fn open_image(&self, image: &ImageId, disk: &DiskName) -> Result<Box<dyn DiskRead>> {
        let client = self.client()?;
        let (snapshot, size) = image::disk_of(client, image, disk).await?;
        let access = self.accesses.open(client, What::Snapshot, &snapshot, false).await?;
        let name = format!("disk {disk} of image {image} at {}", self.config.site);
        Ok(Box::new(BlobDisk { http: client.http.clone(), access, since: None, size, name }))
    }

    async fn register(
        &self,
        disks: &[ImageDisk],
        point: &RestorePoint,
        options: &ImageOptions,
        role: Role,
        token: &Token,
    ) -> Result<ImageId> {
        image::register(self, disks, point, options, role, token).await
    }

    async fn images(&self) -> Result<Vec<(ImageId, RestorePoint)>> {
        let mut found = Vec::new();
        for it in self.client()?.list(What::Snapshot).await? {
            let Some((Role::Replica, _)) = marks::ours(&it.tags) else { continue };
            match marks::point_in(&it.name, &it.tags) {
                None => {}
                Some(Ok(point)) => found.push((ImageId::new(it.name)?, point)),
                // one that is damaged must not hide the others
                Some(Err(error)) => tracing::warn!(image = it.name, error = error.chain(), "an image is passed over"),
            }
        }
        Ok(found)
    }

    async fn launch(&self, image: &ImageId, options: &LaunchOptions, token: &Token) -> Result<Instance> {
        instance::launch(self, image, options, token).await
    }

    async fn probe(&self, instance: &InstanceId) -> Result<ProbeState> {
        instance::probe(self.client()?, instance).await
    }

    async fn console(&self, instance: &InstanceId) -> Result<Console> {
        Ok(Console { text: instance::console(self.client()?, instance).await? })
    }

    async fn execute(&self, instance: &InstanceId, _command: &[String], _limit: Duration) -> Result<(i32, String)> {
        Err(Error::new(Kind::Invalid, format!("cannot run a command in instance {instance}"))
            .because("a machine made of disks as they are may have no agent of Azure's")
            .hint("prove it by what its console says"))
    }

    async fn destroy(&self, instance: &InstanceId) -> Result<()> {
        instance::destroy(self.client()?, instance).await
    }
}

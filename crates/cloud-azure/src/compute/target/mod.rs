//! The target side of a resource group: disks, images, instances.

mod copied;
mod flight;
mod gallery;
mod image;
mod instance;
mod keep;
mod record;
mod trusted;
mod write;

use std::time::Duration;

use async_trait::async_trait;
use disk::{DiskRead, DiskWrite, Progress};
use model::{
    DiskName, Error, ImageId, ImageOption, ImageOptions, InstanceId, Kind, PointDisk, Published, RestorePoint, Result,
    Role, Token,
};

pub(super) use self::gallery::{delete_orphan, is_orphan, versions};
pub(super) use self::image::{
    delete as delete_image, fits, generation, image_of, name as image_name, show, snapshot, tags,
};
pub(super) use self::instance::{destroy, id_of};
pub(super) use self::keep::keep;

use super::arm::What;
use super::{AzureSite, blob, marks};
use cloud::{Console, ImageDisk, Instance, LaunchOptions, ProbeState, Target, WriteStyle};

#[async_trait]
impl Target for AzureSite {
    fn image_options(&self) -> &'static [ImageOption] {
        cloud::AZURE_IMAGE_OPTIONS
    }

    fn write_style(&self) -> WriteStyle {
        WriteStyle { patches: true, request: Some(blob::PUT) }
    }

    async fn create_disk(
        &self,
        disk: &DiskName,
        size: u64,
        base: Option<&ImageId>,
        token: &Token,
    ) -> Result<(ImageDisk, Box<dyn DiskWrite>)> {
        let (mut over, mut under) = (None, None);
        if let Some(image) = base {
            let (_, known) = image::disk_of(self.client()?, image, disk).await?;
            if known.size <= size {
                over = Some(record::base(self, image, disk).await?);
            } else {
                under = Some(self.open_image(image, disk).await?);
            }
        }
        let upload = write::begin(self, token, disk, size, over).await?;
        let made = ImageDisk { name: disk.clone(), id: upload.id().to_owned() };
        let writer: Box<dyn DiskWrite> = Box::new(upload);
        // the disk was made smaller: what the base has and does not arrive is read there and sent again
        Ok((made, under.into_iter().fold(writer, |writer, base| disk::over(base, writer))))
    }

    async fn open_image(&self, image: &ImageId, disk: &DiskName) -> Result<Box<dyn DiskRead>> {
        Ok(Box::new(record::reader(self, image, disk).await?.0))
    }

    async fn check_written(&self, image: &ImageId, disk: &PointDisk, progress: &dyn Progress) -> Result<Option<u64>> {
        record::check(self, image, disk, progress).await
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

    async fn publish(&self, image: &ImageId, options: &ImageOptions) -> Result<Published> {
        gallery::publish(self, image, options).await
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

//! The role [`Target`]: disks become snapshots, snapshots an image, an image an instance.

use std::time::Duration;

use async_trait::async_trait;
use cloud::{Console, ImageDisk, Instance, LaunchOptions, ProbeState, Target, WriteStyle};
use disk::{DiskRead, DiskWrite, Progress};
use model::{
    DiskName, DiskRoot, Error, ImageId, ImageOption, ImageOptions, InstanceId, Kind, PointDisk, RestorePoint, Result,
    Role, Token, crash,
};

use super::blocks::{BLOCK, BlockReader};
use super::config::Clients;
use super::error::classify;
use super::patience::{flight, patiently};
use super::records::{Record, RecordWriter};
use super::snapshot::{self, GIB, Held};
use super::write::{Base, BlockWriter};
use super::{AwsSite, image, instance, launch, marks, options, records, relay};

/// Minutes for which the service waits for the next block.
const TIMEOUT: i32 = 4320;
/// The largest volume.
const LARGEST: u64 = 64 << 40;

/// The name of a disk's attempts: the same token has the same, and no other installation in the account.
fn mark(token: &Token, disk: &DiskName) -> String {
    format!("{}/{}/{disk}", token.owner, token.name())
}

impl AwsSite {
    /// A reader of a snapshot that holds an image's disk.
    async fn disk_of(&self, image: &ImageId, disk: &DiskName) -> Result<(Held, BlockReader)> {
        let clients = self.clients().await?;
        let held = image::disk(clients, image, disk).await?;
        let name = format!("disk {disk} of image {image} at {}", self.config.site);
        let reader = BlockReader::new(clients, &held.id, None, held.disk_size(), name);
        Ok((held, reader))
    }

    /// Whether a snapshot can be the parent of one that is to be written.
    fn may_be_parent(&self, held: &Held, size: u64) -> bool {
        let key = self.config.kms_key.as_ref().is_none_or(|key| held.key.as_ref() == Some(key));
        let whole = held.state == aws_sdk_ec2::types::SnapshotState::Completed;
        whole && key && held.disk_size() <= size && held.size <= size.next_multiple_of(GIB)
    }

    /// Begins a snapshot; answers its id and whether it is encrypted.
    async fn start(
        &self,
        clients: &Clients,
        disk: &DiskName,
        size: u64,
        parent: Option<&str>,
        token: &Token,
    ) -> Result<(String, bool)> {
        let mut tags = token.tags(Role::Scratch);
        tags.insert(marks::DISK.to_owned(), disk.to_string());
        tags.insert(marks::SIZE.to_owned(), size.to_string());
        tags.insert(marks::MARK.to_owned(), mark(token, disk));
        tags.extend(parent.map(|parent| (marks::PARENT.to_owned(), parent.to_owned())));
        let tags: Vec<_> =
            tags.iter().map(|(key, value)| aws_sdk_ebs::types::Tag::builder().key(key).value(value).build()).collect();
        // of this attempt alone: an emptied disk is another snapshot
        let once = format!("replicate-{:032x}", rand::random::<u128>());
        let operation = format!("cannot begin a snapshot for disk {disk}");
        crash::point("aws.snapshot-start.before");
        let (flight, what) = (flight(), format!("begin a snapshot for disk {disk}"));
        let answer = patiently(&flight, &what, || {
            let call = clients.ebs.start_snapshot().volume_size((size.div_ceil(GIB)) as i64).timeout(TIMEOUT);
            let call = call.client_token(&once).description(format!("replicate {}", mark(token, disk)));
            let call = call.set_tags(Some(tags.clone()));
            let call = match (parent, &self.config.kms_key) {
                (Some(parent), _) => call.parent_snapshot_id(parent),
                (None, Some(key)) => call.encrypted(true).kms_key_arn(key),
                (None, None) => call,
            };
            let (sent, operation) = (call.send(), &operation);
            async move { sent.await.map_err(|error| classify(operation, error)) }
        });
        let answer = answer.await?;
        crash::point("aws.snapshot-start.after");
        let id = answer.snapshot_id().unwrap_or_default().to_owned();
        Ok((id, answer.kms_key_arn().is_some()))
    }

    /// Reads back what the making of an image's disk has stored: what was put over its parent, or all that came with a
    /// copy and no earlier copy has. Answers the disk's root and the bytes read; none: it cannot be told what was stored.
    async fn stored(
        &self,
        image: &ImageId,
        disk: &PointDisk,
        progress: &dyn Progress,
    ) -> Result<Option<(DiskRoot, u64)>> {
        // the decorator does not repeat this one as a whole
        let (clients, flight) = (self.clients().await?, flight());
        let what = format!("look at disk {} of image {image}", disk.name);
        let held = patiently(&flight, &what, || image::disk(clients, image, &disk.name)).await?;
        if held.disk_size() != disk.size {
            return Err(Error::new(Kind::Damaged, format!("image {image} is damaged")).because(format!(
                "disk {} has {} bytes, not {}",
                disk.name,
                held.disk_size(),
                disk.size
            )));
        }
        let name = format!("disk {} of image {image} at {}", disk.name, self.config.site);
        let reader = |base| BlockReader::new(clients, &held.id, base, disk.size, name.clone());
        let path = |snapshot: &str| records::path(&self.config.scratch, snapshot);
        if relay::is_copy(&held) {
            let bases = patiently(&flight, &what, || relay::siblings(clients, &held)).await?;
            // it is copied once, and compared with what the next update brings for as long as it lives
            let out = || RecordWriter::create(path(&held.id), disk.size);
            for base in bases {
                let Some(record) = Record::open(path(&base), disk.size).await else { continue };
                match records::read(&reader(Some(base)), Some(&record), Some(out().await?), progress).await {
                    // they have nothing in common
                    Err(error) if matches!(error.kind(), Kind::Invalid | Kind::NotFound) => {}
                    read => return read.map(Some),
                }
            }
            return records::read(&reader(None), None, Some(out().await?), progress).await.map(Some);
        }
        let Some(parent) = held.tags.get(marks::PARENT) else { return Ok(None) };
        let size = match patiently(&flight, &what, || snapshot::show(clients, parent)).await {
            Err(error) if error.kind() == Kind::NotFound => return Ok(None),
            parent => parent?.disk_size(),
        };
        let Some(record) = Record::open(path(parent), size).await else { return Ok(None) };
        records::read(&reader(Some(parent.clone())), Some(&record), None, progress).await.map(Some)
    }
}

#[async_trait]
impl Target for AwsSite {
    fn image_options(&self) -> &'static [ImageOption] {
        cloud::AWS_IMAGE_OPTIONS
    }

    fn write_style(&self) -> WriteStyle {
        WriteStyle { patches: true, request: Some(BLOCK) }
    }

    async fn create_disk(
        &self,
        disk: &DiskName,
        size: u64,
        base: Option<&ImageId>,
        token: &Token,
    ) -> Result<(ImageDisk, Box<dyn DiskWrite>)> {
        let operation = || format!("cannot make disk {disk} of {size} bytes");
        if size == 0 || !size.is_multiple_of(512) || size > LARGEST {
            return Err(
                Error::new(Kind::Invalid, operation()).because("a volume has whole sectors, and at most 64 TiB")
            );
        }
        let clients = self.clients().await?;
        let made = ImageDisk { name: disk.clone(), id: mark(token, disk) };
        for left in attempts(clients, &made.id).await? {
            snapshot::delete(clients, &left.id).await?;
            records::forget(&self.config.scratch, &left.id);
        }
        let (mut parent, mut over, mut under) = (None, None, None);
        if let Some(image) = base {
            let (held, reader) = self.disk_of(image, disk).await?;
            if self.may_be_parent(&held, size) {
                let record = records::of(&reader, &records::path(&self.config.scratch, &held.id)).await?;
                over = Some((Base { record, blocks: held.size / BLOCK }, reader));
                parent = Some(held.id);
            } else {
                under = Some(reader);
            }
        }
        let (id, noisy) = self.start(clients, disk, size, parent.as_deref(), token).await?;
        let writer = BlockWriter::new(clients, &id, size, noisy, over, &self.config.scratch).await?;
        let writer: Box<dyn DiskWrite> = Box::new(writer);
        let writer = match under {
            // its parent cannot be had: what does not arrive is read there and written again
            Some(reader) => disk::over(Box::new(reader), writer),
            None => writer,
        };
        Ok((made, writer))
    }

    async fn open_image(&self, image: &ImageId, disk: &DiskName) -> Result<Box<dyn DiskRead>> {
        Ok(Box::new(self.disk_of(image, disk).await?.1))
    }

    async fn check_written(&self, image: &ImageId, disk: &PointDisk, progress: &dyn Progress) -> Result<Option<u64>> {
        let (root, read) = match self.stored(image, disk, progress).await? {
            Some(read) => read,
            None => return Ok(None),
        };
        if root == disk.root {
            return Ok(Some(read));
        }
        Err(Error::new(Kind::Damaged, format!("image {image} is damaged"))
            .because(format!("disk {} has root {root}, not {}", disk.name, disk.root)))
    }

    async fn register(
        &self,
        disks: &[ImageDisk],
        point: &RestorePoint,
        options: &ImageOptions,
        role: Role,
        token: &Token,
    ) -> Result<ImageId> {
        let clients = self.clients().await?;
        options::fits(options, &self.config)?;
        let mut written = Vec::new();
        for disk in disks {
            written.push(newest(clients, disk).await?);
        }
        options::have_key(&written, options)?;
        image::register(clients, &written, point, options, role, token).await
    }

    async fn images(&self) -> Result<Vec<(ImageId, RestorePoint)>> {
        image::replicas(self.clients().await?).await
    }

    async fn protect(&self, image: &ImageId, on: bool) -> Result<()> {
        options::protect(self.clients().await?, image.as_str(), on).await
    }

    async fn hide(&self, image: &ImageId, hidden: bool) -> Result<()> {
        options::hide(self.clients().await?, image.as_str(), hidden, self.clock.now()).await
    }

    async fn launch(&self, image: &ImageId, options: &LaunchOptions, token: &Token) -> Result<Instance> {
        launch::launch(self.clients().await?, &self.config.restore, image, options, token).await
    }

    async fn probe(&self, instance: &InstanceId) -> Result<ProbeState> {
        instance::probe(self.clients().await?, instance).await
    }

    async fn console(&self, instance: &InstanceId) -> Result<Console> {
        Ok(Console { text: instance::console(self.clients().await?, instance).await? })
    }

    async fn execute(&self, instance: &InstanceId, _command: &[String], _limit: Duration) -> Result<(i32, String)> {
        Err(Error::new(Kind::Invalid, format!("cannot run a command in instance {instance}"))
            .because("EC2 offers no way into a guest without an agent of AWS in it")
            .hint("prove it by what its console says, or by a port that it opens"))
    }

    async fn destroy(&self, instance: &InstanceId) -> Result<()> {
        instance::destroy(self.clients().await?, instance).await
    }
}

/// All attempts to write a disk.
async fn attempts(clients: &Clients, mark: &str) -> Result<Vec<Held>> {
    snapshot::list(clients, vec![marks::tagged(marks::MARK, Some(mark))]).await
}

/// The snapshot that a disk was written to: the newest, if an earlier attempt was not visible when it was to go.
async fn newest(clients: &Clients, disk: &ImageDisk) -> Result<Held> {
    let mut found = attempts(clients, &disk.id).await?;
    found.retain(|held| held.state == aws_sdk_ec2::types::SnapshotState::Completed);
    found.sort_by_key(|held| held.started);
    found.pop().ok_or_else(|| {
        Error::new(Kind::NotFound, format!("cannot find disk {}", disk.name)).because("it was never written to its end")
    })
}

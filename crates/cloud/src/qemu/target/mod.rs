//! The target side of a QEMU host: disks are files, an image is a folder of them with its restore point, an instance
//! is a detached QEMU process with a folder of its own.
//!
//! Nothing is remembered elsewhere: what there is stands in the folders, with tags, so that a lost ledger can be
//! rebuilt and leftovers of dead runs can be found.

mod accelerator;
mod firmware;
mod image;
mod instance;
mod layout;
mod machine;
mod process;
mod site;

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use disk::{DiskRead, DiskWrite, Format, Progress};
use model::{
    DiskName, Error, ImageId, ImageOption, ImageOptions, InstanceId, Kind, PointDisk, RestorePoint, Result, Role, Tags,
    Token,
};

pub use accelerator::Accelerator;
pub use image::IMAGE_OPTIONS;
use layout::Layout;

use super::QemuSite;
use super::agent::Agent;
use crate::{Console, ImageDisk, Instance, LaunchOptions, ProbeState, Resource, Target};

/// The most of a console that is read: a guest must not fill our memory. Boots write some 50 KiB.
const CONSOLE: u64 = 8 << 20;

/// How images and instances are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetConfig {
    /// Format of restored disks.
    pub format: Format,
    /// How instances run.
    pub accelerator: Accelerator,
    /// Kernel that KVM is tried with before it is trusted; default: the newest readable one in `/boot`.
    pub probe_kernel: Option<PathBuf>,
    /// Bridge that restored servers are joined to; without it they get QEMU's user network.
    pub bridge: Option<String>,
    /// The program.
    pub program: PathBuf,
}

impl Default for TargetConfig {
    fn default() -> Self {
        Self {
            format: Format::Qcow2,
            accelerator: Accelerator::Auto,
            probe_kernel: None,
            bridge: None,
            program: PathBuf::from("qemu-system-x86_64"),
        }
    }
}

/// Runs file work where it may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::new(Kind::Permanent, "cannot finish file work").because(error))?
}

impl QemuSite {
    fn layout(&self) -> Result<Layout> {
        Layout::new(&self.config().disks)
    }

    /// The instance's folder, if there is such an instance.
    fn known(&self, instance: &InstanceId) -> Result<(PathBuf, instance::InstanceRecord)> {
        let layout = self.layout()?;
        let record = instance::load(&layout, instance)?;
        Ok((instance::folder(&layout, instance), record))
    }

    /// Everything that the target side has made here.
    pub(super) async fn target_owned(&self) -> Result<Vec<Resource>> {
        let layout = self.layout()?;
        blocking(move || {
            let resource =
                |kind: &str, id: String, role, tags: Tags| Resource { kind: kind.to_owned(), id, role, tags };
            let mut all = Vec::new();
            for (name, tags) in layout.scratches()? {
                all.push(resource("disk", name, Role::Scratch, tags));
            }
            for (id, record) in image::list(&layout)? {
                all.push(resource("image", id.to_string(), record.role, record.tags));
            }
            for (id, record) in instance::list(&layout)? {
                all.push(resource("instance", id.to_string(), record.role, record.tags));
            }
            Ok(all)
        })
        .await
    }

    /// Deletes what the target side has made; `false` if it is not of a kind that the target side makes.
    pub(super) async fn target_delete(&self, resource: &Resource) -> Result<bool> {
        let layout = self.layout()?;
        match resource.kind.as_str() {
            "disk" => {
                if resource.id.contains('/') || resource.id.starts_with('.') {
                    return Err(Error::new(Kind::Invalid, format!("cannot delete disk {}", resource.id))
                        .because("that is no scratch folder of this site"));
                }
                let folder = layout.making().join(&resource.id);
                blocking(move || {
                    model::crash::point("qemu.scratch-delete.before");
                    layout::remove_tree(&folder)?;
                    model::crash::point("qemu.scratch-delete.after");
                    Ok(())
                })
                .await?;
            }
            "image" => {
                let (id, tags) = (ImageId::new(resource.id.clone())?, resource.tags.clone());
                blocking(move || image::delete(&layout, &id, &tags)).await?;
            }
            "instance" => self.destroy(&InstanceId::new(resource.id.clone())?).await?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

#[async_trait]
impl Target for QemuSite {
    fn image_options(&self) -> &'static [ImageOption] {
        IMAGE_OPTIONS
    }

    async fn create_disk(
        &self,
        disk: &DiskName,
        size: u64,
        base: Option<&ImageId>,
        token: &Token,
    ) -> Result<(ImageDisk, Box<dyn DiskWrite>)> {
        let (layout, format) = (self.layout()?, self.config().target.format);
        image::create_disk(&layout, format, disk, size, base, token).await
    }

    async fn open_image(&self, image: &ImageId, disk: &DiskName) -> Result<Box<dyn DiskRead>> {
        image::open(&self.layout()?, image, disk).await
    }

    async fn check_written(&self, image: &ImageId, disk: &PointDisk, progress: &dyn Progress) -> Result<Option<u64>> {
        image::check_written(&self.layout()?, image, disk, progress).await
    }

    async fn register(
        &self,
        disks: &[ImageDisk],
        point: &RestorePoint,
        options: &ImageOptions,
        role: Role,
        token: &Token,
    ) -> Result<ImageId> {
        let (layout, disks, point, token) = (self.layout()?, disks.to_vec(), point.clone(), token.clone());
        let options = options.clone();
        blocking(move || image::register(&layout, &disks, &point, &options, role, &token)).await
    }

    async fn images(&self) -> Result<Vec<(ImageId, RestorePoint)>> {
        let layout = self.layout()?;
        blocking(move || {
            let all = image::list(&layout)?.into_iter();
            Ok(all.filter(|(_, record)| record.role == Role::Replica).map(|(id, record)| (id, record.point)).collect())
        })
        .await
    }

    async fn launch(&self, image: &ImageId, options: &LaunchOptions, token: &Token) -> Result<Instance> {
        let (layout, config) = (self.layout()?, self.config().target.clone());
        let id = instance::id_of(token)?;
        let accelerator = accelerator::choose(&config, layout.root()).await?;
        let sockets =
            if options.ephemeral { None } else { site::claim(&self.config().sockets, &options.name, &id).await? };
        let record = {
            let (layout, config, image) = (layout.clone(), config.clone(), image.clone());
            let (options, token) = (options.clone(), token.clone());
            blocking(move || instance::prepare(&layout, &config, accelerator, &image, &options, sockets, &token))
                .await?
        };
        site::publish(&id, &record, &instance::folder(&layout, &id))?;
        instance::start(&layout, &config, &id, &record).await
    }

    async fn probe(&self, instance: &InstanceId) -> Result<ProbeState> {
        let (folder, record) = self.known(instance)?;
        let console = self.console(instance).await?.text;
        let said_so = record.role == Role::Scratch && console.contains("Kernel panic - not syncing");
        if process::find(&folder)?.is_empty() {
            return Ok(ProbeState { running: false, agent: false, panicked: said_so });
        }
        let status = match instance::status(&folder).await {
            Ok(status) => status,
            // it may have ended between the look and the question
            Err(_) if process::find(&folder)?.is_empty() => String::new(),
            Err(error) => return Err(error.within(format!("cannot probe instance {instance}"))),
        };
        let running = status == "running";
        let agent = running && self.agent(instance, Duration::from_secs(3)).await.is_ok();
        Ok(ProbeState { running, agent, panicked: status == "guest-panicked" || said_so })
    }

    async fn console(&self, instance: &InstanceId) -> Result<Console> {
        let (folder, _) = self.known(instance)?;
        let path = folder.join(machine::CONSOLE);
        let bytes = blocking(move || read_start(&path, CONSOLE)).await?;
        Ok(Console { text: String::from_utf8_lossy(&bytes).into_owned() })
    }

    async fn execute(&self, instance: &InstanceId, command: &[String], limit: Duration) -> Result<(i32, String)> {
        let mut agent = self.agent(instance, limit.min(Duration::from_secs(10))).await?;
        agent.run(command, limit).await
    }

    async fn destroy(&self, instance: &InstanceId) -> Result<()> {
        let layout = self.layout()?;
        let folder = instance::folder(&layout, instance);
        if !folder.exists() {
            return Ok(());
        }
        let record = instance::load(&layout, instance).ok();
        instance::stop(&folder).await?;
        if let Some(sockets) = record.as_ref().and_then(|record| record.sockets.as_ref()) {
            site::withdraw(sockets, instance)?;
        }
        let tags = record.map(|record| record.tags).unwrap_or_default();
        blocking(move || layout.discard(&folder, &tags, "instance")).await
    }
}

impl QemuSite {
    /// Connects to the guest agent of an instance.
    async fn agent(&self, instance: &InstanceId, limit: Duration) -> Result<Agent> {
        let (folder, record) = self.known(instance)?;
        let short = instance::Short::of(&folder)?;
        let path = record.sockets.map_or_else(|| short.socket(machine::AGENT), |sockets| sockets.agent);
        let agent = Agent::connect(&path, limit).await;
        agent.map_err(|error| error.within(format!("cannot reach the guest agent of instance {instance}")))
    }
}

/// The beginning of a file; nothing if there is no such file yet.
fn read_start(path: &std::path::Path, most: u64) -> Result<Vec<u8>> {
    use std::io::Read as _;
    let operation = |error| Error::io(format!("cannot read {}", path.display()), error);
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(operation(error)),
    };
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes).map_err(operation)?;
    Ok(bytes)
}

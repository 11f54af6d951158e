//! The roles that a site can play. A role that a site does not have is `None`, so the planner refuses before
//! anything is made.

use std::time::Duration;

use async_trait::async_trait;
use disk::{DiskRead, DiskWrite, Progress};
use jiff::Timestamp;
use model::{
    CaptureId, Consistency, Cursor, DiskName, Error, ImageId, ImageOption, ImageOptions, InstanceId, Kind, MachineSpec,
    PointDisk, Published, RestorePoint, Result, Role, ServerName, SiteName, Tags, Token,
};
use serde::{Deserialize, Serialize};

use crate::{Relay, Switch};

/// Whether a server runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Power {
    /// It runs.
    On,
    /// It is powered off; it can be captured from its disks.
    Off,
}

/// A server that a site has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Its name at the site.
    pub name: ServerName,
    /// Whether it runs.
    pub power: Power,
    /// What boots it, disks and tags included.
    pub machine: MachineSpec,
}

/// Commands that run on the daemon's host around the freeze, for `application` consistency.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Command and arguments, run before the freeze; a failure ends the capture.
    pub before: Vec<String>,
    /// Command and arguments, run after the thaw, in every path.
    pub after: Vec<String>,
}

/// How consistent a capture is asked to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consistent {
    /// The level wanted. What the guest cannot give is degraded with a warning, unless `required`.
    pub level: Consistency,
    /// Fail rather than degrade.
    pub required: bool,
    /// Hooks of `application`.
    pub hook: Hook,
    /// The longest that the guest may stay frozen.
    pub freeze_limit: Duration,
}

/// What to capture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureRequest {
    /// Which server.
    pub server: ServerName,
    /// How consistent.
    pub consistent: Consistent,
    /// The cursor of the last committed point, if there is one: the capture keeps what it needs to serve changes
    /// since then.
    pub since: Option<Cursor>,
    /// Marks everything that the capture makes. The same token finds the same capture again.
    pub token: Token,
}

/// One disk of a capture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturedDisk {
    /// Its name.
    pub name: DiskName,
    /// Size in bytes at the captured instant.
    pub size: u64,
    /// Whether changes since the request's cursor are known exactly. If not, [`Source::open`] reads everything.
    pub incremental: bool,
    /// Why not, for the report: `the bitmap is inconsistent: the guest was killed`.
    pub reason: Option<String>,
}

/// One instant of all disks of a server, pinned at the source. Plain data: it is journalled, and a later process
/// opens it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capture {
    /// Its id, from the token.
    pub id: CaptureId,
    /// Of which server.
    pub server: ServerName,
    /// The instant.
    pub taken_at: Timestamp,
    /// The level that was reached.
    pub consistency: Consistency,
    /// What the person should know: degraded consistency, lost bitmaps.
    pub warnings: Vec<String>,
    /// The machine at that instant.
    pub machine: MachineSpec,
    /// Its disks, in boot order.
    pub disks: Vec<CapturedDisk>,
    /// What the next capture can be incremental against, once this one is committed.
    pub cursor: Option<Cursor>,
    /// The cursor that it is incremental against.
    pub since: Option<Cursor>,
    /// What the provider needs to find it again.
    pub handle: serde_json::Value,
}

/// How a capture ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Every destination has it: its cursor is the new base, the old one goes.
    Committed,
    /// It was given up: changes since the old cursor must be in the next capture.
    Abandoned,
}

/// A site that servers are captured from.
#[async_trait]
pub trait Source: Send + Sync {
    /// All servers of the site.
    async fn servers(&self) -> Result<Vec<Server>>;

    /// One server.
    async fn describe(&self, server: &ServerName) -> Result<Server>;

    /// Pins one instant of all disks. Repeating it with the same token returns the same capture if it still holds,
    /// and fails with [`model::Kind::Damaged`] if it was lost (the caller then abandons it and takes a new one).
    /// Whatever fails, the guest is thawed and runs on.
    async fn capture(&self, request: &CaptureRequest) -> Result<Capture>;

    /// Opens a disk of a capture: only changes since the capture's base if `incremental` is asked and the disk has
    /// it, everything otherwise. Works in a later process too.
    async fn open(&self, capture: &Capture, disk: &DiskName, incremental: bool) -> Result<Box<dyn DiskRead>>;

    /// The running servers whose guests cannot be frozen for a capture, each with the reason, as far as it can be told
    /// without a capture. None: it cannot.
    async fn unfrozen(&self) -> Result<Option<Vec<(ServerName, String)>>> {
        Ok(None)
    }

    /// Ends a capture and removes what it left at the source. Absent is success: repeating it is harmless.
    async fn release(&self, capture: &Capture, outcome: Outcome) -> Result<()>;
}

/// A disk that was written for an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageDisk {
    /// Its name in the machine.
    pub name: DiskName,
    /// The provider's id of it (QEMU: the path).
    pub id: String,
}

/// Which network a launched instance gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// The site's own.
    Site,
    /// None that reaches anything: a drill must not talk to production. Probed ports are reachable from the
    /// daemon's host only.
    Isolated,
}

/// How to launch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchOptions {
    /// Name of the instance.
    pub name: ServerName,
    /// Its network.
    pub network: Network,
    /// Guest TCP ports that must be reachable from the daemon's host, for probes.
    pub ports: Vec<u16>,
    /// Throw away everything that the instance writes (the image stays untouched): drills. An ephemeral instance has
    /// the role `scratch`, so that a sweep destroys what a dead drill left; a restored server has the role
    /// `replica`, so that no sweep ever touches it.
    pub ephemeral: bool,
}

/// A launched instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// Guest port -> address on the daemon's host that reaches it.
    pub ports: Vec<(u16, std::net::SocketAddr)>,
}

/// What is seen of an instance from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeState {
    /// Whether the machine runs (a guest that powered off or whose process ended does not).
    pub running: bool,
    /// Whether the guest agent answers.
    pub agent: bool,
    /// Whether the provider saw the guest panic (QEMU: `GUEST_PANICKED`).
    pub panicked: bool,
}

/// Console output of an instance from its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Console {
    /// The text so far, invalid UTF-8 replaced.
    pub text: String,
}

/// How a destination takes disks: what a plan needs to tell bytes and calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteStyle {
    /// Whether a disk on a base costs only what is written to it. If not, every disk is sent whole.
    pub patches: bool,
    /// Bytes that one request carries; none: one stream a disk.
    pub request: Option<u64>,
}

impl Default for WriteStyle {
    fn default() -> Self {
        Self { patches: true, request: Some(1 << 20) }
    }
}

/// A site that images and instances are made at.
#[async_trait]
pub trait Target: Send + Sync {
    /// What can be asked of images here.
    fn image_options(&self) -> &'static [ImageOption] {
        &[]
    }

    /// How disks are taken here.
    fn write_style(&self) -> WriteStyle {
        WriteStyle::default()
    }

    /// Makes a disk and opens it for writing. With `base`, it begins with the bytes of that image's disk. The same
    /// token gives the same (emptied) disk. The disk is scratch until [`register`](Self::register).
    async fn create_disk(
        &self,
        disk: &DiskName,
        size: u64,
        base: Option<&ImageId>,
        token: &Token,
    ) -> Result<(ImageDisk, Box<dyn DiskWrite>)>;

    /// Opens a disk of an image for reading everything.
    async fn open_image(&self, image: &ImageId, disk: &DiskName) -> Result<Box<dyn DiskRead>>;

    /// Reads back what the making of an image's disk has stored, and compares it with the disk's root: at a cost in proportion to the
    /// change, where the rest is shared with the image that it was based on. Returns the bytes read; `None` if the provider cannot tell
    /// what it stored, and everything must be read.
    async fn check_written(
        &self,
        _image: &ImageId,
        _disk: &PointDisk,
        _progress: &dyn Progress,
    ) -> Result<Option<u64>> {
        Ok(None)
    }

    /// Makes an image of written disks: the commit point. The image carries the whole restore point, so that a lost
    /// ledger can be rebuilt from it, and `role`: `replica` for what lasts, `scratch` for the image of a drill, which
    /// goes with its run. Options that are not in [`image_options`](Self::image_options) are refused. The same token
    /// gives the same image.
    async fn register(
        &self,
        disks: &[ImageDisk],
        point: &RestorePoint,
        options: &ImageOptions,
        role: Role,
        token: &Token,
    ) -> Result<ImageId>;

    /// All images of role `replica` with our tags, hidden ones too, each with the point it carries.
    async fn images(&self) -> Result<Vec<(ImageId, RestorePoint)>>;

    /// Takes an image's protection against deletion off, or puts it on again. Repeating it is harmless.
    /// [`Kind::Denied`]: it is immutable until a time that has not come.
    async fn protect(&self, image: &ImageId, on: bool) -> Result<()> {
        match on {
            true => Err(without("protect", image, ImageOption::Protected)),
            false => Ok(()),
        }
    }

    /// Takes an image off people's lists, or puts it back; it can be read and launched all the same. Repeating it is
    /// harmless.
    async fn hide(&self, image: &ImageId, hidden: bool) -> Result<()> {
        match hidden {
            true => Err(without("hide", image, ImageOption::HideOlder)),
            false => Ok(()),
        }
    }

    /// Publishes an image in the gallery that the options name, or looks how far that is and mends what has failed. It waits for no
    /// region. Repeating it is harmless; whatever is published goes when the image is deleted, before it.
    async fn publish(&self, image: &ImageId, _options: &ImageOptions) -> Result<Published> {
        Err(without("publish", image, ImageOption::Gallery))
    }

    /// Starts an instance of an image. The same token gives the same instance.
    async fn launch(&self, image: &ImageId, options: &LaunchOptions, token: &Token) -> Result<Instance>;

    /// Looks at an instance.
    async fn probe(&self, instance: &InstanceId) -> Result<ProbeState>;

    /// Reads the console so far.
    async fn console(&self, instance: &InstanceId) -> Result<Console>;

    /// Runs a command in the guest through its agent and returns exit code and output.
    async fn execute(&self, instance: &InstanceId, command: &[String], limit: Duration) -> Result<(i32, String)>;

    /// Stops an instance and deletes it. Absent is success.
    async fn destroy(&self, instance: &InstanceId) -> Result<()>;
}

fn without(verb: &str, image: &ImageId, option: ImageOption) -> Error {
    Error::new(Kind::Invalid, format!("cannot {verb} image {image}"))
        .because(format!("the site does not have `{}`", option.key()))
}

/// Something at a site that carries our tags.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resource {
    /// `capture`, `disk`, `image`, `instance`, ...
    pub kind: String,
    /// The provider's id.
    pub id: String,
    /// Scratch or replica.
    pub role: Role,
    /// All its tags.
    pub tags: Tags,
}

/// A site.
#[async_trait]
pub trait Cloud: Send + Sync {
    /// Its name in the configuration.
    fn site(&self) -> &SiteName;

    /// Its provider: `qemu`, `memory`, `aws`.
    fn kind(&self) -> &'static str;

    /// Captures servers, if it can.
    fn source(&self) -> Option<&dyn Source> {
        None
    }

    /// Switches servers off and on, if it can.
    fn switch(&self) -> Option<&dyn Switch> {
        None
    }

    /// Takes images, if it can.
    fn target(&self) -> Option<&dyn Target> {
        None
    }

    /// Copies images from other sites of its provider, if it can.
    fn relay(&self) -> Option<&dyn Relay> {
        None
    }

    /// How long lists may leave out what was just made.
    fn lag(&self) -> Duration {
        Duration::ZERO
    }

    /// Everything at the site that carries our tags, of every owner. Complete, or an error; what is younger than
    /// [`lag`](Self::lag) may be missing.
    async fn owned(&self) -> Result<Vec<Resource>>;

    /// Deletes a resource. Absent is success. A frozen guest, a filter or a bitmap left by a dead run counts as a
    /// resource of kind `capture`; deleting it abandons the capture.
    async fn delete(&self, resource: &Resource) -> Result<()>;
}

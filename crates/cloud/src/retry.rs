//! The one retry decorator: nothing below it retries, nothing above it needs to.
//!
//! A call that fails with a retryable kind is made again, after a wait that doubles and is spread by chance, until the
//! operation's one deadline. Calls are safe to repeat because everything made takes a token. How many calls are in
//! flight at a site adapts ([`Flight`]).
//!
//! A *look* is cut off at its deadline. A call with an *effect* never is, because a capture that is dropped half-way
//! could leave a guest frozen: the deadline only decides whether there is another attempt, and providers bound every
//! request that they send.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use disk::{DiskRead, DiskWrite, Progress};
use model::{
    DiskName, Error, ExtentList, ImageId, ImageOption, ImageOptions, InstanceId, Kind, Patience, PointDisk, Published,
    RestorePoint, Result, Role, ServerName, SiteName, Token,
};
use tokio::time::Instant;

use crate::{
    Capture, CaptureRequest, Cloud, Console, Flight, ImageDisk, Instance, LaunchOptions, Outcome, ProbeState, Relay,
    Resource, Server, Source, Stop, Switch, Target, WriteStyle,
};

/// What may be done to a call that takes too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    /// It has an effect: it ends by itself.
    Effect,
    /// It only looks: it may be dropped.
    Look,
    /// A look at something that changes by the second: an old answer is of no use.
    Glance,
}

/// How long to try, and how much at once.
#[derive(Debug, Clone)]
pub struct RetryOptions {
    /// How long and how patiently to try an operation.
    pub patience: Patience,
    /// The deadline of looks at a running instance, which are repeated anyhow.
    pub glance: Duration,
    /// How many calls may be in flight at first.
    pub in_flight: usize,
    /// How many they may become where nobody throttles.
    pub most_in_flight: usize,
}

impl Default for RetryOptions {
    fn default() -> Self {
        Self { patience: Patience::default(), glance: Duration::from_secs(30), in_flight: 32, most_in_flight: 128 }
    }
}

struct Shared {
    options: RetryOptions,
    /// Seed of the jitter; no secret hangs on it.
    state: AtomicU64,
    flight: Flight,
}

/// A cloud whose calls are retried.
pub struct Retrying {
    inner: Arc<dyn Cloud>,
    shared: Arc<Shared>,
}

impl Retrying {
    /// Wraps a cloud.
    pub fn new(inner: Arc<dyn Cloud>, options: RetryOptions) -> Self {
        let seed = inner
            .site()
            .as_str()
            .bytes()
            .fold(0x9e37_79b9_7f4a_7c15, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        let flight = Flight::new(options.in_flight, options.most_in_flight);
        let shared = Shared { options, state: AtomicU64::new(seed), flight };
        Self { inner, shared: Arc::new(shared) }
    }

    fn inner_source(&self) -> Result<&dyn Source> {
        self.inner.source().ok_or_else(|| self.absent("captures nothing"))
    }

    fn inner_target(&self) -> Result<&dyn Target> {
        self.inner.target().ok_or_else(|| self.absent("takes no images"))
    }

    fn inner_switch(&self) -> Result<&dyn Switch> {
        self.inner.switch().ok_or_else(|| self.absent("switches no servers"))
    }

    fn absent(&self, why: &str) -> Error {
        Error::new(Kind::Invalid, format!("cannot use site {}", self.inner.site())).because(format!("it {why}"))
    }
}

impl Shared {
    /// A number from 0 to 1 that spreads waits.
    fn chance(&self) -> f64 {
        let mut x = self.state.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x ^= x >> 31;
        (x >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Makes a call until it succeeds, fails for good, or the deadline has passed.
    async fn retry<T, F, Fut>(&self, kind: Call, name: &str, call: F) -> Result<T>
    where
        F: Fn() -> Fut + Send + Sync,
        Fut: Future<Output = Result<T>> + Send,
    {
        let started = Instant::now();
        let patience = self.options.patience;
        let limit = if kind == Call::Glance { self.options.glance } else { patience.deadline };
        let mut attempts = Patience { deadline: limit, ..patience }.attempts();
        loop {
            let turn = self.flight.turn().await;
            let answer = match kind {
                Call::Effect => Ok(call().await),
                Call::Look | Call::Glance => tokio::time::timeout_at(started + limit, call()).await,
            };
            let Ok(answer) = answer else {
                let operation = format!("cannot {name} within {} s", limit.as_secs());
                return Err(Error::new(Kind::Transient, operation).because("no answer came"));
            };
            let paced = turn.end(&answer);
            let error = match answer {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let why = error.chain();
            let wait = attempts.failed_by(error, name, started.elapsed(), self.chance())?;
            tracing::debug!(operation = name, attempts = attempts.failed(), ?wait, error = why, "retrying");
            if !paced {
                tokio::time::sleep(wait).await;
            }
        }
    }
}

#[async_trait]
impl Cloud for Retrying {
    fn site(&self) -> &SiteName {
        self.inner.site()
    }

    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    fn source(&self) -> Option<&dyn Source> {
        self.inner.source().map(|_| self as &dyn Source)
    }

    fn switch(&self) -> Option<&dyn Switch> {
        self.inner.switch().map(|_| self as &dyn Switch)
    }

    fn target(&self) -> Option<&dyn Target> {
        self.inner.target().map(|_| self as &dyn Target)
    }

    fn relay(&self) -> Option<&dyn Relay> {
        self.inner.relay().map(|_| self as &dyn Relay)
    }

    fn lag(&self) -> Duration {
        self.inner.lag()
    }

    async fn owned(&self) -> Result<Vec<Resource>> {
        self.shared.retry(Call::Look, "list what is owned", || self.inner.owned()).await
    }

    async fn delete(&self, resource: &Resource) -> Result<()> {
        self.shared.retry(Call::Effect, "delete a resource", || self.inner.delete(resource)).await
    }
}

#[async_trait]
impl Source for Retrying {
    async fn servers(&self) -> Result<Vec<Server>> {
        let source = self.inner_source()?;
        self.shared.retry(Call::Look, "list servers", || source.servers()).await
    }

    async fn describe(&self, server: &ServerName) -> Result<Server> {
        let source = self.inner_source()?;
        self.shared.retry(Call::Look, "describe a server", || source.describe(server)).await
    }

    async fn capture(&self, request: &CaptureRequest) -> Result<Capture> {
        let source = self.inner_source()?;
        self.shared.retry(Call::Effect, "capture a server", || source.capture(request)).await
    }

    async fn open(&self, capture: &Capture, disk: &DiskName, incremental: bool) -> Result<Box<dyn DiskRead>> {
        let source = self.inner_source()?;
        // an effect: where a service has no call that reads a snapshot, a volume and an image of it are made first
        let reader =
            self.shared.retry(Call::Effect, "open a captured disk", || source.open(capture, disk, incremental)).await?;
        Ok(Box::new(RetryingReader { inner: reader, shared: self.shared.clone() }))
    }

    async fn unfrozen(&self) -> Result<Option<Vec<(ServerName, String)>>> {
        let source = self.inner_source()?;
        self.shared.retry(Call::Look, "see whose guests can be frozen", || source.unfrozen()).await
    }

    async fn release(&self, capture: &Capture, outcome: Outcome) -> Result<()> {
        let source = self.inner_source()?;
        self.shared.retry(Call::Effect, "release a capture", || source.release(capture, outcome)).await
    }
}

#[async_trait]
impl Switch for Retrying {
    async fn stop(&self, server: &ServerName, stop: Stop) -> Result<()> {
        let switch = self.inner_switch()?;
        self.shared.retry(Call::Effect, "stop a server", || switch.stop(server, stop)).await
    }

    async fn start(&self, server: &ServerName) -> Result<()> {
        let switch = self.inner_switch()?;
        self.shared.retry(Call::Effect, "start a server", || switch.start(server)).await
    }
}

#[async_trait]
impl Target for Retrying {
    fn image_options(&self) -> &'static [ImageOption] {
        self.inner.target().map_or(&[], |target| target.image_options())
    }

    fn write_style(&self) -> WriteStyle {
        self.inner.target().map(|target| target.write_style()).unwrap_or_default()
    }

    async fn create_disk(
        &self,
        disk: &DiskName,
        size: u64,
        base: Option<&ImageId>,
        token: &Token,
    ) -> Result<(ImageDisk, Box<dyn DiskWrite>)> {
        let target = self.inner_target()?;
        // writes go through as they are: a writer owns its order, and retries inside
        self.shared.retry(Call::Effect, "create a disk", || target.create_disk(disk, size, base, token)).await
    }

    async fn open_image(&self, image: &ImageId, disk: &DiskName) -> Result<Box<dyn DiskRead>> {
        let target = self.inner_target()?;
        let reader = self.shared.retry(Call::Look, "open an image", || target.open_image(image, disk)).await?;
        Ok(Box::new(RetryingReader { inner: reader, shared: self.shared.clone() }))
    }

    async fn check_written(&self, image: &ImageId, disk: &PointDisk, progress: &dyn Progress) -> Result<Option<u64>> {
        // reads all that was written, so no deadline fits it as a whole
        self.inner_target()?.check_written(image, disk, progress).await
    }

    async fn register(
        &self,
        disks: &[ImageDisk],
        point: &RestorePoint,
        options: &ImageOptions,
        role: Role,
        token: &Token,
    ) -> Result<ImageId> {
        let target = self.inner_target()?;
        let register = || target.register(disks, point, options, role, token);
        self.shared.retry(Call::Effect, "register an image", register).await
    }

    async fn protect(&self, image: &ImageId, on: bool) -> Result<()> {
        let target = self.inner_target()?;
        self.shared.retry(Call::Effect, "protect an image", || target.protect(image, on)).await
    }

    async fn hide(&self, image: &ImageId, hidden: bool) -> Result<()> {
        let target = self.inner_target()?;
        self.shared.retry(Call::Effect, "hide an image", || target.hide(image, hidden)).await
    }

    async fn publish(&self, image: &ImageId, options: &ImageOptions) -> Result<Published> {
        let target = self.inner_target()?;
        self.shared.retry(Call::Effect, "publish an image", || target.publish(image, options)).await
    }

    async fn images(&self) -> Result<Vec<(ImageId, RestorePoint)>> {
        let target = self.inner_target()?;
        self.shared.retry(Call::Look, "list images", || target.images()).await
    }

    async fn launch(&self, image: &ImageId, options: &LaunchOptions, token: &Token) -> Result<Instance> {
        let target = self.inner_target()?;
        self.shared.retry(Call::Effect, "launch an instance", || target.launch(image, options, token)).await
    }

    async fn probe(&self, instance: &InstanceId) -> Result<ProbeState> {
        let target = self.inner_target()?;
        self.shared.retry(Call::Glance, "probe an instance", || target.probe(instance)).await
    }

    async fn console(&self, instance: &InstanceId) -> Result<Console> {
        let target = self.inner_target()?;
        self.shared.retry(Call::Glance, "read a console", || target.console(instance)).await
    }

    async fn execute(&self, instance: &InstanceId, command: &[String], limit: Duration) -> Result<(i32, String)> {
        // not repeated: a command has effects that no token guards
        self.inner_target()?.execute(instance, command, limit).await
    }

    async fn destroy(&self, instance: &InstanceId) -> Result<()> {
        let target = self.inner_target()?;
        self.shared.retry(Call::Effect, "destroy an instance", || target.destroy(instance)).await
    }
}

/// A reader whose calls are retried.
struct RetryingReader {
    inner: Box<dyn DiskRead>,
    shared: Arc<Shared>,
}

#[async_trait]
impl DiskRead for RetryingReader {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    async fn extents(&self, from: u64) -> Result<ExtentList> {
        self.shared.retry(Call::Look, "list extents", || self.inner.extents(from)).await
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<bytes::Bytes> {
        self.shared.retry(Call::Look, "read a disk", || self.inner.read_at(offset, len)).await
    }

    async fn conclude(&self) -> Result<()> {
        self.shared.retry(Call::Look, "compare the sum of a disk", || self.inner.conclude()).await
    }

    fn is_incremental(&self) -> bool {
        self.inner.is_incremental()
    }

    fn lists_holes(&self) -> bool {
        self.inner.lists_holes()
    }

    fn in_flight(&self) -> u64 {
        self.inner.in_flight()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

mod relay;
#[cfg(test)]
mod tests;

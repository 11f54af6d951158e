//! Everything that has an effect is done twice at real services: the first answer of each call is lost, so that it is made
//! again with the same token. A run, a relay, a restore and a drill must all the same make everything once, and the judge
//! counts.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use cloud::{
    Capture, CaptureRequest, Cloud, Console, CopyRequest, CopyState, ImageCopy, ImageDisk, Instance, LaunchOptions,
    Outcome, Peer, ProbeState, Relay, Resource, Route, Server, Source, Target, WriteStyle,
};
use disk::{DiskRead, DiskWrite};
use engine::{Choice, DrillRequest};
use model::{
    DiskName, Error, ImageId, ImageOption, ImageOptions, InstanceId, Kind, RestorePoint, Result, Role, ServerName,
    SiteName, Token, Via,
};

use super::house::{House, ONE, SERVER, Setup, TWO, at, in_vault, policy, site_name};
use super::lab::{Thing, lab};

const PROJECT: &str = "twice";
const CLOUDS: [&str; 2] = ["twice", "twice-two"];

/// A site whose first answer to every call with an effect gets lost.
struct Lossy {
    inner: Arc<dyn Cloud>,
    lost: Mutex<BTreeSet<String>>,
}

impl Lossy {
    fn under(inner: Arc<dyn Cloud>) -> Arc<dyn Cloud> {
        Arc::new(Self { inner, lost: Mutex::default() })
    }

    /// Gives an answer, if the same call got one before.
    fn deliver<T>(&self, call: String, answer: Result<T>) -> Result<T> {
        let answer = answer?;
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        match lost.insert(call.clone()) {
            true => {
                println!("{}: the answer to {call} is lost", self.inner.site());
                Err(Error::new(Kind::Transient, format!("cannot hear the answer to {call}")))
            }
            false => Ok(answer),
        }
    }

    fn source_of(&self) -> &dyn Source {
        self.inner.source().unwrap()
    }

    fn target_of(&self) -> &dyn Target {
        self.inner.target().unwrap()
    }

    fn relay_of(&self) -> &dyn Relay {
        self.inner.relay().unwrap()
    }
}

fn of(call: &str, token: &Token) -> String {
    format!("{call} of {} {}", token.run, token.step)
}

#[async_trait]
impl Source for Lossy {
    async fn servers(&self) -> Result<Vec<Server>> {
        self.source_of().servers().await
    }

    async fn describe(&self, server: &ServerName) -> Result<Server> {
        self.source_of().describe(server).await
    }

    async fn capture(&self, request: &CaptureRequest) -> Result<Capture> {
        self.deliver(of("capture", &request.token), self.source_of().capture(request).await)
    }

    async fn open(&self, capture: &Capture, disk: &DiskName, incremental: bool) -> Result<Box<dyn DiskRead>> {
        self.source_of().open(capture, disk, incremental).await
    }

    async fn release(&self, capture: &Capture, outcome: Outcome) -> Result<()> {
        self.deliver(format!("release of {}", capture.id), self.source_of().release(capture, outcome).await)
    }
}

#[async_trait]
impl Target for Lossy {
    fn image_options(&self) -> &'static [ImageOption] {
        self.target_of().image_options()
    }

    fn write_style(&self) -> WriteStyle {
        self.target_of().write_style()
    }

    async fn create_disk(
        &self,
        disk: &DiskName,
        size: u64,
        base: Option<&ImageId>,
        token: &Token,
    ) -> Result<(ImageDisk, Box<dyn DiskWrite>)> {
        self.deliver(of("create_disk", token), self.target_of().create_disk(disk, size, base, token).await)
    }

    async fn open_image(&self, image: &ImageId, disk: &DiskName) -> Result<Box<dyn DiskRead>> {
        self.target_of().open_image(image, disk).await
    }

    async fn register(
        &self,
        disks: &[ImageDisk],
        point: &RestorePoint,
        options: &ImageOptions,
        role: Role,
        token: &Token,
    ) -> Result<ImageId> {
        self.deliver(of("register", token), self.target_of().register(disks, point, options, role, token).await)
    }

    async fn images(&self) -> Result<Vec<(ImageId, RestorePoint)>> {
        self.target_of().images().await
    }

    async fn launch(&self, image: &ImageId, options: &LaunchOptions, token: &Token) -> Result<Instance> {
        self.deliver(of("launch", token), self.target_of().launch(image, options, token).await)
    }

    async fn probe(&self, instance: &InstanceId) -> Result<ProbeState> {
        self.target_of().probe(instance).await
    }

    async fn console(&self, instance: &InstanceId) -> Result<Console> {
        self.target_of().console(instance).await
    }

    async fn execute(&self, instance: &InstanceId, command: &[String], limit: Duration) -> Result<(i32, String)> {
        self.target_of().execute(instance, command, limit).await
    }

    async fn destroy(&self, instance: &InstanceId) -> Result<()> {
        self.deliver(format!("destroy of {instance}"), self.target_of().destroy(instance).await)
    }
}

#[async_trait]
impl Relay for Lossy {
    async fn peer(&self) -> Result<Peer> {
        self.relay_of().peer().await
    }

    async fn route(&self, from: &Peer) -> Result<Route> {
        self.relay_of().route(from).await
    }

    async fn copy(&self, request: &CopyRequest) -> Result<ImageCopy> {
        self.deliver(of("copy", &request.token), self.relay_of().copy(request).await)
    }

    async fn state(&self, copy: &ImageCopy) -> Result<CopyState> {
        self.relay_of().state(copy).await
    }

    async fn commit(&self, copy: &ImageCopy, request: &CopyRequest, role: Role) -> Result<ImageId> {
        self.deliver(of("commit", &request.token), self.relay_of().commit(copy, request, role).await)
    }
}

#[async_trait]
impl Cloud for Lossy {
    fn site(&self) -> &SiteName {
        self.inner.site()
    }

    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    fn source(&self) -> Option<&dyn Source> {
        Some(self)
    }

    fn target(&self) -> Option<&dyn Target> {
        Some(self)
    }

    fn relay(&self) -> Option<&dyn Relay> {
        Some(self)
    }

    async fn owned(&self) -> Result<Vec<Resource>> {
        self.inner.owned().await
    }

    async fn delete(&self, resource: &Resource) -> Result<()> {
        self.deliver(format!("delete of {} {}", resource.kind, resource.id), self.inner.delete(resource).await)
    }
}

/// How many of each kind there are in each region.
fn counted(new: &BTreeSet<Thing>) -> Vec<(String, String, usize)> {
    let kinds: BTreeSet<(&str, &str)> = new.iter().map(|thing| (thing.cloud.as_str(), thing.kind.as_str())).collect();
    let count = |cloud: &str, kind: &str| new.iter().filter(|thing| thing.cloud == cloud && thing.kind == kind).count();
    kinds.into_iter().map(|(cloud, kind)| (cloud.to_owned(), kind.to_owned(), count(cloud, kind))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_twice_is_there_once() {
    let Some(lab) = lab() else { return };
    lab.clean(PROJECT);
    let image = lab.guest_image(PROJECT);
    let made = lab.hands(&["serve", PROJECT, SERVER, "image", &image]);
    lab.console(PROJECT, &made, "REPLICATE-READY");
    lab.hands(&["stop", PROJECT, &made]);
    let before = lab.judge(&CLOUDS);
    let mut web = policy("web", ONE, SERVER, &[in_vault(), at(ONE), at(TWO)]);
    web.replicate[2].via = Via::Relay;
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup { under: Lossy::under, ..vec![web].into() };
    let house = House::open(&lab.clouds(), folder.path(), PROJECT, setup).await;

    let there = |what: &str, expected: &[(&str, &str, usize)]| {
        let expected: Vec<_> = expected.iter().map(|(c, k, n)| ((*c).to_owned(), (*k).to_owned(), *n)).collect();
        assert_eq!(counted(&lab.judge(&CLOUDS).since(&before)), expected, "after {what}");
    };
    let images = [(CLOUDS[0], "images", 1), (CLOUDS[1], "images", 1)];
    let run = house.run("web").await;
    assert!(run.destinations.iter().any(|place| place.via == Via::Relay), "{run:#?}");
    there("a run", &images);

    let server = ServerName::new(SERVER).unwrap();
    let choice = Choice { server, at: None, point: None, from: Some(in_vault()), via: Via::Auto };
    let drill = house.engine.drill(&DrillRequest { choice, site: Some(site_name(TWO)) }).await.unwrap();
    assert!(drill.passed, "{drill:#?}");
    there("a drill", &images);

    let restored = house.restore(SERVER, at(TWO), ONE).await;
    let one = CLOUDS[0];
    there("a restore", &[(one, "images", 2), (one, "ports", 1), (one, "servers", 1), images[1]]);
    house.target(ONE).destroy(&restored.instance.unwrap()).await.unwrap();
    there("the end of its server", &[(one, "images", 2), images[1]]);
    lab.clean(PROJECT);
}

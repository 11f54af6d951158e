//! Copies of images from another region of the same account, which AWS makes by `CopyImage`.
//!
//! The name of the image is what makes a copy one: EC2 refuses a second image of that name, visible or not, and a token
//! of the service would still answer with a copy that was cancelled long ago. Image and snapshots are scratch with all
//! tags from the call on that makes them; the tag of the image alone is the commit.
//!
//! AWS tells no sums of what it copied, so the copy's blocks are read back where they arrived: those that an earlier
//! copy of the same disk does not have.

use async_trait::async_trait;
use aws_sdk_ec2::types as ec2;
use cloud::{CopyRequest, CopyState, ImageCopy, Peer, Relay, Route};
use model::{Error, ImageId, Kind, Result, Role, Tags, crash, tag};

use super::config::{AwsConfig, Clients};
use super::error::classify;
use super::image::{self, Image};
use super::snapshot::{self, Held};
use super::wait::Bound;
use super::{AwsSite, marks, options};

/// Our word for the way.
const METHOD: &str = "copy-image";

/// Whether a snapshot came here as a copy.
pub(super) fn is_copy(held: &Held) -> bool {
    held.tags.contains_key(marks::COPY)
}

/// The snapshots that replicas of the same disk have here, the newest first: what a copy may share blocks with.
pub(super) async fn siblings(clients: &Clients, held: &Held) -> Result<Vec<String>> {
    let same =
        [tag::OWNER, tag::SERVER, marks::DISK].map(|key| marks::tagged(key, held.tags.get(key).map(String::as_str)));
    let mut found = snapshot::list(clients, same.to_vec()).await?;
    let replica = |it: &Held| it.tags.get(tag::ROLE).is_some_and(|role| role == "replica");
    found.retain(|it| replica(it) && it.id != held.id && it.state == ec2::SnapshotState::Completed);
    found.sort_by_key(|it| std::cmp::Reverse(it.started));
    Ok(found.into_iter().map(|it| it.id).collect())
}

/// Refuses a key that the region cannot use: AWS would notice it only after the copy.
fn refuse_foreign_key(config: &AwsConfig) -> Result<()> {
    match config.kms_key.as_ref().and_then(|key| Some((key, key.split(':').nth(3)?))) {
        Some((key, region)) if region != config.region => {
            Err(Error::new(Kind::Invalid, format!("cannot copy images to site {}", config.site))
                .because(format!("its key {key} is of another region than {}", config.region))
                .hint("name a key of the site's own region as `kms-key`"))
        }
        _ => Ok(()),
    }
}

fn operation(request: &CopyRequest) -> String {
    format!("cannot copy image {} from region {}", request.image, request.from.region)
}

impl AwsSite {
    /// Lets AWS begin the copy.
    async fn begin(&self, clients: &Clients, request: &CopyRequest, name: &str) -> Result<String> {
        let (mut tags, _) = marks::carry(&request.point)?;
        tags.extend(request.options.tags.clone());
        tags.extend(request.token.tags(Role::Scratch));
        let mut parts = request.token.tags(Role::Scratch);
        parts.insert(marks::COPY.to_owned(), format!("{}/{}", request.from.region, request.image));
        let point = &request.point;
        let call = clients.ec2.copy_image().source_region(&request.from.region).source_image_id(request.image.as_str());
        // a call that the network sends twice is one; another attempt is told apart by the name
        let call = call.name(name).client_token(format!("replicate-{:032x}", rand::random::<u128>()));
        let call = call.description(format!("replicate: server {} at {}", point.server, point.taken_at));
        let call = call.tag_specifications(marks::specification(ec2::ResourceType::Image, &tags));
        let call = call.tag_specifications(marks::specification(ec2::ResourceType::Snapshot, &parts));
        let call = match &self.config.kms_key {
            Some(key) => call.encrypted(true).kms_key_id(key),
            None => call,
        };
        crash::point("aws.image-copy.before");
        let answer = call.send().await;
        crash::point("aws.image-copy.after");
        let answer = image::registered(answer.map_err(|error| classify(operation(request), error)), name)?;
        Ok(answer.image_id().unwrap_or_default().to_owned())
    }
}

/// Waits until EC2 finds a copy that was just begun: from then on whoever looks for leftovers finds it, too.
async fn visible(clients: &Clients, id: &str) -> Result<Image> {
    let mut bound = Bound::new(format!("cannot wait for image {id}"));
    loop {
        match image::show(clients, id).await {
            Ok(image) => return Ok(image),
            Err(error) if error.kind() == Kind::NotFound => bound.pause("it is not visible").await?,
            Err(error) => drop(bound.bear::<()>(Err(error)).await?),
        }
    }
}

/// Names the disks of a copy's snapshots, as they were not in the call that made all of them. Repeating it is harmless.
async fn name_disks(clients: &Clients, image: &Image, request: &CopyRequest) -> Result<()> {
    let (_, more) = marks::carry(&request.point)?;
    for (at, disk) in request.point.disks.iter().enumerate() {
        let device = image::device(at);
        let missing = || {
            Error::new(Kind::Invalid, operation(request))
                .because(format!("it has no device for disk {}", disk.name))
                .hint("it was not made by this program: write it by blocks")
        };
        let found = image.devices.iter().find(|(name, _)| Some(name) == device.as_ref());
        let (_, snapshot) = found.ok_or_else(missing)?;
        let mut tags = if at == 0 { more.clone() } else { Tags::new() };
        tags.insert(marks::DISK.to_owned(), disk.name.to_string());
        tags.insert(marks::SIZE.to_owned(), disk.size.to_string());
        snapshot::tag(clients, vec![snapshot.clone()], &tags).await?;
    }
    Ok(())
}

/// Without a key of its own a site's encrypted copies have the account's key, which opens for nobody else.
fn refuse_sharing(config: &AwsConfig, held: &[Held], request: &CopyRequest) -> Result<()> {
    if config.kms_key.is_some() || request.options.share.is_empty() || held.iter().all(|it| it.key.is_none()) {
        return Ok(());
    }
    Err(Error::new(Kind::Invalid, operation(request))
        .because("it is encrypted with the account's own key, and is to be shared")
        .hint(format!("name a key that both accounts may use as `kms-key` of site {}", config.site)))
}

#[async_trait]
impl Relay for AwsSite {
    async fn peer(&self) -> Result<Peer> {
        let find = || async {
            let clients = self.clients().await?;
            let operation = || format!("cannot find out whose keys site {} has", self.config.site);
            let answer =
                clients.sts.get_caller_identity().send().await.map_err(|error| classify(operation(), error))?;
            // arn:aws-cn:sts::123456789012:assumed-role/...
            let partition = answer.arn().and_then(|arn| arn.split(':').nth(1)).unwrap_or("aws");
            let account = answer
                .account()
                .ok_or_else(|| Error::new(Kind::Permanent, operation()).because("the answer names no account"))?;
            let region = self.config.region.clone();
            Ok(Peer { provider: "aws".to_owned(), domain: format!("{partition}/{account}"), region })
        };
        self.peer.get_or_try_init(find).await.cloned()
    }

    async fn route(&self, from: &Peer) -> Result<Route> {
        if !self.peer().await?.can_reach(from) {
            return Err(Error::new(Kind::Invalid, format!("cannot copy images from region {}", from.region))
                .because("it is not another region of the same account and partition"));
        }
        refuse_foreign_key(&self.config)?;
        // snapshots of which an earlier one was copied are copied as what changed, as long as the key is the same
        Ok(Route { through_us: false, incremental: true, method: METHOD.to_owned() })
    }

    async fn copy(&self, request: &CopyRequest) -> Result<ImageCopy> {
        options::fits(&request.options, &self.config)?;
        refuse_foreign_key(&self.config)?;
        let clients = self.clients().await?;
        let name = image::name_of(&request.options, &request.token)?;
        let known = image::by_name(clients, &name, &request.token, &[Role::Scratch, Role::Replica]).await?;
        let id = match known {
            Some(id) => id,
            None => self.begin(clients, request, &name).await?,
        };
        let image = visible(clients, &id).await?;
        let handle = serde_json::to_value(request)
            .map_err(|error| Error::new(Kind::Permanent, format!("cannot note copy {id}")).because(error))?;
        let copy =
            ImageCopy { image: ImageId::new(id)?, of: request.image.clone(), from: request.from.clone(), handle };
        if let Some(held) = snapshots(clients, &image).await? {
            refuse_sharing(&self.config, &held, request)?;
        }
        Ok(copy)
    }

    async fn state(&self, copy: &ImageCopy) -> Result<CopyState> {
        let clients = self.clients().await?;
        let request: CopyRequest = serde_json::from_value(copy.handle.clone())
            .map_err(|error| Error::new(Kind::Damaged, format!("cannot find copy {}", copy.image)).because(error))?;
        let image = image::show(clients, copy.image.as_str()).await?;
        let gone = |why: String| Error::new(Kind::Permanent, operation(&request)).because(why);
        match &image.state {
            ec2::ImageState::Pending | ec2::ImageState::Available => {}
            ec2::ImageState::Deregistered => {
                return Err(Error::new(Kind::NotFound, operation(&request)).because("the copy was deregistered"));
            }
            state => return Err(gone(format!("EC2 says `{state}` of image {}: {}", image.id, image.reason))),
        }
        let total = request.point.disks.iter().map(|disk| disk.size).sum();
        let Some(held) = snapshots(clients, &image).await? else {
            return Ok(CopyState::Running { done: 0, total: Some(total) });
        };
        if let Some(bad) = held.iter().find(|it| it.state == ec2::SnapshotState::Error) {
            return Err(gone(format!("EC2 says `error` of snapshot {}: {}", bad.id, bad.message)));
        }
        let whole = |it: &Held| it.state == ec2::SnapshotState::Completed;
        let done = image.state == ec2::ImageState::Available && held.iter().all(whole);
        let named = |it: &Held| it.tags.contains_key(marks::DISK) && it.tags.contains_key(marks::SIZE);
        if done && held.iter().all(named) {
            let moved = held.iter().map(|it| it.full.unwrap_or(it.size)).sum();
            return Ok(CopyState::Done { moved, proof: None });
        }
        if !held.iter().all(named) {
            // seen late, like all tags
            name_disks(clients, &image, &request).await?;
        }
        let percent = held.iter().map(|it| it.progress.min(100)).min().unwrap_or_default();
        Ok(CopyState::Running { done: total / 100 * percent, total: Some(total) })
    }

    async fn commit(&self, copy: &ImageCopy, request: &CopyRequest, role: Role) -> Result<ImageId> {
        let clients = self.clients().await?;
        let image = image::show(clients, copy.image.as_str()).await?;
        if request.options.encryption.is_some() {
            let unseen = || Error::new(Kind::NotYetVisible, format!("cannot see the snapshots of image {}", image.id));
            let held = snapshots(clients, &image).await?.ok_or_else(unseen)?;
            options::have_key(&held, &request.options)?;
        }
        snapshot::tag(clients, image.snapshots.clone(), &image::role_tag(role)).await?;
        options::apply(clients, &image.id, &image.snapshots, &request.options).await?;
        crash::point("aws.image-copy.commit");
        snapshot::tag(clients, vec![image.id.clone()], &image::role_tag(role)).await?;
        let mut bound = Bound::new(format!("cannot commit image {}", image.id));
        loop {
            let looked = image::show(clients, &image.id).await;
            let Some(seen) = bound.bear(looked).await? else { continue };
            if marks::ours(&seen.tags).is_some_and(|(known, _)| known == role) {
                return Ok(copy.image.clone());
            }
            bound.pause("its tags are not visible").await?;
        }
    }
}

/// The snapshots of a copy, as far as all are there to be seen.
async fn snapshots(clients: &Clients, image: &Image) -> Result<Option<Vec<Held>>> {
    let mut found = Vec::new();
    for id in &image.snapshots {
        match snapshot::show(clients, id).await {
            Ok(held) => found.push(held),
            Err(error) if error.kind() == Kind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok((!found.is_empty()).then_some(found))
}

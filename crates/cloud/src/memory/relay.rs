//! The memory cloud as the destination of copies: clouds that were joined copy from each other, at the pace of the
//! looks at them, through a limited number of slots.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use model::{DiskName, Error, ImageId, Kind, Result, Role, tag};

use super::bytes::SparseDisk;
use super::fault::{Entered, Promise};
use super::state::{Copying, Image, Inner};
use super::target::{IMAGE_OPTIONS, dress, tags};
use super::{MemoryCloud, locked};
use crate::{CopyRequest, CopyState, ImageCopy, Peer, Relay, Route};

impl MemoryCloud {
    /// Joins clouds: each can then copy from every other.
    pub fn join(clouds: &[&MemoryCloud]) {
        for cloud in clouds {
            for other in clouds.iter().filter(|other| other.site != cloud.site) {
                locked(&cloud.state.links).insert(other.site.to_string(), Arc::downgrade(&other.state));
            }
        }
    }

    fn standing(&self) -> Peer {
        let word = "memory".to_owned();
        Peer { provider: word.clone(), domain: word, region: self.site.to_string() }
    }

    /// The bytes of the image that is to be copied, as they are now.
    fn origin(&self, request: &CopyRequest) -> Result<BTreeMap<DiskName, SparseDisk>> {
        let operation = || format!("cannot copy image {} from {}", request.image, request.from.region);
        let link = locked(&self.state.links).get(&request.from.region).and_then(std::sync::Weak::upgrade);
        let state =
            link.ok_or_else(|| Error::new(Kind::Invalid, operation()).because("nothing can be copied from there"))?;
        let mut inner = locked(&state.inner);
        let image = inner.image(&request.image).map_err(|error| error.within(operation()))?;
        match &image.copying {
            None => Ok(image.disks.clone()),
            Some(_) => Err(Error::new(Kind::Invalid, operation()).because("it is not whole yet")),
        }
    }
}

#[async_trait]
impl Relay for MemoryCloud {
    async fn peer(&self) -> Result<Peer> {
        self.call("peer", |_, _| Ok(self.standing())).await
    }

    async fn route(&self, from: &Peer) -> Result<Route> {
        self.call("route", |_, call| {
            let joined = locked(&self.state.links).contains_key(&from.region);
            let reached = self.standing().can_reach(from) && joined;
            if !reached && !call.breaks(Promise::StrangerRefused) {
                return Err(Error::new(Kind::Invalid, format!("cannot copy images from {}", from.region))
                    .because("the two sites were never joined"));
            }
            Ok(Route { through_us: false, incremental: false, method: "memory".to_owned() })
        })
        .await
    }

    async fn copy(&self, request: &CopyRequest) -> Result<ImageCopy> {
        // before the own lock: two clouds may copy from each other at once
        let origin = self.origin(request);
        self.call("copy", |inner, call| {
            let mut id = ImageId::new(request.token.name())?;
            if inner.images.contains_key(&id) {
                if !call.breaks(Promise::SameToken) {
                    return Ok(begun(id, request));
                }
                id = ImageId::new(format!("{id}-{}", inner.next()))?;
            }
            request.options.within(IMAGE_OPTIONS, "memory")?;
            let disks = match origin {
                Err(error) if error.kind() == Kind::NotFound && call.breaks(Promise::NotFoundTold) => {
                    return Err(Error::new(Kind::Permanent, "cannot copy").because(error));
                }
                origin => origin?,
            };
            let under_way = inner.images.values().filter(|image| image.copying.is_some()).count();
            if inner.copies.slots.is_some_and(|slots| under_way >= slots) {
                return Err(Error::new(Kind::Quota, format!("cannot copy image {}", request.image))
                    .because(format!("{under_way} copies are under way, and no more are allowed at once")));
            }
            let image = image(inner, request, disks, call);
            inner.images.insert(id.clone(), image);
            Ok(begun(id, request))
        })
        .await
    }

    async fn state(&self, copy: &ImageCopy) -> Result<CopyState> {
        self.call("state", |inner, call| {
            let proof = inner.copies.proves.then(|| "equal chunks".to_owned());
            let Some(image) = inner.images.get_mut(&copy.image) else {
                let kind = if call.breaks(Promise::NotFoundTold) { Kind::Permanent } else { Kind::NotFound };
                return Err(Error::new(kind, format!("cannot find the copy {}", copy.image)));
            };
            let total = |disks: &BTreeMap<DiskName, SparseDisk>| disks.values().map(SparseDisk::stored).sum::<u64>();
            let Some(copying) = &mut image.copying else {
                return Ok(CopyState::Done { moved: total(&image.disks), proof });
            };
            let moved = total(&copying.disks);
            if copying.looks > 0 {
                let done = moved / (u64::from(copying.looks) + 1);
                copying.looks -= 1;
                return Ok(CopyState::Running { done, total: Some(moved) });
            }
            if let Some(copying) = image.copying.take() {
                image.disks = copying.disks;
            }
            Ok(CopyState::Done { moved, proof })
        })
        .await
    }

    async fn commit(&self, copy: &ImageCopy, request: &CopyRequest, role: Role) -> Result<ImageId> {
        self.call("commit", |inner, call| {
            let now = self.state.clock.now();
            let image = inner.image(&copy.image)?;
            if image.copying.is_some() {
                return Err(Error::new(Kind::Invalid, format!("cannot commit the copy {}", copy.image))
                    .because("it is not whole yet"));
            }
            let role = if call.breaks(Promise::RoleKept) { Role::Scratch } else { role };
            let word = request.token.tags(role).remove(tag::ROLE).unwrap_or_default();
            image.tags.insert(tag::ROLE.to_owned(), word);
            if !call.breaks(Promise::OptionsKept) {
                dress(image, &request.options, role, now);
            }
            Ok(copy.image.clone())
        })
        .await
    }
}

fn begun(image: ImageId, request: &CopyRequest) -> ImageCopy {
    ImageCopy { image, of: request.image.clone(), from: request.from.clone(), handle: serde_json::Value::Null }
}

/// The new image, whose bytes are on their way.
fn image(
    inner: &mut Inner,
    request: &CopyRequest,
    mut disks: BTreeMap<DiskName, SparseDisk>,
    call: &Entered<'_>,
) -> Image {
    if call.breaks(Promise::Bytes)
        && let Some(disk) = disks.values_mut().next()
    {
        let byte = disk.read(0, 1);
        disk.write(0, &[byte[0] ^ 1]);
    }
    let role = if call.breaks(Promise::RoleKept) { Role::Replica } else { Role::Scratch };
    Image {
        made: inner.next(),
        tags: tags(&request.token, role, call),
        point: (!call.breaks(Promise::PointCarried)).then(|| request.point.clone()),
        hidden: call.invisible(),
        copying: Some(Copying { disks, looks: inner.copies.looks }),
        ..Image::default()
    }
}

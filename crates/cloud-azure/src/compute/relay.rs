//! Copies of images from another region, by Azure itself: each snapshot is begun with `CopyStart`, and its
//! `completionPercent` is looked at until all are whole.
//!
//! A copy has the marks of an image from its first moment, as scratch. Every image is made of disks of its own, so that
//! no two are of one family and each copy moves all that the image holds.

use async_trait::async_trait;
use model::{Error, ImageId, Kind, Result, Role};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::AzureSite;
use super::arm::{Shown, What};
use super::encryption;
use super::http::Client;
use super::target::{self, fits};
use cloud::{CopyRequest, CopyState, ImageCopy, Peer, Relay, Route};

/// A disk of a copy; the list of them is what is journalled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Half {
    /// The snapshot here.
    image: String,
}

impl AzureSite {
    /// The group in another region that a peer is.
    fn there(&self, peer: &Peer) -> Result<Client> {
        let own = self.standing();
        let wrong = |why: &str| {
            Error::new(Kind::Invalid, format!("cannot copy images from {}", peer.region)).because(why.to_owned())
        };
        let (location, group) = peer.region.split_once('/').ok_or_else(|| wrong("it is no region and group"))?;
        if !own.can_reach(peer) {
            return Err(wrong("it is no other place of the same subscription"));
        }
        if location.eq_ignore_ascii_case(&self.config.location) {
            return Err(wrong("Azure copies snapshots between regions, and both are in one"));
        }
        Ok(self.client()?.at(group, location))
    }

    /// Refuses a copy that was begun by a configuration that was changed since, before any of it is a replica.
    async fn have_key(&self, copy: &ImageCopy, request: &CopyRequest) -> Result<()> {
        if request.options.encryption.is_none() {
            return Ok(());
        }
        for place in 0..request.point.disks.len() {
            let half = target::snapshot(copy.image.as_str(), place);
            let gone = || Error::new(Kind::NotFound, format!("cannot find snapshot {half} of copy {}", copy.image));
            let made = self.client()?.find(What::Snapshot, &half).await?.ok_or_else(gone)?;
            request.options.encrypted_by(&format!("snapshot {half}"), encryption::set_of(&made))?;
        }
        Ok(())
    }

    fn standing(&self) -> Peer {
        let config = &self.config;
        Peer {
            provider: "azure".to_owned(),
            domain: format!("{}#{}", config.arm.trim_end_matches('/'), config.subscription.to_lowercase()),
            region: format!("{}/{}", config.location.to_lowercase(), config.group.to_lowercase()),
        }
    }
}

#[async_trait]
impl Relay for AzureSite {
    async fn peer(&self) -> Result<Peer> {
        Ok(self.standing())
    }

    async fn route(&self, from: &Peer) -> Result<Route> {
        self.there(from)?;
        // a key that cannot be used is told before anything is captured for it
        self.encryption().await?;
        Ok(Route { through_us: false, incremental: false, method: "snapshot-copy".to_owned() })
    }

    async fn copy(&self, request: &CopyRequest) -> Result<ImageCopy> {
        let (client, there) = (self.client()?, self.there(&request.from)?);
        fits(&request.options, self)?;
        let encryption = self.encryption().await?;
        target::show(&there, &request.image).await?;
        let name = target::image_name(&request.token);
        let mut halves = Vec::new();
        // the boot disk comes last: until then the others are scratch of their own
        for (place, disk) in request.point.disks.iter().enumerate().rev() {
            let of = target::snapshot(request.image.as_str(), place);
            let image = target::snapshot(&name, place);
            if client.find(What::Snapshot, &image).await?.is_none() {
                let tags = target::tags(place, &disk.name, request, Role::Scratch)?;
                let body = json!({
                    "location": self.config.location, "tags": tags,
                    "properties": {
                        "incremental": true, "hyperVGeneration": target::generation(&request.point.machine.firmware),
                        "encryption": encryption,
                        "creationData": { "createOption": "CopyStart", "sourceResourceId": there.id(What::Snapshot, &of) },
                    },
                });
                client.create(What::Snapshot, &image, &body, false).await?;
            }
            halves.insert(0, Half { image });
        }
        let handle = serde_json::to_value(&halves)
            .map_err(|error| Error::new(Kind::Permanent, format!("cannot note copy {name}")).because(error))?;
        Ok(ImageCopy { image: ImageId::new(name)?, of: request.image.clone(), from: request.from.clone(), handle })
    }

    async fn state(&self, copy: &ImageCopy) -> Result<CopyState> {
        let client = self.client()?;
        let halves: Vec<Half> = serde_json::from_value(copy.handle.clone())
            .map_err(|error| Error::new(Kind::Damaged, format!("cannot find copy {}", copy.image)).because(error))?;
        let (mut done, mut total, mut whole) = (0, 0, true);
        for half in halves {
            let found = client.find(What::Snapshot, &half.image).await?.ok_or_else(|| {
                Error::new(Kind::NotFound, format!("copy {} is gone", copy.image))
                    .because(format!("snapshot {} does not exist", half.image))
            })?;
            let percent = progress(&found, copy)?;
            let bytes = found.bytes();
            total += bytes;
            done += (bytes as f64 * percent / 100.0) as u64;
            whole &= percent >= 100.0;
        }
        if !whole {
            return Ok(CopyState::Running { done: done.min(total), total: Some(total) });
        }
        // Azure tells no sum of what it has copied: it is asked for one where the copy is (`check_written`)
        Ok(CopyState::Done { moved: total, proof: None })
    }

    async fn commit(&self, copy: &ImageCopy, request: &CopyRequest, role: Role) -> Result<ImageId> {
        let client = self.client()?;
        fits(&request.options, self)?;
        self.have_key(copy, request).await?;
        // the boot disk's comes last: it is the commit
        for (place, disk) in request.point.disks.iter().enumerate().rev() {
            let half = target::snapshot(copy.image.as_str(), place);
            let tags = target::tags(place, &disk.name, request, role)?;
            client.tag(What::Snapshot, &half, &tags).await?;
        }
        if let (Some(time), Role::Replica) = (request.options.immutability, role) {
            target::keep(client, copy.image.as_str(), request.point.disks.len(), time).await?;
        }
        Ok(copy.image.clone())
    }
}

/// How much of a snapshot has come, in percent; an error if nothing more will.
fn progress(snapshot: &Shown, copy: &ImageCopy) -> Result<f64> {
    let failed = |why: String| {
        Error::new(Kind::Permanent, format!("cannot copy image {} to {}", copy.of, copy.image))
            .because(format!("snapshot {}: {why}", snapshot.name))
    };
    if let Some(error) = snapshot.properties.get("copyCompletionError").filter(|error| !error.is_null()) {
        let text = |key: &str| error.get(key).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
        return Err(failed(format!("{} {}", text("errorCode"), text("errorMessage"))));
    }
    match snapshot.text("/provisioningState") {
        Some(state @ ("Failed" | "Canceled")) => return Err(failed(format!("its state is {state}"))),
        Some("Succeeded") | None => {}
        Some(_) => return Ok(0.0),
    }
    Ok(snapshot.properties.get("completionPercent").and_then(serde_json::Value::as_f64).unwrap_or(100.0))
}

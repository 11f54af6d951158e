//! Copies of images from another region of the same Keystone, for the same project.
//!
//! Where Glance offers the import method `glance-download` it fetches the image itself; elsewhere the file is piped (see
//! `pipe`). Either way a copy is an image per disk with all its marks from the first moment, and what both services say
//! of their files proves that the bytes are equal.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use async_trait::async_trait;
use model::{Error, ImageId, Kind, Result, Role, crash};
use serde::{Deserialize, Serialize};

use super::api::glance::{Glance, Image, Status};
use super::config::CloudRef;
use super::http::Client;
use super::pipe::Flow;
use super::target::{self, Copied, DiskImage, disks_of};
use super::{OpenStackSite, marks};
use crate::{CopyRequest, CopyState, ImageCopy, Peer, Relay, Route};

/// The import method that lets Glance fetch an image of another region.
const DOWNLOAD: &str = "glance-download";
/// The same done by us.
const PIPE: &str = "pipe";

/// A disk of a copy; the list of them is what is journalled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Half {
    /// The image there.
    of: String,
    /// The image here.
    image: String,
}

impl OpenStackSite {
    /// The same cloud and project in another region.
    fn region(&self, region: &str) -> Client {
        let mut known = self.regions.lock().unwrap_or_else(PoisonError::into_inner);
        let client = || Client::new(CloudRef { region: Some(region.to_owned()), ..self.config.cloud.clone() });
        known.entry(region.to_owned()).or_insert_with(client).clone()
    }

    /// How bytes come here: by Glance itself, or by us.
    async fn method(&self) -> Result<&'static str> {
        let offered = Glance(&self.client).import_methods().await?;
        Ok(if offered.iter().any(|method| method == DOWNLOAD) { DOWNLOAD } else { PIPE })
    }
}

#[async_trait]
impl Relay for OpenStackSite {
    async fn peer(&self) -> Result<Peer> {
        let (keystone, project, region) = self.client.standing().await?;
        let domain = format!("{keystone}#{project}");
        Ok(Peer { provider: "openstack".to_owned(), domain, region })
    }

    async fn route(&self, from: &Peer) -> Result<Route> {
        let own = self.peer().await?;
        if !own.can_reach(from) {
            return Err(Error::new(Kind::Invalid, format!("cannot copy images from region {}", from.region))
                .because("it is not another region of the same Keystone and project"));
        }
        let method = self.method().await?;
        Ok(Route { through_us: method == PIPE, incremental: false, method: method.to_owned() })
    }

    async fn copy(&self, request: &CopyRequest) -> Result<ImageCopy> {
        target::fits(&request.options)?;
        let there = self.region(&request.from.region);
        let boot = target::show(&there, &request.image).await?;
        let disks = disks_of(&boot);
        if disks.is_empty() {
            return Err(Error::new(Kind::Invalid, format!("cannot copy image {}", request.image))
                .because("it lists no disks, so it was not made by this program"));
        }
        let method = self.method().await?;
        let is_alive = |image: &Image| match image.property(marks::BY) {
            Some(DOWNLOAD) => image.is_importing(),
            _ => self.pipes.fills(&image.id),
        };
        let (mut halves, mut listed) = (Vec::new(), Vec::new());
        // the boot disk comes last: as long as its image is not there the others are scratch disks
        for disk in disks.iter().rev() {
            let source = if disk.image == boot.id { boot.clone() } else { Glance(&there).show(&disk.image).await? };
            let mut properties = if disk.image == boot.id { target::carried(&request.point)? } else { BTreeMap::new() };
            properties.insert(marks::BY.to_owned(), method.to_owned());
            let format = source.disk_format.as_deref().unwrap_or("raw");
            let copied = Copied { token: &request.token, disk: &disk.name, format, properties };
            let (image, is_empty) = target::take_up(&self.client, copied, is_alive).await?;
            listed.insert(0, DiskImage { name: disk.name.clone(), image: image.id.clone() });
            if disk.image == boot.id {
                target::list_disks(&self.client, &image, &listed).await?;
            }
            if is_empty {
                self.fill(&there, &request.from.region, &source, &image.id, method).await?;
            }
            halves.insert(0, Half { of: source.id, image: image.id });
        }
        let image = ImageId::new(halves[0].image.clone())?;
        let handle = serde_json::to_value(&halves)
            .map_err(|error| Error::new(Kind::Permanent, format!("cannot note copy {image}")).because(error))?;
        Ok(ImageCopy { image, of: request.image.clone(), from: request.from.clone(), handle })
    }

    async fn state(&self, copy: &ImageCopy) -> Result<CopyState> {
        let (halves, mut whole) = (halves(copy)?, Vec::new());
        let (mut done, mut total) = (0, 0);
        let there = self.region(&copy.from.region);
        for half in &halves {
            // before the image is looked at: one whose pipe has ended by now shows its last state
            let flow = self.pipes.look(&half.image);
            let source = Glance(&there).show(&half.of).await?;
            let image = Glance(&self.client).show(&half.image).await?;
            let size = source.size.unwrap_or_default();
            total += size;
            match (image.status, flow) {
                // an import that is not over writes the image's properties once more, as it read them: a commit
                // before that would be undone
                (Status::Active, _) if !image.is_importing() => {
                    done += size;
                    whole.push((source, image));
                }
                (_, Flow::Failed(error)) => return Err(error),
                (_, Flow::Running(moved)) => done += moved.min(size),
                // a back end may keep the bytes for a while after the last one came
                (Status::Saving, Flow::None) => {}
                (_, Flow::None) if image.is_importing() => {}
                // an import that failed leaves the image as empty as it was, and its task is gone
                _ => {
                    return Err(Error::new(Kind::Permanent, format!("cannot copy image {}", copy.of))
                        .because(format!("Glance has given up image {}", half.image)));
                }
            }
        }
        if whole.len() < halves.len() {
            return Ok(CopyState::Running { done, total: Some(total) });
        }
        Ok(CopyState::Done { moved: total, proof: equal(&whole)? })
    }

    async fn commit(&self, copy: &ImageCopy, request: &CopyRequest, role: Role) -> Result<ImageId> {
        let boot = target::show(&self.client, &copy.image).await?;
        target::commit(&self.client, &boot, request, role).await
    }
}

impl OpenStackSite {
    /// Lets the bytes of an image come.
    async fn fill(&self, there: &Client, region: &str, source: &Image, image: &str, method: &str) -> Result<()> {
        if method == DOWNLOAD {
            crash::point("openstack.import.before");
            Glance(&self.client).import_from_region(image, region, &source.id).await?;
            crash::point("openstack.import.after");
            return Ok(());
        }
        let len = source.size.filter(|len| *len > 0).ok_or_else(|| {
            Error::new(Kind::Invalid, format!("cannot copy image {}", source.id)).because("it holds no bytes")
        })?;
        self.pipes.start(there, &source.id, &self.client, image, len);
        Ok(())
    }
}

fn halves(copy: &ImageCopy) -> Result<Vec<Half>> {
    serde_json::from_value(copy.handle.clone())
        .map_err(|error| Error::new(Kind::Damaged, format!("cannot find copy {}", copy.image)).because(error))
}

/// What proves that files are equal; none if a service tells no sum. [`Kind::Damaged`] if they are not.
fn equal(pairs: &[(Image, Image)]) -> Result<Option<String>> {
    let mut proof = None;
    for (source, image) in pairs {
        let damaged = |why: String| Error::new(Kind::Damaged, format!("image {} is no copy", image.id)).because(why);
        if source.size != image.size {
            return Err(damaged(format!("image {} has another size", source.id)));
        }
        match (&source.os_hash_algo, &image.os_hash_algo, &source.os_hash_value, &image.os_hash_value) {
            (Some(one), Some(two), Some(theirs), Some(ours)) if one == two && theirs.eq_ignore_ascii_case(ours) => {
                proof = Some(format!("{one} of both images"));
            }
            (Some(one), Some(two), Some(_), Some(_)) if one == two => {
                return Err(damaged(format!("its {one} is not that of image {}", source.id)));
            }
            _ => return Ok(None),
        }
    }
    Ok(proof)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;

    use super::super::fake::{Fake, reply};
    use super::super::{OpenStackConfig, Restore};
    use super::*;

    #[tokio::test]
    async fn a_copy_is_whole_when_its_import_is_over_and_not_when_its_image_is_active() {
        let looks = Arc::new(AtomicUsize::new(0));
        let counted = looks.clone();
        let fake = Fake::start(move |request| {
            let mut image =
                json!({ "id": "i", "status": "active", "size": 7, "os_hash_algo": "sha512", "os_hash_value": "a" });
            if request.line.contains("/images/here") && counted.fetch_add(1, Ordering::SeqCst) == 0 {
                image["os_glance_import_task"] = json!("t");
            }
            reply(200, &image.to_string())
        })
        .await;
        let site = OpenStackSite {
            client: fake.client.clone(),
            regions: Arc::new([("R".to_owned(), fake.client.clone())].into_iter().collect::<BTreeMap<_, _>>().into()),
            ..OpenStackSite::new(OpenStackConfig {
                site: model::SiteName::new("two").unwrap(),
                cloud: CloudRef { cloud: "fake".to_owned(), file: None, region: None, interface: None },
                scratch: "nowhere".into(),
                format: disk::Format::Qcow2,
                staged: false,
                restore: Restore::default(),
            })
        };
        let copy = ImageCopy {
            image: ImageId::new("here").unwrap(),
            of: ImageId::new("there").unwrap(),
            from: Peer { provider: "openstack".to_owned(), domain: "k#p".to_owned(), region: "R".to_owned() },
            handle: json!([{ "of": "there", "image": "here" }]),
        };
        assert!(matches!(site.state(&copy).await.unwrap(), CopyState::Running { .. }));
        let CopyState::Done { moved, proof } = site.state(&copy).await.unwrap() else { panic!("it is not done") };
        assert_eq!((moved, proof.as_deref()), (7, Some("sha512 of both images")));
        assert_eq!(looks.load(Ordering::SeqCst), 2);
    }
}

//! One disk on its way to Glance: an image that is made at once, with its marks, and gets its bytes when they are
//! there.
//!
//! The image's id follows from the token and a number. Bytes can be sent to an image once only, and the id of a deleted
//! image is never free again; so an attempt that broke half-way is deleted and the next one has the next number. What
//! an attempt belongs to stands in a Glance tag (`mark`), by which it is found whatever its number.
//!
//! Nobody sends to an image that somebody else was about to send to, not even to an empty one: of a sender that died the
//! service may still have a request to read. It then calls the image `saving` until it notices that nothing comes, and
//! refuses everybody else. An image that is deleted meanwhile is none of that request's business any more.
//!
//! Where the site says so the bytes are staged and then imported. Of an image that is staged the service does not tell
//! whether all has come, so the bytes count as arrived only once the import has begun.

use std::time::Duration;

use model::{DiskName, Error, Kind, Result, Role, Token, crash};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::super::api::glance::{Glance, Image, NewImage, STAGED, Status};
use super::super::http::Client;
use super::super::{OpenStackSite, marks};

/// Attempts whose number is tried before something must be wrong.
const ATTEMPTS: u64 = 1000;
/// The longest that an image may take to become active once its bytes are sent: a back end may copy them first.
pub(super) const SETTLE: Duration = Duration::from_secs(1800);
/// The longest that the service may take no bytes.
pub(super) const STALL: Duration = Duration::from_secs(300);
/// The longest that the service may take to end an upload that broke: to notice it, or to keep what has come.
const NOTICE: Duration = Duration::from_secs(120);

/// What was sent, to be held against what the service says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sent {
    pub bytes: u64,
    pub sha512: String,
}

/// A disk's image while it is being made.
#[derive(Clone)]
pub(super) struct Upload {
    client: Client,
    /// Names the disk of a token.
    pub mark: String,
    form: NewImage,
    /// The image that takes the bytes.
    pub image: String,
    attempt: u64,
    /// Whether the bytes are staged first.
    staged: bool,
}

/// The mark of a disk of a token.
pub(super) fn mark_of(token: &Token, disk: &DiskName) -> String {
    let parts = [token.owner.as_str(), token.run.as_str(), &token.step, disk.as_str()].join("\0");
    format!("replicate-{}", &blake3::hash(parts.as_bytes()).to_hex()[..32])
}

/// The id of an attempt: a UUID, as Glance wants it, that is the same whenever it is asked for.
fn id_of(mark: &str, attempt: u64) -> String {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&blake3::hash(format!("{mark}/{attempt}").as_bytes()).as_bytes()[..16]);
    // version 8: of the maker's own choice
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// All attempts at the disk of a mark that the service has.
pub(super) async fn attempts(client: &Client, mark: &str) -> Result<Vec<Image>> {
    let query = [("tag", mark.to_owned()), ("owner", client.project().await?)];
    let mut found = Glance(client).list(&query).await?;
    found.retain(|image| !matches!(image.status, Status::Deleted | Status::PendingDelete));
    Ok(found)
}

fn attempt_of(image: &Image) -> u64 {
    image.property(marks::ATTEMPT).and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// Whether an image belongs to a registered restore point, and is no leftover of writing.
fn is_registered(image: &Image) -> bool {
    image.properties.contains_key(marks::POINT) || image.properties.contains_key(marks::OF)
}

impl Upload {
    /// An upload that has no image yet.
    fn new(client: &Client, token: &Token, disk: &DiskName, format: &str) -> Self {
        let mark = mark_of(token, disk);
        let mut properties: std::collections::BTreeMap<String, Value> =
            token.tags(Role::Scratch).into_iter().map(|(key, value)| (key, json!(value))).collect();
        properties.insert(marks::DISK.to_owned(), json!(disk.as_str()));
        let form = NewImage {
            id: String::new(),
            name: format!("{}-{disk}", token.name()),
            disk_format: format.to_owned(),
            container_format: "bare",
            visibility: "private",
            tags: vec![marks::OURS.to_owned(), mark.clone()],
            properties,
        };
        Self { client: client.clone(), mark, form, image: String::new(), attempt: 0, staged: false }
    }

    /// Makes the image. Whatever earlier calls with the token have made or written is gone.
    pub(super) async fn begin(site: &OpenStackSite, token: &Token, disk: &DiskName) -> Result<Self> {
        let (client, config) = (&site.client, &site.config);
        if config.staged && !Glance(client).import_methods().await?.iter().any(|method| method == STAGED) {
            return Err(Error::new(Kind::Invalid, format!("cannot import images at site {}", config.site))
                .because(format!("its image service does not offer `{STAGED}`"))
                .hint("leave out `import` in the site's settings"));
        }
        let mut upload = Self { staged: config.staged, ..Self::new(client, token, disk, config.format.name()) };
        let found = attempts(client, &upload.mark).await?;
        for old in found.iter().filter(|old| !is_registered(old)) {
            upload.delete(&old.id).await?;
        }
        upload.create(found.iter().map(|old| attempt_of(old) + 1).max().unwrap_or_default()).await?;
        Ok(upload)
    }

    /// Makes the image of the next attempt whose number is free.
    async fn create(&mut self, first: u64) -> Result<()> {
        for attempt in first..first + ATTEMPTS {
            let mut form = self.form.clone();
            form.id = id_of(&self.mark, attempt);
            form.properties.insert(marks::ATTEMPT.to_owned(), json!(attempt.to_string()));
            crash::point("openstack.image-create.before");
            let made = Glance(&self.client).create(&form).await;
            crash::point("openstack.image-create.after");
            match made {
                // made and deleted long ago
                Err(error) if error.kind() == Kind::Exists => continue,
                Err(error) => return Err(error),
                Ok(_) => {}
            }
            (self.image, self.attempt) = (form.id, attempt);
            return Ok(());
        }
        Err(Error::new(Kind::Permanent, format!("cannot create an image for {}", self.form.name))
            .because(format!("{ATTEMPTS} ids are taken")))
    }

    async fn delete(&self, image: &str) -> Result<()> {
        crash::point("openstack.image-discard.before");
        Glance(&self.client).delete(image).await?;
        crash::point("openstack.image-discard.after");
        Ok(())
    }

    /// Sends the bytes. When this fails, [`has_arrived`](Self::has_arrived) tells whether they are there all the same.
    pub(super) async fn send(&self, body: reqwest::Body, len: u64) -> Result<()> {
        let glance = Glance(&self.client);
        crash::point("openstack.upload.before");
        if !self.staged {
            glance.upload(&self.image, body, len).await?;
            crash::point("openstack.upload.after");
            return Ok(());
        }
        glance.stage(&self.image, body, len).await?;
        crash::point("openstack.stage.after");
        glance.import_staged(&self.image).await?;
        crash::point("openstack.import-staged.after");
        Ok(())
    }

    /// After an upload of all bytes whose answer did not come: waits as long as the service works on it, within a bound.
    /// `false`: it has given it up, or does not come to an end, and another image is needed.
    pub(super) async fn has_arrived(&self) -> Result<bool> {
        let end = Instant::now() + NOTICE;
        loop {
            match Glance(&self.client).show(&self.image).await {
                Ok(image) if image.status == Status::Saving && Instant::now() < end => {
                    tracing::info!(image = self.image, "waiting for the image service to end a broken upload");
                    sleep(Duration::from_secs(2)).await;
                }
                Ok(image) => return Ok(image.has_task() || matches!(image.status, Status::Importing | Status::Active)),
                Err(error) if error.kind() == Kind::NotFound => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives up the image, and makes another one that takes bytes.
    pub(super) async fn renew(&mut self) -> Result<()> {
        self.delete(&self.image.clone()).await?;
        self.create(self.attempt + 1).await
    }

    /// Waits until the image is active, and holds what the service has against what was sent.
    pub(super) async fn settle(&self, sent: &Sent) -> Result<()> {
        let image = self.active().await?;
        let format = image.disk_format.as_deref().unwrap_or_default();
        if self.staged && format != self.form.disk_format {
            // what is in it is compared when the replica is verified
            tracing::info!(image = self.image, sent = self.form.disk_format, format, "the service converted the image");
            return Ok(());
        }
        let damaged = |why: String| Error::new(Kind::Damaged, self.unfinished()).because(why);
        if image.size != Some(sent.bytes) {
            let size = image.size.map_or_else(|| "none".to_owned(), |size| size.to_string());
            return Err(damaged(format!("{} bytes were sent and the service has {size}", sent.bytes)));
        }
        match (image.os_hash_algo.as_deref(), image.os_hash_value.as_deref()) {
            (Some("sha512"), Some(value)) if value.eq_ignore_ascii_case(&sent.sha512) => Ok(()),
            (Some("sha512"), Some(value)) => {
                Err(damaged(format!("its sha512 is {value}, and {} was sent", sent.sha512)))
            }
            (algorithm, _) => {
                // the root is compared when the replica is verified
                tracing::warn!(
                    image = self.image,
                    ?algorithm,
                    "the service tells no sha512: only the length was compared"
                );
                Ok(())
            }
        }
    }

    fn unfinished(&self) -> String {
        format!("cannot finish image {}", self.image)
    }

    /// Waits until the image is active and the service is done with it: an import writes its properties once more at
    /// its end, as it read them, and would undo what is marked before.
    async fn active(&self) -> Result<Image> {
        let end = Instant::now() + SETTLE;
        loop {
            let looked = Glance(&self.client).show(&self.image).await;
            let image = looked.map_err(|error| error.within(self.unfinished()))?;
            let busy = image.has_task() || matches!(image.status, Status::Saving | Status::Importing);
            let why = match image.status {
                Status::Active if !busy => return Ok(image),
                _ if busy && Instant::now() < end => {
                    tracing::info!(image = self.image, status = ?image.status, "waiting for the image to become active");
                    sleep(Duration::from_secs(2)).await;
                    continue;
                }
                _ if busy => format!("it was not active {} s after its last byte", SETTLE.as_secs()),
                // an import that failed leaves it as empty as it was, or staged
                status => format!("the service did not keep its bytes, its status is {status:?}").to_lowercase(),
            };
            return Err(Error::new(Kind::Transient, self.unfinished()).because(why));
        }
    }
}

/// A disk that is to be copied.
pub(in crate::openstack) struct Copied<'a> {
    pub token: &'a Token,
    pub disk: &'a DiskName,
    /// As the source is stored.
    pub format: &'a str,
    /// What its image carries beside our marks.
    pub properties: std::collections::BTreeMap<String, String>,
}

/// Makes the image of a copy, or finds the one that was made before. `true`: it has no bytes, and nothing brings any.
/// An image whose bytes have stopped coming, since `is_alive` says so, is deleted: bytes can be sent to it once only.
pub(in crate::openstack) async fn take_up(
    client: &Client,
    copied: Copied<'_>,
    is_alive: impl Fn(&Image) -> bool,
) -> Result<(Image, bool)> {
    let mut upload = Upload::new(client, copied.token, copied.disk, copied.format);
    upload.form.properties.extend(copied.properties.into_iter().map(|(key, value)| (key, json!(value))));
    let mut found = attempts(client, &upload.mark).await?;
    if let Some(at) = found.iter().position(|image| image.status == Status::Active || is_alive(image)) {
        return Ok((found.swap_remove(at), false));
    }
    for old in &found {
        upload.delete(&old.id).await?;
    }
    upload.create(found.iter().map(|old| attempt_of(old) + 1).max().unwrap_or_default()).await?;
    Ok((Glance(client).show(&upload.image).await?, true))
}

#[cfg(test)]
mod tests;

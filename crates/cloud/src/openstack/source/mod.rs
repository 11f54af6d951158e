//! The role [`Source`] of a project: servers, captures and their bytes.
//!
//! There is no call that tells which blocks changed, and Cinder's incremental backups are readable by Cinder alone:
//! every capture is read whole, and what a destination has already does not travel. A capture is a few things at
//! Glance and Cinder with the token's tags (`parts`); nothing is remembered here.

mod blank;
mod capture;
mod export;
mod inventory;
mod machine;
mod make;
mod parts;
mod switch;
#[cfg(test)]
mod tests;
mod way;

use async_trait::async_trait;
use disk::DiskRead;
use model::{DiskName, Error, Kind, Result, ServerName};

use self::blank::Blank;
use self::capture::{Handle, Held};
use self::export::Export;
use self::parts::Key;
pub(super) use self::parts::owned;
use super::OpenStackSite;
use super::api::glance::Glance;
use super::http::Client;
use crate::{Capture, CaptureRequest, Outcome, Resource, Server, Source};

#[async_trait]
impl Source for OpenStackSite {
    async fn servers(&self) -> Result<Vec<Server>> {
        inventory::servers(&self.client).await
    }

    async fn describe(&self, server: &ServerName) -> Result<Server> {
        inventory::look(&self.client, server).await?.server()
    }

    async fn capture(&self, request: &CaptureRequest) -> Result<Capture> {
        capture::capture(&self.client, request).await
    }

    async fn open(&self, capture: &Capture, disk: &DiskName, _incremental: bool) -> Result<Box<dyn DiskRead>> {
        let handle = Handle::of(capture)?;
        let operation = format!("cannot open disk {disk} of capture {}", capture.id);
        let held = handle.disks.iter().find(|(name, _)| name == disk).map(|(_, held)| held);
        let size = capture.disks.iter().find(|captured| captured.name == *disk).map_or(0, |captured| captured.size);
        let name = format!("disk {disk} of capture {} at {}", capture.id, self.config.site);
        let opened = match held {
            None => return Err(Error::new(Kind::NotFound, operation)),
            Some(Held::Blank) => return Ok(Box::new(Blank { size, name })),
            Some(Held::Image(id)) => open_image(&self.client, id).await,
            Some(Held::Snapshot(snapshot)) => {
                let key = handle.key()?;
                let export = Export { client: &self.client, key: &key, tags: &handle.tags, disk, snapshot };
                match export.image().await {
                    Ok(image) => open_image(&self.client, &image).await,
                    Err(error) => Err(error),
                }
            }
        };
        opened.map_err(|error| error.within(operation))
    }

    async fn release(&self, capture: &Capture, _outcome: Outcome) -> Result<()> {
        parts::remove(&self.client, &Handle::of(capture)?.key()?).await
    }
}

/// Opens an image by its id.
async fn open_image(client: &Client, id: &str) -> Result<Box<dyn DiskRead>> {
    super::read::open(client, &Glance(client).show(id).await?).await
}

/// Deletes a capture that [`owned`] listed.
pub(super) async fn delete(client: &Client, capture: &Resource) -> Result<()> {
    let key = Key::of_tags(&capture.tags).ok_or_else(|| {
        Error::new(Kind::Invalid, format!("cannot delete capture {}", capture.id)).because("it has no run")
    })?;
    parts::remove(client, &key).await
}

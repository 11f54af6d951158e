//! The role [`Source`]: servers, captures and their bytes.

use async_trait::async_trait;
use cloud::{Capture, CaptureRequest, Outcome, Server, Source};
use disk::DiskRead;
use model::{DiskName, Error, Kind, Result, ServerName};

use super::blocks::BlockReader;
use super::capture::{self, Handle};
use super::{AwsSite, consistent, inventory};

#[async_trait]
impl Source for AwsSite {
    async fn servers(&self) -> Result<Vec<Server>> {
        let seen = inventory::all(self.clients().await?).await?;
        Ok(seen.into_iter().map(|seen| seen.server).collect())
    }

    async fn describe(&self, server: &ServerName) -> Result<Server> {
        Ok(inventory::one(self.clients().await?, server).await?.server)
    }

    async fn capture(&self, request: &CaptureRequest) -> Result<Capture> {
        capture::capture(self.clients().await?, request).await
    }

    async fn open(&self, capture: &Capture, disk: &DiskName, incremental: bool) -> Result<Box<dyn DiskRead>> {
        let (clients, handle) = (self.clients().await?, Handle::of(capture)?);
        let absent = || Error::new(Kind::NotFound, format!("cannot open disk {disk} of capture {}", capture.id));
        let wanted = handle.disks.into_iter().find(|held| held.name == *disk).ok_or_else(absent)?;
        let held = capture::held(clients, &handle.tags).await?;
        let held = held.into_iter().find(|held| held.id == wanted.snapshot);
        let held = held.ok_or_else(|| absent().because("its snapshot is gone"))?;
        let name = format!("disk {disk} of capture {} at {}", capture.id, self.config.site);
        let base = wanted.base.filter(|_| incremental);
        Ok(Box::new(BlockReader::new(clients, &held.id, base, held.size, name)))
    }

    async fn unfrozen(&self) -> Result<Option<Vec<(ServerName, String)>>> {
        consistent::unfrozen(self.clients().await?).await
    }

    async fn release(&self, capture: &Capture, outcome: Outcome) -> Result<()> {
        let (clients, tags) = (self.clients().await?, Handle::of(capture)?.tags);
        match outcome {
            Outcome::Committed => capture::commit(clients, capture, &tags).await,
            Outcome::Abandoned => capture::remove(clients, &tags).await,
        }
    }
}

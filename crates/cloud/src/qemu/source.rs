//! The roles [`Source`] and [`Switch`] of a QEMU host.

use async_trait::async_trait;
use disk::DiskRead;
use model::{DiskName, Result, ServerName};

use super::capture::{self, session_of, shielded};
use super::{QemuSite, export, inventory, power, release};
use crate::{Capture, CaptureRequest, Outcome, Server, Source, Stop, Switch};

#[async_trait]
impl Source for QemuSite {
    async fn servers(&self) -> Result<Vec<Server>> {
        self.inventory().await
    }

    async fn describe(&self, server: &ServerName) -> Result<Server> {
        inventory::look(server, &self.socket(server).await?).await
    }

    async fn capture(&self, request: &CaptureRequest) -> Result<Capture> {
        let what = format!("capture server {}", request.server);
        shielded(&what, capture::capture(self.clone(), request.clone())).await
    }

    async fn open(&self, capture: &Capture, disk: &DiskName, incremental: bool) -> Result<Box<dyn DiskRead>> {
        export::open(&session_of(capture)?, capture, disk, incremental).await
    }

    async fn release(&self, capture: &Capture, outcome: Outcome) -> Result<()> {
        let (site, session) = (self.clone(), session_of(capture)?);
        let what = format!("release capture {}", capture.id);
        shielded(&what, async move { release::release(&site, &session, outcome).await }).await
    }
}

#[async_trait]
impl Switch for QemuSite {
    async fn stop(&self, server: &ServerName, stop: Stop) -> Result<()> {
        shielded(&format!("stop server {server}"), power::stop(self.clone(), server.clone(), stop)).await
    }

    async fn start(&self, server: &ServerName) -> Result<()> {
        shielded(&format!("start server {server}"), power::start(self.clone(), server.clone())).await
    }
}

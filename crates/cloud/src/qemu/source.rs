//! The role [`Source`] of a QEMU host.

use async_trait::async_trait;
use disk::DiskRead;
use model::{DiskName, Result, ServerName};

use super::capture::{self, session_of, shielded};
use super::{QemuSite, export, inventory, release};
use crate::{Capture, CaptureRequest, Outcome, Server, Source};

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

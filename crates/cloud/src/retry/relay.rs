//! Retries of a relay's calls.

use async_trait::async_trait;
use model::{ImageId, Result, Role};

use super::{Call, Retrying};
use crate::{CopyRequest, CopyState, ImageCopy, Peer, Relay, Route};

impl Retrying {
    fn inner_relay(&self) -> Result<&dyn Relay> {
        self.inner.relay().ok_or_else(|| self.absent("copies no images"))
    }
}

#[async_trait]
impl Relay for Retrying {
    async fn peer(&self) -> Result<Peer> {
        let relay = self.inner_relay()?;
        self.shared.retry(Call::Look, "find out where a site stands", || relay.peer()).await
    }

    async fn route(&self, from: &Peer) -> Result<Route> {
        let relay = self.inner_relay()?;
        self.shared.retry(Call::Look, "find a way between sites", || relay.route(from)).await
    }

    async fn copy(&self, request: &CopyRequest) -> Result<ImageCopy> {
        let relay = self.inner_relay()?;
        self.shared.retry(Call::Effect, "begin the copy of an image", || relay.copy(request)).await
    }

    async fn state(&self, copy: &ImageCopy) -> Result<CopyState> {
        let relay = self.inner_relay()?;
        self.shared.retry(Call::Look, "look at the copy of an image", || relay.state(copy)).await
    }

    async fn commit(&self, copy: &ImageCopy, request: &CopyRequest, role: Role) -> Result<ImageId> {
        let relay = self.inner_relay()?;
        self.shared.retry(Call::Effect, "commit the copy of an image", || relay.commit(copy, request, role)).await
    }
}

//! The role of a site whose provider copies images between its own sites, so that their bytes need not pass through us.
//!
//! The *destination* is asked, and names the source by plain data: that is how every provider does it (EC2 copies by a
//! call at the destination's region, Azure starts the copy at the new snapshot, Glance imports from another region).
//! A copy is scratch from its first moment: whoever finds it in `owned()` may delete it, which is how a copy is
//! cancelled. Only [`Relay::commit`] makes a replica of it.

use async_trait::async_trait;
use model::{ImageId, ImageOptions, RestorePoint, Result, Role, Token};
use serde::{Deserialize, Serialize};

/// Where a site stands among the sites that can copy from each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// The provider: `openstack`.
    pub provider: String,
    /// What two sites must have in common: Keystone's address and the project, a partition and an account.
    pub domain: String,
    /// What tells them apart there: a region, a store.
    pub region: String,
}

impl Peer {
    /// Whether both belong to one domain of one provider, at different regions: what a copy needs everywhere.
    pub fn can_reach(&self, other: &Peer) -> bool {
        self.provider == other.provider && self.domain == other.domain && self.region != other.region
    }
}

/// How a copy between two sites would go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Whether the bytes pass through us after all, as they are stored: nothing is decoded, compared or kept.
    pub through_us: bool,
    /// Whether a second copy to the same site moves only what changed since the first.
    pub incremental: bool,
    /// The provider's own word for it: `glance-download`.
    pub method: String,
}

/// What to copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyRequest {
    /// Where it is.
    pub from: Peer,
    /// The image there.
    pub image: ImageId,
    /// The restore point that it holds; the copy carries it as an image that was registered does.
    pub point: RestorePoint,
    /// How the copy is to look once it is committed; until then nobody but us sees it.
    pub options: ImageOptions,
    /// Marks the copy. The same token finds the same copy.
    pub token: Token,
}

/// A copy that was begun. Plain data: it is journalled, and a later process asks for its state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageCopy {
    /// The new image.
    pub image: ImageId,
    /// What it is a copy of.
    pub of: ImageId,
    /// Where that is.
    pub from: Peer,
    /// What the provider needs to find it again.
    #[serde(default)]
    pub handle: serde_json::Value,
}

/// How far a copy is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum CopyState {
    /// Under way.
    Running {
        /// Bytes copied, as far as it is told.
        done: u64,
        /// Bytes in all, if they are known.
        total: Option<u64>,
    },
    /// The image is whole.
    Done {
        /// Bytes that were moved for it.
        moved: u64,
        /// How the provider itself has proved that the bytes are the source's (`sha512 of both images`); none: they
        /// are to be read back.
        proof: Option<String>,
    },
}

/// A site that images can be copied to by its provider.
#[async_trait]
pub trait Relay: Send + Sync {
    /// Where this site stands.
    async fn peer(&self) -> Result<Peer>;

    /// How a copy from there to here would go. [`Kind::Invalid`](model::Kind::Invalid): it cannot, and why. Looks only.
    async fn route(&self, from: &Peer) -> Result<Route>;

    /// Begins a copy, and answers without waiting for its end. The new image exists, is scratch and carries the
    /// token's tags. The same token finds the same copy, and goes on with it if what drove it has died.
    /// [`Kind::Quota`](model::Kind::Quota): all slots for copies are taken; later one will be free.
    async fn copy(&self, request: &CopyRequest) -> Result<ImageCopy>;

    /// Looks how far a copy is. [`Kind::NotFound`](model::Kind::NotFound): it was cancelled; any other error that is
    /// not retryable: it failed for good. What is left is deleted by the caller.
    async fn state(&self, copy: &ImageCopy) -> Result<CopyState>;

    /// Gives a whole copy its role and options: as a replica this is its commit point, before which nothing takes it
    /// for one. Repeating it is harmless.
    async fn commit(&self, copy: &ImageCopy, request: &CopyRequest, role: Role) -> Result<ImageId>;
}

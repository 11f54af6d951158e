//! Finding what a request names: with the lag of reads, the owner's rights, and the provider's own words when it is
//! not there.

use jiff::Timestamp;

use super::params::Params;
use crate::auth::Caller;
use crate::error::{Answer, ApiError};
use crate::sim::Sim;
use crate::world::World;
use crate::world::resource::{Base, Group, Image, Instance, Snapshot, Volume};
use crate::world::tokens::Token;

/// One call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cx<'a> {
    pub(crate) sim: &'a Sim,
    pub(crate) caller: &'a Caller,
}

/// Kinds of ids: prefix, the parameter's name in messages, the codes of malformed and absent ones, and the words.
struct Kind {
    prefix: &'static str,
    parameter: &'static str,
    malformed: &'static str,
    absent: &'static str,
    words: fn(&str) -> String,
}

const SNAPSHOT: Kind = Kind {
    prefix: "snap-",
    parameter: "snapshotId",
    malformed: "InvalidParameterValue",
    absent: "InvalidSnapshot.NotFound",
    words: |id| format!("The snapshot '{id}' does not exist."),
};
const IMAGE: Kind = Kind {
    prefix: "ami-",
    parameter: "imageId",
    malformed: "InvalidAMIID.Malformed",
    absent: "InvalidAMIID.NotFound",
    words: |id| format!("The image id '[{id}]' does not exist"),
};
const VOLUME: Kind = Kind {
    prefix: "vol-",
    parameter: "volumeId",
    malformed: "InvalidParameterValue",
    absent: "InvalidVolume.NotFound",
    words: |id| format!("The volume '{id}' does not exist."),
};
const INSTANCE: Kind = Kind {
    prefix: "i-",
    parameter: "instanceId",
    malformed: "InvalidInstanceID.Malformed",
    absent: "InvalidInstanceID.NotFound",
    words: |id| format!("The instance ID '{id}' does not exist"),
};
const GROUP: Kind = Kind {
    prefix: "sg-",
    parameter: "groupId",
    malformed: "InvalidGroupId.Malformed",
    absent: "InvalidGroup.NotFound",
    words: |id| format!("The security group '{id}' does not exist"),
};

impl Kind {
    fn check(&self, id: &str) -> Answer<()> {
        let digits = id.strip_prefix(self.prefix).unwrap_or_default();
        if matches!(digits.len(), 8 | 17) && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(());
        }
        let message =
            format!("Value ({id}) for parameter {} is invalid. Expected: '{}...'.", self.parameter, self.prefix);
        Err(ApiError::refuse(self.malformed, message))
    }

    fn absent(&self, id: &str) -> ApiError {
        ApiError::refuse(self.absent, (self.words)(id))
    }
}

impl Cx<'_> {
    pub(crate) fn account(&self) -> &str {
        &self.caller.account
    }

    pub(crate) fn region(&self) -> &str {
        &self.caller.region
    }

    /// A client token of this call.
    pub(crate) fn token(&self, action: &str, token: &str, params: &Params) -> Token {
        Token::new(self.account(), self.region(), action, token, format!("{:?}", params.all()))
    }

    /// Whether the EC2 API finds a resource of this region by now.
    pub(crate) fn sees(&self, base: &Base, now: Timestamp) -> bool {
        base.region == self.region() && now >= base.visible
    }

    /// As [`Self::sees`], and it is the caller's own.
    pub(crate) fn owns(&self, base: &Base, now: Timestamp) -> bool {
        self.sees(base, now) && base.account == self.account()
    }

    /// The caller's own in this region, to be seen or not: limits and names count at once.
    pub(crate) fn owns_by_now(&self, base: &Base) -> bool {
        base.region == self.region() && base.account == self.account()
    }

    /// A snapshot that the caller owns or that is shared with it.
    pub(crate) fn snapshot<'w>(&self, world: &'w World, id: &str) -> Answer<&'w Snapshot> {
        SNAPSHOT.check(id)?;
        let now = world.now();
        let found = world.snapshots.get(id).filter(|it| self.sees(&it.base, now) && it.is_open_to(self.account()));
        found.ok_or_else(|| SNAPSHOT.absent(id))
    }

    pub(crate) fn own_snapshot<'w>(&self, world: &'w mut World, id: &str) -> Answer<&'w mut Snapshot> {
        let owner = self.snapshot(world, id)?.base.account.clone();
        if owner != self.account() {
            return Err(ApiError::new(403, "UnauthorizedOperation", format!("You do not own the snapshot '{id}'")));
        }
        world.snapshots.get_mut(id).ok_or_else(|| SNAPSHOT.absent(id))
    }

    /// An image that the caller owns or that is shared with it.
    pub(crate) fn image<'w>(&self, world: &'w World, id: &str) -> Answer<&'w Image> {
        IMAGE.check(id)?;
        let now = world.now();
        let found = world.images.get(id).filter(|it| self.sees(&it.base, now) && it.is_open_to(self.account()));
        found.ok_or_else(|| IMAGE.absent(id))
    }

    /// The caller's own image, to be changed. One that was deregistered says so.
    pub(crate) fn own_image<'w>(&self, world: &'w mut World, id: &str) -> Answer<&'w mut Image> {
        if world.gone.contains(id) {
            let message = format!("The image ID '{id}' is no longer available");
            return Err(ApiError::refuse("InvalidAMIID.Unavailable", message));
        }
        let owner = self.image(world, id)?.base.account.clone();
        if owner != self.account() {
            return Err(ApiError::new(403, "AuthFailure", format!("Not authorized for image:{id}")));
        }
        world.images.get_mut(id).ok_or_else(|| IMAGE.absent(id))
    }

    pub(crate) fn volume<'w>(&self, world: &'w mut World, id: &str) -> Answer<&'w mut Volume> {
        VOLUME.check(id)?;
        let now = world.now();
        let found = world.volumes.get_mut(id).filter(|it| self.owns(&it.base, now));
        found.ok_or_else(|| VOLUME.absent(id))
    }

    pub(crate) fn instance<'w>(&self, world: &'w mut World, id: &str) -> Answer<&'w mut Instance> {
        INSTANCE.check(id)?;
        let now = world.now();
        let found = world.instances.get_mut(id).filter(|it| self.owns(&it.base, now));
        found.ok_or_else(|| INSTANCE.absent(id))
    }

    pub(crate) fn group<'w>(&self, world: &'w World, id: &str) -> Answer<&'w Group> {
        GROUP.check(id)?;
        let now = world.now();
        world.groups.get(id).filter(|it| self.owns(&it.base, now)).ok_or_else(|| GROUP.absent(id))
    }
}

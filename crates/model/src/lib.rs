//! The nouns of `replicate`: ids, extents, machine descriptions, restore points, policies, retention, errors.
//!
//! Owns what things *are* and the pure rules about them. Must not know how anything is done: no I/O, no async, no
//! clock of its own ([`Clock`] is only the trait), no provider.

mod clock;
pub mod crash;
mod error;
mod extent;
mod ids;
mod image;
mod machine;
mod point;
mod policy;
mod retention;
mod retry;
mod tags;

pub use clock::{Clock, ManualClock};
pub use error::{Error, Kind, Result};
pub use extent::{Change, Extent, ExtentList};
pub use ids::{
    CaptureId, Cursor, DiskName, ImageId, InstanceId, OwnerId, PointId, PolicyName, RunId, ServerName, SiteName,
    VaultName,
};
pub use image::{Gallery, ImageOption, ImageOptions, PLACEHOLDERS, PriceList, Prices, Via, Visibility, wrong_template};
pub use machine::{Arch, DiskBus, DiskSpec, Firmware, MachineSpec, NicSpec};
pub use point::{Consistency, DiskRoot, Place, PointDisk, Published, Replica, ReplicaState, Replication, RestorePoint};
pub use policy::{CapturePolicy, CatchUp, Destination, DrillPolicy, Objectives, Policy, Probe, Schedule, Select};
pub use retention::{Candidate, Decision, DropReason, Dropped, Keep, Kept, Reason, Standing};
pub use retry::{Attempts, Patience, parse_retry_after};
pub use tags::{Role, Tags, Token, tag};

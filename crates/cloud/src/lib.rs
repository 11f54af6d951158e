//! Clouds and hypervisors behind small traits: servers, captures, images, instances.
//!
//! Owns the provider traits, their decorators, the conformance suites and the providers. Must not know archives,
//! policies, schedules or the ledger.

mod capabilities;
pub mod conformance;
mod flight;
pub mod hook;
mod launch_specs;
pub mod leaves;
pub mod memory;
pub mod openstack;
pub mod qemu;
pub mod records;
mod relay;
mod retry;
mod switch;
mod traits;

pub use capabilities::{AWS_IMAGE_OPTIONS, AZURE_IMAGE_OPTIONS, Capabilities, capabilities};
pub use flight::{Flight, Turn};
pub use launch_specs::{Restore, Spec, without_tpm};
pub use relay::{CopyRequest, CopyState, ImageCopy, Peer, Relay, Route};
pub use retry::{RetryOptions, Retrying};
pub use switch::{Stop, Switch, stays_on};
pub use traits::{
    Capture, CaptureRequest, CapturedDisk, Cloud, Consistent, Console, Hook, ImageDisk, Instance, LaunchOptions,
    Network, Outcome, Power, ProbeState, Resource, Server, Source, Target, WriteStyle,
};

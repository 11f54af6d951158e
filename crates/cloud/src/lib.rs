//! Clouds and hypervisors behind small traits: servers, captures, images, instances.
//!
//! Owns the provider traits, their decorators, the conformance suites and the providers. Must not know archives,
//! policies, schedules or the ledger.

pub mod memory;
pub mod qemu;
mod traits;

pub use traits::{
    Capture, CaptureRequest, CapturedDisk, Cloud, Consistent, Console, Hook, ImageDisk, Instance, LaunchOptions,
    Network, Outcome, Power, ProbeState, Resource, Server, Source, Target,
};

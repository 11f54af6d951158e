//! A simulated cloud with real bytes, for the tests of `replicate` and for anyone who wants to try it without an
//! account: the EC2 query API, the EBS direct API, STS and Systems Manager's Run Command, and Azure's disks, snapshots and machines, over HTTP, with
//! signatures checked, block data on disk, machines that boot, a clock that can be moved, and faults by rule.
//!
//! It knows nothing of the product, and shares no code with it: what both believed of a cloud would otherwise be
//! tested against itself. What it is held to are the providers' own models and SDKs (`python/`).

mod auth;
mod azure;
mod clock;
mod control;
mod ebs;
mod ec2;
mod error;
mod faults;
mod greeting;
mod http;
mod hypervisor;
mod iam;
mod limit;
mod limits;
mod log;
mod neutral;
mod route;
mod serve;
mod servers;
mod sim;
mod ssm;
mod store;
mod sts;
mod world;

pub use greeting::greeting;
pub use serve::serve;
pub use sim::{Options, Sim};

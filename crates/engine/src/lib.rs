//! Runs: plans, durable steps, streaming stages, the ledger, schedule, retention, restore and drills.
//!
//! Owns what happens when, and what must survive a crash. Must not know a provider, an object store, a file format or
//! the command line.

mod archive;
mod engine;
mod identity;
pub mod ledger;
mod observe;
mod pending;
mod proof;
mod records;
mod report;
mod request;

pub use archive::{Archive, ArchiveCheck, ArchiveWriter, CheckScope, Collected};
pub use engine::{Engine, Parts, Settings};
pub use observe::{Event, Observer, Silent};
pub use proof::{Proof, Rung, SignedProof, verify_proof};
pub use records::{
    CursorRecord, DestinationRecord, HoldRecord, OccurrenceRecord, RunKind, RunRecord, RunState, StepRecord,
    TombstoneRecord,
};
pub use report::*;
pub use request::*;

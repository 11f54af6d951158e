//! Runs: plans, durable steps, streaming stages, the ledger, schedule, retention, restore and drills.
//!
//! Owns what happens when, and what must survive a crash. Must not know a provider, an object store, a file format or
//! the command line.

mod adopt;
mod archive;
mod calendar;
mod catalogue;
mod check;
mod choose;
mod compact;
mod copies;
mod destinations;
mod drill;
mod engine;
mod files;
mod guards;
mod holdings;
mod identity;
mod image;
mod import;
mod journal;
mod ladder;
pub mod ledger;
mod meter;
mod moves;
mod observe;
mod plan;
mod plan_report;
mod probe;
mod proof;
mod prune;
mod recall;
mod records;
mod relayed;
mod report;
mod request;
mod restore;
mod route;
mod run;
mod schedule;
mod scrub;
mod steps;
mod sweep;
mod upkeep;

pub use archive::{Archive, ArchiveCheck, ArchiveWriter, CheckScope, Collected, LazyArchive};
pub use calendar::{Calendar, Due};
pub use compact::CompactSettings;
pub use engine::{Engine, Parts, Settings};
pub use import::server_of_file;
pub use moves::{MoveEnd, MoveRecord, MoveReport, MoveRequest, MoveStage};
pub use observe::{Event, Observer, Silent};
pub use plan_report::*;
pub use proof::{Proof, Rung, SignedProof, verify_proof};
pub use records::{
    CursorRecord, DestinationRecord, HoldRecord, OccurrenceRecord, RunKind, RunRecord, RunState, StepRecord,
    TombstoneRecord,
};
pub use report::*;
pub use request::*;
pub use upkeep::*;

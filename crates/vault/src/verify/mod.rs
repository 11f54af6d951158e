//! Scrubbing: what is read back and what is found.

use std::collections::BTreeMap;

use model::PointId;
use serde::{Deserialize, Serialize};

use crate::layout::PackId;

/// Which packs are read back.
#[derive(Debug, Clone)]
pub enum VerifyScope {
    /// All of them.
    All,
    /// A random share, in percent.
    Sample(f64),
    /// Those that the caller did not see verified lately: packs that are not in the set.
    NotVerifiedFor(std::collections::BTreeSet<PackId>),
    /// Everything that one point needs, and its roots from its bytes.
    Point(PointId),
    /// Only what a point has added over its parent: cost in proportion to the change.
    Added(PointId),
}

/// A pack with damage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedPack {
    /// Its name, hexadecimal.
    pub pack: String,
    /// The frames that do not read back; empty if the whole pack is missing or unreadable.
    pub frames: Vec<u32>,
    /// What is wrong.
    pub why: String,
}

/// What a scrub found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// Packs that were read back whole, hexadecimal.
    pub packs: Vec<String>,
    /// Bytes that were read.
    pub bytes: u64,
    /// Packs with damage.
    pub damaged: Vec<DamagedPack>,
    /// Points that need damaged packs or do not fit their roots, with the reason.
    pub affected: BTreeMap<String, String>,
    /// Points whose maps and roots were checked.
    pub points: Vec<PointId>,
}

impl VerifyReport {
    /// Whether everything that was read is as it must be.
    pub fn is_clean(&self) -> bool {
        self.damaged.is_empty() && self.affected.is_empty()
    }
}

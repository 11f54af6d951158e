//! Which restore points to keep: small pure rules over verified points.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What to keep. A point is kept if any rule keeps it; nothing at all set means: keep everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keep {
    /// The newest so many.
    pub last: u32,
    /// The newest of each of so many hours that have one.
    pub hourly: u32,
    /// The newest of each of so many days.
    pub daily: u32,
    /// The newest of each of so many ISO weeks.
    pub weekly: u32,
    /// The newest of each of so many months.
    pub monthly: u32,
    /// The newest of each of so many years.
    pub yearly: u32,
    /// Everything younger than this, counted from the newest good point.
    pub within: Option<Duration>,
}

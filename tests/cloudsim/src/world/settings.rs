//! How ugly the weather is and where the limits lie. Everything here can be set while the simulator runs.

use serde::{Deserialize, Serialize};

/// All settings.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) weather: Weather,
    pub(crate) limits: Limits,
}

/// What takes time, and what is not yet to be seen. Simulated seconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Weather {
    /// How long the EC2 API does not find what was just made.
    pub(crate) invisible_seconds: f64,
    /// How long CreateTags and DeleteTags take to be seen.
    pub(crate) tags_seconds: f64,
    pub(crate) snapshot_seconds: f64,
    /// From CompleteSnapshot to `completed`.
    pub(crate) seal_seconds: f64,
    pub(crate) copy_seconds: f64,
    pub(crate) image_seconds: f64,
    pub(crate) volume_seconds: f64,
    /// Long-running operations of Azure's Resource Manager.
    pub(crate) arm_seconds: f64,
    pub(crate) instance_seconds: f64,
    /// Until a version of a gallery has come to a region, and to which regions none comes.
    pub(crate) replicate_seconds: f64,
    pub(crate) bad_regions: Vec<String>,
    /// How long Run Command does not find what was just sent.
    pub(crate) command_seconds: f64,
    /// Every listing that is paged has empty pages with a NextToken between the full ones.
    pub(crate) empty_pages: bool,
    /// What a block that was never written holds in an encrypted or parented snapshot: anything but zeroes.
    pub(crate) unwritten_pattern: u8,
}

impl Default for Weather {
    fn default() -> Self {
        Self {
            invisible_seconds: 120.0,
            tags_seconds: 30.0,
            snapshot_seconds: 60.0,
            seal_seconds: 30.0,
            copy_seconds: 300.0,
            image_seconds: 60.0,
            volume_seconds: 10.0,
            arm_seconds: 15.0,
            instance_seconds: 20.0,
            replicate_seconds: 1800.0,
            bad_regions: Vec::new(),
            command_seconds: 2.0,
            empty_pages: true,
            unwritten_pattern: 0xa5,
        }
    }
}

impl Weather {
    /// Everything at once and to be seen at once: for those who test something else.
    pub(crate) fn calm() -> Self {
        Self {
            invisible_seconds: 0.0,
            tags_seconds: 0.0,
            snapshot_seconds: 0.0,
            seal_seconds: 0.0,
            copy_seconds: 0.0,
            image_seconds: 0.0,
            volume_seconds: 0.0,
            arm_seconds: 0.0,
            instance_seconds: 0.0,
            replicate_seconds: 0.0,
            command_seconds: 0.0,
            empty_pages: false,
            ..Self::default()
        }
    }
}

/// Requests per real second, each as the size of a bucket and its refill, and how many at once. The provider's
/// figures, for one account in one region.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Limits {
    /// EC2: describing calls.
    pub(crate) read: (f64, f64),
    /// The same, when a call names neither ids nor filters nor a page.
    pub(crate) read_all: (f64, f64),
    /// EC2: calls that change something.
    pub(crate) write: (f64, f64),
    /// EBS: Get and Put, for the account.
    pub(crate) blocks: (f64, f64),
    /// EBS: Get and Put, for one snapshot.
    pub(crate) blocks_of_snapshot: (f64, f64),
    pub(crate) lists: (f64, f64),
    pub(crate) starts: (f64, f64),
    pub(crate) completes: (f64, f64),
    /// Snapshots of the direct API that are open at once.
    pub(crate) open_snapshots: usize,
    pub(crate) image_copies: usize,
    pub(crate) snapshot_copies: usize,
    /// Snapshots of one volume that are pending at once.
    pub(crate) pending_of_volume: usize,
    /// Requests of one account in flight; above it the answer is 503.
    pub(crate) parallel: usize,
    /// Requests for one page blob, and how many at once; above it the answer is 503.
    pub(crate) blob_requests: (f64, f64),
    pub(crate) blob_parallel: usize,
    /// Above so many page ranges in one answer the provider times out. 0: never.
    pub(crate) ranges_in_time: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            read: (100.0, 20.0),
            read_all: (50.0, 10.0),
            write: (50.0, 5.0),
            blocks: (1000.0, 1000.0),
            blocks_of_snapshot: (1000.0, 1000.0),
            lists: (50.0, 50.0),
            starts: (10.0, 10.0),
            completes: (10.0, 10.0),
            open_snapshots: 100,
            image_copies: 5,
            snapshot_copies: 20,
            pending_of_volume: 5,
            parallel: 256,
            blob_requests: (500.0, 500.0),
            blob_parallel: 64,
            ranges_in_time: 0,
        }
    }
}

//! The resources of an account in a region, as they are saved. States that change by themselves are instants, and
//! what is shown is computed from the clock.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Tags, and since when they are to be seen.
pub(crate) type Tags = BTreeMap<String, String>;

/// What every resource has.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Base {
    pub(crate) id: String,
    pub(crate) account: String,
    pub(crate) region: String,
    pub(crate) created: Timestamp,
    /// Before it the resource is not found by the EC2 API: reads lag behind writes.
    pub(crate) visible: Timestamp,
    pub(crate) tags: Tags,
    /// What DescribeTags and the resource's own description show until `tags_visible`.
    pub(crate) tags_before: Tags,
    pub(crate) tags_visible: Timestamp,
}

impl Base {
    /// The tags as they are to be seen now.
    pub(crate) fn tags(&self, now: Timestamp) -> &Tags {
        if now < self.tags_visible { &self.tags_before } else { &self.tags }
    }
}

/// Where a snapshot's bytes came from, and what it is still waiting for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Making {
    /// Of a volume: complete when the time has come.
    Volume,
    /// A copy; while it goes on it takes a slot.
    Copy,
    /// Blocks are put by the EBS direct API, until `deadline`.
    Open { deadline: Timestamp, minutes: u64, writer: u64 },
    /// All blocks were put.
    Sealed,
}

/// A lock on a snapshot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Lock {
    pub(crate) compliance: bool,
    pub(crate) created: Timestamp,
    pub(crate) cool_off: Option<Timestamp>,
    pub(crate) cool_off_hours: Option<u64>,
    pub(crate) days: u64,
    pub(crate) start: Timestamp,
    pub(crate) expires: Timestamp,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    pub(crate) base: Base,
    pub(crate) volume: String,
    pub(crate) gib: u64,
    pub(crate) description: String,
    pub(crate) key: Option<String>,
    pub(crate) completes: Timestamp,
    pub(crate) failed: Option<String>,
    pub(crate) making: Making,
    pub(crate) parent: Option<String>,
    /// Snapshots with the same have changed blocks to compare.
    pub(crate) lineage: String,
    pub(crate) shared: BTreeSet<String>,
    pub(crate) lock: Option<Lock>,
    /// Archived ones are refused by the direct API.
    pub(crate) archived: bool,
    pub(crate) minutes: Option<u64>,
}

impl Snapshot {
    /// `pending`, `completed` or `error`.
    pub(crate) fn state(&self, now: Timestamp) -> &'static str {
        match &self.making {
            _ if self.failed.is_some() => "error",
            Making::Open { deadline, .. } if now >= *deadline => "error",
            Making::Open { .. } => "pending",
            _ if now < self.completes => "pending",
            _ => "completed",
        }
    }

    /// Percent, as the API shows it.
    pub(crate) fn progress(&self, now: Timestamp) -> String {
        match self.state(now) {
            "completed" => "100%".to_owned(),
            "error" => "0%".to_owned(),
            _ if matches!(self.making, Making::Open { .. }) => "0%".to_owned(),
            _ => {
                let whole = self.completes.duration_since(self.base.created).as_secs_f64().max(0.001);
                let gone = now.duration_since(self.base.created).as_secs_f64();
                format!("{}%", ((gone / whole * 100.0) as u32).min(99))
            }
        }
    }

    /// Whether an account may make volumes of it.
    pub(crate) fn is_open_to(&self, account: &str) -> bool {
        self.base.account == account || self.shared.contains(account) || self.shared.contains("all")
    }
}

/// A disk of an image.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Mapping {
    pub(crate) device: String,
    pub(crate) snapshot: Option<String>,
    pub(crate) gib: u64,
    pub(crate) kind: String,
    pub(crate) iops: Option<u64>,
    pub(crate) throughput: Option<u64>,
    pub(crate) delete: bool,
    pub(crate) encrypted: bool,
    pub(crate) key: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Image {
    pub(crate) base: Base,
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    pub(crate) available: Timestamp,
    pub(crate) failed: Option<String>,
    pub(crate) copying: bool,
    pub(crate) architecture: String,
    pub(crate) root: String,
    pub(crate) mappings: Vec<Mapping>,
    pub(crate) ena: bool,
    pub(crate) sriov: bool,
    pub(crate) boot_mode: Option<String>,
    pub(crate) uefi_data: Option<String>,
    pub(crate) tpm: Option<String>,
    pub(crate) imds: Option<String>,
    pub(crate) shared: BTreeSet<String>,
    pub(crate) deprecated: Option<Timestamp>,
    pub(crate) protected: bool,
    /// Protection lasts until then after it was taken off.
    pub(crate) protected_until: Option<Timestamp>,
    pub(crate) cooldown: bool,
    pub(crate) source_instance: Option<String>,
    pub(crate) source_image: Option<(String, String)>,
    pub(crate) last_launch: Option<Timestamp>,
}

impl Image {
    pub(crate) fn state(&self, now: Timestamp) -> &'static str {
        match self.failed {
            Some(_) => "failed",
            None if now < self.available => "pending",
            None => "available",
        }
    }

    pub(crate) fn is_open_to(&self, account: &str) -> bool {
        self.base.account == account || self.shared.contains(account) || self.shared.contains("all")
    }
}

/// How a volume hangs on an instance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Attachment {
    pub(crate) instance: String,
    pub(crate) device: String,
    pub(crate) at: Timestamp,
    pub(crate) delete: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Volume {
    pub(crate) base: Base,
    pub(crate) zone: String,
    pub(crate) gib: u64,
    pub(crate) kind: String,
    pub(crate) iops: Option<u64>,
    pub(crate) throughput: Option<u64>,
    pub(crate) snapshot: Option<String>,
    pub(crate) key: Option<String>,
    pub(crate) available: Timestamp,
    pub(crate) attached: Option<Attachment>,
    /// The newest snapshot of it: what a block is compared with to tell whether it has changed.
    pub(crate) last_snapshot: Option<String>,
}

/// What an instance is wanted to be; QEMU is held to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Wish {
    Running,
    Stopped,
    Terminated,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Instance {
    pub(crate) base: Base,
    pub(crate) reservation: String,
    pub(crate) index: u64,
    pub(crate) image: String,
    pub(crate) kind: String,
    pub(crate) architecture: String,
    pub(crate) boot_mode: Option<String>,
    pub(crate) root: String,
    pub(crate) zone: String,
    pub(crate) subnet: String,
    pub(crate) vpc: String,
    pub(crate) groups: Vec<String>,
    pub(crate) key_name: Option<String>,
    pub(crate) token: Option<String>,
    pub(crate) user_data: Option<String>,
    pub(crate) profile: Option<String>,
    pub(crate) ena: bool,
    pub(crate) tpm: Option<String>,
    pub(crate) http_tokens: String,
    pub(crate) uefi_data: Option<String>,
    pub(crate) ip: String,
    pub(crate) mac: String,
    pub(crate) launched: Timestamp,
    pub(crate) wish: Wish,
    /// When the last change of `wish` has come true: until then the state is the passing one.
    pub(crate) settles: Timestamp,
    pub(crate) reason: String,
    pub(crate) terminate_on_shutdown: bool,
    pub(crate) api_termination: bool,
}

impl Instance {
    /// All types here can do both, so that what prefers UEFI gets it.
    pub(crate) fn boots_by_uefi(&self) -> bool {
        matches!(self.boot_mode.as_deref(), Some("uefi" | "uefi-preferred"))
    }

    /// Code and name.
    pub(crate) fn state(&self, now: Timestamp) -> (u32, &'static str) {
        let settled = now >= self.settles;
        match (self.wish, settled) {
            (Wish::Running, false) => (0, "pending"),
            (Wish::Running, true) => (16, "running"),
            (Wish::Stopped, false) => (64, "stopping"),
            (Wish::Stopped, true) => (80, "stopped"),
            (Wish::Terminated, false) => (32, "shutting-down"),
            (Wish::Terminated, true) => (48, "terminated"),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Group {
    pub(crate) base: Base,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) vpc: String,
    /// Whether anything may leave: a new group lets everything out.
    pub(crate) open_egress: bool,
    pub(crate) is_default: bool,
}

/// What is there without anybody having made it: networks, key pairs, launch templates.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Fixture {
    pub(crate) base: Base,
    pub(crate) name: String,
    /// Zone of a subnet, image of a launch template.
    pub(crate) about: String,
    pub(crate) vpc: String,
    pub(crate) cidr: String,
}

//! What the Azure half keeps. Resources are found by their ids in lower case: ids there are not sensitive to case.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::encryption::Encryption;
use super::galleries::{Definition, Version};
use super::points::{Collection, Point};
use super::rights::Role;
use crate::world::resource::Tags;

/// The subscription, the tenant and the application that exist.
pub(crate) const SUBSCRIPTION: &str = "00000000-0000-4000-8000-000000000001";
pub(crate) const TENANT: &str = "00000000-0000-4000-8000-00000000000a";
pub(crate) const CLIENT: &str = "00000000-0000-4000-8000-00000000000c";
pub(crate) const SECRET: &str = "simulated-client-secret";
/// Resource groups, and where they are.
pub(crate) const GROUPS: [(&str, &str); 2] = [("prod", "westeurope"), ("dr", "northeurope")];

/// All of it.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Azure {
    /// Bearer tokens: until when they are good, and whose they are.
    pub(crate) tokens: BTreeMap<String, (Timestamp, String)>,
    /// What applications show beside the secret: certificates (DER), and tokens of whom they trust.
    pub(crate) credentials: BTreeMap<String, Vec<Vec<u8>>>,
    /// What applications beside the owner may do.
    pub(crate) roles: BTreeMap<String, Vec<Role>>,
    pub(crate) resources: BTreeMap<String, Resource>,
    pub(crate) machines: BTreeMap<String, Vm>,
    pub(crate) operations: BTreeMap<String, Operation>,
    /// Collections of restore points, and the points in them.
    pub(crate) collections: BTreeMap<String, Collection>,
    pub(crate) points: BTreeMap<String, Point>,
    /// Definitions of galleries, and their versions.
    pub(crate) definitions: BTreeMap<String, Definition>,
    pub(crate) versions: BTreeMap<String, Version>,
    /// What a SAS opens, by its name.
    pub(crate) accesses: BTreeMap<String, Access>,
}

/// A disk or a snapshot: the Resource Manager tells them apart by little.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Resource {
    /// As it was written by whoever made it.
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) location: String,
    pub(crate) tags: Tags,
    pub(crate) created: Timestamp,
    /// `Updating` until then.
    pub(crate) ready: Timestamp,
    /// Names its bytes.
    pub(crate) unique: String,
    pub(crate) bytes: u64,
    pub(crate) sku: String,
    pub(crate) os_type: Option<String>,
    pub(crate) generation: Option<String>,
    pub(crate) security: Option<String>,
    #[serde(default)]
    pub(crate) encryption: Encryption,
    pub(crate) option: String,
    pub(crate) source: Option<String>,
    /// Snapshots of one family can be compared.
    pub(crate) family: String,
    pub(crate) access: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    Disk {
        /// The size of the file that is being uploaded, footer included.
        upload: Option<u64>,
        /// The newest snapshot's bytes, for what has changed since.
        last: Option<String>,
    },
    Snapshot {
        incremental: bool,
        /// From another region; complete then.
        copied: Option<Timestamp>,
        /// Cannot be deleted for so many days from then on.
        kept: Option<(Timestamp, u32)>,
        locked: bool,
    },
}

/// A long-running operation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Operation {
    pub(crate) started: Timestamp,
    pub(crate) ready: Timestamp,
    pub(crate) output: Option<serde_json::Value>,
    pub(crate) error: Option<(String, String)>,
}

/// A SAS.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Access {
    pub(crate) resource: String,
    pub(crate) write: bool,
    pub(crate) expires: Timestamp,
    pub(crate) signature: String,
}

/// A virtual machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Vm {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) location: String,
    pub(crate) tags: Tags,
    pub(crate) created: Timestamp,
    pub(crate) ready: Timestamp,
    pub(crate) unique: String,
    pub(crate) size: String,
    pub(crate) os_type: String,
    /// Ids of its disks, the system's first.
    pub(crate) disks: Vec<String>,
    pub(crate) cards: Vec<String>,
    pub(crate) uefi: bool,
    pub(crate) security: Option<serde_json::Value>,
    pub(crate) diagnostics: bool,
    pub(crate) power: Power,
}

impl Vm {
    /// Whether a disk is attached to it.
    pub(crate) fn has(&self, disk: &str) -> bool {
        self.disks.iter().any(|id| id.eq_ignore_ascii_case(disk))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Power {
    Running,
    Stopped,
    Deallocated,
}

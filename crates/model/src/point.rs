//! Restore points and their replicas.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{DiskName, Gallery, ImageId, MachineSpec, OwnerId, PointId, PolicyName, ServerName, SiteName, VaultName};

/// How consistent the captured instant is, from weakest to strongest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consistency {
    /// As after a power cut: all disks at one instant.
    Crash,
    /// File systems were frozen by the guest agent.
    Filesystem,
    /// The application's own hooks ran around a frozen file system.
    Application,
}

impl fmt::Display for Consistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Consistency::Crash => "crash",
            Consistency::Filesystem => "filesystem",
            Consistency::Application => "application",
        })
    }
}

/// The Merkle root of a disk's guest-visible bytes (see `disk::root`): equal roots, equal disks, in any container.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DiskRoot(pub [u8; 32]);

impl DiskRoot {
    /// The root as 64 hexadecimal digits.
    pub fn to_hex(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Reads 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        // `from_str_radix` would take `+f` for a byte
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for DiskRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.to_hex())
    }
}

impl fmt::Debug for DiskRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl Serialize for DiskRoot {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_hex())
    }
}

impl<'de> Deserialize<'de> for DiskRoot {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::from_hex(&text).ok_or_else(|| serde::de::Error::custom("a disk root has 64 hexadecimal digits"))
    }
}

/// A disk as it was at the point's instant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointDisk {
    /// Its name.
    pub name: DiskName,
    /// Size in bytes.
    pub size: u64,
    /// The root of its bytes.
    pub root: DiskRoot,
}

/// One instant of a server, as a thing that can be restored. Travels inside every replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestorePoint {
    /// Its id, the text of the run that made it.
    pub id: PointId,
    /// Of which server.
    pub server: ServerName,
    /// Where the server ran; none for an imported disk image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<SiteName>,
    /// Which policy asked; none for imports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyName>,
    /// Which installation made it. An installation whose ledger does not know a point of its own has been set back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<OwnerId>,
    /// The captured instant.
    pub taken_at: Timestamp,
    /// The level that was reached, not the one that was asked for.
    pub consistency: Consistency,
    /// What boots the disks.
    pub machine: MachineSpec,
    /// The disks, in boot order.
    pub disks: Vec<PointDisk>,
    /// The program that made it, `replicate 0.1.0`.
    pub program: String,
}

/// Where a replica is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// An archive in a vault.
    Vault(VaultName),
    /// A native, bootable image at a site.
    Site(SiteName),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Vault(vault) => write!(f, "vault:{vault}"),
            Place::Site(site) => write!(f, "{site}"),
        }
    }
}

/// What is known about a replica. Only `Verified` and `Proven` count for retention and RPO.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplicaState {
    /// Committed; its bytes were not checked yet.
    Committed,
    /// Its bytes were read back and the roots fit.
    Verified,
    /// It booted in a drill.
    Proven,
    /// Its bytes do not fit their roots, or parts are missing.
    Damaged,
    /// Retention will delete it after the grace period, unless it is needed by then.
    Doomed,
}

impl ReplicaState {
    /// Whether the replica may be counted on.
    pub fn is_good(self) -> bool {
        matches!(self, ReplicaState::Verified | ReplicaState::Proven)
    }
}

/// How far a published image is in a region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Replication {
    /// It is being copied there, or will be.
    Underway,
    /// Servers can be made of it there.
    Done,
    /// It did not come there, and why; it is begun anew.
    Failed(String),
}

/// An image as it is published.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Published {
    /// What others call it.
    pub version: String,
    /// As it was asked for.
    pub asked: Gallery,
    /// By region.
    pub regions: BTreeMap<String, Replication>,
}

impl Published {
    /// Whether all regions have it.
    pub fn is_whole(&self) -> bool {
        !self.regions.is_empty() && self.regions.values().all(|state| *state == Replication::Done)
    }
}

/// A restore point held somewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// Which point.
    pub point: PointId,
    /// Where.
    pub place: Place,
    /// The image at a site; none for an archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageId>,
    /// What is known about it.
    pub state: ReplicaState,
    /// When its bytes were last read back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_at: Option<Timestamp>,
    /// When it last booted in a drill.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proven_at: Option<Timestamp>,
    /// When retention marked it; deletion waits for the grace period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doomed_at: Option<Timestamp>,
    /// When its protection was taken off so that it can be deleted; put on again if it is kept after all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unprotected_at: Option<Timestamp>,
    /// Whether it was taken off people's lists, since a newer one is there.
    #[serde(default)]
    pub hidden: bool,
    /// Where it is published, as it was seen last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<Published>,
    /// Bytes that this replica added where it is.
    #[serde(default)]
    pub stored_bytes: u64,
}

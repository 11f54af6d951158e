//! What can be asked of the engine: plain data, so that a command can hand it to the daemon.

use std::path::PathBuf;

use jiff::Timestamp;
use model::{Arch, DiskName, Firmware, Place, PointId, PolicyName, ServerName, SiteName, VaultName, Via};
use serde::{Deserialize, Serialize};

use crate::CheckScope;

/// Which point of a server, and from where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// Which server.
    pub server: ServerName,
    /// The newest verified point at or before this; none: the newest.
    #[serde(default)]
    pub at: Option<Timestamp>,
    /// Exactly this point.
    #[serde(default)]
    pub point: Option<PointId>,
    /// Only from this replica.
    #[serde(default)]
    pub from: Option<Place>,
    /// How its bytes come to a site.
    #[serde(default)]
    pub via: Via,
}

/// In which form a disk is written to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileFormat {
    /// Sparse raw bytes.
    Raw,
    /// qcow2.
    Qcow2,
}

/// Where a restore goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum RestoreTo {
    /// An image at a site, launched or not.
    Site {
        /// Which site.
        site: SiteName,
        /// Name of the new server; the old name by default.
        #[serde(default)]
        name: Option<ServerName>,
        /// Whether to start it.
        launch: bool,
    },
    /// A disk as a file. With several disks, and none named, the files are `stem-<disk>.ext`.
    File {
        /// Which file; must not exist.
        path: PathBuf,
        /// In which form.
        format: FileFormat,
        /// Only this disk.
        #[serde(default)]
        disk: Option<DiskName>,
    },
}

/// A restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreRequest {
    /// Of what.
    #[serde(flatten)]
    pub choice: Choice,
    /// To where.
    pub to: RestoreTo,
}

/// A drill: restore, check, measure, destroy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillRequest {
    /// Of what.
    #[serde(flatten)]
    pub choice: Choice,
    /// Where to boot; the policy's site, else the first site that can, by default.
    #[serde(default)]
    pub site: Option<SiteName>,
}

/// A disk image that becomes a restore point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportRequest {
    /// The disk images, in boot order.
    pub files: Vec<PathBuf>,
    /// Their format; `None` by the file's name (`.qcow2`, else raw), never by looking into guest bytes.
    #[serde(default)]
    pub format: Option<FileFormat>,
    /// As which server.
    pub server: ServerName,
    /// To where.
    pub to: Vec<Place>,
    /// Processor architecture.
    pub arch: Arch,
    /// Firmware.
    pub firmware: Firmware,
    /// Memory in bytes.
    pub memory: u64,
    /// Processors.
    pub vcpus: u32,
}

/// Which runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRequest {
    /// Which policy.
    pub policy: PolicyName,
    /// Only this server.
    #[serde(default)]
    pub server: Option<ServerName>,
}

/// What to verify.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyRequest {
    /// How much of each vault.
    pub scope: CheckScope,
    /// Only this vault.
    #[serde(default)]
    pub vault: Option<VaultName>,
    /// Only this site's images.
    #[serde(default)]
    pub site: Option<SiteName>,
    /// Only points of this server.
    #[serde(default)]
    pub server: Option<ServerName>,
}

/// What to prune.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneRequest {
    /// Only show what would happen.
    #[serde(default)]
    pub dry: bool,
    /// Only this server.
    #[serde(default)]
    pub server: Option<ServerName>,
    /// Also free what the vaults no longer need.
    #[serde(default)]
    pub collect: bool,
    /// Take the marks of this point back instead.
    #[serde(default)]
    pub keep: Option<PointId>,
}

/// What to compact. What is left out is as the vault's settings say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompactRequest {
    /// Only this vault.
    #[serde(default)]
    pub vault: Option<VaultName>,
    /// Only show what would happen.
    #[serde(default)]
    pub dry: bool,
    /// Instead of the configured waste.
    #[serde(default)]
    pub waste: Option<u8>,
    /// Instead of the configured level.
    #[serde(default)]
    pub level: Option<i32>,
    /// Compress everything again that was compressed at a lower level, whatever its age.
    #[serde(default)]
    pub recompress: bool,
}

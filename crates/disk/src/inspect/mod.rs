//! What is inside a disk, without booting or mounting it: partitions, file systems, the operating system, what boots it and on what, and
//! what of a server's identity lies in it. Reads a few MiB, wherever the disk is: also straight from a vault.
//!
//! All of it is written by guests: nothing is believed, everything is bounded, a parser that trips is an error of that volume only.

mod efi;
mod initramfs;
mod system;
mod table;
#[cfg(test)]
mod tests;
mod volume;
mod window;

use std::collections::BTreeMap;
use std::sync::Arc;

use model::{Error, Kind, Result};
use serde::{Deserialize, Serialize};

use self::window::Window;
use crate::DiskRead;

/// What is inside a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Inspection {
    /// Its size in bytes.
    pub size: u64,
    /// `gpt`, `mbr`; none for a disk without a partition table.
    pub table: Option<String>,
    /// Whether its first sector has a boot loader for BIOS.
    pub boot_sector: bool,
    /// Its partitions; a disk without a table is one volume, numbered 0.
    pub volumes: Vec<Volume>,
    /// Programs that UEFI can start, as paths on their partition.
    pub efi_programs: Vec<String>,
    /// Operating systems that were found.
    pub systems: Vec<System>,
    /// What could not be looked into, and why.
    pub unknown: Vec<String>,
}

impl Inspection {
    /// Which firmware can boot the disk: `bios`, `uefi`.
    pub fn firmware(&self) -> Vec<&'static str> {
        let mut found = Vec::new();
        if self.boot_sector {
            found.push("bios");
        }
        if !self.efi_programs.is_empty() {
            found.push("uefi");
        }
        found
    }
}

/// A range of the disk that holds something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Volume {
    /// Its number in the table, from 1.
    pub number: u32,
    /// Where it begins, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
    /// What the table says it is for.
    pub purpose: String,
    /// What is in it: `ext4`, `vfat`, `xfs`, `swap`, `lvm`, `luks`, ...; none if nothing is known about it.
    pub content: Option<String>,
    /// The file system's label.
    pub label: Option<String>,
    /// The file system's UUID.
    pub uuid: Option<String>,
}

/// An operating system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct System {
    /// The volume with its root.
    pub volume: u32,
    /// Its name for people, from os-release.
    pub name: String,
    /// Its id and version, `debian 12`.
    pub release: String,
    /// Its host name.
    pub hostname: Option<String>,
    /// Its kernels.
    pub kernels: Vec<Kernel>,
    /// What it will trip over elsewhere, and what of its identity and secrets it carries.
    pub findings: Vec<Finding>,
}

/// A kernel and what it can boot from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Kernel {
    /// Its version, as its files are named.
    pub version: String,
    /// By kind of disk: `builtin`, `initramfs`, or `missing`.
    pub drivers: BTreeMap<String, String>,
    /// Why the drivers are not all known.
    pub note: Option<String>,
}

/// What a person should know of a system.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Finding {
    /// `boot` (it may not boot elsewhere), `identity` (two copies would be taken for one), `secret` (whoever has the disk has it).
    pub kind: String,
    /// What.
    pub what: String,
}

impl Finding {
    fn new(kind: &str, what: impl Into<String>) -> Self {
        Self { kind: kind.to_owned(), what: what.into() }
    }
}

/// Looks into a disk.
pub async fn inspect(disk: Arc<dyn DiskRead>) -> Result<Inspection> {
    let operation = format!("cannot inspect {}", disk.describe());
    let handle = tokio::runtime::Handle::current();
    let look = move || {
        let window = Window::new(disk, handle);
        let found = look(&window);
        // trouble of the disk is worse than what its bytes say
        window.trouble().map_or(Ok(found), Err)
    };
    match tokio::task::spawn_blocking(look).await {
        Ok(found) => found.map_err(|error| error.within(operation)),
        Err(error) if error.is_cancelled() => Err(Error::new(Kind::Cancelled, operation).because(error)),
        // a parser that trips over what a guest wrote
        Err(_) => Err(Error::new(Kind::Damaged, operation).because("its contents make no sense")),
    }
}

fn look(window: &Window) -> Inspection {
    let mut found = Inspection { size: window.len(), ..Inspection::default() };
    table::read(window, &mut found);
    for volume in &mut found.volumes {
        volume::recognise(&window.part(volume.offset, volume.len), volume);
    }
    efi::read(window, &mut found);
    system::read(window, &mut found);
    found
}

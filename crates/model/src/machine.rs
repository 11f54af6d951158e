//! What a target must know to boot a server's disks: architecture, firmware, buses, network cards, memory.

use serde::{Deserialize, Serialize};

use crate::{DiskName, Tags};

/// Processor architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arch {
    /// 64-bit x86.
    #[serde(alias = "x86_64")]
    X86_64,
    /// 64-bit Arm.
    Aarch64,
}

/// What the machine boots with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Firmware {
    /// Legacy BIOS.
    Bios,
    /// UEFI, with the content of its variable store (base64) where the source could read it: boot entries and
    /// secure-boot keys live there.
    Uefi {
        /// Whether secure boot is enforced.
        #[serde(default)]
        secure_boot: bool,
        /// The variable store, base64 of zstd of the raw bytes, if it could be read.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        variables: Option<String>,
    },
}

/// How a disk is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskBus {
    /// virtio-blk.
    Virtio,
    /// SCSI (virtio-scsi on QEMU).
    Scsi,
    /// NVMe.
    Nvme,
    /// SATA.
    Sata,
    /// IDE.
    Ide,
}

/// A disk of the machine, in boot order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSpec {
    /// Its name, stable between captures.
    pub name: DiskName,
    /// Size in bytes, a multiple of 512.
    pub size: u64,
    /// How it is attached.
    pub bus: DiskBus,
    /// The serial number that the guest sees, if one is set: guests mount by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
}

/// A network card.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicSpec {
    /// Its hardware address, `52:54:00:12:34:56`, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// The model in QEMU's words (`virtio-net-pci`).
    pub model: String,
    /// The name of its network at the source, if the source has networks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Its fixed addresses at the source.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// The names of its security groups at the source.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub security_groups: Vec<String>,
}

/// The machine itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineSpec {
    /// Processor architecture.
    pub arch: Arch,
    /// What it boots with.
    pub firmware: Firmware,
    /// Memory in bytes.
    pub memory: u64,
    /// Number of virtual processors.
    pub vcpus: u32,
    /// The chipset in QEMU's words (`q35`, `pc`, `virt`), if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chipset: Option<String>,
    /// The source's name for this size of machine (`m1.small`), if it has one: a mapping at the target begins with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flavor: Option<String>,
    /// Disks in boot order.
    pub disks: Vec<DiskSpec>,
    /// Network cards.
    #[serde(default)]
    pub nics: Vec<NicSpec>,
    /// Whether a guest-agent channel was there.
    #[serde(default)]
    pub agent: bool,
    /// Whether it has a TPM. What that keeps is in no capture: a restored server's is a new one, and empty.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tpm: bool,
    /// The server's own tags.
    #[serde(default)]
    pub tags: Tags,
}

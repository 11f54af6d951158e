//! The optional file `NAME.toml` beside a server's QMP socket: its tags, and what cannot be asked while it is off.
//!
//! ```toml
//! tags = { backup = "daily" }
//! agent = "/run/guests/web-1.ga"      # guest-agent socket; found by itself in a running guest
//!
//! # For times when the guest is off (all but `disks` optional):
//! arch = "x86_64"                     # or aarch64
//! memory = "2GiB"
//! vcpus = 2
//! chipset = "q35"
//! firmware = { kind = "uefi", variables = "/srv/guests/web-1.vars.fd", secure-boot = false }   # default: bios
//! nics = [{ mac = "52:54:00:12:34:56", model = "virtio-net-pci" }]
//!
//! [[disks]]                           # in boot order
//! name = "disk0"                      # also names the disk with this path while the guest runs
//! path = "/srv/guests/web-1.qcow2"
//! format = "qcow2"                    # or raw; never guessed
//! bus = "virtio"                      # scsi, nvme, sata, ide
//! serial = "web-1-root"
//! ```

use std::path::{Path, PathBuf};

use model::{Arch, DiskBus, DiskName, Error, Kind, NicSpec, Result, Tags};
use serde::Deserialize;

/// Format of a disk file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Plain bytes.
    Raw,
    /// qcow2.
    Qcow2,
}

impl Format {
    /// QEMU's name of it.
    pub fn driver(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
        }
    }
}

/// A disk as the sidecar describes it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SidecarDisk {
    /// Its name.
    pub name: DiskName,
    /// Its file or block device.
    pub path: PathBuf,
    /// What is in the file.
    pub format: Format,
    /// How it is attached.
    #[serde(default = "virtio")]
    pub bus: DiskBus,
    /// The serial number that the guest sees.
    pub serial: Option<String>,
}

/// Which firmware boots the server while it is described by the sidecar.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", tag = "kind")]
pub enum SidecarFirmware {
    /// Legacy BIOS.
    #[default]
    Bios,
    /// UEFI.
    #[serde(rename_all = "kebab-case")]
    Uefi {
        /// File of its variable store.
        variables: Option<PathBuf>,
        /// Whether secure boot is enforced.
        #[serde(default)]
        secure_boot: bool,
    },
}

/// A whole sidecar.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Sidecar {
    /// The server's tags.
    pub tags: Tags,
    /// Its guest-agent socket.
    pub agent: Option<PathBuf>,
    /// Its architecture.
    pub arch: Option<Arch>,
    memory: Option<toml::Value>,
    /// Number of virtual processors.
    pub vcpus: Option<u32>,
    /// Its chipset.
    pub chipset: Option<String>,
    /// Its firmware.
    pub firmware: SidecarFirmware,
    /// Its network cards.
    pub nics: Vec<NicSpec>,
    /// Its disks, in boot order.
    pub disks: Vec<SidecarDisk>,
}

fn virtio() -> DiskBus {
    DiskBus::Virtio
}

impl Sidecar {
    /// Reads the sidecar beside a socket; without one, nothing is known.
    pub async fn beside(socket: &Path) -> Result<Option<Self>> {
        let path = socket.with_extension("toml");
        let operation = || format!("cannot read sidecar {}", path.display());
        let text = match tokio::fs::read_to_string(&path).await {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(operation(), error)),
        };
        let wrong = |reason: String| Error::new(Kind::Invalid, operation()).because(reason);
        let sidecar: Self = toml::from_str(&text).map_err(|error| wrong(error.to_string().trim_end().to_owned()))?;
        if let Some(memory) = &sidecar.memory
            && bytes(memory).is_none()
        {
            return Err(wrong(format!("`memory` is {memory}: write a size such as \"2GiB\"")));
        }
        Ok(Some(sidecar))
    }

    /// Memory in bytes; 1 GiB if not told.
    pub fn memory(&self) -> u64 {
        self.memory.as_ref().and_then(bytes).unwrap_or(1 << 30)
    }

    /// The name that the sidecar gives to the disk with this file.
    pub fn name_of(&self, file: &str) -> Option<&DiskName> {
        self.disks.iter().find(|disk| disk.path == Path::new(file)).map(|disk| &disk.name)
    }
}

/// A size: a number of bytes, or a text with a binary unit.
fn bytes(value: &toml::Value) -> Option<u64> {
    match value {
        toml::Value::Integer(bytes) => u64::try_from(*bytes).ok(),
        toml::Value::String(text) => {
            let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
            let (number, unit) = text.split_at(digits);
            let shift = match unit.trim() {
                "" => 0,
                "KiB" => 10,
                "MiB" => 20,
                "GiB" => 30,
                "TiB" => 40,
                _ => return None,
            };
            number.parse::<u64>().ok()?.checked_mul(1 << shift)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(text: &str) -> Result<Option<Sidecar>> {
        let folder = std::env::temp_dir().join(format!("replicate-sidecar-{}-{}", std::process::id(), text.len()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("web-1.toml"), text).unwrap();
        let sidecar = Sidecar::beside(&folder.join("web-1.qmp")).await;
        std::fs::remove_dir_all(&folder).unwrap();
        sidecar
    }

    #[tokio::test]
    async fn the_documented_form_is_read() {
        let text = include_str!("sidecar.rs");
        let sample: String = text
            .lines()
            .skip_while(|line| *line != "//! ```toml")
            .skip(1)
            .take_while(|line| *line != "//! ```")
            .map(|line| format!("{}\n", line.trim_start_matches("//!")))
            .collect();
        let sidecar = read(&sample).await.unwrap().unwrap();
        assert_eq!(sidecar.memory(), 2 << 30);
        assert_eq!(sidecar.disks[0].format, Format::Qcow2);
        assert_eq!(sidecar.name_of("/srv/guests/web-1.qcow2").unwrap().as_str(), "disk0");
        assert!(matches!(&sidecar.firmware, SidecarFirmware::Uefi { variables: Some(_), secure_boot: false }));
    }

    #[tokio::test]
    async fn mistakes_are_told() {
        assert!(read("tags = { a = \"b\" }").await.unwrap().is_some());
        for wrong in ["disk = []", "memory = \"2 gigs\"", "[[disks]]\nname = \"a\"\npath = \"/x\"\nformat = \"vdi\""] {
            assert_eq!(read(wrong).await.unwrap_err().kind(), Kind::Invalid, "{wrong}");
        }
    }
}

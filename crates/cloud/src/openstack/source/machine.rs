//! What a server of Nova is in the product's terms: pure mapping, no call is made here.
//!
//! Nova tells what was ordered (flavour, image properties), not what the hypervisor made of it, so defaults of the
//! usual hypervisor, libvirt with QEMU, stand where nothing is told.

use std::collections::BTreeMap;

use model::{Arch, DiskBus, DiskName, DiskSpec, Error, Firmware, Kind, MachineSpec, NicSpec, Result, Tags};

use super::super::api::cinder::Volume;
use super::super::api::nova::Server;

/// Image properties (`hw_disk_bus`), of the image or of a boot volume's copy of them.
pub(super) type Properties = BTreeMap<String, String>;

/// Where the bytes of a disk are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// On the compute host, from an image: `createImage` reads it.
    Root,
    /// On the compute host, made by the flavour; no call reads it.
    Blank,
    /// A volume of Cinder.
    Volume(String),
}

/// A disk of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Disk {
    pub(super) spec: DiskSpec,
    pub(super) place: Place,
}

/// A network card as Neutron knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Card {
    pub(super) mac: String,
    pub(super) network: Option<String>,
    pub(super) addresses: Vec<String>,
    pub(super) security_groups: Vec<String>,
}

/// Everything that is known of a server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sight<'a> {
    pub(super) server: &'a Server,
    pub(super) properties: &'a Properties,
    /// The size in bytes that the image asks for at least, if it is known.
    pub(super) image_size: Option<u64>,
    pub(super) volumes: &'a [&'a Volume],
    pub(super) cards: &'a [Card],
}

/// Whether a word of a property means yes.
pub(super) fn is_true(properties: &Properties, key: &str) -> bool {
    let word = properties.get(key).map(|word| word.to_ascii_lowercase());
    word.is_some_and(|word| ["1", "t", "true", "on", "y", "yes"].contains(&word.as_str()))
}

impl Sight<'_> {
    /// The disks in boot order: the root, what the flavour adds, the volumes by their device.
    pub(super) fn disks(&self) -> Result<Vec<Disk>> {
        let bus = self.bus();
        let mut disks = Vec::new();
        let mut add = |name: &str, size: u64, bus: DiskBus, place: Place| -> Result<()> {
            let serial = match &place {
                Place::Volume(id) => Some(id.clone()),
                _ => None,
            };
            disks.push(Disk { spec: DiskSpec { name: DiskName::new(name)?, size, bus, serial }, place });
            Ok(())
        };
        let flavor = &self.server.flavor;
        let mut volumes: Vec<(String, &Volume)> =
            self.volumes.iter().map(|volume| (device_of(volume, &self.server.id), *volume)).collect();
        volumes.sort_by(|a, b| device_order(&a.0).cmp(&device_order(&b.0)));
        if self.server.image_id().is_some() {
            let size = (flavor.disk << 30).max(self.image_size.unwrap_or(0));
            add(self.root_name(bus), size, bus, Place::Root)?;
        } else if !volumes.is_empty() {
            let told = self.server.root_device.as_deref().map(base_name);
            let at = told.and_then(|told| volumes.iter().position(|(device, _)| device == told)).unwrap_or(0);
            let (device, volume) = volumes.remove(at);
            add(&device, volume.size << 30, bus_of(&device, bus), Place::Volume(volume.id.clone()))?;
        }
        if flavor.ephemeral > 0 {
            add("ephemeral0", flavor.ephemeral << 30, bus, Place::Blank)?;
        }
        if flavor.swap > 0 {
            add("swap", flavor.swap << 20, bus, Place::Blank)?;
        }
        for (device, volume) in volumes {
            add(&device, volume.size << 30, bus_of(&device, bus), Place::Volume(volume.id.clone()))?;
        }
        Ok(disks)
    }

    /// The machine with these disks.
    pub(super) fn machine(&self, disks: &[Disk]) -> Result<MachineSpec> {
        let flavor = &self.server.flavor;
        let model = vif_model(self.properties.get("hw_vif_model").map_or("virtio", String::as_str));
        let nic = |card: &Card| NicSpec {
            mac: Some(card.mac.clone()),
            model: model.to_owned(),
            network: card.network.clone(),
            addresses: card.addresses.clone(),
            security_groups: card.security_groups.clone(),
        };
        let arch = self.arch()?;
        Ok(MachineSpec {
            arch,
            firmware: self.firmware(arch),
            memory: flavor.ram << 20,
            vcpus: flavor.vcpus,
            chipset: self.properties.get("hw_machine_type").and_then(|kind| chipset(kind)),
            flavor: flavor.name.clone(),
            disks: disks.iter().map(|disk| disk.spec.clone()).collect(),
            nics: self.cards.iter().map(nic).collect(),
            agent: is_true(self.properties, "hw_qemu_guest_agent"),
            tpm: self.has_tpm(),
            tags: tags(self.server),
        })
    }

    fn root_name(&self, bus: DiskBus) -> &str {
        match (self.server.root_device.as_deref(), bus) {
            (Some(device), _) => base_name(device),
            (None, DiskBus::Virtio | DiskBus::Nvme) => "vda",
            (None, DiskBus::Scsi | DiskBus::Sata) => "sda",
            (None, DiskBus::Ide) => "hda",
        }
    }

    /// The bus that the image asks for.
    fn bus(&self) -> DiskBus {
        match self.properties.get("hw_disk_bus").map(String::as_str) {
            Some("scsi") => DiskBus::Scsi,
            Some("sata") => DiskBus::Sata,
            Some("ide") => DiskBus::Ide,
            Some("nvme") => DiskBus::Nvme,
            _ => DiskBus::Virtio,
        }
    }

    fn arch(&self) -> Result<Arch> {
        let told = ["hw_architecture", "architecture"].iter().find_map(|key| self.properties.get(*key));
        match told.map_or("x86_64", String::as_str) {
            "x86_64" | "amd64" | "i686" => Ok(Arch::X86_64),
            "aarch64" | "arm64" => Ok(Arch::Aarch64),
            other => {
                let operation = format!("cannot describe server {} ({})", self.server.name, self.server.id);
                Err(Error::new(Kind::Invalid, operation).because(format!("its architecture is {other}")))
            }
        }
    }

    fn has_tpm(&self) -> bool {
        let specs = &self.server.flavor.extra_specs;
        self.properties.contains_key("hw_tpm_version") || specs.contains_key("hw:tpm_version")
    }

    fn firmware(&self, arch: Arch) -> Firmware {
        let secure = |text: Option<&String>| text.is_some_and(|text| text == "required");
        let secure_boot = secure(self.properties.get("os_secure_boot"))
            || secure(self.server.flavor.extra_specs.get("os:secure_boot"));
        match (self.properties.get("hw_firmware_type").map(String::as_str), arch) {
            // libvirt boots aarch64 with UEFI alone
            (Some("uefi"), _) | (None, Arch::Aarch64) => Firmware::Uefi { secure_boot, variables: None },
            _ if secure_boot => Firmware::Uefi { secure_boot, variables: None },
            _ => Firmware::Bios,
        }
    }
}

/// Metadata as it is; Nova's tags are words, of which `key=value` is read as such and any other has no value.
fn tags(server: &Server) -> Tags {
    let words = server.tags.iter().map(|word| word.split_once('=').unwrap_or((word, "")));
    let mut tags: Tags = words.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    tags.extend(server.metadata.clone());
    tags
}

fn base_name(device: &str) -> &str {
    device.rsplit('/').next().unwrap_or(device)
}

/// The device that a volume has in a server. A service that does not tell it is answered by the volume's id, so that
/// the name stays the same from capture to capture.
fn device_of(volume: &Volume, server: &str) -> String {
    let attachment = volume.attachments.iter().find(|attachment| attachment.server_id == server);
    let device = attachment.and_then(|attachment| attachment.device.as_deref()).map(base_name);
    device.filter(|device| !device.is_empty()).unwrap_or(&volume.id).to_owned()
}

/// `vda` before `sdb` before `vdaa`.
fn device_order(device: &str) -> (usize, &str, &str) {
    (device.len(), device.get(2..).unwrap_or_default(), device)
}

/// A volume may be attached by another bus than the image asks for; its device tells.
fn bus_of(device: &str, asked: DiskBus) -> DiskBus {
    match (device.get(..2), asked) {
        (Some("vd"), _) => DiskBus::Virtio,
        (Some("hd"), _) => DiskBus::Ide,
        (Some("sd"), DiskBus::Sata) => DiskBus::Sata,
        (Some("sd"), _) => DiskBus::Scsi,
        _ => asked,
    }
}

/// The chipset in QEMU's words: Nova has its versions (`pc-q35-7.2`).
fn chipset(machine_type: &str) -> Option<String> {
    let known = if machine_type.contains("q35") {
        "q35"
    } else if machine_type.starts_with("pc") {
        "pc"
    } else if machine_type.starts_with("virt") {
        "virt"
    } else {
        return None;
    };
    Some(known.to_owned())
}

/// The model in QEMU's words.
fn vif_model(model: &str) -> &str {
    match model {
        "virtio" => "virtio-net-pci",
        other => other,
    }
}

#[cfg(test)]
pub(super) mod tests;

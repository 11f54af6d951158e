//! What a virtual machine is in the product's terms: pure mapping, no call is made here.

use model::{Arch, DiskBus, DiskName, DiskSpec, Error, Firmware, Kind, MachineSpec, NicSpec, Result, Role, Tags};
use serde_json::Value;

use super::super::arm::Shown;
use super::super::{encryption, marks};

pub(super) const GIB: u64 = 1 << 30;

/// A disk of a machine: its name in our words, and the name of the managed disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Disk {
    pub name: DiskName,
    pub managed: String,
    pub id: String,
    pub size: u64,
    /// What it is encrypted with, and so its snapshots.
    pub encryption: Value,
}

/// Whether it is a machine that a drill has launched: those are nobody's servers.
pub(super) fn is_drill(machine: &Shown) -> bool {
    marks::ours(&machine.tags).is_some_and(|(role, _)| role == Role::Scratch)
}

/// The disks of a machine in boot order: `os`, then `lun-0` and so on. All must be managed disks that are listed.
pub(super) fn disks(machine: &Shown, known: &[Shown]) -> Result<Vec<Disk>> {
    let storage = machine.properties.get("storageProfile").cloned().unwrap_or_default();
    let mut data: Vec<&Value> = storage.get("dataDisks").and_then(Value::as_array).into_iter().flatten().collect();
    data.sort_by_key(|disk| disk.get("lun").and_then(Value::as_u64));
    let os = storage.get("osDisk").map(|disk| ("os".to_owned(), disk));
    let lun = |disk: &Value| format!("lun-{}", disk.get("lun").and_then(Value::as_u64).unwrap_or_default());
    let all = os.into_iter().chain(data.into_iter().map(|disk| (lun(disk), disk)));
    all.map(|(name, disk)| {
        let wrong = |why: String| {
            Error::new(Kind::Invalid, format!("cannot use disk {name} of server {}", machine.name)).because(why)
        };
        let id = disk.pointer("/managedDisk/id").and_then(Value::as_str);
        let id = id.ok_or_else(|| wrong("it is no managed disk".to_owned()))?;
        let found = known.iter().find(|known| known.id.eq_ignore_ascii_case(id));
        let found = found.ok_or_else(|| wrong(format!("managed disk {id} is not in the site's resource group")))?;
        Ok(Disk {
            name: DiskName::new(name.clone())?,
            managed: found.name.clone(),
            id: found.id.clone(),
            size: found.bytes(),
            encryption: encryption::of(found),
        })
    })
    .collect()
}

/// Processors and memory of a size. Its name tells the processors; the memory of each is that of its family, as the
/// provider's tables have it, which is a hint for a target and nothing more.
fn capacity(size: &str) -> (u32, u64) {
    let name = size.strip_prefix("Standard_").or_else(|| size.strip_prefix("Basic_")).unwrap_or(size);
    let family: String = name.chars().take_while(char::is_ascii_uppercase).collect();
    let digits: String = name.chars().skip(family.len()).take_while(char::is_ascii_digit).collect();
    let vcpus = digits.parse().unwrap_or(1).max(1);
    let each = match family.as_str() {
        "B" => 2,
        "F" => 2,
        "E" | "L" => 8,
        "M" => 16,
        _ => 4,
    };
    (vcpus, u64::from(vcpus) * each * GIB)
}

/// The machine.
pub(super) fn spec(machine: &Shown, disks: &[Disk], known: &[Shown]) -> MachineSpec {
    let boot = disks.first().and_then(|disk| known.iter().find(|it| it.id == disk.id));
    let trusted = |setting: &str| {
        machine.text("/securityProfile/securityType") == Some("TrustedLaunch")
            && machine.properties.pointer("/securityProfile/uefiSettings").and_then(|it| it.get(setting)?.as_bool())
                == Some(true)
    };
    let firmware = match boot.and_then(|disk| disk.text("/hyperVGeneration")) {
        Some("V2") => Firmware::Uefi { secure_boot: trusted("secureBootEnabled"), variables: None },
        _ => Firmware::Bios,
    };
    let arm = boot.and_then(|disk| disk.text("/supportedCapabilities/architecture")) == Some("Arm64");
    let size = machine.text("/hardwareProfile/vmSize").unwrap_or_default();
    let (vcpus, memory) = capacity(size);
    let cards = machine.properties.pointer("/networkProfile/networkInterfaces").and_then(Value::as_array);
    let card = |card: &Value| {
        let id = card.get("id").and_then(Value::as_str).unwrap_or_default();
        NicSpec {
            model: "virtio-net-pci".to_owned(),
            network: id.rsplit('/').next().filter(|name| !name.is_empty()).map(str::to_owned),
            ..NicSpec::default()
        }
    };
    MachineSpec {
        arch: if arm { Arch::Aarch64 } else { Arch::X86_64 },
        firmware,
        memory,
        vcpus,
        chipset: None,
        flavor: (!size.is_empty()).then(|| size.to_owned()),
        disks: disks
            .iter()
            .map(|disk| DiskSpec { name: disk.name.clone(), size: disk.size, bus: DiskBus::Scsi, serial: None })
            .collect(),
        nics: cards.into_iter().flatten().map(card).collect(),
        agent: false,
        tpm: trusted("vTpmEnabled"),
        tags: own_tags(&machine.tags),
    }
}

/// The tags that people gave it.
fn own_tags(tags: &Tags) -> Tags {
    tags.iter()
        .filter(|(key, _)| !key.starts_with("replicate:"))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(value: Value) -> Shown {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn disks_are_named_by_their_places() {
        let machine = shown(json!({ "id": "/m", "name": "web-1", "properties": {
            "hardwareProfile": { "vmSize": "Standard_D4s_v5" },
            "securityProfile": { "securityType": "TrustedLaunch", "uefiSettings": { "secureBootEnabled": true, "vTpmEnabled": true } },
            "storageProfile": {
                "osDisk": { "managedDisk": { "id": "/D/os" } },
                "dataDisks": [{ "lun": 3, "managedDisk": { "id": "/d/b" } }, { "lun": 0, "managedDisk": { "id": "/d/a" } }],
            },
        } }));
        let disk = |name: &str| {
            let properties = json!({ "diskSizeBytes": 1 << 30, "hyperVGeneration": "V2" });
            shown(json!({ "id": format!("/d/{name}"), "name": name, "properties": properties }))
        };
        let known = [disk("a"), disk("b"), disk("os")];
        let found = disks(&machine, &known).unwrap();
        let names: Vec<&str> = found.iter().map(|disk| disk.name.as_str()).collect();
        assert_eq!(names, ["os", "lun-0", "lun-3"]);
        let spec = spec(&machine, &found, &known);
        assert_eq!(spec.firmware, Firmware::Uefi { secure_boot: true, variables: None });
        assert_eq!((spec.vcpus, spec.memory, spec.tpm), (4, 16 << 30, true));
        assert!(disks(&machine, &known[..1]).is_err(), "a disk of another group is not passed over");
    }
}

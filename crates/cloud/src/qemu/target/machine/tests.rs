//! What QEMU is told for machines of several kinds.

use model::{Arch, DiskSpec, Firmware, NicSpec};

use super::*;

fn machine(bus: DiskBus) -> MachineSpec {
    let disk = |name: &str| DiskSpec { name: DiskName::new(name).unwrap(), size: 1 << 20, bus, serial: None };
    MachineSpec {
        arch: Arch::X86_64,
        firmware: Firmware::Bios,
        memory: 256 << 20,
        vcpus: 2,
        chipset: None,
        flavor: None,
        disks: vec![disk("vda"), disk("vdb")],
        nics: vec![NicSpec {
            mac: Some("52:54:00:12:34:56".to_owned()),
            model: "virtio-net-pci".to_owned(),
            ..NicSpec::default()
        }],
        agent: true,
        tpm: false,
        tags: model::Tags::new(),
    }
}

fn told(machine: &MachineSpec, network: Network, ephemeral: bool) -> String {
    let file = |name: &str| DiskFile {
        name: DiskName::new(name).unwrap(),
        path: PathBuf::from(format!("/d,1/{name}.qcow2")),
        format: Format::Qcow2,
    };
    let launch = Launch {
        name: "web-1",
        folder: Path::new("/i"),
        machine,
        disks: &[file("vdb"), file("vda")],
        uefi: None,
        accelerator: Accelerator::Tcg,
        network,
        bridge: Some("br0"),
        ports: &[80],
        ephemeral,
        sockets: None,
    };
    arguments(&launch).unwrap().join(" ")
}

#[test]
fn a_drill_is_isolated_and_writes_nothing_to_the_image() {
    let text = told(&machine(DiskBus::Virtio), Network::Isolated, true);
    assert!(text.contains("-netdev user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:0-:80"), "{text}");
    assert!(text.contains("snapshot=on") && text.contains("file=/d,,1/vda.qcow2"), "{text}");
    assert!(!text.contains("-blockdev") && !text.contains("br0"), "{text}");
    assert!(text.contains("panic=pause"), "{text}");
}

#[test]
fn a_restored_server_owns_its_disks_and_joins_the_bridge() {
    let text = told(&machine(DiskBus::Virtio), Network::Site, false);
    assert!(text.contains("-netdev bridge,id=net0,br=br0"), "{text}");
    assert!(text.contains("mac=52:54:00:12:34:56"), "{text}");
    assert!(!text.contains("snapshot=on") && text.contains("panic=none"), "{text}");
}

#[test]
fn disks_keep_their_order_names_and_bus() {
    for (bus, device) in [
        (DiskBus::Virtio, "virtio-blk-pci,drive=disk0,id=vda,bootindex=0"),
        (DiskBus::Scsi, "scsi-hd,bus=scsi.0,drive=disk0,id=vda,bootindex=0"),
        (DiskBus::Nvme, "nvme,drive=disk0,id=vda,bootindex=0,serial=disk0"),
        (DiskBus::Sata, "ide-hd,bus=sata.0,drive=disk0,id=vda,bootindex=0"),
        (DiskBus::Ide, "ide-hd,bus=ide.0,unit=0,drive=disk0,id=vda,bootindex=0"),
    ] {
        let text = told(&machine(bus), Network::Isolated, false);
        assert!(text.contains(device), "{text}");
        assert!(text.find("vda.qcow2").unwrap() < text.find("vdb.qcow2").unwrap(), "{text}");
    }
}

#[test]
fn a_missing_disk_or_another_architecture_is_refused() {
    let mut machine = machine(DiskBus::Virtio);
    machine.arch = Arch::Aarch64;
    assert_eq!(chipset(&machine).unwrap_err().kind(), Kind::Invalid);
    assert_eq!(device_id(&DiskName::new("net0").unwrap(), 3), "drive3");
    assert_eq!(device_id(&DiskName::new("a/b").unwrap(), 1), "drive1");
}

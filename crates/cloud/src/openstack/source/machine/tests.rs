//! Servers as Nova 26 and Cinder 21 show them.

use serde_json::{Value, json};

use super::*;

pub(in crate::openstack::source) fn server(changes: Value) -> Server {
    let mut server = json!({
        "id": "6f2f3a5e-0b5e-4f4e-9d3f-0d3f1c1f9a01", "name": "web-1", "status": "ACTIVE",
        "OS-EXT-STS:vm_state": "active", "OS-EXT-STS:task_state": null, "OS-EXT-STS:power_state": 1,
        "image": {"id": "img-1", "links": []}, "tags": ["blue", "tier=front"], "metadata": {"backup": "daily"},
        "flavor": {"vcpus": 2, "ram": 2048, "disk": 20, "ephemeral": 0, "swap": 0, "original_name": "m1.small",
                   "extra_specs": {}},
        "addresses": {}, "os-extended-volumes:volumes_attached": []
    });
    for (key, value) in changes.as_object().unwrap() {
        server[key] = value.clone();
    }
    serde_json::from_value(server).unwrap()
}

pub(in crate::openstack::source) fn volume(id: &str, device: Option<&str>, changes: Value) -> Volume {
    let mut volume = json!({
        "id": id, "name": "", "size": 3, "status": "in-use", "bootable": "false", "encrypted": false,
        "volume_type": "__DEFAULT__", "metadata": {}, "group_id": null, "created_at": "2026-11-24T11:00:00.000000",
        "attachments": [{"server_id": "6f2f3a5e-0b5e-4f4e-9d3f-0d3f1c1f9a01", "device": device, "volume_id": id}]
    });
    for (key, value) in changes.as_object().unwrap() {
        volume[key] = value.clone();
    }
    serde_json::from_value(volume).unwrap()
}

pub(in crate::openstack::source) fn properties(all: &[(&str, &str)]) -> Properties {
    all.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn look(server: &Server, properties: &Properties, volumes: &[&Volume]) -> (Vec<Disk>, MachineSpec) {
    let card = Card {
        mac: "fa:16:3e:00:00:01".to_owned(),
        network: Some("front".to_owned()),
        addresses: vec!["192.0.2.9".to_owned()],
        security_groups: vec!["default".to_owned()],
    };
    let sight = Sight { server, properties, image_size: Some(1 << 30), volumes, cards: &[card] };
    let disks = sight.disks().unwrap();
    let machine = sight.machine(&disks).unwrap();
    (disks, machine)
}

fn names(disks: &[Disk]) -> Vec<&str> {
    disks.iter().map(|disk| disk.spec.name.as_str()).collect()
}

#[test]
fn an_image_backed_server_with_everything() {
    let flavor = json!({"vcpus": 2, "ram": 2048, "disk": 20, "ephemeral": 5, "swap": 512, "original_name": "m1",
                        "extra_specs": {"os:secure_boot": "required", "hw:tpm_version": "2.0"}});
    let server = server(json!({"flavor": flavor}));
    let (b, aa) = (volume("vol-b", Some("/dev/vdb"), json!({})), volume("vol-aa", Some("/dev/vdaa"), json!({})));
    let properties = properties(&[
        ("hw_firmware_type", "uefi"),
        ("hw_machine_type", "pc-q35-7.2"),
        ("hw_qemu_guest_agent", "yes"),
        ("architecture", "x86_64"),
    ]);
    let (disks, machine) = look(&server, &properties, &[&aa, &b]);
    assert_eq!(names(&disks), ["vda", "ephemeral0", "swap", "vdb", "vdaa"]);
    assert_eq!(disks[0].place, Place::Root);
    assert_eq!((disks[0].spec.size, disks[2].spec.size, disks[3].spec.size), (20 << 30, 512 << 20, 3 << 30));
    assert_eq!(disks[3].spec.serial.as_deref(), Some("vol-b"));
    assert_eq!(machine.firmware, Firmware::Uefi { secure_boot: true, variables: None });
    assert_eq!((machine.chipset.as_deref(), machine.flavor.as_deref()), (Some("q35"), Some("m1")));
    assert_eq!((machine.memory, machine.vcpus, machine.agent, machine.tpm), (2 << 30, 2, true, true));
    let tags = [("backup", "daily"), ("blue", ""), ("tier", "front")];
    assert_eq!(machine.tags, tags.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    assert_eq!(machine.nics[0].model, "virtio-net-pci");
    assert_eq!(machine.nics[0].addresses, ["192.0.2.9"]);
}

#[test]
fn a_flavour_without_a_disk_has_the_size_of_the_image() {
    let server = server(json!({"flavor": {"vcpus": 1, "ram": 512, "disk": 0, "ephemeral": 0, "swap": 0}}));
    let (disks, machine) = look(&server, &properties(&[("hw_disk_bus", "scsi")]), &[]);
    assert_eq!((names(&disks), disks[0].spec.size), (vec!["sda"], 1 << 30));
    assert_eq!((machine.disks[0].bus, machine.firmware), (DiskBus::Scsi, Firmware::Bios));
}

#[test]
fn the_root_of_a_volume_backed_server_is_first() {
    let (a, b) = (volume("vol-a", Some("/dev/vda"), json!({})), volume("vol-b", Some("/dev/sdb"), json!({})));
    let (disks, machine) = look(&server(json!({"image": ""})), &properties(&[]), &[&b, &a]);
    assert_eq!(names(&disks), ["vda", "sdb"]);
    assert_eq!(machine.disks[1].bus, DiskBus::Scsi);
    let told = server(json!({"image": "", "OS-EXT-SRV-ATTR:root_device_name": "/dev/sdb"}));
    assert_eq!(names(&look(&told, &properties(&[]), &[&b, &a]).0), ["sdb", "vda"]);
    let untold = volume("vol-c", None, json!({}));
    assert_eq!(names(&look(&server(json!({"image": ""})), &properties(&[]), &[&untold, &a]).0), ["vda", "vol-c"]);
}

#[test]
fn an_unknown_architecture_is_told() {
    let server = server(json!({}));
    let properties = properties(&[("hw_architecture", "s390x")]);
    let sight = Sight { server: &server, properties: &properties, image_size: None, volumes: &[], cards: &[] };
    let error = sight.machine(&sight.disks().unwrap()).unwrap_err();
    assert!(error.chain().ends_with("its architecture is s390x"), "{}", error.chain());
}

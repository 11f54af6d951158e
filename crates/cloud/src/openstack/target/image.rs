//! Images of restore points: a Glance image per disk, of which the boot disk's carries the point and lists the others.
//! One change of that image is the commit.

use std::collections::{BTreeMap, BTreeSet};

use model::{
    Arch, DiskBus, Error, Firmware, ImageId, ImageOptions, Kind, MachineSpec, NicSpec, RestorePoint, Result, Role,
    Token,
};
use serde::{Deserialize, Serialize};

use super::super::api::glance::{Change, Glance, Image, Status};
use super::super::http::Client;
use super::super::marks;
use super::look::{change, fits, protect_others, seal};
use super::upload;
use crate::{CopyRequest, ImageDisk};

/// Bytes of a point's text in one property. Glance keeps 64 KiB on the usual database.
const PART: usize = 32 << 10;
/// The most properties that a point may take: Glance allows 128 in all.
const PARTS: usize = 64;

/// An entry of [`marks::DISKS`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::openstack) struct DiskImage {
    pub name: model::DiskName,
    pub image: String,
}

/// The images of the disks of a registered image, that of the boot disk first.
pub(in crate::openstack) fn disks_of(image: &Image) -> Vec<DiskImage> {
    image.property(marks::DISKS).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// The restore point that an image carries, if it carries one.
pub(in crate::openstack) fn point_of(image: &Image) -> Option<Result<RestorePoint>> {
    image.property(marks::POINT)?;
    let parts = (0..PARTS).map_while(|part| image.property(&part_key(part)));
    let text: String = parts.collect();
    Some(serde_json::from_str(&text).map_err(|error| {
        Error::new(Kind::Damaged, format!("cannot read the restore point of image {}", image.id)).because(error)
    }))
}

fn part_key(part: usize) -> String {
    format!("replicate:point-{part}")
}

/// The properties that carry a point. Texts are cut between characters.
fn point_properties(point: &RestorePoint) -> Result<BTreeMap<String, String>> {
    let operation = || format!("cannot put point {} into an image", point.id);
    let text = serde_json::to_string(point).map_err(|error| Error::new(Kind::Permanent, operation()).because(error))?;
    let (mut properties, mut rest) = (BTreeMap::new(), text.as_str());
    while !rest.is_empty() {
        let mut end = PART.min(rest.len());
        while !rest.is_char_boundary(end) {
            end -= 1;
        }
        properties.insert(part_key(properties.len()), rest[..end].to_owned());
        rest = &rest[end..];
    }
    if properties.len() > PARTS {
        return Err(Error::new(Kind::Invalid, operation()).because(format!("it has {} bytes of text", text.len())));
    }
    Ok(properties)
}

/// What the cloud must know of the machine to boot it, in the cloud's words.
pub(in crate::openstack) fn hardware(machine: &MachineSpec) -> Vec<(&'static str, String)> {
    let mut properties = vec![(
        "hw_architecture",
        match machine.arch {
            Arch::X86_64 => "x86_64".to_owned(),
            Arch::Aarch64 => "aarch64".to_owned(),
        },
    )];
    match &machine.firmware {
        Firmware::Bios => properties.push(("hw_firmware_type", "bios".to_owned())),
        Firmware::Uefi { secure_boot, .. } => {
            properties.push(("hw_firmware_type", "uefi".to_owned()));
            if *secure_boot {
                properties.push(("os_secure_boot", "required".to_owned()));
            }
        }
    }
    if let Some(disk) = machine.disks.first() {
        let bus = match disk.bus {
            // Nova has no NVMe; a guest that boots from it has virtio in nearly every case
            DiskBus::Virtio | DiskBus::Nvme => "virtio",
            DiskBus::Scsi => "scsi",
            DiskBus::Sata => "sata",
            DiskBus::Ide => "ide",
        };
        properties.push(("hw_disk_bus", bus.to_owned()));
        if disk.bus == DiskBus::Scsi {
            properties.push(("hw_scsi_model", "virtio-scsi".to_owned()));
        }
    }
    if let Some(chipset) = &machine.chipset {
        properties.push(("hw_machine_type", chipset.clone()));
    }
    if let Some(model) = machine.nics.first().and_then(vif_model) {
        properties.push(("hw_vif_model", model.to_owned()));
    }
    if machine.agent {
        properties.push(("hw_qemu_guest_agent", "yes".to_owned()));
    }
    properties
}

fn vif_model(nic: &NicSpec) -> Option<&'static str> {
    match nic.model.as_str() {
        model if model.starts_with("virtio") => Some("virtio"),
        "e1000" => Some("e1000"),
        "e1000e" => Some("e1000e"),
        "rtl8139" => Some("rtl8139"),
        _ => None,
    }
}

/// Makes an image of disks that were written.
pub(super) async fn register(
    client: &Client,
    disks: &[ImageDisk],
    point: &RestorePoint,
    options: &ImageOptions,
    role: Role,
    token: &Token,
) -> Result<ImageId> {
    let operation = || format!("cannot register point {}", point.id);
    fits(options)?;
    let mut images = Vec::new();
    for disk in disks {
        let image = written(client, disk).await.map_err(|error| error.within(operation()))?;
        images.push(DiskImage { name: disk.name.clone(), image: image.id.clone() });
        if images.len() == 1
            && let Some(Ok(carried)) = point_of(&image)
        {
            // registered by a call whose answer was lost
            let tags = marks::of_properties(&image.properties);
            if carried == *point && tags.is_some_and(|(known, tags)| known == role && tags == token.tags(role)) {
                protect_others(client, disks_of(&image).get(1..).unwrap_or_default(), options).await?;
                return ImageId::new(image.id);
            }
        }
    }
    let more = carried(point)?.into_iter().map(|(key, value)| Change::add(&key, value)).collect();
    seal(client, &images, more, point, options, role, token).await
}

/// Makes a replica of a copy, whose boot disk's image carries the point already.
pub(in crate::openstack) async fn commit(
    client: &Client,
    boot: &Image,
    request: &CopyRequest,
    role: Role,
) -> Result<ImageId> {
    let CopyRequest { point, options, token, .. } = request;
    seal(client, &disks_of(boot), Vec::new(), point, options, role, token).await
}

/// Notes in the boot disk's image of a copy which images its disks have.
pub(in crate::openstack) async fn list_disks(client: &Client, boot: &Image, disks: &[DiskImage]) -> Result<()> {
    if disks_of(boot) == disks {
        return Ok(());
    }
    let listed = serde_json::to_string(disks)
        .map_err(|error| Error::new(Kind::Permanent, format!("cannot copy image {}", boot.id)).because(error))?;
    change(client, &boot.id, &[Change::add(marks::DISKS, listed)], "openstack.copy-disks").await
}

/// What the boot disk's image has of a point: the point itself, and what the cloud must know to boot it.
pub(in crate::openstack) fn carried(point: &RestorePoint) -> Result<BTreeMap<String, String>> {
    let mut properties = point_properties(point)?;
    properties.extend(hardware(&point.machine).into_iter().map(|(key, value)| (key.to_owned(), value)));
    Ok(properties)
}

/// The image that a disk was written to.
async fn written(client: &Client, disk: &ImageDisk) -> Result<Image> {
    let mut found = upload::attempts(client, &disk.id).await?;
    let whole = found.iter().position(|image| image.status == Status::Active);
    match whole {
        Some(at) => Ok(found.swap_remove(at)),
        None if found.is_empty() => {
            Err(Error::new(Kind::NotFound, format!("cannot find disk {}", disk.name)).because("it was never written"))
        }
        None => Err(Error::new(Kind::Invalid, format!("cannot use disk {}", disk.name))
            .because(format!("its image {} was not finished", found[0].id))),
    }
}

/// Ids of images that registered ones are made of: no leftovers, whatever their own marks say.
pub(in crate::openstack) fn referenced(images: &[Image]) -> BTreeSet<String> {
    let registered = images.iter().filter(|image| image.properties.contains_key(marks::POINT));
    registered.flat_map(|image| disks_of(image).into_iter().skip(1)).map(|disk| disk.image).collect()
}

/// Looks at a registered image. [`Kind::NotFound`] if there is none.
pub(in crate::openstack) async fn show(client: &Client, image: &ImageId) -> Result<Image> {
    let absent = || Error::new(Kind::NotFound, format!("cannot open image {image}")).because("there is no such image");
    // what is no UUID is no image, and might lead to another path
    if image.as_str().contains(['/', '?', '%']) {
        return Err(absent());
    }
    match Glance(client).show(image.as_str()).await {
        Err(error) if error.kind() == Kind::NotFound => Err(absent()),
        found => found,
    }
}

/// Replicas among images, each with its point. One that does not read is told of and left out: it must not hide the
/// others when everything else is lost.
pub(super) fn replicas(images: &[Image]) -> Vec<(ImageId, RestorePoint)> {
    let mut found = Vec::new();
    for image in images {
        let replica = marks::of_properties(&image.properties).is_some_and(|(role, _)| role == Role::Replica);
        match (point_of(image), ImageId::new(image.id.clone())) {
            (Some(Ok(point)), Ok(id)) if replica => found.push((id, point)),
            (Some(Err(error)), _) => tracing::warn!(error = error.chain(), "an image is left out"),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn point(server: &str, variables: usize) -> RestorePoint {
        let value = json!({
            "id": "20261122T030000Z-7f3a9c21", "server": server, "taken-at": "2026-11-22T03:00:00Z",
            "taken_at": "2026-11-22T03:00:00Z", "consistency": "crash", "program": "replicate 0.1.0",
            "machine": {
                "arch": "x86-64",
                "firmware": { "kind": "uefi", "secure_boot": true, "variables": "A".repeat(variables) },
                "memory": 268_435_456, "vcpus": 1, "chipset": "q35", "agent": true,
                "disks": [{ "name": "vda", "size": 4096, "bus": "scsi" }],
                "nics": [{ "model": "virtio-net-pci" }],
            },
            "disks": [{ "name": "vda", "size": 4096, "root": "00".repeat(32) }],
        });
        serde_json::from_value(value).unwrap()
    }

    fn image(properties: BTreeMap<String, String>) -> Image {
        let mut value = json!({ "id": "i", "status": "active", "name": null });
        for (key, text) in properties {
            value[key] = json!(text);
        }
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_point_survives_in_properties_however_long_it_is() {
        for variables in [0, 100, 2 * PART, 3 * PART + 17] {
            let point = point("web-1", variables);
            let properties = point_properties(&point).unwrap();
            assert!(properties.values().all(|value| value.len() <= PART));
            assert_eq!(point_of(&image(properties)).unwrap().unwrap(), point);
        }
        assert_eq!(point_properties(&point("web-1", PARTS * PART)).unwrap_err().kind(), Kind::Invalid);
    }

    #[test]
    fn a_point_with_a_part_missing_is_damaged() {
        let mut properties = point_properties(&point("web-1", 2 * PART)).unwrap();
        properties.remove("replicate:point-1");
        assert_eq!(point_of(&image(properties)).unwrap().unwrap_err().kind(), Kind::Damaged);
        assert!(point_of(&image(BTreeMap::new())).is_none());
    }

    #[test]
    fn the_machine_is_told_in_the_clouds_words() {
        let told: BTreeMap<_, _> = hardware(&point("web-1", 0).machine).into_iter().collect();
        let expected = [
            ("hw_architecture", "x86_64"),
            ("hw_firmware_type", "uefi"),
            ("os_secure_boot", "required"),
            ("hw_disk_bus", "scsi"),
            ("hw_scsi_model", "virtio-scsi"),
            ("hw_machine_type", "q35"),
            ("hw_vif_model", "virtio"),
            ("hw_qemu_guest_agent", "yes"),
        ];
        assert_eq!(told, expected.map(|(key, value)| (key, value.to_owned())).into_iter().collect());
    }
}

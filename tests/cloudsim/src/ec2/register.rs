//! Images made of snapshots, or of an instance.

use super::find::Cx;
use super::keys;
use super::params::Params;
use super::snapshots::{self, Wanted};
use super::tags;
use super::xml::{Xml, text};
use crate::clock::later;
use crate::error::{Answer, ApiError};
use crate::hypervisor::hold;
use crate::world::World;
use crate::world::resource::{Attachment, Image, Instance, Mapping, Tags, Volume, Wish};

pub(crate) const VOLUME_TYPES: [&str; 7] = ["standard", "gp2", "gp3", "io1", "io2", "st1", "sc1"];

/// The name of an image to be made.
pub(crate) fn name(params: &Params) -> Answer<String> {
    let name = params.need("Name")?;
    let fine = |c: char| c.is_ascii_alphanumeric() || "()[] ./-'@_".contains(c);
    if !(3..=128).contains(&name.chars().count()) || !name.chars().all(fine) {
        let message = "AMI names must be between 3 and 128 characters long, and may contain letters, numbers, '(', \
                       ')', '.', '-', '/', '_', '[', ']', '@', ''' and spaces";
        return Err(ApiError::refuse("InvalidAMIName.Malformed", message));
    }
    Ok(name)
}

/// Names are an account's own in a region, and count from the moment of the call, visible or not.
pub(crate) fn name_is_free(cx: &Cx<'_>, world: &World, name: &str) -> Answer<()> {
    match world.images.values().find(|it| it.name == name && cx.owns_by_now(&it.base)) {
        None => Ok(()),
        Some(image) => {
            let message = format!("AMI name {name} is already in use by AMI {}", image.base.id);
            Err(ApiError::refuse("InvalidAMIName.Duplicate", message))
        }
    }
}

/// A block device of a request.
#[derive(Debug, Clone)]
pub(crate) struct Device {
    pub(crate) device: String,
    pub(crate) snapshot: Option<String>,
    pub(crate) gib: Option<u64>,
    pub(crate) kind: Option<String>,
    pub(crate) iops: Option<u64>,
    pub(crate) throughput: Option<u64>,
    pub(crate) delete: Option<bool>,
    pub(crate) encrypted: Option<bool>,
    pub(crate) key: Option<String>,
    pub(crate) none: bool,
}

/// The block devices of a request.
pub(crate) fn devices(params: &Params) -> Answer<Vec<Device>> {
    let mut out: Vec<Device> = Vec::new();
    for one in params.structs("BlockDeviceMapping") {
        let ebs = one.below("Ebs");
        let device = one.need("DeviceName")?;
        if out.iter().any(|it| it.device == device) {
            let message = format!("Duplicate device name '{device}'");
            return Err(ApiError::refuse("InvalidBlockDeviceMapping", message));
        }
        out.push(Device {
            snapshot: ebs.get("SnapshotId"),
            gib: ebs.number("VolumeSize")?,
            kind: ebs.word("VolumeType", &VOLUME_TYPES)?,
            iops: ebs.number("Iops")?,
            throughput: ebs.number("Throughput")?,
            delete: ebs.flag("DeleteOnTermination")?,
            encrypted: ebs.flag("Encrypted")?,
            key: ebs.get("KmsKeyId"),
            none: one.get("NoDevice").is_some(),
            device,
        });
    }
    Ok(out)
}

/// A device of an image that is registered.
fn mapping(cx: &Cx<'_>, world: &World, device: &Device) -> Answer<Mapping> {
    let wrong = |message: String| ApiError::refuse("InvalidBlockDeviceMapping", message);
    let mut made = Mapping {
        device: device.device.clone(),
        snapshot: device.snapshot.clone(),
        gib: device.gib.unwrap_or_default(),
        kind: device.kind.clone().unwrap_or_else(|| "gp2".to_owned()),
        iops: device.iops,
        throughput: device.throughput,
        delete: device.delete.unwrap_or(true),
        encrypted: device.encrypted.unwrap_or(false),
        key: device.key.clone(),
    };
    let Some(id) = &device.snapshot else {
        if device.gib.is_none() {
            return Err(ApiError::missing("size/snapshot"));
        }
        return Ok(made);
    };
    if device.encrypted.is_some() || device.key.is_some() {
        return Err(wrong("the parameter encrypted is not supported with a snapshot here".to_owned()));
    }
    let snapshot = cx.snapshot(world, id)?;
    let state = snapshot.state(world.now());
    if state != "completed" {
        return Err(ApiError::refuse("IncorrectState", format!("Snapshot {id} is in invalid state - {state}")));
    }
    made.gib = device.gib.unwrap_or(snapshot.gib);
    if made.gib < snapshot.gib {
        return Err(wrong(format!(
            "Volume of size {}GB is smaller than snapshot '{id}', expect size >= {}GB",
            made.gib, snapshot.gib
        )));
    }
    made.encrypted = snapshot.key.is_some();
    made.key = snapshot.key.clone();
    Ok(made)
}

pub(crate) fn register(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let name = name(params)?;
    let devices = devices(params)?;
    let root = params.need("RootDeviceName")?;
    let architectures = ["i386", "x86_64", "arm64"];
    let architecture = params.word("Architecture", &architectures)?.unwrap_or_else(|| "i386".to_owned());
    let virtualization = params.word("VirtualizationType", &["hvm", "paravirtual"])?;
    let boot_mode = params.word("BootMode", &["legacy-bios", "uefi", "uefi-preferred"])?;
    let tpm = params.word("TpmSupport", &["v2.0"])?;
    let imds = params.word("ImdsSupport", &["v2.0"])?;
    let uefi_data = params.get("UefiData");
    let sriov = params.word("SriovNetSupport", &["simple"])?.is_some();
    let (description, ena) = (params.get("Description"), params.flag("EnaSupport")?.unwrap_or(false));
    let tags = tags::specified(params, &["image", "snapshot"], "image")?;
    params.done()?;
    if virtualization.as_deref() != Some("hvm") {
        // what a call without it gets, and nothing that is sold today can start
        let message = "paravirtual images cannot be launched any more: VirtualizationType must be hvm";
        return Err(ApiError::refuse("InvalidParameterValue", message));
    }
    if tpm.is_some() && boot_mode.as_deref() != Some("uefi") {
        return Err(ApiError::refuse("InvalidParameterCombination", "TpmSupport v2.0 requires BootMode uefi"));
    }
    if uefi_data.is_some() && !matches!(boot_mode.as_deref(), Some("uefi" | "uefi-preferred")) {
        return Err(ApiError::refuse("InvalidParameterCombination", "UefiData requires BootMode uefi"));
    }
    let made = cx.sim.change(|world| {
        name_is_free(cx, world, &name)?;
        let mappings =
            devices.iter().filter(|it| !it.none).map(|it| mapping(cx, world, it)).collect::<Answer<Vec<_>>>()?;
        if !mappings.iter().any(|it| it.device == root && it.snapshot.is_some()) {
            let message = format!("Invalid root device name {root}: no snapshot is mapped to it");
            return Err(ApiError::refuse("InvalidBlockDeviceMapping", message));
        }
        let base = world.base("ami", cx.account(), cx.region(), tags);
        let id = base.id.clone();
        let available = later(base.created, world.settings.weather.image_seconds);
        let image = Image {
            description,
            architecture,
            ena,
            sriov,
            boot_mode,
            uefi_data,
            tpm,
            imds,
            ..bare(base, name, root, mappings, available)
        };
        world.images.insert(id.clone(), image);
        Ok(id)
    })?;
    Ok(vec![text("imageId", made)])
}

fn bare(
    base: crate::world::resource::Base,
    name: String,
    root: String,
    mappings: Vec<Mapping>,
    available: jiff::Timestamp,
) -> Image {
    Image {
        base,
        name,
        root,
        mappings,
        available,
        description: None,
        failed: None,
        copying: false,
        architecture: "x86_64".to_owned(),
        ena: false,
        sriov: false,
        boot_mode: None,
        uefi_data: None,
        tpm: None,
        imds: None,
        shared: Default::default(),
        deprecated: None,
        protected: false,
        protected_until: None,
        cooldown: false,
        source_instance: None,
        source_image: None,
        last_launch: None,
    }
}

/// Snapshots of all disks of an instance, as an image's devices. Unless told otherwise, the instance is shut down for it.
fn capture(cx: &Cx<'_>, id: &str, name: &str, no_reboot: bool, tags: &Tags) -> Answer<(Instance, Vec<Mapping>)> {
    let (instance, volumes) = cx.sim.with(|world| -> Answer<_> {
        name_is_free(cx, world, name)?;
        let found = cx.instance(world, id)?.clone();
        if !matches!(found.state(world.now()).1, "running" | "stopped") {
            let message = format!("The instance '{id}' is not in a state from which it can be imaged");
            return Err(ApiError::refuse("IncorrectInstanceState", message));
        }
        let attached = world.attached_to(id, &found.root).into_iter();
        let volumes: Vec<(Attachment, Volume)> = attached.map(|(at, it)| (at.clone(), it.clone())).collect();
        Ok((found, volumes))
    })?;
    let wanted = volumes.iter().map(|(_, volume)| Wanted {
        volume: volume.base.id.clone(),
        description: format!("Created by CreateImage({id}) for {name}"),
        tags: tags.clone(),
    });
    let wanted: Vec<Wanted> = wanted.collect();
    let reboot = !no_reboot && instance.wish == Wish::Running;
    if reboot {
        hold::power_off(cx.sim, id);
    }
    let snapshots = snapshots::make(cx, &wanted);
    if reboot {
        hold::start(cx.sim, id)?;
    }
    let mappings = volumes.into_iter().zip(snapshots?).map(|((at, volume), snapshot)| Mapping {
        device: at.device,
        snapshot: Some(snapshot),
        gib: volume.gib,
        kind: volume.kind,
        iops: volume.iops,
        throughput: volume.throughput,
        delete: at.delete,
        encrypted: volume.key.is_some(),
        key: volume.key,
    });
    Ok((instance, mappings.collect()))
}

pub(crate) fn create(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let name = name(params)?;
    let instance = params.need("InstanceId")?;
    let description = params.get("Description");
    let no_reboot = params.flag("NoReboot")?.unwrap_or(false);
    let devices = devices(params)?;
    let types = ["image", "snapshot"];
    let tags = tags::specified(params, &types, "image")?;
    let snapshot_tags = tags::specified(params, &types, "snapshot")?;
    params.done()?;
    if !devices.is_empty() {
        let message = "BlockDeviceMapping in CreateImage is not simulated";
        return Err(ApiError::refuse("UnsupportedOperation", message));
    }
    let (instance, mappings) = capture(cx, &instance, &name, no_reboot, &snapshot_tags)?;
    let made = cx.sim.change(|world| {
        name_is_free(cx, world, &name)?;
        let base = world.base("ami", cx.account(), cx.region(), tags);
        let id = base.id.clone();
        let weather = &world.settings.weather;
        let available = later(base.created, weather.image_seconds.max(weather.snapshot_seconds));
        let image = Image {
            description,
            architecture: instance.architecture.clone(),
            ena: instance.ena,
            boot_mode: instance.boot_mode.clone(),
            uefi_data: instance.uefi_data.clone(),
            tpm: instance.tpm.clone(),
            source_instance: Some(instance.base.id.clone()),
            ..bare(base, name, instance.root.clone(), mappings, available)
        };
        world.images.insert(id.clone(), image);
        Ok(id)
    })?;
    Ok(vec![text("imageId", made)])
}

/// How a device of a launch differs from the image's.
pub(crate) fn overlay(cx: &Cx<'_>, image: &[Mapping], devices: &[Device]) -> Answer<Vec<Mapping>> {
    let mut out = image.to_vec();
    for device in devices {
        let at = out.iter().position(|it| it.device == device.device);
        if device.none {
            out.retain(|it| it.device != device.device);
            continue;
        }
        let mut made = at.map(|at| out[at].clone()).unwrap_or_else(|| Mapping {
            device: device.device.clone(),
            kind: "gp2".to_owned(),
            delete: true,
            ..Mapping::default()
        });
        if device.snapshot.is_some() && at.is_some() && device.snapshot != made.snapshot {
            let message = format!("snapshotId of {} can only be modified on a new device", device.device);
            return Err(ApiError::refuse("InvalidBlockDeviceMapping", message));
        }
        made.snapshot = device.snapshot.clone().or(made.snapshot);
        if let Some(gib) = device.gib {
            if gib < made.gib {
                let message = format!("Volume of size {gib}GB is smaller than snapshot, expect size >= {}GB", made.gib);
                return Err(ApiError::refuse("InvalidBlockDeviceMapping", message));
            }
            made.gib = gib;
        }
        made.kind = device.kind.clone().unwrap_or(made.kind);
        made.iops = device.iops.or(made.iops);
        made.throughput = device.throughput.or(made.throughput);
        made.delete = device.delete.unwrap_or(made.delete);
        let encrypted = device.encrypted.unwrap_or(made.encrypted);
        if let Some((key, _)) = keys::chosen(cx, encrypted, device.key.clone().or(made.key.clone())) {
            (made.encrypted, made.key) = (true, Some(key));
        }
        match at {
            Some(at) => out[at] = made,
            None => out.push(made),
        }
    }
    Ok(out)
}

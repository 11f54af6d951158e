//! Images described and deregistered.

use std::collections::BTreeSet;

use super::filter::{self, Fields};
use super::find::Cx;
use super::page;
use super::params::Params;
use super::snapshots;
use super::tags;
use super::xml::{Maybe, Xml, list, node, text};
use crate::clock::iso;
use crate::error::{Answer, ApiError};
use crate::world::resource::{Image, Mapping};

/// One disk of an image.
pub(crate) fn device(mapping: &Mapping) -> Vec<Xml> {
    let mut ebs = vec![
        text("deleteOnTermination", mapping.delete),
        text("volumeSize", mapping.gib),
        text("volumeType", &mapping.kind),
        text("encrypted", mapping.encrypted),
    ];
    ebs.maybe("snapshotId", mapping.snapshot.as_ref());
    ebs.maybe("iops", mapping.iops);
    ebs.maybe("throughput", mapping.throughput);
    ebs.maybe("kmsKeyId", mapping.key.as_ref());
    vec![text("deviceName", &mapping.device), node("ebs", ebs)]
}

fn info(image: &Image, now: jiff::Timestamp) -> Vec<Xml> {
    let mut xml = vec![
        text("imageId", &image.base.id),
        text("imageLocation", format!("{}/{}", image.base.account, image.name)),
        text("imageState", image.state(now)),
        text("imageOwnerId", &image.base.account),
        text("creationDate", iso(image.base.created)),
        text("isPublic", image.shared.contains("all")),
        text("architecture", &image.architecture),
        text("imageType", "machine"),
        text("name", &image.name),
        text("rootDeviceType", "ebs"),
        text("rootDeviceName", &image.root),
        list("blockDeviceMapping", image.mappings.iter().map(device)),
        text("virtualizationType", "hvm"),
        text("hypervisor", "xen"),
        text("enaSupport", image.ena),
        text("platformDetails", "Linux/UNIX"),
        text("usageOperation", "RunInstances"),
        text("deregistrationProtection", protection(image, now)),
        tags::set(image.base.tags(now)),
    ];
    xml.maybe("description", image.description.as_ref());
    xml.maybe("sriovNetSupport", image.sriov.then_some("simple"));
    xml.maybe("bootMode", image.boot_mode.as_ref());
    xml.maybe("tpmSupport", image.tpm.as_ref());
    xml.maybe("imdsSupport", image.imds.as_ref());
    xml.maybe("deprecationTime", image.deprecated.map(iso));
    xml.maybe("sourceInstanceId", image.source_instance.as_ref());
    xml.maybe("lastLaunchedTime", image.last_launch.map(iso));
    if let Some((id, region)) = &image.source_image {
        xml.push(text("sourceImageId", id));
        xml.push(text("sourceImageRegion", region));
    }
    if let Some(why) = &image.failed {
        let reason = vec![text("code", "Client.InvalidParameterValue"), text("message", why)];
        xml.push(node("stateReason", reason));
    }
    xml
}

pub(crate) fn protection(image: &Image, now: jiff::Timestamp) -> &'static str {
    match (image.protected, image.cooldown) {
        (true, true) => "enabled-with-cooldown",
        (true, false) => "enabled-without-cooldown",
        (false, _) if image.protected_until.is_some_and(|until| now < until) => "enabled-with-cooldown",
        (false, _) => "disabled",
    }
}

const FILTERS: [&str; 21] = [
    "architecture",
    "block-device-mapping.device-name",
    "block-device-mapping.encrypted",
    "block-device-mapping.snapshot-id",
    "block-device-mapping.volume-size",
    "block-device-mapping.volume-type",
    "creation-date",
    "description",
    "ena-support",
    "image-id",
    "image-type",
    "is-public",
    "name",
    "owner-id",
    "root-device-name",
    "root-device-type",
    "source-image-id",
    "source-image-region",
    "source-instance-id",
    "state",
    "virtualization-type",
];

fn fields(it: &Image, now: jiff::Timestamp) -> Fields {
    let mut fields: Fields = vec![
        ("architecture", it.architecture.clone()),
        ("creation-date", iso(it.base.created)),
        ("ena-support", it.ena.to_string()),
        ("image-id", it.base.id.clone()),
        ("image-type", "machine".to_owned()),
        ("is-public", it.shared.contains("all").to_string()),
        ("name", it.name.clone()),
        ("owner-id", it.base.account.clone()),
        ("root-device-name", it.root.clone()),
        ("root-device-type", "ebs".to_owned()),
        ("state", it.state(now).to_owned()),
        ("virtualization-type", "hvm".to_owned()),
    ];
    fields.extend(it.description.iter().map(|text| ("description", text.clone())));
    fields.extend(it.source_instance.iter().map(|text| ("source-instance-id", text.clone())));
    if let Some((id, region)) = &it.source_image {
        fields.extend([("source-image-id", id.clone()), ("source-image-region", region.clone())]);
    }
    for mapping in &it.mappings {
        fields.push(("block-device-mapping.device-name", mapping.device.clone()));
        fields.push(("block-device-mapping.encrypted", mapping.encrypted.to_string()));
        fields.push(("block-device-mapping.volume-size", mapping.gib.to_string()));
        fields.push(("block-device-mapping.volume-type", mapping.kind.clone()));
        fields.extend(mapping.snapshot.iter().map(|id| ("block-device-mapping.snapshot-id", id.clone())));
    }
    fields
}

pub(crate) fn describe(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let (ids, owners, executable) = (params.list("ImageId"), params.list("Owner"), params.list("ExecutableBy"));
    let with_deprecated = params.flag("IncludeDeprecated")?.unwrap_or(false);
    params.flag("IncludeDisabled")?;
    let filters = filter::read(params, &FILTERS)?;
    let page = page::read(params, "DescribeImages", (1, 1000), !ids.is_empty())?;
    params.done()?;
    let me = cx.account();
    let owners: BTreeSet<String> = owners.into_iter().map(|it| if it == "self" { me.to_owned() } else { it }).collect();
    let items = cx.sim.with(|world| -> Answer<Vec<_>> {
        let now = world.now();
        for id in &ids {
            cx.image(world, id)?;
        }
        let found = world.images.values().filter(|it| {
            let own = it.base.account == me;
            let shown = own || with_deprecated || !ids.is_empty() || it.deprecated.is_none_or(|at| now < at);
            let runs = |who: &String| match who.as_str() {
                "self" => it.shared.contains(me),
                who => it.shared.contains(who),
            };
            cx.sees(&it.base, now)
                && it.is_open_to(me)
                && shown
                && (ids.is_empty() || ids.contains(&it.base.id))
                && (owners.is_empty() || owners.contains(&it.base.account))
                && (executable.is_empty() || executable.iter().any(runs))
                && filter::all_fit(&filters, &fields(it, now), it.base.tags(now))
        });
        Ok(found.map(|it| (it.base.id.clone(), info(it, now))).collect())
    })?;
    Ok(page.of(cx, "imagesSet", items))
}

pub(crate) fn deregister(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let id = params.need("ImageId")?;
    let with_snapshots = params.flag("DeleteAssociatedSnapshots")?.unwrap_or(false);
    params.done()?;
    let removed = cx.sim.change(|world| {
        let now = world.now();
        let image = cx.own_image(world, &id)?;
        if protection(image, now) != "disabled" {
            let message = format!("The image '{id}' is protected from deregistration");
            return Err(ApiError::refuse("OperationNotPermitted", message));
        }
        let removed = image.mappings.clone();
        world.images.remove(&id);
        world.gone.insert(id.clone());
        Ok(removed)
    })?;
    let mut results = Vec::new();
    if with_snapshots {
        for snapshot in removed.into_iter().filter_map(|mapping| mapping.snapshot) {
            // one that another image uses, or that is locked, stays
            let code = match snapshots::remove(cx, &snapshot) {
                Ok(()) => "success",
                Err(why) if why.code == "InvalidSnapshot.InUse" => "skipped",
                Err(_) => "client-error",
            };
            results.push(vec![text("snapshotId", snapshot), text("returnCode", code)]);
        }
    }
    let mut xml = vec![text("return", true)];
    if with_snapshots {
        xml.push(list("deleteSnapshotResultSet", results));
    }
    Ok(xml)
}

//! Instances described, started, stopped, terminated, listened to.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::filter::{self, Fields};
use super::find::Cx;
use super::page;
use super::params::Params;
use super::tags;
use super::xml::{Maybe, Xml, list, node, text};
use crate::clock::{iso, later};
use crate::error::{Answer, ApiError};
use crate::hypervisor::hold;
use crate::world::World;
use crate::world::fixtures::zone_id;
use crate::world::resource::{Instance, Wish};

fn state(name: &'static str, (code, word): (u32, &'static str)) -> Xml {
    node(name, vec![text("code", code), text("name", word)])
}

fn groups(world: &World, instance: &Instance) -> Xml {
    let named = instance.groups.iter().map(|id| {
        let name = world.groups.get(id).map(|it| it.name.as_str()).unwrap_or_default();
        vec![text("groupId", id), text("groupName", name)]
    });
    list("groupSet", named)
}

fn disks(world: &World, it: &Instance) -> Xml {
    let disks = world.attached_to(&it.base.id, &it.root).into_iter().map(|(at, volume)| {
        let ebs = vec![
            text("volumeId", &volume.base.id),
            text("status", "attached"),
            text("attachTime", iso(at.at)),
            text("deleteOnTermination", at.delete),
        ];
        vec![text("deviceName", &at.device), node("ebs", ebs)]
    });
    list("blockDeviceMapping", disks)
}

/// Where it is and how its metadata is reached.
fn surroundings(it: &Instance) -> [Xml; 2] {
    let placement = vec![
        text("availabilityZone", &it.zone),
        text("availabilityZoneId", zone_id(&it.zone)),
        text("groupName", ""),
        text("tenancy", "default"),
    ];
    let metadata = vec![
        text("state", "applied"),
        text("httpTokens", &it.http_tokens),
        text("httpPutResponseHopLimit", 1),
        text("httpEndpoint", "enabled"),
    ];
    [node("placement", placement), node("metadataOptions", metadata)]
}

/// What not every instance has.
fn options(it: &Instance) -> Vec<Xml> {
    let mut xml = Vec::new();
    if it.wish != Wish::Terminated {
        xml.extend([text("subnetId", &it.subnet), text("vpcId", &it.vpc), text("privateIpAddress", &it.ip)]);
    }
    xml.maybe("keyName", it.key_name.as_ref());
    xml.maybe("clientToken", it.token.as_ref());
    xml.maybe("bootMode", it.boot_mode.as_ref());
    xml.maybe("tpmSupport", it.tpm.as_ref());
    if let Some(profile) = &it.profile {
        let arn = match profile.starts_with("arn:") {
            true => profile.clone(),
            false => format!("arn:aws:iam::{}:instance-profile/{profile}", it.base.account),
        };
        xml.push(node("iamInstanceProfile", vec![text("arn", arn), text("id", "AIPASIMULATED")]));
    }
    if !it.reason.is_empty() {
        let code = it.reason.split(':').next().unwrap_or_default();
        xml.push(node("stateReason", vec![text("code", code), text("message", &it.reason)]));
    }
    xml
}

fn info(world: &World, it: &Instance) -> Vec<Xml> {
    let now = world.now();
    let mut xml = vec![
        text("instanceId", &it.base.id),
        text("imageId", &it.image),
        state("instanceState", it.state(now)),
        text("privateDnsName", format!("ip-{}.{}.compute.internal", it.ip.replace('.', "-"), it.base.region)),
        text("dnsName", ""),
        text("reason", &it.reason),
        text("amiLaunchIndex", it.index),
        text("instanceType", &it.kind),
        text("launchTime", iso(it.launched)),
        node("monitoring", vec![text("state", "disabled")]),
        text("architecture", &it.architecture),
        text("rootDeviceType", "ebs"),
        text("rootDeviceName", &it.root),
        disks(world, it),
        text("virtualizationType", "hvm"),
        tags::set(it.base.tags(now)),
        text("hypervisor", "xen"),
        text("ebsOptimized", false),
        text("enaSupport", it.ena),
        groups(world, it),
        text("platformDetails", "Linux/UNIX"),
        text("usageOperation", "RunInstances"),
        text("currentInstanceBootMode", if it.boots_by_uefi() { "uefi" } else { "legacy-bios" }),
    ];
    xml.extend(surroundings(it));
    xml.extend(options(it));
    xml
}

/// The answer to a launch.
pub(crate) fn reservation(cx: &Cx<'_>, ids: &[String]) -> Answer<Vec<Xml>> {
    cx.sim.with(|world| {
        let found: Vec<&Instance> = ids.iter().filter_map(|id| world.instances.get(id)).collect();
        let name = found.first().map(|it| it.reservation.clone()).unwrap_or_default();
        Ok(vec![
            text("reservationId", name),
            text("ownerId", cx.account()),
            list("groupSet", []),
            list("instancesSet", found.into_iter().map(|it| info(world, it))),
        ])
    })
}

const FILTERS: [&str; 18] = [
    "architecture",
    "availability-zone",
    "block-device-mapping.volume-id",
    "client-token",
    "image-id",
    "instance-id",
    "instance-state-code",
    "instance-state-name",
    "instance-type",
    "instance.group-id",
    "key-name",
    "owner-id",
    "private-ip-address",
    "reservation-id",
    "root-device-name",
    "root-device-type",
    "subnet-id",
    "vpc-id",
];

fn fields(world: &World, it: &Instance) -> Fields {
    let (code, name) = it.state(world.now());
    let mut fields: Fields = vec![
        ("architecture", it.architecture.clone()),
        ("availability-zone", it.zone.clone()),
        ("image-id", it.image.clone()),
        ("instance-id", it.base.id.clone()),
        ("instance-state-code", code.to_string()),
        ("instance-state-name", name.to_owned()),
        ("instance-type", it.kind.clone()),
        ("owner-id", it.base.account.clone()),
        ("private-ip-address", it.ip.clone()),
        ("reservation-id", it.reservation.clone()),
        ("root-device-name", it.root.clone()),
        ("root-device-type", "ebs".to_owned()),
        ("subnet-id", it.subnet.clone()),
        ("vpc-id", it.vpc.clone()),
    ];
    fields.extend(it.token.iter().map(|token| ("client-token", token.clone())));
    fields.extend(it.key_name.iter().map(|name| ("key-name", name.clone())));
    fields.extend(it.groups.iter().map(|id| ("instance.group-id", id.clone())));
    let disks = world.attached_to(&it.base.id, &it.root).into_iter();
    fields.extend(disks.map(|(_, volume)| ("block-device-mapping.volume-id", volume.base.id.clone())));
    fields
}

pub(crate) fn describe(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let ids = params.list("InstanceId");
    let filters = filter::read(params, &FILTERS)?;
    let page = page::read(params, "DescribeInstances", (5, 1000), !ids.is_empty())?;
    params.done()?;
    let items = cx.sim.with(|world| -> Answer<Vec<_>> {
        for id in &ids {
            cx.instance(world, id)?;
        }
        let now = world.now();
        let mut reservations: BTreeMap<String, Vec<Vec<Xml>>> = BTreeMap::new();
        for it in world.instances.values() {
            if cx.owns(&it.base, now)
                && (ids.is_empty() || ids.contains(&it.base.id))
                && filter::all_fit(&filters, &fields(world, it), it.base.tags(now))
            {
                reservations.entry(it.reservation.clone()).or_default().push(info(world, it));
            }
        }
        let shown = reservations.into_iter().map(|(name, instances)| {
            let xml = vec![
                text("reservationId", &name),
                text("ownerId", cx.account()),
                list("groupSet", []),
                list("instancesSet", instances),
            ];
            (name, xml)
        });
        Ok(shown.collect())
    })?;
    Ok(page.of(cx, "reservationSet", items))
}

pub(crate) fn attribute(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let (id, attribute) = (params.need("InstanceId")?, params.need("Attribute")?);
    params.done()?;
    let it = cx.sim.with(|world| cx.instance(world, &id).map(|it| it.clone()))?;
    let value = |name, value: String| node(name, vec![text("value", value)]);
    let xml = match attribute.as_str() {
        "userData" => node("userData", it.user_data.iter().map(|data| text("value", data)).collect()),
        "instanceType" => value("instanceType", it.kind),
        "disableApiTermination" => value("disableApiTermination", (!it.api_termination).to_string()),
        "rootDeviceName" => value("rootDeviceName", it.root),
        "enaSupport" => value("enaSupport", it.ena.to_string()),
        "ebsOptimized" => value("ebsOptimized", "false".to_owned()),
        "instanceInitiatedShutdownBehavior" => {
            let word = if it.terminate_on_shutdown { "terminate" } else { "stop" };
            value("instanceInitiatedShutdownBehavior", word.to_owned())
        }
        other => return Err(ApiError::value("attribute", other)),
    };
    Ok(vec![text("instanceId", id), xml])
}

pub(crate) fn uefi_data(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let id = params.need("InstanceId")?;
    params.done()?;
    let it = cx.sim.with(|world| cx.instance(world, &id).map(|it| it.clone()))?;
    if !it.boots_by_uefi() {
        let message = format!("The instance '{id}' does not support UEFI boot mode");
        return Err(ApiError::refuse("UnsupportedOperation", message));
    }
    let mut xml = vec![text("instanceId", id)];
    xml.maybe("uefiData", it.uefi_data);
    Ok(xml)
}

/// Changes what instances are wanted to be; `act` does it to each machine.
fn turn(cx: &Cx<'_>, ids: &[String], wish: Wish, act: impl Fn(&str) -> Answer<()>) -> Answer<Vec<Xml>> {
    if ids.is_empty() {
        return Err(ApiError::missing("InstanceId"));
    }
    let before = cx.sim.change(|world| {
        let now = world.now();
        for id in ids {
            let it = cx.instance(world, id)?;
            let fine = match (wish, it.wish) {
                (Wish::Terminated, _) => true,
                (_, Wish::Terminated) => false,
                (Wish::Running, Wish::Stopped) => it.state(now).1 == "stopped",
                _ => true,
            };
            if !fine {
                let message = format!("The instance '{id}' is not in a state from which it can be changed.");
                return Err(ApiError::refuse("IncorrectInstanceState", message));
            }
            if wish == Wish::Terminated && !it.api_termination {
                let message = format!("The instance '{id}' may not be terminated. Modify its 'disableApiTermination'.");
                return Err(ApiError::refuse("OperationNotPermitted", message));
            }
        }
        let settles = later(now, world.settings.weather.instance_seconds);
        let mut before = Vec::new();
        for id in ids {
            let Some(it) = world.instances.get_mut(id) else { continue };
            before.push((id.clone(), it.state(now), it.wish != wish));
            if it.wish != wish {
                (it.wish, it.settles) = (wish, settles);
                it.reason = match wish {
                    Wish::Running => String::new(),
                    _ => format!("Client.UserInitiatedShutdown: User initiated ({})", iso(now)),
                };
                if wish == Wish::Running {
                    it.launched = now;
                }
            }
        }
        Ok(before)
    })?;
    for (id, _, changes) in &before {
        if *changes {
            act(id)?;
        }
    }
    let items = cx.sim.with(|world| {
        let now = world.now();
        let shown = before.iter().map(|(id, before, _)| {
            let after = world.instances.get(id).map_or((48, "terminated"), |it| it.state(now));
            vec![text("instanceId", id), state("currentState", after), state("previousState", *before)]
        });
        shown.collect::<Vec<_>>()
    });
    Ok(vec![list("instancesSet", items)])
}

pub(crate) fn start(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let ids = params.list("InstanceId");
    params.done()?;
    turn(cx, &ids, Wish::Running, |id| hold::start(cx.sim, id))
}

pub(crate) fn stop(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let ids = params.list("InstanceId");
    let at_once = params.flag("Force")?.unwrap_or(false) | params.flag("SkipOsShutdown")?.unwrap_or(false);
    if params.flag("Hibernate")? == Some(true) {
        return Err(ApiError::refuse("UnsupportedHibernationConfiguration", "Hibernation is not simulated"));
    }
    params.done()?;
    turn(cx, &ids, Wish::Stopped, |id| {
        if at_once {
            hold::pull_the_plug(cx.sim, id)
        } else {
            hold::power_off(cx.sim, id)
        }
        Ok(())
    })
}

pub(crate) fn terminate(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let ids = params.list("InstanceId");
    params.flag("Force")?;
    params.flag("SkipOsShutdown")?;
    params.done()?;
    turn(cx, &ids, Wish::Terminated, |id| {
        hold::pull_the_plug(cx.sim, id);
        hold::drop_volumes(cx.sim, id)
    })
}

pub(crate) fn console(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let id = params.need("InstanceId")?;
    params.flag("Latest")?;
    params.done()?;
    let now = cx.sim.with(|world| -> Answer<_> {
        cx.instance(world, &id)?;
        Ok(world.now())
    })?;
    let mut xml = vec![text("instanceId", &id), text("timestamp", iso(now))];
    // the provider keeps the last 64 KiB
    let output = cx.sim.machines.console(&id, 64 << 10).filter(|bytes| !bytes.is_empty());
    xml.maybe("output", output.map(|bytes| STANDARD.encode(bytes)));
    Ok(xml)
}

pub(crate) fn status(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let ids = params.list("InstanceId");
    let all = params.flag("IncludeAllInstances")?.unwrap_or(false);
    let filters = filter::read(params, &["instance-state-name"])?;
    let page = page::read(params, "DescribeInstanceStatus", (5, 1000), !ids.is_empty())?;
    params.done()?;
    let items = cx.sim.with(|world| -> Answer<Vec<_>> {
        for id in &ids {
            cx.instance(world, id)?;
        }
        let now = world.now();
        let mut items = Vec::new();
        for it in world.instances.values().filter(|it| cx.owns(&it.base, now)) {
            let (code, name) = it.state(now);
            let fields = vec![("instance-state-name", name.to_owned())];
            let shown = (all || name == "running") && (ids.is_empty() || ids.contains(&it.base.id));
            if !shown || !filter::all_fit(&filters, &fields, it.base.tags(now)) {
                continue;
            }
            let check = |element| {
                let word = if name == "running" { "ok" } else { "not-applicable" };
                node(element, vec![text("status", word)])
            };
            let xml = vec![
                text("instanceId", &it.base.id),
                text("availabilityZone", &it.zone),
                state("instanceState", (code, name)),
                check("systemStatus"),
                check("instanceStatus"),
            ];
            items.push((it.base.id.clone(), xml));
        }
        Ok(items)
    })?;
    Ok(page.of(cx, "instanceStatusSet", items))
}

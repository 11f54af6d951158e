//! Networks, security groups, key pairs, launch templates, regions and zones: what a launch refers to.

use super::filter::{self, Fields};
use super::find::Cx;
use super::page;
use super::params::Params;
use super::tags;
use super::xml::{Xml, list, node, text};
use crate::clock::iso;
use crate::error::{Answer, ApiError};
use crate::world::World;
use crate::world::fixtures::{zone_id, zones};
use crate::world::resource::{Fixture, Group, Tags, Wish};

/// How one kind of fixture is described.
struct Listing {
    ids: &'static str,
    operation: &'static str,
    set: &'static str,
    filters: &'static [&'static str],
    of: fn(&World) -> Vec<Fixture>,
    fields: fn(&Fixture) -> Fields,
    info: fn(&Fixture, jiff::Timestamp) -> Vec<Xml>,
    absent: &'static str,
}

fn listing(cx: &Cx<'_>, params: &Params, how: &Listing) -> Answer<Vec<Xml>> {
    let ids = params.list(how.ids);
    let filters = filter::read(params, how.filters)?;
    let page = page::read(params, how.operation, (5, 1000), !ids.is_empty())?;
    params.done()?;
    let items = cx.sim.with(|world| -> Answer<Vec<_>> {
        let now = world.now();
        let mut all = (how.of)(world);
        all.retain(|it| cx.owns(&it.base, now));
        let is = |it: &Fixture, id: &str| it.base.id == id || it.name == id;
        if let Some(absent) = ids.iter().find(|id| !all.iter().any(|it| is(it, id))) {
            return Err(ApiError::refuse(how.absent, format!("The ID '{absent}' does not exist")));
        }
        all.retain(|it| ids.is_empty() || ids.iter().any(|id| is(it, id)));
        all.retain(|it| filter::all_fit(&filters, &(how.fields)(it), it.base.tags(now)));
        Ok(all.iter().map(|it| (it.base.id.clone(), (how.info)(it, now))).collect())
    })?;
    Ok(page.of(cx, how.set, items))
}

pub(crate) fn vpcs(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    listing(
        cx,
        params,
        &Listing {
            ids: "VpcId",
            operation: "DescribeVpcs",
            set: "vpcSet",
            filters: &["vpc-id", "is-default", "isDefault", "state", "cidr"],
            of: |world| world.vpcs.values().cloned().collect(),
            fields: |it| {
                vec![
                    ("vpc-id", it.base.id.clone()),
                    ("is-default", "true".to_owned()),
                    ("isDefault", "true".to_owned()),
                    ("state", "available".to_owned()),
                    ("cidr", it.cidr.clone()),
                ]
            },
            info: |it, now| {
                vec![
                    text("vpcId", &it.base.id),
                    text("ownerId", &it.base.account),
                    text("state", "available"),
                    text("cidrBlock", &it.cidr),
                    text("isDefault", true),
                    text("instanceTenancy", "default"),
                    tags::set(it.base.tags(now)),
                ]
            },
            absent: "InvalidVpcID.NotFound",
        },
    )
}

pub(crate) fn subnets(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    listing(
        cx,
        params,
        &Listing {
            ids: "SubnetId",
            operation: "DescribeSubnets",
            set: "subnetSet",
            filters: &["subnet-id", "vpc-id", "availability-zone", "state", "default-for-az"],
            of: |world| world.subnets.values().cloned().collect(),
            fields: |it| {
                vec![
                    ("subnet-id", it.base.id.clone()),
                    ("vpc-id", it.vpc.clone()),
                    ("availability-zone", it.about.clone()),
                    ("state", "available".to_owned()),
                    ("default-for-az", "true".to_owned()),
                ]
            },
            info: |it, now| {
                vec![
                    text("subnetId", &it.base.id),
                    text("ownerId", &it.base.account),
                    text("state", "available"),
                    text("vpcId", &it.vpc),
                    text("cidrBlock", &it.cidr),
                    text("availableIpAddressCount", 4091),
                    text("availabilityZone", &it.about),
                    text("availabilityZoneId", zone_id(&it.about)),
                    text("defaultForAz", true),
                    text("mapPublicIpOnLaunch", false),
                    tags::set(it.base.tags(now)),
                ]
            },
            absent: "InvalidSubnetID.NotFound",
        },
    )
}

pub(crate) fn key_pairs(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    listing(
        cx,
        params,
        &Listing {
            ids: "KeyName",
            operation: "DescribeKeyPairs",
            set: "keySet",
            filters: &["key-name", "key-pair-id"],
            of: |world| world.key_pairs.values().cloned().collect(),
            fields: |it| vec![("key-name", it.name.clone()), ("key-pair-id", it.base.id.clone())],
            info: |it, now| {
                vec![
                    text("keyPairId", &it.base.id),
                    text("keyName", &it.name),
                    text("keyType", "ed25519"),
                    text("keyFingerprint", "c2ltdWxhdGVkIGtleSBvZiBub2JvZHkgYXQgYWxsISE="),
                    text("createTime", iso(it.base.created)),
                    tags::set(it.base.tags(now)),
                ]
            },
            absent: "InvalidKeyPair.NotFound",
        },
    )
}

pub(crate) fn templates(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    listing(
        cx,
        params,
        &Listing {
            ids: if params.list("LaunchTemplateName").is_empty() { "LaunchTemplateId" } else { "LaunchTemplateName" },
            operation: "DescribeLaunchTemplates",
            set: "launchTemplates",
            filters: &["launch-template-name"],
            of: |world| world.templates.values().cloned().collect(),
            fields: |it| vec![("launch-template-name", it.name.clone())],
            info: |it, now| {
                vec![
                    text("launchTemplateId", &it.base.id),
                    text("launchTemplateName", &it.name),
                    text("createTime", iso(it.base.created)),
                    text("createdBy", format!("arn:aws:iam::{}:user/ops", it.base.account)),
                    text("defaultVersionNumber", 1),
                    text("latestVersionNumber", 1),
                    tags::set(it.base.tags(now)),
                ]
            },
            absent: "InvalidLaunchTemplateId.NotFound",
        },
    )
}

pub(crate) fn template_versions(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let (id, name) = (params.get("LaunchTemplateId"), params.get("LaunchTemplateName"));
    let versions = params.list("LaunchTemplateVersion");
    params.flag("ResolveAlias")?;
    let filters = filter::read(params, &["image-id"])?;
    let page = page::read(params, "DescribeLaunchTemplateVersions", (1, 200), false)?;
    params.done()?;
    let known = ["1", "$Latest", "$Default"];
    if let Some(odd) = versions.iter().find(|it| !known.contains(&it.as_str())) {
        return Err(ApiError::value("Versions", odd));
    }
    let items = cx.sim.with(|world| {
        let now = world.now();
        let found = world.templates.values().filter(|it| {
            let fields = vec![("image-id", it.about.clone())];
            cx.owns(&it.base, now)
                && id.as_ref().is_none_or(|id| *id == it.base.id)
                && name.as_ref().is_none_or(|name| *name == it.name)
                && filter::all_fit(&filters, &fields, &Tags::new())
        });
        let shown = found.map(|it| {
            let xml = vec![
                text("launchTemplateId", &it.base.id),
                text("launchTemplateName", &it.name),
                text("versionNumber", 1),
                text("createTime", iso(it.base.created)),
                text("createdBy", format!("arn:aws:iam::{}:user/ops", it.base.account)),
                text("defaultVersion", true),
                node("launchTemplateData", vec![text("imageId", &it.about)]),
            ];
            (it.base.id.clone(), xml)
        });
        shown.collect()
    });
    Ok(page.of(cx, "launchTemplateVersionSet", items))
}

pub(crate) fn regions(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let names = params.list("RegionName");
    params.flag("AllRegions")?;
    let filters = filter::read(params, &["region-name", "opt-in-status", "endpoint"])?;
    params.done()?;
    let all = cx.sim.with(|world| world.accounts.get(cx.account()).map(|it| it.regions.clone()).unwrap_or_default());
    if let Some(odd) = names.iter().find(|name| !all.contains(name)) {
        return Err(ApiError::refuse("InvalidParameterValue", format!("Invalid region: {odd}")));
    }
    let items = all.iter().filter(|name| {
        let fields = vec![
            ("region-name", (*name).clone()),
            ("opt-in-status", "opt-in-not-required".to_owned()),
            ("endpoint", format!("ec2.{name}.amazonaws.com")),
        ];
        (names.is_empty() || names.contains(name)) && filter::all_fit(&filters, &fields, &Tags::new())
    });
    let items = items.map(|name| {
        vec![
            text("regionName", name),
            text("regionEndpoint", format!("ec2.{name}.amazonaws.com")),
            text("optInStatus", "opt-in-not-required"),
        ]
    });
    Ok(vec![list("regionInfo", items)])
}

pub(crate) fn availability_zones(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let names = params.list("ZoneName");
    params.flag("AllAvailabilityZones")?;
    let filters = filter::read(params, &["zone-name", "state", "region-name"])?;
    params.done()?;
    let all = zones(cx.region());
    let items = all.iter().filter(|zone| {
        let fields = vec![
            ("zone-name", (*zone).clone()),
            ("state", "available".to_owned()),
            ("region-name", cx.region().to_owned()),
        ];
        (names.is_empty() || names.contains(zone)) && filter::all_fit(&filters, &fields, &Tags::new())
    });
    let items = items.map(|zone| {
        vec![
            text("zoneName", zone),
            text("zoneId", zone_id(zone)),
            text("zoneState", "available"),
            text("regionName", cx.region()),
            text("groupName", cx.region()),
            text("optInStatus", "opt-in-not-required"),
            text("zoneType", "availability-zone"),
        ]
    });
    Ok(vec![list("availabilityZoneInfo", items)])
}

fn group_info(it: &Group, now: jiff::Timestamp) -> Vec<Xml> {
    let out = || vec![text("ipProtocol", "-1"), list("ipRanges", [vec![text("cidrIp", "0.0.0.0/0")]])];
    vec![
        text("groupId", &it.base.id),
        text("groupName", &it.name),
        text("groupDescription", &it.description),
        text("ownerId", &it.base.account),
        text("vpcId", &it.vpc),
        list("ipPermissions", []),
        list("ipPermissionsEgress", it.open_egress.then(out)),
        tags::set(it.base.tags(now)),
    ]
}

pub(crate) fn groups(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let (ids, names) = (params.list("GroupId"), params.list("GroupName"));
    let filters = filter::read(params, &["group-id", "group-name", "vpc-id", "description", "owner-id"])?;
    let page = page::read(params, "DescribeSecurityGroups", (5, 1000), !ids.is_empty())?;
    params.done()?;
    let items = cx.sim.with(|world| -> Answer<Vec<_>> {
        let now = world.now();
        for id in &ids {
            cx.group(world, id)?;
        }
        let found = world.groups.values().filter(|it| {
            let fields = vec![
                ("group-id", it.base.id.clone()),
                ("group-name", it.name.clone()),
                ("vpc-id", it.vpc.clone()),
                ("description", it.description.clone()),
                ("owner-id", it.base.account.clone()),
            ];
            cx.owns(&it.base, now)
                && (ids.is_empty() || ids.contains(&it.base.id))
                && (names.is_empty() || names.contains(&it.name))
                && filter::all_fit(&filters, &fields, it.base.tags(now))
        });
        Ok(found.map(|it| (it.base.id.clone(), group_info(it, now))).collect())
    })?;
    Ok(page.of(cx, "securityGroupInfo", items))
}

pub(crate) fn create_group(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let (name, description) = (params.need("GroupName")?, params.need("GroupDescription")?);
    let vpc = params.get("VpcId");
    let tags = tags::specified(params, &["security-group"], "security-group")?;
    params.done()?;
    let id = cx.sim.change(|world| {
        let now = world.now();
        let vpc =
            world.vpcs.values().find(|it| cx.owns(&it.base, now) && vpc.as_ref().is_none_or(|id| *id == it.base.id));
        let vpc = vpc.ok_or_else(|| ApiError::refuse("InvalidVpcID.NotFound", "The vpc ID does not exist"))?;
        let vpc = vpc.base.id.clone();
        if world.groups.values().any(|it| cx.owns_by_now(&it.base) && it.name == name && it.vpc == vpc) {
            let message = format!("The security group '{name}' already exists for VPC '{vpc}'");
            return Err(ApiError::refuse("InvalidGroup.Duplicate", message));
        }
        let base = world.base("sg", cx.account(), cx.region(), tags.clone());
        let id = base.id.clone();
        let group = Group { base, name: name.clone(), description, vpc, open_egress: true, is_default: false };
        world.groups.insert(id.clone(), group);
        Ok(id)
    })?;
    Ok(vec![text("return", true), text("groupId", id), tags::set(&tags)])
}

pub(crate) fn delete_group(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let id = params.need("GroupId")?;
    params.done()?;
    cx.sim.change(|world| {
        let group = cx.group(world, &id)?;
        if group.is_default {
            return Err(ApiError::refuse("CannotDelete", "the specified group: default cannot be deleted by a user"));
        }
        if world.instances.values().any(|it| it.wish != Wish::Terminated && it.groups.contains(&id)) {
            return Err(ApiError::refuse("DependencyViolation", format!("resource {id} has a dependent object")));
        }
        world.groups.remove(&id);
        Ok(())
    })?;
    Ok(vec![text("return", true), text("groupId", id)])
}

/// Takes away the rule that lets everything out: what an isolated drill does.
pub(crate) fn revoke_egress(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let id = params.need("GroupId")?;
    for permission in params.structs("IpPermissions") {
        permission.get("IpProtocol");
        permission.structs("IpRanges").iter().for_each(|range| {
            range.get("CidrIp");
        });
    }
    params.done()?;
    cx.sim.change(|world| {
        cx.group(world, &id)?;
        if let Some(group) = world.groups.get_mut(&id) {
            group.open_egress = false;
        }
        Ok(())
    })?;
    Ok(vec![text("return", true)])
}

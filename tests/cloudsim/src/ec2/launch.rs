//! RunInstances: checks in the provider's order, then volumes, then the machine. The client token makes a repeated
//! call find what the first one made.

use super::find::Cx;
use super::instances;
use super::params::Params;
use super::register::{self, Device};
use super::volumes;
use super::xml::Xml;
use crate::clock::later;
use crate::error::{Answer, ApiError};
use crate::hypervisor::hold;
use crate::world::World;
use crate::world::ids::fresh;
use crate::world::resource::{Attachment, Image, Instance, Mapping, Tags, Volume, Wish};

/// What a call asks for.
struct Order {
    image: String,
    kind: String,
    count: u64,
    subnet: Option<String>,
    groups: Vec<String>,
    zone: Option<String>,
    key_name: Option<String>,
    user_data: Option<String>,
    profile: Option<String>,
    devices: Vec<Device>,
    http_tokens: Option<String>,
    terminate_on_shutdown: bool,
    api_termination: bool,
    tags: Tags,
    volume_tags: Tags,
    token: Option<String>,
}

fn order(params: &Params) -> Answer<Order> {
    let (least, most) = (params.number("MinCount")?, params.number("MaxCount")?);
    let least = least.ok_or_else(|| ApiError::missing("MinCount"))?;
    let count = most.ok_or_else(|| ApiError::missing("MaxCount"))?;
    if least == 0 || least > count || count > 20 {
        return Err(ApiError::refuse("InvalidParameterValue", "MinCount and MaxCount do not fit"));
    }
    let network = params.structs("NetworkInterface").into_iter().next();
    let (mut subnet, mut groups) = (params.get("SubnetId"), params.list("SecurityGroupId"));
    if let Some(card) = &network {
        card.number("DeviceIndex")?;
        card.flag("AssociatePublicIpAddress")?;
        card.flag("DeleteOnTermination")?;
        subnet = card.get("SubnetId").or(subnet);
        groups.extend(card.list("SecurityGroupId"));
    }
    let metadata = params.below("MetadataOptions");
    metadata.word("HttpEndpoint", &["enabled", "disabled"])?;
    metadata.number("HttpPutResponseHopLimit")?;
    metadata.word("InstanceMetadataTags", &["enabled", "disabled"])?;
    params.below("Monitoring").flag("Enabled")?;
    params.flag("EbsOptimized")?;
    let profile = params.below("IamInstanceProfile");
    let shutdown = params.word("InstanceInitiatedShutdownBehavior", &["stop", "terminate"])?;
    let (tags, volume_tags) = volumes::launch_tags(params)?;
    let order = Order {
        image: params.need("ImageId")?,
        kind: params.get("InstanceType").unwrap_or_else(|| "m1.small".to_owned()),
        count,
        subnet,
        groups,
        zone: params.below("Placement").get("AvailabilityZone"),
        key_name: params.get("KeyName"),
        user_data: params.get("UserData"),
        profile: profile.get("Arn").or(profile.get("Name")),
        devices: register::devices(params)?,
        http_tokens: metadata.word("HttpTokens", &["optional", "required"])?,
        terminate_on_shutdown: shutdown.as_deref() == Some("terminate"),
        api_termination: !params.flag("DisableApiTermination")?.unwrap_or(false),
        tags,
        volume_tags,
        token: params.get("ClientToken"),
    };
    params.done()?;
    Ok(order)
}

pub(crate) fn run(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let order = order(params)?;
    let token = order.token.as_ref().map(|token| cx.token("RunInstances", token, params));
    if let Some(made) = cx.sim.with(|world| world.made(token.as_ref()))? {
        return instances::reservation(cx, &made);
    }
    let (image, plan) = cx.sim.with(|world| {
        let image = cx.image(world, &order.image)?.clone();
        let plan = fit(cx, world, &image, &order)?;
        Ok::<_, ApiError>((image, plan))
    })?;
    let reservation = fresh("r");
    let mut fresh = Vec::new();
    for index in 0..order.count {
        fresh.push(one(cx, &order, &image, &plan, &reservation, index)?);
    }
    let files: Vec<String> =
        fresh.iter().flat_map(|(_, volumes)| volumes.iter().map(|it| it.base.id.clone())).collect();
    // with the token, and before anything boots: whoever asks again must find these
    let (made, is_first) = cx.sim.change(|world| {
        if let Some(made) = world.made(token.as_ref())? {
            return Ok((made, false));
        }
        let now = world.now();
        if let Some(image) = world.images.get_mut(&order.image) {
            image.last_launch = Some(now);
        }
        let made: Vec<String> = fresh.iter().map(|(it, _)| it.base.id.clone()).collect();
        world.remember(token.as_ref(), made.clone());
        for (instance, volumes) in fresh {
            world.instances.insert(instance.base.id.clone(), instance);
            world.volumes.extend(volumes.into_iter().map(|it| (it.base.id.clone(), it)));
        }
        Ok((made, true))
    })?;
    if is_first {
        made.iter().try_for_each(|id| hold::start(cx.sim, id))?;
    } else {
        files.iter().try_for_each(|id| std::fs::remove_file(cx.sim.volume(id)))?;
    }
    instances::reservation(cx, &made)
}

/// Where a launch is made.
struct Place {
    subnet: String,
    zone: String,
    vpc: String,
    groups: Vec<String>,
}

/// Where and of what a launch is made.
struct Plan {
    place: Place,
    disks: Vec<Mapping>,
}

fn place(cx: &Cx<'_>, world: &World, order: &Order) -> Answer<Place> {
    let mine = |it: &&crate::world::resource::Fixture| cx.owns_by_now(&it.base);
    if let Some(name) = &order.key_name
        && !world.key_pairs.values().filter(mine).any(|it| it.name == *name)
    {
        return Err(ApiError::refuse("InvalidKeyPair.NotFound", format!("The key pair '{name}' does not exist")));
    }
    let fits = |it: &&crate::world::resource::Fixture| match (&order.subnet, &order.zone) {
        (Some(id), _) => it.base.id == *id,
        (None, Some(zone)) => it.about == *zone,
        (None, None) => true,
    };
    let subnet = world.subnets.values().filter(mine).filter(fits).min_by_key(|it| it.about.clone());
    let subnet = subnet.ok_or_else(|| {
        let id = order.subnet.as_deref().unwrap_or_default();
        ApiError::refuse("InvalidSubnetID.NotFound", format!("The subnet ID '{id}' does not exist"))
    })?;
    let mut groups = Vec::new();
    for id in &order.groups {
        let group = cx.group(world, id)?;
        if group.vpc != subnet.vpc {
            let message = format!("Security group {id} and subnet {} belong to different networks.", subnet.base.id);
            return Err(ApiError::refuse("InvalidParameter", message));
        }
        groups.push(id.clone());
    }
    if groups.is_empty() {
        let default = world.groups.values().filter(|it| cx.owns_by_now(&it.base) && it.is_default);
        groups.extend(default.map(|it| it.base.id.clone()));
    }
    Ok(Place { subnet: subnet.base.id.clone(), zone: subnet.about.clone(), vpc: subnet.vpc.clone(), groups })
}

fn fit(cx: &Cx<'_>, world: &World, image: &Image, order: &Order) -> Answer<Plan> {
    let now = world.now();
    if image.state(now) != "available" {
        let message = format!("The image ID '{}' is not available", order.image);
        return Err(ApiError::refuse("InvalidAMIID.Unavailable", message));
    }
    let kind = super::types::find(&order.kind).ok_or_else(|| {
        ApiError::refuse("InvalidParameterValue", format!("Invalid value '{}' for InstanceType.", order.kind))
    })?;
    if kind.architecture != image.architecture {
        let message = format!(
            "The architecture '{}' of the specified instance type does not match the architecture '{}' of the \
             specified AMI. Specify an instance type and an AMI that have matching architectures, and try again.",
            kind.architecture, image.architecture
        );
        return Err(ApiError::refuse("InvalidParameterValue", message));
    }
    if !image.ena {
        let message = format!(
            "Enhanced networking with the Elastic Network Adapter (ENA) is required for the '{}' instance type. \
             Ensure that you are using an AMI that is enabled for ENA.",
            kind.name
        );
        return Err(ApiError::refuse("InvalidParameterCombination", message));
    }
    let place = place(cx, world, order)?;
    let disks = register::overlay(cx, &image.mappings, &order.devices)?;
    for id in disks.iter().filter_map(|it| it.snapshot.as_ref()) {
        // an image of another account lets its snapshots be used for a launch
        let there = world.snapshots.get(id).filter(|it| it.state(now) == "completed");
        there.ok_or_else(|| {
            ApiError::refuse("InvalidSnapshot.NotFound", format!("The snapshot '{id}' does not exist."))
        })?;
    }
    Ok(Plan { place, disks })
}

fn one(
    cx: &Cx<'_>,
    order: &Order,
    image: &Image,
    plan: &Plan,
    reservation: &str,
    index: u64,
) -> Answer<(Instance, Vec<Volume>)> {
    let sim = cx.sim;
    let (base, number) = sim.with(|world| {
        world.addresses += 1;
        (world.base("i", cx.account(), cx.region(), order.tags.clone()), world.addresses)
    });
    let id = base.id.clone();
    let mut volumes = Vec::new();
    for mapping in &plan.disks {
        let base = sim.with(|world| world.base("vol", cx.account(), cx.region(), order.volume_tags.clone()));
        let created = base.created;
        let mut volume = volumes::of(cx, base, mapping, &plan.place.zone, created)?;
        let device = mapping.device.clone();
        volume.attached = Some(Attachment { instance: id.clone(), device, at: created, delete: mapping.delete });
        volumes.push(volume);
    }
    let seconds = sim.with(|world| world.settings.weather.instance_seconds);
    let instance = Instance {
        reservation: reservation.to_owned(),
        index,
        image: order.image.clone(),
        kind: order.kind.clone(),
        architecture: image.architecture.clone(),
        boot_mode: image.boot_mode.clone(),
        root: image.root.clone(),
        zone: plan.place.zone.clone(),
        subnet: plan.place.subnet.clone(),
        vpc: plan.place.vpc.clone(),
        groups: plan.place.groups.clone(),
        key_name: order.key_name.clone(),
        token: order.token.clone(),
        user_data: order.user_data.clone(),
        profile: order.profile.clone(),
        ena: image.ena,
        tpm: image.tpm.clone(),
        http_tokens: order
            .http_tokens
            .clone()
            .unwrap_or_else(|| if image.imds.is_some() { "required" } else { "optional" }.to_owned()),
        uefi_data: image.uefi_data.clone(),
        ip: format!("172.31.{}.{}", number / 200 % 16, 10 + number % 200),
        mac: format!("06:00:00:00:{:02x}:{:02x}", number / 256 % 256, number % 256),
        launched: base.created,
        wish: Wish::Running,
        settles: later(base.created, seconds),
        reason: String::new(),
        terminate_on_shutdown: order.terminate_on_shutdown,
        api_termination: order.api_termination,
        base,
    };
    Ok((instance, volumes))
}

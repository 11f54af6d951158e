//! Servers that are simply there: instances whose disks are made of image files, for a test to start from.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::control::body;
use crate::error::{Answer, ApiError};
use crate::http::Request;
use crate::hypervisor::hold;
use crate::sim::Sim;
use crate::store::{GIB, volume};
use crate::world::World;
use crate::world::fixtures::zones;
use crate::world::ids::fresh;
use crate::world::resource::{Attachment, Instance, Tags, Volume, Wish};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Server {
    account: String,
    region: String,
    name: String,
    #[serde(default)]
    tags: Tags,
    /// Raw image files, the root first.
    disks: Vec<PathBuf>,
    #[serde(default = "default_type")]
    instance_type: String,
    /// `legacy-bios` or `uefi`.
    #[serde(default)]
    boot_mode: Option<String>,
    /// Whether its volumes are encrypted, with the region's default key.
    #[serde(default)]
    encrypted: bool,
    /// Otherwise it is stopped.
    #[serde(default = "yes")]
    running: bool,
}

fn default_type() -> String {
    "t3.micro".to_owned()
}

fn yes() -> bool {
    true
}

/// Adds a server and boots it.
pub(crate) fn add(sim: &Sim, request: &Request) -> Answer<Value> {
    let mut wanted: Server = body(request)?;
    wanted.tags.entry("Name".to_owned()).or_insert_with(|| wanted.name.clone());
    if wanted.disks.is_empty() || crate::ec2::types::find(&wanted.instance_type).is_none() {
        return Err(ApiError::refuse("BadRequest", "a server needs disks and a known instance type"));
    }
    let (instance, volumes) = plan(sim, &wanted)?;
    for (file, volume) in wanted.disks.iter().zip(&volumes) {
        let imported = volume::import(file, &sim.volume(&volume.base.id));
        imported.map_err(|why| ApiError::refuse("BadRequest", format!("cannot import {}: {why}", file.display())))?;
    }
    let id = instance.base.id.clone();
    let made = json!({
        "instance": id,
        "volumes": volumes.iter().map(|it| it.base.id.clone()).collect::<Vec<_>>(),
        "image": instance.image,
    });
    sim.change(|world| {
        world.instances.insert(id.clone(), instance);
        world.volumes.extend(volumes.into_iter().map(|it| (it.base.id.clone(), it)));
        Ok(())
    })?;
    if wanted.running {
        hold::start(sim, &id)?;
    }
    Ok(made)
}

fn volumes(world: &World, wanted: &Server, id: &str, zone: &str) -> Answer<Vec<Volume>> {
    let key = wanted.encrypted.then(|| crate::ec2::keys::default(&wanted.account, &wanted.region));
    let mut volumes = Vec::new();
    for (index, file) in wanted.disks.iter().enumerate() {
        let size = std::fs::metadata(file)
            .map_err(|why| ApiError::refuse("BadRequest", format!("cannot read {}: {why}", file.display())))?
            .len();
        let device = match index {
            0 => "/dev/xvda".to_owned(),
            other => format!("/dev/sd{}", char::from(b'e' + other as u8)),
        };
        let mut own = world.base("vol", &wanted.account, &wanted.region, wanted.tags.clone());
        own.visible = own.created;
        volumes.push(Volume {
            zone: zone.to_owned(),
            gib: size.div_ceil(GIB).max(1),
            kind: "gp3".to_owned(),
            iops: Some(3000),
            throughput: Some(125),
            snapshot: None,
            key: key.clone(),
            available: own.created,
            attached: Some(Attachment { instance: id.to_owned(), device, at: own.created, delete: true }),
            last_snapshot: None,
            base: own,
        });
    }
    Ok(volumes)
}

fn plan(sim: &Sim, wanted: &Server) -> Answer<(Instance, Vec<Volume>)> {
    let [zone, _] = zones(&wanted.region);
    sim.with(|world| {
        let here = |base: &crate::world::resource::Base| base.account == wanted.account && base.region == wanted.region;
        let subnet = world.subnets.values().find(|it| here(&it.base) && it.about == zone).cloned();
        let subnet = subnet.ok_or_else(|| ApiError::refuse("BadRequest", "there is no such account or region"))?;
        let groups = world.groups.values().filter(|it| here(&it.base) && it.is_default);
        let groups = groups.map(|it| it.base.id.clone()).collect();
        world.addresses += 1;
        let number = world.addresses;
        let mut base = world.base("i", &wanted.account, &wanted.region, wanted.tags.clone());
        // it has been there for long
        base.visible = base.created;
        let id = base.id.clone();
        let volumes = volumes(world, wanted, &id, &zone)?;
        let instance = Instance {
            reservation: fresh("r"),
            index: 0,
            image: fresh("ami"),
            kind: wanted.instance_type.clone(),
            architecture: "x86_64".to_owned(),
            boot_mode: wanted.boot_mode.clone(),
            root: "/dev/xvda".to_owned(),
            zone,
            subnet: subnet.base.id.clone(),
            vpc: subnet.vpc.clone(),
            groups,
            key_name: Some("ops".to_owned()),
            token: None,
            user_data: None,
            profile: None,
            ena: true,
            tpm: None,
            http_tokens: "required".to_owned(),
            uefi_data: None,
            ip: format!("172.31.{}.{}", number / 200 % 16, 10 + number % 200),
            mac: format!("06:00:00:00:{:02x}:{:02x}", number / 256 % 256, number % 256),
            launched: base.created,
            wish: if wanted.running { Wish::Running } else { Wish::Stopped },
            settles: base.created,
            reason: String::new(),
            terminate_on_shutdown: false,
            api_termination: true,
            base,
        };
        Ok((instance, volumes))
    })
}

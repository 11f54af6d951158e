//! Launching instances of an image.

use aws_sdk_ec2::types as ec2;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cloud::{Instance, LaunchOptions, Network};
use model::{Arch, Error, ImageId, InstanceId, Kind, MachineSpec, Result, Role, Token, crash};

use super::config::{Clients, LaunchSpec, Restore};
use super::error::classify;
use super::{image, instance, isolate, marks};

/// The most that EC2 takes as user data, before base64.
const USER_DATA: u64 = 16 << 10;

/// Starts an instance of an image, or finds the one that the token has started.
pub(super) async fn launch(
    clients: &Clients,
    restore: &Restore,
    image: &ImageId,
    options: &LaunchOptions,
    token: &Token,
) -> Result<Instance> {
    let operation = || format!("cannot launch image {image}");
    if options.network == Network::Isolated && !options.ports.is_empty() {
        return Err(Error::new(Kind::Invalid, operation())
            .because("a port of an isolated server cannot be reached from here")
            .hint("prove it by what its console says"));
    }
    let role = if options.ephemeral { Role::Scratch } else { Role::Replica };
    let id = match instance::find(clients, &token.tags(role)).await? {
        Some(known) => known,
        None => {
            start(clients, restore, image, options, token, role).await.map_err(|error| error.within(operation()))?
        }
    };
    let up = instance::wait_running(clients, &id).await.map_err(|error| error.within(operation()))?;
    let ports = options.ports.iter().filter_map(|port| Some((*port, std::net::SocketAddr::new(up?, *port))));
    Ok(Instance { id: InstanceId::new(format!("{id}/{}", token.name()))?, ports: ports.collect() })
}

async fn start(
    clients: &Clients,
    restore: &Restore,
    image: &ImageId,
    options: &LaunchOptions,
    token: &Token,
    role: Role,
) -> Result<String> {
    let found = image::show(clients, image.as_str()).await?;
    let point = image::point(clients, &found).await?;
    cloud::without_tpm(&point.server, &point.machine);
    let spec = restore.of(&point.server);
    let kind = match &spec.instance_type {
        Some(kind) => kind.clone(),
        None => smallest(clients, &point.machine).await?,
    };
    let groups = match options.network {
        Network::Isolated => Some(vec![isolate::group(clients, &spec, token).await?]),
        Network::Site => spec.security_groups.clone(),
    };
    let mut tags = token.tags(role);
    let volume = marks::specification(ec2::ResourceType::Volume, &tags);
    tags.insert("Name".to_owned(), options.name.to_string());
    // of the token: the same one is answered with the same instance, for days
    let once = blake3::hash(format!("{}/{}", token.owner, token.name()).as_bytes()).to_hex();
    let call = clients.ec2.run_instances().image_id(image.as_str()).min_count(1).max_count(1);
    let call = call.client_token(&once[..48]).instance_type(ec2::InstanceType::from(kind.as_str()));
    let call = call.tag_specifications(marks::specification(ec2::ResourceType::Instance, &tags));
    let call = call.tag_specifications(volume).set_subnet_id(spec.subnet.clone()).set_security_group_ids(groups);
    let call = call.set_key_name(spec.key.clone()).set_user_data(user_data(&spec).await?);
    crash::point("aws.instance-run.before");
    let answer = call.send().await.map_err(|error| classify(format!("cannot run a {kind}"), error))?;
    crash::point("aws.instance-run.after");
    let id = answer.instances().first().and_then(|it| it.instance_id().map(str::to_owned));
    id.ok_or_else(|| Error::new(Kind::Transient, format!("cannot run a {kind}")).because("EC2 told no instance"))
}

/// The smallest type of the current generation that has what the machine had.
async fn smallest(clients: &Clients, machine: &MachineSpec) -> Result<String> {
    let arch = match machine.arch {
        Arch::X86_64 => "x86_64",
        Arch::Aarch64 => "arm64",
    };
    let mib = i64::try_from(machine.memory.div_ceil(1 << 20)).unwrap_or(i64::MAX);
    let call = clients.ec2.describe_instance_types();
    let mut pages = call.into_paginator().send();
    let mut best: Option<(i64, i32, String)> = None;
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| classify("cannot list instance types", error))?;
        for kind in page.instance_types() {
            let arches = kind.processor_info().map(|it| it.supported_architectures()).unwrap_or_default();
            let fits = kind.current_generation() == Some(true)
                && kind.bare_metal() != Some(true)
                && kind.hypervisor() == Some(&ec2::InstanceTypeHypervisor::Nitro)
                && arches.iter().any(|it| it.as_str() == arch);
            let memory = kind.memory_info().and_then(|it| it.size_in_mib()).unwrap_or_default();
            let cpus = kind.v_cpu_info().and_then(|it| it.default_v_cpus()).unwrap_or_default();
            let name = kind.instance_type().map(|it| it.as_str().to_owned()).unwrap_or_default();
            let one = (memory, cpus, name);
            let enough = memory >= mib && u32::try_from(cpus).unwrap_or_default() >= machine.vcpus;
            if fits && enough && best.as_ref().is_none_or(|best| one < *best) {
                best = Some(one);
            }
        }
    }
    best.map(|(_, _, name)| name).ok_or_else(|| {
        let wanted = format!("{mib} MiB of memory and {} processors of {arch}", machine.vcpus);
        Error::new(Kind::Quota, "cannot choose an instance type")
            .because(format!("none has {wanted}"))
            .hint("name one in `instance-type` of the site's `restore`")
    })
}

async fn user_data(spec: &LaunchSpec) -> Result<Option<String>> {
    let Some(file) = &spec.user_data else { return Ok(None) };
    let what = format!("cannot use user data {}", file.display());
    let bytes = tokio::fs::read(file).await.map_err(|error| Error::io(what.clone(), error))?;
    if bytes.len() as u64 > USER_DATA {
        return Err(Error::new(Kind::Invalid, what).because(format!("it has more than {USER_DATA} bytes")));
    }
    Ok(Some(STANDARD.encode(bytes)))
}

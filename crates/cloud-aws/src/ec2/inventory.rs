//! The servers of an account: instances with their volumes, in our words.

use std::collections::BTreeMap;

use aws_sdk_ec2::types as ec2;
use cloud::{Power, Server};
use model::{
    Arch, DiskBus, DiskName, DiskSpec, Error, Firmware, Kind, MachineSpec, NicSpec, Result, Role, ServerName, Tags,
};

use super::config::Clients;
use super::error::classify;
use super::snapshot::GIB;
use super::{instance, marks};

/// Ids in one describing call.
const AT_ONCE: usize = 200;

/// A server, with what a capture must know of it.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) server: Server,
    /// EC2's id.
    pub(super) id: String,
    /// The volume of each disk, in boot order.
    pub(super) volumes: Vec<(DiskName, String)>,
}

/// All servers. Drills of ours are none.
pub(super) async fn all(clients: &Clients) -> Result<Vec<Seen>> {
    let mut instances = instance::list(clients, Vec::new()).await?;
    let drill =
        |it: &ec2::Instance| marks::ours(&marks::of_ec2(it.tags())).is_some_and(|(role, _)| role == Role::Scratch);
    instances.retain(|it| instance::state(it) != ec2::InstanceStateName::ShuttingDown && !drill(it));
    let volumes: Vec<String> = instances.iter().flat_map(attached).map(|(_, volume)| volume).collect();
    let sizes = sizes(clients, &volumes).await?;
    let kinds = kinds(clients, &instances).await?;
    let names = names(&instances)?;
    instances.iter().zip(names).map(|(it, name)| seen(it, name, &sizes, &kinds)).collect()
}

/// One server.
pub(super) async fn one(clients: &Clients, name: &ServerName) -> Result<Seen> {
    let found = all(clients).await?.into_iter().find(|seen| seen.server.name == *name);
    found.ok_or_else(|| {
        Error::new(Kind::NotFound, format!("cannot find server {name}"))
            .because("no instance has that name or id")
            .hint("a server is called by its tag `Name`, or by its id if that is no name or is not its alone")
    })
}

/// The tag `Name` where it is a name that no other has, the id elsewhere.
fn names(instances: &[ec2::Instance]) -> Result<Vec<ServerName>> {
    let tag = |it: &ec2::Instance| marks::of_ec2(it.tags()).remove("Name").and_then(|name| ServerName::new(name).ok());
    let mut count: BTreeMap<ServerName, usize> = BTreeMap::new();
    instances.iter().filter_map(tag).for_each(|name| *count.entry(name).or_default() += 1);
    let name = |it: &ec2::Instance| match tag(it).filter(|name| count.get(name) == Some(&1)) {
        Some(name) => Ok(name),
        None => ServerName::new(it.instance_id().unwrap_or_default()),
    };
    instances.iter().map(name).collect()
}

/// Devices and volumes of an instance, the boot disk first.
fn attached(instance: &ec2::Instance) -> Vec<(String, String)> {
    let root = instance.root_device_name().unwrap_or_default();
    let pair =
        |it: &ec2::InstanceBlockDeviceMapping| Some((it.device_name()?.to_owned(), it.ebs()?.volume_id()?.to_owned()));
    let mut found: Vec<_> = instance.block_device_mappings().iter().filter_map(pair).collect();
    found.sort_by_key(|(device, _)| (device != root, device.len(), device.clone()));
    found
}

/// Sizes of volumes in bytes.
async fn sizes(clients: &Clients, ids: &[String]) -> Result<BTreeMap<String, u64>> {
    let mut found = BTreeMap::new();
    for ids in ids.chunks(AT_ONCE) {
        let answer = clients.ec2.describe_volumes().set_volume_ids(Some(ids.to_vec())).send().await;
        let answer = answer.map_err(|error| classify("cannot list volumes", error))?;
        found.extend(
            answer
                .volumes()
                .iter()
                .filter_map(|it| Some((it.volume_id()?.to_owned(), u64::try_from(it.size()?).ok()? * GIB))),
        );
    }
    Ok(found)
}

/// Processors and bytes of memory of the instances' types.
async fn kinds(clients: &Clients, instances: &[ec2::Instance]) -> Result<BTreeMap<String, (u32, u64)>> {
    let mut wanted: Vec<ec2::InstanceType> = instances.iter().filter_map(|it| it.instance_type().cloned()).collect();
    wanted.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    wanted.dedup();
    let mut found = BTreeMap::new();
    for kinds in wanted.chunks(100) {
        let answer = clients.ec2.describe_instance_types().set_instance_types(Some(kinds.to_vec())).send().await;
        let answer = answer.map_err(|error| classify("cannot look at instance types", error))?;
        found.extend(answer.instance_types().iter().filter_map(|it| {
            let cpus = it.v_cpu_info().and_then(|it| it.default_v_cpus()).and_then(|it| u32::try_from(it).ok());
            let memory = it.memory_info().and_then(|it| it.size_in_mib()).and_then(|it| u64::try_from(it).ok());
            Some((it.instance_type()?.as_str().to_owned(), (cpus?, memory? << 20)))
        }));
    }
    Ok(found)
}

fn seen(
    it: &ec2::Instance,
    name: ServerName,
    sizes: &BTreeMap<String, u64>,
    kinds: &BTreeMap<String, (u32, u64)>,
) -> Result<Seen> {
    let id = it.instance_id().unwrap_or_default().to_owned();
    let (mut disks, mut volumes) = (Vec::new(), Vec::new());
    for (device, volume) in attached(it) {
        let disk = DiskName::new(device.rsplit('/').next().unwrap_or(&device))?;
        let size = sizes.get(&volume).copied().unwrap_or_default();
        // what the guest sees as the serial number of an NVMe disk
        let serial = Some(volume.replace('-', ""));
        disks.push(DiskSpec { name: disk.clone(), size, bus: DiskBus::Nvme, serial });
        volumes.push((disk, volume));
    }
    let arch = match it.architecture().map(ec2::ArchitectureValues::as_str) {
        Some("arm64" | "arm64_mac") => Arch::Aarch64,
        _ => Arch::X86_64,
    };
    let told = it.current_instance_boot_mode().map(|it| it.as_str()).or(it.boot_mode().map(|it| it.as_str()));
    let firmware = match (told, arch) {
        (Some("uefi"), _) | (_, Arch::Aarch64) => Firmware::Uefi { secure_boot: false, variables: None },
        _ => Firmware::Bios,
    };
    let kind = it.instance_type().map(|it| it.as_str().to_owned());
    let (vcpus, memory) = kind.as_ref().and_then(|kind| kinds.get(kind).copied()).unwrap_or((1, 1 << 30));
    let mut tags: Tags = marks::of_ec2(it.tags());
    tags.retain(|key, _| !key.starts_with("aws:"));
    let machine = MachineSpec {
        arch,
        firmware,
        memory,
        vcpus,
        chipset: None,
        flavor: kind,
        disks,
        nics: it.network_interfaces().iter().map(nic).collect(),
        agent: false,
        tpm: it.tpm_support().is_some(),
        tags,
    };
    let power = match instance::state(it) {
        ec2::InstanceStateName::Stopped | ec2::InstanceStateName::Stopping => Power::Off,
        _ => Power::On,
    };
    Ok(Seen { server: Server { name, power, machine }, id, volumes })
}

fn nic(it: &ec2::InstanceNetworkInterface) -> NicSpec {
    NicSpec {
        mac: it.mac_address().map(str::to_owned),
        model: "ena".to_owned(),
        network: it.subnet_id().map(str::to_owned),
        addresses: it
            .private_ip_addresses()
            .iter()
            .filter_map(|it| it.private_ip_address().map(str::to_owned))
            .collect(),
        security_groups: it.groups().iter().filter_map(|it| it.group_name().map(str::to_owned)).collect(),
    }
}

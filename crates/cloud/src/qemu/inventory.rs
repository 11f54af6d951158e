//! Which servers a site has, and what each is made of.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::future::join_all;
use model::{Arch, DiskBus, DiskName, DiskSpec, Error, Firmware, Kind, MachineSpec, NicSpec, Result, ServerName};
use serde_json::{Value, json};

use super::QemuSite;
use super::guest::{Blocks, Device, list, property, text};
use super::power::{Standing, standing};
use super::qmp::Qmp;
use super::sidecar::{Sidecar, SidecarFirmware};
use crate::{Power, Server};

/// The largest variable store that is carried along.
const LONGEST_VARIABLES: u64 = 8 << 20;
/// The name that qemu-ga's channel has.
const AGENT_CHANNEL: &str = "org.qemu.guest_agent.0";

/// A guest as it was found in its QEMU, running or shut down.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) machine: MachineSpec,
    pub(super) blocks: Blocks,
    /// The disks in boot order, with their names.
    pub(super) disks: Vec<(DiskName, Device)>,
    pub(super) agent: Option<PathBuf>,
    pub(super) standing: Standing,
}

impl QemuSite {
    /// The sockets of all servers, with their names; those of servers that are off may not exist.
    pub(super) async fn sockets(&self) -> Result<Vec<(ServerName, PathBuf)>> {
        let pattern = self.config().sockets.clone();
        let task = tokio::task::spawn_blocking(move || expand(&pattern));
        let paths = task.await.map_err(|error| {
            Error::new(Kind::Permanent, format!("cannot list the servers of site {}", self.config().site))
                .because(error)
        })??;
        let mut sockets = Vec::new();
        for path in paths {
            let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            sockets.push((ServerName::new(stem)?, path));
        }
        Ok(sockets)
    }

    /// The socket of a server.
    pub(super) async fn socket(&self, server: &ServerName) -> Result<PathBuf> {
        let found = self.sockets().await?.into_iter().find(|(name, _)| name == server);
        found.map(|(_, path)| path).ok_or_else(|| {
            Error::new(Kind::NotFound, format!("cannot find server {server} at site {}", self.config().site))
                .because(format!("no socket and no sidecar of that name fits {}", self.config().sockets))
        })
    }

    /// All servers. A guest whose monitor does not answer is listed without its disks: it must not hide the others,
    /// and its own capture tells what is wrong.
    pub(super) async fn inventory(&self) -> Result<Vec<Server>> {
        let sockets = self.sockets().await?;
        let each = sockets.into_iter().map(|(name, socket)| async move {
            match look(&name, &socket).await {
                Ok(server) => Ok(server),
                Err(error) if error.kind() == Kind::Invalid => Err(error),
                Err(error) => {
                    tracing::warn!(server = %name, error = %error.chain(), "a guest does not answer");
                    let sidecar = Sidecar::beside(&socket).await?.unwrap_or_default();
                    let machine = MachineSpec { disks: Vec::new(), ..cold(&sidecar, Vec::new(), None) };
                    Ok(Server { name, power: Power::On, machine })
                }
            }
        });
        join_all(each).await.into_iter().collect()
    }
}

/// One server, running or off.
pub(super) async fn look(name: &ServerName, socket: &Path) -> Result<Server> {
    let sidecar = Sidecar::beside(socket).await?;
    match Qmp::connect(socket).await {
        Ok(mut qmp) => {
            let found = examine(&mut qmp, sidecar.as_ref()).await?;
            let power = if found.standing == Standing::Runs { Power::On } else { Power::Off };
            Ok(Server { name: name.clone(), power, machine: found.machine })
        }
        Err(error) if error.kind() == Kind::NotFound => {
            let sidecar = sidecar.ok_or_else(|| {
                error.within(format!("cannot describe server {name}")).hint(
                    "start it, or describe its disks in a sidecar NAME.toml beside the socket to have it captured while it is off",
                )
            })?;
            Ok(Server { name: name.clone(), power: Power::Off, machine: super::offline::machine(&sidecar).await? })
        }
        Err(error) => Err(error),
    }
}

/// Sockets by the pattern, and those that a sidecar promises.
fn expand(pattern: &str) -> Result<Vec<PathBuf>> {
    let wrong = |error: glob::PatternError| {
        Error::new(Kind::Invalid, format!("cannot use `{pattern}` as the pattern of QMP sockets")).because(error)
    };
    let mut paths: Vec<PathBuf> = glob::glob(pattern).map_err(wrong)?.flatten().collect();
    let whole = Path::new(pattern);
    if let Some(extension) = whole.extension().filter(|extension| *extension != "toml") {
        let sidecars = whole.with_extension("toml").to_string_lossy().into_owned();
        let promised = glob::glob(&sidecars).map_err(wrong)?.flatten();
        paths.extend(promised.map(|path| path.with_extension(extension)));
    }
    paths.sort();
    paths.dedup();
    Ok(paths)
}

/// Examines a running guest.
pub(super) async fn examine(qmp: &mut Qmp, sidecar: Option<&Sidecar>) -> Result<Found> {
    let blocks = Blocks::read(qmp).await?;
    let devices = hardware(qmp).await?;
    let mut disks = Vec::new();
    for (index, device) in blocks.disks().enumerate() {
        let parent = device.path.strip_suffix("/virtio-backend").unwrap_or(&device.path);
        let order = property(qmp, parent, "bootindex").await?.and_then(|text| text.parse::<i64>().ok());
        let order = order.filter(|order| *order >= 0).unwrap_or(i64::MAX);
        let serial = property(qmp, &device.path, "serial").await?.filter(|serial| !serial.is_empty());
        let file = blocks.nodes.get(&device.node).map(|node| node.file.clone()).unwrap_or_default();
        let name = match sidecar.and_then(|sidecar| sidecar.name_of(&file)) {
            Some(name) => name.clone(),
            None => disk_name(device, index)?,
        };
        let spec = DiskSpec { name: name.clone(), size: device.size, bus: bus(qmp, device, &devices).await?, serial };
        disks.push((order, name, device.clone(), spec));
    }
    disks.sort_by_key(|(order, ..)| *order);
    let specs: Vec<DiskSpec> = disks.iter().map(|(.., spec)| spec.clone()).collect();
    if let Some(twice) = specs.iter().enumerate().find(|(at, disk)| specs[..*at].iter().any(|d| d.name == disk.name)) {
        return Err(Error::new(Kind::Invalid, format!("cannot tell the disks of {} apart", qmp.path().display()))
            .because(format!("two are named {}", twice.1.name))
            .hint("give every `-device` an id of its own"));
    }
    let agent = agent_socket(qmp, &devices).await?;
    let machine = MachineSpec {
        arch: arch(qmp).await?,
        firmware: firmware(&blocks).await,
        memory: memory(qmp).await?,
        vcpus: u32::try_from(list(&qmp.execute("query-cpus-fast", json!({})).await?).len()).unwrap_or(1),
        chipset: property(qmp, "/machine", "type").await?.map(|kind| chipset(&kind)),
        flavor: None,
        disks: specs,
        nics: nics(qmp, &devices).await?,
        agent: agent.is_some(),
        tpm: devices.iter().any(|(_, kind)| kind.starts_with("tpm-")),
        tags: sidecar.map(|sidecar| sidecar.tags.clone()).unwrap_or_default(),
    };
    let agent = sidecar.and_then(|sidecar| sidecar.agent.clone()).or(agent);
    let disks = disks.into_iter().map(|(_, name, device, _)| (name, device)).collect();
    Ok(Found { machine, blocks, disks, agent, standing: standing(qmp).await? })
}

/// The machine of a server that is off, by its sidecar.
pub(super) fn cold(sidecar: &Sidecar, sizes: Vec<u64>, variables: Option<String>) -> MachineSpec {
    let specs = sidecar.disks.iter().zip(sizes).map(|(disk, size)| DiskSpec {
        name: disk.name.clone(),
        size,
        bus: disk.bus,
        serial: disk.serial.clone(),
    });
    MachineSpec {
        arch: sidecar.arch.unwrap_or(Arch::X86_64),
        firmware: match &sidecar.firmware {
            SidecarFirmware::Bios => Firmware::Bios,
            SidecarFirmware::Uefi { secure_boot, .. } => Firmware::Uefi { secure_boot: *secure_boot, variables },
        },
        memory: sidecar.memory(),
        vcpus: sidecar.vcpus.unwrap_or(1),
        chipset: sidecar.chipset.clone(),
        flavor: None,
        disks: specs.collect(),
        nics: sidecar.nics.clone(),
        agent: sidecar.agent.is_some(),
        tpm: false,
        tags: sidecar.tags.clone(),
    }
}

/// The name of a disk that stays the same over restarts: the device's id if it has one, else its backend's name.
fn disk_name(device: &Device, index: usize) -> Result<DiskName> {
    let id = device.path.strip_prefix("/machine/peripheral/").and_then(|rest| rest.split('/').next());
    let text = id.or(Some(device.backend.as_str()).filter(|name| !name.is_empty()));
    let clean: String =
        text.unwrap_or_default().chars().filter(|c| c.is_ascii_alphanumeric() || "._-".contains(*c)).collect();
    let named = DiskName::new(clean.trim_start_matches(['.', '-']));
    named.or_else(|_| DiskName::new(format!("disk{index}")))
}

/// All devices of the machine: QOM path and type.
async fn hardware(qmp: &mut Qmp) -> Result<Vec<(String, String)>> {
    let mut devices = Vec::new();
    for folder in ["/machine/peripheral", "/machine/peripheral-anon", "/machine/unattached"] {
        for child in list(&qmp.execute("qom-list", json!({ "path": folder })).await?) {
            let kind = text(child, "type");
            if let Some(kind) = kind.strip_prefix("child<").and_then(|kind| kind.strip_suffix('>')) {
                devices.push((format!("{folder}/{}", text(child, "name")), kind.to_owned()));
            }
        }
    }
    Ok(devices)
}

async fn nics(qmp: &mut Qmp, devices: &[(String, String)]) -> Result<Vec<NicSpec>> {
    let known = ["virtio-net", "e1000", "rtl8139", "vmxnet3", "ne2k_pci", "pcnet", "i8255", "igb", "tulip"];
    let mut nics = Vec::new();
    for (path, kind) in devices.iter().filter(|(_, kind)| known.iter().any(|prefix| kind.starts_with(prefix))) {
        if let Some(mac) = property(qmp, path, "mac").await? {
            nics.push(NicSpec { mac: Some(mac), model: kind.clone(), ..NicSpec::default() });
        }
    }
    Ok(nics)
}

/// The host's end of the guest agent's channel.
async fn agent_socket(qmp: &mut Qmp, devices: &[(String, String)]) -> Result<Option<PathBuf>> {
    for (path, _) in devices.iter().filter(|(_, kind)| kind == "virtserialport") {
        if property(qmp, path, "name").await?.as_deref() != Some(AGENT_CHANNEL) {
            continue;
        }
        let label = property(qmp, path, "chardev").await?.unwrap_or_default();
        let channels = qmp.execute("query-chardev", json!({})).await?;
        let channel = list(&channels).iter().find(|channel| text(channel, "label") == label);
        let file = channel.map(|channel| text(channel, "filename")).unwrap_or_default();
        if let Some((_, rest)) = file.split_once("unix:") {
            let path = rest.split(",server").next().unwrap_or(rest);
            return Ok(Some(PathBuf::from(path)));
        }
    }
    Ok(None)
}

async fn firmware(blocks: &Blocks) -> Firmware {
    let flashes: Vec<&Device> = blocks.devices.iter().filter(|device| device.is_flash()).collect();
    if flashes.is_empty() {
        return Firmware::Bios;
    }
    let file = |device: &Device| blocks.nodes.get(&device.node).map(|node| (node.driver.clone(), node.file.clone()));
    let code = flashes.iter().filter(|device| device.read_only).find_map(|device| file(device));
    let signed = ["secboot", ".ms.", "snakeoil", "secure-code"];
    let secure_boot = code.is_some_and(|(_, file)| signed.iter().any(|mark| file.contains(mark)));
    let store = flashes.iter().filter(|device| !device.read_only).find_map(|device| file(device));
    let variables = match store {
        Some((driver, file)) if driver == "raw" => read_variables(Path::new(&file)).await,
        _ => None,
    };
    Firmware::Uefi { secure_boot, variables }
}

/// The variable store as it travels: base64 of zstd. Boot entries are worth having, but not worth failing for.
pub(super) async fn read_variables(file: &Path) -> Option<String> {
    let read = async {
        if tokio::fs::metadata(file).await?.len() > LONGEST_VARIABLES {
            return Err(std::io::Error::other("it is too large"));
        }
        zstd::encode_all(tokio::fs::read(file).await?.as_slice(), 19)
    };
    match read.await {
        Ok(bytes) => Some(BASE64.encode(bytes)),
        Err(error) => {
            tracing::warn!(file = %file.display(), %error, "cannot read the firmware's variables");
            None
        }
    }
}

async fn arch(qmp: &mut Qmp) -> Result<Arch> {
    let target = text(&qmp.execute("query-target", json!({})).await?, "arch");
    match target.as_str() {
        "x86_64" | "i386" => Ok(Arch::X86_64),
        "aarch64" => Ok(Arch::Aarch64),
        _ => Err(Error::new(Kind::Invalid, format!("cannot describe the guest of {}", qmp.path().display()))
            .because(format!("its architecture, {target}, is not supported"))),
    }
}

async fn memory(qmp: &mut Qmp) -> Result<u64> {
    let size = qmp.execute("query-memory-size-summary", json!({})).await?;
    let part = |key: &str| size.get(key).and_then(Value::as_u64).unwrap_or_default();
    Ok(part("base-memory") + part("plugged-memory"))
}

fn chipset(kind: &str) -> String {
    let names = [("q35", "q35"), ("i440fx", "pc"), ("microvm", "microvm"), ("virt", "virt")];
    let known = names.iter().find(|(part, _)| kind.contains(part)).map(|(_, name)| (*name).to_owned());
    known.unwrap_or_else(|| kind.trim_end_matches("-machine").to_owned())
}

/// The bus of a disk device. QEMU has one kind of device for IDE and SATA: the controller above it tells them apart.
async fn bus(qmp: &mut Qmp, device: &Device, devices: &[(String, String)]) -> Result<DiskBus> {
    Ok(match device.kind.as_str() {
        kind if kind.starts_with("scsi") => DiskBus::Scsi,
        kind if kind.starts_with("nvme") => DiskBus::Nvme,
        kind if kind.starts_with("ide") => {
            let above = property(qmp, &device.path, "parent_bus").await?.unwrap_or_default();
            let controller = above.rsplit_once('/').map_or("", |(controller, _)| controller);
            let kind = devices.iter().find(|(path, _)| path == controller).map_or("", |(_, kind)| kind.as_str());
            if kind.contains("ahci") { DiskBus::Sata } else { DiskBus::Ide }
        }
        _ => DiskBus::Virtio,
    })
}

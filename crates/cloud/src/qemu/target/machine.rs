//! A machine description as QEMU's arguments. Pure: no file is touched here.

use std::path::{Path, PathBuf};

use disk::Format;
use model::{DiskBus, DiskName, Error, Kind, MachineSpec, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Accelerator;
use crate::Network;

/// A disk file of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DiskFile {
    /// The disk's name in the machine.
    pub(super) name: DiskName,
    /// The file.
    pub(super) path: PathBuf,
    /// Its format, always told to QEMU, which must not guess from bytes that a guest wrote.
    pub(super) format: Format,
}

/// Everything that the arguments depend on.
#[derive(Debug)]
pub(super) struct Launch<'a> {
    pub(super) name: &'a str,
    pub(super) folder: &'a Path,
    pub(super) machine: &'a MachineSpec,
    pub(super) disks: &'a [DiskFile],
    /// UEFI code, when the machine boots by UEFI; its variables are `vars.fd` in the folder.
    pub(super) uefi: Option<&'a Path>,
    pub(super) accelerator: Accelerator,
    pub(super) network: Network,
    pub(super) bridge: Option<&'a str>,
    pub(super) ports: &'a [u16],
    pub(super) ephemeral: bool,
    /// Monitor and guest-agent sockets of a restored server.
    pub(super) sockets: Option<(&'a Path, &'a Path)>,
}

/// The file of an instance's console.
pub(super) const CONSOLE: &str = "console.log";
/// The instance's own monitor, a name in its folder: QEMU is started there, since the path of a socket is limited to
/// 107 bytes and the folder's may be longer.
pub(super) const MONITOR: &str = "qmp.sock";
/// The guest agent's channel, a name in the folder.
pub(super) const AGENT: &str = "agent.sock";
/// The instance's UEFI variables.
pub(super) const VARIABLES: &str = "vars.fd";

/// The arguments that start the instance, detached.
pub(super) fn arguments(launch: &Launch<'_>) -> Result<Vec<String>> {
    let mut out = Words(Vec::new());
    let secure = matches!(launch.machine.firmware, model::Firmware::Uefi { secure_boot: true, .. });
    let chipset = chipset(launch.machine)?;
    out.pair("-name", format!("guest={}", launch.name));
    let smm = if secure { ",smm=on" } else { "" };
    out.pair("-machine", format!("{chipset}{smm}"));
    match launch.accelerator {
        Accelerator::Kvm => {
            out.pair("-accel", "kvm");
            out.pair("-cpu", "host");
        }
        Accelerator::Tcg | Accelerator::Auto => {
            out.pair("-accel", "tcg");
            out.pair("-cpu", "max");
        }
    }
    out.pair("-m", format!("{}M", launch.machine.memory.div_ceil(1 << 20).max(1)));
    out.pair("-smp", launch.machine.vcpus.max(1).to_string());
    for word in ["-no-user-config", "-nodefaults", "-daemonize"] {
        out.0.push(word.to_owned());
    }
    out.pair("-display", "none");
    out.pair("-vga", "std");
    out.pair("-rtc", "base=utc");
    out.pair("-pidfile", text(&launch.folder.join("pid"))?);
    firmware(&mut out, launch, secure)?;
    network(&mut out, launch);
    disks(&mut out, launch, chipset)?;
    channels(&mut out, launch)?;
    Ok(out.0)
}

struct Words(Vec<String>);

impl Words {
    fn pair(&mut self, option: &str, value: impl Into<String>) {
        self.0.push(option.to_owned());
        self.0.push(value.into());
    }
}

fn chipset(machine: &MachineSpec) -> Result<&'static str> {
    if machine.arch != model::Arch::X86_64 {
        return Err(Error::new(Kind::Invalid, "cannot launch a machine of another architecture than x86-64 here")
            .hint("restore to a site whose hosts have the server's architecture"));
    }
    // a versioned name of another host's QEMU (`pc-q35-9.2`) may not exist here: the family does
    let has_ide = machine.disks.iter().any(|disk| disk.bus == DiskBus::Ide);
    Ok(match machine.chipset.as_deref() {
        Some(name) if name.contains("q35") => "q35",
        Some(name) if name == "pc" || name.starts_with("pc-") => "pc",
        _ if has_ide => "pc",
        _ => "q35",
    })
}

fn firmware(out: &mut Words, launch: &Launch<'_>, secure: bool) -> Result<()> {
    let Some(code) = launch.uefi else { return Ok(()) };
    let flash = |index: u32, path: &Path, flags: &str| -> Result<String> {
        Ok(format!("if=pflash,format=raw,unit={index}{flags},file={}", text(path)?))
    };
    if secure {
        out.pair("-global", "driver=cfi.pflash01,property=secure,value=on");
    }
    out.pair("-drive", flash(0, code, ",readonly=on")?);
    out.pair("-drive", flash(1, &launch.folder.join(VARIABLES), "")?);
    Ok(())
}

fn network(out: &mut Words, launch: &Launch<'_>) {
    let mut nics: Vec<(String, Option<&str>)> =
        launch.machine.nics.iter().map(|nic| (nic.model.clone(), nic.mac.as_deref())).collect();
    if nics.is_empty() && !launch.ports.is_empty() {
        // a probe of a port needs a card, even where the description has lost it
        nics.push(("virtio-net-pci".to_owned(), None));
    }
    for (index, (model, mac)) in nics.iter().enumerate() {
        let mut backend = match (launch.network, launch.bridge) {
            (Network::Site, Some(bridge)) => format!("bridge,id=net{index},br={bridge}"),
            (Network::Site, None) => format!("user,id=net{index}"),
            (Network::Isolated, _) => format!("user,id=net{index},restrict=on"),
        };
        if index == 0 && backend.starts_with("user") {
            for port in launch.ports {
                // port 0: the host chooses a free one, and QEMU tells which
                backend.push_str(&format!(",hostfwd=tcp:127.0.0.1:0-:{port}"));
            }
        }
        out.pair("-netdev", backend);
        let mac = mac.map(|mac| format!(",mac={mac}")).unwrap_or_default();
        out.pair("-device", format!("{model},id=nic{index},netdev=net{index}{mac}"));
    }
}

fn disks(out: &mut Words, launch: &Launch<'_>, chipset: &str) -> Result<()> {
    let has = |bus: DiskBus| launch.machine.disks.iter().any(|disk| disk.bus == bus);
    if has(DiskBus::Scsi) {
        out.pair("-device", "virtio-scsi-pci,id=scsi");
    }
    if has(DiskBus::Sata) {
        out.pair("-device", "ich9-ahci,id=sata");
    }
    let mut used = [0_u32; 2];
    for (index, disk) in launch.machine.disks.iter().enumerate() {
        let file = launch.disks.iter().find(|file| file.name == disk.name).ok_or_else(|| {
            Error::new(Kind::Invalid, format!("cannot launch {}: it has no disk {}", launch.name, disk.name))
        })?;
        let node = format!("disk{index}");
        if launch.ephemeral {
            // an unlinked overlay in TMPDIR (the instance's folder) takes what the guest writes
            out.pair(
                "-drive",
                format!(
                    "if=none,id={node},format={},snapshot=on,cache=unsafe,discard=unmap,file={}",
                    file.format,
                    text(&file.path)?
                ),
            );
        } else {
            let backend = json!({
                "node-name": node, "driver": file.format.name(), "discard": "unmap",
                "file": { "driver": "file", "filename": file.path },
            });
            out.pair("-blockdev", backend.to_string());
        }
        let device = match disk.bus {
            DiskBus::Virtio => "virtio-blk-pci".to_owned(),
            DiskBus::Scsi => "scsi-hd,bus=scsi.0".to_owned(),
            DiskBus::Nvme => "nvme".to_owned(),
            DiskBus::Sata => format!("ide-hd,bus=sata.{}", next(&mut used[0])),
            DiskBus::Ide => {
                let place = next(&mut used[1]);
                if chipset == "pc" {
                    format!("ide-hd,bus=ide.{},unit={}", place / 2, place % 2)
                } else {
                    format!("ide-hd,bus=ide.{place}")
                }
            }
        };
        let serial = match (&disk.serial, disk.bus) {
            (Some(serial), _) => format!(",serial={}", escaped(serial)),
            // NVMe cannot do without
            (None, DiskBus::Nvme) => format!(",serial={node}"),
            (None, _) => String::new(),
        };
        out.pair(
            "-device",
            format!("{device},drive={node},id={},bootindex={index}{serial}", device_id(&disk.name, index)),
        );
    }
    Ok(())
}

fn next(counter: &mut u32) -> u32 {
    *counter += 1;
    *counter - 1
}

/// The disk's own name where QEMU takes it as a device id, so that the server's disks keep their names when it is
/// captured again.
fn device_id(name: &DiskName, index: usize) -> String {
    let text = name.as_str();
    let fine = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    // ids that this file gives to other devices
    let ours = ["net", "nic", "scsi", "sata", "monitor", "agent", "console", "channels"];
    if fine && !ours.iter().any(|prefix| text.starts_with(prefix)) { text.to_owned() } else { format!("drive{index}") }
}

/// Console, monitors, guest agent, and the device by which a guest tells that it panicked.
fn channels(out: &mut Words, launch: &Launch<'_>) -> Result<()> {
    out.pair("-chardev", format!("file,id=console,path={}", text(&launch.folder.join(CONSOLE))?));
    out.pair("-serial", "chardev:console");
    out.pair("-qmp", format!("unix:{MONITOR},server=on,wait=off"));
    let mut agent = AGENT.to_owned();
    if let Some((monitor, channel)) = launch.sockets {
        out.pair("-qmp", format!("unix:{},server=on,wait=off", text(monitor)?));
        agent = text(channel)?;
    }
    out.pair("-chardev", format!("socket,id=agent,path={agent},server=on,wait=off"));
    out.pair("-device", "virtio-serial-pci,id=channels");
    out.pair("-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0");
    out.pair("-device", "pvpanic-pci");
    // a drill keeps a panicked guest as it is, to be seen; a restored server does what it was set up to do
    out.pair("-action", if launch.ephemeral { "panic=pause" } else { "panic=none" });
    Ok(())
}

/// A path inside an option: commas are doubled there.
fn text(path: &Path) -> Result<String> {
    path.to_str().map(escaped).ok_or_else(|| {
        Error::new(Kind::Invalid, format!("cannot pass the path {} to QEMU", path.display())).because("it is not UTF-8")
    })
}

fn escaped(text: &str) -> String {
    text.replace(',', ",,")
}

#[cfg(test)]
mod tests;

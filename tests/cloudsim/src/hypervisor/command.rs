//! An instance as QEMU's arguments: the device model of the provider's hypervisor, as far as QEMU has it.

use std::path::{Path, PathBuf};

use serde_json::json;

/// Names in a machine's folder.
pub(super) const CONSOLE: &str = "console.log";
pub(super) const MONITOR: &str = "qmp.sock";
pub(super) const AGENT: &str = "agent.sock";
const VARIABLES: &str = "vars.fd";

/// Ports for disks that are attached while the machine runs.
pub(crate) const HOT_PORTS: usize = 4;

/// Where firmware lies: code and the variables to begin with.
const FIRMWARE: [(&str, &str); 2] = [
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
];

/// What is to be started.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) id: String,
    pub(crate) architecture: String,
    pub(crate) uefi: bool,
    pub(crate) memory_mib: u64,
    pub(crate) mac: String,
    /// Volume ids and files, the root first.
    pub(crate) disks: Vec<(String, PathBuf)>,
    pub(crate) device: Device,
}

/// How disks are attached: NVMe as Nitro does it, SCSI as Hyper-V does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Device {
    Nvme,
    Scsi,
}

pub(super) fn program(architecture: &str) -> &'static str {
    if architecture == "arm64" { "qemu-system-aarch64" } else { "qemu-system-x86_64" }
}

/// A disk's back end.
pub(crate) fn backend(volume: &str, file: &Path) -> serde_json::Value {
    json!({ "node-name": volume, "driver": "raw", "discard": "unmap", "file": { "driver": "file", "filename": file } })
}

/// A disk's controller: its serial number is the volume's id, as the provider does it.
pub(crate) fn serial(volume: &str) -> String {
    volume.replace('-', "")
}

pub(super) fn arguments(machine: &Machine, folder: &Path) -> std::io::Result<Vec<String>> {
    if machine.architecture == "arm64" {
        return Err(std::io::Error::other("this simulator boots x86-64 only"));
    }
    let mut out: Vec<String> = Vec::new();
    let mut pair = |option: &str, value: String| out.extend([option.to_owned(), value]);
    pair("-name", format!("guest={}", machine.id));
    pair("-machine", "q35".to_owned());
    pair("-accel", "tcg".to_owned());
    pair("-cpu", "max".to_owned());
    pair("-m", format!("{}M", machine.memory_mib));
    pair("-smp", "1".to_owned());
    pair("-display", "none".to_owned());
    pair("-serial", format!("file:{CONSOLE}"));
    pair("-qmp", format!("unix:{MONITOR},server=on,wait=off"));
    if machine.uefi {
        let found = FIRMWARE.iter().find(|(code, _)| Path::new(code).exists());
        let (code, variables) = found.ok_or_else(|| std::io::Error::other("OVMF is not installed"))?;
        let own = folder.join(VARIABLES);
        if !own.exists() {
            std::fs::copy(variables, &own)?;
        }
        pair("-drive", format!("if=pflash,format=raw,unit=0,readonly=on,file={code}"));
        pair("-drive", format!("if=pflash,format=raw,unit=1,file={VARIABLES}"));
    }
    // nothing of the host or of other instances can be reached
    pair("-netdev", "user,id=net0,restrict=on".to_owned());
    pair("-device", format!("virtio-net-pci,netdev=net0,mac={}", machine.mac));
    let driver = match machine.device {
        Device::Nvme => "nvme",
        Device::Scsi => "scsi-hd,bus=scsi.0",
    };
    if machine.device == Device::Scsi {
        pair("-device", "virtio-scsi-pci,id=scsi".to_owned());
    }
    if machine.device == Device::Nvme {
        // through it the guest's agent plays the part of Systems Manager's
        pair("-chardev", format!("socket,id=agent,path={AGENT},server=on,wait=off"));
        pair("-device", "virtio-serial-pci".to_owned());
        pair("-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0".to_owned());
    }
    for (index, (volume, file)) in machine.disks.iter().enumerate() {
        pair("-blockdev", backend(volume, file).to_string());
        let names = format!("id={volume}-dev,drive={volume},serial={}", serial(volume));
        pair("-device", format!("{driver},{names},bootindex={index}"));
    }
    for port in 0..HOT_PORTS {
        pair("-device", format!("pcie-root-port,id=hot{port},chassis={},slot={}", port + 1, port + 1));
    }
    out.extend(["-nodefaults".to_owned(), "-no-user-config".to_owned()]);
    Ok(out)
}

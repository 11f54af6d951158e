//! Instances: an image started as a QEMU guest of its own, detached from this program.
//!
//! Everything that an instance needs is put together as scratch and arrives in `instances/ID/` by one rename; only then
//! is QEMU started. A repeated launch finds the folder, and the process by the folder.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use model::{Error, Firmware, ImageId, InstanceId, Kind, MachineSpec, Result, Role, ServerName, Tags, Token, crash};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::process::Command;

use super::layout::{
    Layout, encode, folder_of, make_folder, names_in, read_json, remove_tree, sync_folder, write_durable, write_json,
};
use super::machine::{self, DiskFile};
use super::{Accelerator, TargetConfig, accelerator, firmware, image, process};
use crate::qemu::qmp::Qmp;
use crate::{Instance, LaunchOptions, Network};

/// The file that makes a folder an instance.
const RECORD: &str = "instance.json";
/// How long QEMU may take to open everything and detach itself.
const START: Duration = Duration::from_secs(120);

/// What stands in [`RECORD`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct InstanceRecord {
    version: u32,
    pub(super) role: Role,
    pub(super) tags: Tags,
    name: ServerName,
    image: ImageId,
    pub(super) machine: MachineSpec,
    pub(super) disks: Vec<DiskFile>,
    /// UEFI code of the host; its variables are in the instance's folder.
    uefi: Option<PathBuf>,
    accelerator: Accelerator,
    network: Network,
    ports: Vec<u16>,
    ephemeral: bool,
    /// Sockets of a restored server, where the site finds it as one of its own.
    pub(super) sockets: Option<SiteSockets>,
}

/// How the site finds a restored server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SiteSockets {
    /// Its monitor.
    pub(super) monitor: PathBuf,
    /// Its guest agent.
    pub(super) agent: PathBuf,
    /// The file that describes it.
    pub(super) sidecar: PathBuf,
}

/// The folder of an instance.
pub(super) fn folder(layout: &Layout, instance: &InstanceId) -> PathBuf {
    layout.instances().join(folder_of(instance.as_str()))
}

/// The instance that a token makes.
pub(super) fn id_of(token: &Token) -> Result<InstanceId> {
    InstanceId::new(encode(&token.name()))
}

/// Reads what an instance is. [`Kind::NotFound`] if there is none.
pub(super) fn load(layout: &Layout, instance: &InstanceId) -> Result<InstanceRecord> {
    read_json(&folder(layout, instance).join(RECORD))?.ok_or_else(|| {
        Error::new(Kind::NotFound, format!("cannot find instance {instance}")).because("there is no such instance")
    })
}

/// All instances.
pub(super) fn list(layout: &Layout) -> Result<Vec<(InstanceId, InstanceRecord)>> {
    let mut found = Vec::new();
    for name in names_in(&layout.instances())? {
        let record = read_json::<InstanceRecord>(&layout.instances().join(&name).join(RECORD))?;
        if let (Ok(id), Some(record)) = (InstanceId::new(name), record) {
            found.push((id, record));
        }
    }
    Ok(found)
}

/// Puts an instance together. What an earlier call has finished is kept, what it left half done is begun anew.
pub(super) fn prepare(
    layout: &Layout,
    config: &TargetConfig,
    accelerator: Accelerator,
    image: &ImageId,
    options: &LaunchOptions,
    sockets: Option<SiteSockets>,
    token: &Token,
) -> Result<InstanceRecord> {
    let id = id_of(token)?;
    let place = folder(layout, &id);
    if let Some(record) = read_json::<InstanceRecord>(&place.join(RECORD))? {
        return Ok(record);
    }
    let from = image::load(layout, image)?;
    remove_tree(&layout.scratch(token))?;
    let staging = layout.make_scratch(token)?;
    let mut disks = image::files(layout, image, &from);
    if !options.ephemeral {
        // the server gets disks of its own: the image stays what its point says
        for disk in &mut disks {
            let file = disk.path.file_name().map(ToOwned::to_owned).unwrap_or_default();
            image::copy_file(&disk.path, &staging.join(&file))?;
            disk.path = place.join(file);
        }
    }
    let machine = from.point.machine.clone();
    crate::without_tpm(&from.point.server, &machine);
    let uefi = match &machine.firmware {
        Firmware::Bios => None,
        Firmware::Uefi { secure_boot, variables } => {
            let uefi = firmware::find(*secure_boot, variables.as_deref())?;
            write_durable(&staging.join(machine::VARIABLES), &uefi.variables, "qemu.instance-variables")?;
            Some(uefi.code)
        }
    };
    let role = if options.ephemeral { Role::Scratch } else { Role::Replica };
    let record = InstanceRecord {
        version: 1,
        role,
        tags: token.tags(role),
        name: options.name.clone(),
        image: image.clone(),
        machine,
        disks,
        uefi,
        accelerator,
        network: options.network,
        ports: options.ports.clone(),
        ephemeral: options.ephemeral,
        sockets,
    };
    write_start(&staging, &record, &arguments(&place, &record, config)?, config)?;
    write_json(&staging.join(RECORD), &record, "qemu.instance-record")?;
    make_folder(&layout.instances())?;
    crash::point("qemu.instance-commit.before");
    fs::rename(&staging, &place).map_err(|error| Error::io(format!("cannot make instance {id}"), error))?;
    sync_folder(&layout.instances())?;
    crash::point("qemu.instance-commit.after");
    Ok(record)
}

fn arguments(folder: &Path, record: &InstanceRecord, config: &TargetConfig) -> Result<Vec<String>> {
    let sockets = record.sockets.as_ref().map(|sockets| (sockets.monitor.as_path(), sockets.agent.as_path()));
    machine::arguments(&machine::Launch {
        name: record.name.as_str(),
        folder,
        machine: &record.machine,
        disks: &record.disks,
        uefi: record.uefi.as_deref(),
        accelerator: record.accelerator,
        network: record.network,
        bridge: config.bridge.as_deref(),
        ports: &record.ports,
        ephemeral: record.ephemeral,
        sockets,
    })
}

/// Leaves the command of a restored server in its folder: after the host was restarted a person, or a unit, starts it
/// with `sh start.sh`.
fn write_start(staging: &Path, record: &InstanceRecord, words: &[String], config: &TargetConfig) -> Result<()> {
    if record.ephemeral {
        return Ok(());
    }
    let quoted: Vec<String> = words.iter().map(|word| format!("'{}'", word.replace('\'', "'\\''"))).collect();
    let text = format!(
        "#!/bin/sh\n# Starts the restored server {} again, as `replicate` has started it.\ncd \"$(dirname \"$0\")\" && exec {} \\\n  {}\n",
        record.name,
        config.program.display(),
        quoted.join(" \\\n  ")
    );
    write_durable(&staging.join("start.sh"), text.as_bytes(), "qemu.instance-start")
}

/// Starts the instance unless it runs, and tells where its ports are.
pub(super) async fn start(
    layout: &Layout,
    config: &TargetConfig,
    id: &InstanceId,
    record: &InstanceRecord,
) -> Result<Instance> {
    let folder = folder(layout, id);
    if process::find(&folder)?.is_empty() {
        spawn(&folder, config, id, record).await?;
    }
    let ports = if record.ports.is_empty() { Vec::new() } else { forwarded(&folder, id).await? };
    Ok(Instance { id: id.clone(), ports })
}

async fn spawn(folder: &Path, config: &TargetConfig, id: &InstanceId, record: &InstanceRecord) -> Result<()> {
    let operation = || format!("cannot start instance {id}");
    crash::point("qemu.instance-start.before");
    let child = Command::new(&config.program)
        .args(arguments(folder, record, config)?)
        .current_dir(folder)
        // overlays of an ephemeral instance are unlinked files there
        .env("TMPDIR", folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| accelerator::missing(config, error))?;
    let output = match tokio::time::timeout(START, child.wait_with_output()).await {
        Ok(output) => output.map_err(|error| Error::io(operation(), error))?,
        Err(_) => {
            process::kill(folder).await?;
            return Err(Error::new(Kind::Transient, operation())
                .because(format!("QEMU did not come up within {} seconds", START.as_secs())));
        }
    };
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let kind = if text.contains("Cannot allocate memory") { Kind::Quota } else { Kind::Permanent };
        return Err(Error::new(kind, operation()).because(if text.is_empty() {
            format!("QEMU ended with {}", output.status)
        } else {
            text
        }));
    }
    crash::point("qemu.instance-start.after");
    Ok(())
}

/// The folder as a short path for sockets, whose paths are limited to 107 bytes.
pub(super) struct Short {
    handle: OwnedFd,
}

impl Short {
    /// Opens the folder; the short path lives as long as this value.
    pub(super) fn of(folder: &Path) -> Result<Self> {
        let handle = rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| Error::io(format!("cannot open {}", folder.display()), error.into()))?;
        Ok(Self { handle })
    }

    /// The path of a socket in the folder.
    pub(super) fn socket(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.handle.as_raw_fd()))
    }
}

/// Asks QEMU which ports of this host lead to the guest's.
async fn forwarded(folder: &Path, id: &InstanceId) -> Result<Vec<(u16, SocketAddr)>> {
    let short = Short::of(folder)?;
    let within = |error: Error| error.within(format!("cannot read the ports of instance {id}"));
    let mut monitor = Qmp::connect(&short.socket(machine::MONITOR)).await.map_err(within)?;
    let answer =
        monitor.execute("human-monitor-command", json!({ "command-line": "info usernet" })).await.map_err(within)?;
    Ok(ports_in(answer.as_str().unwrap_or_default()))
}

/// Reads `TCP[HOST_FORWARD]  13  127.0.0.1 40321  10.0.2.15  80  0  0`.
fn ports_in(text: &str) -> Vec<(u16, SocketAddr)> {
    text.lines()
        .filter(|line| line.trim_start().starts_with("TCP[HOST_FORWARD]"))
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let host: u16 = words.get(3)?.parse().ok()?;
            let guest: u16 = words.get(5)?.parse().ok()?;
            Some((guest, SocketAddr::from((Ipv4Addr::LOCALHOST, host))))
        })
        .collect()
}

/// What QEMU says of the guest: `running`, `guest-panicked`, ...
pub(super) async fn status(folder: &Path) -> Result<String> {
    let short = Short::of(folder)?;
    let mut monitor = Qmp::connect_within(&short.socket(machine::MONITOR), Duration::from_secs(5)).await?;
    let answer = monitor.execute("query-status", json!({})).await?;
    Ok(answer.get("status").and_then(Value::as_str).unwrap_or_default().to_owned())
}

/// Ends the instance's process: by asking, so that QEMU closes its disks in order, and by force if that does not help.
pub(super) async fn stop(folder: &Path) -> Result<()> {
    if process::find(folder)?.is_empty() {
        return Ok(());
    }
    crash::point("qemu.instance-stop.before");
    if let Ok(short) = Short::of(folder)
        && let Ok(mut monitor) = Qmp::connect_within(&short.socket(machine::MONITOR), Duration::from_secs(5)).await
    {
        // the answer may be lost with the process
        let _ = monitor.execute_within("quit", json!({}), Duration::from_secs(5)).await;
        if process::gone(folder, Duration::from_secs(10)).await? {
            crash::point("qemu.instance-stop.after");
            return Ok(());
        }
    }
    process::kill(folder).await?;
    crash::point("qemu.instance-stop.after");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarded_ports_are_read() {
        let text = "Hub -1 (net0):\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\n  \
            TCP[HOST_FORWARD]  13       127.0.0.1 40321       10.0.2.15    80     0     0\n  \
            TCP[ESTABLISHED]   14       127.0.0.1 40322       10.0.2.15    80     0     0\n";
        assert_eq!(ports_in(text), [(80, SocketAddr::from(([127, 0, 0, 1], 40321)))]);
    }
}

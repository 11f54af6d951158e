//! What a running guest's block layer looks like now: devices, nodes, bitmaps, exports, jobs.
//!
//! Everything is read before anything is done, because some QEMU commands are not idempotent at all: `qom-set` of a
//! device's drive to the node that it has already makes QEMU 10 abort, and the guest with it.

use std::collections::BTreeMap;
use std::time::Duration;

use model::{Error, Kind, Result};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::qmp::Qmp;

/// Prefix of every node, export, job and bitmap that we make.
pub(super) const PREFIX: &str = "rpl-";

/// A block device of the guest.
#[derive(Debug, Clone)]
pub(super) struct Device {
    /// Name of the block backend (`virtio0`), or empty.
    pub(super) backend: String,
    /// QOM path of the device.
    pub(super) path: String,
    /// QOM type: `virtio-blk-device`, `scsi-hd`, `cfi.pflash01`.
    pub(super) kind: String,
    /// The node at its root now; our filter while a capture holds.
    pub(super) root: String,
    /// The disk's own node: under our filter, or the root itself.
    pub(super) node: String,
    /// Whether it is a drive whose medium can be taken out (CD, floppy).
    pub(super) removable: bool,
    /// Whether the guest cannot write to it.
    pub(super) read_only: bool,
    /// Bytes that the guest sees.
    pub(super) size: u64,
}

/// A dirty bitmap.
#[derive(Debug, Clone)]
pub(super) struct Bitmap {
    pub(super) name: String,
    pub(super) recording: bool,
    pub(super) inconsistent: bool,
}

/// A node of the block graph.
#[derive(Debug, Clone, Default)]
pub(super) struct Node {
    pub(super) driver: String,
    pub(super) file: String,
    /// Whether a bitmap can be stored with the disk: qcow2 of version 3.
    pub(super) keeps_bitmaps: bool,
    pub(super) bitmaps: Vec<Bitmap>,
}

/// The block layer of a guest at one moment.
#[derive(Debug, Clone)]
pub(super) struct Blocks {
    pub(super) devices: Vec<Device>,
    pub(super) nodes: BTreeMap<String, Node>,
    pub(super) exports: Vec<String>,
    pub(super) jobs: Vec<String>,
}

impl Blocks {
    /// Reads it.
    pub(super) async fn read(qmp: &mut Qmp) -> Result<Self> {
        let nodes = qmp.execute("query-named-block-nodes", json!({ "flat": true })).await?;
        let nodes: BTreeMap<String, Node> =
            list(&nodes).iter().map(|node| (text(node, "node-name"), read_node(qmp, node))).collect();
        let exports = qmp.execute("query-block-exports", json!({})).await?;
        let exports = list(&exports).iter().map(|export| text(export, "id")).collect();
        let jobs = qmp.execute("query-block-jobs", json!({})).await?;
        let jobs = list(&jobs).iter().map(|job| text(job, "device")).collect();
        let mut devices = Vec::new();
        for block in list(&qmp.execute("query-block", json!({})).await?) {
            if let Some(device) = read_device(qmp, block).await? {
                devices.push(device);
            }
        }
        if devices.iter().any(|device| device.root.starts_with(PREFIX)) {
            look_under_filters(qmp, &mut devices).await?;
        }
        Ok(Self { devices, nodes, exports, jobs })
    }

    /// The disks of the machine: what holds its data. Firmware and removable media are not.
    pub(super) fn disks(&self) -> impl Iterator<Item = &Device> {
        self.devices.iter().filter(|device| device.is_disk())
    }

    /// The device at a QOM path.
    pub(super) fn device(&self, path: &str) -> Option<&Device> {
        self.devices.iter().find(|device| device.path == path)
    }

    /// A bitmap of a node.
    pub(super) fn bitmap(&self, node: &str, name: &str) -> Option<&Bitmap> {
        self.nodes.get(node)?.bitmaps.iter().find(|bitmap| bitmap.name == name)
    }

    /// Names of nodes, exports and jobs that we have made, whoever of us.
    pub(super) fn ours(&self) -> impl Iterator<Item = &str> {
        let names = self.nodes.keys().chain(&self.exports).chain(&self.jobs);
        names.map(String::as_str).filter(|name| name.starts_with(PREFIX))
    }
}

impl Device {
    fn is_disk(&self) -> bool {
        let other = ["cfi.pflash", "floppy", "ide-cd", "scsi-cd", "sd-card"];
        !self.removable && !other.iter().any(|kind| self.kind.starts_with(kind))
    }

    /// Whether it is the flash that firmware lives in.
    pub(super) fn is_flash(&self) -> bool {
        self.kind.starts_with("cfi.pflash")
    }
}

async fn read_device(qmp: &mut Qmp, block: &Value) -> Result<Option<Device>> {
    let (Some(inserted), Some(device)) = (block.get("inserted"), block.get("qdev").and_then(Value::as_str)) else {
        return Ok(None); // an empty drive, or a backend that no device uses
    };
    let path = if device.starts_with('/') { device.to_owned() } else { format!("/machine/peripheral/{device}") };
    let kind = property(qmp, &path, "type").await?.unwrap_or_default();
    let root = text(inserted, "node-name");
    let size = inserted.pointer("/image/virtual-size").and_then(Value::as_u64).unwrap_or_default();
    Ok(Some(Device {
        backend: text(block, "device"),
        path,
        kind,
        node: root.clone(),
        root,
        removable: flag(block, "removable"),
        read_only: flag(inserted, "ro"),
        size,
    }))
}

/// Finds the disk under each of our filters.
async fn look_under_filters(qmp: &mut Qmp, devices: &mut [Device]) -> Result<()> {
    let graph = qmp.execute("x-debug-query-block-graph", json!({})).await?;
    let (nodes, edges) = (list(&graph["nodes"]), list(&graph["edges"]));
    let id = |name: &str| nodes.iter().find(|node| text(node, "name") == name).and_then(|node| node["id"].as_u64());
    let name = |id: u64| nodes.iter().find(|node| node["id"].as_u64() == Some(id)).map(|node| text(node, "name"));
    for device in devices.iter_mut().filter(|device| device.root.starts_with(PREFIX)) {
        let filter = id(&device.root);
        let edge = edges.iter().find(|edge| edge["parent"].as_u64() == filter && text(edge, "name") == "file");
        let under = edge.and_then(|edge| edge["child"].as_u64()).and_then(name);
        device.node = under.ok_or_else(|| {
            Error::new(Kind::Permanent, format!("cannot find the disk under filter {}", device.root))
                .because("QEMU's block graph does not show it")
        })?;
    }
    Ok(())
}

fn read_node(qmp: &Qmp, node: &Value) -> Node {
    let driver = text(node, "drv");
    let version = node.pointer("/image/format-specific/data/compat").and_then(Value::as_str);
    let bitmaps = list(&node["dirty-bitmaps"]).iter().filter_map(|bitmap| {
        Some(Bitmap {
            name: bitmap.get("name")?.as_str()?.to_owned(), // QEMU's own have none
            recording: flag(bitmap, "recording"),
            inconsistent: flag(bitmap, "inconsistent"),
        })
    });
    Node {
        keeps_bitmaps: driver == "qcow2" && version.is_some_and(|version| version != "0.10") && !flag(node, "ro"),
        file: qmp.absolute(&text(node, "file")).to_string_lossy().into_owned(),
        bitmaps: bitmaps.collect(),
        driver,
    }
}

/// A property of an object as text; none if it has no such property.
pub(super) async fn property(qmp: &mut Qmp, path: &str, name: &str) -> Result<Option<String>> {
    match qmp.execute("qom-get", json!({ "path": path, "property": name })).await {
        Ok(Value::String(text)) => Ok(Some(text)),
        Ok(other) => Ok(Some(other.to_string())),
        Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Permanent) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes an export, and waits until it is gone.
pub(super) async fn remove_export(qmp: &mut Qmp, id: &str) -> Result<()> {
    absent_is_fine(qmp.execute("block-export-del", json!({ "id": id, "mode": "hard" })).await)?;
    wait_gone(qmp, "query-block-exports", "id", id).await
}

/// Cancels a block job, and waits until it is gone.
pub(super) async fn remove_job(qmp: &mut Qmp, id: &str) -> Result<()> {
    absent_is_fine(qmp.execute("block-job-cancel", json!({ "device": id, "force": true })).await)?;
    wait_gone(qmp, "query-block-jobs", "device", id).await
}

/// Removes a node.
pub(super) async fn remove_node(qmp: &mut Qmp, node: &str) -> Result<()> {
    absent_is_fine(qmp.execute("blockdev-del", json!({ "node-name": node })).await)
}

async fn wait_gone(qmp: &mut Qmp, query: &str, key: &str, id: &str) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let all = qmp.execute(query, json!({})).await?;
        if !list(&all).iter().any(|entry| text(entry, key) == id) {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(Error::new(Kind::Transient, format!("cannot remove {id} from the guest"))
                .because("QEMU still lists it after 20 s"));
        }
        sleep(Duration::from_millis(10)).await;
    }
}

fn absent_is_fine(result: Result<Value>) -> Result<()> {
    match result {
        Err(error) if error.kind() != Kind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The text of a field, or nothing.
pub(super) fn text(value: &Value, key: &str) -> String {
    value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn flag(value: &Value, key: &str) -> bool {
    value.get(key).and_then(Value::as_bool).unwrap_or_default()
}

/// The elements of a list, or none.
pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

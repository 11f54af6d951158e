//! What a capture of a running guest will make, decided before anything is made: how each disk is held, and whether
//! its bitmap tells the changes since the base.

use std::path::PathBuf;

use model::{Error, Kind, Result};

use super::QemuSite;
use super::guest::{Blocks, Device};
use super::inventory::Found;
use super::session::{Method, Record, Session, SessionDisk, bitmap_name, chain, key, nbd_socket};
use super::sidecar::Format;
use crate::CaptureRequest;

/// What will be made, by names. Makes nothing.
pub(super) async fn plan(
    site: &QemuSite,
    request: &CaptureRequest,
    found: &Found,
    monitor: PathBuf,
    jobs: bool,
) -> Result<Session> {
    let since = request.since.as_ref().map(|cursor| cursor.as_str().to_owned());
    let known = match &since {
        Some(since) => Record::cursor(&site.scratch(), since).await?.map(|record| record.session),
        None => None,
    };
    if found.disks.is_empty() {
        return Err(
            Error::new(Kind::Invalid, format!("cannot capture server {}", request.server)).because("it has no disks")
        );
    }
    let ours = chain(&request.token.owner, request.token.policy.as_ref());
    let disks = found.disks.iter().map(|(name, device)| {
        let node = found.blocks.nodes.get(&device.node).cloned().unwrap_or_default();
        let then = known.as_ref().and_then(|session| session.disks.iter().find(|disk| disk.name == *name));
        let reason = since.as_deref().and_then(|since| match since.starts_with(&ours) {
            true => unfit(&found.blocks, device, since, then),
            // to stop someone else's bitmap would break their increments
            false => Some("the last point's cursor is not of this policy and provider".to_owned()),
        });
        let method = match (device.read_only, jobs) {
            (true, _) => Method::Static,
            (false, true) => Method::Job,
            (false, false) => Method::Filter,
        };
        SessionDisk {
            name: name.clone(),
            size: device.size,
            method,
            file: PathBuf::from(&node.file),
            format: if node.driver == "qcow2" { Format::Qcow2 } else { Format::Raw },
            device: device.path.clone(),
            node: device.node.clone(),
            tracked: !device.read_only,
            persistent: node.keeps_bitmaps,
            incremental: since.is_some() && reason.is_none(),
            reason,
            stamp: None,
        }
    });
    let disks = disks.collect();
    let folder = site.scratch();
    Ok(Session {
        key: key(&request.token),
        token: request.token.clone(),
        nbd: nbd_socket(&folder, &monitor),
        monitor,
        agent: found.agent.clone(),
        frozen: false,
        paused: false,
        after: Vec::new(),
        bitmap: bitmap_name(&request.token),
        since,
        disks,
    })
}

/// Why the base's bitmap does not tell the changes of a disk; none if it does.
fn unfit(blocks: &Blocks, device: &Device, since: &str, then: Option<&SessionDisk>) -> Option<String> {
    if device.read_only {
        return Some("the disk is read-only and has no bitmap".to_owned());
    }
    let Some(bitmap) = blocks.bitmap(&device.node, since) else {
        let raw = blocks.nodes.get(&device.node).is_none_or(|node| !node.keeps_bitmaps);
        let why = if raw {
            "the guest was restarted, and this disk's format keeps no bitmap"
        } else {
            "the guest was killed, or the disk was replaced"
        };
        return Some(format!("the bitmap of the last point is gone: {why}"));
    };
    if bitmap.inconsistent {
        return Some("the bitmap is inconsistent: the guest was killed".to_owned());
    }
    if !bitmap.recording {
        return Some("the bitmap was stopped by someone else".to_owned());
    }
    match then {
        Some(then) if then.size != device.size => Some("the disk's size has changed".to_owned()),
        _ => None,
    }
}

pub(super) fn warnings(found: &Found, session: &Session) -> Vec<String> {
    let mut warnings = Vec::new();
    for disk in session.disks.iter().filter(|disk| disk.method == Method::Job) {
        warnings.push(format!("disk {} is captured by a backup job", disk.name));
    }
    for device in found.blocks.devices.iter().filter(|device| device.removable) {
        warnings.push(format!("removable medium at {} is left out", device.path));
    }
    warnings
}

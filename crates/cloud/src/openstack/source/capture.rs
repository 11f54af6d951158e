//! Pinning one instant of all disks of a server.
//!
//! 1. The way is decided (`way`); nothing is made before.
//! 2. Snapshots and images are made, each with its marks in the create call, and waited for.
//! 3. Every part is told how many parts there are: from here on the capture holds.
//!
//! A process that dies before 3 leaves parts of an instant that nobody completed; the same token then deletes them and
//! begins anew, because what would be added now would show another instant. After 3 the same token finds the capture
//! as it was, with the instant and the level written at the service; a part that is missing then was taken away by
//! somebody, and the capture is lost.

use model::{CaptureId, Consistency, DiskName, Error, Kind, MachineSpec, Result, Role, Tags, crash};
use serde::{Deserialize, Serialize};

use super::inventory::{self, Seen};
use super::machine::{Disk, Place};
use super::make::Making;
use super::parts::{self, Key, PINNED, Part, RECORD, ROOT, Thing};
use super::way::{Volumes, Way, way};
use crate::openstack::api::cinder::Cinder;
use crate::openstack::api::glance::{Change, Glance};
use crate::openstack::http::Client;
use crate::{Capture, CaptureRequest, CapturedDisk, hook};

const TWICE: &str = "does its guest agent run? Where Cinder keeps volumes as files, Nova freezes twice, and fails: ask for crash \
                     consistency there";

/// What a later process needs to read and to release a capture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Handle {
    /// The tags of its token.
    pub(super) tags: Tags,
    pub(super) disks: Vec<(DiskName, Held)>,
}

/// Where a captured disk is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Held {
    Image(String),
    Snapshot(String),
    /// Nowhere: it has no content that can be read.
    Blank,
}

impl Handle {
    pub(super) fn of(capture: &Capture) -> Result<Self> {
        serde_json::from_value(capture.handle.clone()).map_err(|error| {
            Error::new(Kind::Invalid, format!("cannot use capture {}", capture.id)).because(error.to_string())
        })
    }

    pub(super) fn key(&self) -> Result<Key> {
        Key::of_tags(&self.tags)
            .ok_or_else(|| Error::new(Kind::Invalid, "cannot use a capture").because("its handle has no run"))
    }
}

/// Captures; see [`crate::Source::capture`].
pub(super) async fn capture(client: &Client, request: &CaptureRequest) -> Result<Capture> {
    let key = Key::of(&request.token);
    let held = parts::held(client, Some(&key)).await?;
    if held.iter().any(|part| part.tags.contains_key(PINNED)) {
        let seen = inventory::look(client, &request.server).await?;
        return again(client, request, seen, held).await;
    }
    if !held.is_empty() {
        parts::remove(client, &key).await?;
    }
    let seen = inventory::look(client, &request.server).await?;
    let disks = seen.disks()?;
    let group = group(client, &seen).await?;
    let way = decide(&seen, &disks, group.as_deref(), request)?;
    let making =
        Making { client, seen: &seen, disks: &disks, tags: request.token.tags(Role::Scratch), key: key.clone() };
    let mut made = make(&making, &way, request).await;
    if let Err(error) = &made
        && way.volumes == Volumes::Image
        && error.kind() == Kind::Permanent
    {
        made = match way.without_nova(&disks, &request.consistent) {
            Some(other) => {
                let (server, error) = (request.server.as_str(), error.chain());
                tracing::warn!(server, error, "Nova could not make its snapshots, so Cinder does alone");
                make(&making, &other, request).await
            }
            None => made.map_err(|error| error.hint(TWICE)),
        };
    }
    made.map_err(|error| error.within(format!("cannot capture server {}", request.server)))?;
    let held = parts::held(client, Some(&key)).await?;
    again(client, request, seen, held).await
}

/// Makes the parts and completes them, or leaves none.
async fn make(making: &Making<'_>, way: &Way, request: &CaptureRequest) -> Result<()> {
    let (client, key) = (making.client, &making.key);
    let made = match take(making, way, request).await {
        Ok(()) => pin(client, key, making.disks, way.level).await,
        Err(error) => Err(error),
    };
    if made.is_err()
        && let Err(left) = parts::remove(client, key).await
    {
        tracing::warn!(error = left.chain(), "a failed capture is left for the next sweep");
    }
    made
}

fn decide(seen: &Seen, disks: &[Disk], group: Option<&str>, request: &CaptureRequest) -> Result<Way> {
    let volumes: Vec<_> = seen.volumes.iter().collect();
    way(&seen.record, &seen.properties, disks, &volumes, group, &request.consistent)
}

/// The group of all volumes, if its snapshots show one instant.
async fn group(client: &Client, seen: &Seen) -> Result<Option<String>> {
    let Some(group) = seen.volumes.first().and_then(|volume| volume.group_id.as_deref()) else { return Ok(None) };
    if seen.volumes.iter().any(|volume| volume.group_id.as_deref() != Some(group)) {
        return Ok(None);
    }
    let cinder = Cinder(client);
    let kind = cinder.group(group).await?.group_type;
    match cinder.group_type(&kind).await {
        Ok(kind) => Ok(kind.is_consistent().then(|| group.to_owned())),
        // a policy may hide group types from us: then nothing is promised
        Err(error) if matches!(error.kind(), Kind::Denied | Kind::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes all parts, between the hooks of an application.
async fn take(making: &Making<'_>, way: &Way, request: &CaptureRequest) -> Result<()> {
    if way.level < Consistency::Application {
        return making.all(way).await;
    }
    hook::run(&request.consistent.hook.before, &request.server).await?;
    let made = making.all(way).await;
    hook::run(&request.consistent.hook.after, &request.server).await?;
    made
}

/// Tells every part how many there are, after which the capture holds.
async fn pin(client: &Client, key: &Key, disks: &[Disk], level: Consistency) -> Result<()> {
    let held = parts::held(client, Some(key)).await?;
    let expected = disks.iter().filter(|disk| disk.place != Place::Blank).count();
    let bytes: Vec<&Part> = held.iter().filter(|part| part.has_bytes()).collect();
    if bytes.len() != expected {
        let operation = format!("cannot complete capture `{}`", key.name());
        let why = format!("it has {} of {expected} disks", bytes.len());
        return Err(Error::new(Kind::Transient, operation).because(why));
    }
    let mark = format!("{expected} {level}");
    for part in bytes {
        crash::point("openstack.capture.pin.before");
        match &part.thing {
            Thing::Image(image) => {
                Glance(client).change(&image.id, &[Change::add(PINNED, mark.as_str())]).await?;
            }
            Thing::Snapshot(snapshot) => {
                let tags = Tags::from([(PINNED.to_owned(), mark.clone())]);
                Cinder(client).tag_snapshot(&snapshot.id, &tags).await?;
            }
            Thing::Volume(_) => {}
        }
        crash::point("openstack.capture.pin.after");
    }
    Ok(())
}

/// The capture as its parts tell it, or why it no longer holds.
async fn again(client: &Client, request: &CaptureRequest, mut seen: Seen, held: Vec<Part>) -> Result<Capture> {
    let key = Key::of(&request.token);
    let lost = |why: String| Error::new(Kind::Damaged, format!("capture `{}` is lost", key.name())).because(why);
    let marks: Vec<&String> = held.iter().filter_map(|part| part.tags.get(PINNED)).collect();
    let mark = marks.first().ok_or_else(|| lost("it was never completed".to_owned()))?;
    let (count, level) = read_mark(mark).ok_or_else(|| lost(format!("its mark `{mark}` is not understood")))?;
    let bytes: Vec<&Part> = held.iter().filter(|part| part.has_bytes() && is_whole(part)).collect();
    if bytes.len() != count {
        return Err(lost(format!("{} of its {count} parts are left", bytes.len())));
    }
    let disks = seen.disks()?;
    if marks.len() < count {
        // an earlier process died between two marks; all parts are its own
        pin(client, &key, &disks, level).await?;
    }
    let timed = held.iter().filter(|part| part.has_bytes() || part.is(RECORD));
    let taken_at = timed.filter_map(Part::created).min();
    let taken_at = taken_at.ok_or_else(|| lost("no part tells when it was made".to_owned()))?;
    let group = group(client, &seen).await?;
    let warnings = decide(&seen, &disks, group.as_deref(), request).map(|way| {
        // snapshots that Nova made come with its image
        let other = way.without_nova(&disks, &request.consistent).filter(|_| !held.iter().any(|part| part.is(RECORD)));
        other.unwrap_or(way).warnings
    });
    for part in held.iter().filter(|part| part.is(ROOT) || part.is(RECORD)) {
        if let Thing::Image(image) = &part.thing {
            seen.learn(image);
        }
    }
    let mut machine = seen.with_sight(|sight| sight.machine(&disks))?;
    let mut places = Vec::new();
    for disk in &disks {
        let name = disk.spec.name.clone();
        let place = match (bytes.iter().find(|part| part.holds(&name)).map(|part| &part.thing), &disk.place) {
            (Some(Thing::Image(image)), _) => Held::Image(image.id.clone()),
            (Some(Thing::Snapshot(snapshot)), _) => Held::Snapshot(snapshot.id.clone()),
            (None, Place::Blank) => Held::Blank,
            _ => return Err(lost(format!("it has no disk {name}, and the server has"))),
        };
        places.push((name, place));
    }
    sizes(client, &mut machine, &places, &bytes).await?;
    let handle = Handle { tags: request.token.tags(Role::Scratch), disks: places };
    let handle = serde_json::to_value(handle)
        .map_err(|error| Error::new(Kind::Permanent, "cannot write a capture's handle").because(error))?;
    Ok(Capture {
        id: CaptureId::new(request.token.name())?,
        server: request.server.clone(),
        taken_at,
        consistency: level,
        warnings: warnings.unwrap_or_default(),
        disks: machine.disks.iter().map(captured).collect(),
        machine,
        cursor: None,
        since: None,
        handle,
    })
}

fn captured(disk: &model::DiskSpec) -> CapturedDisk {
    let reason = "the service has no call that tells which blocks changed";
    CapturedDisk { name: disk.name.clone(), size: disk.size, incremental: false, reason: Some(reason.to_owned()) }
}

fn read_mark(mark: &str) -> Option<(usize, Consistency)> {
    let (count, level) = mark.split_once(' ')?;
    let levels = [Consistency::Crash, Consistency::Filesystem, Consistency::Application];
    Some((count.parse().ok()?, levels.into_iter().find(|known| known.to_string() == level)?))
}

fn is_whole(part: &Part) -> bool {
    match &part.thing {
        Thing::Image(image) => image.status == crate::openstack::api::glance::Status::Active,
        Thing::Snapshot(snapshot) => snapshot.status == "available",
        Thing::Volume(_) => false,
    }
}

/// What the flavour orders and what the disk became may differ: the image itself tells its size.
async fn sizes(client: &Client, machine: &mut MachineSpec, held: &[(DiskName, Held)], parts: &[&Part]) -> Result<()> {
    for (spec, (_, place)) in machine.disks.iter_mut().zip(held) {
        spec.size = match place {
            Held::Image(id) => super::open_image(client, id).await?.size(),
            Held::Snapshot(id) => match parts.iter().find(|part| part.id() == id).map(|part| &part.thing) {
                Some(Thing::Snapshot(snapshot)) => snapshot.size << 30,
                _ => spec.size,
            },
            Held::Blank => spec.size,
        };
    }
    Ok(())
}

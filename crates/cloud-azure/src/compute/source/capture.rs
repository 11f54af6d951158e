//! Pinning the disks of a machine: an incremental snapshot of each; or, of a running machine with several, a restore
//! point (`points`), which holds all of them at one instant.
//!
//! 1. Snapshots are made, all at once, each with its marks in the create call, and waited for; or the point.
//! 2. They are marked as a whole: from here on the capture holds.
//!
//! A process that dies before 2 leaves snapshots of different instants, or half a point; the same token then deletes
//! them and begins anew. After 2 the same token finds the capture as it was; a snapshot that is missing then was taken
//! away by somebody, and the capture is lost.
//!
//! Azure takes no restore point of machines with certain disks (shared ones, Ultra disks of some sizes). Their disks are
//! captured one by one, which is told; and refused where consistency is required.
//!
//! A capture that was committed stays as the **base** of the next one, of which only the changed pages are read.

use jiff::Timestamp;
use model::{CaptureId, Consistency, Cursor, Error, Kind, Result, Role, Tags, Token, tag};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::super::arm::{Shown, What};
use super::super::http::Client;
use super::super::{AzureSite, marks};
use super::machine::{self, Disk, GIB};
use super::points;
use cloud::{Capture, CaptureRequest, CapturedDisk, Power};

/// The parts that a snapshot of the source can be.
const CAPTURE: &str = "capture";
const BASE: &str = "base";
/// How many snapshots the whole has.
const WHOLE: &str = "replicate:whole";
/// Whether the machine ran while several disks were captured.
const APART: &str = "replicate:apart";

/// What a later process needs to read a capture and to release it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Handle {
    /// Under which its snapshots are found, or its restore point.
    pub stem: String,
}

impl Handle {
    pub(super) fn of(capture: &Capture) -> Result<Self> {
        serde_json::from_value(capture.handle.clone()).map_err(|error| {
            Error::new(Kind::Invalid, format!("cannot use capture {}", capture.id)).because(error.to_string())
        })
    }
}

fn stem_of(token: &Token) -> String {
    format!("{}-c", marks::name(token))
}

/// The snapshot of a disk of a capture.
pub(super) fn snapshot(stem: &str, disk: &model::DiskName) -> String {
    format!("{stem}-{}", marks::disk_word(disk))
}

/// What a snapshot of the source is part of, and whether that is a base.
pub(in crate::compute) fn part_of(it: &Shown) -> Option<(&str, bool)> {
    let base = match it.tags.get(marks::PART)?.as_str() {
        CAPTURE => false,
        BASE => true,
        _ => return None,
    };
    Some((it.tags.get(marks::OF)?, base))
}

/// A disk as it was pinned: a snapshot, or what a restore point holds.
pub(super) struct Part {
    pub what: What,
    pub name: String,
    /// Our name of the disk.
    pub disk: String,
    /// Pages of one family can be compared.
    pub family: Option<String>,
    /// Of a restore point it is not told, and nor are GiB of a snapshot.
    pub bytes: Option<u64>,
    pub gib: Option<u64>,
    pub taken_at: Option<Timestamp>,
}

/// What is there of a capture or base.
pub(super) struct Pinned {
    /// Of the resources that carry its marks, and what they are.
    marked: Vec<(What, String, Tags)>,
    pub parts: Vec<Part>,
}

impl Pinned {
    pub(super) fn is_base(&self) -> bool {
        self.marked.iter().any(|(_, _, tags)| tags.get(marks::PART).map(String::as_str) == Some(BASE))
    }

    pub(super) fn part(&self, disk: &model::DiskName) -> Option<&Part> {
        self.parts.iter().find(|part| part.disk == disk.as_str())
    }

    /// How many disks the whole has. None: it never was one.
    fn whole(&self) -> Option<usize> {
        self.marked.iter().find_map(|(_, _, tags)| tags.get(WHOLE)?.parse().ok())
    }
}

/// The snapshots of a capture or base, or its restore point.
pub(super) async fn pinned(client: &Client, stem: &str) -> Result<Pinned> {
    let mut found = Pinned { marked: Vec::new(), parts: Vec::new() };
    for it in client.list(What::Snapshot).await? {
        if part_of(&it).is_none_or(|(of, _)| of != stem) {
            continue;
        }
        found.parts.push(Part {
            what: What::Snapshot,
            name: it.name.clone(),
            disk: it.tags.get(marks::DISK).cloned().unwrap_or_default(),
            family: it.text("/incrementalSnapshotFamilyId").map(str::to_owned),
            bytes: Some(it.bytes()),
            gib: None,
            taken_at: it.text("/timeCreated").and_then(|text| text.parse().ok()),
        });
        found.marked.push((What::Snapshot, it.name, it.tags));
    }
    if found.marked.is_empty()
        && let Some(collection) = client.find(What::Collection, stem).await?
    {
        found.parts = points::parts(client, &collection).await?;
        found.marked.push((What::Collection, collection.name, collection.tags));
    }
    Ok(found)
}

/// Captures; see [`cloud::Source::capture`].
pub(super) async fn capture(site: &AzureSite, request: &CaptureRequest) -> Result<Capture> {
    let (client, stem) = (site.client()?, stem_of(&request.token));
    let operation = || format!("cannot capture server {}", request.server);
    if request.consistent.required && request.consistent.level > Consistency::Crash {
        return Err(Error::new(Kind::Invalid, operation())
            .because("the guest's file systems cannot be frozen from here: disks are captured from outside")
            .hint("ask for `crash` consistency, or do not require more"));
    }
    if pinned(client, &stem).await?.whole().is_none() {
        remove(client, &stem).await?;
        let seen = super::look(client, &request.server).await?;
        if let Err(error) = make(site, request, &seen, &stem).await {
            if let Err(left) = remove(client, &stem).await {
                tracing::warn!(error = left.chain(), "a failed capture is left for the next sweep");
            }
            return Err(error.within(operation()));
        }
    }
    again(site, request, &stem).await.map_err(|error| error.within(operation()))
}

/// Pins all disks, and marks them as a whole.
async fn make(site: &AzureSite, request: &CaptureRequest, seen: &super::Seen, stem: &str) -> Result<()> {
    let client = site.client()?;
    let marks_of = |more: &[(&str, &str)]| {
        let mut tags = marks::tags(&request.token, Role::Scratch, &[(marks::PART, CAPTURE), (marks::OF, stem)]);
        tags.extend(more.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        tags
    };
    let count = seen.disks.len().to_string();
    let runs = seen.disks.len() > 1 && seen.power == Power::On;
    if runs {
        match points::make(client, &seen.machine, stem, &marks_of(&[])).await {
            Err(error) if error.kind() == Kind::Invalid && request.consistent.required => {
                return Err(error
                    .within(format!("cannot capture {count} disks at one instant"))
                    .hint("stop the machine for the capture, or do not require its consistency"));
            }
            Err(error) if error.kind() == Kind::Invalid => {
                tracing::warn!(server = %request.server, error = error.chain(), "no restore point can be had");
                points::remove(client, stem).await?;
            }
            made => {
                made?;
                return client.tag(What::Collection, stem, &marks_of(&[(WHOLE, &count)])).await;
            }
        }
    }
    let apart = runs.then_some((APART, "yes"));
    let of_disk = |disk: &Disk, more: Option<(&str, &str)>| {
        let all = [Some((marks::DISK, disk.name.as_str())), apart, more];
        marks_of(&all.into_iter().flatten().collect::<Vec<_>>())
    };
    // at the same time, so that they are as close together as can be
    let each = seen.disks.iter().map(|disk| async move {
        let body = json!({
            "location": site.config.location, "tags": of_disk(disk, None),
            "properties": {
                "incremental": true, "encryption": disk.encryption,
                "creationData": { "createOption": "Copy", "sourceResourceId": disk.id },
            },
        });
        client.create(What::Snapshot, &snapshot(stem, &disk.name), &body, false).await
    });
    futures::future::try_join_all(each).await?;
    for disk in &seen.disks {
        let tags = of_disk(disk, Some((WHOLE, &count)));
        client.tag(What::Snapshot, &snapshot(stem, &disk.name), &tags).await?;
    }
    Ok(())
}

/// The capture as what was pinned tells it, or why it no longer holds.
async fn again(site: &AzureSite, request: &CaptureRequest, stem: &str) -> Result<Capture> {
    let client = site.client()?;
    let lost = |why: String| Error::new(Kind::Damaged, format!("capture {stem} is lost")).because(why);
    let found = pinned(client, stem).await?;
    let whole = found.whole().ok_or_else(|| lost("it was never completed".to_owned()))?;
    if found.parts.len() != whole {
        return Err(lost(format!("{} of its {whole} disks are left", found.parts.len())));
    }
    let mut seen = super::look(client, &request.server).await?;
    let before = match &request.since {
        Some(cursor) if cursor.as_str() != stem => Some(pinned(client, cursor.as_str()).await?),
        _ => None,
    };
    let mut disks = Vec::new();
    for disk in &mut seen.disks {
        let part = found.part(&disk.name);
        let part = part.ok_or_else(|| lost(format!("it has no disk {}, and the server has", disk.name)))?;
        if part.gib.is_some_and(|gib| gib != disk.size.div_ceil(GIB)) {
            return Err(lost(format!("disk {} was resized since", disk.name)));
        }
        disk.size = part.bytes.unwrap_or(disk.size);
        disks.push(captured(disk, part, request, before.as_ref()));
    }
    let times = found.parts.iter().filter_map(|part| part.taken_at);
    let taken_at = times.min().ok_or_else(|| lost("nothing tells when it was made".to_owned()))?;
    let since = request.since.clone().filter(|_| disks.iter().any(|disk| disk.incremental));
    let handle = serde_json::to_value(Handle { stem: stem.to_owned() })
        .map_err(|error| Error::new(Kind::Permanent, "cannot write a capture's handle").because(error))?;
    Ok(Capture {
        id: CaptureId::new(request.token.name())?,
        server: request.server.clone(),
        taken_at,
        consistency: Consistency::Crash,
        warnings: warnings(request, &found),
        machine: machine::spec(&seen.machine, &seen.disks, &seen.known),
        disks,
        cursor: Some(Cursor::new(stem)?),
        since,
        handle,
    })
}

fn warnings(request: &CaptureRequest, found: &Pinned) -> Vec<String> {
    let mut warnings = Vec::new();
    let wanted = request.consistent.level;
    if wanted > Consistency::Crash {
        warnings.push(format!("consistency is crash, not {wanted}: the guest cannot be frozen from here"));
    }
    if found.marked.iter().any(|(_, _, tags)| tags.contains_key(APART)) {
        let count = found.parts.len();
        warnings.push(format!("the {count} disks were captured one by one while the server ran: they may be apart"));
    }
    warnings
}

/// A disk, and whether what changed since the base is known.
fn captured(disk: &Disk, part: &Part, request: &CaptureRequest, before: Option<&Pinned>) -> CapturedDisk {
    let reason = match (&request.since, before.and_then(|before| before.part(&disk.name))) {
        (None, _) => Some("no earlier point to build on".to_owned()),
        (Some(cursor), None) => Some(format!("snapshot of the base {cursor} is gone, or the disk was added since")),
        (_, Some(base)) if base.family.is_none() || base.family != part.family => {
            Some("another disk has taken its place since".to_owned())
        }
        (_, Some(base)) if base.bytes.zip(part.bytes).is_some_and(|(before, now)| before > now) => {
            Some("the disk is smaller than it was".to_owned())
        }
        _ => None,
    };
    CapturedDisk { name: disk.name.clone(), size: disk.size, incremental: reason.is_none(), reason }
}

/// Makes a base of a capture, in place of those before it.
pub(super) async fn commit(client: &Client, capture: &Capture) -> Result<()> {
    let stem = Handle::of(capture)?.stem;
    let found = pinned(client, &stem).await?;
    let like = found.marked.first().map(|(_, _, tags)| tags.clone());
    for (what, name, mut tags) in found.marked {
        if tags.insert(marks::PART.to_owned(), BASE.to_owned()).is_none_or(|before| before != BASE) {
            tags.insert(tag::ROLE.to_owned(), "replica".to_owned());
            client.tag(what, &name, &tags).await?;
        }
    }
    if let Some(since) = capture.since.as_ref().filter(|since| since.as_str() != stem) {
        remove(client, since.as_str()).await?;
    }
    // bases that no run knows any more, older than this one
    let Some(like) = like else { return Ok(()) };
    let all = client.list(What::Snapshot).await?.into_iter().chain(client.list(What::Collection).await?);
    for it in all {
        let same = |key: &str| it.tags.get(key) == like.get(key);
        let Some((of, true)) = part_of(&it).filter(|(of, _)| *of != stem) else { continue };
        if ![tag::OWNER, tag::SERVER, tag::POLICY].into_iter().all(same) {
            continue;
        }
        let taken = match it.text("/timeCreated") {
            Some(text) => text.parse::<Timestamp>().ok(),
            // a collection tells no time, and what it holds does
            None => points::parts(client, &it).await?.first().and_then(|part| part.taken_at),
        };
        if taken.is_some_and(|at| at < capture.taken_at) {
            remove(client, of).await?;
        }
    }
    Ok(())
}

/// Deletes a capture or base. Absent is success.
pub(in crate::compute) async fn remove(client: &Client, stem: &str) -> Result<()> {
    for it in client.list(What::Snapshot).await? {
        if part_of(&it).is_some_and(|(of, _)| of == stem) {
            client.delete(What::Snapshot, &it.name).await?;
        }
    }
    points::remove(client, stem).await
}

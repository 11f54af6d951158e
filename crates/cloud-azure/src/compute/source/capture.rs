//! Pinning the disks of a machine: an incremental snapshot of each.
//!
//! 1. Snapshots are made, all at once, each with its marks in the create call, and waited for.
//! 2. Every one is marked as part of a whole: from here on the capture holds.
//!
//! A process that dies before 2 leaves snapshots of different instants; the same token then deletes them and begins
//! anew. After 2 the same token finds the capture as it was; a snapshot that is missing then was taken away by
//! somebody, and the capture is lost.
//!
//! A capture that was committed stays as the **base** of the next one, of which only the changed pages are read.

use jiff::Timestamp;
use model::{CaptureId, Consistency, Cursor, Error, Kind, Result, Role, Tags, Token, tag};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::super::arm::{Shown, What};
use super::super::http::Client;
use super::super::{AzureSite, marks};
use super::machine::{self, Disk};
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
    /// Under which its snapshots are found.
    pub stem: String,
    /// The snapshots, in boot order.
    pub snapshots: Vec<String>,
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

/// The snapshots of a capture or base.
async fn held(client: &Client, stem: &str) -> Result<Vec<Shown>> {
    let mut all = client.list(What::Snapshot).await?;
    all.retain(|it| part_of(it).is_some_and(|(of, _)| of == stem));
    Ok(all)
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
    let known = held(client, &stem).await?;
    let whole = known.iter().any(|it| it.tags.contains_key(WHOLE));
    if !whole {
        for left in &known {
            client.delete(What::Snapshot, &left.name).await?;
        }
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

/// Makes the snapshots of all disks, at the same time, so that they are as close together as can be.
async fn make(site: &AzureSite, request: &CaptureRequest, seen: &super::Seen, stem: &str) -> Result<()> {
    let client = site.client()?;
    let apart = seen.disks.len() > 1 && seen.power == Power::On;
    if apart && request.consistent.required {
        let count = seen.disks.len();
        return Err(Error::new(Kind::Invalid, format!("cannot capture {count} disks at one instant"))
            .because("Azure snapshots the disks of a running machine one by one")
            .hint("stop the machine for the capture, or do not require its consistency"));
    }
    let marks_of = |disk: &Disk| {
        let more = [(marks::PART, CAPTURE), (marks::OF, stem), (marks::DISK, disk.name.as_str())];
        let mut tags = marks::tags(&request.token, Role::Scratch, &more);
        if apart {
            tags.insert(APART.to_owned(), "yes".to_owned());
        }
        tags
    };
    let each = seen.disks.iter().map(|disk| async move {
        let body = json!({
            "location": site.config.location, "tags": marks_of(disk),
            "properties": {
                "incremental": true,
                "creationData": { "createOption": "Copy", "sourceResourceId": disk.id },
            },
        });
        client.create(What::Snapshot, &snapshot(stem, &disk.name), &body, false).await
    });
    futures::future::try_join_all(each).await?;
    for disk in &seen.disks {
        let mut tags = marks_of(disk);
        tags.insert(WHOLE.to_owned(), seen.disks.len().to_string());
        client.tag(What::Snapshot, &snapshot(stem, &disk.name), &tags).await?;
    }
    Ok(())
}

/// The capture as its snapshots tell it, or why it no longer holds.
async fn again(site: &AzureSite, request: &CaptureRequest, stem: &str) -> Result<Capture> {
    let client = site.client()?;
    let lost = |why: String| Error::new(Kind::Damaged, format!("capture {stem} is lost")).because(why);
    let parts = held(client, stem).await?;
    let whole: Option<usize> = parts.iter().find_map(|it| it.tags.get(WHOLE)?.parse().ok());
    let whole = whole.ok_or_else(|| lost("it was never completed".to_owned()))?;
    if parts.len() != whole {
        return Err(lost(format!("{} of its {whole} snapshots are left", parts.len())));
    }
    let mut seen = super::look(client, &request.server).await?;
    let mut parts_in_order = Vec::new();
    for disk in &mut seen.disks {
        let part = parts.iter().find(|it| it.tags.get(marks::DISK).map(String::as_str) == Some(disk.name.as_str()));
        let part = part.ok_or_else(|| lost(format!("it has no disk {}, and the server has", disk.name)))?;
        disk.size = part.bytes();
        parts_in_order.push(part);
    }
    let times = parts.iter().filter_map(|it| it.text("/timeCreated")?.parse::<Timestamp>().ok());
    let taken_at = times.min().ok_or_else(|| lost("no snapshot tells when it was made".to_owned()))?;
    let before = match &request.since {
        Some(cursor) if cursor.as_str() != stem => held(client, cursor.as_str()).await?,
        _ => Vec::new(),
    };
    let disks: Vec<CapturedDisk> =
        seen.disks.iter().zip(&parts_in_order).map(|(disk, part)| captured(disk, part, request, &before)).collect();
    let since = request.since.clone().filter(|_| disks.iter().any(|disk| disk.incremental));
    let handle = Handle { stem: stem.to_owned(), snapshots: parts_in_order.iter().map(|it| it.name.clone()).collect() };
    let handle = serde_json::to_value(handle)
        .map_err(|error| Error::new(Kind::Permanent, "cannot write a capture's handle").because(error))?;
    Ok(Capture {
        id: CaptureId::new(request.token.name())?,
        server: request.server.clone(),
        taken_at,
        consistency: Consistency::Crash,
        warnings: warnings(request, &parts),
        machine: machine::spec(&seen.machine, &seen.disks, &seen.known),
        disks,
        cursor: Some(Cursor::new(stem)?),
        since,
        handle,
    })
}

fn warnings(request: &CaptureRequest, parts: &[Shown]) -> Vec<String> {
    let mut warnings = Vec::new();
    let wanted = request.consistent.level;
    if wanted > Consistency::Crash {
        warnings.push(format!("consistency is crash, not {wanted}: the guest cannot be frozen from here"));
    }
    if parts.iter().any(|it| it.tags.contains_key(APART)) {
        let count = parts.len();
        warnings.push(format!("the {count} disks were captured one by one while the server ran: they may be apart"));
    }
    warnings
}

/// A disk, and whether what changed since the base is known.
fn captured(disk: &Disk, part: &Shown, request: &CaptureRequest, before: &[Shown]) -> CapturedDisk {
    let same = |it: &&Shown| it.tags.get(marks::DISK) == part.tags.get(marks::DISK);
    let family = |it: &Shown| it.text("/incrementalSnapshotFamilyId").map(str::to_owned);
    let reason = match (&request.since, before.iter().find(same)) {
        (None, _) => Some("no earlier point to build on".to_owned()),
        (Some(cursor), None) => Some(format!("snapshot of the base {cursor} is gone, or the disk was added since")),
        (_, Some(base)) if family(base).is_none() || family(base) != family(part) => {
            Some("another disk has taken its place since".to_owned())
        }
        (_, Some(base)) if base.bytes() > part.bytes() => Some("the disk is smaller than it was".to_owned()),
        _ => None,
    };
    CapturedDisk { name: disk.name.clone(), size: disk.size, incremental: reason.is_none(), reason }
}

/// Makes a base of a capture, in place of those before it.
pub(super) async fn commit(client: &Client, capture: &Capture) -> Result<()> {
    let stem = Handle::of(capture)?.stem;
    let parts = held(client, &stem).await?;
    let like = parts.first().map(|it| it.tags.clone());
    for part in parts.into_iter().filter(|it| part_of(it).is_some_and(|(_, base)| !base)) {
        let kept: Tags = [(marks::PART.to_owned(), BASE.to_owned()), (tag::ROLE.to_owned(), "replica".to_owned())]
            .into_iter()
            .collect();
        let tags = part.tags.into_iter().chain(kept).collect();
        client.tag(What::Snapshot, &part.name, &tags).await?;
    }
    if let Some(since) = capture.since.as_ref().filter(|since| since.as_str() != stem) {
        remove(client, since.as_str()).await?;
    }
    // bases that no run knows any more, older than this one
    let Some(like) = like else { return Ok(()) };
    for it in client.list(What::Snapshot).await? {
        let same = |key: &str| it.tags.get(key) == like.get(key);
        let older = it.text("/timeCreated").and_then(|text| text.parse::<Timestamp>().ok());
        let older = older.is_some_and(|at| at < capture.taken_at);
        let base = part_of(&it).is_some_and(|(of, base)| base && of != stem);
        if base && older && [tag::OWNER, tag::SERVER, tag::POLICY].into_iter().all(same) {
            client.delete(What::Snapshot, &it.name).await?;
        }
    }
    Ok(())
}

/// Deletes a capture or base. Absent is success.
pub(in crate::compute) async fn remove(client: &Client, stem: &str) -> Result<()> {
    for part in held(client, stem).await? {
        client.delete(What::Snapshot, &part.name).await?;
    }
    Ok(())
}

//! Captures: `CreateSnapshots` pins one instant of all volumes in one call, whose tags tell how many snapshots belong
//! together and which attempt they are of. So a capture is whole or not there, and the same token finds it again. How
//! consistent it is has a file of its own (`consistent`).
//!
//! A capture that was committed stays as the *base*: the next one is compared with it. It is kept until that one is
//! committed in its turn.

use std::collections::BTreeMap;

use aws_sdk_ec2::types as ec2;
use cloud::{Capture, CaptureRequest, CapturedDisk};
use model::{CaptureId, Consistency, Cursor, DiskName, Error, Kind, Result, Role, Tags, crash, tag};
use serde::{Deserialize, Serialize};

use super::config::Clients;
use super::consistent::{self, Reached};
use super::error::classify;
use super::inventory::{self, Seen};
use super::marks;
use super::snapshot::{self, Held};
use super::uefi;
use super::wait::Bound;

/// What a later process needs to read and to release a capture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Handle {
    /// The tags of its token.
    pub(super) tags: Tags,
    pub(super) disks: Vec<HeldDisk>,
}

/// A captured disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HeldDisk {
    pub(super) name: DiskName,
    pub(super) snapshot: String,
    /// What it is compared with.
    pub(super) base: Option<String>,
}

impl Handle {
    pub(super) fn of(capture: &Capture) -> Result<Self> {
        serde_json::from_value(capture.handle.clone())
            .map_err(|error| Error::new(Kind::Invalid, format!("cannot use capture {}", capture.id)).because(error))
    }
}

/// The name of a token, by its tags.
pub(super) fn name_of(tags: &Tags) -> String {
    let part = |key: &str| tags.get(key).cloned().unwrap_or_default();
    format!("replicate-{}-{}", part(tag::RUN), part(tag::STEP))
}

/// All snapshots of a capture that is not committed.
pub(super) async fn held(clients: &Clients, tags: &Tags) -> Result<Vec<Held>> {
    let filters = [tag::OWNER, tag::RUN, tag::STEP].map(|key| marks::tagged(key, tags.get(key).map(String::as_str)));
    let mut found = snapshot::list(clients, filters.to_vec()).await?;
    found.retain(|held| held.tags.contains_key(marks::PINNED) && !held.tags.contains_key(marks::BASE));
    Ok(found)
}

/// Deletes a capture that is not committed. Absent is success.
pub(super) async fn remove(clients: &Clients, tags: &Tags) -> Result<()> {
    for held in held(clients, tags).await? {
        snapshot::delete(clients, &held.id).await?;
    }
    Ok(())
}

/// What a look for a capture's snapshots found.
enum Looked {
    /// Those of the newest attempt that is whole.
    Whole(Vec<Held>),
    /// Nothing, or not yet all.
    Nothing,
    /// One call took effect twice, so nobody can tell which of its snapshots are of one instant; they are gone.
    Twice,
}

/// Looks for the snapshots of a capture; of several attempts the newest stays.
async fn whole(clients: &Clients, tags: &Tags) -> Result<Looked> {
    let mut attempts: BTreeMap<String, Vec<Held>> = BTreeMap::new();
    for held in held(clients, tags).await? {
        let attempt = held.tags.get(marks::PINNED).cloned().unwrap_or_default();
        attempts.entry(attempt).or_default().push(held);
    }
    let count = |mark: &String| mark.split(' ').next().and_then(|count| count.parse::<usize>().ok());
    let (mut fine, rest): (Vec<_>, Vec<_>) =
        attempts.into_iter().partition(|(mark, held)| count(mark) == Some(held.len()));
    fine.sort_by_key(|(_, held)| held.first().map(|held| held.started));
    let Some((_, newest)) = fine.pop() else {
        let twice: Vec<_> = rest.into_iter().filter(|(mark, held)| count(mark) < Some(held.len())).collect();
        let found = if twice.is_empty() { Looked::Nothing } else { Looked::Twice };
        for held in twice.into_iter().flat_map(|(_, held)| held) {
            snapshot::delete(clients, &held.id).await?;
        }
        return Ok(found);
    };
    for held in rest.into_iter().chain(fine).flat_map(|(_, held)| held) {
        snapshot::delete(clients, &held.id).await?;
    }
    Ok(Looked::Whole(newest))
}

/// Captures; see [`cloud::Source::capture`].
pub(super) async fn capture(clients: &Clients, request: &CaptureRequest) -> Result<Capture> {
    let operation = || format!("cannot capture server {}", request.server);
    let tags = request.token.tags(Role::Scratch);
    let seen = inventory::one(clients, &request.server).await?;
    if let Looked::Whole(held) = whole(clients, &tags).await? {
        if let Some(reached) = consistent::again(clients, request, &held).await? {
            return describe(clients, request, &seen, held, reached).await;
        }
        remove(clients, &tags).await?;
    }
    if seen.volumes.is_empty() {
        return Err(Error::new(Kind::Invalid, operation()).because("it has no volume"));
    }
    let pin = async { pin(clients, &seen, tags.clone()).await.map_err(|error| error.within(operation())) };
    let (ids, reached) = consistent::take(clients, request, &seen, pin).await?;
    if ids.len() != seen.volumes.len() {
        remove(clients, &tags).await?;
        return Err(Error::new(Kind::Transient, operation()).because("a volume came or went meanwhile"));
    }
    let mut bound = Bound::new(operation());
    loop {
        let found = whole(clients, &tags).await;
        match bound.bear(found).await? {
            // what a dead attempt had asked for came late, and nobody was frozen for it
            Some(Looked::Whole(held)) if held.iter().any(|held| !ids.contains(&held.id)) => {
                remove(clients, &tags).await?;
                return Err(Error::new(Kind::Transient, operation()).because("an earlier attempt took effect after it"));
            }
            Some(Looked::Whole(held)) => {
                note(clients, &held, reached.level, &mut bound).await?;
                return describe(clients, request, &seen, held, reached).await;
            }
            Some(Looked::Nothing) => bound.pause("its snapshots are not visible").await?,
            Some(Looked::Twice) => return Err(bound.error(Kind::Transient, "its snapshots were taken twice")),
            None => {}
        }
    }
}

/// Writes the level that was proved beside the snapshots: from here on it is found again with them.
async fn note(clients: &Clients, held: &[Held], level: Consistency, bound: &mut Bound) -> Result<()> {
    if level == Consistency::Crash {
        return Ok(());
    }
    let (ids, level): (Vec<String>, _) = (held.iter().map(|held| held.id.clone()).collect(), consistent::tag(level));
    while bound.bear(snapshot::tag(clients, ids.clone(), &level).await).await?.is_none() {}
    Ok(())
}

/// Takes the snapshots, all of one instant.
async fn pin(clients: &Clients, seen: &Seen, mut tags: Tags) -> Result<Vec<String>> {
    tags.insert(marks::PINNED.to_owned(), format!("{} {:08x}", seen.volumes.len(), rand::random::<u32>()));
    let which = ec2::InstanceSpecification::builder().instance_id(&seen.id).exclude_boot_volume(false).build();
    let call = clients.ec2.create_snapshots().instance_specification(which);
    let call = call.description(format!("replicate {}", name_of(&tags)));
    let call = call.tag_specifications(marks::specification(ec2::ResourceType::Snapshot, &tags));
    crash::point("aws.snapshots-create.before");
    let answer = call.send().await;
    crash::point("aws.snapshots-create.after");
    let answer = answer.map_err(|error| classify(format!("cannot take snapshots of instance {}", seen.id), error))?;
    Ok(answer.snapshots().iter().filter_map(|it| it.snapshot_id().map(str::to_owned)).collect())
}

/// The snapshots of the capture that a cursor stands for, by volume.
async fn bases(clients: &Clients, request: &CaptureRequest) -> Result<BTreeMap<String, Held>> {
    let Some(since) = &request.since else { return Ok(BTreeMap::new()) };
    let filters = vec![
        marks::tagged(marks::BASE, Some(since.as_str())),
        marks::tagged(tag::OWNER, Some(request.token.owner.as_str())),
    ];
    let found = snapshot::list(clients, filters).await?.into_iter();
    Ok(found.map(|held| (held.volume.clone(), held)).collect())
}

/// The capture as its snapshots tell it, once they are whole.
async fn describe(
    clients: &Clients,
    request: &CaptureRequest,
    seen: &Seen,
    held: Vec<Held>,
    reached: Reached,
) -> Result<Capture> {
    let id = CaptureId::new(request.token.name())?;
    let bases = bases(clients, request).await?;
    let mut machine = seen.server.machine.clone();
    let (mut disks, mut captured, mut taken_at) = (Vec::new(), Vec::new(), None);
    for (spec, (name, volume)) in machine.disks.iter_mut().zip(&seen.volumes) {
        let lost = || {
            Error::new(Kind::Damaged, format!("capture {id} is lost"))
                .because(format!("it has no disk {name}, and the server has"))
        };
        let found = held.iter().find(|held| held.volume == *volume).ok_or_else(lost)?;
        let whole = snapshot::wait_completed(clients, &found.id, found.size).await?;
        spec.size = whole.size;
        taken_at = Some(taken_at.map_or(whole.started, |at: jiff::Timestamp| at.min(whole.started)));
        let base = bases.get(volume);
        let reason = match (&request.since, base) {
            (None, _) => Some("it is the first capture".to_owned()),
            (Some(since), None) => Some(format!("there is no snapshot of its volume from {since}")),
            (Some(_), Some(base)) if base.size > whole.size => Some("its volume has shrunk".to_owned()),
            (Some(_), Some(base)) if base.state != ec2::SnapshotState::Completed => {
                Some(format!("snapshot {} of the last capture is not whole", base.id))
            }
            _ => None,
        };
        let base = base.filter(|_| reason.is_none()).map(|base| base.id.clone());
        captured.push(CapturedDisk { name: name.clone(), size: whole.size, incremental: base.is_some(), reason });
        disks.push(HeldDisk { name: name.clone(), snapshot: whole.id, base });
    }
    let handle = Handle { tags: request.token.tags(Role::Scratch), disks };
    let handle = serde_json::to_value(handle)
        .map_err(|error| Error::new(Kind::Permanent, format!("cannot note capture {id}")).because(error))?;
    let mut warnings = reached.warnings;
    warnings.extend(uefi::read(clients, &seen.id, &mut machine.firmware).await?);
    Ok(Capture {
        cursor: Some(Cursor::new(id.as_str())?),
        id,
        server: request.server.clone(),
        taken_at: taken_at.unwrap_or(jiff::Timestamp::UNIX_EPOCH),
        consistency: reached.level,
        warnings,
        machine,
        disks: captured,
        since: request.since.clone(),
        handle,
    })
}

/// Makes a capture the base of the next one, and deletes the bases before it. Repeating it is harmless.
pub(super) async fn commit(clients: &Clients, capture: &Capture, tags: &Tags) -> Result<()> {
    let of_capture = Handle::of(capture)?.disks;
    let is_of = |held: &Held| of_capture.iter().any(|disk| disk.snapshot == held.id);
    let (held, strays): (Vec<Held>, Vec<Held>) = held(clients, tags).await?.into_iter().partition(is_of);
    // of another attempt, which was seen late
    for stray in strays {
        snapshot::delete(clients, &stray.id).await?;
    }
    let ids: Vec<String> = held.into_iter().map(|held| held.id).collect();
    let name = capture.id.to_string();
    let kept = Tags::from([(marks::BASE.to_owned(), name.clone()), (tag::ROLE.to_owned(), "replica".to_owned())]);
    snapshot::tag(clients, ids.clone(), &kept).await?;
    let mut bound = Bound::new(format!("cannot commit capture {name}"));
    // tags are seen late, and until then a sweep would take the base for a leftover
    for id in &ids {
        loop {
            let looked = snapshot::show(clients, id).await;
            let Some(held) = bound.bear(looked).await? else { continue };
            if held.tags.contains_key(marks::BASE) {
                break;
            }
            bound.pause("its tags are not visible").await?;
        }
    }
    let server = tags.get(tag::SERVER).map(String::as_str);
    let filters = vec![
        marks::tagged(marks::BASE, None),
        marks::tagged(tag::SERVER, server),
        marks::tagged(tag::OWNER, tags.get(tag::OWNER).map(String::as_str)),
    ];
    let (own, others): (Vec<Held>, Vec<Held>) =
        snapshot::list(clients, filters).await?.into_iter().partition(|held| held.tags.get(marks::BASE) == Some(&name));
    // committed long ago: what is the base now is newer, and not ours to delete
    let since = own.iter().map(|held| held.started).min();
    for old in others.into_iter().filter(|old| since.is_some_and(|since| old.started < since)) {
        snapshot::delete(clients, &old.id).await?;
    }
    Ok(())
}

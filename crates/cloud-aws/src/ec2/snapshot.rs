//! EBS snapshots as EC2 shows them: looking, waiting for, deleting.

use aws_sdk_ec2::types as ec2;
use jiff::Timestamp;
use model::{Error, Kind, Result, Tags, crash};

use super::config::Clients;
use super::error::classify;
use super::marks;
use super::wait::Bound;

/// Bytes of a GiB, the unit of volumes.
pub(super) const GIB: u64 = 1 << 30;

/// A snapshot.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) id: String,
    /// Of which volume; those written by the direct API have none that exists.
    pub(super) volume: String,
    pub(super) state: ec2::SnapshotState,
    /// Why it is in error, and the like.
    pub(super) message: String,
    /// Size of its volume in bytes.
    pub(super) size: u64,
    /// Of its data; what was never written is not counted. Known once it is whole.
    pub(super) full: Option<u64>,
    /// Percent of it that are done.
    pub(super) progress: u64,
    pub(super) key: Option<String>,
    pub(super) started: Timestamp,
    pub(super) tags: Tags,
}

impl Held {
    fn of(snapshot: &ec2::Snapshot) -> Self {
        let started = snapshot.start_time().and_then(|at| Timestamp::new(at.secs(), at.subsec_nanos() as i32).ok());
        Self {
            id: snapshot.snapshot_id().unwrap_or_default().to_owned(),
            volume: snapshot.volume_id().unwrap_or_default().to_owned(),
            state: snapshot.state().cloned().unwrap_or(ec2::SnapshotState::Pending),
            message: snapshot.state_message().unwrap_or_default().to_owned(),
            size: u64::try_from(snapshot.volume_size().unwrap_or_default()).unwrap_or_default() * GIB,
            full: snapshot.full_snapshot_size_in_bytes().and_then(|bytes| u64::try_from(bytes).ok()),
            progress: snapshot.progress().and_then(|it| it.trim_end_matches('%').parse().ok()).unwrap_or_default(),
            key: snapshot.kms_key_id().map(str::to_owned),
            started: started.unwrap_or(Timestamp::UNIX_EPOCH),
            tags: marks::of_ec2(snapshot.tags()),
        }
    }

    /// The disk's own size, which is written in a tag: a volume is rounded up to whole GiB.
    pub(super) fn disk_size(&self) -> u64 {
        self.tags.get(marks::SIZE).and_then(|size| size.parse().ok()).unwrap_or(self.size)
    }
}

/// All snapshots of this account that fit all filters.
pub(super) async fn list(clients: &Clients, filters: Vec<ec2::Filter>) -> Result<Vec<Held>> {
    let call = clients.ec2.describe_snapshots().owner_ids("self").set_filters(Some(filters));
    let mut pages = call.max_results(1000).into_paginator().send();
    let mut found = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| classify("cannot list snapshots", error))?;
        found.extend(page.snapshots().iter().map(Held::of));
    }
    Ok(found)
}

/// One snapshot.
pub(super) async fn show(clients: &Clients, id: &str) -> Result<Held> {
    let absent = || Error::new(Kind::NotFound, format!("cannot find snapshot {id}"));
    let answer = clients.ec2.describe_snapshots().snapshot_ids(id).send().await;
    let answer = answer.map_err(|error| classify(format!("cannot find snapshot {id}"), error))?;
    answer.snapshots().first().map(Held::of).ok_or_else(absent)
}

/// Waits until a snapshot that was just made is whole. EC2 may not find it for two minutes, which is no trouble.
pub(super) async fn wait_completed(clients: &Clients, id: &str, size: u64) -> Result<Held> {
    let mut bound = Bound::of_size(format!("cannot wait for snapshot {id}"), size);
    loop {
        match show(clients, id).await {
            Ok(held) => match &held.state {
                ec2::SnapshotState::Completed => return Ok(held),
                ec2::SnapshotState::Error => {
                    return Err(bound.error(Kind::Permanent, format!("EC2 says `error`: {}", held.message)));
                }
                state => bound.pause(&format!("it is {state}")).await?,
            },
            Err(error) if error.kind() == Kind::NotFound => bound.pause("it is not visible").await?,
            Err(error) => drop(bound.bear::<()>(Err(error)).await?),
        }
    }
}

/// Deletes a snapshot. Absent is success; one that an image needs is [`Kind::Transient`]: a deregistration takes a while.
pub(super) async fn delete(clients: &Clients, id: &str) -> Result<()> {
    crash::point("aws.snapshot-delete.before");
    let answer = clients.ec2.delete_snapshot().snapshot_id(id).send().await;
    crash::point("aws.snapshot-delete.after");
    match answer.map_err(|error| classify(format!("cannot delete snapshot {id}"), error)) {
        Err(error) if error.kind() != Kind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Sets tags of snapshots or images.
pub(super) async fn tag(clients: &Clients, ids: Vec<String>, tags: &Tags) -> Result<()> {
    if ids.is_empty() || tags.is_empty() {
        return Ok(());
    }
    crash::point("aws.tag.before");
    let operation = format!("cannot tag {}", ids.join(", "));
    let call = clients.ec2.create_tags().set_resources(Some(ids)).set_tags(Some(marks::to_ec2(tags)));
    call.send().await.map_err(|error| classify(operation, error))?;
    crash::point("aws.tag.after");
    Ok(())
}

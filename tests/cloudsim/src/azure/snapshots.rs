//! Snapshots of managed disks: incremental in a family, copied between regions, kept by a policy.

use serde::Deserialize;
use serde_json::{Value, json};

use super::arm::{body, find, show};
use super::disks::{Body, again, fresh, insert, invalid, source};
use super::state::{Kind, Resource};
use super::{encryption, operations};
use crate::clock::later;
use crate::error::{Answer, ApiError};
use crate::http::{Request, Response};
use crate::hypervisor::hold;
use crate::sim::Sim;
use crate::store::maps::Map;
use crate::store::volume;

/// What only snapshots show.
pub(super) fn describe(it: &Resource, now: jiff::Timestamp, properties: &mut Value) {
    let Kind::Snapshot { incremental, copied, kept, locked } = &it.kind else { return };
    properties["incremental"] = json!(incremental);
    if *incremental {
        properties["incrementalSnapshotFamilyId"] = json!(it.family);
    }
    if let Some(until) = copied {
        let whole = until.duration_since(it.created).as_secs_f64().max(0.001);
        let gone = now.duration_since(it.created).as_secs_f64();
        properties["completionPercent"] = json!((gone / whole * 100.0).clamp(0.0, 100.0));
    }
    if let Some((since, days)) = kept {
        let until = expiry(*since, *days);
        properties["immutabilityPolicy"] = json!({
            "immutabilityDurationDays": days, "type": if *locked { "Locked" } else { "Unlocked" },
            "policyStartTime": since, "policyExpirationTime": until, "isPolicyExpired": now >= until,
        });
    }
}

/// Why a snapshot cannot be deleted, if it cannot.
pub(super) fn deletable(it: &Resource, now: jiff::Timestamp) -> Answer<()> {
    match &it.kind {
        Kind::Snapshot { kept: Some((since, days)), .. } if now < expiry(*since, *days) => {
            let message = format!("Snapshot {} cannot be deleted: its immutability policy has not expired.", it.name);
            Err(ApiError::new(409, "OperationNotAllowed", message))
        }
        _ => Ok(()),
    }
}

pub(super) fn create(sim: &Sim, id: &str, name: &str, request: &Request) -> Answer<Response> {
    let wanted: Body = body(request)?;
    if let Some(done) = again(sim, id, &wanted, request)? {
        return Ok(done);
    }
    let (mut made, from) = sim.with(|world| -> Answer<_> {
        let data = &wanted.properties.creation_data;
        let from = source(world, data.source_resource_id.as_ref())?;
        wanted.properties.encryption.usable(&wanted.location)?;
        if matches!(from.kind, Kind::Disk { .. }) {
            encryption::inherited(&from.encryption, &wanted.properties.encryption)?;
        }
        let incremental = wanted.properties.incremental.unwrap_or(false);
        let abroad = data.create_option == "CopyStart";
        let is_snapshot = matches!(from.kind, Kind::Snapshot { .. });
        match data.create_option.as_str() {
            "Copy" if from.location == wanted.location => {}
            "Copy" => return Err(invalid("The source is in another region: use createOption CopyStart.")),
            "CopyStart" if is_snapshot && incremental && from.location != wanted.location => {}
            "CopyStart" => return Err(invalid("CopyStart copies an incremental snapshot of another region.")),
            other => return Err(invalid(format!("createOption {other} is not simulated"))),
        }
        if data.provisioned_bandwidth_copy_speed.as_deref().is_some_and(|speed| !abroad || speed != "Enhanced") {
            return Err(invalid("provisionedBandwidthCopySpeed is for CopyStart, and Enhanced."));
        }
        let now = world.now();
        let copied = abroad.then(|| later(now, world.settings.weather.copy_seconds));
        let mut made =
            fresh(id, name, &wanted, world, Kind::Snapshot { incremental, copied, kept: None, locked: false });
        made.bytes = from.bytes;
        made.family = from.family.clone();
        made.os_type = made.os_type.or(from.os_type.clone());
        made.generation = made.generation.or(from.generation.clone());
        made.security = made.security.or(from.security.clone());
        Ok((made, from))
    })?;
    let map = match &from.kind {
        Kind::Snapshot { .. } => sim.maps.share(&from.unique, &sim.blocks).unwrap_or_default(),
        Kind::Disk { .. } => {
            // a machine that uses the disk stands still meanwhile
            let users: Vec<String> = sim.with(|world| {
                let users = world.azure.machines.values().filter(|vm| vm.has(&from.id));
                users.map(|vm| vm.unique.clone()).collect()
            });
            let _still = hold::still(sim, &users)?;
            pages(sim, &from)?
        }
    };
    sim.maps.create(&made.unique, map)?;
    made.source = wanted.properties.creation_data.source_resource_id.clone();
    let unique = made.unique.clone();
    let done = insert(sim, id, made, request)?;
    sim.change(|world| {
        if let Some(Resource { kind: Kind::Disk { last, .. }, .. }) =
            world.azure.resources.get_mut(&from.id.to_lowercase())
        {
            *last = Some(unique);
        }
        Ok(())
    })?;
    Ok(done)
}

/// The pages of a disk, which nobody writes meanwhile; those of its last snapshot are shared with it.
pub(super) fn pages(sim: &Sim, disk: &Resource) -> Answer<Map> {
    let Kind::Disk { last, .. } = &disk.kind else { return Err(invalid("not a disk")) };
    let before = last.as_ref().and_then(|last| sim.maps.with(last, Map::clone)).unwrap_or_default();
    let writer = sim.with(|world| world.writer());
    Ok(volume::read(&sim.azure_disk(&disk.unique), &before, writer, &sim.blocks)?)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Policy {
    r#type: String,
    immutability_duration_days: u32,
}

fn expiry(since: jiff::Timestamp, days: u32) -> jiff::Timestamp {
    later(since, f64::from(days) * 86_400.0)
}

/// Keeps a snapshot for so many days from now on; one that is locked (`lock`) is only kept longer.
pub(super) fn keep(sim: &Sim, id: &str, request: &Request, lock: bool) -> Answer<Response> {
    let wanted: Policy = body(request)?;
    if wanted.r#type != if lock { "Locked" } else { "Unlocked" } || wanted.immutability_duration_days == 0 {
        return Err(invalid("The policy's type does not fit the call, or it keeps nothing."));
    }
    let (location, operation) = sim.change(|world| {
        let (now, found) = (world.now(), find(world, id)?.clone());
        let Kind::Snapshot { kept, locked, .. } = &found.kind else { return Err(invalid("not a snapshot")) };
        if lock && kept.is_none() {
            return Err(invalid("There is no policy that could be locked."));
        }
        let until = expiry(now, wanted.immutability_duration_days);
        if *locked && (!lock || kept.is_some_and(|(since, days)| until < expiry(since, days))) {
            let message = format!("The policy of {} is locked: it can only be made longer.", found.name);
            return Err(ApiError::new(409, "OperationNotAllowed", message));
        }
        if let Some(it) = world.azure.resources.get_mut(&id.to_lowercase())
            && let Kind::Snapshot { kept, locked, .. } = &mut it.kind
        {
            (*kept, *locked) = (Some((now, wanted.immutability_duration_days)), lock);
        }
        let shown = show(find(world, id)?, world);
        Ok((found.location, operations::begin(world, Some(shown))))
    })?;
    Ok(operations::accepted(sim, request, &location, &operation, None))
}

//! A snapshot written block by block.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::json;

use super::{find, invalid, number};
use crate::auth::Caller;
use crate::clock::later;
use crate::ec2::{keys, snapshots};
use crate::error::{Answer, ApiError};
use crate::http::{Request, Response};
use crate::sim::Sim;
use crate::store::maps::{Block, Map};
use crate::store::{BLOCK, GIB, hash};
use crate::world::World;
use crate::world::resource::{Making, Snapshot, Tags};
use crate::world::tokens::Token;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Start {
    volume_size: u64,
    #[serde(default)]
    parent_snapshot_id: Option<String>,
    #[serde(default)]
    tags: Vec<Tag>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    client_token: Option<String>,
    #[serde(default)]
    encrypted: Option<bool>,
    #[serde(default)]
    kms_key_arn: Option<String>,
    #[serde(default)]
    timeout: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Tag {
    #[serde(default)]
    key: String,
    #[serde(default)]
    value: String,
}

impl Start {
    fn check(&self) -> Answer<()> {
        if !(1..=65_536).contains(&self.volume_size) {
            return Err(invalid("INVALID_VOLUME_SIZE", "VolumeSize is from 1 to 65536 GiB."));
        }
        if self.timeout.is_some_and(|minutes| !(10..=4320).contains(&minutes)) {
            return Err(invalid("INVALID_PARAMETER_VALUE", "Timeout is from 10 to 4320 minutes."));
        }
        if self.parent_snapshot_id.is_some() && self.encrypted.is_some() {
            let message = "Encrypted cannot be given with ParentSnapshotId: the parent's is inherited.";
            return Err(invalid("INVALID_PARAMETER_VALUE", message));
        }
        if self.kms_key_arn.is_some() && self.encrypted != Some(true) {
            return Err(invalid("INVALID_PARAMETER_VALUE", "KmsKeyArn requires Encrypted to be true."));
        }
        if self.tags.len() > 50 || self.tags.iter().any(|tag| tag.key.is_empty() || tag.key.starts_with("aws:")) {
            return Err(invalid("INVALID_TAG", "At most 50 tags, none of them named aws:."));
        }
        Ok(())
    }
}

pub(super) fn start(sim: &Sim, caller: &Caller, request: &Request) -> Answer<Response> {
    let wanted: Start = serde_json::from_slice(&request.body)
        .map_err(|why| invalid("INVALID_PARAMETER_VALUE", format!("The request cannot be read: {why}")))?;
    wanted.check()?;
    let token = wanted.client_token.as_ref().map(|token| {
        let print = String::from_utf8_lossy(&request.body).into_owned();
        Token::new(&caller.account, &caller.region, "StartSnapshot", token, print)
    });
    let id = sim.change(|world| {
        let known = world.made(token.as_ref()).map_err(|_| {
            let message = "The request uses the same client token as a previous, but non-identical request.";
            ApiError::new(409, "ConflictException", message)
        })?;
        if let Some(made) = known {
            return Ok(made.concat());
        }
        let id = begin(sim, world, caller, &wanted)?;
        world.remember(token.as_ref(), vec![id.clone()]);
        Ok(id)
    })?;
    let body = sim.with(|world| {
        let now = world.now();
        world.snapshots.get(&id).map(|it| describe(it, now))
    });
    Ok(Response::json(201, &body.unwrap_or_default()))
}

fn begin(sim: &Sim, world: &mut World, caller: &Caller, wanted: &Start) -> Answer<String> {
    let now = world.now();
    let open = world.snapshots.values().filter(|it| {
        it.base.account == caller.account
            && it.base.region == caller.region
            && matches!(it.making, Making::Open { .. })
            && it.state(now) == "pending"
    });
    if open.count() >= world.settings.limits.open_snapshots {
        let message = "You have reached the limit for concurrent pending snapshots.";
        return Err(ApiError::refuse("ConcurrentLimitExceededException", message));
    }
    let mut map = Map::new();
    let mut key = None;
    let mut lineage = None;
    if wanted.encrypted == Some(true) {
        key = Some(wanted.kms_key_arn.clone().unwrap_or_else(|| keys::default(&caller.account, &caller.region)));
    }
    if let Some(parent) = &wanted.parent_snapshot_id {
        let found = find(world, caller, parent)?;
        if found.state(now) != "completed" {
            return Err(invalid("INVALID_SNAPSHOT_ID", format!("The parent snapshot '{parent}' is not completed.")));
        }
        if wanted.volume_size < found.gib {
            let message = "VolumeSize is not smaller than the parent snapshot's.";
            return Err(invalid("INVALID_VOLUME_SIZE", message));
        }
        (key, lineage) = (found.key.clone(), Some(found.lineage.clone()));
        map = sim.maps.share(parent, &sim.blocks).unwrap_or_default();
    }
    let writer = world.writer();
    let tags: Tags = wanted.tags.iter().map(|tag| (tag.key.clone(), tag.value.clone())).collect();
    let base = world.base("snap", &caller.account, &caller.region, tags);
    let id = base.id.clone();
    sim.maps.create(&id, map)?;
    let minutes = wanted.timeout.unwrap_or(60);
    let deadline = later(now, minutes as f64 * 60.0);
    let snapshot = Snapshot {
        gib: wanted.volume_size,
        description: wanted.description.clone().unwrap_or_default(),
        key,
        making: Making::Open { deadline, minutes, writer },
        parent: wanted.parent_snapshot_id.clone(),
        lineage: lineage.unwrap_or_else(|| id.clone()),
        ..snapshots::empty(base)
    };
    world.snapshots.insert(id.clone(), snapshot);
    Ok(id)
}

fn describe(it: &Snapshot, now: jiff::Timestamp) -> serde_json::Value {
    let tags: Vec<_> = it.base.tags.iter().map(|(key, value)| json!({ "Key": key, "Value": value })).collect();
    let mut body = json!({
        "SnapshotId": it.base.id,
        "OwnerId": it.base.account,
        "Status": it.state(now),
        "StartTime": it.base.created.as_millisecond() as f64 / 1000.0,
        "VolumeSize": it.gib,
        "BlockSize": BLOCK,
        "Description": it.description,
        "Tags": tags,
    });
    if let Some(parent) = &it.parent {
        body["ParentSnapshotId"] = json!(parent);
    }
    if let Some(key) = &it.key {
        body["KmsKeyArn"] = json!(key);
    }
    body
}

/// An own snapshot that takes blocks: its writer and size.
fn open(world: &mut World, caller: &Caller, id: &str) -> Answer<(u64, u64)> {
    let now = world.now();
    let found = find(world, caller, id)?;
    if found.base.account != caller.account {
        let message = format!("The snapshot '{id}' belongs to another account.");
        return Err(ApiError::new(403, "AccessDeniedException", message).reason("UNAUTHORIZED_ACCOUNT"));
    }
    let gib = found.gib;
    let Some(it) = world.snapshots.get_mut(id) else { return Ok((0, 0)) };
    match &mut it.making {
        Making::Open { deadline, .. } if now >= *deadline => {
            Err(invalid("WRITE_REQUEST_TIMEOUT", format!("The snapshot '{id}' has timed out.")))
        }
        Making::Open { deadline, minutes, writer } => {
            // counted anew from every block
            *deadline = later(now, *minutes as f64 * 60.0);
            Ok((*writer, gib))
        }
        _ => Err(invalid("INVALID_SNAPSHOT_ID", format!("The snapshot '{id}' is not in the pending state."))),
    }
}

pub(super) fn put(sim: &Sim, caller: &Caller, id: &str, index: u32, request: &Request) -> Answer<Response> {
    let length = number(request, "x-amz-data-length")?;
    if length != BLOCK as u64 || request.body.len() != BLOCK {
        return Err(invalid("INVALID_BLOCK", format!("A block has {BLOCK} bytes.")));
    }
    if let Some(progress) = request.header("x-amz-progress")
        && !progress.parse::<u8>().is_ok_and(|percent| percent <= 100)
    {
        return Err(invalid("INVALID_PARAMETER_VALUE", "Progress is from 0 to 100."));
    }
    if request.header("x-amz-checksum-algorithm") != Some("SHA256") {
        return Err(invalid("INVALID_PARAMETER_VALUE", "ChecksumAlgorithm must be SHA256."));
    }
    let claimed = request.header("x-amz-checksum").unwrap_or_default().to_owned();
    let hash = hash(&request.body);
    if STANDARD.encode(hash) != claimed {
        return Err(invalid("INVALID_BLOCK", "The checksum of the block does not match its data."));
    }
    let (writer, gib) = sim.with(|world| open(world, caller, id))?;
    if u64::from(index) >= gib * GIB / BLOCK as u64 {
        return Err(invalid("INVALID_BLOCK", format!("The block index {index} is beyond the volume's end.")));
    }
    let _alone = sim.limiter.enter(&format!("{id}/{index}"), 1).ok_or_else(|| {
        invalid("CONFLICTING_BLOCK_UPDATE", format!("The block {index} is being written by another request."))
    })?;
    sim.blocks.put(hash, &request.body)?;
    if let Some(old) = sim.maps.append(id, index, Block { hash, writer })? {
        sim.blocks.release(&old.hash);
    }
    let answer = Response::json(201, &json!({}));
    Ok(answer.with("x-amz-Checksum", claimed).with("x-amz-Checksum-Algorithm", "SHA256"))
}

pub(super) fn complete(sim: &Sim, caller: &Caller, id: &str, request: &Request) -> Answer<Response> {
    let claimed = number(request, "x-amz-changedblockscount")?;
    let checksum = request.header("x-amz-checksum");
    if checksum.is_some()
        && (request.header("x-amz-checksum-algorithm") != Some("SHA256")
            || request.header("x-amz-checksum-aggregation-method") != Some("LINEAR"))
    {
        let message = "A checksum needs the algorithm SHA256 and the aggregation method LINEAR.";
        return Err(invalid("INVALID_PARAMETER_VALUE", message));
    }
    sim.change(|world| {
        let (writer, _) = open(world, caller, id)?;
        let written = sim.maps.with(id, |map| {
            map.values().filter(|block| block.writer == writer).flat_map(|block| block.hash).collect::<Vec<u8>>()
        });
        let written = written.unwrap_or_default();
        let count = written.len() / 32;
        if count as u64 != claimed {
            let message = format!("ChangedBlocksCount is {claimed}, but {count} blocks were written.");
            return Err(invalid("INVALID_PARAMETER_VALUE", message));
        }
        if checksum.is_some_and(|checksum| checksum != STANDARD.encode(hash(&written))) {
            return Err(invalid("INVALID_BLOCK", "The aggregated checksum does not match the blocks."));
        }
        let now = world.now();
        let seconds = world.settings.weather.seal_seconds;
        if let Some(it) = world.snapshots.get_mut(id) {
            it.making = Making::Sealed;
            it.completes = later(now, seconds);
        }
        Ok(())
    })?;
    Ok(Response::json(202, &json!({ "Status": "pending" })))
}

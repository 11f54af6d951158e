//! A snapshot read block by block, or only what differs from another one.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::token::{BlockToken, PageToken, decode, encode, in_seconds};
use super::{find, invalid};
use crate::auth::Caller;
use crate::error::{Answer, ApiError};
use crate::http::{Request, Response};
use crate::sim::Sim;
use crate::store::BLOCK;
use crate::store::maps::Map;
use crate::world::World;
use crate::world::resource::Snapshot;

const BLOCK_TOKEN_SECONDS: i64 = 7 * 86_400;
const PAGE_TOKEN_SECONDS: i64 = 3600;

/// A snapshot whose blocks can be read.
fn readable<'w>(world: &'w World, caller: &Caller, id: &str) -> Answer<&'w Snapshot> {
    let found = find(world, caller, id)?;
    if found.state(world.now()) != "completed" || found.archived {
        let what = if found.archived { "archived" } else { found.state(world.now()) };
        return Err(invalid("INVALID_SNAPSHOT_ID", format!("The snapshot '{id}' is {what}.")));
    }
    if found.shared.contains("all") {
        return Err(invalid("INVALID_SNAPSHOT_ID", format!("The snapshot '{id}' is public.")));
    }
    Ok(found)
}

/// What part of a listing is asked for.
struct Page {
    from: u32,
    size: usize,
    empty: bool,
    between: bool,
    now: jiff::Timestamp,
    gib: u64,
}

fn page(sim: &Sim, caller: &Caller, first: Option<&str>, second: &str, request: &Request) -> Answer<Page> {
    let number = |name: &str| -> Answer<Option<u32>> {
        let wrong = || invalid("INVALID_PARAMETER_VALUE", format!("{name} must be a number."));
        request.query(name).map(|value| value.parse().map_err(|_| wrong())).transpose()
    };
    let size = number("maxResults")?.unwrap_or(10_000);
    if !(100..=10_000).contains(&size) {
        return Err(invalid("INVALID_PARAMETER_VALUE", "MaxResults is from 100 to 10000."));
    }
    let from = number("startingBlockIndex")?.unwrap_or(0);
    sim.with(|world| {
        let gib = readable(world, caller, second)?.gib;
        let now = world.now();
        let mut page =
            Page { from, size: size as usize, empty: false, between: world.settings.weather.empty_pages, now, gib };
        // a token overrides the starting index
        if let Some(text) = request.query("pageToken") {
            let token: Option<PageToken> = decode(text);
            let token = token.filter(|it| it.first.as_deref() == first && it.second == second);
            let token = token.filter(|it| now.as_second() < it.expires);
            let token =
                token.ok_or_else(|| invalid("INVALID_PAGE_TOKEN", "The page token is not valid (any more)."))?;
            (page.from, page.empty) = (token.from, token.empty);
        }
        Ok(page)
    })
}

impl Page {
    /// The answer: a page of all items from `from` on, and a token if there are more.
    fn of(&self, name: &str, first: Option<&str>, second: &str, items: Vec<(u32, Value)>) -> Response {
        let rest: Vec<_> = items.into_iter().filter(|(index, _)| *index >= self.from).collect();
        let shown = if self.empty { 0 } else { self.size.min(rest.len()) };
        let next = rest.get(shown).map(|(index, _)| *index);
        let shown: Vec<Value> = rest.into_iter().take(shown).map(|(_, value)| value).collect();
        let mut body = json!({
            name: shown,
            "ExpiryTime": in_seconds(self.now, BLOCK_TOKEN_SECONDS),
            "VolumeSize": self.gib,
            "BlockSize": BLOCK,
        });
        if let Some(from) = next {
            body["NextToken"] = json!(encode(&PageToken {
                first: first.map(str::to_owned),
                second: second.to_owned(),
                from,
                empty: self.between && !self.empty,
                expires: in_seconds(self.now, PAGE_TOKEN_SECONDS),
            }));
        }
        Response::json(200, &body)
    }

    fn token(&self, snapshot: &str, index: u32) -> String {
        let expires = in_seconds(self.now, BLOCK_TOKEN_SECONDS);
        encode(&BlockToken { snapshot: snapshot.to_owned(), index, expires })
    }
}

pub(super) fn list(sim: &Sim, caller: &Caller, id: &str, request: &Request) -> Answer<Response> {
    let page = page(sim, caller, None, id, request)?;
    let indexes: Vec<u32> = sim.maps.with(id, |map| map.keys().copied().collect()).unwrap_or_default();
    let items = indexes.into_iter().map(|index| {
        let token = page.token(id, index);
        (index, json!({ "BlockIndex": index, "BlockToken": token }))
    });
    Ok(page.of("Blocks", None, id, items.collect()))
}

pub(super) fn changed(sim: &Sim, caller: &Caller, second: &str, request: &Request) -> Answer<Response> {
    let first = request.query("firstSnapshotId");
    let page = page(sim, caller, first, second, request)?;
    let old = match first {
        None => Map::new(),
        Some(first) => {
            sim.with(|world| {
                let (old, new) = (readable(world, caller, first)?, readable(world, caller, second)?);
                if old.lineage != new.lineage {
                    let message = format!("The snapshots '{first}' and '{second}' are not of the same lineage.");
                    return Err(invalid("UNRELATED_SNAPSHOTS", message));
                }
                Ok(())
            })?;
            sim.maps.with(first, Map::clone).unwrap_or_default()
        }
    };
    let new = sim.maps.with(second, Map::clone).unwrap_or_default();
    let mut indexes: Vec<u32> = old.keys().chain(new.keys()).copied().collect();
    indexes.sort_unstable();
    indexes.dedup();
    indexes.retain(|index| old.get(index) != new.get(index));
    let items = indexes.into_iter().map(|index| {
        let mut item = json!({ "BlockIndex": index });
        if let (Some(first), true) = (first, old.contains_key(&index)) {
            item["FirstBlockToken"] = json!(page.token(first, index));
        }
        if new.contains_key(&index) {
            item["SecondBlockToken"] = json!(page.token(second, index));
        }
        (index, item)
    });
    Ok(page.of("ChangedBlocks", first, second, items.collect()))
}

pub(super) fn get(sim: &Sim, caller: &Caller, id: &str, index: u32, request: &Request) -> Answer<Response> {
    let now = sim.with(|world| readable(world, caller, id).map(|_| world.now()))?;
    let token: Option<BlockToken> = request.query("blockToken").and_then(decode);
    let token = token.filter(|it| it.snapshot == id && it.index == index && now.as_second() < it.expires);
    if token.is_none() {
        return Err(invalid("INVALID_BLOCK_TOKEN", "The block token is not valid (any more) for this block."));
    }
    let block = sim.maps.with(id, |map| map.get(&index).copied()).flatten();
    let block = block.ok_or_else(|| {
        let message = format!("The snapshot '{id}' has no block {index}.");
        ApiError::new(404, "ResourceNotFoundException", message).reason("SNAPSHOT_NOT_FOUND")
    })?;
    let answer = Response::new(200, "application/octet-stream", sim.blocks.read(&block.hash)?);
    Ok(answer
        .with("x-amz-Data-Length", BLOCK.to_string())
        .with("x-amz-Checksum", STANDARD.encode(block.hash))
        .with("x-amz-Checksum-Algorithm", "SHA256"))
}

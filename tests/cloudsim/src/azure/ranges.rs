//! Ranges of pages that hold something, and what has changed since another snapshot: written and cleared ranges in
//! the order of their places, which is how the provider mixes them.

use crate::sim::Sim;
use crate::store::maps::{Block, Map};
use crate::store::{BLOCK, PAGE, is_zero};

/// A range of bytes, the last included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) cleared: bool,
}

fn push(out: &mut Vec<Range>, start: u64, cleared: bool) {
    let end = start + PAGE as u64 - 1;
    match out.last_mut() {
        Some(last) if last.end + 1 == start && last.cleared == cleared => last.end = end,
        _ => out.push(Range { start, end, cleared }),
    }
}

fn bytes(sim: &Sim, block: Option<&Block>) -> std::io::Result<Option<Vec<u8>>> {
    block.map(|block| sim.blocks.read(&block.hash)).transpose()
}

/// Pages of `new` that hold something; with `old`, those that differ from it. Costs what differs, not the disk's size.
pub(super) fn of(sim: &Sim, new: &Map, old: Option<&Map>) -> std::io::Result<Vec<Range>> {
    let mut out = Vec::new();
    let mut indexes: Vec<u32> = new.keys().chain(old.into_iter().flat_map(|old| old.keys())).copied().collect();
    indexes.sort_unstable();
    indexes.dedup();
    for index in indexes {
        let (after, before) = (new.get(&index), old.and_then(|old| old.get(&index)));
        if old.is_some() && after.map(|it| it.hash) == before.map(|it| it.hash) {
            continue;
        }
        let (after, before) = (bytes(sim, after)?, bytes(sim, before)?);
        for at in (0..BLOCK).step_by(PAGE) {
            let page = |bytes: &Option<Vec<u8>>| -> Vec<u8> {
                bytes.as_ref().map_or_else(|| vec![0; PAGE], |bytes| bytes[at..at + PAGE].to_vec())
            };
            let (after, before) = (page(&after), page(&before));
            let start = u64::from(index) * BLOCK as u64 + at as u64;
            match is_zero(&after) {
                false if old.is_none() || after != before => push(&mut out, start, false),
                true if old.is_some() && !is_zero(&before) => push(&mut out, start, true),
                _ => {}
            }
        }
    }
    Ok(out)
}

//! Which packs are worth moving.

use std::collections::HashMap;
use std::sync::Arc;

use futures::{StreamExt, stream};
use jiff::Timestamp;
use model::Result;

use super::live::Live;
use super::{CompactReport, Compaction};
use crate::PackId;
use crate::bucket::Object;
use crate::collect::clock;
use crate::layout::PACKS;
use crate::pack::frame::FrameKind;
use crate::pack::load::PackInfo;
use crate::pack::{FrameAt, PACK_TARGET};
use crate::shared::Shared;
use crate::verify::is_damage;

/// Tables read at a time.
const TABLES: usize = 16;
/// Packs below this size are put together when there are enough of them for a whole one.
const SHORT: u64 = PACK_TARGET / 4;

/// The packs to be taken, oldest first: what was written together stays together.
pub(super) async fn choose(
    shared: &Arc<Shared>,
    live: &Live,
    compaction: &Compaction,
    report: &mut CompactReport,
) -> Result<Vec<PackId>> {
    let tombs = shared.tombs().await?;
    let listed = shared.bucket.list(PACKS).await?;
    let mut there: HashMap<PackId, Object> =
        listed.into_iter().filter_map(|object| Some((PackId::of_key(&object.key)?, object))).collect();
    let bound = match compaction.recompress_after {
        Some(age) => Some(clock::before(shared.bucket.as_ref(), age).await?),
        None => None,
    };
    let mut needed: Vec<(PackId, Object)> =
        live.packs().filter_map(|pack| Some((pack, there.remove(&pack)?))).collect();
    drop(there);
    needed.sort_by_key(|(pack, object)| (object.modified, *pack));
    shared.packs.note_sizes(needed.iter().filter_map(|(pack, o)| Some((*pack, u32::try_from(o.size).ok()?))));
    let (mut worth, mut short) = (Vec::new(), Vec::new());
    let tables: Vec<_> = needed.iter().map(|(pack, _)| shared.pack(*pack)).collect();
    let mut tables = stream::iter(&needed).zip(stream::iter(tables).buffered(TABLES));
    while let Some(((_, object), table)) = tables.next().await {
        let info = match table {
            Ok(info) => info,
            Err(error) if is_damage(&error) => {
                report.unreadable.push(error.chain());
                continue;
            }
            Err(error) => return Err(error),
        };
        let waste = waste(&info, live);
        report.packs += 1;
        report.bytes += info.size;
        report.waste += waste;
        let old = bound.is_some_and(|bound| object.modified <= bound);
        // a condemned pack that is needed all the same can go once nothing rests on it
        let dense = !old || !is_quick(&info, live, compaction.level);
        if waste * 100 >= info.size * u64::from(compaction.waste) || !dense || tombs.contains(&info.pack) {
            worth.push((object.modified, info.pack, info.size));
        } else if info.size < SHORT {
            short.push((object.modified, info.pack, info.size));
        }
    }
    if short.iter().map(|(.., size)| size).sum::<u64>() >= PACK_TARGET {
        worth.append(&mut short);
        worth.sort_unstable();
    }
    Ok(fit(worth, compaction.most, report))
}

/// As many as one pass may take; at least one.
fn fit(worth: Vec<(Timestamp, PackId, u64)>, most: u64, report: &mut CompactReport) -> Vec<PackId> {
    let mut taken = Vec::new();
    for (_, pack, size) in worth {
        if taken.is_empty() || report.taken_bytes + size <= most {
            taken.push(pack);
            report.taken_bytes += size;
        } else {
            report.left_bytes += size;
        }
    }
    report.taken = taken.len() as u64;
    taken
}

/// Bytes of a pack that no point needs.
fn waste(info: &PackInfo, live: &Live) -> u64 {
    let frames = (0..).zip(&info.table.frames).map(|(frame, entry)| {
        let (stored, count) = (u64::from(entry.stored), u64::from(live.count(FrameAt { pack: info.pack, frame })));
        match (entry.kind, u64::from(entry.blocks)) {
            (FrameKind::Data, blocks) if blocks > 0 => stored * blocks.saturating_sub(count) / blocks,
            _ if count > 0 => 0,
            _ => stored,
        }
    });
    frames.sum()
}

/// Whether a pack has blocks that a point needs in a frame that was compressed at a lower level.
fn is_quick(info: &PackInfo, live: &Live, level: i32) -> bool {
    (0..).zip(&info.table.frames).any(|(frame, entry)| {
        let quick = entry.kind == FrameKind::Data && entry.level > 0 && i32::from(entry.level) < level;
        quick && live.count(FrameAt { pack: info.pack, frame }) > 0
    })
}

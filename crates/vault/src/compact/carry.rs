//! Moves blocks: from old packs, each read once from its beginning to its end, into new ones.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use model::{Error, Result};

use super::CompactReport;
use super::live::Live;
use crate::PackId;
use crate::keys::damaged;
use crate::map::Run;
use crate::pack::build::PackStream;
use crate::pack::frame::FrameKind;
use crate::pack::load::{FrameFuture, PackInfo};
use crate::pack::{BLOCK, BlockAt, BlockId, FrameAt, ids_fit};
use crate::shared::Shared;
use crate::verify::is_damage;

/// Frames that are read ahead.
const AHEAD: usize = 8;

/// Blocks that lie one after another in the old frame and in the new one.
#[derive(Debug, Clone, Copy)]
struct Piece {
    first: u16,
    count: u16,
    to: BlockAt,
}

/// Where blocks have gone.
#[derive(Debug, Default)]
pub(super) struct Moved {
    frames: HashMap<FrameAt, Vec<Piece>>,
}

impl Moved {
    fn note(&mut self, from: FrameAt, block: u16, to: BlockAt) {
        let pieces = self.frames.entry(from).or_default();
        if let Some(last) = pieces.last_mut()
            && last.first + last.count == block
            && last.to.at == to.at
            && last.to.block + last.count == to.block
        {
            last.count += 1;
            return;
        }
        pieces.push(Piece { first: block, count: 1, to });
    }

    /// The same run where its blocks lie now; what was not moved stays as it is.
    pub fn follow(&self, run: Run) -> Vec<Run> {
        let Some(pieces) = self.frames.get(&run.at.at) else { return vec![run] };
        let (mut out, mut rest) = (Vec::new(), run);
        let start = pieces.partition_point(|piece| piece.first + piece.count <= run.at.block);
        for piece in &pieces[start..] {
            let end = rest.at.block + rest.count as u16;
            if rest.count == 0 || piece.first >= end {
                break;
            }
            let (from, to) = (piece.first.max(rest.at.block), (piece.first + piece.count).min(end));
            let before = u32::from(from - rest.at.block);
            out.extend(rest.clip(rest.first, rest.first + before));
            let at = BlockAt { at: piece.to.at, block: piece.to.block + (from - piece.first) };
            out.push(Run { first: rest.first + before, count: u32::from(to - from), at });
            let gone = u32::from(to - rest.at.block);
            rest = Run { first: rest.first + gone, count: rest.count - gone, at: BlockAt { block: to, ..rest.at } };
        }
        if rest.count > 0 {
            out.push(rest);
        }
        out
    }
}

/// Moves the blocks of a pack that points need. A frame that does not read back, or holds something else than its ids say, is
/// told and left.
pub(super) async fn carry(
    shared: &Arc<Shared>,
    pack: PackId,
    live: &Live,
    stream: &mut PackStream,
    moved: &mut Moved,
    report: &mut CompactReport,
) -> Result<()> {
    let (info, ids) = match (shared.pack(pack).await, shared.ids(pack).await) {
        (Ok(info), Ok(ids)) => (info, ids),
        (Err(error), _) | (_, Err(error)) => return tell(error, report),
    };
    let frames = wanted(&info, live);
    let mut windows = frames.chunks(AHEAD).peekable();
    while let Some(window) = windows.next() {
        let asked = shared.request(window).await;
        if let Some(next) = windows.peek() {
            // it goes on while this window's blocks are placed
            shared.request(next).await;
        }
        for (at, future) in window.iter().zip(asked) {
            match frame(shared, &info, &ids, *at, future).await {
                Ok((bytes, ids)) => place(*at, &bytes, ids, live, stream, moved).await?,
                Err(error) => tell(error, report)?,
            }
        }
    }
    Ok(())
}

/// Damage is told, other trouble is an error.
fn tell(error: Error, report: &mut CompactReport) -> Result<()> {
    if !is_damage(&error) {
        return Err(error);
    }
    report.unreadable.push(error.chain());
    Ok(())
}

/// The frames of a pack that hold blocks which points need, in the order in which they lie.
fn wanted(info: &PackInfo, live: &Live) -> Vec<FrameAt> {
    let mut frames: Vec<(u32, FrameAt)> = (0..)
        .zip(&info.table.frames)
        .filter(|(_, entry)| entry.kind == FrameKind::Data)
        .map(|(frame, entry)| (entry.offset, FrameAt { pack: info.pack, frame }))
        .filter(|(_, at)| live.count(*at) > 0)
        .collect();
    frames.sort_unstable();
    frames.into_iter().map(|(_, at)| at).collect()
}

async fn frame<'a>(
    shared: &Arc<Shared>,
    info: &PackInfo,
    ids: &'a [BlockId],
    at: FrameAt,
    asked: Result<FrameFuture>,
) -> Result<(Bytes, &'a [BlockId])> {
    let bytes = shared.await_frame(at, asked?).await?;
    let ids = info.ids_of(at.frame, ids).unwrap_or_default();
    if ids_fit(&bytes, ids) {
        Ok((bytes, ids))
    } else {
        let what = format!("cannot move frame {} of pack {}", at.frame, at.pack);
        Err(damaged(what, "a block does not fit its id"))
    }
}

async fn place(
    from: FrameAt,
    bytes: &[u8],
    ids: &[BlockId],
    live: &Live,
    stream: &mut PackStream,
    moved: &mut Moved,
) -> Result<()> {
    for (number, (id, block)) in ids.iter().zip(bytes.chunks(BLOCK)).enumerate() {
        if live.has(from, number) {
            stream.make_room().await?;
            moved.note(from, number as u16, stream.push(*id, block)?);
        }
    }
    Ok(())
}

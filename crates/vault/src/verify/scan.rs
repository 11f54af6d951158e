//! Reads packs back: seals, lengths, and every block's id. Frame by frame, so that it takes as little memory as it takes
//! time to begin.

use std::sync::Arc;

use disk::PageHash;
use futures::{StreamExt, TryStreamExt, stream};
use model::{Error, Result};

use super::{Findings, is_damage};
use crate::PackId;
use crate::keys::damaged;
use crate::map::Page;
use crate::pack::frame::{self, FrameEntry, FrameKind};
use crate::pack::load::PackInfo;
use crate::pack::{BlockId, FrameAt, HEADER, ids_fit};
use crate::shared::{Shared, copy_error};
use crate::work::Scratch;

/// Packs that are opened at a time.
const OPENING: usize = 4;
/// Bytes of frames, before compression, that are read as one piece of work.
const WINDOW: u64 = 2 << 20;
/// Pieces of work at a time.
const WINDOWS: usize = 4;

/// A frame that is as it must be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fine {
    /// Its bytes in the bucket.
    pub stored: u32,
    /// Its hash, if it is a page.
    pub page: Option<PageHash>,
}

/// Some frames of a pack whose trailer has read back; or a pack that is lost, and why.
enum Work {
    Window(Vec<FrameAt>),
    Lost(PackId, String),
}

/// Scans packs, each with the size that it should have, if that is known, and the one that the bucket says. Damage is a
/// finding; other trouble is an error.
pub(super) async fn scan(
    shared: &Arc<Shared>,
    packs: Vec<(PackId, Option<u32>, Option<u64>)>,
    findings: &mut Findings<'_>,
) -> Result<()> {
    let opened = packs.into_iter().map(|(pack, size, listed)| {
        let shared = shared.clone();
        async move {
            match open(&shared, pack, size, listed).await {
                Err(error) if is_damage(&error) => Ok(vec![Work::Lost(pack, error.chain())]),
                other => other,
            }
        }
    });
    let work =
        stream::iter(opened).buffered(OPENING).map_ok(|work| stream::iter(work.into_iter().map(Ok))).try_flatten();
    let owner = shared.clone();
    let done = work.map_ok(move |work| {
        let shared = owner.clone();
        async move {
            Ok::<_, Error>(match work {
                Work::Window(frames) => (None, read_frames(&shared, &frames).await),
                Work::Lost(pack, why) => (Some((pack, why)), Vec::new()),
            })
        }
    });
    let mut done = std::pin::pin!(done.try_buffer_unordered(WINDOWS));
    while let Some((lost, frames)) = done.try_next().await? {
        if let Some((pack, why)) = lost {
            findings.lost(pack, why);
        }
        for (at, result) in frames {
            findings.frame(at, result)?;
        }
    }
    Ok(())
}

/// Reads what surrounds a pack's frames, and cuts these into windows.
async fn open(shared: &Arc<Shared>, pack: PackId, size: Option<u32>, listed: Option<u64>) -> Result<Vec<Work>> {
    let lost = |why: &str| Ok(vec![Work::Lost(pack, why.to_owned())]);
    let Some(listed) = listed else { return lost("it is missing") };
    if size.is_some_and(|size| u64::from(size) != listed) {
        return lost("it has another length than its manifest tells");
    }
    let head = shared.get_part(&pack.key(), 0..HEADER.len() as u64).await?;
    if head != HEADER.as_slice() {
        return lost("it does not begin as a pack does");
    }
    let info = shared.pack(pack).await?;
    shared.ids(pack).await?;
    let mut frames: Vec<(u32, u32, u32)> = (0..).zip(&info.table.frames).map(|(n, e)| (e.offset, n, e.raw)).collect();
    frames.sort_unstable();
    let (mut windows, mut window, mut bytes) = (Vec::new(), Vec::new(), 0);
    for (_, frame, raw) in frames {
        window.push(FrameAt { pack, frame });
        bytes += u64::from(raw);
        if bytes >= WINDOW {
            windows.push(Work::Window(std::mem::take(&mut window)));
            bytes = 0;
        }
    }
    windows.push(Work::Window(window));
    Ok(windows)
}

/// Reads frames of one pack and checks them, past the cache: nobody will ask for them again. Each run of neighbours is one
/// request.
async fn read_frames(shared: &Arc<Shared>, frames: &[FrameAt]) -> Vec<(FrameAt, Result<Fine>)> {
    let Some(pack) = frames.first().map(|at| at.pack) else { return Vec::new() };
    let (info, ids) = match (shared.pack(pack).await, shared.ids(pack).await) {
        (Ok(info), Ok(ids)) => (info, ids),
        (Err(error), _) | (_, Err(error)) => return frames.iter().map(|at| (*at, Err(copy_error(&error)))).collect(),
    };
    let entries: Vec<(FrameAt, FrameEntry)> =
        frames.iter().filter_map(|at| Some((*at, *info.table.frames.get(at.frame as usize)?))).collect();
    let runs = entries.chunk_by(|(_, a), (_, b)| a.offset + a.stored == b.offset);
    let mut done = Vec::with_capacity(frames.len());
    for run in runs {
        let (Some((_, first)), Some((_, last))) = (run.first(), run.last()) else { continue };
        let (start, end) = (u64::from(first.offset), u64::from(last.offset + last.stored));
        let body = match shared.get_part(&pack.key(), start..end).await {
            Ok(body) => body,
            Err(error) => {
                done.extend(run.iter().map(|(at, _)| (*at, Err(copy_error(&error)))));
                continue;
            }
        };
        let jobs = run.iter().map(|(at, entry)| {
            let from = (entry.offset - first.offset) as usize;
            let stored = body.slice(from..from + entry.stored as usize);
            let (vault, info, ids, at, entry) = (shared.keys.vault, info.clone(), ids.clone(), *at, *entry);
            let job = move |scratch: &mut Scratch| {
                let plain = frame::decode(vault, at, &entry, info.cipher(), &stored, scratch)?;
                fits(&info, &ids, at, &entry, &plain)
            };
            (at, shared.workers.submit(job))
        });
        for (at, job) in jobs.collect::<Vec<_>>() {
            done.push((at, job.wait().await.flatten()));
        }
    }
    done
}

/// Whether a frame holds the blocks that its ids say, or a page.
fn fits(info: &PackInfo, ids: &[BlockId], at: FrameAt, entry: &FrameEntry, plain: &[u8]) -> Result<Fine> {
    let what = || format!("cannot rely on frame {} of pack {}", at.frame, at.pack);
    if entry.kind == FrameKind::Page {
        return Ok(Fine { stored: entry.stored, page: Some(Page::decode(plain, None, &what())?.hash()) });
    }
    if ids_fit(plain, info.ids_of(at.frame, ids).unwrap_or_default()) {
        Ok(Fine { stored: entry.stored, page: None })
    } else {
        Err(damaged(what(), "a block does not fit its id"))
    }
}

//! A damaged frame is no loss if its blocks lie elsewhere too: a later run has stored them again.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use model::{Error, Result};

use crate::pack::{BLOCK, BlockId, FrameAt, ids_fit};
use crate::shared::Shared;

/// Frames on each side of a hint that are searched.
const NEIGHBOURS: u32 = 4;

impl Shared {
    /// The bytes of a frame that does not read back (`error`), from other frames; or that error.
    pub async fn heal(self: &Arc<Self>, at: FrameAt, error: Error) -> Result<Bytes> {
        match self.find_elsewhere(at).await {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => {
                Err(error.hint("`replicate verify` marks the damage; the next run then stores these blocks again"))
            }
            // the first trouble is the one to tell
            Err(_) => Err(error),
        }
    }

    async fn find_elsewhere(self: &Arc<Self>, at: FrameAt) -> Result<Option<Bytes>> {
        let (info, ids) = (self.pack(at.pack).await?, self.ids(at.pack).await?);
        info.entry(at.frame)?;
        let Some(ids) = info.ids_of(at.frame, &ids) else { return Ok(None) };
        if ids.is_empty() {
            return Ok(None);
        }
        self.index.refresh(self).await?;
        let mut found: Vec<Option<Bytes>> = vec![None; ids.len()];
        for id in ids {
            let hint = self.index.hint(id).map(|hint| hint.at).filter(|hint| *hint != at);
            if let Some(hint) = hint {
                self.take_blocks(hint, at, ids, &mut found).await?;
            }
        }
        let mut out = BytesMut::with_capacity(ids.len() * BLOCK);
        for block in found {
            let Some(block) = block else { return Ok(None) };
            out.extend_from_slice(&block);
        }
        Ok(ids_fit(&out, ids).then(|| out.freeze()))
    }

    /// Takes what is wanted from the frames around `hint`.
    async fn take_blocks(
        self: &Arc<Self>,
        hint: FrameAt,
        broken: FrameAt,
        wanted: &[BlockId],
        found: &mut [Option<Bytes>],
    ) -> Result<()> {
        let (info, ids) = (self.pack(hint.pack).await?, self.ids(hint.pack).await?);
        for frame in hint.frame.saturating_sub(NEIGHBOURS)..=hint.frame + NEIGHBOURS {
            let at = FrameAt { frame, ..hint };
            let Some(there) = info.ids_of(frame, &ids) else { continue };
            let missing = |(slot, id): (usize, &BlockId)| {
                found
                    .get(slot)
                    .is_some_and(Option::is_none)
                    .then(|| Some((slot, there.iter().position(|t| t == id)?)))
                    .flatten()
            };
            let hits: Vec<(usize, usize)> = wanted.iter().enumerate().filter_map(missing).collect();
            if hits.is_empty() || at == broken {
                continue;
            }
            let Ok(bytes) = self.frame(at).await else { continue };
            for (slot, block) in hits {
                if let (Some(slot), true) = (found.get_mut(slot), (block + 1) * BLOCK <= bytes.len()) {
                    *slot = Some(bytes.slice(block * BLOCK..(block + 1) * BLOCK));
                }
            }
        }
        Ok(())
    }
}

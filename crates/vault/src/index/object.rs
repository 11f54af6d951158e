//! Index objects: what a run has stored, so that the next writer need not read every pack's trailer.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::Result;

use super::prefix;
use crate::PackId;
use crate::codec::{Cursor, put_varint};
use crate::layout::INDEX;
use crate::pack::{BlockId, FRAME_BLOCKS, PACK_FRAMES};
use crate::seal::{Class, open_single, seal};
use crate::shared::Shared;

/// Some blocks of a frame, by number and id prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IndexedFrame {
    /// The frame's number.
    pub frame: u32,
    /// Block number and first 8 bytes of its id.
    pub entries: Vec<(u16, u64)>,
}

/// Some blocks of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IndexedPack {
    /// The pack.
    pub pack: PackId,
    /// Frames that have entries.
    pub frames: Vec<IndexedFrame>,
}

impl IndexedPack {
    /// The entries of a pack from its blocks' ids, frame by frame.
    /// Ids with fewer than `sparsity` low zero bits have none.
    pub fn new<'a>(pack: PackId, frames: impl Iterator<Item = (u32, &'a [BlockId])>, sparsity: u32) -> Self {
        let sparse = |ids: &[BlockId]| -> Vec<(u16, u64)> {
            let numbered = ids.iter().zip(0_u16..).map(|(id, block)| (block, prefix(id)));
            numbered.filter(|(_, prefix)| prefix.trailing_zeros() >= sparsity).collect()
        };
        let frames = frames.map(|(frame, ids)| IndexedFrame { frame, entries: sparse(ids) });
        Self { pack, frames: frames.filter(|frame| !frame.entries.is_empty()).collect() }
    }

    /// The same from a stored pack's trailer.
    pub async fn load(shared: &Arc<Shared>, pack: PackId) -> Result<Self> {
        let (info, ids) = (shared.pack(pack).await?, shared.ids(pack).await?);
        let numbers = 0..info.table.frames.len() as u32;
        let frames = numbers.map(|frame| (frame, info.ids_of(frame, &ids).unwrap_or_default()));
        Ok(Self::new(pack, frames, 0))
    }

    /// Entries of all frames.
    pub fn len(&self) -> usize {
        self.frames.iter().map(|frame| frame.entries.len()).sum()
    }
}

/// Stores an index object for `packs`. Returns its size.
pub(crate) async fn write(shared: &Shared, packs: &[IndexedPack]) -> Result<u64> {
    let mut plain = Vec::new();
    put_varint(&mut plain, packs.len() as u64);
    for pack in packs {
        plain.extend_from_slice(&pack.pack.0);
        put_varint(&mut plain, pack.frames.len() as u64);
        for frame in &pack.frames {
            put_varint(&mut plain, u64::from(frame.frame));
            put_varint(&mut plain, frame.entries.len() as u64);
            plain.extend(frame.entries.iter().map(|(block, _)| *block as u8));
            for (_, prefix) in &frame.entries {
                plain.extend_from_slice(&prefix.to_le_bytes());
            }
        }
    }
    let key = format!("{INDEX}{}", hex::encode(rand::random::<[u8; 16]>()));
    let object = seal(&shared.keys, Class::Index, &key, &[&plain])?;
    let size = object.len() as u64;
    model::crash::point("vault.index.before");
    shared.create(&key, object).await?;
    model::crash::point("vault.index.after");
    Ok(size)
}

/// Reads an index object.
pub(crate) async fn read(shared: &Shared, key: &str) -> Result<Vec<IndexedPack>> {
    let object = shared.bucket.get(key, None).await?;
    let plain = open_single(&shared.keys, Class::Index, key, &object)?;
    let mut cursor = Cursor::new(&plain, key);
    let count = cursor.count(17)?;
    let mut packs = BTreeMap::new();
    for _ in 0..count {
        let pack = PackId(cursor.array()?);
        let mut frames = Vec::new();
        for _ in 0..cursor.count(2)? {
            let frame = cursor.varint(PACK_FRAMES as u64)? as u32;
            let len = cursor.varint(FRAME_BLOCKS as u64)? as usize;
            let blocks = cursor.take(len)?;
            let prefixes = cursor.take(len * 8)?.as_chunks::<8>().0;
            let entries = blocks.iter().zip(prefixes).map(|(b, p)| (u16::from(*b), u64::from_le_bytes(*p))).collect();
            frames.push(IndexedFrame { frame, entries });
        }
        packs.insert(pack, IndexedPack { pack, frames });
    }
    cursor.end()?;
    Ok(packs.into_values().collect())
}

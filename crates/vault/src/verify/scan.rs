//! Reads one pack back, whole: seals, lengths, and every block's id.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use disk::PageHash;
use model::{Kind, Result};

use crate::PackId;
use crate::cipher::Cipher;
use crate::map::Page;
use crate::pack::frame::{FrameEntry, FrameKind, decode};
use crate::pack::trailer::{FOOTER, Footer, Table, open_ids};
use crate::pack::{BLOCK, BlockId, HEADER, block_id};
use crate::shared::Shared;

/// What a pack turned out to be.
#[derive(Debug, Default)]
pub(crate) struct Scanned {
    /// Bytes that were read.
    pub bytes: u64,
    /// The pack is missing, cut, or its trailer does not read back.
    pub whole: Option<String>,
    /// Frames that do not read back.
    pub frames: BTreeMap<u32, String>,
    /// The pages in it.
    pub pages: BTreeMap<u32, PageHash>,
}

impl Scanned {
    fn lost(bytes: u64, why: impl Into<String>) -> Self {
        Self { bytes, whole: Some(why.into()), ..Self::default() }
    }
}

/// Scans a pack that should have `size` bytes, if that is known. Damage is a finding; other trouble is an error.
pub(crate) async fn scan(shared: &Arc<Shared>, pack: PackId, size: Option<u32>) -> Result<Scanned> {
    let body = match shared.bucket.get(&pack.key(), None).await {
        Ok(body) => body,
        Err(error) if error.kind() == Kind::NotFound => return Ok(Scanned::lost(0, "it is missing")),
        Err(error) => return Err(error),
    };
    let bytes = body.len() as u64;
    if size.is_some_and(|size| u64::from(size) != bytes) {
        return Ok(Scanned::lost(bytes, "it has another length than its manifest tells"));
    }
    let (table, ids, cipher) = match trailer(shared, pack, &body) {
        Ok(opened) => opened,
        Err(error) if error.kind() == Kind::Damaged => return Ok(Scanned::lost(bytes, error.chain())),
        Err(error) => return Err(error),
    };
    let (ids, cipher) = (Arc::new(ids), Arc::new(cipher));
    let mut jobs = Vec::with_capacity(table.frames.len());
    for ((number, entry), first) in (0_u32..).zip(table.frames.iter().copied()).zip(table.first_id.iter().copied()) {
        let (shared_, cipher, ids, body) = (shared.clone(), cipher.clone(), ids.clone(), body.clone());
        jobs.push(shared.workers.submit(move |scratch| {
            let stored = body.get(entry.offset as usize..(entry.offset + entry.stored) as usize).unwrap_or_default();
            let plain = decode(shared_.keys.vault, pack, number, &entry, &cipher, stored, scratch)?;
            let ids = ids.get(first as usize..first as usize + usize::from(entry.blocks)).unwrap_or_default();
            check(&shared_, &entry, &plain, ids, pack, number)
        }));
    }
    let mut scanned = Scanned { bytes, ..Scanned::default() };
    for (number, job) in (0_u32..).zip(jobs) {
        match job.wait().await? {
            Ok(Some(hash)) => drop(scanned.pages.insert(number, hash)),
            Ok(None) => {}
            Err(error) if error.kind() == Kind::Damaged => drop(scanned.frames.insert(number, error.chain())),
            Err(error) => return Err(error),
        }
    }
    Ok(scanned)
}

fn trailer(shared: &Shared, pack: PackId, body: &Bytes) -> Result<(Table, Vec<BlockId>, Cipher)> {
    let wrong = |why| crate::keys::damaged(format!("cannot read pack {pack}"), why);
    let size = body.len() as u64;
    if body.len() < FOOTER + HEADER.len() || !body.starts_with(HEADER) {
        return Err(wrong("it does not begin as a pack does"));
    }
    let footer = Footer::read(pack, size, &body[body.len() - FOOTER..])?;
    let cipher = Cipher::new(&shared.keys.pack(pack))?;
    let vault = shared.keys.vault;
    let part = |start: u64, len: u32| body.get(start as usize..start as usize + len as usize).unwrap_or_default();
    let table = Table::open(vault, pack, size, &footer, &cipher, part(footer.table_start(size), footer.table))?;
    let ids = open_ids(vault, pack, &footer, &cipher, part(footer.ids_start(size), footer.ids))?;
    Ok((table, ids, cipher))
}

fn check(
    shared: &Shared,
    entry: &FrameEntry,
    plain: &[u8],
    ids: &[BlockId],
    pack: PackId,
    number: u32,
) -> Result<Option<PageHash>> {
    let what = || format!("cannot rely on frame {number} of pack {pack}");
    if entry.kind == FrameKind::Page {
        return Ok(Some(Page::decode(plain, None, &what())?.hash()));
    }
    let fits = plain.len() == ids.len() * BLOCK
        && plain.chunks(BLOCK).zip(ids).all(|(block, id)| block_id(shared.keys.block(), block) == *id);
    if fits { Ok(None) } else { Err(crate::keys::damaged(what(), "a block does not fit its id")) }
}

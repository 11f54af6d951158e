//! Reading packs: tables, block ids and frames, each fetched once for all who wait, and cached within bounds.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared as SharedFuture};
use model::{Error, Kind, Result};
use tokio::sync::OnceCell;

use super::frame::{self, FrameEntry};
use super::trailer::{self, FOOTER, Footer, Table};
use super::{BlockId, FRAME, FrameAt, PACK_LONGEST};
use crate::PackId;
use crate::cipher::Cipher;
use crate::keys::damaged;
use crate::lru::Lru;
use crate::shared::{Shared, copy_error, lock};

/// The end of a pack that is fetched first: holds the table of almost every pack.
const TAIL: u64 = 4096;
/// Frames that lie together are fetched together, up to this many bytes.
const GET_MOST: u64 = 4 << 20;
/// Bytes of frames in the cache.
const FRAMES_HELD: usize = 32 << 20;
/// Bytes of block ids in the cache.
const IDS_HELD: usize = 16 << 20;
/// Tables in the cache.
const TABLES_HELD: usize = 4096;

/// A frame that is there or on its way.
pub(crate) type FrameFuture = SharedFuture<BoxFuture<'static, Result<Bytes, Arc<Error>>>>;

/// What is known of a pack.
pub(crate) struct PackInfo {
    /// Its name.
    pub pack: PackId,
    /// Its size.
    pub size: u64,
    /// Its frames.
    pub table: Table,
    footer: Footer,
    cipher: Cipher,
}

impl PackInfo {
    /// What opens its frames.
    pub fn cipher(&self) -> &Cipher {
        &self.cipher
    }

    /// The entry of a frame.
    pub fn entry(&self, number: u32) -> Result<&FrameEntry> {
        let entry = self.table.frames.get(number as usize);
        entry
            .ok_or_else(|| damaged(format!("cannot read frame {number} of pack {}", self.pack), "it has no such frame"))
    }

    /// The ids of a frame's blocks, of the ids of all blocks of the pack.
    pub fn ids_of<'a>(&self, number: u32, ids: &'a [BlockId]) -> Option<&'a [BlockId]> {
        let first = &self.table.first_id;
        let (from, to) = (first.get(number as usize)?, first.get(number as usize + 1)?);
        ids.get(*from as usize..*to as usize)
    }
}

type Cell<T> = Arc<OnceCell<Arc<T>>>;

/// The caches.
pub(crate) struct PackCache {
    sizes: Mutex<HashMap<PackId, u32>>,
    tables: Mutex<Lru<PackId, Cell<PackInfo>>>,
    ids: Mutex<Lru<PackId, Cell<Vec<BlockId>>>>,
    frames: Mutex<Lru<FrameAt, FrameFuture>>,
}

impl PackCache {
    /// Empty ones.
    pub fn new() -> Self {
        Self {
            sizes: Mutex::default(),
            tables: Mutex::new(Lru::new(TABLES_HELD)),
            ids: Mutex::new(Lru::new(IDS_HELD)),
            frames: Mutex::new(Lru::new(FRAMES_HELD)),
        }
    }

    /// Notes the sizes of packs, as a manifest or a listing tells them.
    pub fn note_sizes(&self, sizes: impl IntoIterator<Item = (PackId, u32)>) {
        lock(&self.sizes).extend(sizes);
    }

    /// The size of a pack if it is known.
    pub fn size(&self, pack: PackId) -> Option<u32> {
        lock(&self.sizes).get(&pack).copied()
    }

    /// Forgets what was cached of these packs: what is asked for next is read from the bucket.
    pub fn forget(&self, packs: &BTreeSet<PackId>) {
        lock(&self.tables).retain(|pack| !packs.contains(pack));
        lock(&self.ids).retain(|pack| !packs.contains(pack));
        lock(&self.frames).retain(|at| !packs.contains(&at.pack));
    }
}

impl Shared {
    /// Size and table of a pack.
    pub async fn pack(&self, pack: PackId) -> Result<Arc<PackInfo>> {
        let cell = cell(&self.packs.tables, pack, 1);
        cell.get_or_try_init(|| self.load_pack(pack)).await.cloned()
    }

    async fn pack_size(&self, pack: PackId) -> Result<u64> {
        if let Some(size) = self.packs.size(pack) {
            return Ok(u64::from(size));
        }
        let key = pack.key();
        let listed = self.bucket.list(&key).await?;
        let object = listed.into_iter().find(|object| object.key == key);
        let object = object
            .ok_or_else(|| Error::new(Kind::NotFound, format!("pack {pack} is not in {}", self.bucket.describe())))?;
        if object.size > PACK_LONGEST {
            return Err(damaged(format!("cannot read pack {pack}"), "it is longer than any pack"));
        }
        self.packs.note_sizes([(pack, object.size as u32)]);
        Ok(object.size)
    }

    async fn load_pack(&self, pack: PackId) -> Result<Arc<PackInfo>> {
        let size = self.pack_size(pack).await?;
        if size < FOOTER as u64 {
            return Err(damaged(format!("cannot read pack {pack}"), "it is too short"));
        }
        let key = pack.key();
        let mut start = size.saturating_sub(TAIL);
        let mut tail = self.get_part(&key, start..size).await?;
        let footer = Footer::read(pack, size, &tail[tail.len() - FOOTER..])?;
        if footer.table_start(size) < start {
            start = footer.table_start(size);
            tail = self.get_part(&key, start..size).await?;
        }
        let sealed = &tail[(footer.table_start(size) - start) as usize..tail.len() - FOOTER];
        let cipher = Cipher::new(&self.keys.pack(pack))?;
        let table = Table::open(self.keys.vault, pack, size, &footer, &cipher, sealed)?;
        Ok(Arc::new(PackInfo { pack, size, table, footer, cipher }))
    }

    /// A range of an object whose size is known: a store that cannot give it holds a cut object.
    pub async fn get_part(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let len = range.end - range.start;
        match self.bucket.get(key, Some(range)).await {
            Ok(bytes) if bytes.len() as u64 == len => Ok(bytes),
            Ok(_) => Err(damaged(format!("cannot read {key}"), "it is shorter than it was")),
            Err(error) if error.kind() == Kind::Invalid => {
                Err(Error::new(Kind::Damaged, format!("cannot read {key}")).because(error))
            }
            Err(error) => Err(error),
        }
    }

    /// The ids of all blocks of a pack.
    pub async fn ids(&self, pack: PackId) -> Result<Arc<Vec<BlockId>>> {
        let info = self.pack(pack).await?;
        let cell = cell(&self.packs.ids, pack, info.footer.ids as usize);
        let load = || async {
            let start = info.footer.ids_start(info.size);
            let sealed = self.get_part(&pack.key(), start..start + u64::from(info.footer.ids)).await?;
            trailer::open_ids(self.keys.vault, pack, &info.footer, &info.cipher, &sealed).map(Arc::new)
        };
        cell.get_or_try_init(load).await.cloned()
    }

    /// Asks for frames. Those that lie together in a pack are fetched with one request, each is decoded on a worker.
    /// What is asked for goes on even if nobody waits: that is how a reader reads ahead.
    pub async fn request(self: &Arc<Self>, wanted: &[FrameAt]) -> Vec<Result<FrameFuture>> {
        let mut infos: BTreeMap<PackId, Result<Arc<PackInfo>>> = BTreeMap::new();
        for at in wanted {
            if let Entry::Vacant(vacant) = infos.entry(at.pack) {
                vacant.insert(self.pack(at.pack).await);
            }
        }
        let mut missing: Vec<(FrameAt, FrameEntry, &Arc<PackInfo>)> = Vec::new();
        let mut frames = lock(&self.packs.frames);
        for at in wanted {
            if let Some(Ok(info)) = infos.get(&at.pack)
                && frames.get(at).is_none()
                && let Ok(entry) = info.entry(at.frame)
            {
                missing.push((*at, *entry, info));
            }
        }
        missing.sort_unstable_by_key(|(at, entry, _)| (at.pack, entry.offset));
        missing.dedup_by_key(|(at, ..)| *at);
        for group in missing.chunk_by(|(a, ea, _), (b, eb, _)| a.pack == b.pack && ea.offset + ea.stored == eb.offset) {
            self.fetch_group(group, &mut frames);
        }
        let answer = |at: &FrameAt| match infos.get(&at.pack) {
            Some(Err(error)) => Err(copy_error(error)),
            Some(Ok(info)) => {
                let entry = info.entry(at.frame)?;
                // a frame that was pushed out of the cache by its own neighbours is fetched alone
                match frames.get(at) {
                    Some(future) => Ok(future),
                    None => {
                        self.fetch_group(&[(*at, *entry, info)], &mut frames);
                        frames.get(at).ok_or_else(|| crate::keys::broken("a frame is not in the cache"))
                    }
                }
            }
            None => Err(crate::keys::broken("a pack was not asked for")),
        };
        wanted.iter().map(answer).collect()
    }

    fn fetch_group(
        self: &Arc<Self>,
        group: &[(FrameAt, FrameEntry, &Arc<PackInfo>)],
        frames: &mut Lru<FrameAt, FrameFuture>,
    ) {
        let mut rest = group;
        while let Some((first, _)) = rest.split_first() {
            let start = u64::from(first.1.offset);
            let count = rest.iter().take_while(|(_, e, _)| u64::from(e.offset + e.stored) - start <= GET_MOST).count();
            let (now, later) = rest.split_at(count.max(1));
            rest = later;
            let end = now.last().map_or(start, |(_, e, _)| u64::from(e.offset + e.stored));
            let (this, key) = (self.clone(), first.0.pack.key());
            let body = async move { this.get_part(&key, start..end).await.map_err(Arc::new) }.boxed().shared();
            for (at, entry, info) in now {
                let future = self.decode_from(*at, *entry, Arc::clone(info), body.clone(), start).boxed().shared();
                tokio::spawn(future.clone());
                frames.put(*at, future, entry.raw as usize);
            }
        }
    }

    fn decode_from(
        self: &Arc<Self>,
        at: FrameAt,
        entry: FrameEntry,
        info: Arc<PackInfo>,
        body: impl Future<Output = Result<Bytes, Arc<Error>>> + Send + 'static,
        start: u64,
    ) -> impl Future<Output = Result<Bytes, Arc<Error>>> + Send + 'static {
        let this = self.clone();
        async move {
            let from = (u64::from(entry.offset) - start) as usize;
            let stored = body.await?.slice(from..from + entry.stored as usize);
            let vault = this.keys.vault;
            let job =
                this.workers.submit(move |scratch| frame::decode(vault, at, &entry, &info.cipher, &stored, scratch));
            job.wait().await.flatten().map_err(Arc::new)
        }
    }

    /// One frame.
    pub async fn frame(self: &Arc<Self>, at: FrameAt) -> Result<Bytes> {
        let future = self.request(&[at]).await.pop();
        let future = future.unwrap_or_else(|| Err(crate::keys::broken("a frame was not asked for")))?;
        self.await_frame(at, future).await
    }

    /// Waits for a frame that was asked for. A failure is not kept: the next who asks tries again.
    pub async fn await_frame(&self, at: FrameAt, future: FrameFuture) -> Result<Bytes> {
        match future.await {
            Ok(bytes) if bytes.len() <= FRAME => Ok(bytes),
            Ok(_) => Err(damaged(format!("cannot read frame {} of pack {}", at.frame, at.pack), "it is too long")),
            Err(error) => {
                lock(&self.packs.frames).remove(&at);
                Err(copy_error(&error))
            }
        }
    }
}

fn cell<T>(cache: &Mutex<Lru<PackId, Cell<T>>>, pack: PackId, cost: usize) -> Cell<T> {
    let mut cache = lock(cache);
    match cache.get(&pack) {
        Some(cell) => cell,
        None => {
            let cell = Cell::default();
            cache.put(pack, cell.clone(), cost);
            cell
        }
    }
}

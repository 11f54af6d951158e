//! Where blocks lie: a sparse index of the whole vault, bounded in memory.
//!
//! An entry is 8 bytes of a block's id and where the block lies. Only ids with `k` low zero bits have entries; `k` grows
//! with the vault, so that the index takes at most 64 MiB and 64 MiB per TiB. A hit is a hint: the writer loads the ids
//! of that frame and its neighbours and matches the whole id there (`writer/matcher.rs`). The index is a cache: it is made from the
//! `index/` objects, and from the trailers of packs that none of them lists (a crashed run's).

pub(crate) mod object;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use futures::{StreamExt, TryStreamExt, stream};
use model::{Kind, Result};

use crate::PackId;
use crate::layout::{INDEX, PACKS};
use crate::pack::{BlockAt, BlockId, FrameAt};
use crate::shared::{Shared, lock};
use crate::verify::marks::read_mark;
use object::IndexedFrame;
pub(crate) use object::{IndexedPack, write as write_object};

/// Entries for each unit of memory: a slot of the table has 17 bytes, and is at least 7/16 full.
const BYTES_PER_ENTRY: u64 = 39;
/// Entries that the index may always have.
const BASE_ENTRIES: u64 = (64 << 20) / BYTES_PER_ENTRY;
/// Index objects keep only ids with as many low zero bits, whatever the memory would allow: the rest is found through
/// neighbours, and the objects stay a thousandth of the data.
pub(crate) const OBJECT_SPARSITY: u32 = 2;
/// Objects fetched at a time.
const IN_FLIGHT: usize = 8;

/// Where nothing new may rest.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Excluded {
    /// Condemned, missing or wholly unreadable packs.
    pub packs: HashSet<PackId>,
    /// Single frames that do not read back.
    pub frames: HashSet<FrameAt>,
}

impl Excluded {
    /// Whether something new may rest on this frame.
    pub fn allows(&self, at: FrameAt) -> bool {
        !self.packs.contains(&at.pack) && !self.frames.contains(&at)
    }
}

/// The first 8 bytes of an id.
pub(crate) fn prefix(id: &BlockId) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&id[..8]);
    u64::from_le_bytes(bytes)
}

#[derive(Default)]
struct State {
    k: u32,
    packs: Vec<PackId>,
    numbers: HashMap<PackId, u32>,
    present: HashSet<PackId>,
    entries: HashMap<u64, u64>,
    /// Index objects that were read.
    read: HashSet<String>,
    marks: HashMap<String, Excluded>,
    excluded: Arc<Excluded>,
    /// Bytes of all packs, to know how much memory is due.
    bytes: u64,
}

impl State {
    fn number(&mut self, pack: PackId) -> u32 {
        let next = self.packs.len() as u32;
        let packs = &mut self.packs;
        *self.numbers.entry(pack).or_insert_with(|| {
            packs.push(pack);
            next
        })
    }

    fn insert(&mut self, prefix: u64, pack: u32, frame: u32, block: u16) {
        if prefix.trailing_zeros() < self.k {
            return;
        }
        let most = BASE_ENTRIES + BASE_ENTRIES * (self.bytes >> 20) / (1 << 20);
        if self.entries.len() as u64 >= most {
            self.k += 1;
            let k = self.k;
            self.entries.retain(|prefix, _| prefix.trailing_zeros() >= k);
            self.entries.shrink_to_fit();
        }
        self.entries.insert(prefix, u64::from(pack) << 32 | u64::from(frame) << 12 | u64::from(block));
    }

    fn insert_pack(&mut self, pack: &IndexedPack) {
        let number = self.number(pack.pack);
        let excluded = self.excluded.clone();
        // an entry of a damaged frame must not hide the one of the frame that has replaced it
        let fine = |frame: &&IndexedFrame| excluded.allows(FrameAt { pack: pack.pack, frame: frame.frame });
        for frame in pack.frames.iter().filter(fine) {
            for (block, prefix) in &frame.entries {
                self.insert(*prefix, number, frame.frame, *block);
            }
        }
    }
}

/// See the module.
pub(crate) struct Index {
    state: Mutex<State>,
    /// One refresh at a time.
    refreshing: tokio::sync::Mutex<()>,
}

impl Index {
    /// An index that knows nothing yet.
    pub fn new() -> Self {
        Self { state: Mutex::default(), refreshing: tokio::sync::Mutex::default() }
    }

    /// Where a block of this id may lie. Only a hint: the whole id must be compared.
    pub fn hint(&self, id: &BlockId) -> Option<BlockAt> {
        let state = lock(&self.state);
        let value = *state.entries.get(&prefix(id))?;
        let pack = *state.packs.get((value >> 32) as usize)?;
        let at = FrameAt { pack, frame: (value as u32) >> 12 };
        (state.present.contains(&pack) && state.excluded.allows(at))
            .then_some(BlockAt { at, block: (value & 0xfff) as u16 })
    }

    /// What nothing new may rest on, as of the last refresh.
    pub fn excluded(&self) -> Arc<Excluded> {
        lock(&self.state).excluded.clone()
    }

    /// How many low zero bits an id needs to have an entry.
    pub fn sparsity(&self) -> u32 {
        lock(&self.state).k
    }

    /// Adds a pack that this process has stored.
    pub fn add(&self, pack: &IndexedPack, size: u64) {
        let mut state = lock(&self.state);
        state.present.insert(pack.pack);
        state.bytes += size;
        state.insert_pack(pack);
    }

    /// Reads what is new in the bucket: packs, index objects, tombstones, marks of damage.
    pub async fn refresh(&self, shared: &Arc<Shared>) -> Result<()> {
        let _one = self.refreshing.lock().await;
        // index objects first: a pack that is listed by none of these but in the later listing of packs is merely loaded twice
        let objects = shared.bucket.list(INDEX).await?;
        let listed = shared.bucket.list(PACKS).await?;
        let tombs = shared.tombs().await?;
        let marks = self.new_marks(shared).await?;
        let sizes: Vec<(PackId, u32)> = listed
            .iter()
            .filter_map(|object| Some((PackId::of_key(&object.key)?, u32::try_from(object.size).ok()?)))
            .collect();
        shared.packs.note_sizes(sizes.iter().copied());
        let wanted: Vec<String> = {
            let mut state = lock(&self.state);
            state.present = sizes.iter().map(|(pack, _)| *pack).collect();
            state.bytes = listed.iter().map(|object| object.size).sum();
            let mut excluded = Excluded { packs: tombs, ..Excluded::default() };
            state.marks.extend(marks);
            for mark in state.marks.values() {
                excluded.packs.extend(mark.packs.iter().copied());
                excluded.frames.extend(mark.frames.iter().copied());
            }
            state.excluded = Arc::new(excluded);
            objects.into_iter().map(|object| object.key).filter(|key| !state.read.contains(key)).collect()
        };
        self.read_objects(shared, wanted).await?;
        self.read_trailers(shared).await
    }

    /// Damage marks that were not read before. One that cannot be read condemns its whole pack.
    async fn new_marks(&self, shared: &Arc<Shared>) -> Result<Vec<(String, Excluded)>> {
        let keys = shared.damage_keys().await?;
        let known: HashSet<String> = lock(&self.state).marks.keys().cloned().collect();
        let mut marks = Vec::new();
        for key in keys.into_iter().filter(|key| !known.contains(key)) {
            let Some(pack) = PackId::of_key(&key) else { continue };
            let mut excluded = Excluded::default();
            match read_mark(shared, &key).await {
                Ok(mark) if mark.whole => drop(excluded.packs.insert(pack)),
                Ok(mark) => excluded.frames.extend(mark.frames.iter().map(|frame| FrameAt { pack, frame: *frame })),
                Err(error) if error.kind() == Kind::Damaged => drop(excluded.packs.insert(pack)),
                Err(error) if error.kind() == Kind::NotFound => continue,
                Err(error) => return Err(error),
            }
            marks.push((key, excluded));
        }
        Ok(marks)
    }

    async fn read_objects(&self, shared: &Arc<Shared>, keys: Vec<String>) -> Result<()> {
        let fetches = keys.into_iter().map(|key| async move {
            match object::read(shared, &key).await {
                Ok(packs) => Ok((key, packs)),
                // a cache may be lost: the trailers of its packs are read instead
                Err(error) if matches!(error.kind(), Kind::Damaged | Kind::NotFound) => Ok((key, Vec::new())),
                Err(error) => Err(error),
            }
        });
        let mut fetched = stream::iter(fetches).buffer_unordered(IN_FLIGHT);
        while let Some((key, packs)) = fetched.try_next().await? {
            let mut state = lock(&self.state);
            for pack in packs.iter().filter(|pack| !state.numbers.contains_key(&pack.pack)).collect::<Vec<_>>() {
                if state.present.contains(&pack.pack) {
                    state.insert_pack(pack);
                }
            }
            state.read.insert(key);
        }
        Ok(())
    }

    /// Packs that no index object lists: what a crashed run has stored is found again here.
    async fn read_trailers(&self, shared: &Arc<Shared>) -> Result<()> {
        let unknown: Vec<PackId> = {
            let state = lock(&self.state);
            let fine = |pack: &&PackId| !state.numbers.contains_key(*pack) && !state.excluded.packs.contains(*pack);
            state.present.iter().filter(fine).copied().collect()
        };
        let loads = unknown.into_iter().map(|pack| async move {
            match IndexedPack::load(shared, pack).await {
                Ok(indexed) => Ok(Some(indexed)),
                // a torn or damaged pack holds nothing that may be relied on; verify reports it
                Err(error) if matches!(error.kind(), Kind::Damaged | Kind::NotFound) => Ok(None),
                Err(error) => Err(error),
            }
        });
        let mut loaded = stream::iter(loads).buffer_unordered(IN_FLIGHT);
        while let Some(pack) = loaded.try_next().await? {
            if let Some(pack) = pack {
                lock(&self.state).insert_pack(&pack);
            }
        }
        Ok(())
    }
}

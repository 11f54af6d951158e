//! What the disks of one point share while it is written.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use model::{DiskName, Result};

use crate::PackId;
use crate::index::{Excluded, IndexedPack, OBJECT_SPARSITY, write_object};
use crate::manifest::{DiskTable, Manifest};
use crate::pack::{BlockAt, BlockId};
use crate::shared::{Shared, lock};

/// Entries that wait for an index object, at most.
const ENTRIES_HELD: usize = 1 << 19;

#[derive(Default)]
struct Done {
    tables: BTreeMap<DiskName, DiskTable>,
    waiting: Vec<IndexedPack>,
    packs: Vec<PackId>,
    stored: u64,
}

/// See the module.
pub(crate) struct Run {
    /// The point that is written on.
    pub parent: Option<Arc<Manifest>>,
    /// Where nothing new may rest.
    pub excluded: Arc<Excluded>,
    /// Blocks of packs that are not stored yet: those that are, are in the index.
    unstored: Mutex<HashMap<BlockId, BlockAt>>,
    done: Mutex<Done>,
    /// Whether what it stores may be wanted by other runs of this process at once.
    shares: bool,
}

impl Run {
    /// A run that has written nothing.
    pub fn new(parent: Option<Arc<Manifest>>, excluded: Arc<Excluded>) -> Self {
        Self { parent, excluded, unstored: Mutex::default(), done: Mutex::default(), shares: true }
    }

    /// A run that only moves what is there: nobody looks for it before it is committed, and the index reads of it then.
    pub fn moving() -> Self {
        Self { shares: false, ..Self::new(None, Arc::default()) }
    }

    /// A block was placed.
    pub fn note(&self, id: BlockId, at: BlockAt) {
        if self.shares {
            lock(&self.unstored).insert(id, at);
        }
    }

    /// Where a block was placed by this run, if its pack is not stored yet.
    pub fn find(&self, id: &BlockId) -> Option<BlockAt> {
        lock(&self.unstored).get(id).copied()
    }

    /// A pack is durable: from now on any run may rest on it.
    pub fn stored(&self, shared: &Shared, pack: PackId, frames: &[Vec<BlockId>], size: u64) {
        let numbered = || (0_u32..).zip(frames.iter().map(Vec::as_slice));
        let sparsity = shared.index.sparsity();
        if self.shares {
            shared.index.add(&IndexedPack::new(pack, numbered(), sparsity), size);
            let mut unstored = lock(&self.unstored);
            for id in frames.iter().flatten() {
                if unstored.get(id).is_some_and(|at| at.at.pack == pack) {
                    unstored.remove(id);
                }
            }
        }
        let mut done = lock(&self.done);
        done.stored += size;
        done.packs.push(pack);
        done.waiting.push(IndexedPack::new(pack, numbered(), sparsity.max(OBJECT_SPARSITY)));
    }

    /// A disk is complete.
    pub fn finished(&self, table: DiskTable) {
        lock(&self.done).tables.insert(table.name.clone(), table);
    }

    /// Takes the table of a complete disk.
    pub fn take_table(&self, disk: &DiskName) -> Option<DiskTable> {
        lock(&self.done).tables.remove(disk)
    }

    /// Writes index objects for the packs that wait for one: for all of them, or only when they are many.
    pub async fn write_index(&self, shared: &Shared, all: bool) -> Result<()> {
        let waiting = {
            let mut done = lock(&self.done);
            let entries: usize = done.waiting.iter().map(IndexedPack::len).sum();
            if done.waiting.is_empty() || (!all && entries < ENTRIES_HELD) {
                return Ok(());
            }
            std::mem::take(&mut done.waiting)
        };
        let size = write_object(shared, &waiting).await?;
        lock(&self.done).stored += size;
        Ok(())
    }

    /// Bytes stored so far, and the packs.
    pub fn totals(&self) -> (u64, Vec<PackId>) {
        let done = lock(&self.done);
        (done.stored, done.packs.clone())
    }
}

//! An archive in memory that keeps whole disks: the reference for what the engine expects of a vault. Calls can be made to fail, or to
//! take effect and then hang, as when the process dies behind them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use disk::{DiskRead, DiskWrite, LEAF, Leaf, RootBuilder, Written, is_zero, leaf};
use engine::{Archive, ArchiveCheck, ArchiveWriter, CheckScope, Collected, Observer};
use model::{DiskName, Error, Extent, ExtentList, Kind, PointId, RestorePoint, Result, ServerName};
use vault::{CompactReport, Compaction};

use crate::house::Blade;

type Disks = BTreeMap<DiskName, Arc<Vec<u8>>>;

#[derive(Default)]
pub struct State {
    pub points: BTreeMap<PointId, (RestorePoint, Disks)>,
    /// Everything fails with this kind.
    pub down: Option<Kind>,
    /// Points whose bytes are damaged.
    pub damaged: BTreeSet<PointId>,
    pub forgotten: Vec<PointId>,
    pub compactions: Vec<Compaction>,
    pub received: u64,
}

#[derive(Clone)]
pub struct MemoryArchive {
    pub state: Arc<Mutex<State>>,
    pub blade: Arc<Blade>,
}

impl MemoryArchive {
    pub fn new(blade: Arc<Blade>) -> Self {
        Self { state: Arc::default(), blade }
    }

    fn up(&self) -> Result<()> {
        match self.state.lock().unwrap().down {
            Some(kind) => Err(Error::new(kind, "cannot reach the vault")),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Archive for MemoryArchive {
    async fn points(&self) -> Result<Vec<RestorePoint>> {
        self.up()?;
        Ok(self.state.lock().unwrap().points.values().map(|(point, _)| point.clone()).collect())
    }

    async fn point(&self, id: &PointId) -> Result<RestorePoint> {
        self.up()?;
        let state = self.state.lock().unwrap();
        state.points.get(id).map(|(p, _)| p.clone()).ok_or_else(|| Error::new(Kind::NotFound, format!("no point {id}")))
    }

    async fn begin(
        &self,
        _point: &PointId,
        _server: &ServerName,
        parent: Option<&PointId>,
    ) -> Result<Box<dyn ArchiveWriter>> {
        self.up()?;
        let base = parent.and_then(|p| self.state.lock().unwrap().points.get(p).map(|(_, disks)| disks.clone()));
        Ok(Box::new(Writer { archive: self.clone(), base: base.unwrap_or_default(), made: Arc::default() }))
    }

    async fn open_disk(&self, point: &PointId, disk: &DiskName) -> Result<Box<dyn DiskRead>> {
        self.up()?;
        let state = self.state.lock().unwrap();
        let found = state.points.get(point).and_then(|(_, disks)| disks.get(disk)).cloned();
        let data = found.ok_or_else(|| Error::new(Kind::NotFound, format!("no disk {disk} of point {point}")))?;
        Ok(Box::new(Reader { data, damaged: state.damaged.contains(point) }))
    }

    async fn open_changes(&self, point: &PointId, since: &PointId, disk: &DiskName) -> Result<Box<dyn DiskRead>> {
        self.up()?;
        let state = self.state.lock().unwrap();
        let of = |id: &PointId| state.points.get(id).and_then(|(_, disks)| disks.get(disk)).cloned();
        let (Some(data), Some(before)) = (of(point), of(since)) else {
            return Err(Error::new(Kind::NotFound, format!("no disk {disk} of points {point} and {since}")));
        };
        Ok(Box::new(Changes { now: Reader { data, damaged: state.damaged.contains(point) }, before }))
    }

    async fn verify(&self, scope: &CheckScope, _: &BTreeSet<String>, _: &dyn Observer) -> Result<ArchiveCheck> {
        self.up()?;
        let state = self.state.lock().unwrap();
        let wanted = |id: &PointId| match scope {
            CheckScope::Added(point) => point == id,
            CheckScope::Points(points) => points.contains(id),
            _ => true,
        };
        let damaged = state.damaged.iter().filter(|id| wanted(id)).map(|id| (id.clone(), "a bit flipped".to_owned()));
        let points = state.points.keys().filter(|id| wanted(id) && !state.damaged.contains(id)).cloned().collect();
        Ok(ArchiveCheck { bytes: 1, packs: Vec::new(), points, damaged: damaged.collect() })
    }

    async fn forget(&self, point: &PointId) -> Result<()> {
        self.up()?;
        self.blade.before().await;
        {
            let mut state = self.state.lock().unwrap();
            state.points.remove(point);
            state.damaged.remove(point);
            state.forgotten.push(point.clone());
        }
        self.blade.after().await;
        Ok(())
    }

    async fn collect(&self, _: Duration) -> Result<Collected> {
        self.up()?;
        Ok(Collected::default())
    }

    async fn compact(&self, compaction: &Compaction, _: bool, _: &dyn Observer) -> Result<CompactReport> {
        self.up()?;
        let mut state = self.state.lock().unwrap();
        state.compactions.push(compaction.clone());
        // the first of two batches leaves the other one
        let left_bytes = state.compactions.len() as u64 % 2;
        Ok(CompactReport { packs: 9, taken: 2, points: 1, left_bytes, ..CompactReport::default() })
    }
}

struct Writer {
    archive: MemoryArchive,
    base: Disks,
    made: Arc<Mutex<Disks>>,
}

#[async_trait]
impl ArchiveWriter for Writer {
    async fn disk(&self, disk: &DiskName, size: u64, incremental: bool) -> Result<Box<dyn DiskWrite>> {
        self.archive.up()?;
        let base = self.base.get(disk).filter(|base| base.len() as u64 == size).cloned();
        let data = match (&base, incremental) {
            (Some(base), true) => base.to_vec(),
            (None, true) => return Err(Error::new(Kind::Invalid, format!("no base of disk {disk}"))),
            (_, false) => vec![0; size as usize],
        };
        let (archive, made) = (self.archive.clone(), self.made.clone());
        Ok(Box::new(DiskWriter { archive, made, name: disk.clone(), base, data, had: Mutex::default(), received: 0 }))
    }

    async fn seal(self: Box<Self>, point: &RestorePoint) -> Result<u64> {
        self.archive.up()?;
        self.archive.blade.before().await;
        let disks = self.made.lock().unwrap().clone();
        for disk in &point.disks {
            assert_eq!(root(&disks[&disk.name]), disk.root, "the point's root is not that of its bytes");
        }
        let stored = disks.values().map(|d| d.len() as u64).sum();
        {
            let mut state = self.archive.state.lock().unwrap();
            if state.points.get(&point.id).is_some_and(|(there, _)| there != point) {
                return Err(Error::new(Kind::Invalid, "sealed with other content"));
            }
            state.points.insert(point.id.clone(), (point.clone(), disks));
        }
        self.archive.blade.after().await;
        Ok(stored)
    }
}

pub fn root(data: &[u8]) -> model::DiskRoot {
    let mut builder = RootBuilder::new(data.len() as u64);
    for (index, chunk) in data.chunks(LEAF as usize).enumerate() {
        builder.push(index as u64, leaf(chunk));
    }
    builder.finish()
}

struct DiskWriter {
    archive: MemoryArchive,
    made: Arc<Mutex<Disks>>,
    name: DiskName,
    base: Option<Arc<Vec<u8>>>,
    data: Vec<u8>,
    /// Leaves that `has_leaf` answered for: the base's bytes stay there.
    had: Mutex<BTreeSet<u64>>,
    received: u64,
}

#[async_trait]
impl DiskWrite for DiskWriter {
    fn size(&self) -> u64 {
        self.data.len() as u64
    }

    async fn write(&mut self, offset: u64, data: Bytes) -> Result<()> {
        self.archive.up()?;
        self.received += data.len() as u64;
        self.archive.state.lock().unwrap().received += data.len() as u64;
        self.data[offset as usize..offset as usize + data.len()].copy_from_slice(&data);
        Ok(())
    }

    async fn zero(&mut self, offset: u64, len: u64) -> Result<()> {
        self.data[offset as usize..(offset + len) as usize].fill(0);
        Ok(())
    }

    fn may_have_leaves(&self) -> bool {
        self.base.is_some()
    }

    fn has_leaf(&self, index: u64, wanted: &Leaf) -> bool {
        let Some(base) = &self.base else { return false };
        let start = (index * LEAF) as usize;
        let end = (start + LEAF as usize).min(base.len());
        let has = start < end && leaf(&base[start..end]) == *wanted;
        if has {
            self.had.lock().unwrap().insert(index);
        }
        has
    }

    async fn finish(mut self: Box<Self>) -> Result<Written> {
        if let Some(base) = &self.base {
            for index in self.had.lock().unwrap().iter() {
                let start = (index * LEAF) as usize;
                let end = (start + LEAF as usize).min(base.len());
                self.data[start..end].copy_from_slice(&base[start..end]);
            }
        }
        let written = Written {
            root: root(&self.data),
            received: self.received,
            fresh: self.received,
            stored: self.data.len() as u64,
        };
        self.made.lock().unwrap().insert(self.name.clone(), Arc::new(std::mem::take(&mut self.data)));
        Ok(written)
    }
}

struct Reader {
    data: Arc<Vec<u8>>,
    damaged: bool,
}

#[async_trait]
impl DiskRead for Reader {
    fn size(&self) -> u64 {
        self.data.len() as u64
    }

    async fn extents(&self, from: u64) -> Result<ExtentList> {
        let mut list = ExtentList::new();
        for (index, chunk) in self.data.chunks(LEAF as usize).enumerate() {
            let offset = index as u64 * LEAF;
            if offset >= from {
                let len = chunk.len() as u64;
                list.push(if is_zero(chunk) { Extent::zero(offset, len) } else { Extent::data(offset, len) });
            }
        }
        Ok(list)
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        if self.damaged {
            return Err(Error::new(Kind::Damaged, "cannot read a frame").because("its seal does not fit"));
        }
        Ok(Bytes::copy_from_slice(&self.data[offset as usize..offset as usize + len]))
    }

    fn describe(&self) -> String {
        "a disk of the memory archive".to_owned()
    }
}

/// What differs between two states of a disk.
struct Changes {
    now: Reader,
    before: Arc<Vec<u8>>,
}

#[async_trait]
impl DiskRead for Changes {
    fn size(&self) -> u64 {
        self.now.size()
    }

    async fn extents(&self, from: u64) -> Result<ExtentList> {
        let same = |extent: &&Extent| {
            let range = extent.offset as usize..extent.end() as usize;
            self.before.get(range.clone()) == Some(&self.now.data[range])
        };
        let leaves = self.now.data.chunks(LEAF as usize).enumerate();
        let leaves = leaves.map(|(index, chunk)| Extent::data(index as u64 * LEAF, chunk.len() as u64));
        Ok(leaves.filter(|extent| extent.offset >= from && !same(&extent)).collect())
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        self.now.read_at(offset, len).await
    }

    fn is_incremental(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        "changes of a disk of the memory archive".to_owned()
    }
}

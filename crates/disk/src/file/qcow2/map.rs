//! The two-level table of a qcow2 file: guest cluster -> place in the file.

use std::sync::{Arc, Mutex, PoisonError};

use model::Result;

use super::Storage;
use super::header::{Header, damaged};

const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
/// Memory for second-level tables.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

/// Where the bytes of a guest cluster are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cluster {
    /// In the backing file, or zero.
    Unallocated,
    Zero,
    /// At this offset of the file.
    Plain(u64),
    /// In `len` bytes at `host`, padding included.
    Compressed {
        host: u64,
        len: usize,
    },
}

pub(super) struct Map {
    version: u32,
    cluster_bits: u32,
    l1: Vec<u64>,
    /// Recently used tables, the newest last.
    cache: Mutex<Vec<(usize, Arc<[u64]>)>>,
}

fn decode(bytes: &[u8]) -> Vec<u64> {
    bytes.as_chunks::<8>().0.iter().map(|entry| u64::from_be_bytes(*entry)).collect()
}

impl Map {
    /// Reads the first table; its bounds were checked with the header.
    pub(super) fn load(storage: &dyn Storage, header: &Header) -> Result<Self> {
        let mut bytes = vec![0; header.l1_entries * 8];
        storage.read(header.l1_offset, &mut bytes)?;
        let l1 = decode(&bytes);
        Ok(Self { version: header.version, cluster_bits: header.cluster_bits, l1, cache: Mutex::default() })
    }

    pub(super) fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    fn entries(&self) -> u64 {
        self.cluster_size() / 8
    }

    /// The cluster, which must lie within the virtual size.
    pub(super) fn lookup(&self, storage: &dyn Storage, index: u64) -> Result<Cluster> {
        match self.table(storage, (index / self.entries()) as usize)? {
            Some(table) => self.decode_entry(table[(index % self.entries()) as usize]),
            None => Ok(Cluster::Unallocated),
        }
    }

    /// The cluster, and how many from it on are known to be alike without looking: all of a table that is not there.
    pub(super) fn lookup_run(&self, storage: &dyn Storage, index: u64) -> Result<(Cluster, u64)> {
        let inside = index % self.entries();
        match self.table(storage, (index / self.entries()) as usize)? {
            Some(table) => Ok((self.decode_entry(table[inside as usize])?, 1)),
            None => Ok((Cluster::Unallocated, self.entries() - inside)),
        }
    }

    fn table(&self, storage: &dyn Storage, l1_index: usize) -> Result<Option<Arc<[u64]>>> {
        let entry = *self.l1.get(l1_index).ok_or_else(|| damaged("a cluster lies behind the first table"))?;
        if entry & !(OFFSET | COPIED) != 0 {
            return Err(damaged(format!("entry {l1_index} of the first table has reserved bits")));
        }
        let host = entry & OFFSET;
        if host == 0 {
            return Ok(None);
        }
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = cache.iter().position(|(index, _)| *index == l1_index) {
            let found = cache[at].1.clone();
            if at + 1 != cache.len() {
                let entry = cache.remove(at);
                cache.push(entry);
            }
            return Ok(Some(found));
        }
        drop(cache);
        let size = self.cluster_size();
        if !host.is_multiple_of(size) || host.checked_add(size).is_none_or(|end| end > storage.len()) {
            return Err(damaged(format!("table {l1_index} does not lie in the file")));
        }
        let mut bytes = vec![0; size as usize];
        storage.read(host, &mut bytes)?;
        let table: Arc<[u64]> = decode(&bytes).into();
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= (CACHE_BYTES >> self.cluster_bits).clamp(2, 64) {
            cache.remove(0);
        }
        cache.push((l1_index, table.clone()));
        Ok(Some(table))
    }

    fn decode_entry(&self, entry: u64) -> Result<Cluster> {
        if entry & COMPRESSED != 0 {
            if entry & COPIED != 0 {
                return Err(damaged("a compressed cluster is marked as writable"));
            }
            let shift = 62 - (self.cluster_bits - 8);
            let host = entry & ((1 << shift) - 1);
            let sectors = (entry & (COMPRESSED - 1)) >> shift;
            let len = (sectors + 1) * 512 - host % 512;
            return Ok(Cluster::Compressed { host, len: len as usize });
        }
        // bit 0: reads as zero, whether it has a place or not; version 2 has no such bit
        let zero = entry & 1 != 0;
        if (zero && self.version < 3) || entry & !(OFFSET | COPIED | 1) != 0 {
            return Err(damaged("an entry of a table has reserved bits"));
        }
        let host = entry & OFFSET;
        if !host.is_multiple_of(self.cluster_size()) {
            return Err(damaged(format!("a cluster at {host} is not aligned")));
        }
        Ok(match (zero, host) {
            (true, _) => Cluster::Zero,
            (false, 0) => Cluster::Unallocated,
            (false, host) => Cluster::Plain(host),
        })
    }
}

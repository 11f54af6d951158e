//! Which block a snapshot has at which index, and who wrote it. A map is one file of fixed records; while a snapshot
//! is open, blocks are appended to it, and the last record of an index counts.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::Hash;
use super::blocks::Blocks;

/// One block of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) hash: Hash,
    /// The snapshot that wrote it: a block that was written again counts as changed, whatever it holds.
    pub(crate) writer: u64,
}

/// All blocks of a snapshot.
pub(crate) type Map = BTreeMap<u32, Block>;

const RECORD: usize = 44;

#[derive(Debug)]
struct Entry {
    map: Map,
    /// Open for appending.
    log: Option<File>,
}

/// The maps of a folder.
#[derive(Debug)]
pub(crate) struct Maps {
    folder: PathBuf,
    all: Mutex<HashMap<String, Arc<Mutex<Entry>>>>,
}

fn record(index: u32, block: &Block) -> [u8; RECORD] {
    let mut out = [0; RECORD];
    out[..4].copy_from_slice(&index.to_le_bytes());
    out[4..12].copy_from_slice(&block.writer.to_le_bytes());
    out[12..].copy_from_slice(&block.hash);
    out
}

fn parse(bytes: &[u8]) -> Map {
    let mut map = Map::new();
    // a record that a crash cut short was never acknowledged
    for record in bytes.chunks_exact(RECORD) {
        let (mut index, mut writer, mut hash) = ([0; 4], [0; 8], [0; 32]);
        index.copy_from_slice(&record[..4]);
        writer.copy_from_slice(&record[4..12]);
        hash.copy_from_slice(&record[12..]);
        map.insert(u32::from_le_bytes(index), Block { hash, writer: u64::from_le_bytes(writer) });
    }
    map
}

impl Maps {
    /// Reads all maps; those that the world does not know any more are deleted. Holds their blocks.
    pub(crate) fn open(folder: PathBuf, blocks: &Blocks, known: impl Fn(&str) -> bool) -> std::io::Result<Self> {
        std::fs::create_dir_all(&folder)?;
        let mut all = HashMap::new();
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            let id = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            if !known(&id) {
                std::fs::remove_file(&path)?;
                continue;
            }
            let map = parse(&std::fs::read(&path)?);
            map.values().for_each(|block| blocks.hold(&block.hash));
            write_whole(&path, &map)?;
            all.insert(id, Arc::new(Mutex::new(Entry { map, log: None })));
        }
        Ok(Self { folder, all: Mutex::new(all) })
    }

    /// Makes a snapshot's map. Its blocks are held for it already.
    pub(crate) fn create(&self, id: &str, map: Map) -> std::io::Result<()> {
        write_whole(&self.folder.join(id), &map)?;
        let entry = Arc::new(Mutex::new(Entry { map, log: None }));
        self.all.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), entry);
        Ok(())
    }

    fn entry(&self, id: &str) -> Option<Arc<Mutex<Entry>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// Adds a block, held already, and returns the one it takes the place of.
    pub(crate) fn append(&self, id: &str, index: u32, block: Block) -> std::io::Result<Option<Block>> {
        let entry = self.entry(id).ok_or_else(|| std::io::Error::other(format!("no map of {id}")))?;
        let mut entry = entry.lock().unwrap_or_else(PoisonError::into_inner);
        let mut log = match entry.log.take() {
            Some(log) => log,
            None => OpenOptions::new().append(true).open(self.folder.join(id))?,
        };
        log.write_all(&record(index, &block))?;
        entry.log = Some(log);
        Ok(entry.map.insert(index, block))
    }

    /// Looks at a map.
    pub(crate) fn with<T>(&self, id: &str, look: impl FnOnce(&Map) -> T) -> Option<T> {
        let entry = self.entry(id)?;
        let entry = entry.lock().unwrap_or_else(PoisonError::into_inner);
        Some(look(&entry.map))
    }

    /// A copy of a map, its blocks held once more.
    pub(crate) fn share(&self, id: &str, blocks: &Blocks) -> Option<Map> {
        self.with(id, |map| {
            map.values().for_each(|block| blocks.hold(&block.hash));
            map.clone()
        })
    }

    /// Deletes a map and lets go of its blocks.
    pub(crate) fn delete(&self, id: &str, blocks: &Blocks) {
        let entry = self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        let _ = std::fs::remove_file(self.folder.join(id));
        if let Some(entry) = entry {
            let entry = entry.lock().unwrap_or_else(PoisonError::into_inner);
            entry.map.values().for_each(|block| blocks.release(&block.hash));
        }
    }
}

fn write_whole(path: &Path, map: &Map) -> std::io::Result<()> {
    let mut bytes = Vec::with_capacity(map.len() * RECORD);
    for (index, block) in map {
        bytes.extend_from_slice(&record(*index, block));
    }
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, bytes)?;
    std::fs::rename(fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::BLOCK;

    #[test]
    fn maps_survive_and_blocks_go_with_the_last_map() {
        let folder = tempfile::tempdir().unwrap();
        let open = || {
            let blocks = Blocks::open(folder.path().join("blocks")).unwrap();
            let maps = Maps::open(folder.path().join("maps"), &blocks, |_| true).unwrap();
            blocks.sweep().unwrap();
            (blocks, maps)
        };
        let (blocks, maps) = open();
        maps.create("a", Map::new()).unwrap();
        let hash = crate::store::hash(&[7; BLOCK]);
        blocks.put(hash, &[7; BLOCK]).unwrap();
        assert_eq!(maps.append("a", 3, Block { hash, writer: 1 }).unwrap(), None);
        let shared = maps.share("a", &blocks).unwrap();
        maps.create("b", shared).unwrap();
        // an unfinished record, as a crash leaves it
        OpenOptions::new().append(true).open(folder.path().join("maps/b")).unwrap().write_all(&[1, 2, 3]).unwrap();
        blocks.put(crate::store::hash(&[9; BLOCK]), &[9; BLOCK]).unwrap();
        let (blocks, maps) = open();
        assert_eq!(blocks.count(), (1, 2), "what no map holds is gone");
        maps.delete("a", &blocks);
        assert_eq!(blocks.read(&hash).unwrap(), vec![7; BLOCK]);
        assert_eq!(maps.with("b", |map| map[&3]), Some(Block { hash, writer: 1 }));
        maps.delete("b", &blocks);
        assert!(blocks.read(&hash).is_err(), "the last map let go of it");
    }
}

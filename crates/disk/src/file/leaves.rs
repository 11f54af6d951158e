//! The leaves of a disk file, kept beside it as `<file>.leaves`: whoever builds on the disk gets its root from them, without reading it.
//!
//! The record proves itself: its page hashes give the disk's root, and each page of leaves has its hash. What it cannot prove is that the
//! file still holds those bytes, so it carries the file's length, inode and time of change, and is not used when they differ. It also
//! says which leaves the writer stored itself, and which ones the file system shares with the base: only the former need reading back.
//!
//! ```text
//! checksum 32 | magic 8 | size 8 | root 32 | file: length 8, inode 8, seconds 8, nanoseconds 8 | zero to 4096
//! page hashes, 32 bytes each | stored leaves, one bit each, 128 bytes a page | zero to a multiple of 4096
//! leaves, 32 KiB a page (a leaf of zeroes is 32 zero bytes, and costs nothing)
//! ```
//!
//! It gets its name after the disk was synced and before the disk gets its own: it never speaks of bytes that may be lost.

use std::fs::{File, Metadata};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use model::{DiskRoot, Error, Kind, Result, crash};

use crate::{LEAF, LEAVES_PER_PAGE, Leaf, PAGE, PageHash, page_hash, root_of_pages, zero_leaf};

const MAGIC: &[u8; 8] = b"rplleaf2";
const UNIT: u64 = 4096;
const LEAF_BYTES: u64 = 32;
const PAGE_BYTES: u64 = LEAVES_PER_PAGE * LEAF_BYTES;
const BITS_BYTES: u64 = LEAVES_PER_PAGE / 8;

/// Where the record of a disk file lies.
pub fn leaves_path(disk: &Path) -> PathBuf {
    let mut name = disk.as_os_str().to_owned();
    name.push(".leaves");
    PathBuf::from(name)
}

fn pages_of(size: u64) -> u64 {
    size.div_ceil(PAGE)
}

fn tables_len(size: u64) -> u64 {
    pages_of(size) * (LEAF_BYTES + BITS_BYTES)
}

/// Where the leaves begin.
fn leaves_at(size: u64) -> u64 {
    UNIT + tables_len(size).next_multiple_of(UNIT)
}

/// The head without its checksum.
fn head(size: u64, root: &DiskRoot, disk: &Metadata) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(size.to_le_bytes());
    bytes.extend(root.0);
    bytes.extend(disk.len().to_le_bytes());
    bytes.extend(disk.ino().to_le_bytes());
    bytes.extend(disk.mtime().to_le_bytes());
    bytes.extend(disk.mtime_nsec().to_le_bytes());
    bytes.resize((UNIT - LEAF_BYTES) as usize, 0);
    bytes
}

fn checksum(head: &[u8], tables: &[u8]) -> [u8; 32] {
    *blake3::Hasher::new().update(head).update(tables).finalize().as_bytes()
}

/// The record of a disk that was written.
pub struct Leaves {
    file: File,
    size: u64,
    pages: Vec<PageHash>,
    stored: Vec<u8>,
    /// The page that was asked for last: readers go forward.
    recent: Mutex<Option<(u64, Arc<[Leaf]>)>>,
}

impl Leaves {
    /// Opens the record of the disk at `path`, of which the root is known. `None` if there is none, or one that does not fit the root
    /// and the file as it is now: then the disk must be read.
    pub fn open(path: &Path, root: &DiskRoot) -> Option<Self> {
        let disk = std::fs::metadata(path).ok()?;
        let file = File::open(leaves_path(path)).ok()?;
        let mut begin = vec![0; UNIT as usize];
        file.read_exact_at(&mut begin, 0).ok()?;
        let (sum, given) = begin.split_at(LEAF_BYTES as usize);
        let size = u64::from_le_bytes(given.get(8..16)?.try_into().ok()?);
        if size == 0 || size > i64::MAX as u64 || given != head(size, root, &disk) {
            return None;
        }
        // before anything is allocated by it, the size must be the one that made this file
        if file.metadata().ok()?.len() != leaves_at(size) + pages_of(size) * PAGE_BYTES {
            return None;
        }
        let mut tables = vec![0; tables_len(size) as usize];
        file.read_exact_at(&mut tables, UNIT).ok()?;
        if sum != checksum(given, &tables) {
            return None;
        }
        let stored = tables.split_off((pages_of(size) * LEAF_BYTES) as usize);
        let pages = tables.as_chunks::<32>().0.to_vec();
        let proved = root_of_pages(size, pages.iter().copied()) == *root;
        proved.then(|| Self { file, size, pages, stored, recent: Mutex::default() })
    }

    /// Size of the disk.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// The leaves under page `index`, in order.
    pub(super) fn page(&self, index: u64) -> Result<Arc<[Leaf]>> {
        if let Some((at, leaves)) = &*self.recent.lock().unwrap_or_else(PoisonError::into_inner)
            && *at == index
        {
            return Ok(leaves.clone());
        }
        let what = || format!("cannot read page {index} of a record of leaves");
        let wanted = *self.pages.get(index as usize).ok_or_else(|| Error::new(Kind::Invalid, what()))?;
        let count = (self.size.div_ceil(LEAF) - index * LEAVES_PER_PAGE).min(LEAVES_PER_PAGE);
        let mut leaves: Vec<Leaf> = vec![[0; 32]; count as usize];
        let at = leaves_at(self.size) + index * PAGE_BYTES;
        self.file.read_exact_at(leaves.as_flattened_mut(), at).map_err(|error| Error::io(what(), error))?;
        leaves.iter_mut().filter(|leaf| **leaf == [0; 32]).for_each(|leaf| *leaf = zero_leaf());
        if page_hash(&leaves) != wanted {
            return Err(Error::new(Kind::Damaged, what()).because("its hash does not fit"));
        }
        let leaves: Arc<[Leaf]> = leaves.into();
        *self.recent.lock().unwrap_or_else(PoisonError::into_inner) = Some((index, leaves.clone()));
        Ok(leaves)
    }

    /// One leaf.
    pub(super) fn leaf(&self, index: u64) -> Result<Leaf> {
        let page = self.page(index / LEAVES_PER_PAGE)?;
        let leaf = page.get((index % LEAVES_PER_PAGE) as usize).copied();
        leaf.ok_or_else(|| Error::new(Kind::Invalid, format!("a disk of {} bytes has no leaf {index}", self.size)))
    }

    /// Whether the writer stored the leaf's bytes itself.
    pub(super) fn is_stored(&self, index: u64) -> bool {
        self.stored.get((index / 8) as usize).is_some_and(|bits| bits & (1 << (index % 8)) != 0)
    }
}

/// A page that is complete: bytes, and where they go in the record's file.
pub(super) type FullPage = (Vec<u8>, u64);

/// A record that is being made. Dropped before it is published, it leaves nothing.
pub(super) struct Recorder {
    file: Arc<File>,
    path: PathBuf,
    partial: Option<PathBuf>,
    size: u64,
    page: u64,
    leaves: Vec<Leaf>,
    stored: Vec<u8>,
}

impl Recorder {
    /// Begins the record of a disk of `size` bytes at `path`.
    pub(super) fn create(path: &Path, size: u64) -> Result<Self> {
        let path = leaves_path(path);
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let wrong = |error| Error::io(format!("cannot write {}", partial.display()), error);
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&partial).map_err(wrong)?;
        let stored = vec![0; (pages_of(size) * BITS_BYTES) as usize];
        let leaves = vec![[0; 32]; LEAVES_PER_PAGE as usize];
        Ok(Self { file: Arc::new(file), path, partial: Some(partial), size, page: 0, leaves, stored })
    }

    pub(super) fn file(&self) -> Arc<File> {
        self.file.clone()
    }

    /// Takes the next leaf, in ascending order; skipped ones are zero. Returns the page that it completes.
    pub(super) fn push(&mut self, index: u64, leaf: Leaf, stored: bool) -> Option<FullPage> {
        let full = if index / LEAVES_PER_PAGE == self.page { None } else { self.turn(index / LEAVES_PER_PAGE) };
        self.leaves[(index % LEAVES_PER_PAGE) as usize] = if leaf == zero_leaf() { [0; 32] } else { leaf };
        if stored {
            self.stored[(index / 8) as usize] |= 1 << (index % 8);
        }
        full
    }

    fn turn(&mut self, page: u64) -> Option<FullPage> {
        let at = leaves_at(self.size) + self.page * PAGE_BYTES;
        self.page = page;
        // a page without leaves stays a hole
        let full = self.leaves.iter().any(|leaf| *leaf != [0; 32]).then(|| (self.leaves.as_flattened().to_vec(), at));
        self.leaves.fill([0; 32]);
        full
    }

    /// Finishes the record of a disk whose file is synced, and gives it its name. The folder is not synced: the disk's own name follows.
    pub(super) fn publish(mut self, disk: &File, root: &DiskRoot, pages: &[PageHash]) -> Result<()> {
        let Some(partial) = self.partial.clone() else { return Ok(()) };
        let last = self.turn(0);
        let mut tables = pages.as_flattened().to_vec();
        tables.extend(&self.stored);
        let write = || {
            if let Some((bytes, at)) = last {
                self.file.write_all_at(&bytes, at)?;
            }
            self.file.set_len(leaves_at(self.size) + pages_of(self.size) * PAGE_BYTES)?;
            self.file.write_all_at(&tables, UNIT)?;
            let head = head(self.size, root, &disk.metadata()?);
            self.file.write_all_at(&checksum(&head, &tables), 0)?;
            self.file.write_all_at(&head, LEAF_BYTES)?;
            self.file.sync_all()?;
            crash::point("disk.leaves.before");
            std::fs::rename(&partial, &self.path)
        };
        write().map_err(|error| Error::io(format!("cannot write {}", self.path.display()), error))?;
        crash::point("disk.leaves.after");
        self.partial = None;
        Ok(())
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if let Some(partial) = &self.partial {
            // what cannot be removed is overwritten by the next writer of that name
            let _ = std::fs::remove_file(partial);
        }
    }
}

#[cfg(test)]
mod tests;

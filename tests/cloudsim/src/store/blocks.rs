//! Blocks by content, counted: the last map that lets go of a block deletes it. Zeroes take no file.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use super::{BLOCK, Hash, PAGE, hash, is_zero};

static ZERO: LazyLock<Hash> = LazyLock::new(|| hash(&vec![0; BLOCK]));

/// The name of a block of zeroes.
pub(crate) fn zero() -> Hash {
    *ZERO
}

/// The blocks of a folder.
#[derive(Debug)]
pub(crate) struct Blocks {
    folder: PathBuf,
    held: Mutex<HashMap<Hash, u64>>,
}

impl Blocks {
    pub(crate) fn open(folder: PathBuf) -> std::io::Result<Self> {
        for first in 0..=255_u8 {
            std::fs::create_dir_all(folder.join(hex::encode([first])))?;
        }
        Ok(Self { folder, held: Mutex::new(HashMap::new()) })
    }

    fn path(&self, name: &Hash) -> PathBuf {
        let text = hex::encode(name);
        self.folder.join(&text[..2]).join(&text[2..])
    }

    /// Holds a block that is there once more.
    pub(crate) fn hold(&self, name: &Hash) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner).entry(*name).or_default() += 1;
    }

    /// Stores a block whose hash the caller has computed, held once for the caller.
    pub(crate) fn put(&self, name: Hash, bytes: &[u8]) -> std::io::Result<()> {
        // held before it is looked for: whoever lets go of it meanwhile does not delete it
        self.hold(&name);
        let path = self.path(&name);
        if name == zero() || path.exists() {
            return Ok(());
        }
        let fresh = path.with_extension(format!("{:x}", rand::random::<u64>()));
        write_sparse(&fresh, bytes)?;
        std::fs::rename(fresh, path)
    }

    /// A block's bytes.
    pub(crate) fn read(&self, name: &Hash) -> std::io::Result<Vec<u8>> {
        if *name == zero() {
            return Ok(vec![0; BLOCK]);
        }
        let mut bytes = std::fs::read(self.path(name))?;
        bytes.resize(BLOCK, 0);
        Ok(bytes)
    }

    /// Lets go of a block once.
    pub(crate) fn release(&self, name: &Hash) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(count) = held.get_mut(name) else { return };
        *count -= 1;
        if *count == 0 {
            held.remove(name);
            // one that is absent is what we want; the lock keeps a put of the same block waiting
            let _ = std::fs::remove_file(self.path(name));
        }
    }

    /// Deletes what no map holds: a crash between a block and its map leaves such. Only before anything is served.
    pub(crate) fn sweep(&self) -> std::io::Result<()> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        for first in 0..=255_u8 {
            let start = hex::encode([first]);
            for entry in std::fs::read_dir(self.folder.join(&start))? {
                let path = entry?.path();
                let rest = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                let mut name = [0; 32];
                let known = hex::decode_to_slice(format!("{start}{rest}"), &mut name).is_ok();
                if !known || !held.contains_key(&name) {
                    std::fs::remove_file(path)?;
                }
            }
        }
        Ok(())
    }

    /// How many blocks are held, and how often all together.
    pub(crate) fn count(&self) -> (usize, u64) {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        (held.len(), held.values().sum())
    }
}

/// Leaves holes where pages are zero.
fn write_sparse(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    if bytes.len() < PAGE {
        return file.write_all(bytes);
    }
    for (number, page) in bytes.chunks(PAGE).enumerate() {
        if !is_zero(page) {
            file.write_all_at(page, (number * PAGE) as u64)?;
        }
    }
    file.set_len(bytes.len() as u64)
}

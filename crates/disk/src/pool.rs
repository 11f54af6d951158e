//! Buffers for what is read, used again and again: a fresh megabyte costs the kernel 256 page faults, a third of what
//! reading it from the page cache costs. Each begins at a page, so that it can be written to a disk without a copy.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use crate::LEAF;
use crate::transfer::CHUNK;

/// What a buffer's address is a multiple of: the largest sector that disks have.
pub const ALIGN: usize = 4096;

/// Buffers of one size that are free.
struct Shelf {
    len: usize,
    /// More than this many are given back to the system.
    most: usize,
    free: Mutex<Vec<Vec<u8>>>,
}

static LEAVES: Shelf = Shelf { len: LEAF as usize, most: 128, free: Mutex::new(Vec::new()) };
static CHUNKS: Shelf = Shelf { len: CHUNK as usize, most: 40, free: Mutex::new(Vec::new()) };

/// A buffer of `len` bytes with arbitrary content. When [`Buffer::freeze`] has made it `Bytes`, the last clone of
/// those gives it back.
pub struct Buffer {
    bytes: Vec<u8>,
    /// Where it begins in `bytes`: at a multiple of [`ALIGN`].
    start: usize,
    len: usize,
    shelf: Option<&'static Shelf>,
}

impl Buffer {
    /// Takes a free buffer, or makes one. Its bytes are whatever they were last used for.
    pub fn take(len: usize) -> Self {
        // a small read must not hold a large buffer: memory in flight is counted by what was asked
        let shelf = match len {
            len if len <= LEAVES.len => Some(&LEAVES),
            len if len > CHUNKS.len / 2 && len <= CHUNKS.len => Some(&CHUNKS),
            _ => None,
        };
        let reused = shelf.and_then(|shelf| shelf.free.lock().unwrap_or_else(PoisonError::into_inner).pop());
        let bytes = reused.unwrap_or_else(|| vec![0; shelf.map_or(len, |shelf| shelf.len) + ALIGN - 1]);
        let start = bytes.as_ptr().align_offset(ALIGN).min(ALIGN - 1);
        Self { bytes, start, len, shelf }
    }

    /// Its bytes, to be shared.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(shelf) = self.shelf {
            let mut free = shelf.free.lock().unwrap_or_else(PoisonError::into_inner);
            if free.len() < shelf.most {
                free.push(std::mem::take(&mut self.bytes));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_has_the_length_asked_and_is_not_shared() {
        for len in [0, 512, LEAF as usize, LEAF as usize + 1, CHUNK as usize - 512, CHUNK as usize, CHUNK as usize + 1]
        {
            let mut one = Buffer::take(len);
            one.as_mut().fill(1);
            let one = one.freeze();
            let mut two = Buffer::take(len);
            two.as_mut().fill(2);
            assert!(one.len() == len && two.as_ref().len() == len && one.iter().all(|b| *b == 1));
            assert!(one.as_ptr().align_offset(ALIGN) == 0 && two.as_ref().as_ptr().align_offset(ALIGN) == 0);
        }
    }
}

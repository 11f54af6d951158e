//! A part of a disk for synchronous parsers: cached, and bounded in what may be read through it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use model::Error;
use tokio::runtime::Handle;

use crate::{DiskRead, LEAF};

/// Leaves that are kept: 32 MiB.
const KEPT: usize = 512;
/// The most that is read from one disk. Real ones need some tens of MiB, most of it kernels' initramfs.
const BUDGET: u64 = 1 << 30;

struct Shared {
    disk: Arc<dyn DiskRead>,
    handle: Handle,
    kept: RefCell<HashMap<u64, Bytes>>,
    left: Cell<u64>,
    trouble: RefCell<Option<Error>>,
}

/// A part of a disk.
#[derive(Clone)]
pub(super) struct Window {
    shared: Rc<Shared>,
    offset: u64,
    len: u64,
    at: u64,
}

impl Window {
    pub(super) fn new(disk: Arc<dyn DiskRead>, handle: Handle) -> Self {
        let len = disk.size();
        let shared =
            Shared { disk, handle, kept: RefCell::default(), left: Cell::new(BUDGET), trouble: RefCell::default() };
        Self { shared: Rc::new(shared), offset: 0, len, at: 0 }
    }

    /// A part of this part, as much of it as there is.
    pub(super) fn part(&self, offset: u64, len: u64) -> Self {
        let offset = offset.min(self.len);
        Self { shared: self.shared.clone(), offset: self.offset + offset, len: len.min(self.len - offset), at: 0 }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The first trouble that the disk itself made.
    pub(super) fn trouble(&self) -> Option<Error> {
        self.shared.trouble.borrow_mut().take()
    }

    /// So many bytes from `at`, if there are that many.
    pub(super) fn bytes(&self, at: u64, len: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.fill(at, &mut bytes).ok()?;
        Some(bytes)
    }

    /// Fills `buffer` with the bytes at `at`.
    pub(super) fn fill(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = at.checked_add(buffer.len() as u64).filter(|end| *end <= self.len);
        if end.is_none() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (mut done, start) = (0, self.offset + at);
        while done < buffer.len() {
            let place = start + done as u64;
            let leaf = self.leaf(place / LEAF)?;
            let inside = (place % LEAF) as usize;
            let part = leaf.get(inside..).unwrap_or_default();
            let count = part.len().min(buffer.len() - done);
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            buffer[done..done + count].copy_from_slice(&part[..count]);
            done += count;
        }
        Ok(())
    }

    fn leaf(&self, index: u64) -> io::Result<Bytes> {
        if let Some(known) = self.shared.kept.borrow().get(&index) {
            return Ok(known.clone());
        }
        let Some(left) = self.shared.left.get().checked_sub(LEAF) else {
            return Err(io::Error::other("too much would have to be read"));
        };
        self.shared.left.set(left);
        let (disk, at) = (&self.shared.disk, index * LEAF);
        let len = LEAF.min(disk.size().saturating_sub(at)) as usize;
        let read = self.shared.handle.block_on(disk.read_at(at, len));
        let bytes = read.map_err(|error| {
            let told = io::Error::other(error.chain());
            self.shared.trouble.borrow_mut().get_or_insert(error);
            told
        })?;
        let mut kept = self.shared.kept.borrow_mut();
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(index, bytes.clone());
        Ok(bytes)
    }
}

impl io::Read for Window {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = (self.len.saturating_sub(self.at)).min(buffer.len() as u64) as usize;
        self.fill(self.at, &mut buffer[..count])?;
        self.at += count as u64;
        Ok(count)
    }
}

impl io::Seek for Window {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        let at = match to {
            io::SeekFrom::Start(at) => Some(at),
            io::SeekFrom::Current(by) => self.at.checked_add_signed(by),
            io::SeekFrom::End(by) => self.len.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// Nothing is ever written; a library that could wants to be able to.
impl io::Write for Window {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ext4_view::Ext4Read for Window {
    fn read(&mut self, at: u64, buffer: &mut [u8]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.fill(at, buffer)?)
    }
}

//! An NBD export as a [`DiskRead`]: everything, or what a dirty bitmap lists.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use disk::DiskRead;
use futures::future::try_join_all;
use model::{Error, Extent, ExtentList, Kind, Result};
use tokio::sync::Mutex;

use super::{Connection, Status};

const ALLOCATION: &str = "base:allocation";
/// `NBD_STATE_ZERO` of `base:allocation`.
const ZERO: u32 = 2;
/// `NBD_STATE_DIRTY` of `qemu:dirty-bitmap`.
const DIRTY: u32 = 1;
/// How much one block status request covers.
const SPAN: u64 = 1 << 30;
/// Extents of one page.
const PAGE: usize = 4096;

/// A disk behind an NBD export. Reconnects by itself when the connection was lost; an export that is gone for good
/// is [`Kind::Damaged`].
#[derive(Debug)]
pub struct NbdDisk {
    socket: PathBuf,
    export: String,
    /// Full name of the dirty bitmap's context, for incremental reading.
    bitmap: Option<String>,
    size: u64,
    about: String,
    link: Mutex<Option<Arc<Connection>>>,
}

impl NbdDisk {
    /// Opens an export; with `bitmap`, only what that dirty bitmap lists. `about` describes it in messages.
    pub async fn open(socket: PathBuf, export: &str, bitmap: Option<&str>, about: String) -> Result<Self> {
        let bitmap = bitmap.map(|name| format!("qemu:dirty-bitmap:{name}"));
        let mut disk = Self { socket, export: export.to_owned(), bitmap, size: 0, about, link: Mutex::new(None) };
        let connection = disk.connect().await?;
        disk.size = connection.size();
        *disk.link.get_mut() = Some(Arc::new(connection));
        Ok(disk)
    }

    async fn connect(&self) -> Result<Connection> {
        let mut contexts = vec![ALLOCATION.to_owned()];
        contexts.extend(self.bitmap.clone());
        let connection = Connection::open(&self.socket, &self.export, &contexts).await.map_err(|error| {
            let gone = error.kind() == Kind::NotFound;
            if gone { Error::new(Kind::Damaged, self.cannot("open")).because(error) } else { error }
        })?;
        if let Some(bitmap) = self.bitmap.as_deref().filter(|bitmap| connection.context(bitmap).is_none()) {
            return Err(Error::new(Kind::Damaged, self.cannot("open")).because(format!("it does not offer {bitmap}")));
        }
        Ok(connection)
    }

    async fn link(&self) -> Result<Arc<Connection>> {
        let mut link = self.link.lock().await;
        if let Some(connection) = link.as_ref().filter(|connection| !connection.is_over()) {
            return Ok(connection.clone());
        }
        let connection = Arc::new(self.connect().await?);
        if connection.size() != self.size {
            return Err(Error::new(Kind::Damaged, self.cannot("open")).because("its size has changed"));
        }
        *link = Some(connection.clone());
        Ok(connection)
    }

    fn cannot(&self, what: &str) -> String {
        format!("cannot {what} {}", self.about)
    }

    fn explain(&self, error: Error) -> Error {
        let damaged = error.kind() == Kind::Damaged;
        let error = error.within(self.cannot("read"));
        if damaged && error.advice().is_none() {
            return error.hint(
                "the guest overwrote more than the scratch space holds, or its disk has errors: \
                 give `scratch` more room and run again",
            );
        }
        error
    }

    /// One block status answer as extents; tells how far it reaches.
    fn page(&self, connection: &Connection, at: u64, status: &Status, out: &mut Vec<Extent>) -> Result<u64> {
        let runs = |name: &str| {
            let id = connection.context(name)?;
            status.iter().find(|(context, _)| *context == id).map(|(_, runs)| runs.as_slice())
        };
        let bare = || Error::new(Kind::Invalid, self.cannot("read")).because("a block status answer lacks a context");
        let whole = [(u32::try_from(SPAN.min(self.size - at)).unwrap_or(u32::MAX), 0)];
        let allocation = match connection.context(ALLOCATION) {
            Some(_) => runs(ALLOCATION).ok_or_else(bare)?,
            None => &whole, // a server without it: everything is data
        };
        let dirty = self.bitmap.as_deref().map(|name| runs(name).ok_or_else(bare)).transpose()?;
        let (mut allocation, mut dirty) = (Runs::new(allocation), dirty.map(Runs::new));
        let mut end = at;
        while end < self.size {
            let Some((left, kind)) = allocation.current() else { break };
            let (len, changed) = match &mut dirty {
                None => (left, true),
                Some(dirty) => match dirty.current() {
                    Some((dirty_left, flags)) => (left.min(dirty_left), flags & DIRTY != 0),
                    None => break,
                },
            };
            let len = len.min(self.size - end);
            if changed {
                out.push(if kind & ZERO != 0 { Extent::zero(end, len) } else { Extent::data(end, len) });
            }
            allocation.take(len);
            if let Some(dirty) = &mut dirty {
                dirty.take(len);
            }
            end += len;
        }
        if end == at || out.iter().any(|extent| extent.len % 512 != 0) {
            let odd = "a block status answer does not go forward in sectors";
            return Err(Error::new(Kind::Invalid, self.cannot("read")).because(odd));
        }
        Ok(end)
    }
}

/// A cursor over runs of (length, flags).
struct Runs<'a> {
    rest: std::slice::Iter<'a, (u32, u32)>,
    now: (u64, u32),
}

impl<'a> Runs<'a> {
    fn new(runs: &'a [(u32, u32)]) -> Self {
        Self { rest: runs.iter(), now: (0, 0) }
    }

    fn current(&mut self) -> Option<(u64, u32)> {
        while self.now.0 == 0 {
            let (len, flags) = self.rest.next()?;
            self.now = (u64::from(*len), *flags);
        }
        Some(self.now)
    }

    fn take(&mut self, len: u64) {
        self.now.0 -= len.min(self.now.0);
    }
}

#[async_trait]
impl DiskRead for NbdDisk {
    fn size(&self) -> u64 {
        self.size
    }

    async fn extents(&self, from: u64) -> Result<ExtentList> {
        let mut list = ExtentList::new();
        let mut at = from;
        while at < self.size && list.as_slice().len() < PAGE {
            let connection = self.link().await.map_err(|error| self.explain(error))?;
            let len = SPAN.min(self.size - at) as u32;
            let status = connection.status(at, len).await.map_err(|error| self.explain(error))?;
            let mut part = Vec::new();
            at = self.page(&connection, at, &status, &mut part)?;
            for extent in part {
                if list.as_slice().len() >= PAGE {
                    return Ok(list); // the caller goes on behind the last one
                }
                list.push(extent);
            }
        }
        Ok(list)
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let connection = self.link().await.map_err(|error| self.explain(error))?;
        let most = connection.payload();
        if len <= most {
            return connection.read(offset, len).await.map_err(|error| self.explain(error));
        }
        let starts = (0..len).step_by(most);
        let parts = starts.map(|start| connection.read(offset + start as u64, most.min(len - start)));
        let parts = try_join_all(parts).await.map_err(|error| self.explain(error))?;
        let mut whole = BytesMut::with_capacity(len);
        for part in parts {
            whole.extend_from_slice(&part);
        }
        Ok(whole.freeze())
    }

    fn is_incremental(&self) -> bool {
        self.bitmap.is_some()
    }

    fn lists_holes(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        self.about.clone()
    }
}

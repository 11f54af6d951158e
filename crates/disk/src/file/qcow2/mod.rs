//! Reading qcow2, versions 2 and 3: zero clusters, clusters compressed with deflate or zstd, backing files if they
//! are allowed.
//!
//! Images are hostile input: all arithmetic is checked, no table is allocated before its size was held against a
//! bound and against the file's length, nothing that the image names is opened unless the caller said so. What is
//! wrong is [`model::Kind::Damaged`], what is not supported is [`model::Kind::Invalid`].

mod header;
mod inflate;
mod map;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use model::{Error, Extent, ExtentList, Kind, Result};

pub(super) use self::header::MAGIC;
use self::header::damaged;
use self::header::{Compression, Header};
use self::inflate::Inflater;
use self::map::{Cluster, Map};
use super::blocking::{Blocking, PAGE_OF_EXTENTS};
use crate::PlainRange;

/// Clusters that one page of extents looks at, at most: bounds the time of one call.
const CLUSTERS_PER_PAGE: u64 = 1 << 20;

/// The bytes of an image file; in fuzz tests, a vector.
pub(super) trait Storage: Send + Sync {
    fn len(&self) -> u64;
    /// Fills the buffer; the caller has checked the range.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()>;
    /// The file, if it is one.
    fn file(&self) -> Option<Arc<File>> {
        None
    }
}

/// A file of the length that it had when it was opened.
pub(super) struct FileStorage {
    file: Arc<File>,
    len: u64,
}

impl FileStorage {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let wrong = |e: std::io::Error| Error::io(format!("cannot open disk {}", path.display()), e);
        let file = Arc::new(File::open(path).map_err(wrong)?);
        let len = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0)).map_err(|e| wrong(e.into()))?;
        Ok(Self { file, len })
    }
}

impl Storage for FileStorage {
    fn len(&self) -> u64 {
        self.len
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(buffer, offset).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => damaged("the file became shorter while it was read"),
            _ => Error::io("cannot read a qcow2 file", error),
        })
    }

    fn file(&self) -> Option<Arc<File>> {
        Some(self.file.clone())
    }
}

/// A file of this length that is not read.
struct Unread(u64);

impl Storage for Unread {
    fn len(&self) -> u64 {
        self.0
    }

    fn read(&self, offset: u64, _buffer: &mut [u8]) -> Result<()> {
        Err(Error::new(Kind::NotYetVisible, format!("cannot look up what lies at {offset}")))
    }
}

/// Opens a backing file, given its name and its format as the image states them.
type OpenBacking<'a> = dyn Fn(&str, Option<&str>) -> Result<Box<dyn Blocking>> + 'a;

/// A qcow2 disk that is read.
pub(super) struct Qcow2Disk {
    storage: Box<dyn Storage>,
    map: Map,
    size: u64,
    compression: Compression,
    backing: Option<Box<dyn Blocking>>,
    name: String,
}

impl Qcow2Disk {
    /// Opens an image. `open_backing` is called with the name and the format of its backing file, if it has one.
    pub(super) fn open(storage: Box<dyn Storage>, name: String, open_backing: &OpenBacking<'_>) -> Result<Self> {
        let open = || {
            let header = Header::parse(storage.as_ref())?;
            let backing = match &header.backing {
                Some((file, format)) => Some(open_backing(file, format.as_deref())?),
                None => None,
            };
            let map = Map::load(storage.as_ref(), &header)?;
            Ok((header, map, backing))
        };
        let (header, map, backing) = open().map_err(|e: Error| e.within(format!("cannot open {name}")))?;
        Ok(Self { storage, map, size: header.size, compression: header.compression, backing, name })
    }

    /// Where the range lies in the file, if plainly and in one piece.
    fn plain_place(&self, offset: u64, len: u64) -> Option<u64> {
        self.place_by(self.storage.as_ref(), offset, len)
    }

    /// The same as far as it is known without reading: by the tables that were read before.
    pub(super) fn known_place(&self, offset: u64, len: u64) -> Option<u64> {
        self.place_by(&Unread(self.storage.len()), offset, len)
    }

    fn place_by(&self, tables: &dyn Storage, offset: u64, len: u64) -> Option<u64> {
        let inside = offset % self.cluster_size();
        // what cannot be looked up has no plain place: reading it tells why
        let cluster = self.map.lookup(tables, offset / self.cluster_size()).ok()?;
        let Cluster::Plain(host) = cluster else { return None };
        let place = host + inside;
        let whole = self.plain_len(tables, offset, place, len).ok()? == len;
        place.checked_add(len).filter(|end| whole && *end <= self.storage.len())?;
        Some(place)
    }

    fn cluster_size(&self) -> u64 {
        self.map.cluster_size()
    }

    fn is_data(&self, cluster: Cluster, offset: u64) -> bool {
        match cluster {
            Cluster::Unallocated => self.backing.as_ref().is_some_and(|backing| offset < backing.size()),
            Cluster::Zero => false,
            Cluster::Plain(_) | Cluster::Compressed { .. } => true,
        }
    }

    fn list(&self, from: u64) -> Result<ExtentList> {
        let size = self.cluster_size();
        let mut list = ExtentList::new();
        let (mut index, mut looked) = (from / size, 0);
        while index * size < self.size && list.as_slice().len() < PAGE_OF_EXTENTS && looked < CLUSTERS_PER_PAGE {
            let (cluster, same) = self.map.lookup_run(self.storage.as_ref(), index)?;
            let (start, end) = ((index * size).max(from), ((index + same) * size).min(self.size));
            let data = self.is_data(cluster, start);
            list.push(if data { Extent::data(start, end - start) } else { Extent::zero(start, end - start) });
            index += same;
            looked += 1;
        }
        Ok(list)
    }

    /// Fills `buffer` with guest bytes; neighbours in the file are read at once.
    fn fill(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let size = self.cluster_size();
        let (mut done, mut inflater) = (0, None);
        while done < buffer.len() {
            let at = offset + done as u64;
            let inside = at % size;
            let cluster = self.map.lookup(self.storage.as_ref(), at / size)?;
            let left = (buffer.len() - done) as u64;
            let len = match cluster {
                Cluster::Plain(host) => self.plain_len(self.storage.as_ref(), at, host + inside, left)?,
                _ => (size - inside).min(left),
            };
            let part = &mut buffer[done..done + len as usize];
            match cluster {
                Cluster::Zero => part.fill(0),
                Cluster::Unallocated => self.fill_from_backing(at, part)?,
                Cluster::Plain(host) => self.fill_plain(host + inside, part)?,
                Cluster::Compressed { host, len } => {
                    let inflater = inflater.get_or_insert_with(|| Inflater::new(self.compression, size as usize));
                    let cluster = inflater.inflate(self.storage.as_ref(), host, len)?;
                    part.copy_from_slice(&cluster[inside as usize..inside as usize + part.len()]);
                }
            }
            done += len as usize;
        }
        Ok(())
    }

    /// How many bytes from `at` on, which lie at `host`, lie there in one piece.
    fn plain_len(&self, tables: &dyn Storage, at: u64, host: u64, most: u64) -> Result<u64> {
        let size = self.cluster_size();
        let mut len = (size - at % size).min(most);
        while len < most && self.map.lookup(tables, (at + len) / size)? == Cluster::Plain(host + len) {
            len += size.min(most - len);
        }
        Ok(len)
    }

    fn fill_from_backing(&self, offset: u64, part: &mut [u8]) -> Result<()> {
        let Some(backing) = &self.backing else {
            part.fill(0);
            return Ok(());
        };
        let have = backing.size().saturating_sub(offset).min(part.len() as u64) as usize;
        let (data, pad) = part.split_at_mut(have);
        pad.fill(0);
        if data.is_empty() { Ok(()) } else { backing.read(offset, data) }
    }

    fn fill_plain(&self, host: u64, part: &mut [u8]) -> Result<()> {
        if host.checked_add(part.len() as u64).is_none_or(|end| end > self.storage.len()) {
            return Err(damaged(format!("a cluster at {host} does not lie in the file: it was cut short")));
        }
        self.storage.read(host, part)
    }
}

impl Blocking for Qcow2Disk {
    fn size(&self) -> u64 {
        self.size
    }

    fn extents(&self, from: u64) -> Result<ExtentList> {
        self.list(from).map_err(|e| e.within(format!("cannot list extents of {}", self.name)))
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let len = buffer.len();
        self.fill(offset, buffer).map_err(|e| e.within(format!("cannot read {len} bytes at {offset} of {}", self.name)))
    }

    fn plain_range(&self, offset: u64, len: u64) -> Option<PlainRange> {
        let file = self.storage.file()?;
        Some(PlainRange { file, offset: self.plain_place(offset, len)? })
    }

    fn describe(&self) -> String {
        self.name.clone()
    }
}

/// What is said to an image that names a backing file where none is allowed.
pub(super) fn refuse_backing(file: &str, _format: Option<&str>) -> Result<Box<dyn Blocking>> {
    Err(Error::new(Kind::Invalid, "cannot follow the image's backing file")
        .because(format!("it names {file:?}, and an image may name any file of this host"))
        .hint("allow backing files for images of your own, or flatten it with qemu-img convert"))
}

//! Manifests: one restore point each. A point exists when its manifest does.
//!
//! Three sealed sections, so that a listing of points reads the first and the collector the first two:
//! the header (JSON), the packs, the pages of each disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use disk::PageHash;
use model::{DiskName, DiskRoot, Error, Kind, PointId, RestorePoint, Result};
use serde::{Deserialize, Serialize};

use crate::PackId;
use crate::bucket::Object;
use crate::codec::{Cursor, put_varint};
use crate::keys::{broken, damaged};
use crate::layout::{ManifestKey, parse_manifest_key};
use crate::map::page_count;
use crate::pack::{FrameAt, PACK_FRAMES, PACK_LONGEST};
use crate::seal::{Class, Prelude, seal};
use crate::shared::{Shared, lock};

const HEADER: usize = 0;
const PACKS: usize = 1;
const PAGES: usize = 2;
/// What is fetched first: holds the header of almost every manifest.
const HEAD: u64 = 16 * 1024;

/// The first section.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    /// The point.
    pub point: RestorePoint,
    /// What it was written on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<PointId>,
    /// Bytes that it added to the bucket, this manifest not counted.
    pub stored_bytes: u64,
    /// Packs that it added.
    pub added: u64,
}

/// One page of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PageEntry {
    /// All zero.
    Zero,
    /// A page that lies in a pack.
    Stored(StoredPage),
}

/// Where a page lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredPage {
    /// Its hash in the Merkle tree.
    pub hash: PageHash,
    /// Its frame.
    pub at: FrameAt,
    /// The packs that its blocks lie in.
    pub packs: Box<[PackId]>,
}

/// One disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DiskTable {
    /// Its name.
    pub name: DiskName,
    /// Its size.
    pub size: u64,
    /// Its root.
    pub root: DiskRoot,
    /// All pages.
    pub pages: Vec<PageEntry>,
}

impl DiskTable {
    /// The packs of the disk: those of pages and of blocks.
    pub fn packs(&self) -> impl Iterator<Item = PackId> + '_ {
        self.pages
            .iter()
            .flat_map(|page| match page {
                PageEntry::Zero => &[][..],
                PageEntry::Stored(page) => std::slice::from_ref(page),
            })
            .flat_map(|page| std::iter::once(page.at.pack).chain(page.packs.iter().copied()))
    }
}

/// A whole manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// The header.
    pub header: Header,
    /// All packs that the point needs, with their sizes; those that the point itself has added come first.
    pub packs: Vec<(PackId, u32)>,
    /// The disks, in the order of the point.
    pub disks: Vec<DiskTable>,
}

impl Manifest {
    /// One disk.
    pub fn disk(&self, name: &DiskName) -> Result<&DiskTable> {
        self.disks.iter().find(|disk| disk.name == *name).ok_or_else(|| {
            let names: Vec<&str> = self.disks.iter().map(|disk| disk.name.as_str()).collect();
            Error::new(Kind::NotFound, format!("point {} has no disk {name}", self.header.point.id))
                .hint(format!("its disks are: {}", names.join(", ")))
        })
    }

    /// Seals it as the object `key`.
    pub fn seal(&self, shared: &Shared, key: &str) -> Result<bytes::Bytes> {
        let header = serde_json::to_vec(&self.header).map_err(|e| broken("a header has no JSON").because(e))?;
        let mut packs = Vec::with_capacity(self.packs.len() * 20 + 8);
        put_varint(&mut packs, self.packs.len() as u64);
        for (pack, size) in &self.packs {
            packs.extend_from_slice(&pack.0);
            packs.extend_from_slice(&size.to_le_bytes());
        }
        let numbers: BTreeMap<PackId, u64> = self.packs.iter().zip(0..).map(|((pack, _), n)| (*pack, n)).collect();
        let number =
            |pack: &PackId| numbers.get(pack).copied().ok_or_else(|| broken("a page's pack is not in its manifest"));
        let mut pages = Vec::new();
        for page in self.disks.iter().flat_map(|disk| &disk.pages) {
            match page {
                PageEntry::Zero => pages.push(0),
                PageEntry::Stored(page) => {
                    pages.push(1);
                    pages.extend_from_slice(&page.hash);
                    put_varint(&mut pages, number(&page.at.pack)?);
                    put_varint(&mut pages, u64::from(page.at.frame));
                    put_varint(&mut pages, page.packs.len() as u64);
                    for pack in &page.packs {
                        put_varint(&mut pages, number(pack)?);
                    }
                }
            }
        }
        seal(&shared.keys, Class::Manifest, key, &[&header, &packs, &pages])
    }
}

/// A manifest in the bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ManifestRef {
    /// Its key.
    pub key: String,
    /// What the key tells.
    pub parsed: ManifestKey,
    /// Its size.
    pub size: u64,
}

impl From<(ManifestKey, Object)> for ManifestRef {
    fn from((parsed, object): (ManifestKey, Object)) -> Self {
        Self { key: object.key, parsed, size: object.size }
    }
}

/// The manifests of a listing, by point and version.
pub(crate) fn by_point(listed: Vec<Object>) -> BTreeMap<PointId, BTreeMap<u32, (ManifestKey, Object)>> {
    let mut points: BTreeMap<PointId, BTreeMap<_, _>> = BTreeMap::new();
    for object in listed {
        let Some(parsed) = parse_manifest_key(&object.key) else { continue };
        points.entry(parsed.point.clone()).or_default().insert(parsed.version, (parsed, object));
    }
    points
}

fn read_header(key: &str, plain: &[u8]) -> Result<Header> {
    let header: Header = serde_json::from_slice(plain)
        .map_err(|e| Error::new(Kind::Damaged, format!("cannot read {key}")).because(e.to_string()))?;
    let fits = parse_manifest_key(key).is_some_and(|parsed| parsed.point == header.point.id);
    if fits { Ok(header) } else { Err(damaged(format!("cannot read {key}"), "it is of another point")) }
}

fn read_packs(key: &str, plain: &[u8]) -> Result<Vec<(PackId, u32)>> {
    let mut cursor = Cursor::new(plain, key);
    let count = cursor.count(20)?;
    let mut packs = Vec::with_capacity(count);
    for _ in 0..count {
        let (pack, size) = (PackId(cursor.array()?), cursor.u32()?);
        if u64::from(size) > PACK_LONGEST {
            return Err(cursor.wrong("a pack is too long"));
        }
        packs.push((pack, size));
    }
    cursor.end()?;
    Ok(packs)
}

fn read_pages(key: &str, plain: &[u8], header: &Header, packs: &[(PackId, u32)]) -> Result<Vec<DiskTable>> {
    let mut cursor = Cursor::new(plain, key);
    let pack = |cursor: &mut Cursor<'_>| -> Result<PackId> {
        let number = cursor.varint(packs.len() as u64)? as usize;
        packs.get(number).map(|(pack, _)| *pack).ok_or_else(|| cursor.wrong("a page lies in no listed pack"))
    };
    let mut disks = Vec::with_capacity(header.point.disks.len());
    for disk in &header.point.disks {
        let mut pages = Vec::new();
        for _ in 0..page_count(disk.size) {
            pages.push(match cursor.u8()? {
                0 => PageEntry::Zero,
                1 => {
                    let hash = cursor.array()?;
                    let at = FrameAt { pack: pack(&mut cursor)?, frame: cursor.varint(PACK_FRAMES as u64)? as u32 };
                    let count = cursor.count(1)?;
                    let packs = (0..count).map(|_| pack(&mut cursor)).collect::<Result<_>>()?;
                    PageEntry::Stored(StoredPage { hash, at, packs })
                }
                _ => return Err(cursor.wrong("a page is of no known kind")),
            });
        }
        disks.push(DiskTable { name: disk.name.clone(), size: disk.size, root: disk.root, pages });
    }
    cursor.end()?;
    Ok(disks)
}

impl Shared {
    /// The manifests in the bucket: of each point the newest version. Complete, or an error.
    pub async fn manifest_keys(&self) -> Result<BTreeMap<PointId, ManifestRef>> {
        let points = by_point(self.bucket.list(crate::layout::MANIFESTS).await?);
        let newest = points.into_iter().filter_map(|(point, versions)| Some((point, versions.into_values().last()?)));
        Ok(newest.map(|(point, at)| (point, at.into())).collect())
    }

    /// The header of a manifest.
    pub async fn header(&self, at: &ManifestRef) -> Result<Arc<Header>> {
        let key = &at.key;
        if let Some(header) = lock(&self.headers).get(key) {
            return Ok(header.clone());
        }
        let (prelude, object) = self.manifest_head(at, HEADER).await?;
        let header = Arc::new(read_header(key, &prelude.open(HEADER, &object)?)?);
        lock(&self.headers).insert(key.clone(), header.clone());
        Ok(header)
    }

    /// The header and packs of a manifest: all that the collector needs.
    pub async fn manifest_packs(&self, at: &ManifestRef) -> Result<(Header, Vec<(PackId, u32)>)> {
        let key = &at.key;
        let (prelude, object) = self.manifest_head(at, PACKS).await?;
        let header = read_header(key, &prelude.open(HEADER, &object)?)?;
        Ok((header, read_packs(key, &prelude.open(PACKS, &object)?)?))
    }

    /// A whole manifest.
    pub async fn manifest(&self, key: &str) -> Result<Manifest> {
        let object = self.bucket.get(key, None).await?;
        let prelude = Prelude::read(&self.keys, Class::Manifest, key, &object)?;
        if prelude.total() != object.len() as u64 {
            return Err(damaged(format!("cannot read {key}"), "it has another length than it tells"));
        }
        let header = read_header(key, &prelude.open(HEADER, &object)?)?;
        let packs = read_packs(key, &prelude.open(PACKS, &object)?)?;
        let disks = read_pages(key, &prelude.open(PAGES, &object)?, &header, &packs)?;
        for disk in &disks {
            let hashes = (0..).zip(&disk.pages).map(|(index, page)| match page {
                PageEntry::Zero => crate::map::zero_page_hash(disk.size, index),
                PageEntry::Stored(page) => page.hash,
            });
            if disk::root_of_pages(disk.size, hashes) != disk.root {
                return Err(damaged(format!("cannot read {key}"), "the root of a disk does not fit its pages"));
            }
        }
        self.packs.note_sizes(packs.iter().copied());
        Ok(Manifest { header, packs, disks })
    }

    /// The first bytes of a manifest, at least to the end of section `last`.
    async fn manifest_head(&self, at: &ManifestRef, last: usize) -> Result<(Prelude, bytes::Bytes)> {
        let ManifestRef { key, size, .. } = at;
        let mut object = self.bucket.get(key, Some(0..HEAD.min(*size))).await?;
        let prelude = Prelude::read(&self.keys, Class::Manifest, key, &object)?;
        if prelude.total() != *size {
            return Err(damaged(format!("cannot read {key}"), "it has another length than it tells"));
        }
        let end = prelude.end_of(last)?;
        if end > object.len() as u64 {
            object = self.bucket.get(key, Some(0..end)).await?;
        }
        Ok((prelude, object))
    }
}

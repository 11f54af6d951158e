//! Reading: random access to a point's disk, and the changes between two points.
//!
//! Every byte comes from a frame whose seal was checked. A damaged frame is an error that names pack and frame, unless
//! the same blocks lie elsewhere in the vault too (`heal.rs`).

mod changes;
mod heal;
mod versions;

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use disk::{Buffer, DiskRead, LEAF, PAGE, zero_leaf};
use futures::future::try_join_all;
use model::{DiskName, Error, Extent, ExtentList, Kind, PointId, Result};
use tokio::sync::OnceCell;

use crate::keys::{broken, damaged};
use crate::lru::Lru;
use crate::manifest::{DiskTable, PageEntry, StoredPage};
use crate::map::{Page, Run};
use crate::pack::{BLOCK, FrameAt};
use crate::shared::{Shared, lock};
pub(crate) use changes::ChangedDisk;

/// Pages that a reader holds.
const PAGES_HELD: usize = 24;
/// How far a sequential reader reads ahead.
const AHEAD: u64 = 8 << 20;
/// Extents of one answer.
const EXTENTS: usize = 2048;

impl Shared {
    /// Reads a page of a map and checks that it is the one that the manifest means.
    pub async fn page(self: &Arc<Self>, entry: &StoredPage, leaves: usize, disk: &DiskName) -> Result<Page> {
        let what = format!("page {} of pack {} for disk {disk}", entry.at.frame, entry.at.pack);
        let page = Page::decode(&self.frame(entry.at).await?, Some(leaves), &what)?;
        if page.hash() == entry.hash {
            Ok(page)
        } else {
            Err(damaged(format!("cannot read {what}"), "its hash does not fit"))
        }
    }
}

type Cell = Arc<OnceCell<Arc<Page>>>;

/// A disk of a point.
pub(crate) struct VaultDisk {
    shared: Arc<Shared>,
    table: Arc<DiskTable>,
    point: String,
    /// The point and the key of the manifest that it is read by, if there may be other versions.
    version: Option<(PointId, String)>,
    other: Mutex<Option<(String, Arc<VaultDisk>)>>,
    pages: Mutex<Lru<u64, Cell>>,
    /// Up to where was read ahead.
    ahead: Mutex<u64>,
}

impl VaultDisk {
    /// A disk by its table; `point` is for messages.
    pub fn new(shared: Arc<Shared>, table: Arc<DiskTable>, point: String) -> Arc<Self> {
        Arc::new(Self::of(shared, table, point, None))
    }

    /// The same of a point that may move meanwhile.
    pub fn of_version(shared: Arc<Shared>, table: Arc<DiskTable>, point: &PointId, key: String) -> Arc<Self> {
        let text = format!("point {point} in vault {}", shared.bucket.describe());
        Arc::new(Self::of(shared, table, text, Some((point.clone(), key))))
    }

    fn of(shared: Arc<Shared>, table: Arc<DiskTable>, point: String, version: Option<(PointId, String)>) -> Self {
        let (pages, ahead) = (Mutex::new(Lru::new(PAGES_HELD)), Mutex::new(0));
        Self { shared, table, point, version, other: Mutex::default(), pages, ahead }
    }

    /// The entry of a page.
    pub fn entry(&self, index: u64) -> Option<&PageEntry> {
        self.table.pages.get(index as usize)
    }

    /// A page by this version.
    async fn page_here(&self, index: u64) -> Result<Option<Arc<Page>>> {
        let Some(PageEntry::Stored(entry)) = self.entry(index) else { return Ok(None) };
        let cell = {
            let mut pages = lock(&self.pages);
            match pages.get(&index) {
                Some(cell) => cell,
                None => {
                    let cell = Cell::default();
                    pages.put(index, cell.clone(), 1);
                    cell
                }
            }
        };
        let leaves = crate::map::leaves_of_page(self.table.size, index);
        let load = || async { self.shared.page(entry, leaves, &self.table.name).await.map(Arc::new) };
        cell.get_or_try_init(load).await.cloned().map(Some)
    }

    /// The runs of `offset..end`, with the byte of the disk where each begins.
    async fn runs(&self, offset: u64, end: u64) -> Result<Vec<(u64, Run)>> {
        let mut runs = Vec::new();
        for index in offset / PAGE..end.div_ceil(PAGE) {
            let Some(page) = self.page(index).await? else { continue };
            let start = index * PAGE;
            let from = offset.saturating_sub(start) / BLOCK as u64;
            let to = (end - start).min(PAGE).div_ceil(BLOCK as u64);
            let place = |run: Run| (start + u64::from(run.first) * BLOCK as u64, run);
            runs.extend(page.runs_in(from as u32, to as u32).map(place));
        }
        Ok(runs)
    }

    /// Asks for the frames behind what is being read, once for each window.
    fn read_ahead(self: &Arc<Self>, offset: u64, end: u64) {
        let from = {
            let mut ahead = lock(&self.ahead);
            let sequential = offset <= ahead.saturating_add(AHEAD) && *ahead <= end.saturating_add(2 * AHEAD);
            if !sequential {
                *ahead = end;
                return;
            }
            let from = (*ahead).max(end);
            let to = (end + AHEAD).min(self.table.size);
            if from + AHEAD / 4 > to {
                return;
            }
            *ahead = to;
            from
        };
        let this = self.clone();
        tokio::spawn(async move {
            let to = (end + AHEAD).min(this.table.size);
            if let Ok(runs) = this.runs(from, to).await {
                this.shared.request(&frames(&runs)).await;
            }
        });
    }

    fn fill(&self, offset: u64, len: usize, runs: &[(u64, Run)], got: &[(FrameAt, Bytes)]) -> Result<Bytes> {
        let end = offset + len as u64;
        let part = |(start, run): &(u64, Run)| -> Result<(u64, u64, Bytes)> {
            let frame = got.binary_search_by_key(&run.at.at, |(at, _)| *at).ok().and_then(|index| got.get(index));
            let Some((_, frame)) = frame else { return Err(broken("a frame is missing")) };
            let from = usize::from(run.at.block) * BLOCK;
            let wrong = || {
                let why = "a map points behind its end";
                damaged(format!("cannot read frame {} of pack {}", run.at.at.frame, run.at.at.pack), why)
            };
            let to = from + run.count as usize * BLOCK;
            let bytes = if to <= frame.len() { frame.slice(from..to) } else { return Err(wrong()) };
            let (first, last) = ((*start).max(offset), (start + bytes.len() as u64).min(end));
            Ok((first, last, bytes.slice((first - start) as usize..(last - start) as usize)))
        };
        if let [run] = runs
            && let (first, last, bytes) = part(run)?
            && (first, last) == (offset, end)
        {
            return Ok(bytes);
        }
        let mut out = Buffer::take(len);
        let (bytes, mut filled) = (out.as_mut(), 0);
        for run in runs {
            let (first, last, found) = part(run)?;
            let (first, last) = ((first - offset) as usize, (last - offset) as usize);
            bytes[filled..first].fill(0);
            bytes[first..last].copy_from_slice(&found);
            filled = last;
        }
        bytes[filled..].fill(0);
        Ok(out.freeze())
    }
}

/// The frames of runs, each once, ascending.
fn frames(runs: &[(u64, Run)]) -> Vec<FrameAt> {
    let mut frames: Vec<FrameAt> = runs.iter().map(|(_, run)| run.at.at).collect();
    frames.sort_unstable();
    frames.dedup();
    frames
}

impl VaultDisk {
    /// See [`DiskRead`].
    pub fn size(&self) -> u64 {
        self.table.size
    }

    /// See [`DiskRead`].
    pub async fn extents(&self, from: u64) -> Result<ExtentList> {
        let mut list = ExtentList::new();
        let size = self.table.size;
        for index in from / PAGE..size.div_ceil(PAGE) {
            if list.as_slice().len() >= EXTENTS {
                break;
            }
            let start = index * PAGE;
            match self.page(index).await? {
                None => list.push(Extent::zero(start.max(from), PAGE.min(size - start) - from.saturating_sub(start))),
                Some(page) => {
                    for (number, leaf) in (0_u64..).zip(&page.leaves) {
                        let (begin, end) = (start + number * LEAF, (start + (number + 1) * LEAF).min(size));
                        if end <= from {
                            continue;
                        }
                        let (begin, zero) = (begin.max(from), *leaf == zero_leaf());
                        list.push(if zero {
                            Extent::zero(begin, end - begin)
                        } else {
                            Extent::data(begin, end - begin)
                        });
                    }
                }
            }
        }
        Ok(list)
    }

    /// Bytes by this version.
    async fn read_here(self: &Arc<Self>, offset: u64, len: usize) -> Result<Bytes> {
        let end = offset.checked_add(len as u64).filter(|end| *end <= self.table.size);
        let Some(end) = end.filter(|_| offset.is_multiple_of(512) && len.is_multiple_of(512)) else {
            return Err(Error::new(
                Kind::Invalid,
                format!("cannot read {len} bytes at {offset} of {}", self.describe()),
            )
            .because("the range is not inside the disk, or no multiple of 512"));
        };
        if len == 0 {
            return Ok(Bytes::new());
        }
        let runs = self.runs(offset, end).await?;
        let wanted = frames(&runs);
        let asked = self.shared.request(&wanted).await;
        self.read_ahead(offset, end);
        let waits = wanted.iter().zip(asked).map(|(at, future)| async move {
            let frame = match future {
                Ok(future) => self.shared.await_frame(*at, future).await,
                Err(error) => Err(error),
            };
            let frame = match frame {
                Err(error) if matches!(error.kind(), Kind::Damaged | Kind::NotFound) => {
                    self.shared.heal(*at, error).await?
                }
                other => other?,
            };
            Ok::<_, Error>((*at, frame))
        });
        let got = try_join_all(waits).await?;
        self.fill(offset, len, &runs, &got)
    }

    /// See [`DiskRead`].
    pub fn describe(&self) -> String {
        format!("disk {} of {}", self.table.name, self.point)
    }
}

/// A [`VaultDisk`] as the waist knows it.
pub(crate) struct Handle(pub Arc<VaultDisk>);

#[async_trait]
impl DiskRead for Handle {
    fn size(&self) -> u64 {
        self.0.size()
    }

    async fn extents(&self, from: u64) -> Result<ExtentList> {
        self.0.extents(from).await
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        self.0.read_at(offset, len).await
    }

    fn lists_holes(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        self.0.describe()
    }
}

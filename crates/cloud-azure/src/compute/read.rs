//! Reading a disk behind a SAS: its pages listed window by window, its bytes read by ranges.

use async_trait::async_trait;
use bytes::Bytes;
use disk::{DiskRead, LEAF};
use model::{Change, Error, Extent, ExtentList, Kind, Result};

use super::access::Access;
use super::blob;

/// Ranges in one listing.
const RANGES: usize = 2000;
/// The smallest window: a listing that times out is asked for in halves.
const WINDOW: u64 = 4 << 20;

/// A disk or snapshot.
pub(super) struct BlobDisk {
    pub http: reqwest::Client,
    pub access: Access,
    /// The snapshot that it is compared with.
    pub since: Option<Access>,
    /// The disk's size; the blob may be longer.
    pub size: u64,
    /// What it is, for messages.
    pub name: String,
}

impl BlobDisk {
    fn error(&self, error: Error) -> Error {
        error.within(format!("cannot read {}", self.name))
    }

    /// The ranges from `from` on, and up to where they are complete.
    async fn window(&self, from: u64) -> Result<(Vec<Extent>, u64)> {
        let mut to = self.size;
        loop {
            let listed = blob::list(&self.http, &self.access, self.since.as_ref(), (from, to), RANGES).await;
            let page = match listed {
                Err(error) if is_timeout(&error) && to - from > WINDOW => {
                    to = from + ((to - from) / 2).next_multiple_of(LEAF);
                    continue;
                }
                page => page?,
            };
            let last = page.ranges.last().map_or(from, Extent::end).min(to);
            // a leaf is told whole: what follows belongs to the next window
            let whole = last / LEAF * LEAF;
            let end = match page.more {
                false => to,
                true if whole > from => whole,
                true if last > from => last,
                true => return Err(Error::new(Kind::Permanent, "cannot list pages").because("a page is empty")),
            };
            return Ok((page.ranges, end));
        }
    }
}

/// A fragmented blob is too much for one answer.
fn is_timeout(error: &Error) -> bool {
    error.chain().contains("OperationTimedOut")
}

/// Cuts ranges to `from..end`, and where `fill` is set gives what lies between them as zeroes.
fn within(ranges: &[Extent], from: u64, end: u64, fill: bool) -> ExtentList {
    let (mut list, mut at) = (ExtentList::new(), from);
    for range in ranges {
        let (start, stop) = (range.offset.max(from), range.end().min(end));
        if start >= stop {
            continue;
        }
        if fill && start > at {
            list.push(Extent::zero(at, start - at));
        }
        list.push(Extent { offset: start, len: stop - start, change: range.change });
        at = stop;
    }
    if fill && end > at {
        list.push(Extent { offset: at, len: end - at, change: Change::Zero });
    }
    list
}

#[async_trait]
impl DiskRead for BlobDisk {
    fn size(&self) -> u64 {
        self.size
    }

    async fn extents(&self, from: u64) -> Result<ExtentList> {
        let mut from = from;
        while from < self.size {
            let (ranges, end) = self.window(from).await.map_err(|error| self.error(error))?;
            let list = within(&ranges, from, end, self.since.is_none());
            if !list.as_slice().is_empty() {
                return Ok(list);
            }
            from = end;
        }
        Ok(ExtentList::new())
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        if len == 0 {
            return Ok(Bytes::new());
        }
        // the blob goes on behind the disk
        if offset.checked_add(len as u64).is_none_or(|end| end > self.size) {
            let why = format!("{len} bytes at {offset} lie behind the end at {}", self.size);
            return Err(self.error(Error::new(Kind::Invalid, "cannot read there").because(why)));
        }
        blob::read(&self.http, &self.access, offset, len).await.map_err(|error| self.error(error))
    }

    fn is_incremental(&self) -> bool {
        self.since.is_some()
    }

    fn lists_holes(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        self.name.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_listing_has_every_byte_and_a_difference_has_not() {
        let ranges = [Extent::data(512, 512), Extent::zero(2048, 512), Extent::data(8192, 4096)];
        let full = within(&ranges, 0, 10_240, true);
        assert_eq!(full.as_slice().iter().map(|extent| extent.len).sum::<u64>(), 10_240);
        let changes = within(&ranges, 0, 10_240, false);
        assert_eq!(changes.as_slice(), [Extent::data(512, 512), Extent::zero(2048, 512), Extent::data(8192, 2048)]);
    }
}

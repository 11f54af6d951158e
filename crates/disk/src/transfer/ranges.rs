//! What a transfer asks of the reader, in order: whole leaves, cut into chunks.

use model::{Change, Error, Extent, ExtentList, Kind, Result};

use super::CHUNK;
use crate::{DiskRead, LEAF, Progress};

/// Walks the pages of a reader's extents and yields leaf-aligned ranges in ascending order, each byte at most once.
pub(super) struct Ranges<'a> {
    reader: &'a dyn DiskRead,
    progress: &'a dyn Progress,
    page: std::vec::IntoIter<Extent>,
    /// The rest of a range that is being cut into chunks.
    open: Option<Extent>,
    /// End of the last extent that the reader listed: where the next page begins.
    listed: u64,
    /// End of the last range yielded. A leaf that two pages share was widened, and so yielded whole, with the first.
    yielded: u64,
    expected: u64,
    ended: bool,
}

impl<'a> Ranges<'a> {
    pub(super) fn new(reader: &'a dyn DiskRead, progress: &'a dyn Progress) -> Self {
        if !reader.is_incremental() {
            progress.expect(reader.size());
        }
        let page = Vec::new().into_iter();
        Self { reader, progress, page, open: None, listed: 0, yielded: 0, expected: 0, ended: false }
    }

    /// The next range: at most [`CHUNK`] of data, within one multiple of it, or zeroes of any length.
    pub(super) async fn next(&mut self) -> Result<Option<Extent>> {
        loop {
            if let Some(extent) = self.open.take() {
                return Ok(Some(self.cut(extent)));
            }
            if let Some(mut extent) = self.page.next() {
                let end = extent.end();
                extent.offset = extent.offset.max(self.yielded);
                if extent.offset < end {
                    extent.len = end - extent.offset;
                    self.yielded = end;
                    self.open = Some(extent);
                }
                continue;
            }
            if self.ended {
                return Ok(None);
            }
            self.turn_page().await?;
        }
    }

    fn cut(&mut self, extent: Extent) -> Extent {
        let chunk_end = (extent.offset / CHUNK + 1) * CHUNK;
        if extent.change == Change::Zero || extent.end() <= chunk_end {
            return extent;
        }
        self.open = Some(Extent::data(chunk_end, extent.end() - chunk_end));
        Extent::data(extent.offset, chunk_end - extent.offset)
    }

    async fn turn_page(&mut self) -> Result<()> {
        let size = self.reader.size();
        if self.listed == size {
            self.ended = true;
            return Ok(());
        }
        let list = self.reader.extents(self.listed).await?;
        let Some(last) = list.as_slice().last().copied() else {
            self.ended = true;
            return self.no_gap_before(size);
        };
        for extent in list.as_slice() {
            self.accept(*extent, size)?;
        }
        if last.end() != self.listed {
            return Err(self.wrong("lists extents out of order"));
        }
        let aligned = list.aligned(LEAF, size);
        if self.reader.is_incremental() {
            self.expect_more(&aligned);
        }
        self.page = aligned.as_slice().to_vec().into_iter();
        Ok(())
    }

    /// Checks one listed extent. A reader is other people's code or a remote server: what it lists decides what gets
    /// copied, so a hole in a full list would silently become zeroes at every destination.
    fn accept(&mut self, extent: Extent, size: u64) -> Result<()> {
        let Some(end) = extent.offset.checked_add(extent.len).filter(|end| *end <= size) else {
            return Err(self.wrong(&format!("lists bytes behind its end at {size}")));
        };
        if !extent.offset.is_multiple_of(512) || !extent.len.is_multiple_of(512) || extent.len == 0 {
            return Err(self.wrong("lists an extent that is not in sectors of 512 bytes"));
        }
        if end <= self.listed {
            return Err(self.wrong("lists extents out of order"));
        }
        self.no_gap_before(extent.offset)?;
        self.listed = end;
        Ok(())
    }

    fn no_gap_before(&self, offset: u64) -> Result<()> {
        if self.reader.is_incremental() || offset <= self.listed {
            return Ok(());
        }
        Err(self.wrong(&format!("is no incremental reader, but does not list bytes {} to {offset}", self.listed)))
    }

    fn wrong(&self, what: &str) -> Error {
        Error::new(Kind::Damaged, format!("cannot read {}", self.reader.describe())).because(format!("it {what}"))
    }

    fn expect_more(&mut self, aligned: &ExtentList) {
        for extent in aligned.as_slice() {
            self.expected += extent.end().saturating_sub(extent.offset.max(self.yielded));
        }
        self.progress.expect(self.expected);
    }
}

//! A writer over a base, made of a writer that begins with zeroes: for destinations that take a disk as one stream and
//! can patch nothing.

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use model::{Change, Error, Extent, ExtentList, Kind, Result};

use crate::transfer::CHUNK;
use crate::{DiskRead, DiskWrite, LEAF, Written, is_zero};

/// Reads of the base in flight.
const READS: usize = 8;

/// Gives `writer` the bytes of `base` wherever nothing arrives. What arrives is not compared with the base, so only
/// what does not arrive is read from it.
pub fn over(base: Box<dyn DiskRead>, writer: Box<dyn DiskWrite>) -> Box<dyn DiskWrite> {
    Box::new(Over { base, writer, is_told: false, cursor: 0, received: 0 })
}

struct Over {
    base: Box<dyn DiskRead>,
    writer: Box<dyn DiskWrite>,
    /// The writer was told what the base has.
    is_told: bool,
    /// Everything before it was given to the writer.
    cursor: u64,
    received: u64,
}

impl Over {
    /// Gives the writer the base's bytes up to `end`.
    async fn fill(&mut self, end: u64) -> Result<()> {
        while self.cursor < end.min(self.base.size()) {
            let list = self.base.extents(self.cursor).await?;
            let Some(listed) = list.as_slice().last().map(Extent::end) else {
                return Err(Error::new(Kind::Damaged, format!("cannot read {}", self.base.describe()))
                    .because(format!("it does not list bytes from {}", self.cursor)));
            };
            // up to a leaf's end, whatever the next page says of it: the leaf is read as a whole
            let page_end = listed.next_multiple_of(LEAF).min(end);
            let within = list.as_slice().iter().filter(|extent| extent.offset < page_end);
            let within: ExtentList = within.map(|e| Extent { len: e.len.min(page_end - e.offset), ..*e }).collect();
            for extent in within.aligned(LEAF, page_end).as_slice() {
                let (from, to) = (extent.offset.max(self.cursor), extent.end().min(page_end));
                if from < to && extent.change == Change::Data {
                    self.put_zeroes(from).await?;
                    self.copy(from, to).await?;
                }
            }
            self.put_zeroes(page_end).await?;
        }
        self.put_zeroes(end).await
    }

    async fn put_zeroes(&mut self, end: u64) -> Result<()> {
        if end > self.cursor {
            self.writer.zero(self.cursor, end - self.cursor).await?;
            self.cursor = end;
        }
        Ok(())
    }

    async fn copy(&mut self, from: u64, to: u64) -> Result<()> {
        let Self { base, writer, cursor, .. } = self;
        let base: &dyn DiskRead = base.as_ref();
        let first = from / CHUNK;
        let chunks = (first..to.div_ceil(CHUNK)).map(|n| ((n * CHUNK).max(from), ((n + 1) * CHUNK).min(to)));
        let mut reads = stream::iter(chunks).map(|(from, to)| read_padded(base, from, to)).buffered(READS);
        while let Some((offset, data)) = reads.try_next().await? {
            let mut at = 0;
            while at < data.len() {
                let leaf_end = |at: usize| data.len().min(at + LEAF as usize);
                let zero = is_zero(&data[at..leaf_end(at)]);
                let mut end = leaf_end(at);
                while end < data.len() && is_zero(&data[end..leaf_end(end)]) == zero {
                    end = leaf_end(end);
                }
                let start = offset + at as u64;
                match zero {
                    true => writer.zero(start, (end - at) as u64).await?,
                    false => writer.write(start, data.slice(at..end)).await?,
                }
                at = end;
            }
            *cursor = offset + data.len() as u64;
        }
        Ok(())
    }
}

/// The base's bytes, which may end before `to`: what is missing is zero.
async fn read_padded(base: &dyn DiskRead, from: u64, to: u64) -> Result<(u64, Bytes)> {
    let readable = base.size().min(to).saturating_sub(from) as usize;
    let data = base.read_at(from, readable).await?;
    if data.len() == (to - from) as usize {
        return Ok((from, data));
    }
    let mut padded = data.to_vec();
    padded.resize((to - from) as usize, 0);
    Ok((from, padded.into()))
}

#[async_trait]
impl DiskWrite for Over {
    fn size(&self) -> u64 {
        self.writer.size()
    }

    fn wants_extents(&self) -> bool {
        self.writer.wants_extents() && self.base.lists_holes()
    }

    async fn announce(&mut self, extents: &ExtentList) -> Result<()> {
        self.writer.announce(extents).await?;
        // what the base has comes as well, but for what this covers, which is counted twice
        let mut told = if std::mem::replace(&mut self.is_told, true) { self.base.size() } else { 0 };
        while told < self.base.size() {
            let list = self.base.extents(told).await?;
            let Some(listed) = list.as_slice().last().map(Extent::end).filter(|end| *end > told) else { break };
            self.writer.announce(&list.aligned(LEAF, self.writer.size())).await?;
            told = listed;
        }
        Ok(())
    }

    async fn write(&mut self, offset: u64, data: Bytes) -> Result<()> {
        self.fill(offset).await?;
        (self.received, self.cursor) = (self.received + data.len() as u64, offset + data.len() as u64);
        self.writer.write(offset, data).await
    }

    async fn zero(&mut self, offset: u64, len: u64) -> Result<()> {
        self.fill(offset).await?;
        self.cursor = offset + len;
        self.writer.zero(offset, len).await
    }

    fn may_have_leaves(&self) -> bool {
        false
    }

    async fn finish(mut self: Box<Self>) -> Result<Written> {
        self.fill(self.writer.size()).await?;
        let written = self.writer.finish().await?;
        Ok(Written { received: self.received, fresh: self.received, ..written })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Format, RootBuilder, create_file, leaf, open_file};

    const SIZE: u64 = 3 * CHUNK + 512;

    /// A byte per leaf; some leaves are zero.
    fn pattern(seed: u64, index: u64) -> Vec<u8> {
        let len = (SIZE - index * LEAF).min(LEAF) as usize;
        vec![if (index + seed).is_multiple_of(3) { 0 } else { (index + seed) as u8 | 1 }; len]
    }

    async fn file(folder: &std::path::Path, name: &str, size: u64) -> Box<dyn DiskWrite> {
        create_file(folder.join(name), Format::Qcow2, size, None).await.unwrap()
    }

    /// A base, which may be shorter than the disk over it; every fourth leaf arrives, and every seventh as zeroes.
    async fn check(base_size: u64) {
        let folder = tempfile::tempdir().unwrap();
        let mut base = file(folder.path(), "base", base_size).await;
        for index in 0..base_size.div_ceil(LEAF) {
            let mut data = pattern(0, index);
            data.truncate((base_size - index * LEAF).min(LEAF) as usize);
            base.write(index * LEAF, data.into()).await.unwrap();
        }
        base.finish().await.unwrap();
        let base = open_file(folder.path().join("base"), Format::Qcow2).await.unwrap();
        let mut writer = over(base, file(folder.path(), "over", SIZE).await);
        let (mut root, mut received) = (RootBuilder::new(SIZE), 0);
        for index in 0..SIZE.div_ceil(LEAF) {
            let mut now = pattern(0, index);
            let held = base_size.saturating_sub(index * LEAF).min(now.len() as u64) as usize;
            now[held..].fill(0);
            if index % 4 == 1 {
                now = pattern(1, index);
                received += now.len() as u64;
                writer.write(index * LEAF, now.clone().into()).await.unwrap();
            } else if index % 7 == 1 {
                now.fill(0);
                writer.zero(index * LEAF, now.len() as u64).await.unwrap();
            }
            root.push(index, leaf(&now));
        }
        let written = writer.finish().await.unwrap();
        assert_eq!((written.root, written.received), (root.finish(), received));
    }

    #[tokio::test]
    async fn what_does_not_arrive_is_the_bases() {
        check(SIZE).await;
    }

    #[tokio::test]
    async fn behind_a_shorter_base_there_are_zeroes() {
        check(CHUNK + 3 * 512).await;
    }
}

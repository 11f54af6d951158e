//! The one transfer that joins any reader to any writers: one pass over the source, whatever the number of
//! destinations.
//!
//! ```text
//! extents -> ranges of whole leaves -> reads in flight -> zero test, leaf hashes -> in order -> one task per writer
//! ```
//!
//! Memory is bounded by bytes, not by chunks: a chunk holds its share of [`DiskRead::in_flight`] from before it is read
//! until the slowest writer has taken it. Nothing is durable before a writer's `finish`; a transfer that
//! is dropped, or whose reader fails, drops its writers unfinished.

mod fleet;
mod ranges;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use model::{Change, Error, Extent, ExtentList, Kind, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::fleet::{Fleet, Message};
use self::ranges::Ranges;
use crate::{DiskRead, DiskWrite, LEAF, Leaf, Progress, Silent, Written, is_zero, leaf};

/// The most that is read, and given to a writer, at once. Chunks lie within multiples of it.
pub(crate) const CHUNK: u64 = 1024 * 1024;
const LEAVES_PER_CHUNK: usize = (CHUNK / LEAF) as usize;
/// Reads in flight. The bytes bound binds first for a contiguous disk, this one for scattered leaves.
const READS: usize = 64;
/// Extents that writers are told of at once.
const TOLD: usize = 2048;
/// Memory is counted in these units, since a semaphore counts in `u32`.
const UNIT: u64 = 4096;

/// Copies what `reader` lists into every writer and finishes the writers. The source is read once.
///
/// The answer has one slot per writer, in order: a writer that fails gets its error there and the others go on. A
/// reader that fails fails the transfer, and no writer is finished. If every writer failed, reading stops.
///
/// Leaves that a writer already has ([`DiskWrite::has_leaf`]) are not given to it, unless the reader is incremental:
/// then it lists what changed, and looking would cost more than it saves.
pub async fn transfer(
    reader: &dyn DiskRead,
    writers: Vec<Box<dyn DiskWrite>>,
    progress: &dyn Progress,
) -> Result<Vec<Result<Written>>> {
    let hash = !reader.is_incremental() && writers.iter().any(|writer| writer.may_have_leaves());
    let tell = reader.lists_holes() && writers.iter().any(|writer| writer.wants_extents());
    let mut fleet = Fleet::start(reader, writers);
    if tell {
        announce(reader, &mut fleet).await?;
    }
    let budget = reader.in_flight().max(CHUNK).div_ceil(UNIT).min(u64::from(u32::MAX)) as usize;
    let mut reads = Reads {
        reader,
        ranges: Ranges::new(reader, progress),
        next: None,
        running: FuturesOrdered::new(),
        memory: Arc::new(Semaphore::new(budget)),
        hash,
    };
    let mut zeroes = None;
    while !fleet.is_lost()
        && let Some(chunk) = reads.next().await?
    {
        progress.looked(chunk.range.len);
        if chunk.range.change == Change::Data {
            progress.read(chunk.range.len);
        }
        chunk.deliver(&mut zeroes, &mut fleet).await;
        fleet.report(progress);
    }
    flush(&mut zeroes, &mut fleet).await;
    if !fleet.is_lost() {
        reader.conclude().await?;
    }
    fleet.finish(progress).await
}

/// Tells the writers what will arrive.
async fn announce(reader: &dyn DiskRead, fleet: &mut Fleet) -> Result<()> {
    let mut ranges = Ranges::new(reader, &Silent);
    let mut list = ExtentList::new();
    while let Some(range) = ranges.next().await? {
        list.push(range);
        if list.as_slice().len() >= TOLD {
            fleet.send(Message::Expect(Arc::new(std::mem::take(&mut list)))).await;
        }
    }
    fleet.send(Message::Expect(Arc::new(list))).await;
    Ok(())
}

/// The reads in flight.
struct Reads<'a> {
    reader: &'a dyn DiskRead,
    ranges: Ranges<'a>,
    /// A range that waits for memory.
    next: Option<Extent>,
    running: FuturesOrdered<BoxFuture<'a, Result<Chunk>>>,
    memory: Arc<Semaphore>,
    hash: bool,
}

impl Reads<'_> {
    /// The next chunk in order. Starts as many reads as there is memory for before it waits.
    async fn next(&mut self) -> Result<Option<Chunk>> {
        while self.running.len() < READS {
            let range = match self.next.take() {
                Some(range) => range,
                None => match self.ranges.next().await? {
                    Some(range) => range,
                    None => break,
                },
            };
            let units = if range.change == Change::Data { range.len.div_ceil(UNIT) as u32 } else { 0 };
            let hold = match self.memory.clone().try_acquire_many_owned(units) {
                Ok(hold) => hold,
                // writers hold it all, and no read is left that could be waited for
                Err(_) if self.running.is_empty() => {
                    self.memory.clone().acquire_many_owned(units).await.map_err(closed)?
                }
                Err(_) => {
                    self.next = Some(range);
                    break;
                }
            };
            self.running.push_back(Box::pin(fetch(self.reader, range, hold, self.hash)));
        }
        self.running.next().await.transpose()
    }
}

fn closed(error: tokio::sync::AcquireError) -> Error {
    Error::new(Kind::Cancelled, "cannot go on with a transfer").because(error)
}

/// A range that was read and looked at.
struct Chunk {
    range: Extent,
    data: Bytes,
    /// Bit n: leaf n of the chunk is zero.
    zero: u32,
    leaves: Option<Arc<[Leaf; LEAVES_PER_CHUNK]>>,
    hold: Arc<OwnedSemaphorePermit>,
}

async fn fetch(reader: &dyn DiskRead, range: Extent, hold: OwnedSemaphorePermit, hash: bool) -> Result<Chunk> {
    let mut chunk = Chunk { range, data: Bytes::new(), zero: 0, leaves: None, hold: Arc::new(hold) };
    if range.change == Change::Zero {
        return Ok(chunk);
    }
    let len = range.len as usize;
    chunk.data = reader.read_at(range.offset, len).await?;
    if chunk.data.len() != len {
        let what = format!("cannot read {len} bytes at {} of {}", range.offset, reader.describe());
        return Err(Error::new(Kind::Damaged, what).because(format!("it gave {} bytes", chunk.data.len())));
    }
    if !hash {
        chunk.look(false);
        return Ok(chunk);
    }
    // hashing costs more than reading from memory: let the chunks in flight use all cores
    let hashed = tokio::task::spawn_blocking(move || {
        chunk.look(true);
        chunk
    });
    hashed.await.map_err(|e| Error::new(Kind::Cancelled, "cannot hash what was read").because(e))
}

impl Chunk {
    fn look(&mut self, hash: bool) {
        let mut leaves = [[0; 32]; LEAVES_PER_CHUNK];
        for (index, bytes) in self.data.chunks(LEAF as usize).enumerate() {
            if is_zero(bytes) {
                self.zero |= 1 << index;
            } else if hash {
                leaves[index] = leaf(bytes);
            }
        }
        self.leaves = hash.then(|| Arc::new(leaves));
    }

    /// Hands the chunk on: runs of zero leaves join `zeroes` (also across chunks), runs of data are slices of what
    /// was read.
    async fn deliver(self, zeroes: &mut Option<Extent>, fleet: &mut Fleet) {
        if self.range.change == Change::Zero {
            return collect(zeroes, self.range, fleet).await;
        }
        let count = self.data.len().div_ceil(LEAF as usize);
        let mut first = 0;
        while first < count {
            let is_zero = self.is_zero(first);
            let end = (first + 1..count).find(|index| self.is_zero(*index) != is_zero).unwrap_or(count);
            let (from, to) = (first * LEAF as usize, (end * LEAF as usize).min(self.data.len()));
            let offset = self.range.offset + from as u64;
            if is_zero {
                collect(zeroes, Extent::zero(offset, (to - from) as u64), fleet).await;
            } else {
                flush(zeroes, fleet).await;
                let data = self.data.slice(from..to);
                let leaves = self.leaves.clone().map(|leaves| (leaves, first));
                fleet.send(Message::Data { offset, data, leaves, hold: self.hold.clone() }).await;
            }
            first = end;
        }
    }

    fn is_zero(&self, index: usize) -> bool {
        self.zero & (1 << index) != 0
    }
}

/// Appends zeroes to the run that is open; a run that they do not continue is handed on.
async fn collect(zeroes: &mut Option<Extent>, range: Extent, fleet: &mut Fleet) {
    if let Some(open) = zeroes
        && open.end() == range.offset
    {
        open.len += range.len;
        return;
    }
    flush(zeroes, fleet).await;
    *zeroes = Some(range);
}

async fn flush(zeroes: &mut Option<Extent>, fleet: &mut Fleet) {
    if let Some(run) = zeroes.take() {
        fleet.send(Message::Zero { offset: run.offset, len: run.len }).await;
    }
}

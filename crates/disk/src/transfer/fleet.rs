//! The writers of a transfer: one task and one bounded channel each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use model::{Error, ExtentList, Kind, Result};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::{Id, JoinError, JoinSet};

use super::LEAVES_PER_CHUNK;
use crate::{DiskRead, DiskWrite, LEAF, Leaf, Progress, Written};

/// Messages that may wait for one writer. Data is bounded by the transfer's memory; this bounds zeroes.
const WAITING: usize = 128;

/// What a writer's task is told.
#[derive(Clone)]
pub(super) enum Message {
    /// What will arrive.
    Expect(Arc<ExtentList>),
    /// Bytes; `leaves` are the hashes of the chunk that they come from and the index of the first of theirs.
    Data {
        offset: u64,
        data: Bytes,
        leaves: Option<(Arc<[Leaf; LEAVES_PER_CHUNK]>, usize)>,
        /// The chunk's memory, given back when the last writer has taken it.
        hold: Arc<OwnedSemaphorePermit>,
    },
    /// Zeroes.
    Zero { offset: u64, len: u64 },
    /// Everything has arrived. A channel that closes without it is a transfer that was given up: the writer must
    /// not be finished.
    Finish,
}

/// All writers. Dropping it ends their tasks.
pub(super) struct Fleet {
    tasks: JoinSet<Result<Written>>,
    /// By slot: the task that answers for it, or the answer.
    slots: Vec<Slot>,
    delivered: Arc<AtomicU64>,
    reported: u64,
}

struct Slot {
    task: Option<Id>,
    /// `None` when the task has ended.
    sender: Option<mpsc::Sender<Message>>,
    outcome: Option<Result<Written>>,
}

impl Fleet {
    /// Starts a task for each writer. A writer of another size than the reader has lost before it began.
    pub(super) fn start(reader: &dyn DiskRead, writers: Vec<Box<dyn DiskWrite>>) -> Self {
        let mut fleet =
            Self { tasks: JoinSet::new(), slots: Vec::new(), delivered: Arc::new(AtomicU64::new(0)), reported: 0 };
        for writer in writers {
            if writer.size() != reader.size() {
                let what = format!("cannot copy {} of {} bytes", reader.describe(), reader.size());
                let error = Error::new(Kind::Invalid, what)
                    .because(format!("the destination has a size of {} bytes", writer.size()));
                fleet.slots.push(Slot { task: None, sender: None, outcome: Some(Err(error)) });
                continue;
            }
            let (sender, receiver) = mpsc::channel(WAITING);
            let handle = fleet.tasks.spawn(serve(writer, receiver, fleet.delivered.clone()));
            fleet.slots.push(Slot { task: Some(handle.id()), sender: Some(sender), outcome: None });
        }
        fleet
    }

    /// Whether no writer is left (also: there never was one).
    pub(super) fn is_lost(&self) -> bool {
        self.slots.iter().all(|slot| slot.sender.is_none())
    }

    /// Gives every remaining writer the message, in order.
    pub(super) async fn send(&mut self, message: Message) {
        for slot in &mut self.slots {
            if let Some(sender) = &slot.sender
                && sender.send(message.clone()).await.is_err()
            {
                slot.sender = None;
            }
        }
    }

    /// Passes on what the tasks have counted.
    pub(super) fn report(&mut self, progress: &dyn Progress) {
        let now = self.delivered.load(Ordering::Relaxed);
        progress.delivered(now - self.reported);
        self.reported = now;
    }

    /// Finishes the remaining writers and waits for all answers.
    pub(super) async fn finish(mut self, progress: &dyn Progress) -> Result<Vec<Result<Written>>> {
        self.send(Message::Finish).await;
        while let Some(ended) = self.tasks.join_next_with_id().await {
            let (id, outcome) = match ended {
                Ok((id, outcome)) => (id, outcome),
                Err(error) => (error.id(), Err(broken(error))),
            };
            if let Some(slot) = self.slots.iter_mut().find(|slot| slot.task == Some(id)) {
                slot.outcome = Some(outcome);
            }
            self.report(progress);
        }
        let lost = || Err(Error::new(Kind::Permanent, "cannot tell how a writer ended"));
        Ok(self.slots.into_iter().map(|slot| slot.outcome.unwrap_or_else(lost)).collect())
    }
}

fn broken(error: JoinError) -> Error {
    let kind = if error.is_cancelled() { Kind::Cancelled } else { Kind::Permanent };
    Error::new(kind, "cannot go on with a writer").because(error)
}

/// The task of one writer.
async fn serve(
    mut writer: Box<dyn DiskWrite>,
    mut receiver: mpsc::Receiver<Message>,
    delivered: Arc<AtomicU64>,
) -> Result<Written> {
    while let Some(message) = receiver.recv().await {
        match message {
            Message::Expect(extents) if writer.wants_extents() => writer.announce(&extents).await?,
            Message::Expect(_) => {}
            Message::Data { offset, data, leaves, hold } => {
                let given = match &leaves {
                    Some((leaves, first)) => write_missing(&mut writer, offset, data, &leaves[*first..]).await?,
                    None => {
                        let len = data.len() as u64;
                        writer.write(offset, data).await?;
                        len
                    }
                };
                delivered.fetch_add(given, Ordering::Relaxed);
                drop(hold);
            }
            Message::Zero { offset, len } => writer.zero(offset, len).await?,
            Message::Finish => return writer.finish().await,
        }
    }
    Err(Error::new(Kind::Cancelled, "cannot finish a writer: the transfer was given up"))
}

/// Writes the runs of leaves that the writer does not have, and tells how many bytes that were.
async fn write_missing(writer: &mut Box<dyn DiskWrite>, offset: u64, data: Bytes, leaves: &[Leaf]) -> Result<u64> {
    let count = data.len().div_ceil(LEAF as usize);
    let wanted = |writer: &dyn DiskWrite, at: usize| !writer.has_leaf(offset / LEAF + at as u64, &leaves[at]);
    let (mut given, mut first) = (0, 0);
    while first < count {
        let mut end = first;
        while end < count && wanted(writer.as_ref(), end) {
            end += 1;
        }
        if first < end {
            let (from, to) = (first * LEAF as usize, (end * LEAF as usize).min(data.len()));
            writer.write(offset + from as u64, data.slice(from..to)).await?;
            given += (to - from) as u64;
        }
        // leaf `end` is not wanted, or behind the data
        first = end + 1;
    }
    Ok(given)
}

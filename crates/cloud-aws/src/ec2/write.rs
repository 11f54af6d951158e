//! Writing a snapshot by its blocks of 512 KiB, on nothing or on an earlier snapshot.
//!
//! * Blocks that nobody writes are the parent's; without a parent they are zero, but not in an encrypted snapshot,
//!   where they are noise: there every block is written.
//! * Leaves that arrive as the parent has them cost nothing. A block of which only a part changed is completed from
//!   the parent.

use std::path::Path;

use async_trait::async_trait;
use aws_sdk_ebs::types::{ChecksumAggregationMethod, ChecksumAlgorithm};
use bytes::Bytes;
use cloud::leaves::InOrder;
use cloud::records::Noted;
use disk::{DiskWrite, LEAF, Leaf, Written, zero_leaf};
use model::{Error, Kind, Result, crash};

use super::blocks::{BLOCK, BlockReader};
use super::config::Clients;
use super::error::classify;
use super::patience::{flight, patiently};
use super::put::{Block, Puts};
use super::records::{self, Record};
use super::snapshot::{self, GIB};

/// Leaves of a block.
const LEAVES: u64 = BLOCK / LEAF;

/// What a disk is written over.
pub(super) struct Base {
    pub(super) record: Record,
    /// Blocks that the parent's volume has; behind them is nobody's.
    pub(super) blocks: u64,
}

/// A block that is being put together: bytes of the leaves that changed.
struct Open {
    index: u64,
    bytes: Vec<u8>,
    changed: [bool; LEAVES as usize],
}

/// A snapshot that is being written.
pub(super) struct BlockWriter {
    clients: Clients,
    snapshot: String,
    /// Blocks that nobody writes are noise.
    noisy: bool,
    /// Of the base: how many blocks its volume has.
    blocks: Option<u64>,
    open: Option<Open>,
    leaves: InOrder,
    /// The first block that was not passed yet.
    next: u64,
    puts: Puts,
    received: u64,
    fresh: u64,
}

impl BlockWriter {
    pub(super) async fn new(
        clients: &Clients,
        snapshot: &str,
        size: u64,
        noisy: bool,
        base: Option<(Base, BlockReader)>,
        scratch: &Path,
    ) -> Result<Self> {
        let (base, parent) = base.unzip();
        let (blocks, known) = base.map(|base| (base.blocks, base.record)).unzip();
        Ok(Self {
            clients: clients.clone(),
            snapshot: snapshot.to_owned(),
            noisy,
            blocks,
            open: None,
            leaves: InOrder::begin(records::path(scratch, snapshot), size, known).await?,
            next: 0,
            puts: Puts::new(clients, snapshot, parent),
            received: 0,
            fresh: 0,
        })
    }

    fn operation(&self) -> String {
        format!("cannot write snapshot {}", self.snapshot)
    }

    fn check(&self, offset: u64, len: u64) -> Result<()> {
        self.leaves.check(offset, len).map_err(|error| error.within(self.operation()))
    }

    /// Takes one leaf and its bytes, which zeroes need not have.
    async fn take(&mut self, index: u64, new: Noted, data: &[u8]) -> Result<()> {
        self.leaves.skip_to(index)?;
        let is_there = self.leaves.is_there(&new.leaf)?;
        self.leaves.note(&new)?;
        if is_there {
            return Ok(());
        }
        let (block, at) = (index / LEAVES, (index % LEAVES) as usize);
        if self.open.as_ref().is_some_and(|open| open.index != block) {
            self.close().await?;
        }
        let open = self.open.get_or_insert_with(|| Open {
            index: block,
            bytes: vec![0; BLOCK as usize],
            changed: [false; LEAVES as usize],
        });
        open.changed[at] = true;
        if new.leaf != zero_leaf() {
            open.bytes[at * LEAF as usize..][..data.len()].copy_from_slice(data);
            self.fresh += data.len() as u64;
        }
        Ok(())
    }

    /// Puts the block that is open.
    async fn close(&mut self) -> Result<()> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let mut rest = Vec::new();
        if self.blocks.is_some() {
            for at in (0..LEAVES).filter(|at| !open.changed[*at as usize]) {
                if self.leaves.of_base(open.index * LEAVES + at)?.leaf != zero_leaf() {
                    rest.push(at as usize);
                }
            }
        }
        self.pass(open.index).await?;
        self.next = open.index + 1;
        self.puts.begin(Block { index: open.index, bytes: open.bytes.into(), rest }).await
    }

    /// Blocks before this one do not arrive any more.
    async fn pass(&mut self, index: u64) -> Result<()> {
        if !self.noisy {
            return Ok(());
        }
        // what the parent has was written by us, every block of it
        self.next = self.next.max(self.blocks.unwrap_or_default());
        let zeroes = Bytes::from(vec![0; BLOCK as usize]);
        while self.next < index {
            let at = self.next;
            self.next += 1;
            self.puts.begin(Block { index: at, bytes: zeroes.clone(), rest: Vec::new() }).await?;
        }
        Ok(())
    }
}

/// Seals a snapshot of so many blocks. An answer that was lost shows in its state.
async fn complete(clients: &Clients, id: &str, count: u64, sum: &str) -> Result<()> {
    let operation = format!("cannot complete snapshot {id}");
    let count = i32::try_from(count).map_err(|error| Error::new(Kind::Invalid, &operation).because(error))?;
    crash::point("aws.snapshot-complete.before");
    let (flight, what) = (flight(), format!("complete snapshot {id}"));
    let sealed = patiently(&flight, &what, || {
        let call = clients.ebs.complete_snapshot().snapshot_id(id).changed_blocks_count(count);
        let call = match count {
            0 => call,
            _ => call
                .checksum(sum)
                .checksum_algorithm(ChecksumAlgorithm::ChecksumAlgorithmSha256)
                .checksum_aggregation_method(ChecksumAggregationMethod::ChecksumAggregationLinear),
        };
        let sent = call.send();
        let operation = &operation;
        async move { sent.await.map_err(|error| classify(operation, error)) }
    });
    let sealed = sealed.await.map(drop);
    crash::point("aws.snapshot-complete.after");
    match sealed {
        // no longer open: sealed by a call whose answer was lost, or in error, which its state will tell
        Err(error) if error.kind() == Kind::Invalid && error.chain().contains("INVALID_SNAPSHOT_ID") => Ok(()),
        sealed => sealed,
    }
}

#[async_trait]
impl DiskWrite for BlockWriter {
    fn size(&self) -> u64 {
        self.leaves.size()
    }

    async fn write(&mut self, offset: u64, data: Bytes) -> Result<()> {
        self.check(offset, data.len() as u64)?;
        self.received += data.len() as u64;
        let leaves = cloud::records::noted(data.clone()).await?;
        for ((index, leaf), piece) in (offset / LEAF..).zip(leaves).zip(data.chunks(LEAF as usize)) {
            self.take(index, leaf, piece).await?;
        }
        Ok(())
    }

    async fn zero(&mut self, offset: u64, len: u64) -> Result<()> {
        self.check(offset, len)?;
        let (from, to) = (offset / LEAF, (offset + len).div_ceil(LEAF));
        if self.blocks.is_none() {
            // what does not arrive is zero anyhow
            return self.leaves.skip_to(to);
        }
        for index in from..to {
            self.take(index, Noted::zero(), &[]).await?;
        }
        Ok(())
    }

    fn has_leaf(&self, index: u64, leaf: &Leaf) -> bool {
        self.leaves.has(index, leaf)
    }

    fn may_have_leaves(&self) -> bool {
        self.leaves.has_base()
    }

    async fn finish(mut self: Box<Self>) -> Result<Written> {
        self.close().await?;
        self.leaves.skip_to(self.leaves.count())?;
        self.pass(self.leaves.size().div_ceil(GIB) * (GIB / BLOCK)).await?;
        let Self { clients, snapshot, leaves, puts, received, fresh, .. } = *self;
        let (count, sum) = puts.end().await?;
        complete(&clients, &snapshot, count, &sum).await?;
        snapshot::wait_completed(&clients, &snapshot, count * BLOCK).await?;
        Ok(Written { root: leaves.finish().await?, received, fresh, stored: count * BLOCK })
    }
}

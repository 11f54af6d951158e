//! Writing a snapshot by its blocks of 512 KiB, on nothing or on an earlier snapshot.
//!
//! * Blocks that nobody writes are the parent's; without a parent they are zero, but not in an encrypted snapshot,
//!   where they are noise: there every block is written.
//! * Leaves that arrive as the parent has them cost nothing. A block of which only a part changed is completed from
//!   the parent.
//! * Blocks are put in parallel, as many as the service bears; the sums of all, in order, seal the snapshot.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use aws_lc_rs::digest;
use aws_sdk_ebs::primitives::ByteStream;
use aws_sdk_ebs::types::{ChecksumAggregationMethod, ChecksumAlgorithm};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use cloud::leaves::InOrder;
use cloud::records::Noted;
use disk::{DiskWrite, LEAF, Leaf, Written, zero_leaf};
use model::{Error, Kind, Result, crash};
use tokio::task::JoinSet;

use super::blocks::{BLOCK, BlockReader};
use super::config::Clients;
use super::error::classify;
use super::patience::{Flight, patiently};
use super::records::{self, Record};
use super::snapshot::{self, GIB};

/// Leaves of a block.
const LEAVES: u64 = BLOCK / LEAF;

/// What a disk is written over.
pub(super) struct Base {
    pub(super) reader: BlockReader,
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
    /// Of the base: its bytes, and how many blocks its volume has.
    base: Option<(BlockReader, u64)>,
    open: Option<Open>,
    leaves: InOrder,
    /// The first block that was not passed yet.
    next: u64,
    sums: digest::Context,
    flight: Arc<Flight>,
    puts: JoinSet<Result<()>>,
    count: u64,
    received: u64,
    fresh: u64,
}

impl BlockWriter {
    pub(super) async fn new(
        clients: &Clients,
        snapshot: &str,
        size: u64,
        noisy: bool,
        base: Option<Base>,
        scratch: &Path,
    ) -> Result<Self> {
        let (base, known) = base.map(|base| ((base.reader, base.blocks), base.record)).unzip();
        Ok(Self {
            clients: clients.clone(),
            snapshot: snapshot.to_owned(),
            noisy,
            base,
            open: None,
            leaves: InOrder::begin(records::path(scratch, snapshot), size, known).await?,
            next: 0,
            sums: digest::Context::new(&digest::SHA256),
            flight: Arc::default(),
            puts: JoinSet::new(),
            count: 0,
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

    /// Completes the block that is open, and puts it.
    async fn close(&mut self) -> Result<()> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        if let Some((base, _)) = &self.base {
            let mut rest = Vec::new();
            for at in (0..LEAVES).filter(|at| !open.changed[*at as usize]) {
                if self.leaves.of_base(open.index * LEAVES + at)?.leaf != zero_leaf() {
                    rest.push(at as usize);
                }
            }
            if !rest.is_empty() {
                let what = format!("read block {} of {}", open.index, disk::DiskRead::describe(base));
                let bytes = patiently(&self.flight, &what, || base.block(open.index)).await?;
                let bytes = bytes.ok_or_else(|| {
                    Error::new(Kind::Damaged, self.operation())
                        .because(format!("the parent has no block {}, and its record has one", open.index))
                })?;
                for at in rest.into_iter().map(|at| at * LEAF as usize) {
                    open.bytes[at..at + LEAF as usize].copy_from_slice(&bytes[at..at + LEAF as usize]);
                }
            }
        }
        self.pass(open.index).await?;
        self.next = open.index + 1;
        self.put(open.index, open.bytes.into()).await
    }

    /// Blocks before this one do not arrive any more.
    async fn pass(&mut self, index: u64) -> Result<()> {
        if !self.noisy {
            return Ok(());
        }
        // what the parent has was written by us, every block of it
        self.next = self.next.max(self.base.as_ref().map_or(0, |(_, blocks)| *blocks));
        let zeroes = Bytes::from(vec![0; BLOCK as usize]);
        while self.next < index {
            let at = self.next;
            self.next += 1;
            self.put(at, zeroes.clone()).await?;
        }
        Ok(())
    }

    async fn put(&mut self, index: u64, bytes: Bytes) -> Result<()> {
        while self.puts.len() >= self.flight.allowed() {
            self.one_is_put().await?;
        }
        let sum = digest::digest(&digest::SHA256, &bytes);
        self.sums.update(sum.as_ref());
        self.count += 1;
        let (clients, snapshot, flight) = (self.clients.clone(), self.snapshot.clone(), Arc::clone(&self.flight));
        let sum = STANDARD.encode(sum);
        self.puts.spawn(async move {
            let what = format!("put block {index} of snapshot {snapshot}");
            patiently(&flight, &what, || put(&clients, &snapshot, index, &bytes, &sum)).await
        });
        Ok(())
    }

    async fn one_is_put(&mut self) -> Result<()> {
        match self.puts.join_next().await {
            None => Ok(()),
            Some(done) => done.map_err(|error| Error::new(Kind::Permanent, self.operation()).because(error))?,
        }
    }

    /// Seals the snapshot. An answer that was lost shows in its state.
    async fn complete(&mut self) -> Result<()> {
        let operation = format!("cannot complete snapshot {}", self.snapshot);
        let count = i32::try_from(self.count).map_err(|error| Error::new(Kind::Invalid, &operation).because(error))?;
        let sums = std::mem::replace(&mut self.sums, digest::Context::new(&digest::SHA256));
        let sum = (count > 0).then(|| STANDARD.encode(sums.finish()));
        crash::point("aws.snapshot-complete.before");
        let what = format!("complete snapshot {}", self.snapshot);
        let sealed = patiently(&self.flight, &what, || {
            let call = self.clients.ebs.complete_snapshot().snapshot_id(&self.snapshot).changed_blocks_count(count);
            let call = match &sum {
                Some(sum) => call
                    .checksum(sum)
                    .checksum_algorithm(ChecksumAlgorithm::ChecksumAlgorithmSha256)
                    .checksum_aggregation_method(ChecksumAggregationMethod::ChecksumAggregationLinear),
                None => call,
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
}

async fn put(clients: &Clients, snapshot: &str, index: u64, bytes: &Bytes, sum: &str) -> Result<()> {
    let operation = || format!("cannot put block {index} of snapshot {snapshot}");
    let at = i32::try_from(index).map_err(|error| Error::new(Kind::Invalid, operation()).because(error))?;
    let call = clients.ebs.put_snapshot_block().snapshot_id(snapshot).block_index(at);
    let call =
        call.data_length(BLOCK as i32).checksum(sum).checksum_algorithm(ChecksumAlgorithm::ChecksumAlgorithmSha256);
    let answer = call.block_data(ByteStream::from(bytes.clone())).send().await;
    answer.map(drop).map_err(|error| classify(operation(), error))
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
        if self.base.is_none() {
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
        while !self.puts.is_empty() {
            self.one_is_put().await?;
        }
        self.complete().await?;
        snapshot::wait_completed(&self.clients, &self.snapshot, self.count * BLOCK).await?;
        let Self { leaves, received, fresh, count, .. } = *self;
        Ok(Written { root: leaves.finish().await?, received, fresh, stored: count * BLOCK })
    }
}

//! Blocks on their way into a snapshot: completed from the parent where only a part of one changed, summed and put, as
//! many at once as the service bears. The sums of all, in order, seal the snapshot.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::digest;
use aws_sdk_ebs::primitives::ByteStream;
use aws_sdk_ebs::types::ChecksumAlgorithm;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use cloud::Flight;
use disk::LEAF;
use model::{Error, Kind, Result};
use tokio::task::JoinSet;

use super::blocks::{BLOCK, BlockReader};
use super::config::Clients;
use super::error::classify;
use super::patience::{MOST, flight, patiently};

/// A block that is to be put.
pub(super) struct Block {
    pub(super) index: u64,
    pub(super) bytes: Bytes,
    /// Its leaves that are the parent's.
    pub(super) rest: Vec<usize>,
}

/// Where blocks go.
struct Snapshot {
    clients: Clients,
    id: String,
    parent: Option<BlockReader>,
    flight: Flight,
}

/// All blocks of a snapshot that were begun.
pub(super) struct Puts {
    snapshot: Arc<Snapshot>,
    tasks: JoinSet<Result<(u64, digest::Digest)>>,
    begun: u64,
    /// Sums of blocks that were faster than one before them.
    early: BTreeMap<u64, digest::Digest>,
    /// Of the blocks before `summed`.
    sums: digest::Context,
    summed: u64,
}

impl Puts {
    pub(super) fn new(clients: &Clients, id: &str, parent: Option<BlockReader>) -> Self {
        let snapshot = Snapshot { clients: clients.clone(), id: id.to_owned(), parent, flight: flight() };
        Self {
            snapshot: Arc::new(snapshot),
            tasks: JoinSet::new(),
            begun: 0,
            early: BTreeMap::new(),
            sums: digest::Context::new(&digest::SHA256),
            summed: 0,
        }
    }

    /// Begins with a block, once there is memory for it. Blocks come in their order.
    pub(super) async fn begin(&mut self, block: Block) -> Result<()> {
        while self.tasks.len() >= MOST {
            self.one_is_put().await?;
        }
        let (snapshot, number) = (Arc::clone(&self.snapshot), self.begun);
        self.begun += 1;
        self.tasks.spawn(async move { Ok((number, snapshot.put(block).await?)) });
        Ok(())
    }

    async fn one_is_put(&mut self) -> Result<()> {
        let Some(done) = self.tasks.join_next().await else { return Ok(()) };
        let operation = || format!("cannot write snapshot {}", self.snapshot.id);
        let (number, sum) = done.map_err(|error| Error::new(Kind::Permanent, operation()).because(error))??;
        self.early.insert(number, sum);
        while let Some(sum) = self.early.remove(&self.summed) {
            self.sums.update(sum.as_ref());
            self.summed += 1;
        }
        Ok(())
    }

    /// Waits for all blocks; answers how many they are, and the sum of their sums.
    pub(super) async fn end(mut self) -> Result<(u64, String)> {
        while !self.tasks.is_empty() {
            self.one_is_put().await?;
        }
        Ok((self.summed, STANDARD.encode(self.sums.finish())))
    }
}

impl Snapshot {
    async fn put(&self, block: Block) -> Result<digest::Digest> {
        let index = block.index;
        let bytes = if block.rest.is_empty() { block.bytes } else { self.completed(block).await? };
        let sum = digest::digest(&digest::SHA256, &bytes);
        let encoded = STANDARD.encode(sum);
        let what = format!("put block {index} of snapshot {}", self.id);
        patiently(&self.flight, &what, || self.send(index, &bytes, &encoded)).await?;
        Ok(sum)
    }

    /// The block with the leaves that the parent has.
    async fn completed(&self, block: Block) -> Result<Bytes> {
        let lost = || {
            Error::new(Kind::Damaged, format!("cannot write snapshot {}", self.id))
                .because(format!("the parent has no block {}, and its record has one", block.index))
        };
        let parent = self.parent.as_ref().ok_or_else(lost)?;
        let old = parent.block(block.index).await?.ok_or_else(lost)?;
        let mut bytes = Vec::from(block.bytes);
        for at in block.rest.iter().map(|at| at * LEAF as usize) {
            bytes[at..at + LEAF as usize].copy_from_slice(&old[at..at + LEAF as usize]);
        }
        Ok(bytes.into())
    }

    async fn send(&self, index: u64, bytes: &Bytes, sum: &str) -> Result<()> {
        let operation = || format!("cannot put block {index} of snapshot {}", self.id);
        let at = i32::try_from(index).map_err(|error| Error::new(Kind::Invalid, operation()).because(error))?;
        let call = self.clients.ebs.put_snapshot_block().snapshot_id(&self.id).block_index(at);
        let call = call.data_length(BLOCK as i32).checksum(sum);
        let call = call.checksum_algorithm(ChecksumAlgorithm::ChecksumAlgorithmSha256);
        let answer = call.block_data(ByteStream::from(bytes.clone())).send().await;
        answer.map(drop).map_err(|error| classify(operation(), error))
    }
}

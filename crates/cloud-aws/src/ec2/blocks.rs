//! Reading a snapshot by its blocks of 512 KiB, whole or what changed since an earlier one.
//!
//! Tokens of blocks come with the lists, a page at a time, and a few pages are kept. Every block's checksum is
//! compared. Pages may be empty and have a successor. Each block is tried again by itself: a snapshot's limit counts
//! blocks, and what comes behind one that is throttled does not wait for it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use aws_lc_rs::digest;
use aws_smithy_types::byte_stream::ByteStream;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use cloud::Flight;
use disk::{Buffer, DiskRead};
use futures::{StreamExt, TryStreamExt, stream};
use model::{Error, Extent, ExtentList, Kind, Result};

use super::config::Clients;
use super::error::classify;
use super::patience::{MOST, flight, patiently};

/// Bytes of a block.
pub(super) const BLOCK: u64 = 512 << 10;
/// Blocks that one page of a list is asked for: the most that there are. Nothing is read while the next one is asked for.
const PAGE: i32 = 10_000;
/// Pages that are kept.
const PAGES: usize = 4;
/// Blocks that are kept: a caller may read less than one at a time.
const KEPT: usize = 16;
/// Blocks of one read that are fetched at once.
const AT_ONCE: usize = 8;

/// Some of what the lists said.
struct Page {
    from: u64,
    to: u64,
    /// Blocks between `from` and `to` that have no token are holes; in a list of changes nothing is said of them.
    complete: bool,
    /// A block without a token reads as zero.
    tokens: HashMap<u64, Option<String>>,
}

/// A page of a list: its blocks in order, and where it ends (none: nothing follows).
struct Listed {
    blocks: Vec<(u64, Option<String>)>,
    end: Option<u64>,
}

/// A snapshot that is read.
pub(super) struct BlockReader {
    clients: Clients,
    snapshot: String,
    /// The earlier snapshot that it is compared with.
    base: Option<String>,
    size: u64,
    name: String,
    pages: Mutex<VecDeque<Page>>,
    kept: Mutex<VecDeque<(u64, Bytes)>>,
    listing: tokio::sync::Mutex<()>,
    /// Calls for lists, which have a limit of their own.
    lists: Flight,
    fetches: Flight,
}

impl BlockReader {
    /// A reader of a whole snapshot, or of what changed in it since `base`. `name` is for messages.
    pub(super) fn new(clients: &Clients, snapshot: &str, base: Option<String>, size: u64, name: String) -> Self {
        Self {
            clients: clients.clone(),
            snapshot: snapshot.to_owned(),
            base,
            size,
            name,
            pages: Mutex::default(),
            kept: Mutex::default(),
            listing: tokio::sync::Mutex::default(),
            lists: flight(),
            fetches: flight(),
        }
    }

    fn pages(&self) -> MutexGuard<'_, VecDeque<Page>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, page: Page) {
        let mut pages = self.pages();
        if pages.len() == PAGES {
            pages.pop_front();
        }
        pages.push_back(page);
    }

    /// What is known of a block: none, nothing; `Some(None)`, it is a hole.
    fn known(&self, index: u64) -> Option<Option<String>> {
        self.pages().iter().rev().find_map(|page| match page.tokens.get(&index) {
            Some(token) => Some(token.clone()),
            None if page.complete && (page.from..page.to).contains(&index) => Some(None),
            None => None,
        })
    }

    fn last(&self) -> u64 {
        self.size.div_ceil(BLOCK)
    }

    /// The next blocks of the snapshot, or of the changes, at or after `from`.
    async fn list(&self, from: u64, changes: bool) -> Result<Listed> {
        let what = format!("list blocks of snapshot {}", self.snapshot);
        patiently(&self.lists, &what, || self.list_once(from, changes)).await
    }

    async fn list_once(&self, from: u64, changes: bool) -> Result<Listed> {
        let operation = || format!("cannot list blocks of snapshot {} from {from}", self.snapshot);
        let start = i32::try_from(from).map_err(|error| Error::new(Kind::Invalid, operation()).because(error))?;
        let base = self.base.as_ref().filter(|_| changes);
        let mut next: Option<String> = None;
        loop {
            // a token stands above the index
            let index = next.is_none().then_some(start);
            let (blocks, token) = match base {
                Some(base) => {
                    let call = self.clients.ebs.list_changed_blocks().first_snapshot_id(base);
                    let call = call.second_snapshot_id(&self.snapshot).max_results(PAGE);
                    let call = call.set_starting_block_index(index).set_next_token(next.take());
                    let page = call.send().await.map_err(|error| classify(operation(), error))?;
                    let blocks = page.changed_blocks().iter();
                    let blocks = blocks.map(|it| (it.block_index(), it.second_block_token().map(str::to_owned)));
                    (blocks.collect::<Vec<_>>(), page.next_token().map(str::to_owned))
                }
                None => {
                    let call = self.clients.ebs.list_snapshot_blocks().snapshot_id(&self.snapshot).max_results(PAGE);
                    let call = call.set_starting_block_index(index).set_next_token(next.take());
                    let page = call.send().await.map_err(|error| classify(operation(), error))?;
                    let blocks = page.blocks().iter();
                    let blocks = blocks.map(|it| (it.block_index(), it.block_token().map(str::to_owned)));
                    (blocks.collect(), page.next_token().map(str::to_owned))
                }
            };
            let blocks = blocks.into_iter().filter_map(|(index, token)| Some((u64::try_from(index?).ok()?, token)));
            let blocks: Vec<_> = blocks.filter(|(index, _)| *index >= from).collect();
            let end = match (&token, blocks.last()) {
                (None, _) => None,
                (Some(_), Some((last, _))) => Some(last + 1),
                (Some(_), None) => {
                    next = token;
                    continue;
                }
            };
            let tokens = blocks.iter().cloned().collect();
            self.keep(Page { from, to: end.unwrap_or(u64::MAX), complete: base.is_none(), tokens });
            return Ok(Listed { blocks, end });
        }
    }

    /// A block's token; none: it is a hole.
    async fn token(&self, index: u64) -> Result<Option<String>> {
        if let Some(known) = self.known(index) {
            return Ok(known);
        }
        let _one = self.listing.lock().await;
        if let Some(known) = self.known(index) {
            return Ok(known);
        }
        self.list(index, false).await?;
        Ok(self.known(index).flatten())
    }

    /// The bytes of a block; none: it is a hole.
    pub(super) async fn block(&self, index: u64) -> Result<Option<Bytes>> {
        let kept = |reader: &Self| {
            let kept = reader.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.iter().find(|(at, _)| *at == index).map(|(_, bytes)| bytes.clone())
        };
        if let Some(bytes) = kept(self) {
            return Ok(Some(bytes));
        }
        if self.known(index) == Some(None) {
            return Ok(None);
        }
        let what = format!("read block {index} of snapshot {}", self.snapshot);
        let Some(bytes) = patiently(&self.fetches, &what, || self.fetch(index)).await? else { return Ok(None) };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back((index, bytes.clone()));
        Ok(Some(bytes))
    }

    async fn fetch(&self, index: u64) -> Result<Option<Bytes>> {
        let operation = || format!("cannot read block {index} of snapshot {}", self.snapshot);
        let Some(token) = self.token(index).await? else { return Ok(None) };
        let at = i32::try_from(index).map_err(|error| Error::new(Kind::Invalid, operation()).because(error))?;
        let call = self.clients.ebs.get_snapshot_block().snapshot_id(&self.snapshot);
        let answer = match call.block_index(at).block_token(token).send().await {
            Ok(answer) => answer,
            Err(error) => {
                let error = classify(operation(), error);
                if error.kind() != Kind::Throttled {
                    // a token may have expired: the next attempt gets a new one
                    self.pages().clear();
                }
                return Err(error);
            }
        };
        let checksum = answer.checksum().unwrap_or_default().to_owned();
        let body = checked(answer.block_data, &checksum).await;
        body.map(Some).map_err(|why| Error::new(Kind::Transient, operation()).because(why))
    }
}

/// The bytes of a block as they come, laid into one piece and summed part by part: twice the memory of what is in flight
/// would be held otherwise.
async fn checked(mut body: ByteStream, checksum: &str) -> Result<Bytes, String> {
    let (mut block, mut sum) = (BytesMut::with_capacity(BLOCK as usize), digest::Context::new(&digest::SHA256));
    while let Some(part) = body.try_next().await.map_err(|error| error.to_string())? {
        if block.len() + part.len() > BLOCK as usize {
            return Err(format!("it has more than {BLOCK} bytes"));
        }
        sum.update(&part);
        block.extend_from_slice(&part);
    }
    if block.len() as u64 != BLOCK {
        return Err(format!("it has {} bytes, not {BLOCK}", block.len()));
    }
    if STANDARD.encode(sum.finish()) != checksum {
        return Err("its bytes do not fit the checksum that came with them".to_owned());
    }
    Ok(block.freeze())
}

#[async_trait]
impl DiskRead for BlockReader {
    fn size(&self) -> u64 {
        self.size
    }

    async fn extents(&self, from: u64) -> Result<ExtentList> {
        let mut list = ExtentList::new();
        if from >= self.size {
            return Ok(list);
        }
        let first = from / BLOCK;
        let incremental = self.base.is_some();
        let Listed { blocks, end } = self.list(first, true).await?;
        let mut at = from;
        for (index, token) in blocks.into_iter().take_while(|(index, _)| *index < self.last()) {
            let (start, stop) = ((index * BLOCK).max(from), ((index + 1) * BLOCK).min(self.size));
            if !incremental {
                list.push(Extent::zero(at, start - at));
            }
            // a changed block that the later snapshot lacks became a hole
            list.push(if token.is_some() {
                Extent::data(start, stop - start)
            } else {
                Extent::zero(start, stop - start)
            });
            at = stop;
        }
        if !incremental && (end.is_none() || list.as_slice().is_empty()) {
            list.push(Extent::zero(at, self.size - at));
        }
        Ok(list)
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let end = offset.checked_add(len as u64).filter(|end| *end <= self.size);
        let Some(end) = end.filter(|_| len > 0) else {
            return Err(Error::new(Kind::Invalid, format!("cannot read {len} bytes at {offset} of {}", self.name))
                .because(format!("it has {} bytes", self.size)));
        };
        let pieces = stream::iter(offset / BLOCK..end.div_ceil(BLOCK)).map(|index| async move {
            let (from, to) = (offset.max(index * BLOCK), end.min((index + 1) * BLOCK));
            let (skip, take) = ((from - index * BLOCK) as usize, (to - from) as usize);
            let block = self.block(index).await?;
            Ok::<_, Error>(block.map_or_else(|| Bytes::from(vec![0; take]), |bytes| bytes.slice(skip..skip + take)))
        });
        let pieces: Vec<Bytes> = pieces.buffered(AT_ONCE).try_collect().await?;
        if let [only] = pieces.as_slice() {
            return Ok(only.clone());
        }
        let (mut all, mut at) = (Buffer::take(len), 0);
        for piece in &pieces {
            all.as_mut()[at..at + piece.len()].copy_from_slice(piece);
            at += piece.len();
        }
        Ok(all.freeze())
    }

    fn is_incremental(&self) -> bool {
        self.base.is_some()
    }

    fn in_flight(&self) -> u64 {
        MOST as u64 * BLOCK
    }

    fn lists_holes(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        self.name.clone()
    }
}

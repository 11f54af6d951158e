//! Filling packs: blocks become frames, frames are encoded on the workers, full packs are stored while the next fills.
//!
//! Everything is bounded: frames that are being encoded, packs that are being stored, buffers that are reused.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::BytesMut;
use disk::Buffer;
use model::{Result, crash};
use tokio::task::JoinHandle;

use super::frame::{FrameEntry, FrameKind, Making, encode};
use super::{BLOCK, BlockAt, BlockId, FRAME, FRAME_BLOCKS, FrameAt, HEADER, PACK_FRAMES, PACK_TARGET, trailer};
use crate::PackId;
use crate::cipher::Cipher;
use crate::keys::broken;
use crate::options::Options;
use crate::shared::{Shared, lock};
use crate::work::{Pending, Workers};
use crate::writer::run::Run;

/// Packs that are stored while another one fills, where filling is fast.
const UPLOADS: usize = 2;
/// Room behind the target for frames that were on their way when it was reached, and for the trailer.
const SLACK: u64 = 6 << 20;

/// A frame that came back from a worker, and the level of its entry.
struct Encoded {
    sealed: Vec<u8>,
    level: u8,
}

/// How much is done to make frames small.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// zstd level.
    pub level: i32,
    /// Every n-th frame is decompressed again and compared (1: all, 0: none).
    pub check_every: u32,
    /// Packs that are stored while another one fills.
    pub uploads: usize,
}

struct Encoding {
    number: u32,
    kind: FrameKind,
    raw: u32,
    pending: Pending<Result<Encoded>>,
}

/// The frame that is being filled.
struct Filling {
    number: u32,
    plain: Buffer,
    blocks: usize,
}

/// Buffers for encoded frames and for packs. One large allocation per pack would come and go, and tear holes into the heap.
#[derive(Default)]
struct Spare {
    sealed: Mutex<Vec<Vec<u8>>>,
    body: Mutex<Option<BytesMut>>,
}

/// Room for a pack, where a directory can write it to the disk from.
fn room() -> BytesMut {
    let mut all = BytesMut::with_capacity((PACK_TARGET + SLACK) as usize + disk::ALIGN);
    let start = all.as_ptr().align_offset(disk::ALIGN).min(disk::ALIGN);
    all.resize(start, 0);
    all.split_off(start)
}

/// A pack that is being filled, or waits for its last frames.
struct Open {
    pack: PackId,
    cipher: Arc<Cipher>,
    body: BytesMut,
    entries: Vec<Option<FrameEntry>>,
    ids: Vec<Vec<BlockId>>,
    encoding: VecDeque<Encoding>,
    spare: Arc<Spare>,
}

impl Open {
    /// What the pack will have when all of its frames are encoded, at most.
    fn expected(&self) -> u64 {
        self.body.len() as u64 + self.encoding.iter().map(|frame| u64::from(frame.raw)).sum::<u64>() / 2
    }

    /// Begins a frame and returns its number.
    fn begin(&mut self, ids: Vec<BlockId>) -> u32 {
        let number = self.ids.len() as u32;
        self.ids.push(ids);
        self.entries.push(None);
        number
    }

    /// Waits for the oldest frame that is being encoded, and appends it. False if there is none.
    async fn take_in(&mut self) -> Result<bool> {
        let Some(Encoding { number, kind, raw, pending }) = self.encoding.pop_front() else { return Ok(false) };
        let Encoded { sealed, level } = pending.wait().await??;
        let blocks = self.ids.get(number as usize).map_or(0, Vec::len) as u16;
        let (offset, stored) = (self.body.len() as u32, sealed.len() as u32);
        self.body.extend_from_slice(&sealed);
        if let Some(slot) = self.entries.get_mut(number as usize) {
            *slot = Some(FrameEntry { kind, level, blocks, offset, stored, raw });
        }
        lock(&self.spare.sealed).push(sealed);
        Ok(true)
    }

    /// Completes the pack and stores it. Returns its size.
    async fn store(mut self, shared: Arc<Shared>, run: Arc<Run>) -> Result<u64> {
        while self.take_in().await? {}
        let entries: Option<Vec<FrameEntry>> = self.entries.iter().copied().collect();
        let entries = entries.ok_or_else(|| broken("a frame was never encoded"))?;
        let ids: Vec<BlockId> = self.ids.concat();
        let end = trailer::build(shared.keys.vault, self.pack, &self.cipher, &entries, &ids)?;
        self.body.extend_from_slice(&end);
        let (pack, body) = (self.pack, self.body.freeze());
        let size = body.len() as u64;
        crash::point("vault.pack.before");
        shared.create(&pack.key(), body.clone()).await?;
        crash::point("vault.pack.after");
        shared.packs.note_sizes([(pack, size as u32)]);
        run.stored(&shared, pack, &self.ids, size);
        if let Ok(body) = body.try_into_mut() {
            *lock(&self.spare.body) = Some(body);
        }
        Ok(size)
    }
}

/// A stream of blocks and pages into packs.
pub(crate) struct PackStream {
    shared: Arc<Shared>,
    run: Arc<Run>,
    open: Option<Open>,
    filling: Option<Filling>,
    spare: Arc<Spare>,
    uploads: VecDeque<JoinHandle<Result<u64>>>,
    effort: Effort,
    workers: Arc<Workers>,
    /// Bytes that were stored so far.
    pub stored: u64,
}

impl PackStream {
    /// A stream that has stored nothing, with the effort that the vault's options say.
    pub fn new(shared: Arc<Shared>, run: Arc<Run>) -> Self {
        let Options { level, check_every, .. } = shared.options;
        let effort = Effort { level, check_every, uploads: UPLOADS };
        let workers = shared.workers.clone();
        Self::with_effort(shared, run, effort, workers)
    }

    /// The same with another effort, that others make.
    pub fn with_effort(shared: Arc<Shared>, run: Arc<Run>, effort: Effort, workers: Arc<Workers>) -> Self {
        let spare = Arc::default();
        Self { shared, run, open: None, filling: None, spare, uploads: VecDeque::new(), effort, workers, stored: 0 }
    }

    /// Makes sure that [`push`](Self::push) has room for one block: closes a full frame, and a full pack.
    pub async fn make_room(&mut self) -> Result<()> {
        if self.filling.as_ref().is_some_and(|filling| filling.blocks < FRAME_BLOCKS) {
            return Ok(());
        }
        self.close_frame().await?;
        if self.is_full() {
            self.close_pack().await?;
        }
        let number = self.open_pack()?.begin(Vec::with_capacity(FRAME_BLOCKS));
        self.filling = Some(Filling { number, plain: Buffer::take(FRAME), blocks: 0 });
        Ok(())
    }

    /// Places one block, zero-padded if it is the disk's short last one. [`make_room`](Self::make_room) comes first.
    pub fn push(&mut self, id: BlockId, block: &[u8]) -> Result<BlockAt> {
        let (Some(open), Some(filling)) = (&mut self.open, &mut self.filling) else {
            return Err(broken("a block has no frame"));
        };
        let room = filling.plain.as_mut().get_mut(filling.blocks * BLOCK..(filling.blocks + 1) * BLOCK);
        let (Some(room), Some(ids)) = (room, open.ids.get_mut(filling.number as usize)) else {
            return Err(broken("a frame has no room"));
        };
        let at = BlockAt { at: FrameAt { pack: open.pack, frame: filling.number }, block: ids.len() as u16 };
        let (bytes, rest) = room.split_at_mut(block.len().min(BLOCK));
        bytes.copy_from_slice(&block[..bytes.len()]);
        rest.fill(0);
        ids.push(id);
        filling.blocks += 1;
        self.run.note(id, at);
        Ok(at)
    }

    /// Places a page of a map as a frame of its own.
    pub async fn page(&mut self, plain: Vec<u8>) -> Result<FrameAt> {
        self.relieve().await?;
        if self.is_full() {
            // pages alone can fill a pack: an increment that only zeroes or only finds known blocks
            self.close_frame().await?;
            self.close_pack().await?;
        }
        let open = self.open_pack()?;
        let at = FrameAt { pack: open.pack, frame: open.begin(Vec::new()) };
        let len = plain.len();
        self.encode(at.frame, FrameKind::Page, plain, len)?;
        Ok(at)
    }

    /// Stores everything that was placed. Afterwards the packs are durable.
    pub async fn flush(&mut self) -> Result<()> {
        self.close_frame().await?;
        self.close_pack().await?;
        while !self.uploads.is_empty() {
            self.await_upload().await?;
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.expected() >= PACK_TARGET || open.ids.len() + 1 >= PACK_FRAMES)
    }

    fn open_pack(&mut self) -> Result<&mut Open> {
        if self.open.is_none() {
            let pack = PackId::random();
            let mut body = lock(&self.spare.body).take().unwrap_or_else(room);
            body.clear();
            body.extend_from_slice(HEADER);
            self.open = Some(Open {
                pack,
                cipher: Arc::new(Cipher::new(&self.shared.keys.pack(pack))?),
                body,
                entries: Vec::new(),
                ids: Vec::new(),
                encoding: VecDeque::new(),
                spare: self.spare.clone(),
            });
        }
        self.open.as_mut().ok_or_else(|| broken("there is no open pack"))
    }

    async fn close_frame(&mut self) -> Result<()> {
        let Some(Filling { number, plain, blocks }) = self.filling.take() else { return Ok(()) };
        self.relieve().await?;
        self.encode(number, FrameKind::Data, plain, blocks * BLOCK)
    }

    /// Sends the first `len` bytes of `plain` to be encoded.
    fn encode(
        &mut self,
        number: u32,
        kind: FrameKind,
        plain: impl AsRef<[u8]> + Send + 'static,
        len: usize,
    ) -> Result<()> {
        let (vault, Effort { level, check_every, .. }) = (self.shared.keys.vault, self.effort);
        let check = check_every > 0 && number.is_multiple_of(check_every);
        let Some(open) = &mut self.open else { return Err(broken("a frame has no pack")) };
        let making = Making { vault, pack: open.pack, number, kind, level, check };
        let (cipher, spare) = (open.cipher.clone(), self.spare.clone());
        let pending = self.workers.submit(move |scratch| {
            let plain = plain.as_ref().get(..len).ok_or_else(|| broken("a frame is shorter than it is long"))?;
            let mut sealed = lock(&spare.sealed).pop().unwrap_or_default();
            let level = encode(making, &cipher, plain, &mut sealed, scratch)?;
            Ok(Encoded { sealed, level })
        });
        open.encoding.push_back(Encoding { number, kind, raw: len as u32, pending });
        Ok(())
    }

    /// Takes encoded frames in, and waits if too many are on their way.
    async fn relieve(&mut self) -> Result<()> {
        let most = self.workers.threads + 2;
        let Some(open) = &mut self.open else { return Ok(()) };
        while let Some(first) = open.encoding.front()
            && (first.pending.is_ready() || open.encoding.len() >= most)
        {
            open.take_in().await?;
        }
        Ok(())
    }

    /// Hands the pack on to be stored. The next one begins while this one's last frames are still being encoded.
    async fn close_pack(&mut self) -> Result<()> {
        let Some(open) = self.open.take() else { return Ok(()) };
        while self.uploads.len() >= self.effort.uploads {
            self.await_upload().await?;
        }
        self.uploads.push_back(tokio::spawn(open.store(self.shared.clone(), self.run.clone())));
        Ok(())
    }

    async fn await_upload(&mut self) -> Result<()> {
        let Some(upload) = self.uploads.pop_front() else { return Ok(()) };
        self.stored += upload.await.map_err(|e| broken("an upload broke off").because(e))??;
        Ok(())
    }
}

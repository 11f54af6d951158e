//! Filling packs: blocks become frames, frames are encoded on the workers, full packs are uploaded while the next fills.
//!
//! Everything is bounded: frames that are being encoded, packs that are being uploaded, buffers that are reused.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use model::{Result, crash};
use tokio::task::JoinHandle;

use super::frame::{FrameEntry, FrameKind, Making, encode};
use super::{BLOCK, BlockAt, BlockId, FRAME, FRAME_BLOCKS, FrameAt, HEADER, PACK_FRAMES, PACK_TARGET, trailer};
use crate::PackId;
use crate::cipher::Cipher;
use crate::keys::broken;
use crate::shared::Shared;
use crate::work::Pending;
use crate::writer::run::Run;

/// Bytes of a stored pack, and its buffer if it can be filled again.
type Uploaded = (u64, Option<BytesMut>);

/// Packs that are uploaded while another one fills.
const UPLOADS: usize = 2;
/// Room behind the target for frames that were on their way when it was reached, and for the trailer.
const SLACK: u64 = 6 << 20;

/// A frame that came back from a worker: both buffers, to be used again, and whether it is compressed.
struct Encoded {
    plain: Vec<u8>,
    sealed: Vec<u8>,
    zipped: bool,
}

struct Encoding {
    number: u32,
    kind: FrameKind,
    raw: u32,
    pending: Pending<Result<Encoded>>,
}

struct Filling {
    number: u32,
    plain: Vec<u8>,
}

/// The pack that is being filled.
struct Open {
    pack: PackId,
    cipher: Arc<Cipher>,
    body: BytesMut,
    entries: Vec<Option<FrameEntry>>,
    ids: Vec<Vec<BlockId>>,
    encoding: VecDeque<Encoding>,
}

impl Open {
    /// What the pack will have when all of its frames are encoded, at most.
    fn expected(&self) -> u64 {
        self.body.len() as u64 + self.encoding.iter().map(|frame| u64::from(frame.raw)).sum::<u64>() / 2
    }

    fn append(&mut self, number: u32, kind: FrameKind, raw: u32, zipped: bool, sealed: &[u8]) {
        let blocks = self.ids.get(number as usize).map_or(0, Vec::len) as u16;
        let (offset, stored) = (self.body.len() as u32, sealed.len() as u32);
        self.body.extend_from_slice(sealed);
        if let Some(slot) = self.entries.get_mut(number as usize) {
            *slot = Some(FrameEntry { kind, zipped, blocks, offset, stored, raw });
        }
    }
}

/// A stream of blocks and pages into packs.
pub(crate) struct PackStream {
    shared: Arc<Shared>,
    run: Arc<Run>,
    open: Option<Open>,
    filling: Option<Filling>,
    /// Buffers of frames, before and after encoding, and of packs.
    spare: Vec<Vec<u8>>,
    spare_sealed: Vec<Vec<u8>>,
    spare_body: Option<BytesMut>,
    uploads: VecDeque<JoinHandle<Result<Uploaded>>>,
    /// Bytes that were stored so far.
    pub stored: u64,
}

impl PackStream {
    /// A stream that has stored nothing.
    pub fn new(shared: Arc<Shared>, run: Arc<Run>) -> Self {
        Self {
            shared,
            run,
            open: None,
            filling: None,
            spare: Vec::new(),
            spare_sealed: Vec::new(),
            spare_body: None,
            uploads: VecDeque::new(),
            stored: 0,
        }
    }

    /// Makes sure that [`push`](Self::push) has room for one block: closes a full frame, and a full pack.
    pub async fn make_room(&mut self) -> Result<()> {
        if self.filling.as_ref().is_some_and(|filling| filling.plain.len() < FRAME) {
            return Ok(());
        }
        self.close_frame().await?;
        if self.is_full() {
            self.close_pack().await?;
        }
        let plain = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(FRAME));
        let open = self.open_pack()?;
        let number = open.ids.len() as u32;
        open.ids.push(Vec::with_capacity(FRAME_BLOCKS));
        open.entries.push(None);
        self.filling = Some(Filling { number, plain });
        Ok(())
    }

    /// Places one block, zero-padded if it is the disk's short last one. [`make_room`](Self::make_room) comes first.
    pub fn push(&mut self, id: BlockId, block: &[u8]) -> Result<BlockAt> {
        let (Some(open), Some(filling)) = (&mut self.open, &mut self.filling) else {
            return Err(broken("a block has no frame"));
        };
        let Some(ids) = open.ids.get_mut(filling.number as usize) else { return Err(broken("a frame has no ids")) };
        let at = BlockAt { at: FrameAt { pack: open.pack, frame: filling.number }, block: ids.len() as u16 };
        ids.push(id);
        filling.plain.extend_from_slice(block);
        filling.plain.resize(ids.len() * BLOCK, 0);
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
        let at = FrameAt { pack: open.pack, frame: open.ids.len() as u32 };
        open.ids.push(Vec::new());
        open.entries.push(None);
        self.encode(at.frame, FrameKind::Page, plain)?;
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
            // one large allocation per pack would come and go, and tear holes into the heap
            let room = || BytesMut::with_capacity((PACK_TARGET + SLACK) as usize);
            let mut body = self.spare_body.take().unwrap_or_else(room);
            body.clear();
            body.extend_from_slice(HEADER);
            self.open = Some(Open {
                pack,
                cipher: Arc::new(Cipher::new(&self.shared.keys.pack(pack))?),
                body,
                entries: Vec::new(),
                ids: Vec::new(),
                encoding: VecDeque::new(),
            });
        }
        self.open.as_mut().ok_or_else(|| broken("there is no open pack"))
    }

    async fn close_frame(&mut self) -> Result<()> {
        let Some(filling) = self.filling.take() else { return Ok(()) };
        self.relieve().await?;
        self.encode(filling.number, FrameKind::Data, filling.plain)
    }

    fn encode(&mut self, number: u32, kind: FrameKind, plain: Vec<u8>) -> Result<()> {
        let (vault, every) = (self.shared.keys.vault, self.shared.options.check_every);
        let check = every > 0 && number.is_multiple_of(every);
        let Some(open) = &mut self.open else { return Err(broken("a frame has no pack")) };
        let making = Making { vault, pack: open.pack, number, kind, check };
        let (cipher, raw) = (open.cipher.clone(), plain.len() as u32);
        let mut sealed = self.spare_sealed.pop().unwrap_or_default();
        let pending = self.shared.workers.submit(move |scratch| {
            let zipped = encode(making, &cipher, &plain, &mut sealed, scratch)?;
            Ok(Encoded { plain, sealed, zipped })
        });
        open.encoding.push_back(Encoding { number, kind, raw, pending });
        Ok(())
    }

    /// Takes encoded frames in, and waits if too many are on their way.
    async fn relieve(&mut self) -> Result<()> {
        let most = self.shared.workers.threads + 2;
        loop {
            let Some(open) = &mut self.open else { return Ok(()) };
            let Some(first) = open.encoding.front() else { return Ok(()) };
            if !first.pending.is_ready() && open.encoding.len() < most {
                return Ok(());
            }
            let Some(frame) = open.encoding.pop_front() else { return Ok(()) };
            self.take_in(frame).await?;
        }
    }

    async fn take_in(&mut self, frame: Encoding) -> Result<()> {
        let Encoding { number, kind, raw, pending } = frame;
        let Encoded { mut plain, sealed, zipped } = pending.wait().await??;
        let Some(open) = &mut self.open else { return Err(broken("a frame has no pack")) };
        open.append(number, kind, raw, zipped, &sealed);
        if kind == FrameKind::Data && self.spare.len() < self.shared.workers.threads + 2 {
            plain.clear();
            self.spare.push(plain);
            self.spare_sealed.push(sealed);
        }
        Ok(())
    }

    async fn close_pack(&mut self) -> Result<()> {
        while let Some(frame) = self.open.as_mut().and_then(|open| open.encoding.pop_front()) {
            self.take_in(frame).await?;
        }
        let Some(mut open) = self.open.take() else { return Ok(()) };
        let entries: Option<Vec<FrameEntry>> = open.entries.iter().copied().collect();
        let entries = entries.ok_or_else(|| broken("a frame was never encoded"))?;
        let ids: Vec<BlockId> = open.ids.concat();
        let end = trailer::build(self.shared.keys.vault, open.pack, &open.cipher, &entries, &ids)?;
        open.body.extend_from_slice(&end);
        while self.uploads.len() >= UPLOADS {
            self.await_upload().await?;
        }
        let (shared, run, pack, frames) = (self.shared.clone(), self.run.clone(), open.pack, open.ids);
        let body: Bytes = open.body.freeze();
        self.uploads.push_back(tokio::spawn(async move {
            let size = body.len() as u64;
            crash::point("vault.pack.before");
            shared.create(&pack.key(), body.clone()).await?;
            crash::point("vault.pack.after");
            shared.packs.note_sizes([(pack, size as u32)]);
            run.stored(&shared, pack, &frames, size);
            Ok((size, body.try_into_mut().ok()))
        }));
        Ok(())
    }

    async fn await_upload(&mut self) -> Result<()> {
        let Some(upload) = self.uploads.pop_front() else { return Ok(()) };
        let (size, body) = upload.await.map_err(|e| broken("an upload broke off").because(e))??;
        self.stored += size;
        self.spare_body = body.or(self.spare_body.take());
        Ok(())
    }
}

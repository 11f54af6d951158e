//! Requests of a client, many at once; replies go out in the order in which they are ready.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::{Change, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use super::UNIT;
use super::handshake::Session;
use super::wire::{self, Fields, broken, chunk, command, errno, receive};
use crate::is_zero;

/// Requests of one client that are worked on at once.
const RUNNING: usize = 64;
/// Extents in one answer.
const EXTENTS: usize = 1024;
/// How long a client may leave a reply lying.
const PATIENCE: Duration = Duration::from_secs(120);

/// A request, without what it would write.
#[derive(Debug, Clone, Copy)]
struct Request {
    flags: u16,
    kind: u16,
    cookie: u64,
    offset: u64,
    len: u32,
}

impl Request {
    fn parse(bytes: &[u8; 28]) -> Option<Self> {
        let mut fields = Fields(bytes);
        if fields.u32()? != wire::REQUEST {
            return None;
        }
        let (flags, kind, cookie) = (fields.u16()?, fields.u16()?, fields.u64()?);
        Some(Self { flags, kind, cookie, offset: fields.u64()?, len: fields.u32()? })
    }
}

/// What goes out: a head, a payload, and the memory that the payload holds.
struct Reply {
    head: Vec<u8>,
    data: Bytes,
    _hold: Option<OwnedSemaphorePermit>,
}

/// Serves requests until the client goes. Dropped, it ends what is worked on.
pub(super) async fn run<R, W>(session: Session, memory: &Arc<Semaphore>, mut input: R, output: W) -> Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (sender, receiver) = mpsc::channel(RUNNING);
    let session = Arc::new(session);
    let taking = async {
        let mut working = JoinSet::new();
        while let Some(bytes) = receive::<28>(&mut input).await? {
            let request = Request::parse(&bytes).ok_or_else(|| broken("it sent something that is no request"))?;
            if request.kind == command::DISCONNECT {
                break;
            }
            if request.kind == command::WRITE {
                discard(&mut input, request.len).await?;
            }
            while working.try_join_next().is_some() || working.len() >= RUNNING {
                if working.len() >= RUNNING {
                    working.join_next().await;
                }
            }
            let hold = if request.kind == command::READ && request.len <= wire::LONGEST {
                let units = u64::from(request.len).div_ceil(UNIT) as u32;
                Some(memory.clone().acquire_many_owned(units).await.map_err(broken)?)
            } else {
                None
            };
            let (session, sender) = (session.clone(), sender.clone());
            working.spawn(async move {
                let (head, data) = session.answer(request).await;
                // a client that has gone takes no replies
                let _ = sender.send(Reply { head, data, _hold: hold }).await;
            });
        }
        while working.join_next().await.is_some() {}
        drop(sender);
        Ok(())
    };
    // whichever fails ends the other
    tokio::try_join!(taking, write(receiver, output)).map(|_| ())
}

async fn write(mut receiver: mpsc::Receiver<Reply>, mut output: impl AsyncWrite + Unpin) -> Result<()> {
    while let Some(reply) = receiver.recv().await {
        let sending = async {
            output.write_all(&reply.head).await?;
            output.write_all(&reply.data).await?;
            output.flush().await
        };
        let sent = tokio::time::timeout(PATIENCE, sending).await;
        sent.map_err(|_| broken("it does not take its replies"))?.map_err(broken)?;
    }
    Ok(())
}

async fn discard(input: &mut (impl AsyncRead + Unpin), len: u32) -> Result<()> {
    if len > wire::LONGEST {
        return Err(broken(format!("it would write {len} bytes at once")));
    }
    tokio::io::copy(&mut input.take(u64::from(len)), &mut tokio::io::sink()).await.map(|_| ()).map_err(broken)
}

impl Session {
    async fn answer(&self, request: Request) -> (Vec<u8>, Bytes) {
        let done = match request.kind {
            command::READ => self.read(request).await,
            command::FLUSH | command::CACHE => Ok((chunk::NONE, Vec::new(), Bytes::new())),
            command::BLOCK_STATUS if self.status => self.status(request).await,
            command::WRITE | command::TRIM | command::WRITE_ZEROES => {
                Err((errno::PERMISSION, "the disk is read-only".to_owned()))
            }
            _ => Err((errno::INVALID, "no such command".to_owned())),
        };
        match done {
            Ok((kind, fields, data)) if self.structured => (chunk_head(request, kind, &fields, data.len()), data),
            Ok((_, _, data)) => (simple_head(request, 0), data),
            Err((number, text)) if self.structured => {
                let text = text.as_bytes().get(..text.len().min(1024)).unwrap_or_default();
                let mut fields = number.to_be_bytes().to_vec();
                fields.extend((text.len() as u16).to_be_bytes());
                fields.extend(text);
                (chunk_head(request, chunk::ERROR, &fields, 0), Bytes::new())
            }
            Err((number, _)) => (simple_head(request, number), Bytes::new()),
        }
    }

    fn range(&self, request: Request) -> Answer<u64> {
        let end = request.offset.checked_add(u64::from(request.len)).filter(|end| *end <= self.disk.size());
        let end = end.filter(|_| request.len > 0);
        end.ok_or_else(|| (errno::INVALID, "the range does not lie on the disk".to_owned()))
    }

    async fn read(&self, request: Request) -> Answer<(u16, Vec<u8>, Bytes)> {
        let end = self.range(request)?;
        if request.len > wire::LONGEST {
            return Err((errno::INVALID, "the range is too long".to_owned()));
        }
        // disks are read in sectors, clients ask for what they like
        let (from, to) = (request.offset / 512 * 512, end.next_multiple_of(512).min(self.disk.size()));
        let data = self.disk.read_at(from, (to - from) as usize).await.map_err(|error| (errno::IO, error.chain()))?;
        let data = data.slice((request.offset - from) as usize..(end - from) as usize);
        let mut fields = request.offset.to_be_bytes().to_vec();
        if self.structured && is_zero(&data) {
            fields.extend(request.len.to_be_bytes());
            return Ok((chunk::HOLE, fields, Bytes::new()));
        }
        Ok((chunk::DATA, fields, data))
    }

    /// What is data and what is zero from the request's offset on: at least one extent, at most what was asked.
    async fn status(&self, request: Request) -> Answer<(u16, Vec<u8>, Bytes)> {
        let end = self.range(request)?;
        let most = if request.flags & command::ONE != 0 { 1 } else { EXTENTS };
        let mut fields = wire::ALLOCATION_ID.to_be_bytes().to_vec();
        let list = self.disk.extents(request.offset / 512 * 512).await.map_err(|error| (errno::IO, error.chain()))?;
        let mut at = request.offset;
        for extent in list.as_slice().iter().filter(|extent| extent.end() > request.offset).take(most) {
            // a reader lists every byte: a gap would shift all that follows
            if extent.offset > at || at >= end {
                break;
            }
            let to = extent.end().min(end);
            fields.extend(((to - at) as u32).to_be_bytes());
            fields.extend(if extent.change == Change::Zero { wire::HOLE_AND_ZERO } else { 0 }.to_be_bytes());
            at = to;
        }
        if at == request.offset {
            return Err((errno::IO, format!("{} does not list bytes from {at}", self.disk.describe())));
        }
        Ok((chunk::BLOCK_STATUS, fields, Bytes::new()))
    }
}

type Answer<T> = std::result::Result<T, (u32, String)>;

fn simple_head(request: Request, number: u32) -> Vec<u8> {
    let mut head = wire::SIMPLE_REPLY.to_be_bytes().to_vec();
    head.extend(number.to_be_bytes());
    head.extend(request.cookie.to_be_bytes());
    head
}

/// The head of a reply in one chunk: the fields stand before the data.
fn chunk_head(request: Request, kind: u16, fields: &[u8], data: usize) -> Vec<u8> {
    let mut head = wire::CHUNK.to_be_bytes().to_vec();
    head.extend(chunk::DONE.to_be_bytes());
    head.extend(kind.to_be_bytes());
    head.extend(request.cookie.to_be_bytes());
    head.extend(((fields.len() + data) as u32).to_be_bytes());
    head.extend(fields);
    head
}

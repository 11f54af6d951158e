//! One NBD connection: requests are written as they come, one task reads the replies and hands each to its caller.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use model::{Error, Kind, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::super::qmp::dial;
use super::wire::{self, Head};

const HANDSHAKE: Duration = Duration::from_secs(20);
/// A request may take this long: the guest's own writes go first.
const REQUEST: Duration = Duration::from_secs(120);
/// Longest block status payload that is accepted; QEMU sends at most 1 MiB.
const LONGEST_STATUS: u32 = 8 << 20;

const NONE: u16 = 0;
const DATA: u16 = 1;
const HOLE: u16 = 2;
const BLOCK_STATUS: u16 = 5;
const ERROR_BIT: u16 = 1 << 15;

/// Block status: for each context id, runs of (length, flags) from the asked offset on.
pub type Status = Vec<(u32, Vec<(u32, u32)>)>;

/// A connection to one export.
#[derive(Debug)]
pub struct Connection {
    size: u64,
    payload: u32,
    contexts: Vec<(u32, String)>,
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    waiting: Arc<Mutex<Waiting>>,
    reader: AbortHandle,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    open: HashMap<u64, Pending>,
    /// Why the connection has ended.
    ended: Option<(Kind, String)>,
}

/// A request that waits for (the rest of) its reply.
#[derive(Debug)]
struct Pending {
    /// Absolute offset of the first byte of `data`; for reads only.
    offset: u64,
    data: BytesMut,
    filled: u64,
    is_read: bool,
    status: Status,
    error: Option<(u32, String)>,
    caller: oneshot::Sender<Result<Reply>>,
}

#[derive(Debug)]
struct Reply {
    data: Bytes,
    status: Status,
}

impl Connection {
    /// Connects to `export` on the server at `socket` and asks for these meta contexts.
    pub async fn open(socket: &Path, export: &str, contexts: &[String]) -> Result<Self> {
        let operation = || format!("cannot open export {export} at {}", socket.display());
        let until = Instant::now() + HANDSHAKE;
        let mut stream = dial(socket, until).await.map_err(|error| error.within(operation()))?;
        let session = timeout_at(until, wire::negotiate(&mut stream, export, contexts)).await;
        let late = || Error::new(Kind::Transient, operation()).because("the server did not answer in time");
        let session = session.map_err(|_| late())?.map_err(|error| error.within(operation()))?;
        let (reader, writer) = stream.into_split();
        let waiting = Arc::new(Mutex::new(Waiting::default()));
        let task = tokio::spawn(read_replies(BufReader::with_capacity(64 << 10, reader), waiting.clone()));
        Ok(Self {
            size: session.size,
            payload: session.payload,
            contexts: session.contexts,
            writer: tokio::sync::Mutex::new(writer),
            waiting,
            reader: task.abort_handle(),
        })
    }

    /// Size of the export in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The most that one read may ask for.
    pub fn payload(&self) -> usize {
        self.payload as usize
    }

    /// The id of a context, if the server agreed to it.
    pub fn context(&self, name: &str) -> Option<u32> {
        self.contexts.iter().find(|(_, agreed)| agreed == name).map(|(id, _)| *id)
    }

    /// Whether the connection has ended; nothing more can be asked on it.
    pub fn is_over(&self) -> bool {
        lock(&self.waiting).ended.is_some()
    }

    /// Reads exactly `len` bytes, at most [`payload`](Self::payload).
    pub async fn read(&self, offset: u64, len: usize) -> Result<Bytes> {
        let short = u32::try_from(len).ok().filter(|short| *short <= self.payload);
        let fits = offset.checked_add(len as u64).is_some_and(|end| end <= self.size);
        let (Some(short), true) = (short, fits) else {
            return Err(Error::new(Kind::Invalid, format!("cannot read {len} bytes at {offset} of an export"))
                .because(format!("it has {} bytes, and one read may take {}", self.size, self.payload)));
        };
        Ok(self.ask(wire::READ, offset, short, BytesMut::zeroed(len)).await?.data)
    }

    /// Asks for the block status of a range.
    pub async fn status(&self, offset: u64, len: u32) -> Result<Status> {
        Ok(self.ask(wire::STATUS, offset, len, BytesMut::new()).await?.status)
    }

    async fn ask(&self, command: u16, offset: u64, len: u32, data: BytesMut) -> Result<Reply> {
        let (caller, reply) = oneshot::channel();
        let is_read = command == wire::READ;
        let pending = Pending { offset, data, filled: 0, is_read, status: Vec::new(), error: None, caller };
        let handle = {
            let mut waiting = lock(&self.waiting);
            if let Some((kind, reason)) = &waiting.ended {
                return Err(Error::new(*kind, "cannot speak with the NBD server").because(reason.clone()));
            }
            waiting.next += 1;
            let handle = waiting.next;
            waiting.open.insert(handle, pending);
            handle
        };
        let bytes = wire::request(command, handle, offset, len);
        let work = async {
            // a request is written whole or the connection is given up: half a request would shift all later ones
            let mut writer = self.writer.lock().await;
            if let Err(error) = writer.write_all(&bytes).await {
                end(&self.waiting, Kind::Transient, &error.to_string());
            }
            drop(writer);
            reply.await.unwrap_or_else(|_| Err(wire::odd("the connection was closed")))
        };
        match timeout(REQUEST, work).await {
            Ok(reply) => reply,
            Err(_) => {
                end(&self.waiting, Kind::Transient, "a request was not answered in time");
                Err(Error::new(Kind::Transient, "cannot speak with the NBD server")
                    .because("a request was not answered in time"))
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the connection: everyone who waits learns why.
fn end(waiting: &Mutex<Waiting>, kind: Kind, reason: &str) {
    let mut waiting = lock(waiting);
    waiting.ended.get_or_insert_with(|| (kind, reason.to_owned()));
    for (_, pending) in waiting.open.drain() {
        let error = Error::new(kind, "cannot speak with the NBD server").because(reason.to_owned());
        let _ = pending.caller.send(Err(error)); // a caller that has gone does not mind
    }
}

async fn read_replies(mut stream: BufReader<OwnedReadHalf>, waiting: Arc<Mutex<Waiting>>) {
    loop {
        if let Err(error) = read_reply(&mut stream, &waiting).await {
            end(&waiting, error.kind(), &error.chain());
            return;
        }
    }
}

async fn read_reply(stream: &mut BufReader<OwnedReadHalf>, waiting: &Mutex<Waiting>) -> Result<()> {
    let head = wire::read_head(stream).await?;
    let (handle, done) = match head {
        Head::Simple { handle, .. } => (handle, true),
        Head::Chunk { handle, done, .. } => (handle, done),
    };
    // out of the map while its payload is read, so that no lock is held meanwhile
    let taken = lock(waiting).open.remove(&handle);
    let mut pending = taken.ok_or_else(|| wire::odd("it answers a request that was not made"))?;
    let read = match head {
        Head::Simple { error: 0, .. } => Err(wire::odd("it answers simply where structure was agreed")),
        Head::Simple { error, .. } => {
            pending.error = Some((error, String::new()));
            Ok(())
        }
        Head::Chunk { kind, len, .. } => pending.chunk(stream, kind, len).await,
    };
    if let Err(error) = read {
        let copy = Error::new(error.kind(), "cannot read from an export").because(error.chain());
        let _ = pending.caller.send(Err(copy));
        return Err(error);
    }
    if done {
        pending.finish();
    } else {
        lock(waiting).open.insert(handle, pending);
    }
    Ok(())
}

impl Pending {
    async fn chunk(&mut self, stream: &mut BufReader<OwnedReadHalf>, kind: u16, len: u32) -> Result<()> {
        match kind {
            NONE if len == 0 => Ok(()),
            DATA if self.is_read && len > 8 => {
                let at = self.place(wire::read_u64(stream).await?, u64::from(len) - 8)?;
                let part = &mut self.data[at..at + len as usize - 8];
                stream.read_exact(part).await.map_err(wire::lost)?;
                Ok(())
            }
            HOLE if self.is_read && len == 12 => {
                let offset = wire::read_u64(stream).await?;
                let zeroes = u64::from(wire::read_u32(stream).await?);
                self.place(offset, zeroes)?; // the buffer was zero from the start
                Ok(())
            }
            BLOCK_STATUS if !self.is_read && len >= 12 && len % 8 == 4 && len <= LONGEST_STATUS => {
                self.runs(stream, len).await
            }
            kind if kind & ERROR_BIT != 0 && (6..=4096 + 14).contains(&len) => {
                let mut payload = vec![0; len as usize];
                stream.read_exact(&mut payload).await.map_err(wire::lost)?;
                let code = u32::from_be_bytes([payload[0], payload[1], payload[2], payload[3]]);
                let text = usize::from(u16::from_be_bytes([payload[4], payload[5]]));
                let text = payload.get(6..6 + text).map(|text| String::from_utf8_lossy(text).into_owned());
                self.error.get_or_insert((code, text.unwrap_or_default()));
                Ok(())
            }
            _ => Err(wire::odd(format!("a reply chunk of kind {kind} with {len} bytes does not fit the request"))),
        }
    }

    async fn runs(&mut self, stream: &mut BufReader<OwnedReadHalf>, len: u32) -> Result<()> {
        let context = wire::read_u32(stream).await?;
        let mut bytes = vec![0; len as usize - 4];
        stream.read_exact(&mut bytes).await.map_err(wire::lost)?;
        let (runs, _) = bytes.as_chunks::<8>();
        let word = |run: &[u8; 8], at: usize| u32::from_be_bytes([run[at], run[at + 1], run[at + 2], run[at + 3]]);
        self.status.push((context, runs.iter().map(|run| (word(run, 0), word(run, 4))).collect()));
        Ok(())
    }

    /// Checks that a part lies inside the asked range and counts it; gives its place in the buffer.
    fn place(&mut self, offset: u64, len: u64) -> Result<usize> {
        let start = offset.checked_sub(self.offset);
        let inside = start.filter(|start| start.checked_add(len).is_some_and(|end| end <= self.data.len() as u64));
        self.filled += len;
        inside
            .and_then(|start| usize::try_from(start).ok())
            .ok_or_else(|| wire::odd("it sends bytes that were not asked for"))
    }

    fn finish(self) {
        let reply = match self.error {
            Some((code, text)) => Err(failed(code, &text)),
            None if self.is_read && self.filled != self.data.len() as u64 => {
                Err(wire::odd(format!("it sent {} of {} bytes", self.filled, self.data.len())))
            }
            None => Ok(Reply { data: self.data.freeze(), status: self.status }),
        };
        let _ = self.caller.send(reply); // a caller that has gone does not mind
    }
}

/// The server's error code as ours. A broken snapshot answers EIO or EINVAL.
fn failed(code: u32, text: &str) -> Error {
    let (kind, name) = match code {
        1 => (Kind::Denied, "EPERM"),
        5 => (Kind::Damaged, "EIO"),
        12 => (Kind::Transient, "ENOMEM"),
        22 => (Kind::Damaged, "EINVAL"),
        28 => (Kind::Quota, "ENOSPC"),
        108 => (Kind::Transient, "ESHUTDOWN"),
        _ => (Kind::Permanent, "an error"),
    };
    let text = if text.is_empty() { format!("the server answers {name} ({code})") } else { format!("{text} ({name})") };
    Error::new(kind, "cannot read from an export").because(text)
}

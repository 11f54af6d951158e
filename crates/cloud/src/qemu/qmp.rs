//! A small client of QEMU's machine protocol (QMP) over a Unix socket: greeting, capabilities, request ids, events,
//! a deadline for every command, classified errors.
//!
//! QEMU serves one client per monitor socket at a time; a second one connects but is not greeted. So: connect, work,
//! drop. Dropping a future in the middle of a command is harmless: its late answer is recognised by its id and
//! skipped.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::{Error, Kind, Result};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, sleep, timeout_at};

/// How long connecting waits for the greeting: another client may hold the monitor for a moment.
const GREETING: Duration = Duration::from_secs(15);
/// Deadline of a command unless another is given.
const COMMAND: Duration = Duration::from_secs(30);
/// The longest answer that is accepted. QEMU's largest, its schema, has 200 KiB.
const LONGEST: usize = 16 << 20;
/// Events that are kept until someone asks; older ones are dropped.
const EVENTS: usize = 1024;

/// An asynchronous message of QEMU.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its name: `BLOCK_EXPORT_DELETED`, `GUEST_PANICKED`, ...
    pub name: String,
    /// What it tells.
    pub data: Value,
}

/// One connection to a monitor.
#[derive(Debug)]
pub struct Qmp {
    path: PathBuf,
    /// User and process of the QEMU that listens.
    peer: (u32, Option<i32>),
    lines: Lines,
    writer: OwnedWriteHalf,
    next: u64,
    events: VecDeque<Event>,
}

impl Qmp {
    /// Connects and negotiates. [`Kind::NotFound`] if no QEMU listens there (the guest is off); [`Kind::Transient`]
    /// if another client holds the monitor.
    pub async fn connect(path: &Path) -> Result<Self> {
        Self::connect_within(path, GREETING).await
    }

    /// As [`connect`](Self::connect), with another deadline for the greeting.
    pub async fn connect_within(path: &Path, limit: Duration) -> Result<Self> {
        let until = Instant::now() + limit;
        let stream = dial(path, until).await?;
        let peer = stream.peer_cred().map_err(|error| Error::io("cannot tell whose monitor it is", error))?;
        let (reader, writer) = stream.into_split();
        let mut qmp = Self {
            path: path.to_owned(),
            peer: (peer.uid(), peer.pid()),
            lines: Lines::new(reader, LONGEST),
            writer,
            next: 0,
            events: VecDeque::new(),
        };
        let greeting = timeout_at(until, qmp.lines.message()).await.map_err(|_| busy(path))?;
        let greeting = greeting.map_err(|error| error.within(qmp.operation("read the greeting of")))?;
        if greeting.get("QMP").is_none() {
            return Err(Error::new(Kind::Invalid, qmp.operation("speak with"))
                .because("it does not greet as a QMP monitor")
                .hint("let `sockets` name QMP sockets (-qmp unix:PATH,server=on,wait=off)"));
        }
        qmp.execute("qmp_capabilities", json!({})).await?;
        Ok(qmp)
    }

    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The user that QEMU runs as.
    pub fn user(&self) -> u32 {
        self.peer.0
    }

    /// A file name of QEMU's as an absolute path: it may be relative to where QEMU was started.
    pub fn absolute(&self, file: &str) -> PathBuf {
        let folder = self.peer.1.and_then(|process| std::fs::read_link(format!("/proc/{process}/cwd")).ok());
        folder.unwrap_or_default().join(file)
    }

    /// Runs a command under the usual deadline and returns its result.
    pub async fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.execute_within(command, arguments, COMMAND).await
    }

    /// Runs a command under a deadline. After a timeout the command may still take effect.
    pub async fn execute_within(&mut self, command: &str, arguments: Value, limit: Duration) -> Result<Value> {
        let until = Instant::now() + limit;
        let id = self.send(command, arguments, until).await?;
        loop {
            let message = self.receive(command, until).await?;
            if message.get("id").and_then(Value::as_u64) != Some(id) {
                continue; // the answer of a command that was given up
            }
            if let Some(error) = message.get("error") {
                return Err(refused(self.operation(&format!("run `{command}` on")), error));
            }
            return Ok(message.get("return").cloned().unwrap_or(Value::Null));
        }
    }

    /// Waits for the first event, seen already or to come, that fits.
    pub async fn event(&mut self, fits: impl Fn(&Event) -> bool, limit: Duration) -> Result<Event> {
        let until = Instant::now() + limit;
        loop {
            if let Some(at) = self.events.iter().position(&fits)
                && let Some(event) = self.events.remove(at)
            {
                return Ok(event);
            }
            self.receive("wait for an event", until).await?;
        }
    }

    /// Takes the events that have arrived with earlier answers.
    pub fn take_events(&mut self) -> Vec<Event> {
        self.events.drain(..).collect()
    }

    async fn send(&mut self, command: &str, arguments: Value, until: Instant) -> Result<u64> {
        self.next += 1;
        let mut line = json!({ "execute": command, "arguments": arguments, "id": self.next }).to_string();
        line.push('\n');
        let sent = timeout_at(until, self.writer.write_all(line.as_bytes())).await;
        match sent {
            Ok(Ok(())) => Ok(self.next),
            Ok(Err(error)) => Err(Error::io(self.operation(&format!("send `{command}` to")), error)),
            Err(_) => Err(self.late(command)),
        }
    }

    /// The next message; events are put aside and returned too (as messages without an id).
    async fn receive(&mut self, command: &str, until: Instant) -> Result<Value> {
        let message = timeout_at(until, self.lines.message()).await.map_err(|_| self.late(command))?;
        let message = message.map_err(|error| error.within(self.operation(&format!("run `{command}` on"))))?;
        if let Some(name) = message.get("event").and_then(Value::as_str) {
            if self.events.len() == EVENTS {
                self.events.pop_front();
            }
            let data = message.get("data").cloned().unwrap_or(Value::Null);
            self.events.push_back(Event { name: name.to_owned(), data });
        }
        Ok(message)
    }

    fn late(&self, command: &str) -> Error {
        Error::new(Kind::Transient, self.operation(&format!("run `{command}` on")))
            .because("the monitor did not answer in time")
    }

    fn operation(&self, what: &str) -> String {
        format!("cannot {what} monitor {}", self.path.display())
    }
}

/// Newline-separated messages with a bound on their length. Reading is cancel safe: a part of a line waits here for
/// its rest.
#[derive(Debug)]
pub(crate) struct Lines {
    reader: BufReader<OwnedReadHalf>,
    part: Vec<u8>,
    longest: usize,
}

impl Lines {
    pub(crate) fn new(reader: OwnedReadHalf, longest: usize) -> Self {
        Self { reader: BufReader::new(reader), part: Vec::new(), longest }
    }

    /// The next line, its newline included.
    pub(crate) async fn next(&mut self) -> Result<Vec<u8>> {
        loop {
            let got = self.reader.fill_buf().await.map_err(|error| Error::io("cannot read from the socket", error))?;
            if got.is_empty() {
                let closed = Error::new(Kind::Transient, "cannot read from the socket");
                return Err(closed.because("the other side closed it"));
            }
            let end = got.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(got.len(), |at| at + 1);
            self.part.extend_from_slice(&got[..taken]);
            self.reader.consume(taken);
            if self.part.len() > self.longest {
                return Err(Error::new(Kind::Invalid, "cannot read from the socket")
                    .because(format!("a message is longer than {} bytes", self.longest)));
            }
            if end.is_some() {
                return Ok(std::mem::take(&mut self.part));
            }
        }
    }

    async fn message(&mut self) -> Result<Value> {
        let line = self.next().await?;
        serde_json::from_slice(&line)
            .map_err(|error| Error::new(Kind::Invalid, "cannot read a message of QEMU").because(error))
    }
}

/// Connects to a Unix socket; waits while its queue is full.
pub(crate) async fn dial(path: &Path, until: Instant) -> Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            Ok(stream) => return Ok(stream),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                if Instant::now() >= until {
                    return Err(busy(path));
                }
                sleep(Duration::from_millis(50)).await;
            }
            Err(error) => {
                use std::io::ErrorKind as E;
                let operation = format!("cannot connect to socket {}", path.display());
                return Err(match error.kind() {
                    E::NotFound | E::ConnectionRefused => Error::new(Kind::NotFound, operation).because(error),
                    _ => Error::io(operation, error),
                });
            }
        }
    }
}

fn busy(path: &Path) -> Error {
    Error::new(Kind::Transient, format!("cannot connect to monitor {}", path.display()))
        .because("it did not greet in time: another client holds it, or QEMU hangs")
        .hint("close the other client, or give the guest a second `-qmp` socket for replicate")
}

/// Turns QEMU's error into ours. QEMU has few classes, so the text must help.
fn refused(operation: String, error: &Value) -> Error {
    let class = error.get("class").and_then(Value::as_str).unwrap_or_default();
    let text = error.get("desc").and_then(Value::as_str).unwrap_or("no reason given").to_owned();
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let kind = match class {
        "CommandNotFound" => Kind::Invalid,
        "DeviceNotFound" => Kind::NotFound,
        _ if has(&["No space left"]) => Kind::Quota,
        _ if has(&["Permission denied"]) => Kind::Denied,
        _ if has(&["already exists", "already running", "Duplicate", "already in use"]) => Kind::Exists,
        _ if has(&["not found", "annot find", "No such file", "does not exist", "Failed to find", "shutting down"]) => {
            Kind::NotFound
        }
        _ => Kind::Permanent,
    };
    Error::new(kind, operation).because(text)
}

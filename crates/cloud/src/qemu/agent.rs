//! A client of the guest agent (qemu-ga) over its Unix socket: newline JSON after `guest-sync-delimited`.
//!
//! The channel has no connections of its own: what an earlier client left unread arrives first. The delimited sync
//! (an 0xFF byte before the answer) skips it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use model::{Error, Kind, Result};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::OwnedWriteHalf;
use tokio::time::{Instant, sleep, timeout_at};

use super::qmp::{Lines, dial};

/// The longest answer that is accepted: output of a command is bounded by the agent at 16 MiB, base64 adds a third.
const LONGEST: usize = 48 << 20;

/// One connection to a guest agent.
#[derive(Debug)]
pub struct Agent {
    path: PathBuf,
    lines: Lines,
    writer: OwnedWriteHalf,
    next: u64,
}

impl Agent {
    /// Connects and synchronises. [`Kind::Transient`] if the guest's agent does not answer in time.
    pub async fn connect(path: &Path, limit: Duration) -> Result<Self> {
        let until = Instant::now() + limit;
        let stream = dial(path, until).await?;
        let (reader, writer) = stream.into_split();
        let mut agent = Self { path: path.to_owned(), lines: Lines::new(reader, LONGEST), writer, next: 0 };
        agent.synchronise(until).await?;
        Ok(agent)
    }

    /// Runs a command under a deadline. After a timeout the command may still take effect in the guest.
    pub async fn execute(&mut self, command: &str, arguments: Value, limit: Duration) -> Result<Value> {
        let until = Instant::now() + limit;
        let request = if arguments.as_object().is_some_and(|fields| fields.is_empty()) {
            json!({ "execute": command })
        } else {
            json!({ "execute": command, "arguments": arguments })
        };
        self.send(&request, command, until).await?;
        let line = self.line(command, until).await?;
        let answer: Value = serde_json::from_slice(&line).map_err(|error| {
            Error::new(Kind::Invalid, self.operation(&format!("read the answer to `{command}` of"))).because(error)
        })?;
        if let Some(error) = answer.get("error") {
            let text = error.get("desc").and_then(Value::as_str).unwrap_or("no reason given").to_owned();
            let kind = match error.get("class").and_then(Value::as_str) {
                Some("CommandNotFound" | "CommandDisabled") => Kind::Invalid,
                _ => Kind::Permanent,
            };
            return Err(Error::new(kind, self.operation(&format!("run `{command}` through"))).because(text));
        }
        answer.get("return").cloned().ok_or_else(|| {
            Error::new(Kind::Invalid, self.operation(&format!("read the answer to `{command}` of")))
                .because("it has neither a result nor an error")
        })
    }

    /// Runs a program in the guest and returns its exit code and what it wrote (stdout, then stderr).
    pub async fn run(&mut self, command: &[String], limit: Duration) -> Result<(i32, String)> {
        let until = Instant::now() + limit;
        let left = || until.saturating_duration_since(Instant::now());
        let Some((path, arguments)) = command.split_first() else {
            return Err(Error::new(Kind::Invalid, "cannot run an empty command in the guest"));
        };
        let request = json!({ "path": path, "arg": arguments, "capture-output": true });
        let started = self.execute("guest-exec", request, left()).await?;
        let process = started.get("pid").and_then(Value::as_i64).unwrap_or_default();
        let mut pause = Duration::from_millis(20);
        loop {
            let state = self.execute("guest-exec-status", json!({ "pid": process }), left()).await?;
            if state.get("exited").and_then(Value::as_bool) == Some(true) {
                let code = state.get("exitcode").and_then(Value::as_i64);
                let text = [state.get("out-data"), state.get("err-data")].into_iter().flatten();
                let bytes: Vec<u8> =
                    text.filter_map(Value::as_str).filter_map(|data| BASE64.decode(data).ok()).flatten().collect();
                // a program that a signal ended has no code
                let code = code.and_then(|code| i32::try_from(code).ok()).unwrap_or(-1);
                return Ok((code, String::from_utf8_lossy(&bytes).into_owned()));
            }
            if left().is_zero() {
                return Err(self.late("guest-exec"));
            }
            sleep(pause.min(left())).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    async fn synchronise(&mut self, until: Instant) -> Result<()> {
        self.next = u64::from(std::process::id()) << 16 | u64::from(rand::random::<u16>());
        // the leading 0xFF makes the agent drop a half-sent request of an earlier client
        let request = json!({ "execute": "guest-sync-delimited", "arguments": { "id": self.next } });
        let mut line = vec![0xff];
        line.extend_from_slice(request.to_string().as_bytes());
        line.push(b'\n');
        self.write(&line, "guest-sync-delimited", until).await?;
        loop {
            let line = self.line("guest-sync-delimited", until).await?;
            let start = line.iter().rposition(|byte| *byte == 0xff).map_or(0, |at| at + 1);
            if let Ok(answer) = serde_json::from_slice::<Value>(&line[start..])
                && answer.get("return").and_then(Value::as_u64) == Some(self.next)
            {
                return Ok(());
            }
        }
    }

    async fn send(&mut self, request: &Value, command: &str, until: Instant) -> Result<()> {
        let mut line = request.to_string();
        line.push('\n');
        self.write(line.as_bytes(), command, until).await
    }

    async fn write(&mut self, bytes: &[u8], command: &str, until: Instant) -> Result<()> {
        match timeout_at(until, self.writer.write_all(bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Error::io(self.operation(&format!("send `{command}` to")), error)),
            Err(_) => Err(self.late(command)),
        }
    }

    async fn line(&mut self, command: &str, until: Instant) -> Result<Vec<u8>> {
        match timeout_at(until, self.lines.next()).await {
            Ok(line) => line.map_err(|error| error.within(self.operation(&format!("run `{command}` through")))),
            Err(_) => Err(self.late(command)),
        }
    }

    fn late(&self, command: &str) -> Error {
        Error::new(Kind::Transient, self.operation(&format!("run `{command}` through")))
            .because("the guest agent did not answer in time")
            .hint("see that qemu-guest-agent runs in the guest")
    }

    fn operation(&self, what: &str) -> String {
        format!("cannot {what} guest agent {}", self.path.display())
    }
}

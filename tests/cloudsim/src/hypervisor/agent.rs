//! The guest's agent: newline JSON over a channel of the machine, one short conversation at a time.

use std::io::{BufRead, BufReader, Error, Result, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::qmp::short_connect;

/// A program that has ended.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ended {
    pub(crate) code: i64,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A conversation.
pub(crate) struct Agent {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Agent {
    /// Begins one. The channel knows no connections: whatever an earlier one left unread is skipped.
    pub(crate) fn connect(socket: &Path, patience: Duration) -> Result<Self> {
        let stream = short_connect(socket)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        let mut agent = Self { reader: BufReader::new(stream.try_clone()?), writer: stream };
        let id = rand::random::<u32>();
        agent.writer.write_all(&[0xff])?;
        agent.send("guest-sync-delimited", &json!({ "id": id }))?;
        while agent.line()?.get("return").and_then(Value::as_u64) != Some(u64::from(id)) {}
        Ok(agent)
    }

    fn send(&mut self, command: &str, arguments: &Value) -> Result<()> {
        let request = json!({ "execute": command, "arguments": arguments });
        self.writer.write_all(format!("{request}\n").as_bytes())
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = Vec::new();
        if self.reader.read_until(b'\n', &mut line)? == 0 {
            return Err(Error::other("the agent's channel was closed"));
        }
        let start = line.iter().rposition(|byte| *byte == 0xff).map_or(0, |at| at + 1);
        Ok(serde_json::from_slice(&line[start..]).unwrap_or_default())
    }

    fn call(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        self.send(command, arguments)?;
        let mut answer = self.line()?;
        match answer.get_mut("return") {
            Some(value) => Ok(value.take()),
            None => Err(Error::other(format!("the agent refuses {command}: {}", answer["error"]["desc"]))),
        }
    }

    /// Starts a program with something to read; answers its process.
    pub(crate) fn start(&mut self, program: &[&str], input: &str) -> Result<i64> {
        let (path, arguments) = program.split_first().unwrap_or((&"", &[]));
        let input = STANDARD.encode(input);
        let wanted = json!({ "path": path, "arg": arguments, "input-data": input, "capture-output": true });
        let started = self.call("guest-exec", &wanted)?;
        started["pid"].as_i64().ok_or_else(|| Error::other("the agent tells no process"))
    }

    /// What became of a program, once it has ended.
    pub(crate) fn ended(&mut self, process: i64) -> Result<Option<Ended>> {
        let state = self.call("guest-exec-status", &json!({ "pid": process }))?;
        if state["exited"] != true {
            return Ok(None);
        }
        let text = |key: &str| {
            let bytes = STANDARD.decode(state[key].as_str().unwrap_or_default()).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let code = state["exitcode"].as_i64().unwrap_or(-1);
        Ok(Some(Ended { code, stdout: text("out-data"), stderr: text("err-data") }))
    }
}

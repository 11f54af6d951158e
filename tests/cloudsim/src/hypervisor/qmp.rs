//! QEMU's monitor: one JSON line out, one answer back, events in between.

use std::io::{BufRead, BufReader, Error, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long QEMU may take to answer: it stands still itself on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection.
#[derive(Debug)]
pub(crate) struct Qmp {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Qmp {
    /// Waits for the socket as long as the process lives.
    pub(super) fn connect(socket: &Path, child: &mut Child) -> std::io::Result<Self> {
        let until = Instant::now() + PATIENCE;
        let stream = loop {
            match short_connect(socket) {
                Ok(stream) => break stream,
                Err(why) if Instant::now() >= until => return Err(why),
                Err(_) => {}
            }
            if child.try_wait()?.is_some() {
                return Err(Error::other("QEMU ended at once"));
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut qmp = Self { reader: BufReader::new(stream.try_clone()?), writer: stream };
        qmp.line()?;
        qmp.run("qmp_capabilities", None)?;
        Ok(qmp)
    }

    fn line(&mut self) -> std::io::Result<Value> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(Error::other("QEMU's monitor was closed"));
        }
        serde_json::from_str(&line).map_err(Error::other)
    }

    /// Runs a command and gives its answer.
    pub(super) fn run(&mut self, command: &str, arguments: Option<Value>) -> std::io::Result<Value> {
        let mut request = json!({ "execute": command });
        if let Some(arguments) = arguments {
            request["arguments"] = arguments;
        }
        self.writer.write_all(format!("{request}\n").as_bytes())?;
        loop {
            let mut answer = self.line()?;
            if let Some(error) = answer.get("error") {
                return Err(Error::other(format!("QEMU refuses {command}: {}", error["desc"])));
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }
}

/// A socket's path is limited to 107 bytes: it is reached through the folder's descriptor where it is longer.
pub(super) fn short_connect(socket: &Path) -> std::io::Result<UnixStream> {
    if socket.as_os_str().len() < 100 {
        return UnixStream::connect(socket);
    }
    let (folder, name) = (socket.parent().unwrap_or(Path::new("/")), socket.file_name().unwrap_or_default());
    let folder = std::fs::File::open(folder)?;
    let through = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&folder));
    UnixStream::connect(Path::new(&through).join(name))
}

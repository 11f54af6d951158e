//! A real S3 server (SeaweedFS) for tests, started by `tests/seaweedfs.sh`.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The server's keys for everything.
pub const ACCESS: &str = "replicate";
/// Its secret.
pub const SECRET: &str = "replicatesecret";

/// The server; killed when dropped, for its own shutdown takes half a minute.
pub struct Seaweed {
    child: Child,
    /// Where it speaks S3.
    pub port: u16,
    folder: tempfile::TempDir,
}

impl Drop for Seaweed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(40).collect();
            println!("the last words of the S3 server:\n{}", last.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
    }
}

impl Seaweed {
    /// Starts it with empty `buckets`, or says why it cannot be had here.
    pub fn start(buckets: &[&str]) -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
        let port = free_port();
        let log = std::fs::File::create(folder.path().join("log")).map_err(|e| e.to_string())?;
        let error_log = log.try_clone().map_err(|e| e.to_string())?;
        let child = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("seaweedfs.sh"))
            .arg(folder.path())
            .arg(port.to_string())
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(error_log)
            .spawn()
            .map_err(|e| e.to_string())?;
        let mut server = Self { child, port, folder };
        server.wait_for("the server opens its port", || TcpStream::connect(("127.0.0.1", port)).is_ok())?;
        for bucket in buckets {
            // a folder of its file store is a bucket; a file in it proves that all parts of the server have found each other
            server.wait_for("a bucket can be made", || {
                filer(port, "POST", &format!("/buckets/{bucket}/"), "")
                    && filer(port, "PUT", &format!("/buckets/{bucket}/warm"), "x")
                    && filer(port, "DELETE", &format!("/buckets/{bucket}/warm"), "")
            })?;
        }
        Ok(server)
    }

    /// Its address.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn wait_for(&mut self, what: &str, holds: impl Fn() -> bool) -> Result<(), String> {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(180) {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("tests/seaweedfs.sh ended with {status}"));
            }
            if holds() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Err(format!("within 3 minutes it was not so that {what}"))
    }
}

/// A port with the ten to twelve above it and their gRPC twins free enough. All lie below the ports that the system gives to
/// outgoing connections (32768 and up): the server opens some of them late.
fn free_port() -> u16 {
    for _ in 0..50 {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = 20_000 + listener.local_addr().expect("an address").port() % 2_700;
        let all = [port, port + 10, port + 11, port + 12, port + 10_010, port + 10_011, port + 10_012];
        if all.iter().all(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()) {
            return port;
        }
    }
    panic!("no free ports");
}

/// One request to the server's file store, which asks for no keys. `false`: not yet.
fn filer(port: u16, method: &str, path: &str, body: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port + 12)) else { return false };
    // an empty POST to a folder makes it only if it names no type; a file is put as it is
    let form = if body.is_empty() { "" } else { "content-type: application/octet-stream\r\n" };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\n{form}connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut answer = String::new();
    let asked = stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_string(&mut answer));
    asked.is_ok() && answer.split(' ').nth(1).is_some_and(|status| status.starts_with('2'))
}

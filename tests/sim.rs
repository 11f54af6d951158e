//! The simulated clouds (`tests/cloudsim`), for tests of providers: built if need be, started on a folder of its own, and
//! ended with the test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// A running simulator; ended when dropped. What it was asked is judged then.
pub struct CloudSim {
    child: Child,
    /// What it said at its start: endpoints and keys.
    pub greeting: Value,
    folder: tempfile::TempDir,
}

impl Drop for CloudSim {
    fn drop(&mut self) {
        // the end of its input lets it end its machines too
        drop(self.child.stdin.take());
        let _ = self.child.wait();
        if !std::thread::panicking() {
            crate::judge::requests(&self.folder.path().join("calls.jsonl"));
        }
    }
}

/// The program, built with the profile of this test.
fn program() -> PathBuf {
    let me = std::env::current_exe().expect("a path");
    let target = me.parent().and_then(Path::parent).expect("target/<profile>/deps").to_owned();
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "-p", "cloudsim"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    build.env("CARGO_TARGET_DIR", target.parent().expect("a target folder"));
    if target.ends_with("release") {
        build.arg("--release");
    }
    assert!(build.status().expect("cargo").success(), "cloudsim does not build");
    target.join("cloudsim")
}

impl CloudSim {
    /// Starts it with `arguments` (`--calm`, `--no-qemu`).
    pub fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut child = Command::new(program())
            .arg("--data")
            .arg(folder.path())
            .arg("--leash")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("cloudsim");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("its output")).read_line(&mut line).expect("a greeting");
        let greeting = serde_json::from_str(&line).expect("JSON");
        Self { child, greeting, folder }
    }

    /// The file of an EBS volume, as the guest would see it.
    pub fn volume(&self, id: &str) -> PathBuf {
        self.folder.path().join("volumes").join(id)
    }

    /// The file of a managed disk, by what `state` calls its file.
    pub fn managed_disk(&self, file: &str) -> PathBuf {
        self.folder.path().join("azure").join(file)
    }

    /// What the serial port of the machine that spoke last has said so far: a running guest seen from outside.
    pub fn console(&self) -> String {
        let all = std::fs::read_dir(self.folder.path().join("machines")).into_iter().flatten().flatten();
        let spoken = all.map(|machine| machine.path().join("console.log")).filter_map(|path| {
            let at = path.metadata().and_then(|it| it.modified()).ok()?;
            Some((at, path))
        });
        let last = spoken.max().and_then(|(_, path)| std::fs::read(path).ok());
        String::from_utf8_lossy(&last.unwrap_or_default()).into_owned()
    }

    /// A call of the control API: `POST`, `servers`.
    pub fn control(&self, method: &str, path: &str, body: &Value) -> Value {
        let url = self.greeting["control"].as_str().expect("an address");
        let (host, root) = url.trim_start_matches("http://").split_once('/').expect("a path");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = format!(
            "{method} /{root}/{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = TcpStream::connect(host).expect("the simulator");
        stream.write_all(request.as_bytes()).expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.split(' ').nth(1).is_some_and(|status| status.starts_with('2')), "{method} {path}: {answer}");
        serde_json::from_str(body).unwrap_or(Value::Null)
    }
}

//! A cloud of one port whose answers a test decides: Keystone, and behind it Glance, Nova, Neutron and Cinder.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use model::Result;
use reqwest::Method;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::api::Service;
use super::config::CloudRef;
use super::http::Client;

/// A request as the fake sees it.
pub(super) struct Request {
    pub(super) line: String,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Vec<u8>,
}

impl Request {
    pub(super) fn token(&self) -> &str {
        self.headers.get("x-auth-token").map_or("", String::as_str)
    }

    /// Bytes of the whole body; of an upload's, `body` has what came with the header.
    pub(super) fn len(&self) -> usize {
        self.headers.get("content-length").and_then(|len| len.parse().ok()).unwrap_or(0)
    }
}

/// What the fake answers.
pub(super) enum Reply {
    Whole(u16, String, String),
    /// These bytes and no more, whatever the header promised.
    Cut(String),
    /// Nothing at all.
    Reset,
    /// Nothing either, after all was read.
    Lost,
}

pub(super) fn reply(status: u16, body: &str) -> Reply {
    Reply::Whole(status, String::new(), body.to_owned())
}

/// Keystone, and Glance on the same port, whose answers a test decides.
pub(super) struct Fake {
    pub(super) client: Client,
    logins: Arc<AtomicUsize>,
    _folder: tempfile::TempDir,
}

type Answers = dyn Fn(&Request) -> Reply + Send + Sync;

impl Fake {
    pub(super) async fn start(answers: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let logins = Arc::new(AtomicUsize::new(0));
        let (answers, counted): (Arc<Answers>, _) = (Arc::new(answers), logins.clone());
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, answers.clone(), counted.clone(), port));
            }
        });
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("clouds.yaml");
        let auth = format!("auth_url: 'http://127.0.0.1:{port}', username: u, password: hunter2, project_name: p");
        std::fs::write(&file, format!("clouds: {{ fake: {{ auth: {{ {auth} }} }} }}")).unwrap();
        let cloud = CloudRef { cloud: "fake".to_owned(), file: Some(file), region: None, interface: None };
        Self { client: Client::new(cloud), logins, _folder: folder }
    }

    pub(super) fn logins(&self) -> usize {
        self.logins.load(Ordering::SeqCst)
    }

    pub(super) async fn look(&self) -> Result<Value> {
        self.client.call("cannot look at image 7", Service::Image, Method::GET, "images/7").answer().await
    }
}

async fn serve(mut socket: TcpStream, answers: Arc<Answers>, logins: Arc<AtomicUsize>, port: u16) {
    let Some(request) = read(&mut socket).await else { return };
    let reply = if request.line.starts_with("POST /v3/auth/tokens") {
        let number = logins.fetch_add(1, Ordering::SeqCst) + 1;
        // time for others to come and wait
        tokio::time::sleep(Duration::from_millis(100)).await;
        match answers(&request) {
            Reply::Whole(401, ..) => reply(401, r#"{"error": {"message": "Could not authenticate"}}"#),
            _ => login(number, port),
        }
    } else if request.line.starts_with("GET / ") {
        reply(300, r#"{"versions": [{"id": "v2.0", "status": "CURRENT"}, {"id": "v2.15", "status": "CURRENT"}]}"#)
    } else if request.line.starts_with("GET /v2.1/ ") {
        reply(200, r#"{"version": {"id": "v2.1", "version": "2.93", "min_version": "2.1"}}"#)
    } else if request.line.starts_with("GET /v3/ ") {
        reply(200, r#"{"versions": [{"id": "v3.0", "version": "3.70", "min_version": "3.0"}]}"#)
    } else if request.line.starts_with("GET /v2.0/") {
        // one network, and nothing on it
        reply(200, r#"{"networks": [{"id": "n1", "name": "net"}], "subnets": [], "ports": [], "security_groups": []}"#)
    } else {
        answers(&request)
    };
    // an upload is answered when it is whole, and refused before it is read
    if matches!(reply, Reply::Whole(200..300, ..) | Reply::Lost) && drain(&mut socket, &request).await.is_none() {
        return;
    }
    let text = match reply {
        Reply::Reset | Reply::Lost => return,
        Reply::Cut(text) => text,
        Reply::Whole(status, headers, body) => {
            format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n{body}", body.len())
        }
    };
    let _ = socket.write_all(text.as_bytes()).await;
    let _ = socket.shutdown().await;
}

fn login(number: usize, port: u16) -> Reply {
    let endpoint = format!(r#"{{"interface": "public", "region": "R", "url": "http://127.0.0.1:{port}"}}"#);
    let entry = |kind: &str| format!(r#"{{"type": "{kind}", "endpoints": [{endpoint}]}}"#);
    let catalog = ["image", "compute", "network", "volumev3"].map(entry).join(", ");
    let body = format!(
        r#"{{"token": {{"issued_at": "2026-11-22T03:00:00.000000Z", "expires_at": "2026-11-22T04:00:00.000000Z",
        "project": {{"id": "p1"}}, "catalog": [{catalog}]}}}}"#
    );
    Reply::Whole(201, format!("x-subject-token: secret-{number}\r\n"), body)
}

async fn read(socket: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        if socket.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
    let mut lines = text.lines();
    let line = lines.next()?.to_owned();
    let headers: BTreeMap<String, String> =
        lines.filter_map(|line| line.split_once(": ")).map(|(k, v)| (k.to_lowercase(), v.to_owned())).collect();
    let mut request = Request { line, headers, body: bytes.split_off(head + 4) };
    while request.body.len() < request.len() && !request.line.starts_with("PUT") {
        if socket.read_buf(&mut request.body).await.ok()? == 0 {
            return None;
        }
    }
    Some(request)
}

/// Reads what is still to come of an upload; none if it breaks off.
async fn drain(socket: &mut TcpStream, request: &Request) -> Option<()> {
    let (mut read, mut piece) = (request.body.len(), vec![0; 1 << 16]);
    while read < request.len() {
        match socket.read(&mut piece).await.ok()? {
            0 => return None,
            more => read += more,
        }
    }
    Some(())
}

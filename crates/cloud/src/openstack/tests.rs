//! What real services do too rarely to wait for: tokens refused half-way, answers that break off, requests to slow down.
//! Everything else is tested against real services.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::join_all;
use futures::stream;
use model::{Kind, Result};
use reqwest::Method;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::api::Service;
use super::api::glance::Glance;
use super::config::CloudRef;
use super::http::{Client, read_exactly};

/// A request as the fake sees it.
struct Request {
    line: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Request {
    fn token(&self) -> &str {
        self.headers.get("x-auth-token").map_or("", String::as_str)
    }
}

/// What the fake answers.
enum Reply {
    Whole(u16, String, String),
    /// These bytes and no more, whatever the header promised.
    Cut(String),
    /// Nothing at all.
    Reset,
}

fn reply(status: u16, body: &str) -> Reply {
    Reply::Whole(status, String::new(), body.to_owned())
}

/// Keystone, and Glance on the same port, whose answers a test decides.
struct Fake {
    client: Client,
    logins: Arc<AtomicUsize>,
    _folder: tempfile::TempDir,
}

type Answers = dyn Fn(&Request) -> Reply + Send + Sync;

impl Fake {
    async fn start(answers: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
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

    fn logins(&self) -> usize {
        self.logins.load(Ordering::SeqCst)
    }

    async fn look(&self) -> Result<Value> {
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
        reply(300, r#"{"versions": [{"id": "v2.15", "status": "CURRENT"}]}"#)
    } else {
        answers(&request)
    };
    let text = match reply {
        Reply::Reset => return,
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
    let body = format!(
        r#"{{"token": {{"issued_at": "2026-11-22T03:00:00.000000Z", "expires_at": "2026-11-22T04:00:00.000000Z",
        "project": {{"id": "p1"}}, "catalog": [{{"type": "image", "endpoints": [{endpoint}]}}]}}}}"#
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
    let len: usize = headers.get("content-length").and_then(|len| len.parse().ok()).unwrap_or(0);
    let mut body = bytes.split_off(head + 4);
    // a refused upload is refused before it is read
    while body.len() < len && !line.starts_with("PUT") {
        if socket.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    Some(Request { line, headers, body })
}

fn fine(_: &Request) -> Reply {
    reply(200, "{}")
}

#[tokio::test]
async fn many_calls_log_in_once() {
    let fake = Fake::start(fine).await;
    for answer in join_all((0..8).map(|_| fake.look())).await {
        answer.unwrap();
    }
    assert_eq!(fake.logins(), 1);
}

#[tokio::test]
async fn a_refused_token_is_renewed_once_for_all() {
    let fake = Fake::start(|request| match request.token() {
        "secret-1" => reply(401, r#"{"error": {"message": "expired"}}"#),
        _ => reply(200, "{}"),
    })
    .await;
    for answer in join_all((0..8).map(|_| fake.look())).await {
        answer.unwrap();
    }
    assert_eq!(fake.logins(), 2);
}

#[tokio::test]
async fn a_token_that_is_never_taken_is_denied_after_two() {
    let fake = Fake::start(|request| match request.token() {
        "" => reply(200, ""),
        _ => reply(401, ""),
    })
    .await;
    let error = fake.look().await.unwrap_err();
    assert_eq!((error.kind(), fake.logins()), (Kind::Denied, 2));
    assert!(!error.chain().contains("secret"), "{}", error.chain());
}

#[tokio::test]
async fn a_wrong_password_is_tried_once_however_many_wait() {
    let fake = Fake::start(|request| match String::from_utf8_lossy(&request.body).contains("hunter2") {
        true => reply(401, ""),
        false => reply(200, ""),
    })
    .await;
    for answer in join_all((0..8).map(|_| fake.look())).await {
        let error = answer.unwrap_err();
        assert_eq!(error.kind(), Kind::Denied);
        assert!(!error.chain().contains("hunter2"), "{}", error.chain());
    }
    assert_eq!(fake.logins(), 1);
}

#[tokio::test]
async fn an_upload_whose_token_is_refused_may_be_tried_again() {
    let fake = Fake::start(|request| match request.token() {
        "secret-1" => reply(401, ""),
        _ => reply(204, ""),
    })
    .await;
    let upload = || {
        let pieces = stream::iter((0..4).map(|_| Ok::<_, std::io::Error>(bytes::Bytes::from_static(b"abcd"))));
        reqwest::Body::wrap_stream(pieces)
    };
    let error = Glance(&fake.client).upload("7", upload(), 16).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Transient, "{}", error.chain());
    Glance(&fake.client).upload("7", upload(), 16).await.unwrap();
    assert_eq!(fake.logins(), 2);
}

#[tokio::test]
async fn asked_to_slow_down_the_wait_is_told() {
    let fake = Fake::start(|_| Reply::Whole(413, "Retry-After: 17\r\n".to_owned(), String::new())).await;
    let error = fake.look().await.unwrap_err();
    assert_eq!((error.kind(), error.retry_after()), (Kind::Throttled, Some(Duration::from_secs(17))));
}

#[tokio::test]
async fn what_breaks_off_may_be_tried_again() {
    let resets = Fake::start(|_| Reply::Reset).await;
    let cut = "HTTP/1.1 200 x\r\ncontent-length: 100\r\n\r\n{\"half\":";
    let cuts = Fake::start(move |_| Reply::Cut(cut.to_owned())).await;
    for fake in [&resets, &cuts] {
        // the login works: only what comes after it breaks off
        fake.client.project().await.unwrap();
        let error = fake.look().await.unwrap_err();
        assert_eq!(error.kind(), Kind::Transient, "{}", error.chain());
    }
    let answer = cuts.client.call("cannot read", Service::Image, Method::GET, "images/7/file").send().await.unwrap();
    assert_eq!(read_exactly("cannot read", answer, 100).await.unwrap_err().kind(), Kind::Transient);
}

#[tokio::test]
async fn a_list_is_followed_to_its_end_and_never_in_circles() {
    let page = |ids: &[&str], next: bool| {
        let items: Vec<String> = ids.iter().map(|id| format!(r#"{{"id": "{id}", "status": "active"}}"#)).collect();
        let next = if next { r#", "next": "/v2/images?marker=x""# } else { "" };
        reply(200, &format!(r#"{{"images": [{}]{next}}}"#, items.join(", ")))
    };
    let fake = Fake::start(move |request| match request.line.contains("marker=b") {
        true => page(&["c"], false),
        false => page(&["a", "b"], true),
    })
    .await;
    let found = Glance(&fake.client).list(&[]).await.unwrap();
    assert_eq!(found.iter().map(|image| image.id.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    let fake = Fake::start(move |_| page(&["a", "b"], true)).await;
    let error = Glance(&fake.client).list(&[]).await.unwrap_err();
    assert!(error.chain().contains("leads to itself"), "{}", error.chain());
}

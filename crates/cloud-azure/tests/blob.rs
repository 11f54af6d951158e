//! The bucket in an Azure container against Microsoft's emulator (Azurite), and against answers that no good server gives.
//!
//! One test with parts, so that the emulator starts once. Skipped, loudly, where it cannot be had.

#![allow(clippy::expect_used, clippy::print_stderr, clippy::unwrap_used, reason = "a panic is a test's verdict")]

#[path = "../../vault/tests/common/mod.rs"]
mod common;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cloud_azure::blob::{AzureBlobSettings, AzureBucket, BlobAccess};
use cloud_azure::identity::{Identity, Login, Secret};
use model::{Clock, Kind, ManualClock, Patience};
use tests::azurite::{ACCOUNT, Azurite, KEY};
use vault::bucket::conformance::{Effort, run};
use vault::bucket::{Bucket, Put, RetryBucket};

#[allow(clippy::disallowed_methods, reason = "the emulator's clock is the machine's")]
fn clock() -> Arc<dyn Clock> {
    Arc::new(ManualClock::new(jiff::Timestamp::now()))
}

fn settings(endpoint: String, container: &str, prefix: &str, key: &str) -> AzureBlobSettings {
    AzureBlobSettings {
        account: ACCOUNT.into(),
        container: container.into(),
        prefix: prefix.into(),
        endpoint: Some(endpoint),
        access: BlobAccess::SharedKey(key.into()),
    }
}

fn bucket(server: &Azurite, prefix: &str) -> AzureBucket {
    AzureBucket::connect(settings(server.endpoint(), "vaults", prefix, KEY), clock()).unwrap()
}

/// A bucket of the emulator as the wiring gives it to a vault.
fn retried(server: &Azurite, prefix: &str) -> Arc<dyn Bucket> {
    Arc::new(RetryBucket::new(Arc::new(bucket(server, prefix)), Patience::default()))
}

#[tokio::test(flavor = "multi_thread")]
async fn microsofts_emulator() {
    let server = match Azurite::start() {
        Ok(server) => server,
        Err(why) => {
            eprintln!("SKIPPED: the bucket on Azure is not tested against Azurite: {why}");
            return;
        }
    };
    server.make("vaults").unwrap();
    conforms(&server).await;
    prefixes_are_apart(&server).await;
    refusals_are_classified(&server).await;
    large_bodies_go_up_in_blocks(&server).await;
    common::store::a_vault_lives_on(retried(&server, "house/")).await;
    common::store::writers_and_a_collector_race_on(async || retried(&server, "race/")).await;
}

async fn conforms(server: &Azurite) {
    let findings = run(retried(server, "suite/"), Effort::full()).await;
    for finding in &findings {
        eprintln!("{} {}: {}", if finding.ok { "ok  " } else { "FAIL" }, finding.name, finding.detail);
    }
    assert!(findings.len() > 10 && findings.iter().all(|finding| finding.ok));
}

async fn prefixes_are_apart(server: &Azurite) {
    let (one, all) = (bucket(server, "one/"), bucket(server, ""));
    one.put("config", Bytes::from_static(b"x"), Put::CreateOnly).await.unwrap();
    assert!(bucket(server, "two/").list("").await.unwrap().is_empty());
    assert_eq!(one.list("").await.unwrap()[0].key, "config");
    assert_eq!(all.list("one/").await.unwrap()[0].key, "one/config");
    assert_eq!(one.describe(), "azblob://vaults/one");
}

async fn refusals_are_classified(server: &Azurite) {
    let other = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo=";
    let wrong = AzureBucket::connect(settings(server.endpoint(), "vaults", "", other), clock()).unwrap();
    let refused = wrong.list("").await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Denied, "{}", refused.chain());
    assert!(!refused.chain().contains(other));
    let garbled = AzureBucket::connect(settings(server.endpoint(), "vaults", "", "no base64"), clock()).err().unwrap();
    assert!(garbled.kind() == Kind::Invalid && !garbled.chain().contains("no base64!"), "{}", garbled.chain());
    // a container that does not exist is a mistake, never an empty vault
    let missing = AzureBucket::connect(settings(server.endpoint(), "nowhere", "", KEY), clock()).unwrap();
    for error in
        [missing.list("").await.err(), missing.get("config", None).await.err(), missing.delete("config").await.err()]
    {
        assert_eq!(error.unwrap().kind(), Kind::Invalid);
    }
}

/// Bodies of several blocks: whole or not at all, read back in ranges over their seams.
async fn large_bodies_go_up_in_blocks(server: &Azurite) {
    let bucket = bucket(server, "large/");
    let body = Bytes::from(common::noise(7, (34 << 20) + 5));
    bucket.put("pack", body.clone(), Put::CreateOnly).await.unwrap();
    let second = bucket.put("pack", Bytes::from(common::noise(8, 34 << 20)), Put::CreateOnly).await;
    assert_eq!(second.unwrap_err().kind(), Kind::Exists);
    assert!(bucket.get("pack", None).await.unwrap() == body);
    let seam = (16 << 20) - 3..(32 << 20) + 9;
    let part = bucket.get("pack", Some(seam.start as u64..seam.end as u64)).await.unwrap();
    assert!(part == body.slice(seam));
    let over = bucket.get("pack", Some(5..body.len() as u64 + 1)).await.unwrap_err();
    assert_eq!(over.kind(), Kind::Invalid, "{}", over.chain());
}

/// A server that gives every request the same answer.
fn answering(answer: &'static str) -> String {
    answering_with(move || answer.to_owned())
}

/// A server that answers each request anew.
fn answering_with(answer: impl Fn() -> String + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n > 0) {
                head.push(byte[0]);
            }
            // unread bytes of a body would make the end of the connection a reset
            let head = String::from_utf8_lossy(&head).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            let _ = stream.read_exact(&mut vec![0; length.unwrap_or(0)]);
            let _ = stream.write_all(answer().as_bytes());
        }
    });
    format!("http://127.0.0.1:{port}")
}

fn bucket_that_answers(answer: &'static str) -> AzureBucket {
    AzureBucket::connect(settings(answering(answer), "vaults", "", KEY), clock()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_break_the_protocol_are_never_data() {
    let short =
        "HTTP/1.1 206 Partial\r\ncontent-range: bytes 0-9/10\r\ncontent-length: 10\r\nconnection: close\r\n\r\nonly7by";
    let error = bucket_that_answers(short).get("x", None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Transient, "{}", error.chain());
    let clamped =
        "HTTP/1.1 206 Partial\r\ncontent-range: bytes 0-3/100\r\ncontent-length: 4\r\nconnection: close\r\n\r\nabcd";
    assert_eq!(bucket_that_answers(clamped).get("x", Some(0..9)).await.unwrap_err().kind(), Kind::Transient);
    let garbage = "HTTP/1.1 200 OK\r\ncontent-type: application/xml\r\nconnection: close\r\n\r\n<EnumerationResults><Blobs><Blob>";
    assert_eq!(bucket_that_answers(garbage).list("").await.unwrap_err().kind(), Kind::Transient);
    let foreign = "HTTP/1.1 200 OK\r\ncontent-type: application/xml\r\nconnection: close\r\n\r\n<EnumerationResults><Blobs><Blob><Name>y</Name><Properties><Content-Length>1</Content-Length></Properties></Blob></Blobs><NextMarker/></EnumerationResults>";
    assert_eq!(bucket_that_answers(foreign).list("x").await.unwrap_err().kind(), Kind::Transient);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wish_of_the_store_is_kept_and_nothing_is_tried_twice() {
    let slow = "HTTP/1.1 503 Busy\r\nx-ms-error-code: ServerBusy\r\nretry-after: 7\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let error = bucket_that_answers(slow).get("x", None).await.unwrap_err();
    assert_eq!((error.kind(), error.retry_after()), (Kind::Throttled, Some(Duration::from_secs(7))));
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nobody = settings(format!("http://127.0.0.1:{port}"), "vaults", "", KEY);
    let nobody = AzureBucket::connect(nobody, clock()).unwrap();
    assert_eq!(nobody.put("x", Bytes::new(), Put::CreateOnly).await.unwrap_err().kind(), Kind::Transient);
}

/// What Entra ID refuses is told as its refusal, with advice and without the secret.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_login_is_told() {
    let refusal = "HTTP/1.1 401 Unauthorized\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n{\"error\":\"invalid_client\",\"error_description\":\"AADSTS7000215: Invalid client secret provided.\",\"error_codes\":[7000215],\"a\":0  }";
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "very-secret\n").unwrap();
    let identity = Identity::Secret {
        tenant: "contoso".into(),
        client: "app-1".into(),
        secret: Secret::File(secret.path().to_owned()),
    };
    let access = BlobAccess::Login(Login::new(identity, answering(refusal), clock()));
    let settings = AzureBlobSettings { access, endpoint: None, ..settings(String::new(), "vaults", "", KEY) };
    let error = AzureBucket::connect(settings, clock()).unwrap().list("").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied, "{}", error.chain());
    assert!(error.chain().contains("app-1") && error.chain().contains("AADSTS7000215"), "{}", error.chain());
    assert!(error.advice().is_some() && !error.chain().contains("very-secret"));
}

/// Entra ID that answers the n-th login with what `answer` makes of it.
fn entra(answer: impl Fn(usize) -> String + Send + 'static) -> (Login, tempfile::NamedTempFile, Arc<AtomicUsize>) {
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "very-secret\n").unwrap();
    let logins = Arc::new(AtomicUsize::new(0));
    let counted = logins.clone();
    let address = answering_with(move || answer(counted.fetch_add(1, Ordering::SeqCst)));
    let identity = Identity::Secret {
        tenant: "contoso".into(),
        client: "app-1".into(),
        secret: Secret::File(secret.path().to_owned()),
    };
    (Login::new(identity, address, clock()), secret, logins)
}

fn token_answer(nth: usize) -> String {
    let body = format!(
        "{{\"token_type\":\"Bearer\",\"expires_in\":3600,\"ext_expires_in\":3600,\"access_token\":\"t{nth}\"}}"
    );
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n";
    format!("{head}content-length: {}\r\n\r\n{body}", body.len())
}

/// However many calls have a token refused, one of them signs in again; a token that is fine is not thrown away for an
/// older one.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_is_renewed_once() {
    let (login, _secret, logins) = entra(token_answer);
    let scope = "https://management.azure.com/.default";
    let first = login.token(scope).await.unwrap();
    for _ in 0..3 {
        login.forget(&first).await;
        assert_eq!(login.token(scope).await.unwrap().token.secret(), "t1");
    }
    assert_eq!(logins.load(Ordering::SeqCst), 2);
}

/// What may pass is asked for again at once; what is final is believed for a while.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_failed_for_the_moment_is_tried_again() {
    let busy = || "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned();
    let (login, _secret, logins) = entra(move |nth| if nth == 0 { busy() } else { token_answer(nth) });
    assert_eq!(login.token("s").await.unwrap_err().kind(), Kind::Transient);
    assert_eq!(login.token("s").await.unwrap().token.secret(), "t1");
    assert_eq!(logins.load(Ordering::SeqCst), 2);
    let refusal = "HTTP/1.1 401 No\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n{\"error\":\"invalid_client\",\"error_description\":\"no\",\"error_codes\":[7]}";
    let (login, _secret, logins) = entra(move |_| refusal.to_owned());
    for _ in 0..3 {
        assert_eq!(login.token("s").await.unwrap_err().kind(), Kind::Denied);
    }
    assert_eq!(logins.load(Ordering::SeqCst), 1);
}

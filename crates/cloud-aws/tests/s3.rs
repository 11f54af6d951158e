//! The S3 bucket against a real S3 server (SeaweedFS), and against answers that no good server gives.
//!
//! One test with parts, so that the server starts once. Skipped, loudly, where the server cannot be had.

#![allow(clippy::expect_used, clippy::print_stderr, clippy::unwrap_used, reason = "a panic is a test's verdict")]

#[path = "../../vault/tests/common/mod.rs"]
mod common;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::config::{Credentials, Region};
use bytes::Bytes;
use cloud_aws::s3::{S3Bucket, S3Credentials, S3Settings};
use model::{Kind, Patience};
use tests::seaweed::{ACCESS, SECRET, Seaweed};
use vault::bucket::conformance::{Effort, run};
use vault::bucket::{Bucket, Put, RetryBucket};

/// The server's administrator.
fn client(server: &Seaweed) -> aws_sdk_s3::Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(aws_sdk_s3::config::BehaviorVersion::v2026_01_12())
        .region(Region::from_static("us-east-1"))
        .credentials_provider(Credentials::new(ACCESS, SECRET, None, None, "test"))
        .endpoint_url(server.endpoint())
        .force_path_style(true)
        .build();
    aws_sdk_s3::Client::from_conf(config)
}

fn admin(server: &Seaweed, bucket: &str, prefix: &str) -> S3Settings {
    settings(server.port, bucket, prefix, ACCESS, SECRET)
}

fn settings(port: u16, bucket: &str, prefix: &str, access: &str, secret: &str) -> S3Settings {
    S3Settings {
        bucket: bucket.into(),
        prefix: prefix.into(),
        region: Some("us-east-1".into()),
        endpoint: Some(format!("http://127.0.0.1:{port}")),
        path_style: true,
        credentials: S3Credentials::Static {
            access_key: access.into(),
            secret_key: secret.into(),
            session_token: None,
        },
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_s3_server() {
    let server = match Seaweed::start(&["vaults"]) {
        Ok(server) => server,
        Err(why) => {
            eprintln!("SKIPPED: the S3 bucket is not tested against a server: {why}");
            return;
        }
    };
    conforms(&server).await;
    prefixes_are_apart(&server).await;
    refusals_are_classified(&server).await;
    abandoned_uploads_are_aborted(&server).await;
    common::store::a_vault_lives_on(retried(&server, "house/").await).await;
    common::store::writers_and_a_collector_race_on(async || retried(&server, "race/").await).await;
}

async fn conforms(server: &Seaweed) {
    let bucket = S3Bucket::open(admin(server, "vaults", "suite/")).await.unwrap();
    let bucket = Arc::new(RetryBucket::new(Arc::new(bucket), Patience::default()));
    let findings = run(bucket, Effort::full()).await;
    for finding in &findings {
        eprintln!("{} {}: {}", if finding.ok { "ok  " } else { "FAIL" }, finding.name, finding.detail);
    }
    assert!(findings.len() > 10 && findings.iter().all(|finding| finding.ok));
}

async fn prefixes_are_apart(server: &Seaweed) {
    let one = S3Bucket::open(admin(server, "vaults", "one/")).await.unwrap();
    let all = S3Bucket::open(admin(server, "vaults", "")).await.unwrap();
    one.put("config", Bytes::from_static(b"x"), Put::CreateOnly).await.unwrap();
    let two = S3Bucket::open(admin(server, "vaults", "two/")).await.unwrap();
    assert!(two.list("").await.unwrap().is_empty());
    assert_eq!(one.list("").await.unwrap()[0].key, "config");
    assert_eq!(all.list("one/").await.unwrap()[0].key, "one/config");
    assert_eq!(one.describe(), "s3://vaults/one");
}

async fn refusals_are_classified(server: &Seaweed) {
    let body = Bytes::from_static(b"x");
    let connect = |access, secret| S3Bucket::connect(settings(server.port, "vaults", "one/", access, secret));
    let stranger = connect("nobody", "nothing").await.unwrap();
    assert_eq!(stranger.get("config", None).await.unwrap_err().kind(), Kind::Denied);
    let wrong = connect("replicate", "wrong").await.unwrap();
    assert_eq!(wrong.list("").await.unwrap_err().kind(), Kind::Denied);
    let reader = connect("reader", "readersecret").await.unwrap();
    assert_eq!(reader.get("config", None).await.unwrap(), body);
    let refused = reader.put("mine", body, Put::CreateOnly).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Denied);
    assert!(!refused.chain().contains("readersecret"));
    // a bucket that does not exist is a mistake, never an empty vault
    let missing = S3Bucket::connect(admin(server, "no-such-bucket", "")).await.unwrap();
    assert_eq!(missing.list("").await.unwrap_err().kind(), Kind::Invalid);
    assert_eq!(missing.get("config", None).await.unwrap_err().kind(), Kind::Invalid);
}

async fn abandoned_uploads_are_aborted(server: &Seaweed) {
    let client = client(server);
    for key in ["dead/packs/a", "dead/packs/b", "other/packs/c"] {
        let begun = client.create_multipart_upload().bucket("vaults").key(key).send().await.unwrap();
        let part = client.upload_part().bucket("vaults").key(key).upload_id(begun.upload_id().unwrap());
        part.part_number(1).body(Bytes::from(vec![7; 5 << 20]).into()).send().await.unwrap();
    }
    let bucket = S3Bucket::open(admin(server, "vaults", "dead/")).await.unwrap();
    // a day has not passed: these may be alive
    assert_eq!(bucket.abort_abandoned_uploads(Duration::from_secs(86_400)).await.unwrap(), 0);
    assert_eq!(bucket.abort_abandoned_uploads(Duration::ZERO).await.unwrap(), 2);
    assert_eq!(bucket.abort_abandoned_uploads(Duration::ZERO).await.unwrap(), 0);
    assert!(bucket.list("").await.unwrap().is_empty());
    let left = client.list_multipart_uploads().bucket("vaults").send().await.unwrap();
    let left: Vec<_> = left.uploads().iter().filter_map(|upload| upload.key()).collect();
    assert_eq!(left, ["other/packs/c"]);
}

/// A bucket of the server as the wiring gives it to a vault.
async fn retried(server: &Seaweed, prefix: &str) -> Arc<dyn Bucket> {
    let bucket = S3Bucket::open(admin(server, "vaults", prefix)).await.unwrap();
    Arc::new(RetryBucket::new(Arc::new(bucket), Patience::default()))
}

/// A server that gives every request the same answer.
fn answering(answer: &'static str) -> u16 {
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
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    port
}

async fn bucket_that_answers(answer: &'static str) -> S3Bucket {
    S3Bucket::connect(settings(answering(answer), "vaults", "", "key", "secret")).await.unwrap()
}

#[tokio::test]
async fn answers_that_break_the_protocol_are_never_data() {
    let short = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\nconnection: close\r\n\r\nonly7by";
    let error = bucket_that_answers(short).await.get("x", None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Transient);
    let clamped =
        "HTTP/1.1 206 Partial\r\ncontent-range: bytes 0-3/100\r\ncontent-length: 4\r\nconnection: close\r\n\r\nabcd";
    assert_eq!(bucket_that_answers(clamped).await.get("x", Some(0..9)).await.unwrap_err().kind(), Kind::Transient);
    assert_eq!(bucket_that_answers(clamped).await.get("x", Some(0..101)).await.unwrap_err().kind(), Kind::Invalid);
    let whole = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\nabcdef";
    assert_eq!(bucket_that_answers(whole).await.get("x", Some(2..4)).await.unwrap(), Bytes::from_static(b"cd"));
    let endless = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>";
    assert_eq!(bucket_that_answers(endless).await.list("").await.unwrap_err().kind(), Kind::Transient);
    let foreign = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n<ListBucketResult><Contents><Key>y</Key><Size>1</Size></Contents></ListBucketResult>";
    assert_eq!(bucket_that_answers(foreign).await.list("x").await.unwrap_err().kind(), Kind::Transient);
}

#[tokio::test]
async fn statuses_are_classified_and_the_wish_of_the_store_is_kept() {
    let slow = "HTTP/1.1 503 Slow\r\nretry-after: 7\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let error = bucket_that_answers(slow).await.get("x", None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Throttled);
    assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
    let dated = "HTTP/1.1 429 Slow\r\ndate: Sun, 22 Nov 2026 03:00:00 GMT\r\nretry-after: Sun, 22 Nov 2026 03:01:00 GMT\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let error = bucket_that_answers(dated).await.list("x").await.unwrap_err();
    assert_eq!((error.kind(), error.retry_after()), (Kind::Throttled, Some(Duration::from_secs(60))));
    let conflict = "HTTP/1.1 409 Conflict\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let bucket = bucket_that_answers(conflict).await;
    assert_eq!(bucket.put("x", Bytes::new(), Put::CreateOnly).await.unwrap_err().kind(), Kind::Transient);
    let exists = "HTTP/1.1 412 Failed\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let bucket = bucket_that_answers(exists).await;
    assert_eq!(bucket.put("x", Bytes::new(), Put::CreateOnly).await.unwrap_err().kind(), Kind::Exists);
}

#[tokio::test]
async fn an_unreachable_server_is_transient() {
    let port = { TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port() };
    let bucket = S3Bucket::connect(settings(port, "vaults", "", "key", "secret")).await.unwrap();
    assert_eq!(bucket.get("x", None).await.unwrap_err().kind(), Kind::Transient);
}

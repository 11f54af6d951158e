//! What real services do too rarely to wait for: tokens refused half-way, answers that break off, requests to slow down.
//! Everything else is tested against real services.

use std::time::Duration;

use futures::future::join_all;
use futures::stream;
use model::Kind;

use super::api::glance::Glance;
use super::fake::{Fake, Reply, Request, reply};

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

//! A Glance of one image that tells what was asked of it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use disk::file::Ranged;
use model::Kind;

use super::super::fake::{Fake, Reply};
use super::Download;

const LEN: usize = 100_000;

fn file() -> String {
    (0..LEN).map(|n| char::from(b'a' + (n / 7 % 26) as u8)).collect()
}

/// Glance with one image, and the ranges that were asked of it. Answer number `cut` breaks off half-way.
async fn glance(cut: Option<usize>) -> (Fake, Arc<Mutex<Vec<(usize, usize)>>>) {
    let asked: Arc<Mutex<Vec<(usize, usize)>>> = Arc::default();
    let (log, count) = (asked.clone(), AtomicUsize::new(0));
    let fake = Fake::start(move |request| {
        let range = request.headers.get("range").and_then(|range| range.strip_prefix("bytes=")).unwrap_or("0-0");
        let (from, to) = range.split_once('-').unwrap();
        let (from, to): (usize, usize) = (from.parse().unwrap(), to.parse::<usize>().unwrap() + 1);
        if request.line.starts_with("GET /v2/images/7/file") {
            log.lock().unwrap().push((from, to));
            if cut == Some(count.fetch_add(1, Ordering::SeqCst)) {
                let half = &file()[from..(from + to) / 2];
                return Reply::Cut(format!("HTTP/1.1 206 x\r\ncontent-length: {}\r\n\r\n{half}", to - from));
            }
        }
        Reply::Whole(206, String::new(), file()[from..to].to_owned())
    })
    .await;
    (fake, asked)
}

async fn check(download: &Download, offset: usize, len: usize) {
    let bytes = download.read(offset as u64, len).await.unwrap();
    assert!(bytes == file().as_bytes()[offset..offset + len], "{len} bytes at {offset}");
}

#[tokio::test]
async fn in_order_the_ranges_grow() {
    let (fake, asked) = glance(None).await;
    let download = Download::new(&fake.client, "7", LEN as u64);
    for offset in (0..LEN).step_by(3000) {
        check(&download, offset, 3000.min(LEN - offset)).await;
    }
    let asked = asked.lock().unwrap();
    assert_eq!(*asked, [(0, 3000), (3000, 9000), (9000, 21000), (21000, 45000), (45000, 93000), (93000, LEN)]);
}

#[tokio::test]
async fn what_is_read_here_and_there_is_asked_for_alone() {
    let (fake, asked) = glance(None).await;
    let download = Download::new(&fake.client, "7", LEN as u64);
    for offset in [50_000, 10_000, 90_000, 0] {
        check(&download, offset, 1000).await;
    }
    assert_eq!(*asked.lock().unwrap(), [(50_000, 51_000), (10_000, 11_000), (90_000, 91_000), (0, 1000)]);
}

#[tokio::test]
async fn a_crooked_order_asks_for_nothing_twice() {
    let (fake, asked) = glance(None).await;
    let download = Download::new(&fake.client, "7", LEN as u64);
    for number in [0, 2, 1, 3, 6, 5, 4, 7, 9, 8] {
        check(&download, number * 5000, 5000).await;
    }
    let bytes: usize = asked.lock().unwrap().iter().map(|(from, to)| to - from).sum();
    assert!(bytes <= LEN && asked.lock().unwrap().len() <= 5, "{:?}", asked.lock().unwrap());
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_asked_for_again_from_where_it_broke() {
    let (fake, asked) = glance(Some(2)).await;
    let download = Download::new(&fake.client, "7", LEN as u64);
    let mut failures = 0;
    for offset in (0..LEN).step_by(4000) {
        let bytes = loop {
            match download.read(offset as u64, 4000).await {
                Ok(bytes) => break bytes,
                Err(error) => {
                    assert_eq!(error.kind(), Kind::Transient, "{}", error.chain());
                    assert!(error.chain().contains("image 7"), "{}", error.chain());
                    failures += 1;
                }
            }
        };
        assert!(bytes == file().as_bytes()[offset..offset + 4000], "at {offset}");
    }
    assert_eq!(failures, 1);
    let asked = asked.lock().unwrap();
    // the third answer, 12000 to 28000, had 8000 bytes
    assert!(asked[2] == (12_000, 28_000) && asked[3].0 == 20_000, "{asked:?}");
}

#[tokio::test]
async fn more_bytes_than_were_asked_for_are_damage_and_a_service_without_ranges_is_told() {
    let fake = Fake::start(|_| Reply::Whole(206, String::new(), file())).await;
    let error = Download::new(&fake.client, "7", LEN as u64).read(0, 10).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Damaged, "{}", error.chain());
    let fake = Fake::start(|_| Reply::Whole(200, String::new(), file())).await;
    let error = Download::new(&fake.client, "7", LEN as u64).read(0, 10).await.unwrap_err();
    assert!(error.chain().contains("answers ranges with the whole image"), "{}", error.chain());
    // an image that is asked for whole needs no ranges
    let download = Download::new(&fake.client, "7", LEN as u64);
    check(&download, 0, LEN).await;
}

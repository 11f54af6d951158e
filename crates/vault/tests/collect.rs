//! The collector on real vaults: what is forgotten goes, what is needed stays, also beside writers and through crashes.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a panic is a test's verdict")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use ::disk::Silent;
use common::*;
use model::Kind;
use vault::bucket::{Bucket, DirBucket, Fault, MemoryBucket, Operation, Put};
use vault::{Vault, VerifyScope};

const SIZE: usize = 3 << 20;

async fn packs(bucket: &dyn Bucket) -> usize {
    bucket.list("packs/").await.unwrap().len()
}

async fn collect(vault: &Vault) -> vault::CollectReport {
    vault.collect(Duration::ZERO, false).await.unwrap()
}

async fn is_whole(vault: &Vault, point: &str, data: &[u8]) {
    assert!(read(vault, point).await.unwrap() == data, "{point} reads back otherwise");
    let report = vault.verify(&VerifyScope::Point(id(point)), &Silent).await.unwrap();
    assert!(report.is_clean(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn forgotten_points_are_freed_and_others_stay_whole() {
    let (bucket, vault) = memory().await;
    let (one, mut two) = (disk(1, SIZE), disk(1, SIZE));
    two[..200_000].copy_from_slice(&disk(2, 200_000));
    write(&vault, "p1", None, &one, None).await.unwrap();
    write(&vault, "p2", Some("p1"), &two, Some(&one)).await.unwrap();
    write(&vault, "p3", None, &disk(3, SIZE), None).await.unwrap();
    let report = collect(&vault).await;
    assert_eq!((report.deleted, report.manifests), (0, 3));
    vault.forget(&id("p3")).await.unwrap();
    let before = packs(&*bucket).await as u64;
    let would = vault.collect(Duration::ZERO, true).await.unwrap();
    assert_eq!(packs(&*bucket).await as u64, before);
    let report = collect(&vault).await;
    assert!(report.deleted > 0 && report.freed_bytes > SIZE as u64 / 4, "{report:?}");
    assert_eq!((would.deleted, would.freed_bytes), (report.deleted, report.freed_bytes));
    assert_eq!(packs(&*bucket).await as u64, before - report.deleted);
    is_whole(&vault, "p1", &one).await;
    is_whole(&vault, "p2", &two).await;
    // the parent goes; its child keeps what it shares with it
    vault.forget(&id("p1")).await.unwrap();
    collect(&vault).await;
    is_whole(&open(bucket.clone()).await, "p2", &two).await;
    vault.forget(&id("p2")).await.unwrap();
    collect(&vault).await;
    assert_eq!(packs(&*bucket).await, 0);
    assert!(bucket.keys().iter().all(|key| key == "vault.json" || key.starts_with("keys/")), "{:?}", bucket.keys());
}

#[tokio::test]
async fn young_packs_are_left_alone() {
    let (bucket, vault) = memory().await;
    write(&vault, "p1", None, &disk(1, SIZE), None).await.unwrap();
    vault.forget(&id("p1")).await.unwrap();
    let day = Duration::from_secs(86_400);
    assert_eq!(vault.collect(day, false).await.unwrap().deleted, 0);
    bucket.advance(day);
    assert!(vault.collect(day, false).await.unwrap().deleted > 0);
}

#[tokio::test]
async fn a_damaged_manifest_stops_the_collector() {
    let (bucket, vault) = memory().await;
    write(&vault, "p1", None, &disk(1, SIZE), None).await.unwrap();
    write(&vault, "p2", None, &disk(2, SIZE), None).await.unwrap();
    vault.forget(&id("p2")).await.unwrap();
    let manifest = bucket.keys().into_iter().find(|key| key.starts_with("manifests/")).unwrap();
    bucket.damage(&manifest, |bytes| bytes[60] ^= 1);
    let before = packs(&*bucket).await;
    let error = open(bucket.clone()).await.collect(Duration::ZERO, false).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Damaged, "{}", error.chain());
    assert_eq!(packs(&*bucket).await, before);
}

/// A writer that is caught: what it refers to is condemned between its look at the vault and its commit.
#[tokio::test(flavor = "multi_thread")]
async fn a_writer_stores_again_what_was_condemned_meanwhile() {
    let (bucket, vault) = memory().await;
    let data = disk(1, SIZE);
    write(&vault, "old", None, &data, None).await.unwrap();
    let old: Vec<String> = bucket.keys().into_iter().filter(|key| key.starts_with("packs/")).collect();
    let writer = vault.begin(&id("new"), &server(), Some(&id("old"))).await.unwrap();
    let mut target = writer.disk(&name(), SIZE as u64, true).await.unwrap();
    target.write(0, bytes::Bytes::from(disk(9, 65_536))).await.unwrap();
    // a collector has condemned them, and has got no further
    for key in &old {
        bucket.put(&key.replace("packs/", "tombs/"), bytes::Bytes::new(), Put::CreateOnly).await.unwrap();
    }
    let written = target.finish().await.unwrap();
    let mut expected = data.clone();
    expected[..65_536].copy_from_slice(&disk(9, 65_536));
    let disks = vec![model::PointDisk { name: name(), size: SIZE as u64, root: written.root }];
    let sealed = writer.seal(&point(&id("new"), disks)).await.unwrap();
    assert!(sealed.version > 1);
    // now the old point and the versions that rest on it are done with: the condemned packs go, the new point stays
    vault.forget(&id("old")).await.unwrap();
    for key in &old {
        bucket.lose(key);
    }
    collect(&vault).await;
    is_whole(&open(bucket.clone()).await, "new", &expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_and_collectors_at_the_same_time_lose_nothing() {
    let (bucket, vault) = memory().await;
    let vault = Arc::new(vault);
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let collectors: Vec<_> = (0..2)
        .map(|_| {
            let (vault, stop) = (vault.clone(), stop.clone());
            tokio::spawn(async move {
                let mut passes = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    // this store's clock moves a millisecond a put: packs are condemned 40 puts after their own,
                    // whether they are committed by then or not
                    vault.collect(Duration::from_millis(40), false).await.unwrap();
                    passes += 1;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                passes
            })
        })
        .collect();
    let writers: Vec<_> = (0..2)
        .map(|writer| {
            let bucket = bucket.clone();
            tokio::spawn(async move {
                let mut kept = Vec::new();
                for round in 0..4 {
                    // half of the bytes are those of the other writer: they refer to each other's packs
                    let mut data = disk(round, 1 << 20);
                    data.extend(disk(100 + writer * 10 + round, 1 << 20));
                    let name = format!("w{writer}-{round}");
                    // a vault of its own, as another process has; the source is held, so a refused commit is repeated
                    let vault = open(bucket.clone()).await;
                    let mut tries = 0;
                    while let Err(error) = write(&vault, &name, None, &data, None).await {
                        assert!(error.kind().is_retryable() || error.kind() == Kind::NotFound, "{}", error.chain());
                        tries += 1;
                        assert!(tries < 20, "{}", error.chain());
                    }
                    kept.push((name, data));
                }
                kept
            })
        })
        .collect();
    let mut kept = Vec::new();
    for writer in writers {
        kept.extend(tokio::time::timeout(Duration::from_secs(120), writer).await.unwrap().unwrap());
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for collector in collectors {
        assert!(collector.await.unwrap() > 0);
    }
    collect(&vault).await;
    let fresh = open(bucket.clone()).await;
    for (name, data) in &kept {
        is_whole(&fresh, name, data).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_that_fails_is_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = Arc::new(DirBucket::open(folder.path()).unwrap());
    let vault = create(bucket.clone()).await;
    write(&vault, "p1", None, &disk(1, SIZE), None).await.unwrap();
    write(&vault, "p2", None, &disk(2, SIZE), None).await.unwrap();
    vault.forget(&id("p2")).await.unwrap();
    assert!(collect(&vault).await.deleted > 0);
    assert_eq!(collect(&vault).await.deleted, 0);
    is_whole(&open(bucket).await, "p1", &disk(1, SIZE)).await;
    let faulty = Arc::new(MemoryBucket::new());
    let vault = create(faulty.clone()).await;
    write(&vault, "p1", None, &disk(1, SIZE), None).await.unwrap();
    vault.forget(&id("p1")).await.unwrap();
    faulty.fail_on(Operation::Delete, "packs/", Fault::After(Kind::Transient));
    vault.collect(Duration::ZERO, false).await.unwrap_err();
    collect(&vault).await;
    assert_eq!(packs(&*faulty).await, 0);
    assert!(!faulty.keys().iter().any(|key| key.starts_with("tombs/")));
}

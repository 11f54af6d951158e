//! Hostile and damaged buckets: every change is detected, none by a panic; what can be healed is.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a panic is a test's verdict")]

mod common;

use std::sync::Arc;

use ::disk::Silent;
use bytes::Bytes;
use common::*;
use model::{Kind, Result};
use vault::bucket::{Bucket, MemoryBucket, Put};
use vault::{PackId, Vault, VerifyScope};

const MIB: usize = 1 << 20;

/// Opens the vault and uses every object of it: points, bytes, verify, index, keys.
async fn use_everything(bucket: Arc<MemoryBucket>, data: &[u8]) -> Result<Verdict> {
    let vault = Vault::open(bucket, &[identity()], options()).await?;
    vault.recipients().await?;
    let points = vault.points().await?;
    let got = read(&vault, "p1").await;
    let report = vault.verify(&VerifyScope::All, &Silent).await?;
    Ok(Verdict { points: points.len(), bytes: got.map(|got| got == data), clean: report.is_clean() })
}

struct Verdict {
    points: usize,
    bytes: Result<bool>,
    clean: bool,
}

/// One small vault with every class of object but tombstones, which are empty.
async fn sample() -> (Arc<MemoryBucket>, Vec<u8>) {
    let (bucket, vault) = memory().await;
    let data = disk(21, 512 * 1024);
    write(&vault, "p1", None, &data, None).await.unwrap();
    (bucket, data)
}

async fn copy(bucket: &MemoryBucket) -> Arc<MemoryBucket> {
    let copy = Arc::new(MemoryBucket::new());
    for key in bucket.keys() {
        let body = bucket.get(&key, None).await.unwrap();
        copy.put(&key, body, Put::CreateOnly).await.unwrap();
    }
    copy
}

/// Changes every object of a class in many ways; each must be noticed. `harmless`: the class is a cache, whose loss is
/// made good silently, but never with wrong bytes.
async fn every_change_is_noticed(class: &str, harmless: bool) {
    let (bucket, data) = sample().await;
    let key = bucket.keys().into_iter().find(|key| key.starts_with(class)).unwrap_or_else(|| panic!("no {class}"));
    let len = bucket.get(&key, None).await.unwrap().len();
    let flips = (0..500).map(|n| (n, Some((n * 7919 + n * n) % (len * 8))));
    let cuts = (0..16).map(|n| (len * n / 16, None));
    let mut noticed = 0;
    for (number, bit) in flips.chain(cuts) {
        let copy = copy(&bucket).await;
        assert!(copy.damage(&key, |body| match bit {
            Some(bit) => body[bit / 8] ^= 1 << (bit % 8),
            None => body.truncate(number),
        }));
        match use_everything(copy, &data).await {
            Err(error) => {
                assert!(!matches!(error.kind(), Kind::Transient | Kind::Permanent), "{key}: {}", error.chain());
                noticed += 1;
            }
            Ok(verdict) => {
                assert!(verdict.bytes.unwrap_or(true), "{key}, change {number} {bit:?}: wrong bytes were delivered");
                if !verdict.clean || verdict.points != 1 {
                    noticed += 1;
                } else {
                    assert!(harmless, "{key}, change {number} {bit:?} was not noticed");
                }
            }
        }
    }
    assert!(harmless || noticed == 516);
}

#[tokio::test(flavor = "multi_thread")]
async fn packs() {
    every_change_is_noticed("packs/", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests() {
    every_change_is_noticed("manifests/", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys() {
    every_change_is_noticed("keys/", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_marker() {
    every_change_is_noticed("vault.json", false).await;
}

#[tokio::test]
async fn other_versions_of_the_format_say_who_reads_them() {
    let (bucket, _) = sample().await;
    for (version, hint) in [(b'1', "before the first release"), (b'3', "a newer replicate made it")] {
        let copy = copy(&bucket).await;
        copy.damage("vault.json", |body| {
            let at = body.iter().position(|byte| *byte == b'2').unwrap();
            body[at] = version;
        });
        let error = Vault::open(copy, &[identity()], options()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.advice().unwrap().contains(hint), "{}", error.chain());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn index_objects_are_a_cache() {
    every_change_is_noticed("index/", true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_index_costs_reads_and_no_bytes() {
    let (bucket, vault) = memory().await;
    let data = disk(2, 4 * MIB);
    write(&vault, "p1", None, &data, None).await.unwrap();
    for key in bucket.keys().into_iter().filter(|key| key.starts_with("index/")) {
        bucket.damage(&key, |body| body[40] ^= 1);
    }
    let sealed = write(&open(bucket).await, "p2", None, &data, None).await.unwrap();
    assert!(sealed.stored_bytes < 20_000, "{sealed:?}");
}

/// Flips one bit in the middle of the first pack, so that one data frame of it breaks.
fn break_a_frame(bucket: &MemoryBucket) -> String {
    let key = bucket.keys().into_iter().find(|key| key.starts_with("packs/")).unwrap();
    bucket.damage(&key, |body| body[100] ^= 4);
    key
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_named_marked_stored_again_and_healed() {
    let (bucket, vault) = memory().await;
    let data = disk(2, 4 * MIB);
    write(&vault, "p1", None, &data, None).await.unwrap();
    let key = break_a_frame(&bucket);
    let pack = PackId::of_key(&key).unwrap().to_string();
    let vault = open(bucket.clone()).await;
    let error = read(&vault, "p1").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Damaged);
    assert!(error.to_string().contains(&pack) && error.to_string().contains("frame"), "{error}");

    let report = vault.verify(&VerifyScope::All, &Silent).await.unwrap();
    assert_eq!(report.damaged.len(), 1);
    assert_eq!((report.damaged[0].pack.as_str(), report.damaged[0].frames.len()), (pack.as_str(), 1));
    assert_eq!(report.affected.keys().collect::<Vec<_>>(), ["p1"]);
    assert_eq!(bucket.keys().iter().filter(|key| key.starts_with("damaged/")).count(), 1);
    vault.verify(&VerifyScope::All, &Silent).await.unwrap();
    assert_eq!(bucket.keys().iter().filter(|key| key.starts_with("damaged/")).count(), 1, "one mark says it once");

    // the next run over the same bytes stores the lost frame again, and only that
    let sealed = write(&vault, "p2", Some("p1"), &data, None).await.unwrap();
    assert!(sealed.stored_bytes > 100_000 && sealed.stored_bytes < MIB as u64 + 100_000, "{sealed:?}");
    assert!(read(&vault, "p2").await.unwrap() == data);
    let fresh = open(bucket).await;
    assert!(read(&fresh, "p1").await.unwrap() == data, "the older point is healed by the newer one's blocks");
    let report = fresh.verify(&VerifyScope::All, &Silent).await.unwrap();
    assert!(report.affected.is_empty(), "no point is lost any more: {report:?}");
}

/// An increment rests on blocks of an older pack whose ids no longer read: its check reads no frame there, and finds it.
#[tokio::test(flavor = "multi_thread")]
async fn ids_that_an_increment_needs_and_that_are_damaged_lose_the_pack() {
    let (bucket, vault) = memory().await;
    let mut data = disk(2, 4 * MIB);
    write(&vault, "p1", None, &data, None).await.unwrap();
    let key = bucket.keys().into_iter().find(|key| key.starts_with("packs/")).unwrap();
    let old = data.clone();
    data[..4096].fill(7);
    write(&vault, "p2", Some("p1"), &data, Some(&old)).await.unwrap();
    assert!(bucket.damage(&key, |body| {
        let table = body.len() - 24;
        let len = u32::from_le_bytes(body[table + 4..table + 8].try_into().unwrap()) as usize;
        body[table - len - 1] ^= 1;
    }));
    let vault = open(bucket.clone()).await;
    let report = vault.verify(&VerifyScope::Added(id("p2")), &Silent).await.unwrap();
    let pack = PackId::of_key(&key).unwrap().to_string();
    assert_eq!(report.damaged.iter().map(|it| &it.pack).collect::<Vec<_>>(), [&pack], "{report:?}");
    assert_eq!(report.affected.keys().collect::<Vec<_>>(), ["p1", "p2"]);
    assert_eq!(bucket.keys().iter().filter(|key| key.starts_with("damaged/")).count(), 1);
    // so the next run stores it again
    write(&vault, "p3", Some("p2"), &data, None).await.unwrap();
    assert!(!vault.verify(&VerifyScope::Point(id("p3")), &Silent).await.unwrap().affected.contains_key("p3"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_pack_is_found_without_reading_and_stored_again() {
    let (bucket, vault) = memory().await;
    let data = disk(3, 2 * MIB);
    write(&vault, "p1", None, &data, None).await.unwrap();
    let key = bucket.keys().into_iter().find(|key| key.starts_with("packs/")).unwrap();
    bucket.lose(&key);
    let vault = open(bucket).await;
    let report = vault.verify(&VerifyScope::Sample(0.0), &Silent).await.unwrap();
    assert_eq!((report.damaged.len(), report.affected.len(), report.bytes), (1, 1, 0));
    write(&vault, "p2", Some("p1"), &data, None).await.unwrap();
    assert!(read(&vault, "p2").await.unwrap() == data);
}

#[tokio::test(flavor = "multi_thread")]
async fn scopes_read_what_they_say() {
    let (bucket, vault) = memory().await;
    let old = disk(4, 6 * MIB);
    write(&vault, "p1", None, &old, None).await.unwrap();
    let mut new = old.clone();
    new[MIB..MIB + 4096].fill(3);
    write(&vault, "p2", Some("p1"), &new, Some(&old)).await.unwrap();
    let all = vault.verify(&VerifyScope::All, &Silent).await.unwrap();
    assert!(all.is_clean() && all.packs.len() == 2 && all.points.len() == 2);
    let added = vault.verify(&VerifyScope::Added(id("p2")), &Silent).await.unwrap();
    assert!(added.is_clean() && added.packs.len() == 1 && added.bytes < 100_000, "{added:?}");
    let point = vault.verify(&VerifyScope::Point(id("p2")), &Silent).await.unwrap();
    assert!(point.is_clean() && point.packs.len() == 2 && point.points == [id("p2")]);
    let fresh = all.packs.iter().cloned().collect();
    assert_eq!(vault.verify(&VerifyScope::NotVerifiedFor(fresh), &Silent).await.unwrap().bytes, 0);
    let missing = vault.verify(&VerifyScope::Point(id("p9")), &Silent).await.unwrap_err();
    assert_eq!(missing.kind(), Kind::NotFound);
    // objects that are not ours are passed over
    bucket.put("packs/README", Bytes::from_static(b"hello"), Put::CreateOnly).await.unwrap();
    assert!(vault.verify(&VerifyScope::All, &Silent).await.unwrap().is_clean());
}

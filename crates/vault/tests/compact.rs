//! Compaction on real vaults: what points need is moved and stays whole, what nothing needs is freed, and nothing is lost
//! beside readers, writers and collectors.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a panic is a test's verdict")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use ::disk::Silent;
use common::*;
use model::Kind;
use vault::bucket::{Bucket, MemoryBucket, Operation, Put};
use vault::{CompactReport, Compaction, Options, Vault, VerifyScope};

const SIZE: usize = 24 << 20;
const WASTE: Compaction = Compaction { waste: 20, level: 3, recompress_after: None, most: u64::MAX };
const DENSE: Compaction = Compaction { waste: 101, level: 12, recompress_after: Some(Duration::ZERO), most: u64::MAX };

async fn compact(vault: &Vault, compaction: &Compaction) -> CompactReport {
    vault.compact(compaction, false, &Silent).await.unwrap()
}

async fn collect(vault: &Vault) -> vault::CollectReport {
    vault.collect(Duration::ZERO, false).await.unwrap()
}

async fn pack_bytes(bucket: &MemoryBucket) -> u64 {
    bucket.list("packs/").await.unwrap().iter().map(|object| object.size).sum()
}

/// Reads a point with a process of its own, and checks every tree and every byte of the vault.
async fn is_whole(bucket: &Arc<MemoryBucket>, point: &str, data: &[u8]) {
    let vault = open(bucket.clone()).await;
    assert!(read(&vault, point).await.unwrap() == data, "{point} reads back otherwise");
    let report = vault.verify(&VerifyScope::All, &Silent).await.unwrap();
    assert!(report.is_clean() && report.points.contains(&id(point)), "{report:?}");
}

/// Every third leaf of p2 differs from p1, whose own leaves are needed no more once p1 is forgotten.
async fn scene() -> (Arc<MemoryBucket>, Vault, Vec<u8>) {
    let (bucket, vault) = memory().await;
    let one = disk(1, SIZE);
    let mut two = one.clone();
    let fresh = disk(2, SIZE);
    for leaf in (0..SIZE / 65_536).step_by(3) {
        two[leaf * 65_536..][..65_536].copy_from_slice(&fresh[leaf * 65_536..][..65_536]);
    }
    write(&vault, "p1", None, &one, None).await.unwrap();
    write(&vault, "p2", Some("p1"), &two, Some(&one)).await.unwrap();
    vault.forget(&id("p1")).await.unwrap();
    assert_eq!(collect(&vault).await.deleted, 0, "every pack is needed for something");
    (bucket, vault, two)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_point_needs_is_freed() {
    let (bucket, vault, two) = scene().await;
    let before = bucket.keys();
    let rehearsed = vault.compact(&WASTE, true, &Silent).await.unwrap();
    assert_eq!(bucket.keys(), before, "a rehearsal changes nothing");
    let report = compact(&vault, &WASTE).await;
    assert_eq!((rehearsed.taken, rehearsed.taken_bytes), (report.taken, report.taken_bytes));
    assert!(report.waste > report.bytes / 5 && report.points == 1 && report.unreadable.is_empty(), "{report:?}");
    is_whole(&bucket, "p2", &two).await;
    // the replaced version holds the old packs until it goes, and goes with them
    let full = pack_bytes(&bucket).await;
    let would = vault.collect(Duration::ZERO, true).await.unwrap();
    let freed = collect(&vault).await;
    assert_eq!((freed.versions, freed.freed_bytes), (1, report.taken_bytes));
    assert_eq!((would.versions, would.freed_bytes), (freed.versions, freed.freed_bytes));
    assert_eq!(pack_bytes(&bucket).await, full - report.taken_bytes);
    is_whole(&bucket, "p2", &two).await;
    let again = compact(&open(bucket.clone()).await, &WASTE).await;
    assert!(again.taken == 0 && again.waste < again.bytes / 100, "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_in_a_hurry_is_compressed_again_once() {
    let bucket = Arc::new(MemoryBucket::new());
    let recipients = [vault::Recipient::AgePublic(AGE_PUBLIC.to_owned())];
    let quick = Vault::create(bucket.clone(), &recipients, Options { level: -5, ..options() }).await.unwrap();
    let data: Vec<u8> =
        (0..400_000_u64).flat_map(|n| format!("{} is {}\n", n, n.wrapping_mul(n) % 9973).into_bytes()).collect();
    let data = &data[..data.len() / 65_536 * 65_536];
    write(&quick, "p1", None, data, None).await.unwrap();
    let before = pack_bytes(&bucket).await;
    let young = Compaction { recompress_after: Some(Duration::from_secs(86_400)), ..DENSE };
    assert_eq!(compact(&quick, &young).await.taken, 0);
    bucket.advance(Duration::from_secs(86_400));
    let report = compact(&quick, &young).await;
    assert!(report.taken > 0 && report.written_bytes < report.taken_bytes * 9 / 10, "{report:?}");
    collect(&quick).await;
    assert!(pack_bytes(&bucket).await < before * 9 / 10);
    is_whole(&bucket, "p1", data).await;
    bucket.advance(Duration::from_secs(86_400));
    assert_eq!(compact(&quick, &young).await.taken, 0, "it is as small as this level makes it");
    assert!(compact(&quick, &Compaction { level: 19, ..young }).await.taken > 0, "a higher level begins anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_pass_takes_no_more_than_it_may() {
    let (bucket, vault, two) = scene().await;
    let all = vault.compact(&WASTE, true, &Silent).await.unwrap();
    let mut passes = 0;
    loop {
        let report = compact(&vault, &Compaction { most: 1, ..WASTE }).await;
        if report.taken == 0 {
            break;
        }
        assert_eq!(report.taken, 1);
        passes += 1;
    }
    assert_eq!(passes, all.taken);
    collect(&vault).await;
    is_whole(&bucket, "p2", &two).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn short_packs_are_put_together() {
    let (bucket, vault) = memory().await;
    let mut data = noise(0, 20 << 20);
    write(&vault, "p0", None, &data, None).await.unwrap();
    for round in 1..=18_u64 {
        let old = data.clone();
        data[(round as usize) << 20..][..1 << 20].copy_from_slice(&noise(round, 1 << 20));
        let (parent, point) = (format!("p{}", round - 1), format!("p{round}"));
        write(&vault, &point, Some(&parent), &data, Some(&old)).await.unwrap();
    }
    let before = bucket.list("packs/").await.unwrap().len();
    let report = compact(&vault, &Compaction { waste: 101, ..WASTE }).await;
    assert!(report.taken >= 16 && report.written <= 3, "{report:?}");
    collect(&vault).await;
    assert!(bucket.list("packs/").await.unwrap().len() + 14 < before);
    is_whole(&bucket, "p18", &data).await;
    is_whole(&bucket, "p0", &noise(0, 20 << 20)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_and_writers_that_began_before_go_on() {
    let (bucket, vault, two) = scene().await;
    let (quick, slow) = (open(bucket.clone()).await, open(bucket.clone()).await);
    let quick = quick.open_disk(&id("p2"), &name()).await.unwrap();
    let slow = slow.open_disk(&id("p2"), &name()).await.unwrap();
    let writing = open(bucket.clone()).await;
    let writer = writing.begin(&id("p3"), &server(), Some(&id("p2"))).await.unwrap();
    let mut target = writer.disk(&name(), SIZE as u64, true).await.unwrap();
    target.write(0, bytes::Bytes::from(noise(7, 65_536))).await.unwrap();
    compact(&vault, &WASTE).await;
    // within the grace the old version stays
    let day = Duration::from_secs(86_400);
    assert_eq!(vault.collect(day, false).await.unwrap().versions, 0);
    assert!(read_all(&*quick, 1 << 20).await.unwrap() == two);
    bucket.advance(day);
    assert_eq!(vault.collect(day, false).await.unwrap().versions, 1);
    // a reader that has read nothing yet goes on by the new version, page by page and byte by byte
    let fresh = open(bucket.clone()).await.open_disk(&id("p2"), &name()).await.unwrap();
    assert_eq!(slow.extents(0).await.unwrap(), fresh.extents(0).await.unwrap());
    assert!(read_all(&*slow, 1 << 20).await.unwrap() == two);
    // and by the one behind that, however often it moves
    let dense = Compaction { recompress_after: Some(Duration::ZERO), ..DENSE };
    assert_eq!(compact(&open(bucket.clone()).await, &dense).await.points, 1);
    bucket.advance(day);
    assert_eq!(vault.collect(day, false).await.unwrap().versions, 1);
    assert_eq!(slow.extents(0).await.unwrap(), fresh.extents(0).await.unwrap());
    assert!(read_all(&*slow, 1 << 20).await.unwrap() == two);
    // the writer rests on packs that are gone: it stores again what it can, or is refused
    let written = target.finish().await;
    let disks = |root| vec![model::PointDisk { name: name(), size: SIZE as u64, root }];
    let sealed = match written {
        Ok(written) => writer.seal(&point(&id("p3"), disks(written.root))).await,
        Err(error) => Err(error),
    };
    let mut three = two.clone();
    three[..65_536].copy_from_slice(&noise(7, 65_536));
    if let Err(error) = sealed {
        // what it rested on is gone: it begins anew, the source is held
        assert!(matches!(error.kind(), Kind::Transient | Kind::NotFound | Kind::Damaged), "{}", error.chain());
        vault.forget(&id("p3")).await.unwrap();
        write(&open(bucket.clone()).await, "p4", Some("p2"), &three, Some(&two)).await.unwrap();
        is_whole(&bucket, "p4", &three).await;
    } else {
        is_whole(&bucket, "p3", &three).await;
    }
    is_whole(&bucket, "p2", &two).await;
}

/// Does something behind each put and each get of a whole object.
struct Meanwhile<F> {
    inner: Arc<MemoryBucket>,
    act: F,
}

#[async_trait::async_trait]
impl<F: Fn(&MemoryBucket, Operation, &str) + Send + Sync> Bucket for Meanwhile<F> {
    async fn put(&self, key: &str, body: bytes::Bytes, put: Put) -> model::Result<()> {
        self.inner.put(key, body, put).await?;
        (self.act)(&self.inner, Operation::Put, key);
        Ok(())
    }
    async fn get(&self, key: &str, range: Option<std::ops::Range<u64>>) -> model::Result<bytes::Bytes> {
        let whole = range.is_none();
        let body = self.inner.get(key, range).await?;
        if whole {
            (self.act)(&self.inner, Operation::Get, key);
        }
        Ok(body)
    }
    async fn list(&self, prefix: &str) -> model::Result<Vec<vault::bucket::Object>> {
        self.inner.list(prefix).await
    }
    async fn delete(&self, key: &str) -> model::Result<()> {
        self.inner.delete(key).await
    }
    fn describe(&self) -> String {
        self.inner.describe()
    }
}

fn keys(bucket: &MemoryBucket, prefix: &str) -> Vec<String> {
    bucket.keys().into_iter().filter(|key| key.starts_with(prefix)).collect()
}

/// A collector condemns the new packs just before the commit: the old version is put again above the new one.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_does_not_pass_falls_back() {
    let (bucket, _, two) = scene().await;
    let old = keys(&bucket, "packs/");
    let condemn = move |bucket: &MemoryBucket, operation: Operation, key: &str| {
        let commits = operation == Operation::Put && key.starts_with("manifests/") && key.ends_with(".2");
        let fresh = keys(bucket, "packs/").into_iter().filter(|pack| !old.contains(pack));
        for pack in fresh.filter(|_| commits) {
            let tomb = pack.replace("packs/", "tombs/");
            futures::executor::block_on(bucket.put(&tomb, bytes::Bytes::new(), Put::CreateOnly)).unwrap();
            bucket.lose(&pack);
        }
    };
    let racing = Meanwhile { inner: bucket.clone(), act: condemn };
    let report = compact(&open(Arc::new(racing)).await, &WASTE).await;
    assert_eq!((report.points, report.raced), (0, 1), "{report:?}");
    assert_eq!(keys(&bucket, "manifests/").len(), 3);
    assert_eq!(collect(&open(bucket.clone()).await).await.versions, 2);
    is_whole(&bucket, "p2", &two).await;
    assert_eq!(compact(&open(bucket.clone()).await, &WASTE).await.points, 1, "and the next one does it");
    is_whole(&bucket, "p2", &two).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_that_is_forgotten_meanwhile_does_not_come_back() {
    let (bucket, ..) = scene().await;
    let before = keys(&bucket, "index/").len();
    let forget = move |bucket: &MemoryBucket, operation: Operation, key: &str| {
        // the index is the last thing that is stored before the commits: now the manifest is read for the last time
        let last = operation == Operation::Get && keys(bucket, "index/").len() > before;
        if last && key.starts_with("manifests/") {
            assert!(bucket.lose(key));
        }
    };
    let racing = Meanwhile { inner: bucket.clone(), act: forget };
    let report = compact(&open(Arc::new(racing)).await, &WASTE).await;
    assert_eq!((report.points, report.raced), (0, 1), "{report:?}");
    assert!(keys(&bucket, "manifests/").is_empty());
}

/// Condemned while a writer committed: needed all the same, and rid of once nothing rests on it.
#[tokio::test(flavor = "multi_thread")]
async fn a_condemned_pack_that_is_needed_is_moved() {
    let (bucket, vault, two) = scene().await;
    let pack = keys(&bucket, "packs/").remove(0);
    bucket.put(&pack.replace("packs/", "tombs/"), bytes::Bytes::new(), Put::CreateOnly).await.unwrap();
    let report = compact(&vault, &Compaction { waste: 101, ..WASTE }).await;
    assert_eq!((report.taken, report.points), (1, 1), "{report:?}");
    collect(&vault).await;
    assert!(!bucket.keys().contains(&pack) && keys(&bucket, "tombs/").is_empty());
    is_whole(&bucket, "p2", &two).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_read_back_is_left_and_told() {
    let (bucket, vault, _) = scene().await;
    let packs = bucket.list("packs/").await.unwrap();
    let first = packs.into_iter().min_by_key(|object| object.modified).unwrap().key;
    bucket.damage(&first, |bytes| bytes[5000] ^= 1);
    let vault_again = open(bucket.clone()).await;
    drop(vault);
    let report = compact(&vault_again, &WASTE).await;
    assert!(!report.unreadable.is_empty(), "{report:?}");
    collect(&vault_again).await;
    // the damaged pack is still what it was: verify finds it, and a run stores it again
    assert!(bucket.keys().contains(&first));
    let found = open(bucket.clone()).await.verify(&VerifyScope::All, &Silent).await.unwrap();
    assert_eq!(found.damaged.len(), 1, "{found:?}");
    assert!(found.affected.contains_key("p2"));
}

/// A writer has died between its commit and its check, and a collector has taken what the new version rests on.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_does_not_stand_is_mended() {
    let (bucket, vault, two) = scene().await;
    compact(&vault, &WASTE).await;
    let newest = bucket.list("packs/").await.unwrap().into_iter().max_by_key(|object| object.modified).unwrap().key;
    bucket.put(&newest.replace("packs/", "tombs/"), bytes::Bytes::new(), Put::CreateOnly).await.unwrap();
    bucket.lose(&newest);
    assert!(read(&open(bucket.clone()).await, "p2").await.unwrap() == two, "by the older version");
    let found = open(bucket.clone()).await.verify(&VerifyScope::All, &Silent).await.unwrap();
    assert!(found.affected.contains_key("p2"), "the newest version does not stand: {found:?}");
    assert_eq!(collect(&vault).await.versions, 0, "an older version is all there is");
    compact(&open(bucket.clone()).await, &WASTE).await;
    assert!(read(&open(bucket.clone()).await, "p2").await.unwrap() == two);
    assert!(collect(&vault).await.versions > 0);
    is_whole(&bucket, "p2", &two).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_new_version_does_not_cost_the_old_one() {
    let (bucket, vault, two) = scene().await;
    compact(&vault, &WASTE).await;
    let manifests: Vec<String> = bucket.keys().into_iter().filter(|key| key.starts_with("manifests/")).collect();
    assert_eq!(manifests.len(), 2);
    let newest = manifests.iter().find(|key| key.ends_with(".2")).unwrap();
    bucket.damage(newest, |bytes| *bytes.last_mut().unwrap() ^= 1);
    let reopened = open(bucket.clone()).await;
    assert!(read(&reopened, "p2").await.unwrap() == two, "by the older version");
    assert_eq!(reopened.collect(Duration::ZERO, false).await.unwrap().versions, 0);
    compact(&open(bucket.clone()).await, &WASTE).await;
    is_whole(&bucket, "p2", &two).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compactions_writers_and_collectors_at_the_same_time_lose_nothing() {
    let (bucket, vault) = memory().await;
    let vault = Arc::new(vault);
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let aggressive = Compaction { waste: 1, level: 1, recompress_after: None, most: u64::MAX };
    let upkeep: Vec<_> = (0..3)
        .map(|kind| {
            let (vault, stop, aggressive) = (vault.clone(), stop.clone(), aggressive.clone());
            tokio::spawn(async move {
                let mut passes = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let done = match kind {
                        0 => vault.collect(Duration::from_millis(40), false).await.map(drop),
                        _ => vault.compact(&aggressive, false, &Silent).await.map(drop),
                    };
                    // a compaction that is outrun by the collector gives up; it has promised nothing
                    if let Err(error) = done {
                        assert!(
                            kind > 0 && matches!(error.kind(), Kind::Damaged | Kind::NotFound | Kind::Transient),
                            "{}",
                            error.chain()
                        );
                    } else {
                        passes += 1;
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                passes
            })
        })
        .collect();
    let mut kept: Vec<(String, Vec<u8>)> = Vec::new();
    for round in 0..10_u64 {
        let vault = open(bucket.clone()).await;
        let mut data = kept.last().map_or_else(|| disk(1, 2 << 20), |(_, data)| data.clone());
        for leaf in (0..32).skip(round as usize % 3).step_by(3) {
            data[leaf * 65_536..][..65_536].copy_from_slice(&noise(round * 100 + leaf as u64, 65_536));
        }
        let parent = kept.last().map(|(name, _)| name.clone());
        let name = format!("r{round}");
        let mut tries = 0;
        while let Err(error) = write(&vault, &name, parent.as_deref(), &data, None).await {
            assert!(matches!(error.kind(), Kind::Transient | Kind::NotFound | Kind::Damaged), "{}", error.chain());
            tries += 1;
            assert!(tries < 20, "{}", error.chain());
        }
        kept.push((name, data));
        if kept.len() > 3 {
            let (gone, _) = kept.remove(0);
            vault.forget(&id(&gone)).await.unwrap();
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for upkeep in upkeep {
        assert!(upkeep.await.unwrap() > 0);
    }
    compact(&vault, &aggressive).await;
    collect(&vault).await;
    for (name, data) in &kept {
        is_whole(&bucket, name, data).await;
    }
}

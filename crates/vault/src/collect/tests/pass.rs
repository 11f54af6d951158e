//! The collector's pass over a bucket: what it deletes, what stops it, and that it may die anywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use model::{Error, Kind, PointId, Result};

use super::super::CollectReport;
use super::super::run::{Pass, References, lost_packs};
use crate::PackId;
use crate::bucket::{Bucket, Fault, MemoryBucket, Object, Operation, Put};
use crate::layout::{CLOCK, INDEX, MANIFESTS, TOMBS, manifest_key, parse_manifest_key};

const GRACE: Duration = Duration::from_secs(3600);

fn pack(number: u8) -> PackId {
    PackId([number; 16])
}

/// Manifests and index objects whose bodies are the names of packs, in the clear.
struct Plain<'a>(&'a dyn Bucket);

impl Plain<'_> {
    async fn read(&self, object: &Object) -> Result<Vec<PackId>> {
        let body = self.0.get(&object.key, None).await?;
        let parse = |name: &[u8]| PackId::parse(std::str::from_utf8(name).ok()?);
        let packs: Option<Vec<PackId>> = body.split(|byte| *byte == b'\n').map(parse).collect();
        packs.ok_or_else(|| Error::new(Kind::Damaged, format!("cannot read {}", object.key)))
    }
}

#[async_trait]
impl References for Plain<'_> {
    async fn of_manifest(&self, object: &Object) -> Result<Vec<PackId>> {
        self.read(object).await
    }
    async fn of_whole_manifest(&self, object: &Object) -> Result<Vec<PackId>> {
        self.read(object).await
    }
    async fn of_index(&self, object: &Object) -> Result<Vec<PackId>> {
        self.read(object).await
    }
}

fn listing(packs: &[u8]) -> Bytes {
    let names: Vec<String> = packs.iter().map(|number| pack(*number).to_string()).collect();
    Bytes::from(names.join("\n"))
}

async fn put(bucket: &dyn Bucket, key: &str, body: Bytes) {
    bucket.put(key, body, Put::CreateOnly).await.unwrap();
}

async fn put_manifest(bucket: &dyn Bucket, point: &str, version: u32, packs: &[u8]) -> String {
    let key = manifest_key("00ff", &PointId::new(point).unwrap(), version);
    put(bucket, &key, listing(packs)).await;
    key
}

/// Packs 1 and 2 are needed, 3 and 4 are not; 5 is not, and young. All but 5 are two hours old.
async fn scene() -> MemoryBucket {
    let bucket = MemoryBucket::new();
    for number in 1..=4 {
        put(&bucket, &pack(number).key(), Bytes::from(vec![number; 10])).await;
    }
    put(&bucket, &format!("{INDEX}gone"), listing(&[3, 4])).await;
    put(&bucket, &format!("{INDEX}half"), listing(&[2, 3])).await;
    put(&bucket, &pack(3).damage_key(), Bytes::new()).await;
    put(&bucket, &pack(1).damage_key(), Bytes::new()).await;
    put_manifest(&bucket, "p1", 1, &[1]).await;
    put_manifest(&bucket, "p2", 1, &[1, 2]).await;
    put(&bucket, "vault.json", Bytes::from_static(b"{}")).await;
    bucket.advance(Duration::from_secs(7200));
    put(&bucket, &pack(5).key(), Bytes::new()).await;
    bucket
}

async fn collect(bucket: &dyn Bucket) -> Result<CollectReport> {
    Pass::new(bucket, &Plain(bucket), GRACE).run().await
}

fn packs(bucket: &MemoryBucket) -> Vec<PackId> {
    bucket.keys().iter().filter(|key| key.starts_with("packs/")).filter_map(|key| PackId::of_key(key)).collect()
}

fn content(bucket: &MemoryBucket) -> BTreeSet<String> {
    // damage marks have random names: their packs tell them apart here
    bucket.keys().into_iter().map(|key| key.split('.').next().unwrap_or_default().to_owned()).collect()
}

#[tokio::test]
async fn what_nothing_needs_is_removed_and_nothing_else() {
    let bucket = scene().await;
    let rehearsed = Pass::new(&bucket, &Plain(&bucket), GRACE).rehearse().await.unwrap();
    assert_eq!(packs(&bucket).len(), 5);
    assert!(!bucket.log().iter().any(|(operation, key)| *operation == Operation::Delete && !key.starts_with(CLOCK)));
    let report = collect(&bucket).await.unwrap();
    assert_eq!(packs(&bucket), [pack(1), pack(2), pack(5)]);
    assert_eq!((report.deleted, report.freed_bytes, report.packs, report.manifests), (2, 20, 5, 2));
    assert_eq!((report.index_objects, report.damage_marks), (1, 1));
    assert_eq!((rehearsed.deleted, rehearsed.freed_bytes), (report.deleted, report.freed_bytes));
    let left = bucket.keys();
    assert!(!left.iter().any(|key| key.starts_with(TOMBS) || key.starts_with(CLOCK)), "{left:?}");
    assert!(left.contains(&format!("{INDEX}half")) && left.contains(&"vault.json".to_owned()));
    bucket.advance(Duration::from_secs(7200));
    assert_eq!(collect(&bucket).await.unwrap().deleted, 1);
    assert_eq!(packs(&bucket), [pack(1), pack(2)]);
}

#[tokio::test]
async fn a_tombstone_is_put_before_and_taken_after_its_pack() {
    let bucket = scene().await;
    collect(&bucket).await.unwrap();
    let log = bucket.log();
    let at = |operation, key: String| log.iter().position(|entry| *entry == (operation, key.clone())).unwrap();
    let lists = |prefix: &str| {
        let all = log.iter().enumerate().filter(|(_, e)| e.0 == Operation::List && e.1 == prefix);
        all.map(|(at, _)| at).collect::<Vec<_>>()
    };
    for dead in [pack(3), pack(4)] {
        let tomb = at(Operation::Put, dead.tomb_key());
        let delete = at(Operation::Delete, dead.key());
        let bury = at(Operation::Delete, dead.tomb_key());
        let tombs = lists(TOMBS)[0];
        // one listing before them looks for versions that were replaced
        let manifests = &lists(MANIFESTS)[1..];
        assert!(manifests[0] < tomb && tomb < tombs && tombs < manifests[1]);
        assert!(manifests[1] < delete && delete < bury);
    }
}

#[tokio::test]
async fn a_manifest_that_cannot_be_read_stops_everything() {
    let bucket = scene().await;
    let key = put_manifest(&bucket, "p3", 1, &[4]).await;
    bucket.damage(&key, |bytes| bytes[0] = b'?');
    let before = packs(&bucket);
    assert_eq!(collect(&bucket).await.unwrap_err().kind(), Kind::Damaged);
    assert_eq!(packs(&bucket), before);
    // and one that a store does not find although it lists it
    bucket.damage(&key, |bytes| bytes[0] = b'0');
    bucket.fail_on(Operation::Get, &key, Fault::Before(Kind::NotFound));
    assert_eq!(collect(&bucket).await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(packs(&bucket), before);
    assert_eq!(bucket.hits(), 1);
}

#[tokio::test]
async fn a_listing_that_fails_is_not_an_empty_one() {
    for prefix in [MANIFESTS, "packs/", TOMBS] {
        let bucket = scene().await;
        bucket.fail_on(Operation::List, prefix, Fault::Before(Kind::Transient));
        collect(&bucket).await.unwrap_err();
        assert_eq!(packs(&bucket).len(), 5, "{prefix}");
    }
}

/// Commits a manifest that needs pack 3 just when the collector lists the tombstones.
struct Racing(MemoryBucket);

#[async_trait]
impl Bucket for Racing {
    async fn put(&self, key: &str, body: Bytes, put: Put) -> Result<()> {
        self.0.put(key, body, put).await
    }
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        self.0.get(key, range).await
    }
    async fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        let listed = self.0.list(prefix).await;
        if prefix == TOMBS && !self.0.keys().iter().any(|key| key.contains("racing")) {
            put_manifest(&self.0, "racing", 1, &[2, 3]).await;
        }
        listed
    }
    async fn delete(&self, key: &str) -> Result<()> {
        self.0.delete(key).await
    }
    fn describe(&self) -> String {
        self.0.describe()
    }
}

#[tokio::test]
async fn a_writer_that_commits_beside_the_collector_is_told_and_loses_nothing() {
    let bucket = Racing(scene().await);
    let report = collect(&bucket).await.unwrap();
    assert_eq!((report.deleted, report.in_use_though_condemned), (1, 1));
    assert_eq!(packs(&bucket.0), [pack(1), pack(2), pack(3), pack(5)]);
    // the tombstone stays as long as the pack, and the writer must store that data again
    let lost = lost_packs(&bucket.0, BTreeSet::from([pack(2), pack(3)])).await.unwrap();
    assert_eq!(lost, BTreeSet::from([pack(3)]));
    collect(&bucket.0).await.unwrap();
    assert!(bucket.0.keys().contains(&pack(3).tomb_key()));
    // when the manifest is forgotten, the pack goes after all
    bucket.0.lose(&manifest_key("00ff", &PointId::new("racing").unwrap(), 1));
    collect(&bucket.0).await.unwrap();
    assert_eq!(packs(&bucket.0), [pack(1), pack(2), pack(5)]);
    assert!(!bucket.0.keys().contains(&pack(3).tomb_key()));
}

#[tokio::test]
async fn packs_that_are_condemned_or_gone_are_lost_to_a_writer() {
    let bucket = scene().await;
    put(&bucket, &pack(1).tomb_key(), Bytes::new()).await;
    let lost = lost_packs(&bucket, BTreeSet::from([pack(1), pack(2), pack(9)])).await.unwrap();
    assert_eq!(lost, BTreeSet::from([pack(1), pack(9)]));
    let log: Vec<String> = bucket.log().into_iter().filter(|e| e.0 == Operation::List).map(|e| e.1).collect();
    assert_eq!(log, [TOMBS, "packs/"]);
}

/// The versions of point `p` that a pass leaves. Version 1 needs pack 6, version 2 pack 7, version 3 packs 2 and 7.
async fn versions_left(age: Duration, change: impl AsyncFn(&MemoryBucket)) -> Vec<u32> {
    let bucket = MemoryBucket::new();
    for number in [2, 6, 7] {
        put(&bucket, &pack(number).key(), Bytes::from(vec![number; 10])).await;
    }
    for (version, packs) in [(1, &[6][..]), (2, &[7]), (3, &[2, 7])] {
        put_manifest(&bucket, "p", version, packs).await;
    }
    bucket.advance(age);
    change(&bucket).await;
    let rehearsed = Pass::new(&bucket, &Plain(&bucket), GRACE).rehearse().await.unwrap();
    let report = collect(&bucket).await.unwrap();
    let left: Vec<u32> = bucket.keys().iter().filter_map(|key| Some(parse_manifest_key(key)?.version)).collect();
    assert_eq!((report.versions, report.manifests), (3 - left.len() as u64, left.len() as u64));
    assert_eq!((rehearsed.versions, rehearsed.deleted), (report.versions, report.deleted));
    // what the versions that are left need is there
    let needed = left.iter().flat_map(|version| [&[6][..], &[7], &[2, 7]][*version as usize - 1]);
    assert!(needed.map(|number| pack(*number)).all(|pack| packs(&bucket).contains(&pack) || pack == self::pack(2)));
    left
}

#[tokio::test]
async fn versions_that_were_replaced_go_when_the_newest_is_sound() {
    let newest = manifest_key("00ff", &PointId::new("p").unwrap(), 3);
    let calm = async |_: &MemoryBucket| {};
    assert_eq!(versions_left(GRACE, calm).await, [3]);
    assert_eq!(versions_left(GRACE - Duration::from_secs(1), calm).await, [1, 2, 3], "within the grace");
    let condemned = async |bucket: &MemoryBucket| put(bucket, &pack(2).tomb_key(), Bytes::new()).await;
    assert_eq!(versions_left(GRACE, condemned).await, [1, 2, 3], "it rests on a condemned pack");
    let gone = async |bucket: &MemoryBucket| assert!(bucket.lose(&pack(2).key()));
    assert_eq!(versions_left(GRACE, gone).await, [1, 2, 3], "it rests on a pack that is gone");
    let marked = async |bucket: &MemoryBucket| put(bucket, &pack(2).damage_key(), Bytes::new()).await;
    assert_eq!(versions_left(GRACE, marked).await, [1, 2, 3], "it rests on a pack that is marked");
    // one that cannot be read stops the pass before anything is deleted, and the older ones stay
    let bucket = MemoryBucket::new();
    put_manifest(&bucket, "p", 2, &[1]).await;
    put_manifest(&bucket, "p", 3, &[1]).await;
    put(&bucket, &pack(1).key(), Bytes::new()).await;
    bucket.advance(GRACE);
    bucket.damage(&newest, |bytes| bytes[0] = b'?');
    assert_eq!(collect(&bucket).await.unwrap_err().kind(), Kind::Damaged);
    assert_eq!(bucket.keys().iter().filter(|key| key.starts_with(MANIFESTS)).count(), 2);
}

/// Fails the n-th operation that changes something, before or after its effect, and every operation from then on: the
/// process is dead.
struct Dying {
    bucket: MemoryBucket,
    left: AtomicUsize,
    after: bool,
}

impl Dying {
    fn step(&self) -> (bool, bool) {
        let left = self.left.load(Ordering::SeqCst);
        if left > 0 {
            self.left.store(left - 1, Ordering::SeqCst);
        }
        (left == 0, left == 1)
    }

    async fn change<F: Future<Output = Result<()>>>(&self, change: F) -> Result<()> {
        let dead = || Err(Error::new(Kind::Permanent, "the process is dead"));
        match self.step() {
            (true, _) => dead(),
            (_, true) if self.after => change.await.and_then(|()| dead()),
            (_, true) => dead(),
            _ => change.await,
        }
    }
}

#[async_trait]
impl Bucket for Dying {
    async fn put(&self, key: &str, body: Bytes, put: Put) -> Result<()> {
        self.change(self.bucket.put(key, body, put)).await
    }
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        self.bucket.get(key, range).await
    }
    async fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        self.bucket.list(prefix).await
    }
    async fn delete(&self, key: &str) -> Result<()> {
        self.change(self.bucket.delete(key)).await
    }
    fn describe(&self) -> String {
        self.bucket.describe()
    }
}

#[tokio::test]
async fn a_pass_that_dies_anywhere_is_finished_by_the_next() {
    let calm = scene().await;
    collect(&calm).await.unwrap();
    let mut deaths = BTreeMap::new();
    for after in [false, true] {
        for number in 1.. {
            let dying = Dying { bucket: scene().await, left: AtomicUsize::new(number), after };
            if collect(&dying).await.is_ok() {
                break;
            }
            *deaths.entry(after).or_insert(0) += 1;
            let needed = [pack(1), pack(2)].map(PackId::key);
            assert!(needed.iter().all(|key| dying.bucket.keys().contains(key)));
            collect(&dying.bucket).await.unwrap();
            // the mark of the clock goes when it is older than the grace
            dying.bucket.lose(&dying.bucket.keys().into_iter().find(|key| key.starts_with(CLOCK)).unwrap_or_default());
            assert_eq!(content(&dying.bucket), content(&calm), "died at {number}, after the effect: {after}");
        }
    }
    // clock put and delete, two tombstones put, two packs and two tombstones deleted, index and mark
    assert_eq!(deaths, BTreeMap::from([(false, 10), (true, 10)]));
}

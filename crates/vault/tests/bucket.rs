//! The suite of buckets on memory and on a directory, that it can fail, and what the retry decorator resolves.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a panic is a test's verdict")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use model::{Error, Kind, Patience, Result};
use vault::bucket::conformance::{Effort, Finding, run};
use vault::bucket::{Bucket, DirBucket, Fault, MemoryBucket, Object, Operation, Put, RetryBucket};

fn failures(findings: &[Finding]) -> Vec<&str> {
    findings.iter().filter(|finding| !finding.ok).map(|finding| finding.name.as_str()).collect()
}

fn body(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_conforms() {
    let bucket = Arc::new(MemoryBucket::new());
    let findings = run(bucket.clone(), Effort::full()).await;
    assert!(failures(&findings).is_empty(), "{findings:#?}");
    assert!(bucket.keys().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let findings = run(Arc::new(DirBucket::open(folder.path()).unwrap()), Effort::full()).await;
    assert!(failures(&findings).is_empty(), "{findings:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_behind_retries_conforms() {
    let bucket = Arc::new(RetryBucket::new(Arc::new(MemoryBucket::new()), Patience::default()));
    let findings = run(bucket, Effort::quick()).await;
    assert!(failures(&findings).is_empty(), "{findings:#?}");
}

/// A bucket with one flaw of those that real stores have shown.
struct Flawed(MemoryBucket, Flaw);

#[derive(Clone, Copy, PartialEq)]
enum Flaw {
    RacyCreate,
    ShortList,
    UnsortedList,
    ClampedRange,
    LostDelete,
    TruncatedLarge,
    FoldedCase,
}

#[async_trait]
impl Bucket for Flawed {
    async fn put(&self, key: &str, body: Bytes, put: Put) -> Result<()> {
        let body = if self.1 == Flaw::TruncatedLarge { body.slice(..body.len().min(100_000)) } else { body };
        let key = if self.1 == Flaw::FoldedCase { key.to_lowercase() } else { key.to_owned() };
        if self.1 == Flaw::RacyCreate && put == Put::CreateOnly {
            if self.0.get(&key, None).await.is_ok() {
                return Err(Error::new(Kind::Exists, "cannot create"));
            }
            tokio::task::yield_now().await;
            return self.0.put(&key, body, Put::Overwrite).await;
        }
        self.0.put(&key, body, put).await
    }
    async fn get(&self, key: &str, range: Option<std::ops::Range<u64>>) -> Result<Bytes> {
        let key = if self.1 == Flaw::FoldedCase { key.to_lowercase() } else { key.to_owned() };
        match range {
            Some(range) if self.1 == Flaw::ClampedRange => {
                let size = self.0.get(&key, None).await?.len() as u64;
                self.0.get(&key, Some(range.start.min(size)..range.end.min(size))).await
            }
            range => self.0.get(&key, range).await,
        }
    }
    async fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        let mut all = self.0.list(prefix).await?;
        match self.1 {
            Flaw::ShortList => all.truncate(1000),
            Flaw::UnsortedList => all.reverse(),
            _ => {}
        }
        Ok(all)
    }
    async fn delete(&self, key: &str) -> Result<()> {
        if self.1 == Flaw::LostDelete { Ok(()) } else { self.0.delete(key).await }
    }
    fn describe(&self) -> String {
        "flawed:".into()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_finds_each_flaw() {
    for (flaw, check) in [
        (Flaw::RacyCreate, "one winner of a race"),
        (Flaw::ShortList, "complete listings"),
        (Flaw::UnsortedList, "complete listings"),
        (Flaw::ClampedRange, "ranges"),
        (Flaw::LostDelete, "deletes"),
        (Flaw::TruncatedLarge, "empty and large bodies"),
        (Flaw::FoldedCase, "odd keys"),
    ] {
        let findings = run(Arc::new(Flawed(MemoryBucket::new(), flaw)), Effort::full()).await;
        assert!(failures(&findings).contains(&check), "{check} does not fail: {findings:#?}");
    }
}

fn retrying(bucket: &Arc<MemoryBucket>) -> RetryBucket {
    let millis = Duration::from_millis;
    RetryBucket::new(bucket.clone(), Patience { deadline: millis(2000), first: millis(1), longest: millis(5) })
}

#[tokio::test]
async fn retries_hide_transient_trouble_and_nothing_else() {
    let memory = Arc::new(MemoryBucket::new());
    let bucket = retrying(&memory);
    for kind in [Kind::Transient, Kind::Throttled, Kind::NotYetVisible] {
        memory.fail(Operation::Put, Fault::Before(kind));
    }
    bucket.put("a", body("x"), Put::CreateOnly).await.unwrap();
    memory.fail(Operation::Get, Fault::After(Kind::Transient));
    assert_eq!(bucket.get("a", None).await.unwrap(), body("x"));
    memory.fail(Operation::List, Fault::Before(Kind::Throttled));
    assert_eq!(bucket.list("").await.unwrap().len(), 1);
    assert_eq!(memory.hits(), 5);
    memory.fail(Operation::Delete, Fault::Before(Kind::Denied));
    assert_eq!(bucket.delete("a").await.unwrap_err().kind(), Kind::Denied);
    bucket.delete("a").await.unwrap();
}

#[tokio::test]
async fn a_lost_answer_of_a_create_is_resolved_by_comparing() {
    let memory = Arc::new(MemoryBucket::new());
    let bucket = retrying(&memory);
    memory.fail(Operation::Put, Fault::After(Kind::Transient));
    bucket.put("mine", body("x"), Put::CreateOnly).await.unwrap();
    // somebody else's object is no success, with or without a failed attempt before it
    memory.put("theirs", body("y"), Put::CreateOnly).await.unwrap();
    memory.fail(Operation::Put, Fault::Before(Kind::Transient));
    assert_eq!(bucket.put("theirs", body("x"), Put::CreateOnly).await.unwrap_err().kind(), Kind::Exists);
    // without a failed attempt, an equal object is not ours either: exactly one of two equal writers wins
    assert_eq!(bucket.put("mine", body("x"), Put::CreateOnly).await.unwrap_err().kind(), Kind::Exists);
    // half a body is not ours
    memory.fail(Operation::Put, Fault::After(Kind::Transient));
    memory.fail(Operation::Get, Fault::Truncate(0));
    assert_eq!(bucket.put("half", body("x"), Put::CreateOnly).await.unwrap_err().kind(), Kind::Exists);
}

#[tokio::test]
async fn retries_end_at_the_deadline() {
    let memory = Arc::new(MemoryBucket::new());
    for _ in 0..10_000 {
        memory.fail(Operation::Get, Fault::Before(Kind::Transient));
    }
    let millis = Duration::from_millis;
    let options = Patience { deadline: millis(100), first: millis(1), longest: millis(20) };
    let bucket = RetryBucket::new(memory.clone(), options);
    let start = std::time::Instant::now();
    assert_eq!(bucket.get("a", None).await.unwrap_err().kind(), Kind::Transient);
    assert!(start.elapsed() < Duration::from_secs(2));
    assert!(memory.hits() > 3);
}

/// Throttles the first get, and asks for half a second.
struct Asking(MemoryBucket, std::sync::atomic::AtomicBool);

#[async_trait]
impl Bucket for Asking {
    async fn put(&self, key: &str, body: Bytes, put: Put) -> Result<()> {
        self.0.put(key, body, put).await
    }
    async fn get(&self, key: &str, range: Option<std::ops::Range<u64>>) -> Result<Bytes> {
        if !self.1.swap(true, std::sync::atomic::Ordering::SeqCst) {
            let wish = Duration::from_millis(500);
            return Err(Error::new(Kind::Throttled, "cannot get").come_back_after(wish).within("cannot read"));
        }
        self.0.get(key, range).await
    }
    async fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        self.0.list(prefix).await
    }
    async fn delete(&self, key: &str) -> Result<()> {
        self.0.delete(key).await
    }
    fn describe(&self) -> String {
        "asking:".into()
    }
}

#[tokio::test]
async fn the_store_says_when_to_come_back() {
    let asking = Asking(MemoryBucket::new(), Default::default());
    asking.put("a", body("x"), Put::CreateOnly).await.unwrap();
    let options = Patience { first: Duration::from_millis(1), ..Patience::default() };
    let start = std::time::Instant::now();
    RetryBucket::new(Arc::new(asking), options).get("a", None).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(500));
}

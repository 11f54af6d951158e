//! A fault at every change of the bucket that a run, a collection or a change of keys makes: refused, done with its answer lost, and death
//! before and after. The next attempt finishes; nothing is lost, and what is left over goes with the next collection.

#![allow(clippy::expect_used, clippy::print_stdout, clippy::unwrap_used, reason = "a panic is a test's verdict")]

mod common;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use common::*;
use model::{Error, Kind, Patience, Result};
use vault::bucket::{Bucket, MemoryBucket, Object, Put, RetryBucket};
use vault::{Compaction, Identity, Recipient, Vault, VerifyScope};

const SIZE: usize = 3 << 20;

/// What becomes of the n-th change.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Cut {
    Refused,
    AnswerLost,
    DeathBefore,
    DeathAfter,
}

const CUTS: [Cut; 4] = [Cut::Refused, Cut::AnswerLost, Cut::DeathBefore, Cut::DeathAfter];

/// Counts puts and deletes, and cuts the n-th.
struct Cutting {
    inner: Arc<MemoryBucket>,
    cut: Cut,
    at: usize,
    changes: AtomicUsize,
}

impl Cutting {
    async fn change(&self, key: &str, act: impl Future<Output = Result<()>>) -> Result<()> {
        let lost = || Err(Error::new(Kind::Transient, format!("cannot change {key}")).because("a fault was injected"));
        let hit = self.changes.fetch_add(1, Ordering::SeqCst) + 1 == self.at;
        match self.cut {
            Cut::Refused if hit => return lost(),
            Cut::DeathBefore if hit => std::future::pending().await,
            _ => act.await?,
        }
        match self.cut {
            Cut::AnswerLost if hit => lost(),
            Cut::DeathAfter if hit => std::future::pending().await,
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Bucket for Cutting {
    async fn put(&self, key: &str, body: Bytes, put: Put) -> Result<()> {
        self.change(key, self.inner.put(key, body, put)).await
    }
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        self.inner.get(key, range).await
    }
    async fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        self.inner.list(prefix).await
    }
    async fn delete(&self, key: &str) -> Result<()> {
        self.change(key, self.inner.delete(key)).await
    }
    fn describe(&self) -> String {
        self.inner.describe()
    }
}

/// A process: a runtime of its own, so that nothing of it goes on behind its death. None: it died.
fn process<T>(work: impl Future<Output = T>) -> Option<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let result = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), work).await.ok() });
    runtime.shutdown_background();
    result
}

/// The same, of which it is known beforehand that it is cut at its n-th change, if it comes so far. `false`: it did not.
fn cut<T, F: Future<Output = Result<T>>>(
    bucket: &Arc<MemoryBucket>,
    cut: Cut,
    at: usize,
    retried: bool,
    work: impl FnOnce(Arc<dyn Bucket>) -> F,
) -> (bool, Option<Result<T>>) {
    let cutting = Arc::new(Cutting { inner: bucket.clone(), cut, at, changes: AtomicUsize::new(0) });
    let patience = Patience { first: Duration::from_millis(1), ..Patience::default() };
    let shown: Arc<dyn Bucket> =
        if retried { Arc::new(RetryBucket::new(cutting.clone(), patience)) } else { cutting.clone() };
    let work = work(shown);
    let watched = async {
        tokio::pin!(work);
        loop {
            // a death is noticed as soon as the fatal change was asked for and nothing else moves
            match tokio::time::timeout(Duration::from_millis(100), &mut work).await {
                Ok(result) => return Some(result),
                Err(_) if is_death(cut) && cutting.changes.load(Ordering::SeqCst) >= at => return None,
                Err(_) => {}
            }
        }
    };
    let result = process(watched).expect("neither an end nor a death");
    (cutting.changes.load(Ordering::SeqCst) >= at, result)
}

fn is_death(cut: Cut) -> bool {
    matches!(cut, Cut::DeathBefore | Cut::DeathAfter)
}

/// A vault with the point `old`.
fn lived_in(old: &[u8]) -> Arc<MemoryBucket> {
    let bucket = Arc::new(MemoryBucket::new());
    let shared = bucket.clone();
    process(async move {
        let vault = create(shared).await;
        write(&vault, "old", None, old, None).await.unwrap();
    });
    bucket
}

/// Both points read back whole, everything verifies; and when they are forgotten, nothing at all is left.
fn is_whole_and_without_garbage(bucket: &Arc<MemoryBucket>, points: &[(&str, &[u8])], when: &str) {
    process(async {
        let vault = open(bucket.clone()).await;
        assert_eq!(vault.points().await.unwrap().len(), points.len(), "{when}");
        for (point, bytes) in points {
            assert!(read(&vault, point).await.unwrap() == *bytes, "{when}: {point} reads back otherwise");
        }
        vault.collect(Duration::ZERO, false).await.unwrap();
        vault.collect(Duration::ZERO, false).await.unwrap();
        let report = vault.verify(&VerifyScope::All, &disk::Silent).await.unwrap();
        assert!(report.is_clean(), "{when}: {report:?}");
        for (point, bytes) in points {
            assert!(read(&open(bucket.clone()).await, point).await.unwrap() == *bytes, "{when}: {point} was collected");
            vault.forget(&id(point)).await.unwrap();
        }
        // the mark of a collector that died is its own for a day
        bucket.advance(Duration::from_secs(2 * 86_400));
        vault.collect(Duration::ZERO, false).await.unwrap();
        vault.collect(Duration::ZERO, false).await.unwrap();
        let left: Vec<String> = bucket.keys();
        assert!(left.iter().all(|key| key == "vault.json" || key.starts_with("keys/")), "{when}: {left:?}");
    })
    .expect("the check hangs");
}

/// The new point: a part of the old one has changed, and there is more.
fn changed(old: &[u8]) -> Vec<u8> {
    let mut new = old.to_vec();
    new[..600_000].copy_from_slice(&disk(9, 600_000));
    new
}

#[test]
fn a_run_survives_a_fault_at_every_change_of_the_bucket() {
    let old = disk(1, SIZE);
    let new = changed(&old);
    let mut total = 0;
    for kind in CUTS {
        for n in 1.. {
            let bucket = lived_in(&old);
            let run = |bucket: Arc<dyn Bucket>| async {
                let vault = open(bucket).await;
                write(&vault, "new", Some("old"), &new, Some(&old)).await
            };
            let (hit, result) = cut(&bucket, kind, n, false, run);
            if !hit {
                assert!(n > 2 && result.unwrap().is_ok(), "{kind:?} {n}");
                break;
            }
            total += 1;
            // whoever did not get an answer begins again, as another process, unless the point is there already
            process(async {
                let vault = open(bucket.clone()).await;
                if vault.point(&id("new")).await.is_err() {
                    write(&vault, "new", Some("old"), &new, Some(&old)).await.unwrap();
                }
            });
            is_whole_and_without_garbage(&bucket, &[("old", &old), ("new", &new)], &format!("{kind:?} {n}"));
        }
    }
    println!("{total} faults of a run, all survived");
}

/// Behind the decorator a fault is not seen at all.
#[test]
fn retries_hide_a_fault_at_every_change() {
    let old = disk(1, SIZE);
    let new = changed(&old);
    for kind in [Cut::Refused, Cut::AnswerLost] {
        for n in 1.. {
            let bucket = lived_in(&old);
            let run = |bucket: Arc<dyn Bucket>| async {
                let vault = open(bucket).await;
                write(&vault, "new", Some("old"), &new, Some(&old)).await
            };
            let (hit, result) = cut(&bucket, kind, n, true, run);
            result.unwrap().unwrap_or_else(|error| panic!("{kind:?} {n}: {}", error.chain()));
            is_whole_and_without_garbage(&bucket, &[("old", &old), ("new", &new)], &format!("{kind:?} {n}"));
            if !hit {
                assert!(n > 2);
                break;
            }
        }
    }
}

#[test]
fn a_collection_survives_a_fault_at_every_change() {
    let (old, other) = (disk(1, SIZE), disk(2, SIZE));
    let mut total = 0;
    for kind in CUTS {
        for n in 1.. {
            let bucket = lived_in(&old);
            process(async {
                let vault = open(bucket.clone()).await;
                write(&vault, "other", None, &other, None).await.unwrap();
                vault.forget(&id("other")).await.unwrap();
            });
            let collect = |bucket: Arc<dyn Bucket>| async { open(bucket).await.collect(Duration::ZERO, false).await };
            let (hit, _) = cut(&bucket, kind, n, false, collect);
            // a writer of the same bytes comes before the next collection does: it may refer to nothing that is condemned
            process(async { write(&open(bucket.clone()).await, "again", None, &other, None).await.unwrap() });
            is_whole_and_without_garbage(&bucket, &[("old", &old), ("again", &other)], &format!("{kind:?} {n}"));
            if !hit {
                assert!(n > 2);
                break;
            }
            total += 1;
        }
    }
    println!("{total} faults of a collection, all survived");
}

#[test]
fn a_compaction_survives_a_fault_at_every_change() {
    let old = disk(1, SIZE);
    let new = changed(&old);
    let compaction = Compaction { waste: 5, level: 5, recompress_after: None, most: u64::MAX };
    let mut total = 0;
    for kind in CUTS {
        for n in 1.. {
            let bucket = lived_in(&old);
            process(async {
                let vault = open(bucket.clone()).await;
                write(&vault, "new", Some("old"), &new, Some(&old)).await.unwrap();
                write(&vault, "beside", Some("new"), &new, Some(&new)).await.unwrap();
                vault.forget(&id("old")).await.unwrap();
            });
            let compact = |bucket: Arc<dyn Bucket>| async {
                let report = open(bucket.clone()).await.compact(&compaction, false, &disk::Silent).await?;
                open(bucket).await.collect(Duration::ZERO, false).await?;
                Ok(report)
            };
            let (hit, result) = cut(&bucket, kind, n, false, compact);
            // again, as another process: once more has nothing left to do
            process(async {
                let vault = open(bucket.clone()).await;
                let report = vault.compact(&compaction, false, &disk::Silent).await.unwrap();
                assert!(hit || report.taken == 0, "{kind:?} {n}: {report:?}");
                assert!(vault.points().await.unwrap().len() == 2);
            });
            is_whole_and_without_garbage(&bucket, &[("new", &new), ("beside", &new)], &format!("{kind:?} {n}"));
            if !hit {
                assert!(n > 8 && result.unwrap().unwrap().points == 2);
                break;
            }
            total += 1;
        }
    }
    println!("{total} faults of a compaction, all survived");
}

/// A vault is made, a recipient added, the old one removed: whenever it breaks off, some key that was given opens the vault, and the same
/// commands given again end well.
#[test]
fn a_change_of_keys_survives_a_fault_at_every_change() {
    let old = disk(1, SIZE);
    let secret = secrecy::SecretString::from("correct horse battery staple");
    let fresh = || Recipient::Passphrase(secret.clone());
    let mut total = 0;
    for kind in CUTS {
        for n in 1.. {
            let bucket = lived_in(&old);
            let rotate = |bucket: Arc<dyn Bucket>| async { rotate(&open(bucket).await, &fresh()).await };
            let (hit, _) = cut(&bucket, kind, n, false, rotate);
            process(async {
                let identities = [identity(), Identity::Passphrase(secret.clone())];
                let vault = Vault::open(bucket.clone(), &identities, options()).await.unwrap();
                assert!(read(&vault, "old").await.unwrap() == old, "{kind:?} {n}");
                // the commands again, by whoever can open it now
                rotate_again(&vault, &fresh()).await;
                let only = [Identity::Passphrase(secret.clone())];
                let vault = Vault::open(bucket.clone(), &only, options()).await.unwrap();
                assert!(read(&vault, "old").await.unwrap() == old, "{kind:?} {n}");
                assert!(Vault::open(bucket.clone(), &[identity()], options()).await.is_err(), "{kind:?} {n}");
            })
            .expect("the check hangs");
            if !hit {
                assert_eq!(n, 3, "one put, one delete");
                break;
            }
            total += 1;
        }
    }
    println!("{total} faults of a change of keys, all survived");
}

/// Adds the new recipient, then removes the age key.
async fn rotate(vault: &Vault, fresh: &Recipient) -> Result<()> {
    vault.add_recipient(fresh).await?;
    remove_age(vault).await
}

async fn rotate_again(vault: &Vault, fresh: &Recipient) {
    let there = vault.recipients().await.unwrap();
    if !there.iter().any(|recipient| recipient.kind == "passphrase") {
        vault.add_recipient(fresh).await.unwrap();
    }
    remove_age(vault).await.unwrap();
}

async fn remove_age(vault: &Vault) -> Result<()> {
    for recipient in vault.recipients().await?.iter().filter(|recipient| recipient.kind == "age") {
        vault.remove_recipient(&recipient.id).await?;
    }
    Ok(())
}

#[test]
fn a_vault_that_is_being_made_is_none_or_whole() {
    for kind in CUTS {
        for n in 1.. {
            let bucket = Arc::new(MemoryBucket::new());
            let make = |bucket: Arc<dyn Bucket>| async {
                Vault::create(bucket, &[Recipient::AgePublic(AGE_PUBLIC.to_owned())], options()).await
            };
            let (hit, _) = cut(&bucket, kind, n, false, make);
            process(async {
                if bucket.get("vault.json", None).await.is_err() {
                    create(bucket.clone()).await;
                }
                let vault = open(bucket.clone()).await;
                write(&vault, "new", None, &disk(3, SIZE), None).await.unwrap();
                assert!(read(&vault, "new").await.unwrap() == disk(3, SIZE), "{kind:?} {n}");
            })
            .expect("the check hangs");
            if !hit {
                assert_eq!(n, 3, "a key, and the marker");
                break;
            }
        }
    }
}

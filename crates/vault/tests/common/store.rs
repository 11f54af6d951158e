//! What a vault must stand on a real store, whatever the store speaks.

use std::sync::Arc;
use std::time::Duration;

use model::Kind;
use vault::bucket::Bucket;
use vault::{Compaction, VerifyScope};

/// Points of several packs, large ones in parts; an increment, damage, what is forgotten, what is collected.
pub async fn a_vault_lives_on(bucket: Arc<dyn Bucket>) {
    let vault = super::create(bucket.clone()).await;
    let one = super::noise(1, 40 << 20);
    let mut two = one.clone();
    two[1 << 20..2 << 20].copy_from_slice(&super::noise(2, 1 << 20));
    super::write(&vault, "p1", None, &one, None).await.unwrap();
    let first: u64 = bucket.list("packs/").await.unwrap().iter().map(|pack| pack.size).sum();
    super::write(&vault, "p2", Some("p1"), &two, Some(&one)).await.unwrap();
    let packs = bucket.list("packs/").await.unwrap();
    let second = packs.iter().map(|pack| pack.size).sum::<u64>() - first;
    assert!(first > 38 << 20 && second < 2 << 20, "{first} bytes, then {second}");
    assert!(packs.iter().any(|pack| pack.size > 16 << 20), "none went up in parts: {packs:?}");
    let vault = super::open(bucket.clone()).await;
    assert!(super::read(&vault, "p1").await.unwrap() == one && super::read(&vault, "p2").await.unwrap() == two);
    assert!(vault.verify(&VerifyScope::All, &disk::Silent).await.unwrap().is_clean());
    vault.forget(&super::id("p1")).await.unwrap();
    let freed = vault.collect(Duration::ZERO, false).await.unwrap();
    assert!(super::read(&vault, "p2").await.unwrap() == two, "{freed:?}");
    // what is left of the first point's packs is moved, and they go
    let compaction = Compaction { waste: 1, level: 3, recompress_after: None, most: u64::MAX };
    let moved = vault.compact(&compaction, false, &disk::Silent).await.unwrap();
    assert!(moved.taken > 0 && moved.points == 1, "{moved:?}");
    let freed = vault.collect(Duration::ZERO, false).await.unwrap();
    assert!(freed.versions == 1 && freed.freed_bytes == moved.taken_bytes, "{freed:?}");
    let vault = super::open(bucket.clone()).await;
    assert!(super::read(&vault, "p2").await.unwrap() == two);
    assert!(vault.verify(&VerifyScope::All, &disk::Silent).await.unwrap().is_clean());
    vault.forget(&super::id("p2")).await.unwrap();
    let freed = vault.collect(Duration::ZERO, false).await.unwrap();
    assert!(freed.deleted > 0);
    let left = bucket.list("").await.unwrap();
    assert!(left.iter().all(|o| o.key == "vault.json" || o.key.starts_with("keys/")), "{left:?}");
}

/// Two writers that share half of their bytes, each with a connection of its own, while a collector condemns what no manifest names yet.
pub async fn writers_and_a_collector_race_on(connect: impl AsyncFn() -> Arc<dyn Bucket>) {
    super::create(connect().await).await;
    let writer = async |number: u64| {
        let mut kept = Vec::new();
        for round in 0..3 {
            let mut data = super::noise(round, 1 << 20);
            data.extend(super::noise(100 + number * 10 + round, 1 << 20));
            let vault = super::open(connect().await).await;
            let name = format!("w{number}-{round}");
            let mut tries = 0;
            while let Err(error) = super::write(&vault, &name, None, &data, None).await {
                assert!(error.kind().is_retryable() || error.kind() == Kind::NotFound, "{}", error.chain());
                tries += 1;
                assert!(tries < 20, "{}", error.chain());
            }
            kept.push((name, data));
        }
        kept
    };
    let collector = async {
        for _ in 0..6 {
            let vault = super::open(connect().await).await;
            vault.collect(Duration::ZERO, false).await.unwrap();
        }
    };
    let (one, two, ()) = tokio::join!(writer(0), writer(1), collector);
    let vault = super::open(connect().await).await;
    vault.collect(Duration::ZERO, false).await.unwrap();
    for (name, data) in one.into_iter().chain(two) {
        assert!(super::read(&vault, &name).await.unwrap() == data, "{name}");
    }
    assert!(vault.verify(&VerifyScope::All, &disk::Silent).await.unwrap().is_clean());
}

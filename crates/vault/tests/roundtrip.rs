//! What is written is read: full points, increments, deduplication, resume, commits.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a panic is a test's verdict")]

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::*;
use disk::{LEAF, PAGE, leaf};
use model::{Change, Kind};
use vault::bucket::{Bucket, Operation};

const MIB: usize = 1 << 20;

fn pack_bytes(bucket: &vault::bucket::MemoryBucket) -> usize {
    bucket.keys().iter().filter(|key| key.starts_with("packs/")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_comes_back_whatever_its_size() {
    for len in [512, 4096, 65536, 65536 + 512, 3 * MIB + 1536, PAGE as usize + 5 * MIB + 512] {
        let (bucket, vault) = memory().await;
        let data = disk(len as u64, len);
        write(&vault, "p1", None, &data, None).await.unwrap();
        assert!(read(&vault, "p1").await.unwrap() == data, "{len} bytes");
        let fresh = open(bucket).await;
        let reader = fresh.open_disk(&id("p1"), &name()).await.unwrap();
        assert!(read_all(&*reader, 300 * 512).await.unwrap() == data, "{len} bytes in odd steps");
        assert_eq!(fresh.point(&id("p1")).await.unwrap().disks[0].root, root(&data));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn extents_cover_the_disk_and_tell_zeroes() {
    let (_, vault) = memory().await;
    let mut data = disk(3, 4 * MIB);
    data[MIB..2 * MIB].fill(0);
    write(&vault, "p1", None, &data, None).await.unwrap();
    let reader = vault.open_disk(&id("p1"), &name()).await.unwrap();
    assert!(!reader.is_incremental());
    let (mut at, mut zeroes) = (0, 0);
    while at < reader.size() {
        let list = reader.extents(at).await.unwrap();
        for extent in list.as_slice() {
            assert_eq!(extent.offset, at, "no gap");
            at = extent.end();
            if extent.change == Change::Zero {
                zeroes += extent.len;
                assert!(data[extent.offset as usize..extent.end() as usize].iter().all(|b| *b == 0));
            }
        }
    }
    assert!(zeroes >= MIB as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_increment_stores_the_change_alone() {
    let (bucket, vault) = memory().await;
    let old = disk(1, 70 * MIB + 8192);
    let full = write(&vault, "p1", None, &old, None).await.unwrap();
    let mut new = old.clone();
    new[5 * MIB..5 * MIB + 4096].fill(7);
    new[69 * MIB + 17] ^= 1;
    new[20 * MIB..21 * MIB].fill(0);
    let sealed = write(&vault, "p2", Some("p1"), &new, Some(&old)).await.unwrap();
    assert!(sealed.stored_bytes < 120_000 && sealed.stored_bytes < full.stored_bytes / 50, "{sealed:?}");
    assert!(read(&vault, "p2").await.unwrap() == new);
    assert!(read(&vault, "p1").await.unwrap() == old, "the parent is untouched");
    assert_eq!(vault.point(&id("p2")).await.unwrap().disks[0].root, root(&new));

    let reader = open(bucket).await.open_changes(&id("p2"), &id("p1"), &name()).await.unwrap();
    assert!(reader.is_incremental());
    let listed: u64 = reader.extents(0).await.unwrap().as_slice().iter().map(|extent| extent.len).sum();
    assert_eq!(listed, MIB as u64 + 2 * LEAF);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_write_over_a_parent_sends_nothing_twice() {
    let (bucket, vault) = memory().await;
    let old = disk(1, 20 * MIB);
    write(&vault, "p1", None, &old, None).await.unwrap();
    let mut new = old.clone();
    new[3 * MIB + 5] ^= 1;
    let vault = open(bucket).await;
    let sealed = write(&vault, "p2", Some("p1"), &new, None).await.unwrap();
    assert!(sealed.stored_bytes < 60_000, "{sealed:?}");
    assert!(read(&vault, "p2").await.unwrap() == new);
    let sealed = write(&vault, "p3", None, &new, None).await.unwrap();
    assert!(sealed.stored_bytes < 60_000, "without a parent the index finds the blocks: {sealed:?}");
    assert!(read(&vault, "p3").await.unwrap() == new);
}

#[tokio::test(flavor = "multi_thread")]
async fn claimed_leaves_are_kept_and_all_else_is_zero() {
    let (_, vault) = memory().await;
    let old = disk(9, 3 * MIB);
    write(&vault, "p1", None, &old, None).await.unwrap();
    let (p2, p1) = (id("p2"), id("p1"));
    let writer = vault.begin(&p2, &server(), Some(&p1)).await.unwrap();
    let disk = writer.disk(&name(), old.len() as u64, false).await.unwrap();
    let first = leaf(&old[..LEAF as usize]);
    // the page is on its way: the answer may be no at first, and must come to be yes
    let mut tries = 0;
    while !disk.has_leaf(0, &first) {
        tries += 1;
        assert!(tries < 500, "the parent's page never arrives");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert!(!disk.has_leaf(1, &first));
    let written = disk.finish().await.unwrap();
    let mut expected = vec![0; old.len()];
    expected[..LEAF as usize].copy_from_slice(&old[..LEAF as usize]);
    assert_eq!(written.root, root(&expected));
    let disks = vec![model::PointDisk { name: name(), size: old.len() as u64, root: written.root }];
    writer.seal(&point(&p2, disks)).await.unwrap();
    assert!(read(&vault, "p2").await.unwrap() == expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grown_disk_keeps_its_bytes_and_gets_zeroes() {
    let (_, vault) = memory().await;
    let old = disk(4, 2 * MIB + 512);
    write(&vault, "p1", None, &old, None).await.unwrap();
    let mut new = old.clone();
    new.resize(PAGE as usize + 3 * MIB, 0);
    let (p2, p1) = (id("p2"), id("p1"));
    let writer = vault.begin(&p2, &server(), Some(&p1)).await.unwrap();
    let disk = writer.disk(&name(), new.len() as u64, true).await.unwrap();
    let written = disk.finish().await.unwrap();
    assert_eq!(written.root, root(&new));
    let shrunk = writer.disk(&name(), MIB as u64, true).await;
    assert_eq!(shrunk.err().map(|e| e.kind()), Some(Kind::Invalid), "a shrunk disk cannot be an increment");
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_inside_a_run_are_stored_once() {
    let (bucket, vault) = memory().await;
    let piece = disk(5, 3 * MIB);
    let data = [&piece[..], &piece[..], &vec![0; MIB], &piece[..]].concat();
    let sealed = write(&vault, "p1", None, &data, None).await.unwrap();
    assert!(sealed.stored_bytes < 3 * MIB as u64, "{sealed:?}");
    assert_eq!(pack_bytes(&bucket), 1);
    assert!(read(&vault, "p1").await.unwrap() == data);
}

#[tokio::test(flavor = "multi_thread")]
async fn packs_of_a_crashed_run_are_found_again() {
    let (bucket, vault) = memory().await;
    let data = disk(6, 8 * MIB);
    let p1 = id("p1");
    let writer = vault.begin(&p1, &server(), None).await.unwrap();
    let mut disk = writer.disk(&name(), data.len() as u64, false).await.unwrap();
    disk.write(0, Bytes::from(data.clone())).await.unwrap();
    let first = disk.finish().await.unwrap();
    assert!(first.stored > 0);
    drop(writer);
    assert!(bucket.keys().iter().all(|key| !key.starts_with("index/") && !key.starts_with("manifests/")));
    let vault = open(bucket).await;
    assert!(vault.points().await.unwrap().is_empty(), "nothing is visible before the commit");
    let sealed = write(&vault, "p1", None, &data, None).await.unwrap();
    assert!(sealed.stored_bytes < 40_000, "only the map is stored again: {sealed:?}");
    assert!(read(&vault, "p1").await.unwrap() == data);
}

#[tokio::test(flavor = "multi_thread")]
async fn sealing_twice_is_one_point_and_other_content_is_refused() {
    let (bucket, vault) = memory().await;
    let data = disk(7, MIB);
    let first = write(&vault, "p1", None, &data, None).await.unwrap();
    let again = write(&vault, "p1", None, &data, None).await.unwrap();
    assert_eq!((again.version, again.packs), (1, first.packs));
    let other = write(&vault, "p1", None, &disk(8, MIB), None).await.unwrap_err();
    assert_eq!(other.kind(), Kind::Exists);
    assert_eq!(bucket.keys().iter().filter(|key| key.starts_with("manifests/")).count(), 1);
    assert!(bucket.keys().iter().all(|key| !key.contains("web-1")), "no server's name leaks");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condemned_pack_is_replaced_before_the_point_counts() {
    let (bucket, vault) = memory().await;
    let data = disk(10, 2 * MIB);
    write(&vault, "p1", None, &data, None).await.unwrap();
    let (p2, p1) = (id("p2"), id("p1"));
    let writer = vault.begin(&p2, &server(), Some(&p1)).await.unwrap();
    let disk = writer.disk(&name(), data.len() as u64, true).await.unwrap();
    let written = disk.finish().await.unwrap();
    // the collector comes between: the parent is forgotten and its pack condemned
    let pack = bucket.keys().into_iter().find(|key| key.starts_with("packs/")).unwrap();
    vault.forget(&p1).await.unwrap();
    let tomb = pack.replace("packs/", "tombs/");
    bucket.put(&tomb, Bytes::new(), vault::bucket::Put::CreateOnly).await.unwrap();
    let disks = vec![model::PointDisk { name: name(), size: data.len() as u64, root: written.root }];
    let sealed = writer.seal(&point(&p2, disks)).await.unwrap();
    assert_eq!(sealed.version, 2);
    bucket.lose(&pack);
    let vault = open(bucket).await;
    assert!(read(&vault, "p2").await.unwrap() == data, "nothing rests on the condemned pack");
    assert_eq!(vault.points().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_fails_the_run_and_leaves_no_trace_in_the_index() {
    let (bucket, vault) = memory().await;
    let data = disk(11, 2 * MIB);
    bucket.fail_on(Operation::Put, "packs/", vault::bucket::Fault::Before(Kind::Permanent));
    assert!(write(&vault, "p1", None, &data, None).await.is_err());
    write(&vault, "p1", None, &data, None).await.unwrap();
    assert!(read(&vault, "p1").await.unwrap() == data);
}

#[tokio::test(flavor = "multi_thread")]
async fn forgetting_is_idempotent_and_listing_is_ordered() {
    let (_, vault) = memory().await;
    for name in ["p1", "p2"] {
        write(&vault, name, None, &disk(1, MIB), None).await.unwrap();
    }
    assert_eq!(vault.points().await.unwrap().len(), 2);
    for _ in 0..2 {
        vault.forget(&id("p1")).await.unwrap();
    }
    assert_eq!(vault.points().await.unwrap().len(), 1);
    assert_eq!(vault.point(&id("p1")).await.unwrap_err().kind(), Kind::NotFound);
    let _: Arc<dyn Bucket> = vault.bucket().clone();
}

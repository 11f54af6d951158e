//! What a directory bucket promises beyond the suite that every bucket passes: leftovers, traps of the file system.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a panic is a test's verdict")]

use bytes::Bytes;
use model::Kind;
use vault::bucket::{Bucket, DirBucket, Put};

fn body(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

#[tokio::test]
async fn leftovers_of_dead_puts_are_invisible_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = DirBucket::open(folder.path()).unwrap();
    bucket.put("packs/a", body("one"), Put::CreateOnly).await.unwrap();
    let leftover = folder.path().join(".incoming/0123");
    std::fs::write(&leftover, "half a pa").unwrap();
    assert_eq!(bucket.list("").await.unwrap().len(), 1);
    // a put that is still alive holds its lock, and the sweep of another process leaves it alone
    let alive = folder.path().join(".incoming/4567");
    let held = std::fs::File::create(&alive).unwrap();
    held.lock().unwrap();
    DirBucket::open(folder.path()).unwrap();
    assert!(!leftover.exists());
    assert!(alive.exists());
}

#[tokio::test]
async fn a_missing_or_replaced_root_is_never_an_empty_bucket() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("vault");
    assert_eq!(DirBucket::open(&root).unwrap_err().kind(), Kind::NotFound);
    let bucket = DirBucket::create(&root).unwrap();
    bucket.put("config", body("x"), Put::CreateOnly).await.unwrap();
    std::fs::rename(&root, folder.path().join("elsewhere")).unwrap();
    bucket.list("").await.unwrap_err();
    std::fs::create_dir(&root).unwrap();
    assert_eq!(bucket.list("manifests/").await.unwrap_err().kind(), Kind::Permanent);
}

#[tokio::test]
async fn a_listing_through_a_symbolic_link_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = DirBucket::open(folder.path()).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), folder.path().join("packs")).unwrap();
    assert_eq!(bucket.list("").await.unwrap_err().kind(), Kind::Invalid);
}

/// Large objects go past the page cache where their address allows it, but for what is no whole sector.
#[tokio::test]
async fn large_objects_are_whole_whatever_their_length_and_address() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = DirBucket::open(folder.path()).unwrap();
    for len in [(1 << 20) - 1, 1 << 20, (1 << 20) + 1, (1 << 20) + 4095, (3 << 20) + 512] {
        for shift in [0, 1] {
            let mut buffer = disk::Buffer::take(len + 1);
            buffer
                .as_mut()
                .iter_mut()
                .zip(0_u32..)
                .for_each(|(byte, n)| *byte = (n.wrapping_mul(2_654_435_761) >> 24) as u8);
            let body = buffer.freeze().slice(shift..shift + len);
            let key = format!("packs/{len}-{shift}");
            bucket.put(&key, body.clone(), Put::CreateOnly).await.unwrap();
            assert!(bucket.get(&key, None).await.unwrap() == body, "{key}");
        }
    }
}

#[tokio::test]
async fn create_only_keeps_the_first_body() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = DirBucket::open(folder.path()).unwrap();
    bucket.put("a/b/c", body("first"), Put::CreateOnly).await.unwrap();
    assert_eq!(bucket.put("a/b/c", body("second"), Put::CreateOnly).await.unwrap_err().kind(), Kind::Exists);
    assert_eq!(bucket.get("a/b/c", None).await.unwrap(), body("first"));
    assert_eq!(bucket.get("a/b/c", Some(1..3)).await.unwrap(), body("ir"));
    assert_eq!(bucket.get("a/b/c", Some(1..9)).await.unwrap_err().kind(), Kind::Invalid);
    assert_eq!(bucket.get("a/b", None).await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(bucket.get("a/b/c/d", None).await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(std::fs::read_dir(folder.path().join(".incoming")).unwrap().count(), 0);
}

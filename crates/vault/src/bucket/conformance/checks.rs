//! The checks of reads, listings and keys.

use futures::stream::{self, StreamExt, TryStreamExt};
use model::Kind;

use super::super::{LONGEST_PART, Put};
use super::{Ground, Verdict, body, ensure, told};

pub(super) async fn round_trip(ground: &Ground) -> Verdict {
    let key = ground.key("first");
    let bytes = body(1, 1000);
    ground.bucket.put(&key, bytes.clone(), Put::CreateOnly).await.map_err(told)?;
    let got = ground.bucket.get(&key, None).await.map_err(told)?;
    ensure(got == bytes, || format!("{} bytes came back, not the 1000 that were put", got.len()))?;
    let listed = ground.bucket.list(&ground.prefix).await.map_err(told)?;
    let fits = listed.len() == 1 && listed[0].key == key && listed[0].size == 1000;
    ensure(fits, || format!("a listing right after the put shows {listed:?}"))?;
    Ok("an object is there, whole and listed, as soon as it is put".into())
}

pub(super) async fn ranges(ground: &Ground) -> Verdict {
    let key = ground.key("ranges/x");
    let bytes = body(2, 10_000);
    ground.bucket.put(&key, bytes.clone(), Put::CreateOnly).await.map_err(told)?;
    for (start, end) in
        [(0, 1), (0, 10_000), (1, 2), (4095, 4097), (9_999, 10_000), (0, 0), (500, 500), (10_000, 10_000)]
    {
        let got = ground.bucket.get(&key, Some(start..end)).await.map_err(told)?;
        ensure(got == bytes[start as usize..end as usize], || format!("bytes {start} to {end} came back wrong"))?;
    }
    for (start, end) in [(0, 10_001), (9_999, 10_001), (10_000, 10_001), (20_000, 20_001)] {
        match ground.bucket.get(&key, Some(start..end)).await {
            Err(error) if error.kind() == Kind::Invalid => {}
            Err(error) => return Err(format!("bytes {start} to {end} of 10000: {:?}, {}", error.kind(), told(error))),
            Ok(got) => return Err(format!("bytes {start} to {end} of 10000 gave {} bytes", got.len())),
        }
    }
    let absent = ground.bucket.get(&ground.key("ranges/absent"), Some(0..1)).await;
    ensure(absent.is_err_and(|e| e.kind() == Kind::NotFound), || "a range of an absent object is not NotFound".into())?;
    Ok("12 ranges, those beyond the end refused".into())
}

pub(super) async fn listings(ground: &Ground) -> Verdict {
    let count = ground.effort.keys;
    let mut keys: Vec<String> = (0..count).map(|n| ground.key(&format!("list/{:02}/{n:05}", n % 7))).collect();
    stream::iter(keys.iter().enumerate())
        .map(|(n, key)| ground.bucket.put(key, body(n as u64, n % 50), Put::CreateOnly))
        .buffer_unordered(16)
        .try_collect::<Vec<()>>()
        .await
        .map_err(told)?;
    ground.bucket.put(&ground.key("listing"), body(3, 3), Put::CreateOnly).await.map_err(told)?;
    keys.sort();
    for part in ["list/", "list/03/", "list/03/0", "list/03/00003", "list/9", "list/03/00003x", "lis"] {
        let prefix = ground.key(part);
        let mut expected: Vec<&str> = keys.iter().map(String::as_str).filter(|key| key.starts_with(&prefix)).collect();
        let listing = ground.key("listing");
        if listing.starts_with(&prefix) {
            expected.push(&listing);
        }
        let objects = ground.bucket.list(&prefix).await.map_err(told)?;
        let got: Vec<&str> = objects.iter().map(|object| object.key.as_str()).collect();
        ensure(got == expected, || {
            let sorted = got.is_sorted();
            format!("{} of {} keys under {part}*, in order: {sorted}", got.len(), expected.len())
        })?;
        for object in &objects {
            let number: usize = object.key.rsplit('/').next().and_then(|n| n.parse().ok()).unwrap_or(3);
            ensure(object.size == (number % 50) as u64, || format!("{} has size {}", object.key, object.size))?;
        }
    }
    Ok(format!("{count} keys in 7 folders, by 7 prefixes, in order"))
}

pub(super) async fn odd_keys(ground: &Ground) -> Verdict {
    let long = "l".repeat(LONGEST_PART);
    let odd = [
        "a b",
        "plus+plus",
        "percent%20",
        "equals=",
        "tilde~",
        "hash#1",
        "question?x=1&y=2",
        "quote'\"",
        "colon:at@",
        "comma,semi;",
        "br[ac]{k}e(t)s",
        "dollar$!*",
        "umlaut-äöü",
        "漢字",
        "two..dots",
        "trailing.",
        "-dash",
        "<xml>&amp;",
        "UPPER",
        "upper",
        &long,
    ];
    let mut keys: Vec<String> = odd.iter().map(|name| ground.key(&format!("odd/{name}/x"))).collect();
    for (n, key) in keys.iter().enumerate() {
        ground.bucket.put(key, body(n as u64, 20), Put::CreateOnly).await.map_err(told)?;
    }
    for (n, key) in keys.iter().enumerate() {
        let got = ground.bucket.get(key, None).await.map_err(told)?;
        ensure(got == body(n as u64, 20), || format!("{key} holds another object's bytes"))?;
        let alone = ground.bucket.list(key).await.map_err(told)?;
        ensure(alone.len() == 1 && alone[0].key == *key, || format!("{key} is listed as {alone:?}"))?;
    }
    keys.sort();
    let got = ground.bucket.list(&ground.key("odd/")).await.map_err(told)?;
    let got: Vec<String> = got.into_iter().map(|object| object.key).collect();
    ensure(got == keys, || format!("{} of {} odd keys are listed in order", got.len(), keys.len()))?;
    Ok(format!("{} keys with blanks, signs and letters of other scripts", keys.len()))
}

pub(super) async fn refusals(ground: &Ground) -> Verdict {
    for bad in ["../escape", "a/../../b", "/absolute", "a//b", ".hidden", "a/", "new\nline"] {
        let key = if bad.starts_with(['/', '.']) { bad.to_owned() } else { ground.key(bad) };
        let put = ground.bucket.put(&key, body(4, 4), Put::CreateOnly).await;
        let get = ground.bucket.get(&key, None).await.map(drop);
        let delete = ground.bucket.delete(&key).await;
        for outcome in [put, get, delete] {
            ensure(outcome.is_err_and(|e| e.kind() == Kind::Invalid), || format!("key {bad:?} is not refused"))?;
        }
    }
    Ok("7 keys that no vault makes".into())
}

pub(super) async fn store_time(ground: &Ground) -> Verdict {
    let mut last = jiff::Timestamp::MIN;
    for n in 0..4 {
        let key = ground.key(&format!("time/{n}"));
        ground.bucket.put(&key, body(n, 10), Put::CreateOnly).await.map_err(told)?;
        let listed = ground.bucket.list(&key).await.map_err(told)?;
        let modified = listed.first().map(|object| object.modified).ok_or("the object is not listed")?;
        ensure(modified >= last, || format!("a later object is dated {modified}, before {last}"))?;
        last = modified;
    }
    Ok(format!("the store's clock does not run backwards; it showed {last}"))
}

//! The checks of puts and deletes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::{Error, Kind};

use super::super::{Bucket, Put};
use super::{Ground, Verdict, body, ensure, told};

/// Attempts at one put while the store answers that it is busy (S3: 409 among racing writers).
const ATTEMPTS: u32 = 8;

pub(super) async fn create_only(ground: &Ground) -> Verdict {
    let key = ground.key("create/x");
    ground.bucket.put(&key, body(1, 100), Put::CreateOnly).await.map_err(told)?;
    for other in [body(2, 100), body(1, 100), Bytes::new()] {
        let outcome = ground.bucket.put(&key, other, Put::CreateOnly).await;
        refused(outcome)?;
    }
    let got = ground.bucket.get(&key, None).await.map_err(told)?;
    ensure(got == body(1, 100), || "a refused put changed the object".into())?;
    Ok("3 puts on an existing key, all refused, nothing changed".into())
}

fn refused(outcome: Result<(), Error>) -> Result<(), String> {
    match outcome {
        Err(error) if error.kind() == Kind::Exists => Ok(()),
        Err(error) => Err(format!("a put on an existing key is {:?}, not Exists: {}", error.kind(), told(error))),
        Ok(()) => Err("a create-only put replaced an existing object".into()),
    }
}

pub(super) async fn race(ground: &Ground) -> Verdict {
    let (rounds, writers) = (ground.effort.rounds, ground.effort.writers);
    for round in 0..rounds {
        let key = ground.key(&format!("race/{round}"));
        let barrier = Arc::new(tokio::sync::Barrier::new(writers));
        let tasks: Vec<_> = (0..writers)
            .map(|writer| {
                let (bucket, barrier, key) = (Arc::clone(&ground.bucket), Arc::clone(&barrier), key.clone());
                tokio::spawn(async move {
                    barrier.wait().await;
                    contend(bucket.as_ref(), &key, body(writer as u64, 5000)).await
                })
            })
            .collect();
        let mut winners = Vec::new();
        let mut ambiguous = false;
        for (writer, task) in tasks.into_iter().enumerate() {
            match task.await.map_err(|error| error.to_string())? {
                (Ok(()), _) => winners.push(writer),
                (Err(error), retried) if error.kind() == Kind::Exists => ambiguous |= retried,
                (Err(error), _) => return Err(told(error)),
            }
        }
        let got = ground.bucket.get(&key, None).await.map_err(told)?;
        let stored = (0..writers).find(|writer| got == body(*writer as u64, 5000));
        let stored = stored.ok_or_else(|| format!("round {round}: the object is no writer's body"))?;
        let fits = winners == [stored] || (winners.is_empty() && ambiguous);
        ensure(fits, || format!("round {round}: writers {winners:?} won, the object is that of {stored}"))?;
    }
    Ok(format!("{rounds} rounds of {writers} writers"))
}

/// One writer of the race. The flag tells that an attempt failed without an answer, so that it may have won then.
async fn contend(bucket: &dyn Bucket, key: &str, body: Bytes) -> (Result<(), Error>, bool) {
    let mut retried = false;
    for attempt in 1.. {
        match bucket.put(key, body.clone(), Put::CreateOnly).await {
            Err(error) if error.kind().is_retryable() && attempt < ATTEMPTS => retried = true,
            outcome => return (outcome, retried),
        }
        tokio::time::sleep(Duration::from_millis(20 * u64::from(attempt))).await;
    }
    (Ok(()), retried)
}

pub(super) async fn overwrite(ground: &Ground) -> Verdict {
    let key = ground.key("over/x");
    for (seed, length) in [(1, 100), (2, 7), (3, 50_000), (4, 0), (5, 1)] {
        ground.bucket.put(&key, body(seed, length), Put::Overwrite).await.map_err(told)?;
        let got = ground.bucket.get(&key, None).await.map_err(told)?;
        ensure(got == body(seed, length), || format!("an older body is read after put {seed}"))?;
    }
    refused(ground.bucket.put(&key, body(6, 1), Put::CreateOnly).await)?;
    Ok("5 bodies over one another, each read back".into())
}

pub(super) async fn whole(ground: &Ground) -> Verdict {
    const LENGTH: usize = 200_000;
    let key = ground.key("whole/x");
    let fill = |byte: u8| Bytes::from(vec![byte; LENGTH]);
    ground.bucket.put(&key, fill(0), Put::Overwrite).await.map_err(told)?;
    let (bucket, target) = (Arc::clone(&ground.bucket), key.clone());
    let writer = tokio::spawn(async move {
        for round in 1..=20 {
            bucket.put(&target, fill(round), Put::Overwrite).await?;
        }
        Ok::<(), Error>(())
    });
    let mut reads = 0;
    let verdict = loop {
        let done = writer.is_finished();
        let got = match ground.bucket.get(&key, None).await {
            Ok(got) => got,
            Err(error) => break Err(told(error)),
        };
        reads += 1;
        let first = got.first().copied().unwrap_or_default();
        if got.len() != LENGTH || got.iter().any(|byte| *byte != first) {
            break Err(format!("read {reads} is a mixture of two bodies"));
        }
        if done {
            break ensure(first == 20, || "the last body is not the one that is read".into());
        }
    };
    writer.await.map_err(|error| error.to_string())?.map_err(told)?;
    verdict.map(|()| format!("{reads} reads during 20 overwrites, each of one body"))
}

pub(super) async fn deletes(ground: &Ground) -> Verdict {
    let key = ground.key("delete/x");
    ground.bucket.delete(&key).await.map_err(told)?;
    ground.bucket.put(&key, body(1, 10), Put::CreateOnly).await.map_err(told)?;
    ground.bucket.put(&ground.key("delete/xy"), body(1, 10), Put::CreateOnly).await.map_err(told)?;
    ground.bucket.delete(&key).await.map_err(told)?;
    ground.bucket.delete(&key).await.map_err(told)?;
    match ground.bucket.get(&key, None).await {
        Err(error) if error.kind() == Kind::NotFound => {}
        Err(error) => return Err(format!("a deleted object is {:?}: {}", error.kind(), told(error))),
        Ok(_) => return Err("a deleted object can be read".into()),
    }
    let left = ground.bucket.list(&ground.key("delete/")).await.map_err(told)?;
    ensure(left.len() == 1, || format!("{} objects are listed, 1 is left", left.len()))?;
    ground.bucket.put(&key, body(2, 10), Put::CreateOnly).await.map_err(told)?;
    Ok("absent, once, twice; the key can be created again".into())
}

pub(super) async fn sizes(ground: &Ground) -> Verdict {
    let large = ground.effort.large;
    for length in [0, 1, large] {
        let key = ground.key(&format!("size/{length}"));
        let bytes = body(length as u64, length);
        ground.bucket.put(&key, bytes.clone(), Put::CreateOnly).await.map_err(told)?;
        let got = ground.bucket.get(&key, None).await.map_err(told)?;
        ensure(got == bytes, || format!("{} bytes of {length} came back, or others", got.len()))?;
        refused(ground.bucket.put(&key, bytes.slice(..length / 2), Put::CreateOnly).await)?;
        refused(ground.bucket.put(&key, bytes.clone(), Put::CreateOnly).await)?;
        let (from, to) = (length / 3, length - length / 5);
        let part = ground.bucket.get(&key, Some(from as u64..to as u64)).await.map_err(told)?;
        ensure(part == bytes[from..to], || format!("bytes {from} to {to} of {length} came back wrong"))?;
    }
    Ok(format!("0, 1 and {large} bytes, created once"))
}

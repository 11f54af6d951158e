//! The one decorator that retries a bucket's operations, each under one deadline.
//!
//! Whoever implements [`Bucket`] classifies its errors and never retries; this is put around it once, in the wiring.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use model::{Error, Kind, Result};

use super::{Bucket, Object, Put};

/// How long and how often to try.
#[derive(Debug, Clone, Copy)]
pub struct RetryOptions {
    /// From the first attempt to giving up, waits included.
    pub deadline: Duration,
    /// Bound of the first wait; each further bound is twice the one before.
    pub first: Duration,
    /// Bound that no wait exceeds.
    pub longest: Duration,
}

impl Default for RetryOptions {
    /// Ten minutes: a store that restarts or throttles for a while does not fail a night's run.
    fn default() -> Self {
        let first = Duration::from_millis(200);
        Self { deadline: Duration::from_secs(600), first, longest: Duration::from_secs(30) }
    }
}

/// A cause that carries the store's own wish (`Retry-After`) when to come back; put it anywhere in an error's chain.
#[derive(Debug)]
pub struct RetryAfter {
    /// Not before this long.
    pub after: Duration,
    /// What the store said.
    pub source: Box<dyn StdError + Send + Sync>,
}

impl fmt::Display for RetryAfter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the store asks to come back after {} s", self.after.as_secs_f32())
    }
}

impl StdError for RetryAfter {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(self.source.as_ref())
    }
}

/// A bucket whose retryable errors are retried.
pub struct RetryBucket {
    inner: Arc<dyn Bucket>,
    options: RetryOptions,
}

impl RetryBucket {
    /// Puts retries around `inner`.
    pub fn new(inner: Arc<dyn Bucket>, options: RetryOptions) -> Self {
        Self { inner, options }
    }

    /// Repeats `attempt` until it succeeds, fails for good, or the deadline would pass.
    async fn repeat<T, F, A>(&self, end: Instant, what: &str, attempt: A) -> Result<T>
    where
        F: Future<Output = Result<T>>,
        A: Fn(u32) -> F,
    {
        let mut bound = self.options.first;
        for number in 1u32.. {
            let left = end.saturating_duration_since(Instant::now());
            let error = match tokio::time::timeout(left, attempt(number)).await {
                Ok(Err(error)) if error.kind().is_retryable() => error,
                Ok(outcome) => return outcome,
                Err(_) => return Err(self.late(what, number)),
            };
            let jittered = bound.mul_f64(rand::random::<f64>());
            let wait = jittered.max(wish(&error).unwrap_or_default());
            if Instant::now() + wait >= end {
                let tries = if number == 1 { "try".to_owned() } else { format!("{number} tries") };
                return Err(error.within(format!("cannot {what} in {} after {tries}", self.inner.describe())));
            }
            tokio::time::sleep(wait).await;
            bound = (bound * 2).min(self.options.longest);
        }
        Err(self.late(what, u32::MAX))
    }

    fn late(&self, what: &str, tries: u32) -> Error {
        let why = format!("no answer within {} s, try {tries}", self.options.deadline.as_secs_f32());
        Error::new(Kind::Transient, format!("cannot {what} in {}", self.inner.describe())).because(why)
    }

    fn end(&self) -> Instant {
        Instant::now() + self.options.deadline
    }
}

fn wish(error: &Error) -> Option<Duration> {
    let mut next = error.source();
    while let Some(error) = next {
        if let Some(wish) = error.downcast_ref::<RetryAfter>() {
            return Some(wish.after);
        }
        next = error.source();
    }
    None
}

#[async_trait]
impl Bucket for RetryBucket {
    /// A create-only put that finds its own object after a failed attempt has succeeded: that attempt's answer was lost.
    async fn put(&self, key: &str, body: Bytes, put: Put) -> Result<()> {
        let end = self.end();
        let what = format!("put {key}");
        let repeated = std::sync::atomic::AtomicBool::new(false);
        let outcome = self
            .repeat(end, &what, |number| {
                repeated.store(number > 1, std::sync::atomic::Ordering::Relaxed);
                self.inner.put(key, body.clone(), put)
            })
            .await;
        match outcome {
            Err(error)
                if put == Put::CreateOnly
                    && error.kind() == Kind::Exists
                    && repeated.load(std::sync::atomic::Ordering::Relaxed) =>
            {
                let there = self.repeat(end, &format!("get {key}"), |_| self.inner.get(key, None)).await?;
                if there == body { Ok(()) } else { Err(error) }
            }
            outcome => outcome,
        }
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        self.repeat(self.end(), &format!("get {key}"), |_| self.inner.get(key, range.clone())).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        self.repeat(self.end(), &format!("list {prefix}*"), |_| self.inner.list(prefix)).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.repeat(self.end(), &format!("delete {key}"), |_| self.inner.delete(key)).await
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

//! Retries a bucket's operations, each under one deadline, by the rule of [`model::Patience`].
//!
//! Whoever implements [`Bucket`] classifies its errors and never retries; this is put around it once, in the wiring.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use model::{Error, Kind, Patience, Result};

use super::{Bucket, Object, Put};

/// A bucket whose retryable errors are retried.
pub struct RetryBucket {
    inner: Arc<dyn Bucket>,
    patience: Patience,
}

impl RetryBucket {
    /// Puts retries around `inner`.
    pub fn new(inner: Arc<dyn Bucket>, patience: Patience) -> Self {
        Self { inner, patience }
    }

    /// Repeats `attempt` until it succeeds, fails for good, or the operation that `began` is over its deadline.
    async fn repeat<T, F, A>(&self, began: Instant, what: &str, attempt: A) -> Result<T>
    where
        F: Future<Output = Result<T>>,
        A: Fn(u32) -> F,
    {
        let what = format!("{what} in {}", self.inner.describe());
        let mut attempts = self.patience.attempts();
        loop {
            let left = self.patience.deadline.saturating_sub(began.elapsed());
            let error = match tokio::time::timeout(left, attempt(attempts.failed() + 1)).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => error,
                Err(_) => {
                    let operation = format!("cannot {what} within {} s", self.patience.deadline.as_secs());
                    return Err(Error::new(Kind::Transient, operation).because("no answer came"));
                }
            };
            tokio::time::sleep(attempts.failed_by(error, &what, began.elapsed(), rand::random())?).await;
        }
    }
}

#[async_trait]
impl Bucket for RetryBucket {
    /// A create-only put that finds its own object after a failed attempt has succeeded: that attempt's answer was lost.
    async fn put(&self, key: &str, body: Bytes, put: Put) -> Result<()> {
        let began = Instant::now();
        let what = format!("put {key}");
        let repeated = std::sync::atomic::AtomicBool::new(false);
        let outcome = self
            .repeat(began, &what, |number| {
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
                let there = self.repeat(began, &format!("get {key}"), |_| self.inner.get(key, None)).await?;
                if there == body { Ok(()) } else { Err(error) }
            }
            outcome => outcome,
        }
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        self.repeat(Instant::now(), &format!("get {key}"), |_| self.inner.get(key, range.clone())).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        self.repeat(Instant::now(), &format!("list {prefix}*"), |_| self.inner.list(prefix)).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.repeat(Instant::now(), &format!("delete {key}"), |_| self.inner.delete(key)).await
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

//! Trying a call again where nobody above can: blocks that were handed over are not handed over twice.
//!
//! The rule is [`model::Patience`], as everywhere; who is throttled also sends less at once.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use disk::DiskRead;
use model::{ExtentList, Kind, Patience, Result};
use tokio::time::{Instant, sleep};

/// Calls in flight at first, at most and at least. A snapshot takes 1,000 blocks a second.
const FIRST: usize = 16;
const MOST: usize = 64;
const LEAST: usize = 2;

/// How many calls may be in flight: more by one with each window that went well, half after a throttling.
#[derive(Debug)]
pub(super) struct Flight {
    allowed: AtomicUsize,
    good: AtomicUsize,
}

impl Default for Flight {
    fn default() -> Self {
        Self { allowed: AtomicUsize::new(FIRST), good: AtomicUsize::new(0) }
    }
}

impl Flight {
    /// How many calls may be in flight now.
    pub(super) fn allowed(&self) -> usize {
        self.allowed.load(Ordering::Relaxed)
    }

    fn went_well(&self) {
        let now = self.allowed();
        if self.good.fetch_add(1, Ordering::Relaxed) + 1 >= now {
            self.good.store(0, Ordering::Relaxed);
            self.allowed.store((now + 1).min(MOST), Ordering::Relaxed);
        }
    }

    fn throttled(&self) {
        self.good.store(0, Ordering::Relaxed);
        self.allowed.store((self.allowed() / 2).max(LEAST), Ordering::Relaxed);
    }
}

/// Calls until it goes well or patience ends. `what` is worded as `put block 7 of snapshot s`.
pub(super) async fn patiently<T, F, Fut>(flight: &Flight, what: &str, call: F) -> Result<T>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let (mut attempts, begun) = (Patience::default().attempts(), Instant::now());
    loop {
        match call().await {
            Ok(done) => {
                flight.went_well();
                return Ok(done);
            }
            Err(error) => {
                if error.kind() == Kind::Throttled {
                    flight.throttled();
                }
                let wait = attempts.failed_by(error, what, begun.elapsed(), rand::random())?;
                tracing::debug!(what, wait = wait.as_millis(), "a block is tried again");
                sleep(wait).await;
            }
        }
    }
}

/// A reader whose calls are tried again, for work inside this provider: readers that are handed out get that from the
/// decorator.
pub(super) struct Patient<R> {
    inner: R,
    flight: Flight,
}

impl<R: DiskRead> Patient<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, flight: Flight::default() }
    }
}

#[async_trait]
impl<R: DiskRead> DiskRead for Patient<R> {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    async fn extents(&self, from: u64) -> Result<ExtentList> {
        let what = format!("list extents of {}", self.inner.describe());
        patiently(&self.flight, &what, || self.inner.extents(from)).await
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let what = format!("read {}", self.inner.describe());
        patiently(&self.flight, &what, || self.inner.read_at(offset, len)).await
    }

    fn is_incremental(&self) -> bool {
        self.inner.is_incremental()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

#[cfg(test)]
mod tests {
    use model::Error;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn throttling_halves_and_success_adds() {
        let (flight, failures) = (Flight::default(), AtomicUsize::new(0));
        let call = || async {
            match failures.fetch_add(1, Ordering::Relaxed) {
                0..3 => Err(Error::new(Kind::Throttled, "cannot put")),
                _ => Ok(()),
            }
        };
        patiently(&flight, "put", call).await.unwrap();
        assert_eq!(flight.allowed(), LEAST);
        for _ in 0..1000 {
            flight.went_well();
        }
        assert!(flight.allowed() > FIRST && flight.allowed() <= MOST);
        let denied = || async { Err::<(), _>(Error::new(Kind::Denied, "cannot put")) };
        assert_eq!(patiently(&flight, "put", denied).await.unwrap_err().kind(), Kind::Denied);
    }
}

//! Trying a call again where nobody above can: pages that were handed over are not handed over twice, and a base is not
//! read from its beginning because one range did not come. The rule is [`model::Patience`], as everywhere.

use std::future::Future;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use disk::DiskRead;
use model::{ExtentList, Patience, Result};
use tokio::time::{Instant, sleep};

/// Calls until it goes well or patience ends. `what` is worded as `put pages`.
pub(super) async fn patiently<T, F, Fut>(what: &str, call: F) -> Result<T>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let (mut attempts, begun) = (Patience::default().attempts(), Instant::now());
    loop {
        match call().await {
            Ok(done) => return Ok(done),
            Err(error) => {
                let wait = attempts.failed_by(error, what, begun.elapsed(), rand::random())?;
                sleep(wait.max(Duration::from_millis(1))).await;
            }
        }
    }
}

/// A reader whose calls are tried again, for work inside this provider: readers that are handed out get that from the
/// decorator.
pub(super) struct Patient<R>(pub R);

#[async_trait]
impl<R: DiskRead> DiskRead for Patient<R> {
    fn size(&self) -> u64 {
        self.0.size()
    }

    async fn extents(&self, from: u64) -> Result<ExtentList> {
        patiently("list extents", || self.0.extents(from)).await
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        patiently("read a range", || self.0.read_at(offset, len)).await
    }

    fn is_incremental(&self) -> bool {
        self.0.is_incremental()
    }

    fn in_flight(&self) -> u64 {
        self.0.in_flight()
    }

    fn lists_holes(&self) -> bool {
        self.0.lists_holes()
    }

    fn describe(&self) -> String {
        self.0.describe()
    }
}

//! Waiting for a service, always with a bound.

use std::time::Duration;

use model::{Error, Kind, Result};
use tokio::time::{Instant, sleep};

/// Pauses between looks, growing from the first to the last.
const FIRST: Duration = Duration::from_millis(250);
const LAST: Duration = Duration::from_secs(10);
/// What every wait is granted: EC2 may not find for two minutes what it has just made.
const LEAST: Duration = Duration::from_secs(15 * 60);
/// What each GiB adds.
const PER_GIB: Duration = Duration::from_secs(60);

/// A wait with its end.
#[derive(Debug)]
pub(super) struct Bound {
    operation: String,
    until: Instant,
    pause: Duration,
}

impl Bound {
    /// A wait for something that does not depend on the size of a disk.
    pub(super) fn new(operation: impl Into<String>) -> Self {
        Self::of_size(operation, 0)
    }

    /// A wait for something that reads or writes this many bytes.
    pub(super) fn of_size(operation: impl Into<String>, bytes: u64) -> Self {
        let gib = u32::try_from(bytes >> 30).unwrap_or(u32::MAX);
        Self { operation: operation.into(), until: Instant::now() + LEAST + PER_GIB.saturating_mul(gib), pause: FIRST }
    }

    /// An error of this operation.
    pub(super) fn error(&self, kind: Kind, why: impl Into<String>) -> Error {
        Error::new(kind, self.operation.clone()).because(why.into())
    }

    /// Sleeps until the next look, or tells that the time is over.
    pub(super) async fn pause(&mut self, state: &str) -> Result<()> {
        if Instant::now() >= self.until {
            return Err(self.error(Kind::Permanent, format!("{state}, and the time that it was given is over")));
        }
        sleep(self.pause).await;
        self.pause = (self.pause * 3 / 2).min(LAST);
        Ok(())
    }

    /// A look that fails for the moment is no end of a wait: what was begun would be thrown away for it.
    pub(super) async fn bear<T>(&mut self, looked: Result<T>) -> Result<Option<T>> {
        match looked {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.kind().is_retryable() => {
                self.pause(&error.chain()).await?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn every_wait_ends() {
        let mut bound = Bound::new("cannot wait for snapshot s");
        let mut looks = 0;
        let error = loop {
            match bound.pause("it is pending").await {
                Ok(()) => looks += 1,
                Err(error) => break error,
            }
        };
        assert!(looks > 50 && looks < 200, "{looks}");
        assert_eq!(error.kind(), Kind::Permanent);
        assert!(error.chain().contains("it is pending"));
    }
}

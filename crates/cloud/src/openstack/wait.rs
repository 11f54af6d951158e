//! Waiting for a service, always with a bound: some of them give up without telling anyone.

use std::future::Future;
use std::time::Duration;

use model::{Error, Kind, Result};
use tokio::time::{Instant, sleep};

/// Pauses between looks, growing from the first to the last.
const FIRST: Duration = Duration::from_millis(300);
const LAST: Duration = Duration::from_secs(5);
/// What every wait is granted.
const LEAST: Duration = Duration::from_secs(15 * 60);
/// What each GiB adds: slower than 10 MiB/s nobody wants to be backed up.
const PER_GIB: Duration = Duration::from_secs(100);
/// Looks in a row at a service that has nothing to do any more, after which what it has not done counts as given up.
const IDLE_LOOKS: u32 = 6;
/// How often a deletion that the service gave up is ordered again.
const ATTEMPTS: u32 = 5;

/// A wait with its end.
#[derive(Debug)]
pub(in crate::openstack) struct Bound {
    operation: String,
    until: Instant,
    pause: Duration,
    idle: u32,
}

impl Bound {
    /// A wait for something that does not depend on the size of a disk.
    pub(in crate::openstack) fn new(operation: impl Into<String>) -> Self {
        Self::of_size(operation, 0)
    }

    /// A wait for something that reads or writes this many bytes.
    pub(in crate::openstack) fn of_size(operation: impl Into<String>, bytes: u64) -> Self {
        let gib = u32::try_from(bytes >> 30).unwrap_or(u32::MAX);
        let until = Instant::now() + LEAST + PER_GIB.saturating_mul(gib);
        Self { operation: operation.into(), until, pause: FIRST, idle: 0 }
    }

    /// An error of this operation.
    pub(in crate::openstack) fn error(&self, kind: Kind, why: impl Into<String>) -> Error {
        Error::new(kind, self.operation.clone()).because(why.into())
    }

    /// Sleeps until the next look, or tells that the time is over.
    pub(in crate::openstack) async fn pause(&mut self, state: &str) -> Result<()> {
        if Instant::now() >= self.until {
            return Err(self.error(Kind::Transient, format!("{state}, and the time that it was given is over")));
        }
        sleep(self.pause).await;
        self.pause = (self.pause * 3 / 2).min(LAST);
        Ok(())
    }

    /// Counts looks at which nobody works any more at what is waited for; after a few of them it is given up.
    pub(in crate::openstack) async fn idle(&mut self, idle: bool, state: &str) -> Result<()> {
        self.idle = if idle { self.idle + 1 } else { 0 };
        if self.idle >= IDLE_LOOKS {
            let why = format!("{state}, and the service has stopped to work on it");
            return Err(self.error(Kind::Permanent, why).hint("the service's own log tells why"));
        }
        self.pause(state).await
    }

    /// What is looked at, if it is still there. A look that fails for the moment is made again: what was begun would
    /// otherwise be thrown away for it.
    pub(in crate::openstack) async fn look<T, F, Fut>(&mut self, look: F) -> Result<Option<T>>
    where
        F: Fn() -> Fut + Send + Sync,
        Fut: Future<Output = Result<T>> + Send,
    {
        loop {
            match look().await {
                Ok(found) => return Ok(Some(found)),
                Err(error) if error.kind() == Kind::NotFound => return Ok(None),
                Err(error) if !error.kind().is_retryable() => return Err(error),
                Err(error) => self.pause(&error.chain()).await?,
            }
        }
    }
}

/// How often the deletion of one thing is ordered again.
#[derive(Debug, Default)]
pub(in crate::openstack) struct Attempts(u32);

impl Attempts {
    /// Counts one more, or tells that it is enough.
    pub(in crate::openstack) fn next(&mut self, bound: &Bound, what: &str, state: &str) -> Result<()> {
        self.0 += 1;
        if self.0 <= ATTEMPTS {
            return Ok(());
        }
        let why = format!("{what} is {state} after {ATTEMPTS} attempts to delete it");
        Err(bound.error(Kind::Permanent, why).hint("the service's own log tells why it does not let it go"))
    }
}

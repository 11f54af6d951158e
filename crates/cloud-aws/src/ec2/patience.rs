//! Trying a call again where nobody above can, or should: blocks that were handed over are not handed over twice, and a
//! block that is read is one of several of a call.
//!
//! The rule is [`model::Patience`], as everywhere, and how many are in flight adapts as everywhere.

use std::future::Future;

use cloud::Flight;
use model::{Patience, Result};
use tokio::time::{Instant, sleep};

/// Blocks in flight at first.
const FIRST: usize = 32;
/// Blocks in flight at most, which is what they take of memory: 64 MiB. A snapshot takes 1,000 a second, and that many
/// reach it while an answer takes up to an eighth of one.
pub(super) const MOST: usize = 128;

/// The blocks of one snapshot in flight.
pub(super) fn flight() -> Flight {
    Flight::new(FIRST, MOST)
}

/// Calls until it goes well or patience ends. `what` is worded as `put block 7 of snapshot s`.
pub(super) async fn patiently<T, F, Fut>(flight: &Flight, what: &str, call: F) -> Result<T>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let (mut attempts, begun) = (Patience::default().attempts(), Instant::now());
    loop {
        let turn = flight.turn().await;
        let answer = call().await;
        let paced = turn.end(&answer);
        match answer {
            Ok(done) => return Ok(done),
            Err(error) => {
                let wait = attempts.failed_by(error, what, begun.elapsed(), rand::random())?;
                tracing::debug!(what, wait = wait.as_millis(), "a block is tried again");
                if !paced {
                    sleep(wait).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use model::{Error, Kind};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_passes_is_tried_again_and_what_does_not_is_told() {
        let failures = AtomicUsize::new(0);
        let call = || async {
            match failures.fetch_add(1, Ordering::Relaxed) {
                0..3 => Err(Error::new(Kind::Throttled, "cannot put")),
                _ => Ok(()),
            }
        };
        patiently(&flight(), "put", call).await.unwrap();
        let denied = || async { Err::<(), _>(Error::new(Kind::Denied, "cannot put")) };
        assert_eq!(patiently(&flight(), "put", denied).await.unwrap_err().kind(), Kind::Denied);
    }
}

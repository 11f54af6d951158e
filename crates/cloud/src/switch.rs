//! The power switch of a site's servers: what a move needs to take a last capture and to go back.

use std::time::Duration;

use async_trait::async_trait;
use model::{Error, Kind, Result, ServerName};

/// How a server is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// How long its system may take to shut down.
    pub limit: Duration,
    /// Whether its power is cut after that. Its file systems are then as after a power failure.
    pub force: bool,
}

/// A site whose servers can be switched off and on.
///
/// Nothing that is made here carries a token: a server is off or on, and both calls only say which of the two is wanted.
#[async_trait]
pub trait Switch: Send + Sync {
    /// Lets a server shut down in order, and returns when it is off: [`Power::Off`](crate::Power::Off) is what describing it tells,
    /// everything that it wrote is on its disks, and it can be captured with its changes known and be started again. Off already: success.
    /// A system that does not shut down within the limit is left as it is, with an error that no retry mends; with `force` its power is
    /// cut.
    async fn stop(&self, server: &ServerName, stop: Stop) -> Result<()>;

    /// Starts a server that is off. On already: success.
    async fn start(&self, server: &ServerName) -> Result<()>;
}

/// The error for a system that does not shut down.
pub fn stays_on(server: &ServerName, stop: Stop) -> Error {
    Error::new(Kind::Permanent, format!("cannot stop server {server}"))
        .because(format!("its system did not shut down within {} s, and runs on", stop.limit.as_secs()))
        .hint("see why in the server, give it longer with `--stop-limit`, or cut its power with `--force`")
}

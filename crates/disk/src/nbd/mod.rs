//! Serves disks to other programs as block devices: a read-only NBD server over any [`DiskRead`], so that a guest boots from a disk that
//! lies in a vault before it was copied anywhere.
//!
//! ```text
//! listener -> one task per client: handshake -> requests -> a task per request, bounded -> one task that writes replies
//! ```
//!
//! What is not read is not fetched. Memory is bounded over all clients: a request holds its share from before it is read until its reply is
//! written, and a client that does not take its replies is cut off.

mod handshake;
#[cfg(test)]
mod tests;
mod transmission;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use model::{Error, Kind, Result};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;

use crate::DiskRead;

/// Clients at once. A hypervisor opens one connection, a device of the kernel up to four.
const CLIENTS: usize = 32;
/// Memory is counted in these units.
const UNIT: u64 = 4096;
/// How long a client may take to say what it wants.
const HANDSHAKE: Duration = Duration::from_secs(60);

/// A disk under a name.
pub struct Export {
    /// What clients ask for; the first export is also the one without a name.
    pub name: String,
    /// The disk, as a full reader.
    pub disk: Arc<dyn DiskRead>,
}

/// A server of disks. It owns no listener: whoever has one hands it connections.
pub struct NbdServer {
    exports: Vec<Export>,
    clients: Semaphore,
    memory: Arc<Semaphore>,
}

impl NbdServer {
    /// A server of these disks, which holds at most `memory` bytes (but enough for the largest request).
    pub fn new(exports: Vec<Export>, memory: u64) -> Result<Self> {
        if exports.is_empty() || exports.iter().any(|export| export.disk.is_incremental()) {
            return Err(Error::new(Kind::Invalid, "cannot serve disks over NBD")
                .because("there is none, or one that lists changes only"));
        }
        let units = (memory.max(u64::from(wire::LONGEST)) / UNIT).min(Semaphore::MAX_PERMITS as u64) as usize;
        Ok(Self { exports, clients: Semaphore::new(CLIENTS), memory: Arc::new(Semaphore::new(units)) })
    }

    /// Serves one client until it goes. An error is the client's trouble, never the server's.
    pub async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Send) -> Result<()> {
        let busy = |_| Error::new(Kind::Throttled, "cannot serve a client over NBD").because("there are too many");
        let _turn = self.clients.try_acquire().map_err(busy)?;
        let (mut input, mut output) = tokio::io::split(stream);
        let agreed = tokio::time::timeout(HANDSHAKE, handshake::run(&self.exports, &mut input, &mut output)).await;
        let Some(session) = agreed.map_err(|_| wire::broken("it does not say what it wants"))?? else { return Ok(()) };
        transmission::run(session, &self.memory, input, output).await
    }
}

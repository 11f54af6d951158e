//! Freezing a guest's file systems around the cut, and thawing them in every path.

use std::path::{Path, PathBuf};
use std::time::Duration;

use model::{Error, Kind, Result};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::agent::Agent;

/// How long an agent may take to answer at all.
const ANSWER: Duration = Duration::from_secs(5);
/// How long a thaw is tried before the caller goes on; then it is tried in the background.
const THAW: Duration = Duration::from_secs(30);
/// How long a thaw is tried in the background.
const THAW_LATER: Duration = Duration::from_secs(600);

/// A frozen guest. If it is dropped without [`thaw`](Self::thaw), it is thawed in the background.
#[derive(Debug)]
pub(super) struct Frozen {
    agent: PathBuf,
    armed: bool,
}

impl Frozen {
    /// Freezes. The guard is made before the command is sent: a freeze that is given up may still come to pass.
    pub(super) async fn freeze(agent: &Path, limit: Duration) -> Result<Self> {
        let mut connection = Agent::connect(agent, ANSWER).await?;
        let state = connection.execute("guest-fsfreeze-status", json!({}), ANSWER).await?;
        if state.as_str() == Some("frozen") {
            return Err(Error::new(Kind::Exists, format!("cannot freeze through guest agent {}", agent.display()))
                .because("the guest is frozen already, not by this capture"));
        }
        let mut guard = Self { agent: agent.to_owned(), armed: true };
        match connection.execute("guest-fsfreeze-freeze", json!({}), limit).await {
            Ok(count) if count.as_u64().unwrap_or(0) > 0 => Ok(guard),
            other => {
                drop(connection);
                guard.thaw().await?;
                let error =
                    Error::new(Kind::Permanent, format!("cannot freeze through guest agent {}", agent.display()));
                Err(match other {
                    Ok(_) => error.because("it found no file system to freeze"),
                    Err(cause) => error.because(cause),
                })
            }
        }
    }

    /// Thaws; tells how many file systems were frozen until now.
    pub(super) async fn thaw(&mut self) -> Result<u64> {
        let count = thaw(&self.agent, THAW).await?;
        self.armed = false;
        Ok(count)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let agent = std::mem::take(&mut self.agent);
            runtime.spawn(async move {
                if let Err(error) = thaw(&agent, THAW_LATER).await {
                    tracing::error!(error = %error.chain(), "a guest may be frozen");
                }
            });
        }
    }
}

/// Thaws a guest, whoever froze it, and makes sure. Trying goes on until `limit`.
pub(super) async fn thaw(agent: &Path, limit: Duration) -> Result<u64> {
    let until = Instant::now() + limit;
    loop {
        match thaw_once(agent).await {
            Ok(count) => return Ok(count),
            // the guest is off: nothing is frozen any more
            Err(error) if error.kind() == Kind::NotFound => return Ok(0),
            Err(error) if Instant::now() >= until => {
                return Err(error
                    .within(format!("cannot thaw the guest of agent {}", agent.display()))
                    .hint("run `fsfreeze --unfreeze` on every mount point in the guest, or reset it"));
            }
            Err(_) => sleep(Duration::from_millis(200)).await,
        }
    }
}

async fn thaw_once(agent: &Path) -> Result<u64> {
    let mut connection = Agent::connect(agent, ANSWER).await?;
    let count = connection.execute("guest-fsfreeze-thaw", json!({}), ANSWER).await?;
    let state = connection.execute("guest-fsfreeze-status", json!({}), ANSWER).await?;
    if state.as_str() != Some("thawed") {
        return Err(Error::new(Kind::Transient, "cannot thaw the guest").because(format!("it says it is {state}")));
    }
    Ok(count.as_u64().unwrap_or(0))
}

/// Whether the guest is frozen, if its agent tells.
pub(super) async fn is_frozen(agent: &Path) -> Option<bool> {
    let mut connection = Agent::connect(agent, ANSWER).await.ok()?;
    let state = connection.execute("guest-fsfreeze-status", json!({}), ANSWER).await.ok()?;
    Some(state.as_str() == Some("frozen"))
}

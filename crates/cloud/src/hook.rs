//! Hooks: commands of the application's administrator, run on this host around the moment of a capture.

use std::process::Stdio;
use std::time::Duration;

use model::{Error, Kind, Result, ServerName};
use tokio::time::timeout;

/// How long a hook may run.
const LIMIT: Duration = Duration::from_secs(300);

/// Runs a hook with the server's name in `REPLICATE_SERVER`. Without a command there is nothing to do.
pub async fn run(command: &[String], server: &ServerName) -> Result<()> {
    let Some((program, arguments)) = command.split_first() else { return Ok(()) };
    let operation = || format!("cannot run hook {program} for server {server}");
    let mut process = tokio::process::Command::new(program);
    process.args(arguments).env("REPLICATE_SERVER", server.as_str());
    process.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let ended = timeout(LIMIT, process.output()).await;
    let ended =
        ended.map_err(|_| Error::new(Kind::Permanent, operation()).because("it did not end within 5 minutes"))?;
    let ended = ended.map_err(|error| Error::io(operation(), error))?;
    if ended.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ended.stderr);
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it says nothing").to_owned();
    Err(Error::new(Kind::Permanent, operation()).because(format!("{}: {last}", ended.status)))
}

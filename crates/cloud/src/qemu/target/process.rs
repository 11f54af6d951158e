//! Finds and ends the QEMU process of an instance.
//!
//! An instance is recognised by its folder in the arguments of the process, never by a remembered process id: ids are
//! reused, and a crash between start and note would lose them.

use std::path::Path;
use std::time::Duration;

use model::{Error, Kind, Result};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

/// The processes that run the instance in `folder`: none, one, or two while QEMU detaches itself.
pub(super) fn find(folder: &Path) -> Result<Vec<Pid>> {
    let mark = folder.join("pid").into_os_string().into_encoded_bytes();
    let entries = std::fs::read_dir("/proc").map_err(|error| Error::io("cannot list processes", error))?;
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // a process may end while we look
        let Ok(arguments) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let mut words = arguments.split(|byte| *byte == 0);
        if words.any(|word| word == b"-pidfile") && words.next() == Some(&mark[..]) {
            found.extend(Pid::from_raw(id));
        }
    }
    Ok(found)
}

/// Waits until no process runs the instance.
pub(super) async fn gone(folder: &Path, limit: Duration) -> Result<bool> {
    let until = Instant::now() + limit;
    loop {
        if find(folder)?.is_empty() {
            return Ok(true);
        }
        if Instant::now() >= until {
            return Ok(false);
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Ends what still runs the instance. None running is success.
pub(super) async fn kill(folder: &Path) -> Result<()> {
    for pid in find(folder)? {
        // one that has ended meanwhile is what we want
        let _ = kill_process(pid, Signal::KILL);
    }
    if gone(folder, Duration::from_secs(20)).await? {
        return Ok(());
    }
    Err(Error::new(Kind::Transient, format!("cannot end the QEMU process of {}", folder.display()))
        .because("it is still there 20 seconds after SIGKILL")
        .hint("a process that waits for a dead disk or network file system cannot be ended: see `ps` state D"))
}

//! Numbered crash points: where a test may kill the program, to prove that nothing is lost there.
//!
//! With `REPLICATE_CRASH_AT=n` the process kills itself (SIGKILL: no destructor, no flush) at the n-th point that it
//! passes; with a name instead of a number, at the first point of that name. With `REPLICATE_CRASH_LOG=file` it appends
//! the name of every point that it passes, so that a sweep can count and name them. Without these variables a point
//! costs one relaxed load.

use std::io::Write;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug)]
struct Settings {
    at: Option<String>,
    log: Option<PathBuf>,
}

static SETTINGS: OnceLock<Option<Settings>> = OnceLock::new();
static PASSED: AtomicU64 = AtomicU64::new(0);

/// Passes the crash point `name` (`transfer.sealed.before`). Put one before and after every durable effect: a ledger
/// commit, a create, a delete, a rename, a provider call that changes something.
pub fn point(name: &str) {
    let settings = SETTINGS.get_or_init(|| {
        let at = std::env::var("REPLICATE_CRASH_AT").ok();
        let log = std::env::var_os("REPLICATE_CRASH_LOG").map(PathBuf::from);
        (at.is_some() || log.is_some()).then_some(Settings { at, log })
    });
    let Some(settings) = settings else { return };
    let number = PASSED.fetch_add(1, Ordering::SeqCst) + 1;
    if let Some(log) = &settings.log
        && let Ok(mut file) = std::fs::OpenOptions::new().create(true).append(true).open(log)
    {
        // a lost line of a test's log is no harm to the program
        let _ = writeln!(file, "{number} {name}");
    }
    if settings.at.as_ref().is_some_and(|at| at == name || *at == number.to_string()) {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        std::thread::park();
    }
}

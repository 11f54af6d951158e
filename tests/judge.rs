//! The providers' own models of their interfaces, held against every request that a simulator got in a test.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The scripts that judge, and the Python that has what they need. `None`, said loudly: it cannot be had here.
pub fn python() -> Option<(Command, PathBuf)> {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("cloudsim/python");
    let found = Command::new(scripts.join("python.sh")).output().expect("python.sh");
    if !found.status.success() {
        let why = String::from_utf8_lossy(&found.stderr);
        return crate::guest::skip(&format!("no Python with the providers' packages: {why}"));
    }
    let mut python = Command::new(String::from_utf8(found.stdout).expect("a path").trim());
    python.env("PYTHONDONTWRITEBYTECODE", "1");
    Some((python, scripts))
}

/// Fails where a request of a simulator's log does not fit.
pub fn requests(log: &Path) {
    if std::fs::metadata(log).is_ok_and(|log| log.len() == 0) {
        return;
    }
    let Some((mut python, scripts)) = python() else { return };
    let said = python.arg(scripts.join("calls.py")).arg(log).output().expect("the judge");
    assert!(said.status.success(), "what was asked does not fit:\n{}", String::from_utf8_lossy(&said.stderr));
    print!("{}", String::from_utf8_lossy(&said.stdout));
}

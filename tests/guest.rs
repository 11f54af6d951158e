//! The small real guest (`tests/guest/build.sh`), for tests that boot something.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// A built guest.
#[derive(Debug, Clone)]
pub struct Guest {
    /// Its disk as raw bytes. Copy it before anything writes to it.
    pub raw: PathBuf,
    /// The same as qcow2.
    pub qcow2: PathBuf,
    /// Its kernel.
    pub kernel: PathBuf,
}

/// The guest, built once per machine; none, with the reason on the output, where QEMU or the tools for building it
/// are not installed.
pub fn guest() -> Option<Guest> {
    static GUEST: OnceLock<Option<Guest>> = OnceLock::new();
    GUEST
        .get_or_init(|| {
            if !has("qemu-system-x86_64") {
                return skip("qemu-system-x86_64 is not installed");
            }
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest/build.sh");
            let output = Command::new(script).output().expect("tests/guest/build.sh");
            if !output.status.success() {
                return skip(&format!("no guest: {}", String::from_utf8_lossy(&output.stderr).trim()));
            }
            let folder = PathBuf::from(String::from_utf8(output.stdout).expect("a path").trim());
            Some(Guest {
                raw: folder.join("tiny.raw"),
                qcow2: folder.join("tiny.qcow2"),
                kernel: folder.join("vmlinuz"),
            })
        })
        .clone()
}

/// Whether a program can be run.
pub fn has(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Whether an ext4, by its superblock, has a journal that must be replayed: not, if it was frozen.
pub fn needs_recovery(superblock: &[u8]) -> bool {
    assert_eq!(&superblock[0x38..0x3a], [0x53, 0xef], "no ext4");
    superblock[0x60] & 4 != 0
}

/// Says loudly that a test was not run. With `REPLICATE_NO_SKIP=1` (the project's own CI, which has installed
/// everything) a skip is a failure.
pub fn skip<T>(why: &str) -> Option<T> {
    assert!(std::env::var_os("REPLICATE_NO_SKIP").is_none(), "nothing may be skipped here: {why}");
    println!("SKIPPED: {why}");
    None
}

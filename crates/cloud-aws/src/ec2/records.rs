//! Where the records of what was written into snapshots are: named by the snapshot.

use std::path::{Path, PathBuf};

pub(super) use cloud::records::{Record, RecordWriter, of, read};

/// Where the record of a snapshot is.
pub(super) fn path(scratch: &Path, snapshot: &str) -> PathBuf {
    scratch.join("aws-leaves").join(snapshot)
}

/// Forgets a snapshot. Absent is success; a leftover costs a file.
pub(super) fn forget(scratch: &Path, snapshot: &str) {
    let _ = std::fs::remove_file(path(scratch, snapshot));
}

//! Guests that a reader of their disks would end.
//!
//! Before 8.2.3 QEMU serves an NBD client in the I/O thread of the disk, and there the leave of a client is fatal since the
//! fix of CVE-2024-7409, which distributions have put into older versions too: `nbd_blockdev_client_closed: Assertion
//! 'qemu_in_main_thread() && nbd_server' failed`, and the guest is gone (seen with 7.2.22 of Debian 12). 8.2.3 and 9.0 leave
//! in the main thread (QEMU's commit f816310d0c32). Whether an older version has the fix cannot be asked, so none is trusted.

use model::{Error, Kind, Result, ServerName};
use serde_json::json;

use super::guest::list;
use super::qmp::Qmp;

/// The first version that a client may leave.
const SAFE: [u64; 3] = [8, 2, 3];

/// Refuses a running guest that would not survive to be read.
pub(super) async fn check(qmp: &mut Qmp, server: &ServerName) -> Result<()> {
    if list(&qmp.execute("query-iothreads", json!({})).await?).is_empty() {
        return Ok(());
    }
    let version = qmp.execute("query-version", json!({})).await?;
    let part = |name: &str| version["qemu"][name].as_u64().unwrap_or_default();
    let [major, minor, micro] = ["major", "minor", "micro"].map(part);
    if [major, minor, micro] >= SAFE {
        return Ok(());
    }
    let package = version["package"].as_str().filter(|package| !package.is_empty());
    let package = package.map(|package| format!(", {package}")).unwrap_or_default();
    Err(Error::new(Kind::Invalid, format!("cannot capture server {server} while it runs"))
        .because(format!(
            "it has I/O threads, and its QEMU ({major}.{minor}.{micro}{package}) may end with the guest when who reads such a \
             disk leaves"
        ))
        .hint("start it with QEMU 8.2.3 or newer, or without `iothread`; once its QEMU has ended it can be captured as it is"))
}

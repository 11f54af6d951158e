//! Scratch space of a capture: files that take the old content of what the guest overwrites, and the nodes over
//! them. Made before the cut; the guest does not see them yet.

use std::path::Path;

use model::{Error, Kind, Result, crash};
use serde_json::json;
use tokio::process::Command;

use super::QemuSite;
use super::capture::scratch_node;
use super::qmp::Qmp;
use super::session::{Method, Session};

/// A scratch file with less room is of no use.
const LEAST: u64 = 1 << 20;
/// How long a copy into scratch may hold up a write of the guest, in seconds.
const CBW_TIMEOUT: u32 = 45;

/// Makes the scratch files and their nodes, and the filters.
pub(super) async fn prepare(site: &QemuSite, session: &Session, qmp: &mut Qmp) -> Result<()> {
    let scratch = site.scratch();
    let folder = session.folder(&scratch);
    hand_over(&scratch, qmp.user(), 0o711)?;
    private(&folder, qmp.user())?;
    for (index, disk) in session.disks.iter().enumerate() {
        let file = session.scratch_file(&scratch, index);
        let limit = match disk.method {
            Method::Static | Method::Offline => continue,
            Method::Filter => Some(share(site, session, index)?),
            Method::Job => None,
        };
        crash::point("capture.scratch.before");
        create(&file, disk.size).await?;
        match limit {
            Some(limit) => grow(&file, limit)?,
            None => reserve(&file, disk.size)?,
        }
        hand_over(&file, qmp.user(), 0o600)?;
        crash::point("capture.scratch.after");
        crash::point("capture.nodes.before");
        qmp.execute("blockdev-add", scratch_node(session, index, &file, limit)).await.map_err(explain)?;
        if disk.method == Method::Filter {
            let filter = json!({ "driver": "copy-before-write", "node-name": session.name('c', index),
                "file": disk.node, "target": session.name('s', index),
                "on-cbw-error": "break-snapshot", "cbw-timeout": CBW_TIMEOUT });
            qmp.execute("blockdev-add", filter).await.map_err(|error| {
                Error::new(error.kind(), format!("cannot put a filter over disk {}", disk.name)).because(error)
            })?;
        }
        crash::point("capture.nodes.after");
    }
    Ok(())
}

fn explain(error: Error) -> Error {
    match error.kind() {
        Kind::Denied => error.hint("let QEMU's user read and write the site's `scratch` directory"),
        _ => error,
    }
}

/// The part of the capture's quota that a disk gets: in proportion to its size, and never more than it can need.
fn share(site: &QemuSite, session: &Session, index: usize) -> Result<u64> {
    let operation = || format!("cannot make scratch space in {}", site.scratch().display());
    let whole = match site.config().scratch_limit {
        Some(limit) => limit,
        None => {
            let free = rustix::fs::statvfs(site.scratch()).map_err(|error| Error::io(operation(), error.into()))?;
            free.f_bavail.saturating_mul(free.f_frsize) / 2
        }
    };
    let sizes = session.disks.iter().filter(|disk| disk.method == Method::Filter).map(|disk| u128::from(disk.size));
    let size = session.disks[index].size;
    let part = u128::from(whole) * u128::from(size) / sizes.sum::<u128>().max(1);
    let part = u64::try_from(part).unwrap_or(u64::MAX).min(most(size)) / 512 * 512;
    if part < LEAST {
        return Err(Error::new(Kind::Quota, operation())
            .because(format!("disk {} would get {part} bytes", session.disks[index].name))
            .hint("free some space there, or raise `scratch-limit`"));
    }
    Ok(part)
}

/// What a qcow2 file can grow to at most: all its data, its tables, and something.
fn most(size: u64) -> u64 {
    size + size / 1024 + (8 << 20)
}

async fn create(file: &Path, size: u64) -> Result<()> {
    let operation = || format!("cannot create scratch file {}", file.display());
    let made = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(file).arg(size.to_string()).output();
    let made = made.await.map_err(|error| {
        Error::io(operation(), error).hint("install qemu-img (Debian: qemu-utils) on the host of the guests")
    })?;
    if made.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&made.stderr).trim().to_owned();
    let kind = if said.contains("No space left") { Kind::Quota } else { Kind::Permanent };
    Err(Error::new(kind, operation()).because(said))
}

/// Makes the (sparse) file as long as its quota, because QEMU wants the container of a sized node to be that long.
fn grow(file: &Path, len: u64) -> Result<()> {
    let grown = std::fs::OpenOptions::new().write(true).open(file).and_then(|file| file.set_len(len));
    grown.map_err(|error| Error::io(format!("cannot grow scratch file {}", file.display()), error))
}

/// Reserves all that a job's scratch file can ever need: running out of space would stop the guest.
fn reserve(file: &Path, size: u64) -> Result<()> {
    let operation = || format!("cannot reserve scratch space in {}", file.display());
    let opened = std::fs::OpenOptions::new().write(true).open(file).map_err(|error| Error::io(operation(), error))?;
    let keep = rustix::fs::FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&opened, keep, 0, most(size)).map_err(|error| {
        Error::io(operation(), error.into()).hint("a backup job needs as much free scratch space as the disk is large")
    })
}

/// Makes a folder that only QEMU's user (and we) can look into: production data will lie there.
pub(super) fn private(folder: &Path, user: u32) -> Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    let made = made.and_then(|()| std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)));
    made.map_err(|error| Error::io(format!("cannot make folder {}", folder.display()), error))?;
    hand_over(folder, user, 0o700)
}

/// Lets QEMU's user in, where QEMU runs as another user than we do.
fn hand_over(path: &Path, user: u32, mode: u32) -> Result<()> {
    use std::os::unix::fs::{PermissionsExt, chown};
    let operation = || format!("cannot hand {} over to QEMU's user", path.display());
    let me = rustix::process::geteuid().as_raw();
    if me == user || me != 0 {
        return Ok(());
    }
    if mode & 0o077 == 0 {
        chown(path, Some(user), None).map_err(|error| Error::io(operation(), error))?;
    }
    let mode = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(path, mode).map_err(|error| Error::io(operation(), error))
}

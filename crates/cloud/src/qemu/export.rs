//! Exporting what lies behind the cut over NBD, and opening it.

use std::path::Path;
use std::time::Duration;

use disk::DiskRead;
use model::{DiskName, Error, Kind, Result, crash};
use serde_json::json;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::guest::Blocks;
use super::nbd::NbdDisk;
use super::qmp::Qmp;
use super::session::{Method, Session};
use super::{offline, scratch};
use crate::Capture;

/// Socket addresses have at most this many bytes (`sun_path`, with its end).
const LONGEST_SOCKET: usize = 107;

/// Makes the exports of a capture whose cut was made.
pub(super) async fn export(session: &Session, qmp: &mut Qmp) -> Result<()> {
    crash::point("capture.export.before");
    serve(session, qmp).await?;
    for (index, disk) in session.disks.iter().enumerate() {
        let node = match disk.method {
            Method::Filter => {
                let node = session.name('a', index);
                let access =
                    json!({ "driver": "snapshot-access", "node-name": node, "file": session.name('c', index) });
                qmp.execute("blockdev-add", access).await?;
                node
            }
            Method::Job => session.name('s', index),
            Method::Static | Method::Offline => disk.node.clone(),
        };
        let bitmaps = match (&session.since, disk.incremental) {
            (Some(since), true) => vec![json!({ "node": disk.node, "name": since })],
            _ => Vec::new(),
        };
        let name = session.name('e', index);
        let export = json!({ "type": "nbd", "id": name, "node-name": node, "name": name, "bitmaps": bitmaps });
        qmp.execute("block-export-add", export).await?;
    }
    crash::point("capture.export.after");
    Ok(())
}

/// Sees that the guest's NBD server runs at our socket. A guest has one NBD server; the one of an earlier capture
/// of ours is used again.
async fn serve(session: &Session, qmp: &mut Qmp) -> Result<()> {
    let path = session.nbd.to_string_lossy().into_owned();
    if path.len() > LONGEST_SOCKET {
        return Err(Error::new(Kind::Invalid, format!("cannot serve NBD at {path}"))
            .because(format!("a socket's path has at most {LONGEST_SOCKET} bytes"))
            .hint("give the site a `scratch` directory with a shorter path"));
    }
    if let Some(folder) = session.nbd.parent() {
        scratch::private(folder, qmp.user())?;
    }
    let address = json!({ "addr": { "type": "unix", "data": { "path": path } }, "max-connections": 64 });
    match qmp.execute("nbd-server-start", address).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == Kind::Exists && listens(&session.nbd).await => Ok(()),
        Err(error) if error.kind() == Kind::Exists => Err(error
            .hint("the guest's NBD server is used by someone else; end that (QMP `nbd-server-stop`), then run again")),
        Err(error) => Err(error),
    }
}

/// Whether someone listens at a socket.
pub(super) async fn listens(socket: &Path) -> bool {
    matches!(timeout(Duration::from_secs(2), UnixStream::connect(socket)).await, Ok(Ok(_)))
}

/// Checks that a complete capture still holds.
pub(super) async fn holds(session: &Session) -> Result<()> {
    let lost = |reason: String| {
        Err(Error::new(
            Kind::Damaged,
            format!("cannot find capture {} of server {}", session.key, session.token.server),
        )
        .because(reason)
        .hint("abandon it and take a new one"))
    };
    if session.is_offline() {
        return match offline::unchanged(session) {
            Ok(()) => Ok(()),
            Err(error) => lost(error.chain()),
        };
    }
    let mut qmp = match Qmp::connect(&session.monitor).await {
        Ok(qmp) => qmp,
        Err(error) if error.kind() == Kind::NotFound => return lost("the guest is off".to_owned()),
        Err(error) => return Err(error),
    };
    let blocks = Blocks::read(&mut qmp).await?;
    for (index, disk) in session.disks.iter().enumerate() {
        let root = blocks.device(&disk.device).map(|device| device.root.clone());
        let held = match disk.method {
            Method::Filter => root == Some(session.name('c', index)),
            Method::Job => blocks.jobs.contains(&session.name('j', index)),
            Method::Static | Method::Offline => root.as_ref() == Some(&disk.node),
        };
        if !held || !blocks.exports.contains(&session.name('e', index)) {
            return lost(format!("disk {} is not held any more: the guest was restarted", disk.name));
        }
    }
    Ok(())
}

/// Opens a disk of a capture.
pub(super) async fn open(
    session: &Session,
    capture: &Capture,
    name: &DiskName,
    incremental: bool,
) -> Result<Box<dyn DiskRead>> {
    let about = format!("disk {name} of capture {} of server {}", capture.id, capture.server);
    let found = session.disks.iter().enumerate().find(|(_, disk)| disk.name == *name);
    let (index, disk) = found.ok_or_else(|| {
        Error::new(Kind::NotFound, format!("cannot open {about}")).because("the capture has no such disk")
    })?;
    let bitmap = session.since.as_deref().filter(|_| incremental && disk.incremental);
    if disk.method == Method::Offline {
        return offline::open(session, index, bitmap, about).await;
    }
    let reader = NbdDisk::open(session.nbd.clone(), &session.name('e', index), bitmap, about.clone()).await?;
    if reader.size() != disk.size {
        return Err(Error::new(Kind::Damaged, format!("cannot open {about}")).because(format!(
            "it has {} bytes, not {}",
            reader.size(),
            disk.size
        )));
    }
    Ok(Box::new(reader))
}

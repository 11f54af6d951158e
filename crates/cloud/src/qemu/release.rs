//! Ending a capture: the guest gets its disks back as they were, the bitmaps are settled, the scratch goes.
//!
//! Every part looks first and then does what is missing, so it can be repeated, and can be begun from any half-made
//! state. The record goes last: until then, whoever comes next does it again.

use std::path::Path;

use model::{Error, Kind, Result, crash};
use serde_json::json;

use super::freeze;
use super::guest::{Blocks, PREFIX, remove_export, remove_job, remove_node};
use super::qmp::Qmp;
use super::session::{Record, Session, SessionDisk, forget_cursors};
use super::{QemuSite, export, offline};
use crate::{Outcome, hook};

/// How long a guest that may be frozen is tried to be thawed.
const THAW: std::time::Duration = std::time::Duration::from_secs(30);

/// Ends a capture.
pub(super) async fn release(site: &QemuSite, given: &Session, outcome: Outcome) -> Result<()> {
    let scratch = site.scratch();
    // the record may know of more than the handle that the caller has, and the other way round
    let record = Record::load(&scratch, &given.key).await?.map(|record| record.session);
    let session = record.as_ref().unwrap_or(given);
    match Qmp::connect(&session.monitor).await {
        Ok(mut qmp) => {
            wake(session, &mut qmp).await?;
            let mine = format!("{PREFIX}{}-", session.key);
            clear(&mut qmp, &mine).await?;
            settle_live(session, &mut qmp, outcome).await?;
            stop_serving(session, &mut qmp).await?;
        }
        Err(error) if error.kind() == Kind::NotFound => offline::settle(session, outcome).await?,
        Err(error) => return Err(error),
    }
    if !session.after.is_empty() {
        // the hook before the freeze has run, and whoever took the capture died before the one after it
        hook::run(&session.after, &session.token.server).await?;
    }
    crash::point("release.cursor.before");
    match outcome {
        Outcome::Committed => {
            session.save_cursor(&scratch).await?;
            forget_cursors(&scratch, session, Some(&session.bitmap)).await?;
        }
        Outcome::Abandoned => super::session::remove_cursor(&scratch, &session.bitmap).await?,
    }
    crash::point("release.cursor.after");
    remove_files(session, &scratch).await
}

/// Sees that the guest runs and is not frozen, if we may have stopped or frozen it.
async fn wake(session: &Session, qmp: &mut Qmp) -> Result<()> {
    if session.paused {
        let state = qmp.execute("query-status", json!({})).await?;
        if state.get("status").and_then(|status| status.as_str()) == Some("paused") {
            crash::point("release.cont.before");
            qmp.execute("cont", json!({})).await?;
            crash::point("release.cont.after");
        }
    }
    if let (true, Some(agent)) = (session.frozen, &session.agent) {
        crash::point("release.thaw.before");
        // an agent that does not answer now must not keep the filters in place; a frozen one does answer
        if freeze::is_frozen(agent).await != Some(false) {
            freeze::thaw(agent, THAW).await?;
        }
        crash::point("release.thaw.after");
    }
    Ok(())
}

/// Removes every export, job, filter and node whose name begins so. The disks' own nodes come back to their devices.
pub(super) async fn clear(qmp: &mut Qmp, prefix: &str) -> Result<()> {
    let blocks = Blocks::read(qmp).await?;
    crash::point("release.clear.before");
    for export in blocks.exports.iter().filter(|name| name.starts_with(prefix)) {
        remove_export(qmp, export).await?;
    }
    for job in blocks.jobs.iter().filter(|name| name.starts_with(prefix)) {
        remove_job(qmp, job).await?;
    }
    crash::point("release.exports.after");
    let served = blocks.exports.iter().any(|name| name.starts_with(prefix));
    if served && blocks.exports.iter().all(|name| name.starts_with(prefix)) {
        // exports of ours are served at a socket of ours only, and none is left
        stop_server(qmp).await?;
    }
    let nodes: Vec<&String> = blocks.nodes.keys().filter(|name| name.starts_with(prefix)).collect();
    let of_kind = |kind: char| {
        nodes.iter().filter(move |name| name.rsplit('-').next().is_some_and(|last| last.starts_with(kind)))
    };
    for node in of_kind('a') {
        remove_node(qmp, node).await?;
    }
    for device in blocks.devices.iter().filter(|device| device.root.starts_with(prefix)) {
        // the root was just seen to be our filter: setting a drive to the node it has already would abort QEMU
        let arguments = json!({ "path": device.path, "property": "drive", "value": device.node });
        crash::point("release.filter.before");
        qmp.execute("qom-set", arguments).await?;
        crash::point("release.filter.after");
    }
    for node in of_kind('c').chain(of_kind('s')) {
        remove_node(qmp, node).await?;
    }
    crash::point("release.clear.after");
    Ok(())
}

/// Settles the bitmaps of a running guest.
async fn settle_live(session: &Session, qmp: &mut Qmp, outcome: Outcome) -> Result<()> {
    let blocks = Blocks::read(qmp).await?;
    for disk in session.disks.iter().filter(|disk| disk.tracked) {
        let Some(node) = node_of(&blocks, disk) else { continue };
        let actions = match outcome {
            Outcome::Committed => drop_others(&blocks, session, &node),
            Outcome::Abandoned => fold_back(&blocks, session, disk, &node),
        };
        if actions.is_empty() {
            continue;
        }
        crash::point("release.bitmaps.before");
        qmp.execute("transaction", json!({ "actions": actions })).await.map_err(|error| {
            error.within(format!("cannot settle the bitmaps of disk {} of server {}", disk.name, session.token.server))
        })?;
        crash::point("release.bitmaps.after");
    }
    Ok(())
}

/// The node of a disk now: another name after a restart of the guest, the same file.
pub(super) fn node_of(blocks: &Blocks, disk: &SessionDisk) -> Option<String> {
    let same_file = |node: &str| blocks.nodes.get(node).is_some_and(|found| Path::new(&found.file) == disk.file);
    let now = blocks.device(&disk.device).filter(|device| same_file(&device.node));
    let now = now.or_else(|| blocks.disks().find(|device| same_file(&device.node)));
    now.map(|device| device.node.clone())
}

/// Committed: of this policy's bitmaps only the new one stays.
fn drop_others(blocks: &Blocks, session: &Session, node: &str) -> Vec<serde_json::Value> {
    let chain = session.chain();
    let bitmaps = blocks.nodes.get(node).map_or(&[][..], |node| node.bitmaps.as_slice());
    let others = bitmaps.iter().filter(|bitmap| bitmap.name.starts_with(&chain));
    others
        .filter(|bitmap| bitmap.name != session.bitmap || bitmap.inconsistent)
        .map(|bitmap| remove(node, &bitmap.name))
        .collect()
}

/// Abandoned: what the new bitmap has recorded goes into the old one, which records on. Only an old bitmap that this
/// capture has stopped may be started again: one that was unfit before has missed changes.
fn fold_back(blocks: &Blocks, session: &Session, disk: &SessionDisk, node: &str) -> Vec<serde_json::Value> {
    let new = blocks.bitmap(node, &session.bitmap);
    let old = session.since.as_deref().and_then(|since| blocks.bitmap(node, since));
    let mut actions = Vec::new();
    if let Some(old) = old.filter(|old| disk.incremental && !old.recording) {
        match new.filter(|new| !new.inconsistent && new.recording && !old.inconsistent) {
            Some(new) => {
                actions.push(json!({ "type": "block-dirty-bitmap-merge",
                    "data": { "node": node, "target": old.name, "bitmaps": [new.name] } }));
                actions
                    .push(json!({ "type": "block-dirty-bitmap-enable", "data": { "node": node, "name": old.name } }));
            }
            None => actions.push(remove(node, &old.name)),
        }
    }
    actions.extend(new.map(|new| remove(node, &new.name)));
    actions
}

fn remove(node: &str, name: &str) -> serde_json::Value {
    json!({ "type": "block-dirty-bitmap-remove", "data": { "node": node, "name": name } })
}

/// Stops the guest's NBD server, if it is ours and serves nothing any more.
async fn stop_serving(session: &Session, qmp: &mut Qmp) -> Result<()> {
    if !export::listens(&session.nbd).await || !Blocks::read(qmp).await?.exports.is_empty() {
        return Ok(());
    }
    stop_server(qmp).await
}

async fn stop_server(qmp: &mut Qmp) -> Result<()> {
    crash::point("release.server.before");
    let stopped = qmp.execute("nbd-server-stop", json!({})).await;
    crash::point("release.server.after");
    match stopped {
        Err(error) if error.kind() == Kind::Transient => Err(error),
        _ => Ok(()), // not running any more
    }
}

async fn remove_files(session: &Session, scratch: &Path) -> Result<()> {
    crash::point("release.files.before");
    let nbd = session.nbd.parent().map(Path::to_owned);
    for (folder, whole) in [(nbd, false), (Some(session.folder(scratch)), true)] {
        let Some(folder) = folder else { continue };
        if !whole && export::listens(&session.nbd).await {
            continue;
        }
        match tokio::fs::remove_dir_all(&folder).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io(format!("cannot delete scratch folder {}", folder.display()), error));
            }
            _ => {}
        }
    }
    crash::point("release.files.after");
    Ok(())
}

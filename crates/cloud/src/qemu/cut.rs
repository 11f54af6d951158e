//! The cut: the one instant at which all disks' filters take hold and the bitmaps change over.

use jiff::Timestamp;
use model::{Clock, Error, Kind, Result, crash};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};

use super::guest::Blocks;
use super::qmp::Qmp;
use super::session::{Method, Session};

/// What the cut came to.
#[derive(Debug)]
pub(super) struct Cut {
    pub(super) taken_at: Timestamp,
}

/// The shortest time that a command of the cut gets, whatever the limit.
const LEAST: Duration = Duration::from_secs(2);

const REFUSED: &str = "cannot put a filter over disk";

/// Whether an error says that a device takes no filter.
pub(super) fn is_refusal(error: &Error) -> bool {
    error.to_string().starts_with(REFUSED)
}

/// Makes the cut. The guest is continued in every path; if even that fails, `release` does it by the record.
pub(super) async fn cut(qmp: &mut Qmp, session: &Session, clock: &dyn Clock, until: Instant) -> Result<Cut> {
    let state = qmp.execute("query-status", json!({})).await?;
    let running = state.get("running").and_then(Value::as_bool).unwrap_or(true);
    check_roots(qmp, session).await?;
    let begun = Instant::now();
    if running {
        crash::point("capture.stop.before");
        if let Err(error) = qmp.execute_within("stop", json!({}), left(until)).await {
            resume(qmp).await?; // it may have been stopped all the same
            return Err(error);
        }
        crash::point("capture.stop.after");
    }
    let switched = switch(qmp, session, until).await;
    let taken_at = clock.now();
    if running {
        crash::point("capture.cont.before");
        resume(qmp).await?;
        crash::point("capture.cont.after");
    }
    tracing::debug!(capture = %session.key, paused = ?begun.elapsed(), "the cut is made");
    switched.map(|()| Cut { taken_at })
}

/// Setting a drive to the node it has already aborts QEMU, so the roots are looked at right before.
async fn check_roots(qmp: &mut Qmp, session: &Session) -> Result<()> {
    let blocks = Blocks::read(qmp).await?;
    for disk in session.disks.iter().filter(|disk| disk.method != Method::Static) {
        let root = blocks.device(&disk.device).map(|device| device.root.as_str());
        if root != Some(disk.node.as_str()) {
            return Err(Error::new(Kind::Transient, format!("cannot capture disk {}", disk.name))
                .because("someone else changes the guest's disks meanwhile"));
        }
    }
    Ok(())
}

async fn switch(qmp: &mut Qmp, session: &Session, until: Instant) -> Result<()> {
    for (index, disk) in session.disks.iter().enumerate().filter(|(_, disk)| disk.method == Method::Filter) {
        let value = session.name('c', index);
        let arguments = json!({ "path": disk.device, "property": "drive", "value": value });
        crash::point("capture.filter.before");
        qmp.execute_within("qom-set", arguments, left(until)).await.map_err(|error| match error.kind() {
            Kind::Transient => error,
            _ => Error::new(error.kind(), format!("{REFUSED} {}", disk.name)).because(error),
        })?;
        crash::point("capture.filter.after");
    }
    let mut actions = Vec::new();
    for (index, disk) in session.disks.iter().enumerate() {
        if let (true, Some(since)) = (disk.incremental, &session.since) {
            actions.push(json!({ "type": "block-dirty-bitmap-disable", "data": { "node": disk.node, "name": since } }));
        }
        if disk.tracked {
            actions.push(json!({ "type": "block-dirty-bitmap-add", "data": {
                "node": disk.node, "name": session.bitmap, "granularity": 65_536, "persistent": disk.persistent } }));
        }
        if disk.method == Method::Job {
            actions.push(json!({ "type": "blockdev-backup", "data": { "job-id": session.name('j', index),
                "device": disk.node, "target": session.name('s', index), "sync": "none" } }));
        }
    }
    crash::point("capture.transaction.before");
    if !actions.is_empty() {
        qmp.execute_within("transaction", json!({ "actions": actions }), left(until)).await?;
    }
    crash::point("capture.transaction.after");
    Ok(())
}

async fn resume(qmp: &mut Qmp) -> Result<()> {
    let mut tries = 0;
    loop {
        match qmp.execute_within("cont", json!({}), LEAST * 5).await {
            Ok(_) => return Ok(()),
            Err(error) if tries == 3 => return Err(error),
            Err(_) => tries += 1,
        }
    }
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now()).max(LEAST)
}

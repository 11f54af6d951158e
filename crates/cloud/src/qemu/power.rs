//! Switching a guest off and on without ending its QEMU.
//!
//! Before a guest is asked to shut down, its QEMU is told to stay when it has (`set-action shutdown=pause`): the guest stands in the state
//! `shutdown`, its disks can be captured with their bitmaps as ever, and `system_reset` with `cont` starts it again. A guest whose power is
//! cut gets there too, by a reset that QEMU is told to take for a shutdown; an object in that QEMU then tells that its file systems were
//! not left clean.

use std::path::Path;
use std::time::Duration;

use model::{Error, Kind, Result, ServerName, crash};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::QemuSite;
use super::agent::Agent;
use super::guest::{list, text};
use super::inventory::examine;
use super::qmp::Qmp;
use super::sidecar::Sidecar;
use crate::{Stop, stays_on};

/// The object that stands in a QEMU whose guest's power was cut.
const CUT: &str = "rpl-power-cut";
/// How long QEMU itself may take to do what it is told.
const QEMU: Duration = Duration::from_secs(30);
/// How long an agent may take to answer.
const AGENT: Duration = Duration::from_secs(5);

/// How a guest stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It runs, or was paused by someone.
    Runs,
    /// It has shut down.
    ShutDown,
    /// Its power was cut, or it has not begun to boot.
    Cut,
}

/// How the guest of a QEMU stands.
pub(super) async fn standing(qmp: &mut Qmp) -> Result<Standing> {
    let state = qmp.execute("query-status", json!({})).await?;
    Ok(match text(&state, "status").as_str() {
        "shutdown" if is_cut(qmp).await? => Standing::Cut,
        "shutdown" => Standing::ShutDown,
        "prelaunch" => Standing::Cut,
        _ => Standing::Runs,
    })
}

async fn is_cut(qmp: &mut Qmp) -> Result<bool> {
    let objects = qmp.execute("qom-list", json!({ "path": "/objects" })).await?;
    Ok(list(&objects).iter().any(|object| text(object, "name") == CUT))
}

/// Stops a guest; see [`crate::Switch::stop`].
pub(super) async fn stop(site: QemuSite, server: ServerName, stop: Stop) -> Result<()> {
    let socket = site.socket(&server).await?;
    let mut qmp = match Qmp::connect(&socket).await {
        Ok(qmp) => qmp,
        // its QEMU has ended
        Err(error) if error.kind() == Kind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let found = examine(&mut qmp, Sidecar::beside(&socket).await?.as_ref()).await?;
    if found.standing != Standing::Runs {
        return Ok(());
    }
    unmark(&mut qmp).await?;
    crash::point("qemu.stop.before");
    qmp.execute("set-action", json!({ "shutdown": "pause" })).await?;
    let asked = match &found.agent {
        Some(agent) => ask(agent).await,
        None => false,
    };
    if !asked {
        qmp.execute("system_powerdown", json!({})).await?;
    }
    // not held while waiting: others look at the guest as well
    drop(qmp);
    let mut off = is_off(&socket, stop.limit / 2).await?;
    if !off {
        // an agent may have been heard by nobody, and a button pressed while the guest still booted
        Qmp::connect(&socket).await?.execute("system_powerdown", json!({})).await?;
        off = is_off(&socket, stop.limit / 2).await?;
    }
    if !off && !stop.force {
        return Err(stays_on(&server, stop));
    }
    if !off {
        cut(&socket, &server).await?;
    }
    crash::point("qemu.stop.after");
    Ok(())
}

/// Asks the guest agent for a shutdown. One that is heard is not answered.
async fn ask(agent: &Path) -> bool {
    let Ok(mut agent) = Agent::connect(agent, AGENT).await else { return false };
    match agent.execute("guest-shutdown", json!({ "mode": "powerdown" }), AGENT).await {
        Ok(_) => true,
        Err(error) => error.kind() == Kind::Transient,
    }
}

async fn is_off(socket: &Path, limit: Duration) -> Result<bool> {
    let until = Instant::now() + limit;
    loop {
        match Qmp::connect(socket).await {
            Ok(mut qmp) => {
                if standing(&mut qmp).await? != Standing::Runs {
                    return Ok(true);
                }
            }
            Err(error) if error.kind() == Kind::NotFound => return Ok(true),
            Err(error) if error.kind().is_retryable() => {}
            Err(error) => return Err(error),
        }
        if Instant::now() > until {
            return Ok(false);
        }
        sleep(Duration::from_millis(300)).await;
    }
}

async fn cut(socket: &Path, server: &ServerName) -> Result<()> {
    let mut qmp = Qmp::connect(socket).await?;
    qmp.execute("object-add", json!({ "qom-type": "throttle-group", "id": CUT })).await?;
    qmp.execute("set-action", json!({ "reboot": "shutdown" })).await?;
    crash::point("qemu.cut.before");
    qmp.execute("system_reset", json!({})).await?;
    drop(qmp);
    match is_off(socket, QEMU).await? {
        true => Ok(()),
        false => Err(Error::new(Kind::Permanent, format!("cannot cut the power of server {server}"))
            .because("QEMU did not stop it in time")),
    }
}

async fn unmark(qmp: &mut Qmp) -> Result<()> {
    match is_cut(qmp).await? {
        true => qmp.execute("object-del", json!({ "id": CUT })).await.map(drop),
        false => Ok(()),
    }
}

/// Starts a guest; see [`crate::Switch::start`].
pub(super) async fn start(site: QemuSite, server: ServerName) -> Result<()> {
    let socket = site.socket(&server).await?;
    let mut qmp = Qmp::connect(&socket).await.map_err(|error| match error.kind() {
        Kind::NotFound => Error::new(Kind::Permanent, format!("cannot start server {server}"))
            .because("its QEMU has ended, and only whoever started that knows how")
            .hint("start its QEMU as you always do"),
        _ => error,
    })?;
    let state = text(&qmp.execute("query-status", json!({})).await?, "status");
    // as QEMU has it by itself
    qmp.execute("set-action", json!({ "reboot": "reset", "shutdown": "poweroff" })).await?;
    crash::point("qemu.start.before");
    match state.as_str() {
        "shutdown" => {
            qmp.execute("system_reset", json!({})).await?;
            let until = Instant::now() + QEMU;
            while text(&qmp.execute("query-status", json!({})).await?, "status") == "shutdown" {
                if Instant::now() > until {
                    return Err(Error::new(Kind::Transient, format!("cannot start server {server}"))
                        .because("QEMU did not reset it in time"));
                }
                sleep(Duration::from_millis(20)).await;
            }
        }
        "prelaunch" => {}
        _ => return Ok(()),
    }
    crash::point("qemu.start.reset");
    unmark(&mut qmp).await?;
    qmp.execute("cont", json!({})).await?;
    crash::point("qemu.start.after");
    Ok(())
}

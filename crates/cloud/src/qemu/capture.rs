//! Capturing a running guest: all its disks at one instant, without downtime.
//!
//! 1. The record is written: from here on everything can be undone by whoever comes next.
//! 2. Scratch files and filters are made beside the disks; the guest does not see them yet.
//! 3. Hooks and freeze; then the cut: `stop`, the filters become the disks' roots, one transaction ends the old
//!    bitmaps and begins the new ones, `cont`. A few milliseconds. Thaw.
//! 4. What lies behind the filters is exported over NBD; the record is completed: the capture holds.
//!
//! All of it runs in a task of its own, so that a caller who goes away does not leave a guest stopped halfway.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use model::{CaptureId, Consistency, Cursor, Error, Kind, Result, crash};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::cut::{Cut, cut};
use super::freeze::Frozen;
use super::guest::PREFIX;
use super::inventory::{Found, examine};
use super::plan::{plan, warnings};
use super::power::Standing;
use super::qmp::Qmp;
use super::session::{Method, Record, Session, key, owner_hash};
use super::sidecar::Sidecar;
use super::{QemuSite, export, offline, release, scratch, threads};
use crate::{Capture, CaptureRequest, CapturedDisk, Outcome, hook};

/// Captures; see [`crate::Source::capture`].
pub(super) async fn capture(site: QemuSite, request: CaptureRequest) -> Result<Capture> {
    let folder = site.scratch();
    if let Some(record) = Record::load(&folder, &key(&request.token)).await? {
        if let Some(capture) = record.capture {
            return export::holds(&record.session).await.map(|()| capture);
        }
        // an earlier attempt died on the way
        release::release(&site, &record.session, Outcome::Abandoned).await?;
    }
    let socket = site.socket(&request.server).await?;
    alone(&site, &request, &socket).await?;
    let sidecar = Sidecar::beside(&socket).await?;
    let mut qmp = match Qmp::connect(&socket).await {
        Ok(qmp) => qmp,
        Err(error) if error.kind() == Kind::NotFound => {
            return offline::capture(&site, &request, socket, sidecar).await;
        }
        Err(error) => return Err(error),
    };
    threads::check(&mut qmp, &request.server).await?;
    let found = examine(&mut qmp, sidecar.as_ref()).await?;
    let found = make_way(&site, &request, qmp, found, sidecar.as_ref()).await?;
    let mut jobs = site.config().jobs_only;
    loop {
        let mut session = plan(&site, &request, &found, socket.clone(), jobs).await?;
        let mut taking = Taking { site: &site, request: &request, found: &found, warnings: warnings(&found, &session) };
        let error = match taking.take(&mut session).await {
            Ok(capture) => return Ok(capture),
            Err(error) => error,
        };
        let undone = release::release(&site, &session, Outcome::Abandoned).await;
        if let Err(undone) = undone {
            tracing::error!(server = %request.server, error = %undone.chain(), "cannot undo a failed capture yet");
            return Err(error);
        }
        if jobs || !super::cut::is_refusal(&error) {
            return Err(error);
        }
        tracing::warn!(server = %request.server, error = %error.chain(), "filters are refused: falling back to jobs");
        jobs = true;
    }
}

/// Captures of one guest follow each other: two would share its filters, and a dead one that is released later would
/// settle the bitmaps of a live one.
async fn alone(site: &QemuSite, request: &CaptureRequest, monitor: &Path) -> Result<()> {
    let all = Record::all(&site.scratch()).await?;
    match all.into_iter().find(|record| record.session.monitor == monitor) {
        Some(other) => Err(taken(request, &format!("run {}", other.session.token.run))),
        None => Ok(()),
    }
}

fn taken(request: &CaptureRequest, who: &str) -> Error {
    Error::new(Kind::Transient, format!("cannot capture server {}", request.server))
        .because(format!("it is being captured by {who}"))
        .hint("wait for that run, or run `replicate sweep` if it is dead")
}

/// Sees that no other capture holds the guest. What this owner left without a record can belong to no one: it goes.
async fn make_way(
    site: &QemuSite,
    request: &CaptureRequest,
    mut qmp: Qmp,
    found: Found,
    sidecar: Option<&Sidecar>,
) -> Result<Found> {
    let mine = format!("{PREFIX}{}-", owner_hash(&request.token.owner));
    let Some(name) = found.blocks.ours().next().map(str::to_owned) else { return Ok(found) };
    let key = name.trim_start_matches(PREFIX).rsplit_once('-').map_or("", |(key, _)| key).to_owned();
    let record = Record::load(&site.scratch(), &key).await?;
    if record.is_none() && name.starts_with(&mine) {
        release::clear(&mut qmp, &mine).await?;
        return examine(&mut qmp, sidecar).await;
    }
    let who = record.map(|record| format!("run {}", record.session.token.run));
    Err(taken(request, who.as_deref().unwrap_or("an unknown installation")))
}

/// One attempt.
struct Taking<'a> {
    site: &'a QemuSite,
    request: &'a CaptureRequest,
    found: &'a Found,
    warnings: Vec<String>,
}

impl Taking<'_> {
    async fn take(&mut self, session: &mut Session) -> Result<Capture> {
        let folder = self.site.scratch();
        crash::point("capture.record.before");
        session.save(&folder, None).await?;
        crash::point("capture.record.after");
        let mut qmp = Qmp::connect(&session.monitor).await?;
        scratch::prepare(self.site, session, &mut qmp).await?;
        let hooked = self.before(session).await?;
        let taken = self.cut(session, &mut qmp, hooked).await;
        // the hook runs whatever the cut came to
        let after = self.after(session).await;
        let (taken_at, consistency) = taken?;
        after?;
        export::export(session, &mut qmp).await?;
        let capture = self.describe(session, taken_at, consistency)?;
        crash::point("capture.complete.before");
        session.save(&folder, Some(&capture)).await?;
        crash::point("capture.complete.after");
        Ok(capture)
    }

    /// Runs the hook before the freeze; whether there is one.
    async fn before(&mut self, session: &mut Session) -> Result<bool> {
        let consistent = &self.request.consistent;
        if consistent.level != Consistency::Application || self.found.standing != Standing::Runs {
            return Ok(false);
        }
        if consistent.hook.before.is_empty() {
            self.degrade(Consistency::Application, "the policy names no hook to run before the freeze")?;
            return Ok(false);
        }
        session.after.clone_from(&consistent.hook.after);
        session.save(&self.site.scratch(), None).await?;
        crash::point("capture.hook.before");
        hook::run(&consistent.hook.before, &self.request.server).await?;
        crash::point("capture.hook.after");
        Ok(true)
    }

    async fn after(&mut self, session: &mut Session) -> Result<()> {
        if session.after.is_empty() {
            return Ok(());
        }
        if let Err(error) = hook::run(&session.after, &self.request.server).await {
            self.warnings.push(format!("the hook after the thaw did not succeed: {}", error.chain()));
        }
        session.after.clear();
        Ok(())
    }

    /// Freezes, cuts, thaws. Gives the instant and the level that was reached.
    async fn cut(&mut self, session: &mut Session, qmp: &mut Qmp, hooked: bool) -> Result<(Timestamp, Consistency)> {
        let limit = self.request.consistent.freeze_limit.max(Duration::from_secs(1));
        let mut frozen = self.freeze(session, limit.min(Duration::from_secs(30))).await?;
        let until = Instant::now() + limit;
        session.paused = true;
        session.save(&self.site.scratch(), None).await?;
        let result = timeout(limit + Duration::from_secs(5), cut(qmp, session, self.site.clock(), until)).await;
        let thawed = match &mut frozen {
            Some(frozen) => {
                crash::point("capture.thaw.before");
                let thawed = frozen.thaw().await;
                crash::point("capture.thaw.after");
                thawed
            }
            None => Ok(0),
        };
        let late = || {
            Error::new(Kind::Transient, format!("cannot capture server {}", self.request.server))
                .because("QEMU did not make the cut within the freeze limit")
        };
        let Cut { taken_at } = result.map_err(|_| late())??;
        session.paused = false;
        let still = thawed?;
        session.frozen = false;
        if frozen.is_some() && still == 0 {
            self.degrade(Consistency::Filesystem, "the guest thawed by itself before the cut was made")?;
            frozen = None;
        }
        let wanted = self.request.consistent.level;
        if self.found.standing == Standing::Cut && wanted > Consistency::Crash {
            self.degrade(wanted, "the guest's power was cut")?;
        }
        let level = match (self.found.standing, frozen.is_some(), hooked) {
            // everything that ran has ended in order, and its file systems with it
            (Standing::ShutDown, ..) => wanted,
            (_, true, true) => Consistency::Application,
            (_, true, false) => Consistency::Filesystem,
            (_, false, _) => Consistency::Crash,
        };
        Ok((taken_at, level))
    }

    async fn freeze(&mut self, session: &mut Session, limit: Duration) -> Result<Option<Frozen>> {
        if self.request.consistent.level < Consistency::Filesystem || self.found.standing != Standing::Runs {
            return Ok(None);
        }
        let Some(agent) = session.agent.clone() else {
            self.degrade(Consistency::Filesystem, "the guest has no guest-agent channel")?;
            return Ok(None);
        };
        session.frozen = true;
        session.save(&self.site.scratch(), None).await?;
        crash::point("capture.freeze.before");
        let frozen = Frozen::freeze(&agent, limit).await;
        crash::point("capture.freeze.after");
        match frozen {
            Ok(frozen) => Ok(Some(frozen)),
            Err(error) => {
                self.degrade(Consistency::Filesystem, &error.chain())?;
                Ok(None)
            }
        }
    }

    /// Notes that a level cannot be had, or fails if it is required.
    fn degrade(&mut self, level: Consistency, reason: &str) -> Result<()> {
        if self.request.consistent.required {
            return Err(Error::new(
                Kind::Permanent,
                format!("cannot capture server {} at level {level}", self.request.server),
            )
            .because(reason.to_owned())
            .hint("mend that, or let the policy say `required = false`"));
        }
        self.warnings.push(format!("level {level} could not be had: {reason}"));
        Ok(())
    }

    fn describe(&mut self, session: &Session, taken_at: Timestamp, consistency: Consistency) -> Result<Capture> {
        let lost = session.disks.iter().filter_map(|disk| Some((&disk.name, disk.reason.as_ref()?)));
        self.warnings.extend(lost.map(|(name, reason)| format!("disk {name} is read whole: {reason}")));
        complete(session, self.found.machine.clone(), taken_at, consistency, std::mem::take(&mut self.warnings))
    }
}

/// The capture that a complete session stands for.
pub(super) fn complete(
    session: &Session,
    machine: model::MachineSpec,
    taken_at: Timestamp,
    consistency: Consistency,
    warnings: Vec<String>,
) -> Result<Capture> {
    let disks = session.disks.iter().map(|disk| CapturedDisk {
        name: disk.name.clone(),
        size: disk.size,
        incremental: disk.incremental,
        reason: disk.reason.clone(),
    });
    let tracked = session.disks.iter().any(|disk| disk.tracked);
    let handle: Value = serde_json::to_value(session).map_err(|error| {
        Error::new(Kind::Permanent, format!("cannot describe capture {}", session.key)).because(error)
    })?;
    Ok(Capture {
        id: CaptureId::new(session.key.clone())?,
        server: session.token.server.clone(),
        taken_at,
        consistency,
        warnings,
        machine,
        disks: disks.collect(),
        cursor: if tracked { Some(Cursor::new(session.bitmap.clone())?) } else { None },
        since: session.since.clone().map(Cursor::new).transpose()?,
        handle,
    })
}

/// The session that a capture's handle holds.
pub(super) fn session_of(capture: &Capture) -> Result<Session> {
    serde_json::from_value(capture.handle.clone()).map_err(|error| {
        Error::new(Kind::Invalid, format!("cannot use capture {}", capture.id))
            .because(error)
            .hint("it was not made by this version of the provider qemu")
    })
}

/// Runs a piece of QMP work that must not be cut short by a caller who goes away.
pub(super) async fn shielded<T: Send + 'static>(
    what: &str,
    work: impl std::future::Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::new(Kind::Permanent, format!("cannot {what}")).because(error)),
    }
}

/// Arguments of `blockdev-add` for a scratch file.
pub(super) fn scratch_node(session: &Session, index: usize, file: &Path, limit: Option<u64>) -> Value {
    let file = json!({ "driver": "file", "filename": file.to_string_lossy() });
    let file = match limit {
        // writing behind `size` answers ENOSPC: the quota of the capture
        Some(limit) => json!({ "driver": "raw", "size": limit, "file": file }),
        None => file,
    };
    let mut node = json!({ "driver": "qcow2", "node-name": session.name('s', index), "file": file });
    if session.disks[index].method == Method::Job {
        node["backing"] = json!(session.disks[index].node);
    }
    node
}

//! The memory cloud as a source: captures that pin an instant, exact change maps by cursor.

use std::collections::BTreeMap;

use async_trait::async_trait;
use disk::DiskRead;
use model::{CaptureId, Consistency, Cursor, DiskName, Error, Kind, Result, Role, ServerName, Token};

use super::MemoryCloud;
use super::bytes::{ChangeMap, SparseDisk};
use super::fault::{Entered, Promise};
use super::locked;
use super::state::{Inner, Machine, Pinned, reachable, whole_millisecond};
use super::stream::{CaptureReader, Of};
use crate::{Capture, CaptureRequest, CapturedDisk, Outcome, Server, Source};

#[async_trait]
impl Source for MemoryCloud {
    async fn servers(&self) -> Result<Vec<Server>> {
        self.call("servers", |inner, call| {
            let mut all: Vec<Server> = inner.servers.iter().map(|(name, machine)| server(name, machine)).collect();
            all.truncate(all.len().saturating_sub(call.stale()));
            Ok(all)
        })
        .await
    }

    async fn describe(&self, name: &ServerName) -> Result<Server> {
        self.call("describe", |inner, call| {
            if call.breaks(Promise::NotFoundTold) && !inner.servers.contains_key(name) {
                return Err(Error::new(Kind::Permanent, format!("cannot find server {name}")));
            }
            inner.server(name).map(|machine| server(name, machine))
        })
        .await
    }

    async fn capture(&self, request: &CaptureRequest) -> Result<Capture> {
        let call = self.state.faults.enter("capture").await?;
        let mut id = CaptureId::new(request.token.name())?;
        {
            let mut inner = locked(&self.state.inner);
            inner.server(&request.server)?;
            if inner.captures.contains_key(&id) {
                if call.breaks(Promise::SameToken) {
                    id = CaptureId::new(format!("{id}-{}", inner.next()))?;
                } else {
                    return inner.pinned(&id).map(|pinned| pinned.capture.clone());
                }
            }
        }
        let (level, warning) = self.freeze(&id, request).await?;
        let snapshot = self.state.faults.enter("snapshot").await;
        let capture = self.changed("capture", |inner| {
            if let Ok(machine) = inner.server(&request.server)
                && !call.breaks(Promise::Thawed)
            {
                machine.frozen = None;
            }
            inner.hooks.extend(hook(request, level, &request.consistent.hook.after));
            snapshot?;
            let taken_at = whole_millisecond(self.state.clock.now());
            let mut capture = plain_capture(inner, id, request, taken_at)?;
            (capture.consistency, capture.warnings) = (level, warning.into_iter().collect());
            pin(inner, capture, request, &call)
        })?;
        call.leave().await?;
        Ok(capture)
    }

    async fn open(&self, capture: &Capture, disk: &DiskName, incremental: bool) -> Result<Box<dyn DiskRead>> {
        self.call("open", |inner, call| {
            let pinned = inner.pinned(&capture.id)?;
            let bytes = pinned.disks.get(disk).ok_or_else(|| {
                Error::new(Kind::NotFound, format!("cannot open disk {disk} of capture {}", capture.id))
            })?;
            let told = pinned.changes.contains_key(disk) && !call.breaks(Promise::IncrementalTold);
            let of = Of::Capture(capture.id.clone());
            Ok(Box::new(CaptureReader::new(self, of, disk.clone(), bytes.size(), incremental && told))
                as Box<dyn DiskRead>)
        })
        .await
    }

    async fn release(&self, capture: &Capture, outcome: Outcome) -> Result<()> {
        self.call("release", |inner, call| {
            let done_with = match outcome {
                Outcome::Committed => capture.since.as_ref().filter(|since| Some(*since) != capture.cursor.as_ref()),
                Outcome::Abandoned => capture.cursor.as_ref(),
            };
            if call.breaks(Promise::Deleted) {
                return Ok(());
            }
            let found = inner.end_capture(&capture.id, &capture.server, done_with);
            if !found && call.breaks(Promise::AbsentIsSuccess) {
                return Err(Error::new(Kind::NotFound, format!("cannot release capture {}", capture.id)));
            }
            Ok(())
        })
        .await
    }
}

impl MemoryCloud {
    /// Freezes the guest as far as it can be, and tells the level reached. From here on the caller must thaw.
    async fn freeze(&self, id: &CaptureId, request: &CaptureRequest) -> Result<(Consistency, Option<String>)> {
        let wanted = request.consistent.level;
        let degrade = |reason: String| {
            if request.consistent.required {
                let operation = format!("cannot capture server {} with consistency {wanted}", request.server);
                return Err(Error::new(Kind::Invalid, operation).because(reason));
            }
            Ok((Consistency::Crash, Some(format!("consistency is crash, not {wanted}: {reason}"))))
        };
        if wanted == Consistency::Crash {
            return Ok((wanted, None));
        }
        let (reached, why_not) = reachable(locked(&self.state.inner).server(&request.server)?);
        if reached < wanted {
            return degrade(why_not.unwrap_or("the guest cannot").to_owned());
        }
        locked(&self.state.inner).hooks.extend(hook(request, wanted, &request.consistent.hook.before));
        if let Err(error) = self.state.faults.enter("freeze").await {
            return degrade(error.chain());
        }
        self.changed("freeze", |inner| {
            inner.server(&request.server)?.frozen = Some((id.clone(), request.token.tags(Role::Scratch)));
            Ok((wanted, None))
        })
    }
}

/// The hook's command, if the level has hooks and there is one.
fn hook(request: &CaptureRequest, level: Consistency, command: &[String]) -> Option<Vec<String>> {
    let asked = request.consistent.level == Consistency::Application && level == Consistency::Application;
    (asked && !command.is_empty()).then(|| command.to_vec())
}

fn server(name: &ServerName, machine: &Machine) -> Server {
    Server { name: name.clone(), power: machine.power, machine: machine.spec.clone() }
}

/// The plain data of a capture of the server as it is now, without increments.
fn plain_capture(
    inner: &mut Inner,
    id: CaptureId,
    request: &CaptureRequest,
    taken_at: jiff::Timestamp,
) -> Result<Capture> {
    let machine = inner.server(&request.server)?;
    let disk = |spec: &model::DiskSpec| CapturedDisk {
        name: spec.name.clone(),
        size: spec.size,
        incremental: false,
        reason: Some("no earlier point to build on".to_owned()),
    };
    Ok(Capture {
        cursor: Some(Cursor::new(id.as_str())?),
        id,
        server: request.server.clone(),
        taken_at,
        consistency: Consistency::Crash,
        warnings: Vec::new(),
        machine: machine.spec.clone(),
        disks: machine.spec.disks.iter().map(disk).collect(),
        since: None,
        handle: serde_json::Value::Null,
    })
}

/// Pins the bytes, takes over the change maps since the base, and begins the new ones: one instant, under one lock.
fn pin(inner: &mut Inner, mut capture: Capture, request: &CaptureRequest, call: &Entered<'_>) -> Result<Capture> {
    let made = inner.next();
    let machine = inner.server(&request.server)?;
    if call.breaks(Promise::AllDisks) {
        capture.disks.pop();
    }
    let changes = since(machine, &mut capture, request, call);
    if let Some(cursor) = &capture.cursor {
        let empty = machine.disks.keys().map(|name| (name.clone(), ChangeMap::new())).collect();
        machine.tracked.insert(cursor.clone(), empty);
    }
    let disks: BTreeMap<DiskName, SparseDisk> = machine.disks.clone();
    let torn = if call.breaks(Promise::OneInstant) { disks.keys().skip(1).cloned().collect() } else { Vec::new() };
    let tags = tags(&request.token, call);
    let pinned = Pinned { made, tags, capture: capture.clone(), disks, changes, lost: None, torn };
    inner.captures.insert(capture.id.clone(), pinned);
    Ok(capture)
}

/// The changes since the request's cursor, and in the capture which disks have them or why not.
fn since(
    machine: &mut Machine,
    capture: &mut Capture,
    request: &CaptureRequest,
    call: &Entered<'_>,
) -> BTreeMap<DiskName, ChangeMap> {
    let mut changes = BTreeMap::new();
    let Some(cursor) = &request.since else { return changes };
    let mut maps = machine.tracked.get(cursor).cloned();
    if maps.is_none() && call.breaks(Promise::CursorKnown) {
        maps = Some(machine.disks.keys().map(|name| (name.clone(), ChangeMap::new())).collect());
    }
    for disk in &mut capture.disks {
        match maps.as_mut().map(|maps| maps.remove(&disk.name)) {
            Some(Some(mut map)) => {
                if call.breaks(Promise::EveryChange) {
                    map.pop_last();
                }
                changes.insert(disk.name.clone(), map);
                (disk.incremental, disk.reason) = (true, None);
            }
            Some(None) => disk.reason = Some("the disk was added since".to_owned()),
            None => {
                let lost = machine.lost.get(cursor).cloned();
                let unknown = || format!("the cursor {cursor} is not known at server {}", request.server);
                disk.reason = Some(lost.unwrap_or_else(unknown));
            }
        }
    }
    if !changes.is_empty() {
        capture.since = Some(cursor.clone());
    }
    if call.breaks(Promise::AbandonKeeps)
        && let Some(maps) = machine.tracked.get_mut(cursor)
    {
        maps.values_mut().for_each(ChangeMap::clear);
    }
    changes
}

fn tags(token: &Token, call: &Entered<'_>) -> model::Tags {
    if call.breaks(Promise::Tagged) { model::Tags::new() } else { token.tags(Role::Scratch) }
}

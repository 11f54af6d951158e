//! What can be changed about a snapshot: who may use it, and a lock against deletion.

use super::filter;
use super::find::Cx;
use super::image_attributes::{Sharing, permissions};
use super::page;
use super::params::Params;
use super::xml::{Maybe, Xml, text};
use crate::clock::{iso, later};
use crate::error::{Answer, ApiError};
use crate::world::resource::Lock;

pub(crate) fn modify(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let id = params.need("SnapshotId")?;
    params.word("Attribute", &["createVolumePermission"])?;
    let sharing = Sharing::read(params, "CreateVolumePermission")?;
    params.done()?;
    if sharing.is_empty() {
        return Err(ApiError::refuse("InvalidParameterCombination", "No attributes specified."));
    }
    cx.sim.change(|world| {
        let snapshot = cx.own_snapshot(world, &id)?;
        if snapshot.key == Some(super::keys::default(&snapshot.base.account, &snapshot.base.region)) {
            let message = "Encrypted snapshots with EBS default key cannot be shared";
            return Err(ApiError::refuse("OperationNotPermitted", message));
        }
        sharing.apply(&mut snapshot.shared);
        Ok(())
    })?;
    Ok(vec![text("return", true)])
}

pub(crate) fn describe(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let id = params.need("SnapshotId")?;
    params.word("Attribute", &["createVolumePermission"])?.ok_or_else(|| ApiError::missing("Attribute"))?;
    params.done()?;
    let xml = cx.sim.with(|world| -> Answer<Xml> {
        Ok(permissions("createVolumePermission", &cx.own_snapshot(world, &id)?.shared))
    })?;
    Ok(vec![text("snapshotId", id), xml])
}

fn state(lock: &Lock, now: jiff::Timestamp) -> &'static str {
    match lock.compliance {
        _ if now >= lock.expires => "expired",
        true if lock.cool_off.is_some_and(|until| now < until) => "compliance-cooloff",
        true => "compliance",
        false => "governance",
    }
}

fn info(id: &str, lock: &Lock, now: jiff::Timestamp) -> Vec<Xml> {
    let mut xml = vec![
        text("snapshotId", id),
        text("lockState", state(lock, now)),
        text("lockDuration", lock.days),
        text("lockCreatedOn", iso(lock.created)),
        text("lockExpiresOn", iso(lock.expires)),
        text("lockDurationStartTime", iso(lock.start)),
    ];
    xml.maybe("coolOffPeriod", lock.cool_off_hours);
    xml.maybe("coolOffPeriodExpiresOn", lock.cool_off.map(iso));
    xml
}

pub(crate) fn lock(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let id = params.need("SnapshotId")?;
    let mode = params.word("LockMode", &["compliance", "governance"])?;
    let compliance = mode.ok_or_else(|| ApiError::missing("LockMode"))? == "compliance";
    let (days, until) = (params.number("LockDuration")?, params.instant("ExpirationDate")?);
    let cool_off = params.number("CoolOffPeriod")?;
    params.done()?;
    if cool_off.is_some_and(|hours| !compliance || !(1..=72).contains(&hours)) {
        return Err(ApiError::value("CoolOffPeriod", &cool_off.unwrap_or_default().to_string()));
    }
    let now = cx.sim.now();
    let days = match (days, until) {
        (Some(days), None) if (1..=36_500).contains(&days) => days,
        (None, Some(until)) if until > now => (until.duration_since(now).as_secs_f64() / 86_400.0).ceil() as u64,
        (Some(_), Some(_)) | (None, None) => {
            let message = "Specify either LockDuration or ExpirationDate";
            return Err(ApiError::refuse("InvalidParameterCombination", message));
        }
        _ => return Err(ApiError::refuse("InvalidParameterValue", "LockDuration is from 1 to 36500 days")),
    };
    let made = cx.sim.change(|world| {
        let snapshot = cx.own_snapshot(world, &id)?;
        let start = snapshot.completes.max(now);
        let expires = until.unwrap_or_else(|| later(start, days as f64 * 86_400.0));
        if let Some(old) = &snapshot.lock
            && state(old, now) == "compliance"
            && (expires < old.expires || !compliance)
        {
            let message = format!("The snapshot {id} is locked in compliance mode: it can only be locked longer");
            return Err(ApiError::refuse("OperationNotPermitted", message));
        }
        let lock = Lock {
            compliance,
            created: now,
            cool_off: cool_off.map(|hours| later(now, hours as f64 * 3600.0)),
            cool_off_hours: cool_off,
            days,
            start,
            expires,
        };
        snapshot.lock = Some(lock.clone());
        Ok(lock)
    })?;
    Ok(info(&id, &made, now))
}

pub(crate) fn unlock(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let id = params.need("SnapshotId")?;
    params.done()?;
    cx.sim.change(|world| {
        let now = world.now();
        let snapshot = cx.own_snapshot(world, &id)?;
        match &snapshot.lock {
            None => Err(ApiError::refuse("InvalidSnapshot.NotLocked", format!("The snapshot {id} is not locked"))),
            Some(lock) if state(lock, now) == "compliance" => {
                let message = format!("The snapshot {id} is locked in compliance mode and cannot be unlocked");
                Err(ApiError::refuse("OperationNotPermitted", message))
            }
            Some(_) => {
                snapshot.lock = None;
                Ok(())
            }
        }
    })?;
    Ok(vec![text("snapshotId", id)])
}

pub(crate) fn locked(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let ids = params.list("SnapshotId");
    let filters = filter::read(params, &["lock-state"])?;
    let page = page::read(params, "DescribeLockedSnapshots", (5, 1000), !ids.is_empty())?;
    params.done()?;
    let items = cx.sim.with(|world| {
        let now = world.now();
        let mut items = Vec::new();
        for it in world.snapshots.values().filter(|it| cx.owns(&it.base, now)) {
            let Some(lock) = it.lock.as_ref().filter(|_| ids.is_empty() || ids.contains(&it.base.id)) else { continue };
            let fields = vec![("lock-state", state(lock, now).to_owned())];
            if filter::all_fit(&filters, &fields, it.base.tags(now)) {
                let mut xml = info(&it.base.id, lock, now);
                xml.push(text("ownerId", &it.base.account));
                items.push((it.base.id.clone(), xml));
            }
        }
        items
    });
    Ok(page.of(cx, "snapshotSet", items))
}

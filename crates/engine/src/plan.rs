//! Decisions about a run, pure: from what the policy wants and what source, destinations and ledger hold now. The same functions
//! serve `replicate plan`, which prints them, and the run, which acts on them.

use model::{DiskName, ImageId, Place, PointId, RestorePoint, ServerName, Via};

use crate::records::CursorRecord;
use crate::{DestinationPlan, Mode, Problem};

/// A point that a destination holds now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    pub point: RestorePoint,
    /// The image, at a site.
    pub image: Option<ImageId>,
    /// Whether the ledger knows it as damaged.
    pub damaged: bool,
}

/// How one disk comes to one destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DiskMode {
    pub mode: Mode,
    /// Why not incremental.
    pub reason: Option<String>,
}

/// The point that the next one builds on at a destination: the one that the source's changes are counted from, if the
/// destination holds it; else the newest of the server.
pub(crate) fn parent<'a>(
    held: &'a [Held],
    server: &ServerName,
    own: Option<&PointId>,
    cursor: Option<&CursorRecord>,
) -> Option<&'a Held> {
    let fitting =
        || held.iter().filter(|h| h.point.server == *server && !h.damaged && own.is_none_or(|own| *own != h.point.id));
    let base = cursor.and_then(|cursor| fitting().find(|h| h.point.id == cursor.base));
    base.or_else(|| fitting().max_by(|a, b| (a.point.taken_at, &a.point.id).cmp(&(b.point.taken_at, &b.point.id))))
}

/// How a disk goes to a destination with this parent. `known`: whether the source knows the disk's changes since the
/// cursor, and if not, why.
pub(crate) fn disk_mode(
    parent: Option<&Held>,
    cursor: Option<&CursorRecord>,
    disk: &DiskName,
    size: u64,
    known: Result<(), &str>,
) -> DiskMode {
    let Some(parent) = parent else {
        return DiskMode { mode: Mode::Full, reason: Some("the destination has no point of this server".to_owned()) };
    };
    let there = parent.point.disks.iter().find(|d| d.name == *disk);
    let Some(there) = there else {
        return DiskMode { mode: Mode::Full, reason: Some(format!("disk {disk} is new")) };
    };
    let compare = |reason: String| DiskMode { mode: Mode::Compare, reason: Some(reason) };
    if there.size != size {
        return DiskMode { mode: Mode::Full, reason: Some(format!("disk {disk} was resized")) };
    }
    let Some(cursor) = cursor else {
        return compare("no change map of a committed point is known".to_owned());
    };
    if cursor.base != parent.point.id {
        return compare(format!("the destination missed point {}", cursor.base));
    }
    if !cursor.fits(&parent.point, disk) {
        return compare("the destination's point has other bytes than the change map counts from".to_owned());
    }
    match known {
        Ok(()) => DiskMode { mode: Mode::Incremental, reason: None },
        Err(reason) => compare(reason.to_owned()),
    }
}

/// The durable steps of a destination that gets blocks, in order: ledger names.
pub(crate) fn steps(place: &Place) -> Vec<String> {
    let commit = match place {
        Place::Vault(_) => seal_step(place),
        Place::Site(_) => register_step(place),
    };
    vec![transfer_step(place), commit, verify_step(place)]
}

/// Ledger name of a destination's transfer.
pub(crate) fn transfer_step(place: &Place) -> String {
    format!("transfer-{place}")
}

/// Ledger name of an archive's commit.
pub(crate) fn seal_step(place: &Place) -> String {
    format!("seal-{place}")
}

/// Ledger name of an image's commit.
pub(crate) fn register_step(place: &Place) -> String {
    format!("register-{place}")
}

/// The durable steps of a destination that its provider copies to.
pub(crate) fn relay_steps(place: &Place) -> Vec<String> {
    vec![relay_step(place), commit_step(place)]
}

/// Ledger name of a copy by the provider, verification included.
pub(crate) fn relay_step(place: &Place) -> String {
    format!("relay-{place}")
}

/// Ledger name of the commit of a copy.
pub(crate) fn commit_step(place: &Place) -> String {
    format!("commit-{place}")
}

/// Ledger name of taking older images off people's lists.
pub(crate) fn hide_step(place: &Place) -> String {
    format!("hide-{place}")
}

/// Ledger name of a destination's verification.
pub(crate) fn verify_step(place: &Place) -> String {
    format!("verify-{place}")
}

/// What one destination would do for disks of these sizes.
pub(crate) fn destination(
    place: &Place,
    held: Result<&[Held], Problem>,
    server: &ServerName,
    cursor: Option<&CursorRecord>,
    disks: &[(DiskName, u64)],
) -> DestinationPlan {
    let total = disks.iter().map(|(_, size)| size).sum();
    let mut plan = DestinationPlan {
        place: place.clone(),
        mode: Mode::Full,
        parent: None,
        reason: None,
        via: Via::Blocks,
        from: None,
        choice: None,
        estimated_bytes: total,
        estimated_calls: None,
        estimated_cost: None,
        estimated_seconds: None,
        steps: steps(place),
        problem: None,
    };
    let held = match held {
        Ok(held) => held,
        Err(problem) => {
            plan.problem = Some(problem);
            return plan;
        }
    };
    let parent = parent(held, server, None, cursor);
    plan.parent = parent.map(|h| h.point.id.clone());
    let modes: Vec<DiskMode> =
        disks.iter().map(|(name, size)| disk_mode(parent, cursor, name, *size, Ok(()))).collect();
    let worst = modes.iter().max_by_key(|m| match m.mode {
        Mode::Incremental => 0,
        Mode::Compare => 1,
        Mode::Full => 2,
    });
    if let Some(worst) = worst {
        plan.mode = worst.mode;
        plan.reason = worst.reason.clone();
    }
    if plan.mode == Mode::Incremental
        && let Some(cursor) = cursor
    {
        plan.estimated_bytes = cursor.last_bytes.min(total);
    }
    plan
}

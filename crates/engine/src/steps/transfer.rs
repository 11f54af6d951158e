//! Moves the bytes: every disk is read once for all destinations that need the same of it.
//!
//! Destinations that hold the point which the source's changes are counted from get the changes. The others (they missed a point, or
//! the change map was lost) get a full read, of which the transfer drops what they have already.

use cloud::{Capture, CapturedDisk};
use disk::{DiskWrite, Written};
use model::{Error, Kind, Place, PointDisk, Result, Role, crash};

use super::{Context, Transferred, at, disk_step};
use crate::archive::ArchiveWriter;
use crate::journal::Begun;
use crate::ledger::{Batch, Tree};
use crate::meter::Meter;
use crate::plan::{self, Held};
use crate::records::HoldRecord;
use crate::report::disk_label;
use crate::{Mode, Problem};

/// One destination while bytes move to it.
pub(crate) struct Lane {
    pub place: Place,
    pub parent: Option<Held>,
    /// The open point, at a vault.
    pub archive: Option<Box<dyn ArchiveWriter>>,
    pub done: Transferred,
    pub incremental: bool,
    pub failed: Option<Error>,
    /// How long its bytes took.
    pub seconds: f64,
    begun: Option<Begun>,
}

/// Transfers all disks to `places`. `trust`: follow change maps; without it everything is read and compared.
pub(crate) async fn run(context: &Context<'_>, capture: &Capture, places: &[Place], trust: bool) -> Result<Vec<Lane>> {
    let mut lanes = Vec::new();
    for place in places {
        lanes.push(open(context, place).await?);
    }
    for disk in &capture.disks {
        for changes in [true, false] {
            let mut group: Vec<&mut Lane> = lanes
                .iter_mut()
                .filter(|lane| {
                    lane.failed.is_none() && (mode(context, lane, disk, trust) == Mode::Incremental) == changes
                })
                .collect();
            if !group.is_empty() {
                move_disk(context, capture, disk, changes, &mut group).await;
            }
        }
    }
    for lane in &mut lanes {
        if lane.failed.is_some() {
            continue;
        }
        lane.incremental = trust && capture.disks.iter().all(|d| mode(context, lane, d, trust) == Mode::Incremental);
        if let Some(begun) = lane.begun.take() {
            lane.seconds = begun.seconds();
            context.engine.step_finish(&context.run.id, begun, &lane.done, Batch::new()).await?;
        }
    }
    Ok(lanes)
}

fn mode(context: &Context<'_>, lane: &Lane, disk: &CapturedDisk, trust: bool) -> Mode {
    if !trust {
        return if lane.parent.is_some() { Mode::Compare } else { Mode::Full };
    }
    let reason = disk.reason.as_deref().unwrap_or("the source does not know the changes");
    let known = if disk.incremental { Ok(()) } else { Err(reason) };
    plan::disk_mode(lane.parent.as_ref(), context.cursor.as_ref(), &disk.name, disk.size, known).mode
}

/// Begins the step and, at a vault, the point. Trouble of the destination stays in its lane; trouble of the ledger ends the run.
async fn open(context: &Context<'_>, place: &Place) -> Result<Lane> {
    let (engine, run) = (context.engine, &context.run);
    let begun = engine.step_begin(&run.id, &plan::transfer_step(place)).await?;
    let mut lane = Lane {
        place: place.clone(),
        parent: None,
        archive: None,
        done: Transferred::default(),
        incremental: false,
        failed: None,
        seconds: 0.0,
        begun: Some(begun),
    };
    match engine.held(place).await {
        Ok(held) => {
            let parent = plan::parent(&held, &run.server, Some(&run.id.point()), context.cursor.as_ref());
            lane.parent = parent.cloned();
        }
        Err(error) => lane.failed = Some(at(place, error)),
    }
    if let Some(parent) = &lane.parent {
        // retention leaves the parent alone as long as this run builds on it
        let hold = HoldRecord { run: run.id.clone(), why: "a run builds on it".to_owned(), since: engine.now() };
        let mut batch = Batch::new();
        batch.put(Tree::Holds, format!("{}/{}", parent.point.id, run.id), &hold)?;
        engine.ledger.commit(batch).await?;
    }
    if let (Place::Vault(name), None) = (place, &lane.failed) {
        let parent = lane.parent.as_ref().map(|held| &held.point.id);
        let begun = match engine.vault(name).await {
            Ok(vault) => vault.begin(&run.id.point(), &run.server, parent).await,
            Err(error) => Err(error),
        };
        match begun {
            Ok(writer) => lane.archive = Some(writer),
            Err(error) => lane.failed = Some(at(place, error)),
        }
    }
    Ok(lane)
}

/// One pass over one disk for a group of lanes.
async fn move_disk(
    context: &Context<'_>,
    capture: &Capture,
    disk: &CapturedDisk,
    changes: bool,
    group: &mut [&mut Lane],
) {
    let mut writers: Vec<Box<dyn DiskWrite>> = Vec::new();
    let mut taking: Vec<usize> = Vec::new();
    for (index, lane) in group.iter_mut().enumerate() {
        crash::point("run.transfer.disk.before");
        match writer(context, lane, disk, changes).await {
            Ok(writer) => {
                writers.push(writer);
                taking.push(index);
            }
            Err(error) => lane.failed = Some(at(&lane.place, error)),
        }
    }
    if writers.is_empty() {
        return;
    }
    let meter = Meter::new(&*context.engine.observer, Some(&context.run.id), disk_label(&disk.name));
    let moved = match context.open(capture, &disk.name, changes).await {
        Ok(reader) => disk::transfer(&*reader, writers, &meter).await,
        Err(error) => Err(error),
    };
    meter.close();
    tracing::info!(
        run = %context.run.id, disk = %disk.name, read = meter.read_bytes(), delivered = meter.delivered_bytes(),
        incremental = changes, "disk moved"
    );
    crash::point("run.transfer.disk.after");
    match moved {
        Ok(results) => {
            for (index, result) in taking.into_iter().zip(results) {
                settle(group[index], disk, result);
            }
        }
        // the source failed: each destination that waited for it has the same trouble
        Err(error) => {
            let problem = Problem::from(&error);
            for index in taking {
                group[index].failed = Some(at(&group[index].place.clone(), problem.clone().into()));
            }
        }
    }
}

fn settle(lane: &mut Lane, disk: &CapturedDisk, result: Result<Written>) {
    match result {
        Ok(written) => {
            lane.done.disks.push(PointDisk { name: disk.name.clone(), size: disk.size, root: written.root });
            lane.done.received += written.received;
            lane.done.fresh += written.fresh;
            lane.done.stored += written.stored;
        }
        Err(error) => lane.failed = Some(at(&lane.place, error)),
    }
}

/// Opens one disk at one destination.
async fn writer(
    context: &Context<'_>,
    lane: &mut Lane,
    disk: &CapturedDisk,
    changes: bool,
) -> Result<Box<dyn DiskWrite>> {
    match &lane.place {
        Place::Vault(name) => match &lane.archive {
            Some(archive) => archive.disk(&disk.name, disk.size, changes).await,
            None => {
                Err(Error::new(Kind::Permanent, format!("cannot write to vault {name}")).because("no point is open"))
            }
        },
        Place::Site(name) => {
            let site = context.engine.site(name)?;
            let target = site.target().ok_or_else(|| {
                Error::new(Kind::Invalid, format!("cannot make images at site {name}"))
                    .because(format!("a {} site is not a target", site.kind()))
            })?;
            // a base of another size is no base
            let same = |held: &&Held| held.point.disks.iter().any(|d| d.name == disk.name && d.size == disk.size);
            let base = lane.parent.as_ref().filter(same).and_then(|held| held.image.as_ref());
            let token = context.token(&disk_step(&disk.name));
            debug_assert_eq!(token.tags(Role::Scratch).get(model::tag::ROLE).map(String::as_str), Some("scratch"));
            let (image, writer) = target.create_disk(&disk.name, disk.size, base, &token).await?;
            lane.done.images.push(image);
            Ok(writer)
        }
    }
}

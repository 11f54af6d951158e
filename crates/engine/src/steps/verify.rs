//! Checks a replica right after its commit: only then it counts.
//!
//! An archive: the vault re-reads what the point added and its roots must be the point's. An image: what it stored is read back, if it
//! builds on one that was verified and the provider knows what that is; else every disk, and its root compared.

use std::collections::BTreeSet;

use model::{Error, ImageId, Kind, Place, Replica, ReplicaState, RestorePoint, Result, crash};

use crate::archive::CheckScope;
use crate::ledger::{self, Batch, Tree};
use crate::meter::Meter;
use crate::plan;
use crate::records::{RunRecord, replica_key};
use crate::report::disk_label;
use crate::{Engine, image};

/// Verifies and notes it. [`Kind::Damaged`]: the replica is no good, and is noted as such.
pub(crate) async fn run(engine: &Engine, run: &RunRecord, place: &Place, point: &RestorePoint) -> Result<()> {
    let begun = engine.step_begin(&run.id, &plan::verify_step(place)).await?;
    crash::point("run.verify.before");
    let checked = check(engine, Some(run), place, point).await;
    let key = replica_key(&point.id, place);
    let mut replica: Replica = ledger::get(&*engine.ledger, Tree::Replicas, &key).await?.ok_or_else(|| {
        Error::new(Kind::Damaged, format!("cannot verify point {} at {place}", point.id))
            .because("the ledger has no such replica")
    })?;
    let mut batch = Batch::new();
    match checked {
        Ok(()) => {
            replica.state = ReplicaState::Verified;
            replica.verified_at = Some(engine.now());
            batch.put(Tree::Replicas, key, &replica)?;
            engine.step_finish(&run.id, begun, &(), batch).await
        }
        Err(error) => {
            if matches!(error.kind(), Kind::Damaged | Kind::NotFound) {
                replica.state = ReplicaState::Damaged;
                batch.put(Tree::Replicas, key, &replica)?;
                engine.ledger.commit(batch).await?;
            }
            Err(error)
        }
    }
}

async fn check(engine: &Engine, run: Option<&RunRecord>, place: &Place, point: &RestorePoint) -> Result<()> {
    match place {
        Place::Vault(name) => {
            let vault = engine.vault(name).await?;
            let found = vault.point(&point.id).await?;
            if found.disks != point.disks {
                return Err(Error::new(Kind::Damaged, format!("point {} at {place} is damaged", point.id))
                    .because("its disks have other roots than were captured"));
            }
            let report =
                vault.verify(&CheckScope::Added(point.id.clone()), &BTreeSet::new(), &*engine.observer).await?;
            match report.damaged.into_iter().find(|(id, _)| *id == point.id) {
                Some((_, why)) => {
                    Err(Error::new(Kind::Damaged, format!("point {} at {place} is damaged", point.id)).because(why))
                }
                None => Ok(()),
            }
        }
        Place::Site(_) => {
            let image = super::register::find(engine, place, point).await?.ok_or_else(|| {
                Error::new(Kind::NotFound, format!("point {} is not at {place}", point.id)).because("its image is gone")
            })?;
            if let Some(run) = run
                && builds_on_verified(engine, run, place).await?
                && written(engine, run, place, &image, point).await?
            {
                return Ok(());
            }
            image_roots(engine, run, place, &image, point).await.map(|_| ())
        }
    }
}

/// Whether what the image shares with its parent was read back with that one.
async fn builds_on_verified(engine: &Engine, run: &RunRecord, place: &Place) -> Result<bool> {
    let destination = run.destinations.iter().find(|destination| destination.place == *place);
    let Some(parent) = destination.and_then(|destination| destination.parent.as_ref()) else { return Ok(false) };
    let known: Option<Replica> = ledger::get(&*engine.ledger, Tree::Replicas, &replica_key(parent, place)).await?;
    Ok(known.is_some_and(|replica| replica.verified_at.is_some() && replica.state != ReplicaState::Damaged))
}

/// Reads back what every disk of the image stored. `false` if the provider cannot tell for one of them.
async fn written(
    engine: &Engine,
    run: &RunRecord,
    place: &Place,
    image: &ImageId,
    point: &RestorePoint,
) -> Result<bool> {
    let Place::Site(site) = place else { return Ok(false) };
    let Some(target) = engine.site(site)?.target() else { return Ok(false) };
    for disk in &point.disks {
        let meter = Meter::new(&*engine.observer, Some(&run.id), format!("verify {}", disk_label(&disk.name)));
        let checked = target.check_written(image, disk, &meter).await;
        meter.close();
        if checked?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes sure of a provider's copy: what it has brought is read back; everything, if the provider cannot tell what that is, or if an
/// image of the server there is damaged, for it may share that.
pub(crate) async fn copied(
    engine: &Engine,
    run: &RunRecord,
    place: &Place,
    image: &ImageId,
    point: &RestorePoint,
) -> Result<()> {
    let catalogue = engine.catalogue().await?;
    let of_server = |r: &&Replica| catalogue.points.get(&r.point).is_some_and(|it| it.server == point.server);
    let mut there = catalogue.replicas.iter().filter(|r| r.place == *place).filter(of_server);
    let damaged = there.any(|replica| replica.state == ReplicaState::Damaged);
    if !damaged && written(engine, run, place, image, point).await? {
        return Ok(());
    }
    image_roots(engine, Some(run), place, image, point).await.map(drop)
}

/// Reads an image back and compares its roots. Returns the bytes read.
pub(crate) async fn image_roots(
    engine: &Engine,
    run: Option<&RunRecord>,
    place: &Place,
    image: &ImageId,
    point: &RestorePoint,
) -> Result<u64> {
    let mut read = 0;
    for disk in &point.disks {
        let reader = image::open_replica(engine, place, Some(image), point, &disk.name).await?;
        let meter = Meter::new(&*engine.observer, run.map(|run| &run.id), format!("verify {}", disk_label(&disk.name)));
        let root = crate::check::root_of(&*reader, &meter).await?;
        read += meter.read_bytes();
        meter.close();
        if root != disk.root || reader.size() != disk.size {
            return Err(Error::new(Kind::Damaged, format!("image {image} at {place} is damaged"))
                .because(format!("disk {} has root {root}, not {}", disk.name, disk.root)));
        }
    }
    Ok(read)
}

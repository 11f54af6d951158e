//! Commits an archive: the vault seals the point. Before, it does not exist; after, it can be restored.

use model::{Error, Kind, Place, Replica, ReplicaState, RestorePoint, Result, crash};

use super::transfer::Lane;
use crate::Engine;
use crate::ledger::{Batch, Tree};
use crate::plan;
use crate::records::{RunRecord, point_key, replica_key};

/// Seals the lane's point and notes the replica. The source is held until this returns.
pub(crate) async fn run(engine: &Engine, run: &RunRecord, lane: &mut Lane, point: &RestorePoint) -> Result<u64> {
    let step = plan::seal_step(&lane.place);
    let begun = engine.step_begin(&run.id, &step).await?;
    let archive = lane.archive.take().ok_or_else(|| {
        Error::new(Kind::Permanent, format!("cannot seal point {}", point.id)).because("no point is open")
    })?;
    crash::point("run.seal.before");
    let stored = archive.seal(point).await?;
    crash::point("run.seal.after");
    let batch = committed(point, &lane.place, None, stored)?;
    engine.step_finish(&run.id, begun, &stored, batch).await?;
    Ok(stored)
}

/// Finds the point of an execution that died before it could note the outcome.
pub(crate) async fn adopt(engine: &Engine, run: &RunRecord, place: &Place, point: &RestorePoint) -> Result<bool> {
    let Place::Vault(name) = place else { return Ok(false) };
    let found = match engine.vault(name).await?.point(&point.id).await {
        Ok(found) => found,
        Err(error) if error.kind() == Kind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    if found != *point {
        return Err(Error::new(Kind::Invalid, format!("cannot seal point {}", point.id))
            .because(format!("{place} has a point of that name with other content"))
            .hint("two installations write points of one name: stop one of them"));
    }
    let begun = engine.step_begin(&run.id, &plan::seal_step(place)).await?;
    let destination = run.destinations.iter().find(|destination| destination.place == *place);
    let stored = destination.map_or(0, |destination| destination.stored_bytes);
    let batch = committed(point, place, None, stored)?;
    engine.step_finish(&run.id, begun, &stored, batch).await?;
    Ok(true)
}

/// The catalogue's part of a commit: the point, and its replica.
pub(crate) fn committed(
    point: &RestorePoint,
    place: &Place,
    image: Option<model::ImageId>,
    stored_bytes: u64,
) -> Result<Batch> {
    let replica = Replica {
        point: point.id.clone(),
        place: place.clone(),
        image,
        state: ReplicaState::Committed,
        verified_at: None,
        proven_at: None,
        doomed_at: None,
        unprotected_at: None,
        hidden: false,
        published: None,
        stored_bytes,
    };
    let mut batch = Batch::new();
    batch.put(Tree::Points, point_key(point), point)?;
    batch.put(Tree::Replicas, replica_key(&point.id, place), &replica)?;
    Ok(batch)
}

//! Takes the older images of a server off people's lists at a destination that has a newer one, verified. They stay
//! what they are: replicas that can be restored.

use model::{Error, Kind, Place, Replica, RestorePoint, Result, crash};

use crate::Engine;
use crate::ledger::{self, Batch, Tree};
use crate::plan;
use crate::records::{RunRecord, replica_key};

/// Hides what the policy made before this point at this place, if the policy asks for it. Every run does it for all
/// older images that are not noted as hidden, so what one run could not do is done by the next.
pub(crate) async fn run(engine: &Engine, run: &RunRecord, place: &Place, point: &RestorePoint) -> Result<()> {
    let asked = run.with.as_ref().is_some_and(|policy| policy.image_options(place).hide_older);
    let (true, Place::Site(name)) = (asked, place) else { return Ok(()) };
    let target = engine.site(name)?.target().ok_or_else(|| {
        Error::new(Kind::Invalid, format!("cannot hide images at {place}")).because("it has no images")
    })?;
    let begun = engine.step_begin(&run.id, &plan::hide_step(place)).await?;
    let mut batch = Batch::new();
    for held in engine.held(place).await? {
        let older = held.point.taken_at < point.taken_at && held.point.server == point.server;
        let (true, true, Some(image)) = (older, held.point.policy == point.policy, &held.image) else { continue };
        let key = replica_key(&held.point.id, place);
        let replica: Option<Replica> = ledger::get(&*engine.ledger, Tree::Replicas, &key).await?;
        if replica.as_ref().is_some_and(|replica| replica.hidden) {
            continue;
        }
        crash::point("run.hide.before");
        target.hide(image, true).await?;
        crash::point("run.hide.after");
        if let Some(replica) = replica {
            batch.put(Tree::Replicas, key, &Replica { hidden: true, ..replica })?;
        }
    }
    engine.step_finish(&run.id, begun, &(), batch).await
}

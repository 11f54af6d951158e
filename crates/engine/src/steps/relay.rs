//! Lets a provider copy the image of a point from one destination to another, and commits the copy.
//!
//! `relay-PLACE` begins the copy (the same token finds it again after a crash), looks at it until it is whole, and makes
//! sure of its bytes: by the provider's own proof, else by reading them back. Until then the copy is scratch, and a
//! sweep may delete it. `commit-PLACE` makes it a replica; what an execution in between knows is in the journal.

use std::time::Duration;

use cloud::{CopyRequest, CopyState, ImageCopy, Relay};
use model::{
    Error, ImageId, ImageOptions, Kind, Place, ReplicaState, RestorePoint, Result, Role, SiteName, Token, crash, tag,
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{register, token, verify};
use crate::Engine;
use crate::ledger::{Batch, Tree};
use crate::meter::Meter;
use crate::plan;
use crate::records::{RunRecord, replica_key};
use crate::steps::seal::committed;

/// The step of a run's copies in their tags.
const STEP: &str = "relay";

/// A copy that is whole and equal; journalled, so that committing it needs no second look.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Relayed {
    pub request: CopyRequest,
    pub copy: ImageCopy,
    pub moved: u64,
    pub proof: Option<String>,
    pub seconds: f64,
}

/// Copies the point's image from one site to another.
pub(crate) async fn run(
    engine: &Engine,
    run: &RunRecord,
    place: &Place,
    from: &SiteName,
    point: &RestorePoint,
) -> Result<Relayed> {
    let within = |error: Error| error.within(format!("cannot relay point {} from {from} to {place}", point.id));
    let begun = engine.step_begin(&run.id, &plan::relay_step(place)).await?;
    let image = register::find(engine, &Place::Site(from.clone()), point).await.map_err(within)?;
    let image = image.ok_or_else(|| within(Error::new(Kind::NotFound, format!("its image is gone from {from}"))))?;
    let options = register::options(run, place, point);
    let asked = Asked { run, place, from, point, image, options, token: token(engine, run, STEP) };
    let relayed = engine.relay(asked).await.map_err(within)?;
    engine.step_finish(&run.id, begun, &relayed, Batch::new()).await?;
    Ok(relayed)
}

/// Makes a replica of a copy, and notes it as verified: its bytes were made sure of before.
pub(crate) async fn commit(
    engine: &Engine,
    run: &RunRecord,
    place: &Place,
    relayed: &Relayed,
    point: &RestorePoint,
) -> Result<ImageId> {
    let begun = engine.step_begin(&run.id, &plan::commit_step(place)).await?;
    crash::point("run.relay.commit.before");
    let image = relay_of(engine, place)?.commit(&relayed.copy, &relayed.request, Role::Replica).await?;
    crash::point("run.relay.commit.after");
    let mut batch = committed(point, place, Some(image.clone()), relayed.moved)?;
    let verified = model::Replica {
        state: ReplicaState::Verified,
        verified_at: Some(engine.now()),
        image: Some(image.clone()),
        stored_bytes: relayed.moved,
        ..crate::adopt::fresh(&point.id, place)
    };
    batch.put(Tree::Replicas, replica_key(&point.id, place), &verified)?;
    engine.step_finish(&run.id, begun, &image, batch).await?;
    Ok(image)
}

/// Deletes the scratch of a run's copy at a place, and forgets that the step was begun.
pub(crate) async fn cancel(engine: &Engine, run: &RunRecord, place: &Place) -> Result<()> {
    let deleted = engine.cancel_copy(&run.id, place, STEP).await;
    engine.steps_reset(&run.id, &[plan::relay_step(place)]).await?;
    deleted
}

/// A copy that is asked for.
pub(crate) struct Asked<'a> {
    pub run: &'a RunRecord,
    pub place: &'a Place,
    pub from: &'a SiteName,
    pub point: &'a RestorePoint,
    pub image: ImageId,
    pub options: ImageOptions,
    pub token: Token,
}

fn relay_of<'a>(engine: &'a Engine, place: &Place) -> Result<&'a dyn Relay> {
    let Place::Site(name) = place else {
        return Err(Error::new(Kind::Permanent, format!("cannot relay to {place}")));
    };
    let cloud = engine.site(name)?;
    cloud.relay().ok_or_else(|| {
        Error::new(Kind::Invalid, format!("cannot relay to {place}"))
            .because(format!("a {} site copies no images from others", cloud.kind()))
    })
}

impl Engine {
    /// Begins a copy or finds it again, waits until it is whole, and makes sure of its bytes.
    pub(crate) async fn relay(&self, asked: Asked<'_>) -> Result<Relayed> {
        let since = Instant::now();
        let relay = relay_of(self, asked.place)?;
        let from = relay_of(self, &Place::Site(asked.from.clone()))?.peer().await?;
        let Asked { image, options, token, .. } = asked;
        let request = CopyRequest { from, image, point: asked.point.clone(), options, token };
        crash::point("run.relay.copy.before");
        let copy = self.begin_copy(relay, &request, since).await?;
        crash::point("run.relay.copy.after");
        let (moved, proof) = self.whole_copy(asked.run, relay, &copy, since).await?;
        if proof.is_none() {
            verify::copied(self, asked.run, asked.place, &copy.image, asked.point).await?;
        }
        crash::point("run.relay.verified");
        Ok(Relayed { request, copy, moved, proof, seconds: since.elapsed().as_secs_f64() })
    }

    /// Waits for a free slot if there is none.
    async fn begin_copy(&self, relay: &dyn Relay, request: &CopyRequest, since: Instant) -> Result<ImageCopy> {
        loop {
            match relay.copy(request).await {
                Err(error) if error.kind() == Kind::Quota && self.may_wait(since) => {
                    tracing::info!(image = %request.image, error = %error.chain(), "waiting for a slot to copy");
                }
                answer => return answer,
            }
            tokio::time::sleep(self.settings.relay_poll).await;
        }
    }

    async fn whole_copy(
        &self,
        run: &RunRecord,
        relay: &dyn Relay,
        copy: &ImageCopy,
        since: Instant,
    ) -> Result<(u64, Option<String>)> {
        let meter = Meter::new(&*self.observer, Some(&run.id), format!("relay of image {}", copy.of));
        let mut pause = Duration::from_millis(50).min(self.settings.relay_poll);
        loop {
            match relay.state(copy).await? {
                CopyState::Done { moved, proof } => {
                    meter.close();
                    return Ok((moved, proof));
                }
                CopyState::Running { done, total } => meter.stand(done, total.unwrap_or(0)),
            }
            if !self.may_wait(since) {
                let limit = self.settings.relay_limit.as_secs();
                return Err(Error::new(Kind::Transient, format!("image {} was not copied in time", copy.of))
                    .because(format!("its copy {} was not whole after {limit} s", copy.image)));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(self.settings.relay_poll);
        }
    }

    fn may_wait(&self, since: Instant) -> bool {
        since.elapsed() < self.settings.relay_limit
    }

    /// Deletes what a copy has made so far. Only scratch: a committed copy is a replica, and retention's alone.
    pub(crate) async fn cancel_copy(&self, run: &model::RunId, place: &Place, step: &str) -> Result<()> {
        let Place::Site(name) = place else { return Ok(()) };
        let site = self.site(name)?;
        let owned = site.owned().await?;
        let ours = |key: &str, value: &str, tags: &model::Tags| tags.get(key).is_some_and(|text| text == value);
        for resource in owned.iter().filter(|resource| {
            let tags = &resource.tags;
            let of_copy = ours(tag::OWNER, self.owner.as_str(), tags) && ours(tag::RUN, run.as_str(), tags);
            of_copy && ours(tag::STEP, step, tags) && resource.role == Role::Scratch
        }) {
            crash::point("run.relay.cancel.before");
            site.delete(resource).await?;
            crash::point("run.relay.cancel.after");
        }
        Ok(())
    }
}

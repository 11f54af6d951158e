//! Brings the point of a run to every destination that waits for it: transfer, commit, verify. Each destination goes on from its own last
//! finished step, and its trouble is its own. Destinations that their provider copies to come last: they need one that is verified.

use cloud::Capture;
use futures::future::join_all;
use model::{Error, Kind, Place, PointDisk, RestorePoint, Result};

use crate::copies::{commit_copies, relay_all, split};
use crate::observe::Event;
use crate::plan;
use crate::run::{by_place, point};
use crate::steps::relay::Relayed;
use crate::steps::transfer::{self, Lane};
use crate::steps::{Context, Transferred, hide, publish, register, seal, verify};
use crate::{DestinationState, Problem};

/// Works on all destinations that are not done.
pub(crate) async fn run(context: &mut Context<'_>, capture: &Capture) -> Result<()> {
    let waiting: Vec<Place> = context
        .run
        .destinations
        .iter()
        .filter(|d| !matches!(d.state, DestinationState::Done | DestinationState::GivenUp))
        .map(|d| d.place.clone())
        .collect();
    let mut to_move = Vec::new();
    let (mut committed, mut copied) = (Vec::new(), Vec::new());
    for place in waiting {
        match standing(context, &place).await {
            Ok(Standing::Bare) => to_move.push(place),
            Ok(Standing::Moved(moved)) => match context.run.point.clone() {
                Some(point) => match register::run(context.engine, &context.run, &place, &moved, &point).await {
                    Ok(_) => committed.push(place),
                    Err(error) => unregistered(context, &place, error).await?,
                },
                None => to_move.push(place),
            },
            Ok(Standing::Committed) => committed.push(place),
            Ok(Standing::Copied(relayed)) => copied.push((place, *relayed)),
            Err(error) => failed(context, &place, "look-up", &error),
        }
    }
    let (blocks, relays) = split(context, capture, to_move).await?;
    if !blocks.is_empty() {
        committed.extend(bring(context, capture, &blocks).await?);
    }
    if let Some(point) = context.run.point.clone() {
        check(context, &point, committed).await?;
        commit_copies(context, &point, copied).await?;
    }
    relay_all(context, relays).await
}

/// A destination has the point, verified: older images are taken off the lists and it is published, if the policy says so.
pub(crate) async fn finished(context: &mut Context<'_>, point: &RestorePoint, place: &Place) {
    if let Err(error) = hide::run(context.engine, &context.run, place, point).await {
        let message = format!("older images at {place} are still listed: {}", error.chain());
        context.engine.tell(Event::Warning { run: Some(context.run.id.clone()), message: message.clone() });
        context.run.warnings.push(message);
    }
    if let Some(policy) = context.run.with.clone() {
        let told = publish::run(context.engine, &policy, &point.server, place).await;
        for message in told.unwrap_or_else(|error| vec![error.chain()]) {
            context.engine.tell(Event::Warning { run: Some(context.run.id.clone()), message: message.clone() });
            context.run.warnings.push(message);
        }
    }
    if let Some(destination) = by_place(&mut context.run).get_mut(place) {
        destination.state = DestinationState::Done;
        destination.problem = None;
    }
}

/// How far a destination is.
enum Standing {
    /// Nothing that lasts.
    Bare,
    /// The disks of the image are written.
    Moved(Transferred),
    /// The provider has copied the image, and it is equal.
    Copied(Box<Relayed>),
    /// The replica exists.
    Committed,
}

async fn standing(context: &Context<'_>, place: &Place) -> Result<Standing> {
    let (engine, run) = (context.engine, &context.run);
    let commits = match place {
        Place::Vault(_) => vec![plan::seal_step(place)],
        Place::Site(_) => vec![plan::register_step(place), plan::commit_step(place)],
    };
    for commit in &commits {
        if engine.step_done::<serde_json::Value>(&run.id, commit).await?.is_some() {
            return Ok(Standing::Committed);
        }
    }
    let Some(point) = &run.point else { return Ok(Standing::Bare) };
    match place {
        Place::Vault(_) => {
            let found = seal::adopt(engine, run, place, point).await?;
            Ok(if found { Standing::Committed } else { Standing::Bare })
        }
        Place::Site(_) => {
            if let Some(relayed) = engine.step_done::<Relayed>(&run.id, &plan::relay_step(place)).await? {
                return Ok(Standing::Copied(Box::new(relayed)));
            }
            let moved: Option<Transferred> = engine.step_done(&run.id, &plan::transfer_step(place)).await?;
            Ok(moved.filter(|moved| moved.disks == point.disks).map_or(Standing::Bare, Standing::Moved))
        }
    }
}

/// Disks that were written before and cannot be registered now are written again next time.
async fn unregistered(context: &mut Context<'_>, place: &Place, error: Error) -> Result<()> {
    if matches!(error.kind(), Kind::NotFound | Kind::Invalid) {
        context.engine.steps_reset(&context.run.id, &[plan::transfer_step(place)]).await?;
    }
    failed(context, place, &plan::register_step(place), &error);
    Ok(())
}

/// Transfers and commits. Destinations that disagree about the bytes get everything once more, without change maps: one of them
/// did not hold what its point says.
async fn bring(context: &mut Context<'_>, capture: &Capture, places: &[Place]) -> Result<Vec<Place>> {
    let mut lanes = transfer::run(context, capture, places, true).await?;
    let wrong = disagreeing(context.run.point.as_ref().map(|p| p.disks.as_slice()), &lanes);
    if !wrong.is_empty() {
        context.engine.tell(Event::Warning {
            run: Some(context.run.id.clone()),
            message: "destinations disagree about the bytes; everything is read again and compared".to_owned(),
        });
        lanes.retain(|lane| !wrong.contains(&lane.place));
        lanes.extend(transfer::run(context, capture, &wrong, false).await?);
        let still = disagreeing(context.run.point.as_ref().map(|p| p.disks.as_slice()), &lanes);
        for lane in lanes.iter_mut().filter(|lane| still.contains(&lane.place)) {
            lane.failed = Some(
                Error::new(Kind::Damaged, format!("cannot replicate to {}", lane.place))
                    .because("it computed other roots than the other destinations from the same bytes"),
            );
        }
    }
    note(context, &lanes);
    if context.run.point.is_none() {
        let Some(lane) = lanes.iter().find(|lane| lane.failed.is_none()) else {
            return Ok(Vec::new());
        };
        context.run.point = Some(point(context, capture, lane.done.disks.clone()));
    }
    // from here on every destination commits exactly this point, in whichever execution
    context.engine.save_run(&context.run).await?;
    commit(context, lanes).await
}

/// Places whose roots are not the expected ones; without an expectation, all of them if any two differ.
fn disagreeing(expected: Option<&[PointDisk]>, lanes: &[Lane]) -> Vec<Place> {
    let fine: Vec<&Lane> = lanes.iter().filter(|lane| lane.failed.is_none()).collect();
    match expected {
        Some(disks) => fine.iter().filter(|lane| lane.done.disks != disks).map(|lane| lane.place.clone()).collect(),
        None if fine.windows(2).any(|pair| pair[0].done.disks != pair[1].done.disks) => {
            fine.iter().map(|lane| lane.place.clone()).collect()
        }
        None => Vec::new(),
    }
}

/// Takes over what the lanes did into the run's record.
fn note(context: &mut Context<'_>, lanes: &[Lane]) {
    for lane in lanes {
        if let Some(error) = &lane.failed {
            failed(context, &lane.place, &plan::transfer_step(&lane.place), error);
        }
        if let Some(destination) = by_place(&mut context.run).get_mut(&lane.place) {
            destination.parent = lane.parent.as_ref().map(|held| held.point.id.clone());
            destination.incremental = lane.incremental;
            destination.received_bytes = lane.done.received;
            destination.fresh_bytes = lane.done.fresh;
            destination.stored_bytes = lane.done.stored;
            destination.seconds = lane.seconds;
        }
    }
}

/// Seals and registers, all destinations at once.
async fn commit(context: &mut Context<'_>, lanes: Vec<Lane>) -> Result<Vec<Place>> {
    let Some(point) = context.run.point.clone() else { return Ok(Vec::new()) };
    let (engine, run) = (context.engine, &context.run);
    let commits = lanes.into_iter().filter(|lane| lane.failed.is_none()).map(|mut lane| {
        let point = &point;
        async move {
            let result = match &lane.place {
                Place::Vault(_) => seal::run(engine, run, &mut lane, point).await.map(Some),
                Place::Site(_) => register::run(engine, run, &lane.place, &lane.done, point).await.map(|_| None),
            };
            (lane.place, result)
        }
    });
    let results: Vec<(Place, Result<Option<u64>>)> = join_all(commits).await;
    let mut committed = Vec::new();
    for (place, result) in results {
        match result {
            Ok(stored) => {
                if let (Some(stored), Some(d)) = (stored, by_place(&mut context.run).get_mut(&place)) {
                    d.stored_bytes = stored;
                }
                committed.push(place);
            }
            Err(error) => {
                let step = match place {
                    Place::Vault(_) => plan::seal_step(&place),
                    Place::Site(_) => plan::register_step(&place),
                };
                failed(context, &place, &step, &error);
            }
        }
    }
    Ok(committed)
}

/// Verifies what is committed. A replica that turns out damaged is taken away, so that the next execution makes it anew.
async fn check(context: &mut Context<'_>, point: &RestorePoint, places: Vec<Place>) -> Result<()> {
    for place in places {
        let step = plan::verify_step(&place);
        let done = context.engine.step_done::<()>(&context.run.id, &step).await?.is_some();
        let checked = if done { Ok(()) } else { verify::run(context.engine, &context.run, &place, point).await };
        match checked {
            Ok(()) => finished(context, point, &place).await,
            Err(error) => {
                failed(context, &place, &step, &error);
                if matches!(error.kind(), Kind::Damaged | Kind::NotFound) {
                    take_away(context, point, &place).await?;
                }
            }
        }
        context.engine.save_run(&context.run).await?;
    }
    Ok(())
}

async fn take_away(context: &Context<'_>, point: &RestorePoint, place: &Place) -> Result<()> {
    if let Err(error) = crate::prune::remove(context.engine, place, point).await {
        tracing::warn!(point = %point.id, %place, error = %error.chain(), "cannot take the damaged replica away");
    }
    context.engine.steps_reset(&context.run.id, &plan::steps(place)).await
}

pub(crate) fn failed(context: &mut Context<'_>, place: &Place, step: &str, error: &Error) {
    let problem = Problem::from(error);
    let run = context.run.id.clone();
    context.engine.tell(Event::StepFailed { run, step: step.to_owned(), problem: problem.clone() });
    if let Some(destination) = by_place(&mut context.run).get_mut(place) {
        destination.state = DestinationState::Failed;
        destination.problem = Some(problem);
    }
}

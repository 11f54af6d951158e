//! Destinations whose provider copies to them: who they are, what becomes of their copies, and the way back to blocks when a copy fails.

use cloud::Capture;
use futures::future::join_all;
use model::{Error, Kind, Place, RestorePoint, Result, SiteName, Via};

use crate::destinations::{failed, finished};
use crate::plan;
use crate::records::DestinationRecord;
use crate::route::{Scene, Wanted};
use crate::run::by_place;
use crate::steps::relay::Relayed;
use crate::steps::{Context, relay};
use crate::{DestinationState, Problem};

/// Who of the waiting gets blocks, and who is copied to from where. The decision is noted before anything is made, and a later execution
/// keeps to it.
pub(crate) async fn split(
    context: &mut Context<'_>,
    capture: &Capture,
    waiting: Vec<Place>,
) -> Result<(Vec<Place>, Vec<(Place, SiteName)>)> {
    if waiting.is_empty() {
        return Ok((waiting, Vec::new()));
    }
    let policy = context.run.with.clone();
    let via = |place: &Place| {
        let policy = policy.as_ref();
        policy.and_then(|p| p.replicate.iter().find(|d| d.place == *place)).map_or(Via::Auto, |d| d.via)
    };
    let others = context.run.destinations.iter().filter(|d| d.state != DestinationState::GivenUp);
    let wanted: Vec<Wanted> = others
        .map(|d| Wanted {
            place: d.place.clone(),
            via: via(&d.place),
            decided: (d.via != Via::Auto).then(|| (d.via, d.from.clone())),
            done: d.state == DestinationState::Done,
        })
        .collect();
    let places: Vec<Place> = wanted.iter().map(|wanted| wanted.place.clone()).collect();
    let links = context.engine.links(&places).await;
    if links.is_empty() && wanted.iter().all(|wanted| wanted.via != Via::Relay) {
        return Ok((waiting, Vec::new()));
    }
    let mut held = Vec::new();
    for place in &places {
        held.push((place.clone(), context.engine.held(place).await.map_err(|error| Problem::from(&error))));
    }
    let disks: Vec<_> = capture.disks.iter().map(|disk| (disk.name.clone(), disk.size)).collect();
    let (server, cursor) = (&context.run.server, context.cursor.as_ref());
    let scene = Scene { server, cursor, disks: &disks, held: &held, links: &links };
    let plans = context.engine.ways(&wanted, &scene).await?;
    let (mut blocks, mut relays) = (Vec::new(), Vec::new());
    for plan in plans.into_iter().filter(|plan| waiting.contains(&plan.place)) {
        let place = plan.place;
        match (plan.via, plan.from, plan.problem.filter(|_| via(&place) == Via::Relay)) {
            (Via::Relay, Some(from), _) => relays.push((place, from)),
            (_, _, Some(problem)) => failed(context, &place, &plan::relay_step(&place), &problem.into()),
            _ => blocks.push(place),
        }
    }
    for destination in &mut context.run.destinations {
        let from = relays.iter().find(|(place, _)| *place == destination.place).map(|(_, from)| from.clone());
        if from.is_some() || blocks.contains(&destination.place) {
            destination.via = if from.is_some() { Via::Relay } else { Via::Blocks };
            destination.from = from;
        }
    }
    context.engine.save_run(&context.run).await?;
    Ok((blocks, relays))
}

/// Lets the providers copy, all at once, each from a destination that is verified by now.
pub(crate) async fn relay_all(context: &mut Context<'_>, relays: Vec<(Place, SiteName)>) -> Result<()> {
    let Some(point) = context.run.point.clone() else {
        for (place, from) in relays {
            fall_back(context, &place, no_source(&from)).await;
        }
        return Ok(());
    };
    let (engine, run) = (context.engine, &context.run);
    let copies = relays.into_iter().map(|(place, from)| {
        let point = &point;
        async move {
            let done =
                |d: &DestinationRecord| d.place == Place::Site(from.clone()) && d.state == DestinationState::Done;
            let copied = match run.destinations.iter().any(done) {
                true => relay::run(engine, run, &place, &from, point).await,
                false => Err(no_source(&from)),
            };
            (place, copied)
        }
    });
    let mut copied = Vec::new();
    for (place, result) in join_all(copies).await {
        match result {
            Ok(relayed) => copied.push((place, relayed)),
            Err(error) => fall_back(context, &place, error).await,
        }
    }
    commit_copies(context, &point, copied).await
}

fn no_source(from: &SiteName) -> Error {
    Error::new(Kind::NotFound, format!("cannot relay from {from}")).because("it has no verified image of the point")
}

/// Commits copies that are whole. A copy that has vanished meanwhile is made anew, or blocks are sent.
pub(crate) async fn commit_copies(
    context: &mut Context<'_>,
    point: &RestorePoint,
    copied: Vec<(Place, Relayed)>,
) -> Result<()> {
    for (place, relayed) in copied {
        match relay::commit(context.engine, &context.run, &place, &relayed, point).await {
            Ok(_) => {
                if let Some(destination) = by_place(&mut context.run).get_mut(&place) {
                    destination.via = Via::Relay;
                    destination.relayed_bytes = relayed.moved;
                    destination.stored_bytes = relayed.moved;
                    destination.seconds = relayed.seconds;
                }
                finished(context, point, &place).await;
            }
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Invalid) => {
                fall_back(context, &place, error).await
            }
            Err(error) => failed(context, &place, &plan::commit_step(&place), &error),
        }
        context.engine.save_run(&context.run).await?;
    }
    Ok(())
}

/// Gives a copy up: its scratch goes, and the next execution sends blocks, unless the policy insists on a copy.
async fn fall_back(context: &mut Context<'_>, place: &Place, error: Error) {
    if let Err(error) = relay::cancel(context.engine, &context.run, place).await {
        tracing::warn!(run = %context.run.id, %place, error = %error.chain(), "what the copy made is left for a sweep");
    }
    let policy = context.run.with.as_ref();
    let insists = policy.is_some_and(|p| p.replicate.iter().any(|d| d.place == *place && d.via == Via::Relay));
    let error = match insists {
        true => error,
        false => error.hint("blocks are sent instead by the next execution: `replicate run` goes on"),
    };
    failed(context, place, &plan::relay_step(place), &error);
    if let (false, Some(destination)) = (insists, by_place(&mut context.run).get_mut(place)) {
        destination.via = Via::Blocks;
        destination.from = None;
    }
}

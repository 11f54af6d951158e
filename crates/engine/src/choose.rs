//! Which point a restore takes, and in which order it tries the point's replicas.
//!
//! The newest point with a checked replica at or before the wished time; among its replicas the best proved first. Vaults and sites are
//! asked, so that it works with an empty ledger too; a place that does not answer is passed over and told.

use std::collections::BTreeMap;

use jiff::Timestamp;
use model::{Error, ImageId, Kind, Place, PointId, Replica, ReplicaState, RestorePoint, Result};

use crate::ledger::{self, Tree};
use crate::{Choice, Engine, Skipped};

/// The distance of a replica of which nobody asked how near it is.
const FAR: u8 = 3;

/// A point with the replicas that can be tried, best first.
#[derive(Debug, Clone)]
pub(crate) struct Restorable {
    pub point: RestorePoint,
    pub replicas: Vec<Source>,
    pub chosen: String,
}

/// A replica that can be read.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub place: Place,
    pub image: Option<ImageId>,
    /// What the ledger knows; none: found at its place only.
    pub state: Option<ReplicaState>,
    /// Whether the provider can copy it to where it is wanted.
    pub relay: bool,
    /// How near it is to where it is wanted; less is nearer.
    pub distance: u8,
}

impl Source {
    /// Lower is better. Equal: archives first, which check every byte as they are read.
    pub(crate) fn rank(&self) -> (u8, bool) {
        let state = match self.state {
            Some(ReplicaState::Proven) => 0,
            Some(ReplicaState::Verified) => 1,
            Some(ReplicaState::Doomed) => 2,
            Some(ReplicaState::Committed) | None => 3,
            Some(ReplicaState::Damaged) => 4,
        };
        (state, matches!(self.place, Place::Site(_)))
    }

    pub(crate) fn is_checked(&self) -> bool {
        self.rank().0 <= 2
    }
}

impl Engine {
    /// All points that fit the choice, best first, and what was passed over.
    pub(crate) async fn choose(&self, choice: &Choice) -> Result<(Vec<Restorable>, Vec<Skipped>, Vec<String>)> {
        let (mut found, silent) = self.everywhere(choice).await?;
        let mut skipped = Vec::new();
        for restorable in &mut found {
            restorable.replicas.sort_by_key(Source::rank);
            let point = restorable.point.id.clone();
            let damaged = |source: &Source| source.state == Some(ReplicaState::Damaged);
            for source in restorable.replicas.iter().filter(|source| damaged(source)) {
                let why = "it is known to be damaged".to_owned();
                skipped.push(Skipped { point: point.clone(), place: Some(source.place.clone()), why });
            }
            restorable.replicas.retain(|source| !damaged(source));
        }
        found.retain(|restorable| !restorable.replicas.is_empty());
        found.sort_by(|a, b| (b.point.taken_at, &b.point.id).cmp(&(a.point.taken_at, &a.point.id)));
        let checked = |r: &Restorable| r.replicas.iter().any(Source::is_checked);
        if choice.point.is_none() && found.iter().any(checked) {
            for passed in found.iter().filter(|r| !checked(r)) {
                let why = "no replica of it was verified".to_owned();
                skipped.push(Skipped { point: passed.point.id.clone(), place: None, why });
            }
            found.retain(checked);
        }
        if found.is_empty() {
            return Err(none(choice, &skipped, &silent));
        }
        let any_checked = found.iter().any(checked);
        for restorable in &mut found {
            restorable.chosen = reason(choice, any_checked);
        }
        Ok((found, skipped, silent))
    }

    /// Points of the server by what places hold and what the ledger knows of their state.
    async fn everywhere(&self, choice: &Choice) -> Result<(Vec<Restorable>, Vec<String>)> {
        let known: Vec<(String, Replica)> = ledger::scan(&*self.ledger, Tree::Replicas, "").await?;
        let known: BTreeMap<(PointId, Place), Replica> =
            known.into_iter().map(|(_, replica)| ((replica.point.clone(), replica.place.clone()), replica)).collect();
        let (mut points, mut silent) = (BTreeMap::<PointId, Restorable>::new(), Vec::new());
        for place in self.places().into_iter().filter(|place| choice.from.as_ref().is_none_or(|from| from == place)) {
            let held = match self.held(&place).await {
                Ok(held) => held,
                Err(error) => {
                    silent.push(format!("{place} does not answer: {}", error.chain()));
                    continue;
                }
            };
            for held in held.into_iter().filter(|held| fits(choice, &held.point)) {
                let id = held.point.id.clone();
                let state = known.get(&(id.clone(), place.clone())).map(|replica| replica.state);
                let entry = points.entry(id).or_insert_with(|| Restorable {
                    point: held.point.clone(),
                    replicas: Vec::new(),
                    chosen: String::new(),
                });
                // two places that disagree about a point: the one that fits the ledger, or came first, is believed
                if entry.point == held.point {
                    let (place, image) = (place.clone(), held.image);
                    entry.replicas.push(Source { place, image, state, relay: false, distance: FAR });
                }
            }
        }
        Ok((points.into_values().collect(), silent))
    }

    /// Every place that may hold replicas: vaults first.
    pub(crate) fn places(&self) -> Vec<Place> {
        let vaults = self.vaults.keys().cloned().map(Place::Vault);
        let sites = self.sites.iter().filter(|(_, site)| site.target().is_some()).map(|(name, _)| name.clone());
        vaults.chain(sites.map(Place::Site)).collect()
    }
}

fn fits(choice: &Choice, point: &RestorePoint) -> bool {
    let named = choice.point.as_ref().is_none_or(|id| *id == point.id);
    let early = choice.at.is_none_or(|at| point.taken_at <= at);
    point.server == choice.server && named && early
}

fn reason(choice: &Choice, checked: bool) -> String {
    let what = if checked { "the newest verified point" } else { "the newest point; none is known to be verified" };
    match (&choice.point, choice.at) {
        (Some(_), _) => "it was named".to_owned(),
        (None, Some(at)) => format!("{what} at or before {at}"),
        (None, None) => what.to_owned(),
    }
}

fn none(choice: &Choice, skipped: &[Skipped], silent: &[String]) -> Error {
    let wished = |at: Timestamp| format!(" at or before {at}");
    let what = match &choice.point {
        Some(point) => format!("no restore point {point} of server {}", choice.server),
        None => format!("no restore point of server {}{}", choice.server, choice.at.map(wished).unwrap_or_default()),
    };
    let error = Error::new(Kind::NotFound, what).hint("see what there is with `replicate points`");
    let mut why: Vec<String> = silent.to_vec();
    why.extend(skipped.iter().map(|s| match &s.place {
        Some(place) => format!("point {} at {place}: {}", s.point, s.why),
        None => format!("point {}: {}", s.point, s.why),
    }));
    if why.is_empty() { error } else { error.because(why.join("; ")) }
}

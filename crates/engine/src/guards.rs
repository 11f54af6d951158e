//! What forbids a deletion: looked at when retention decides, and again at the instant of deleting.

use std::collections::BTreeSet;

use model::{Error, Kind, Place, PointId, Replica, RestorePoint, Result};

use crate::catalogue::Catalogue;
use crate::prune::is_checked;
use crate::{Engine, Problem, PruneReport};

impl Engine {
    /// Places where nothing is decided now: those that cannot be listed, and those that lack what the ledger believes in. Somebody
    /// deletes there, or the ledger is an old one; either way a person must look first. A doomed replica may be gone: a prune that died had
    /// deleted it, and this one notes it.
    pub(crate) async fn barred(&self, catalogue: &Catalogue, report: &mut PruneReport) -> BTreeSet<Place> {
        let mut barred = BTreeSet::new();
        let places: BTreeSet<&Place> = catalogue.replicas.iter().map(|replica| &replica.place).collect();
        for place in places {
            let error = match self.held(place).await {
                Ok(held) => {
                    let there: BTreeSet<&PointId> = held.iter().map(|held| &held.point.id).collect();
                    let gone = |r: &&Replica| r.place == *place && r.doomed_at.is_none() && !there.contains(&r.point);
                    let gone: Vec<&Replica> = catalogue.replicas.iter().filter(gone).collect();
                    let Some(first) = gone.first() else { continue };
                    Error::new(Kind::NotFound, format!("cannot prune {place}"))
                        .because(format!(
                            "{} replicas that were there are gone, point {} among them",
                            gone.len(),
                            first.point
                        ))
                        .hint("find out who deleted them; `replicate adopt` then forgets them")
                }
                Err(error) => error.within(format!("cannot prune {place}")),
            };
            report.problems.push(Problem::from(&error));
            barred.insert(place.clone());
        }
        barred
    }

    /// Everything that may forbid a deletion, looked at now. What was looked at goes into the tombstone.
    pub(crate) async fn guards(&self, point: &RestorePoint, replica: &Replica) -> Result<Vec<String>> {
        let refuse = |why: String| Error::new(Kind::Invalid, why);
        if self.holds().await?.contains(&point.id) {
            return Err(refuse("a run or a person holds it".to_owned()));
        }
        // a place that cannot be listed completely decides nothing
        let here = self.held(&replica.place).await?;
        let catalogue = self.catalogue().await?;
        let mut survivors = Vec::new();
        for other in &catalogue.replicas {
            let of_server = catalogue.points.get(&other.point).filter(|p| p.server == point.server);
            let same = other.point == point.id && other.place == replica.place;
            if let (Some(of_server), false, true, true) =
                (of_server, same, other.state.is_good(), other.doomed_at.is_none())
            {
                survivors.push((of_server, other));
            }
        }
        let at_place = |(_, other): &&(&RestorePoint, &Replica)| other.place == replica.place;
        let newer = survivors.iter().filter(at_place).any(|(p, _)| p.taken_at > point.taken_at);
        if is_checked(replica) && !newer {
            return Err(refuse(format!(
                "it is the newest verified one of server {} at {}",
                point.server, replica.place
            )));
        }
        let mut seen = 0;
        for (survivor, other) in &survivors {
            let held = if other.place == replica.place { here.clone() } else { self.held(&other.place).await? };
            if held.iter().any(|held| held.point == **survivor) {
                seen += 1;
                break;
            }
        }
        if seen == 0 {
            return Err(refuse(format!("no other verified replica of server {} was found in its place", point.server)));
        }
        Ok(vec![
            "not held".to_owned(),
            format!("{} lists {} points", replica.place, here.len()),
            format!("{} other verified replicas of server {}", survivors.len(), point.server),
            "a newer verified one is there".to_owned(),
        ])
    }
}

//! Points that a command reads itself: chosen by what the ledger (or the daemon that has it) knows, opened where they lie.

use std::sync::Arc;

use cloud::Cloud;
use disk::DiskRead;
use engine::PointReport;
use model::{Clock, DiskName, Error, Kind, Place, Replica, ReplicaState, RestorePoint, Result};
use vault::Vault;

use super::{Context, Stop, place};
use crate::config::Settings;
use crate::request::{Request, Response};
use crate::wiring::{self, SystemClock};
use crate::{exit, session};

/// A point that can be read.
pub struct Opened {
    /// The point.
    pub point: RestorePoint,
    /// Which replica is read.
    pub place: Place,
    holder: Holder,
}

enum Holder {
    Vault(Box<Vault>),
    Site(Arc<dyn Cloud>, Box<Replica>),
}

impl Opened {
    /// Opens one of its disks.
    pub async fn disk(&self, disk: &DiskName) -> Result<Box<dyn DiskRead>> {
        let operation = || format!("cannot open disk {disk} of point {} at {}", self.point.id, self.place);
        let opened = match &self.holder {
            Holder::Vault(vault) => vault.open_disk(&self.point.id, disk).await,
            Holder::Site(site, replica) => match (site.target(), &replica.image) {
                (Some(target), Some(image)) => target.open_image(image, disk).await,
                _ => Err(Error::new(Kind::NotFound, "its image is not known")),
            },
        };
        opened.map_err(|error| error.within(operation()))
    }

    /// The disk of that name, or all of them.
    pub fn disks(&self, only: Option<&str>) -> Result<Vec<DiskName>> {
        let all = self.point.disks.iter().map(|disk| disk.name.clone());
        let found: Vec<DiskName> = all.filter(|name| only.is_none_or(|only| name.as_str() == only)).collect();
        if found.is_empty() {
            let names: Vec<&str> = self.point.disks.iter().map(|disk| disk.name.as_str()).collect();
            let what = format!("point {} has no disk `{}`", self.point.id, only.unwrap_or_default());
            return Err(Error::new(Kind::NotFound, what).hint(format!("its disks are {}", names.join(", "))));
        }
        Ok(found)
    }
}

/// Opens the point that `name` is, or the newest good one of the server that it names.
pub async fn open(context: &Context, settings: &Settings, name: &str, from: Option<&str>) -> Result<Opened, Stop> {
    let from = from.map(|text| place(settings, text)).transpose()?;
    let Response::Points(points) = session::ask(settings, context.printer, &Request::Points { server: None }).await?
    else {
        return Err(Error::new(Kind::Permanent, "the daemon answered something else than points").into());
    };
    let (point, replica) = choose(points, name, from.as_ref()).map_err(|error| {
        let code = (error.kind() == Kind::NotFound).then_some(exit::NO_POINT);
        Stop::Error(error, code)
    })?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let unknown = |what: &str| Error::new(Kind::Invalid, format!("{} is not configured any more", what));
    let holder = match &replica.place {
        Place::Vault(vault) => {
            let known = settings.vaults.get(vault).ok_or_else(|| unknown(&replica.place.to_string()))?;
            Holder::Vault(Box::new(wiring::open_vault(vault, known, &clock).await?))
        }
        Place::Site(site) => {
            let known = settings.sites.get(site).ok_or_else(|| unknown(&format!("site {site}")))?;
            Holder::Site(wiring::open_site(site, known, &clock), Box::new(replica.clone()))
        }
    };
    Ok(Opened { point, place: replica.place, holder })
}

/// Good replicas come before those that nobody checked, vaults before images; a damaged one is never taken unless it is asked for.
fn choose(points: Vec<PointReport>, name: &str, from: Option<&Place>) -> Result<(RestorePoint, Replica)> {
    let exact = points.iter().any(|report| report.point.id.as_str() == name);
    let mut found: Vec<(RestorePoint, Replica)> = Vec::new();
    for report in points {
        let wanted = if exact { report.point.id.as_str() == name } else { report.point.server.as_str() == name };
        for replica in report.replicas.into_iter().filter(|_| wanted) {
            let usable = from.map_or(replica.state != ReplicaState::Damaged, |from| *from == replica.place);
            if usable {
                found.push((report.point.clone(), replica));
            }
        }
    }
    found.sort_by_key(|(point, replica)| {
        let good = replica.state.is_good() || (replica.state == ReplicaState::Doomed && replica.verified_at.is_some());
        (good, point.taken_at, matches!(replica.place, Place::Vault(_)))
    });
    found.pop().ok_or_else(|| {
        let place = from.map(|from| format!(" at {from}")).unwrap_or_default();
        Error::new(Kind::NotFound, format!("no restore point `{name}`{place}, and none of a server of that name"))
            .hint("see `replicate points`; after the loss of the ledger, `replicate adopt` finds them again")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(id: &str, hour: u8, replicas: &[(&str, ReplicaState)]) -> PointReport {
        let point = serde_json::json!({
            "id": id, "server": "web-1", "taken_at": format!("2026-11-22T{hour:02}:00:00Z"), "consistency": "crash",
            "machine": { "arch": "x86-64", "firmware": { "kind": "bios" }, "memory": 0, "vcpus": 1, "disks": [], "nics": [] },
            "disks": [], "program": "replicate",
        });
        let point: RestorePoint = serde_json::from_value(point).expect("point");
        let replica = |(place, state): &(&str, ReplicaState)| -> Replica {
            let place = match place.strip_prefix("vault:") {
                Some(name) => Place::Vault(name.parse().expect("vault")),
                None => Place::Site(place.parse().expect("site")),
            };
            serde_json::from_value(serde_json::json!({ "point": id, "place": place, "state": state })).expect("replica")
        };
        PointReport { replicas: replicas.iter().map(replica).collect(), point, proof: None }
    }

    #[test]
    fn the_newest_good_replica_is_taken_and_a_damaged_one_only_when_asked_for() {
        use ReplicaState::{Committed, Damaged, Verified};
        let all = || {
            vec![
                report("20261122T030000Z-00000001", 3, &[("lab", Verified), ("vault:main", Verified)]),
                report("20261122T040000Z-00000002", 4, &[("vault:main", Committed)]),
                report("20261122T050000Z-00000003", 5, &[("vault:main", Damaged)]),
            ]
        };
        let chosen = |name: &str, from: Option<Place>| {
            choose(all(), name, from.as_ref()).map(|(point, replica)| (point.id.to_string(), replica.place.to_string()))
        };
        let (first, third) = ("20261122T030000Z-00000001", "20261122T050000Z-00000003");
        assert_eq!(chosen("web-1", None).expect("point"), (first.to_owned(), "vault:main".to_owned()));
        let lab = Place::Site("lab".parse().expect("site"));
        assert_eq!(chosen(first, Some(lab.clone())).expect("point").1, "lab");
        assert_eq!(chosen(third, None).expect_err("damaged").kind(), Kind::NotFound);
        let vault = Place::Vault("main".parse().expect("vault"));
        assert_eq!(chosen(third, Some(vault)).expect("asked for").0, third);
        assert_eq!(chosen(third, Some(lab)).expect_err("not there").kind(), Kind::NotFound);
    }
}

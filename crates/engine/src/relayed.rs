//! A restore or drill whose image the provider copies from another of its sites, so that no byte passes through us.

use std::collections::BTreeMap;

use cloud::Route;
use model::{Error, ImageOptions, Kind, Place, RestorePoint, Result, Role, SiteName, Via, crash};

use crate::choose::{Restorable, Source};
use crate::ledger::Batch;
use crate::observe::Event;
use crate::records::RunRecord;
use crate::restore::Made;
use crate::steps::relay::Asked;
use crate::steps::token;
use crate::{Choice, Engine};

/// Step of such a copy. The prefix marks images that are no replicas.
pub(crate) const STEP: &str = "restore-relay";

impl Engine {
    /// Puts the nearest replica first, and marks those that the provider can copy to `site`: what is there already,
    /// then what it copies itself, then the rest. A replica that was checked comes before any that was not.
    pub(crate) async fn nearest(&self, choices: &mut [Restorable], choice: &Choice, site: &SiteName) -> Result<()> {
        if choice.via == Via::Blocks {
            return Ok(());
        }
        let mut routes: BTreeMap<SiteName, Option<Route>> = BTreeMap::new();
        for source in choices.iter().flat_map(|restorable| &restorable.replicas) {
            if let Place::Site(from) = &source.place
                && !routes.contains_key(from)
            {
                routes.insert(from.clone(), self.route_to(from, site).await);
            }
        }
        let mut any = false;
        for restorable in choices {
            for source in &mut restorable.replicas {
                let Place::Site(from) = &source.place else { continue };
                let route = routes.get(from).and_then(Option::as_ref);
                source.relay = route.is_some();
                source.distance = match route {
                    _ if from == site => 0,
                    Some(route) if !route.through_us => 1,
                    Some(_) => 2,
                    None => 3,
                };
                any |= source.relay;
            }
            if choice.via == Via::Relay {
                restorable.replicas.retain(|source| source.relay);
            }
            restorable.replicas.sort_by_key(|source| (!source.is_checked(), source.distance, source.rank()));
        }
        match (choice.via, any) {
            (Via::Relay, false) => Err(Error::new(Kind::Invalid, format!("cannot relay to site {site}"))
                .because("no replica is at a site that its provider copies from")
                .hint("leave `--via relay` out, and blocks are sent")),
            _ => Ok(()),
        }
    }

    /// How the provider would copy, if it can. One that does not answer cannot.
    async fn route_to(&self, from: &SiteName, to: &SiteName) -> Option<Route> {
        let (here, there) = (self.sites.get(from)?.relay()?, self.sites.get(to)?.relay()?);
        if from == to {
            return None;
        }
        let route = match here.peer().await {
            Ok(peer) => there.route(&peer).await,
            Err(error) => Err(error),
        };
        route.map_err(|error| tracing::debug!(%from, %to, error = %error.chain(), "no copy between these sites")).ok()
    }

    /// Lets the provider copy the replica's image. None: it cannot, or it failed and nothing of it is left; blocks do.
    pub(crate) async fn relayed(
        &self,
        run: &RunRecord,
        point: &RestorePoint,
        source: &Source,
        site: &SiteName,
        role: Role,
    ) -> Result<Option<Made>> {
        let (true, Place::Site(from), Some(image)) = (source.relay, &source.place, &source.image) else {
            return Ok(None);
        };
        let begun = self.step_begin(&run.id, STEP).await?;
        let place = Place::Site(site.clone());
        let (image, options, token) = (image.clone(), ImageOptions::default(), token(self, run, STEP));
        let asked = Asked { run, place: &place, from, point, image, options, token };
        let copied = match self.relay(asked).await {
            Ok(relayed) => {
                crash::point("restore.relay.commit.before");
                let committed = self.site(site)?.relay().map(|relay| (relay, relayed.moved));
                match committed {
                    Some((relay, moved)) => {
                        relay.commit(&relayed.copy, &relayed.request, role).await.map(|image| (image, moved))
                    }
                    None => Err(Error::new(Kind::Invalid, format!("cannot relay to {site}"))),
                }
            }
            Err(error) => Err(error),
        };
        match copied {
            Ok((image, moved)) => {
                crash::point("restore.relay.commit.after");
                self.step_finish(&run.id, begun, &image, Batch::new()).await?;
                Ok(Some(Made { image: Some(image), bytes: moved, via: Via::Relay, ..Made::default() }))
            }
            Err(error) => {
                let message = format!("{} cannot be relayed from {from}, blocks are sent: {}", point.id, error.chain());
                self.tell(Event::Warning { run: Some(run.id.clone()), message });
                self.cancel_copy(&run.id, &place, STEP).await?;
                Ok(None)
            }
        }
    }
}

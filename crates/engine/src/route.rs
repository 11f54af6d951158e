//! Which destinations get their bytes from us and which from their provider, and what either way moves, calls, costs
//! and takes.
//!
//! The first site of a run gets blocks; another one that its provider can copy to from there gets the copy, if that is
//! cheaper. Cheaper is decided by the sites' prices where both ways have one, else by the bytes: nothing is invented.

use std::collections::BTreeMap;

use cloud::{Route, WriteStyle};
use model::{DiskName, Place, Prices, Replica, Result, ServerName, SiteName, Via};

use crate::catalogue::Catalogue;
use crate::plan::{self, Held};
use crate::records::{CursorRecord, RunRecord, RunState};
use crate::{Cost, DestinationPlan, DestinationState, Engine, Problem};

/// A GiB, the unit of prices.
const GIB: f64 = (1_u64 << 30) as f64;

/// Who can be copied to from where: (to, from) -> how, or why not.
pub(crate) type Links = BTreeMap<(SiteName, SiteName), std::result::Result<Route, String>>;

/// What every place holds now, or why that is not known.
pub(crate) type Holdings = Vec<(Place, std::result::Result<Vec<Held>, Problem>)>;

/// A destination that is to be decided on.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub place: Place,
    /// What the policy says.
    pub via: Via,
    /// How an earlier execution of the run has decided.
    pub decided: Option<(Via, Option<SiteName>)>,
    /// Whether it has the point, verified.
    pub done: bool,
}

impl Wanted {
    /// A destination of a run that has not begun.
    pub(crate) fn new(destination: &model::Destination) -> Self {
        Self { place: destination.place.clone(), via: destination.via, decided: None, done: false }
    }
}

/// What the decision is about.
pub(crate) struct Scene<'a> {
    pub server: &'a ServerName,
    pub cursor: Option<&'a CursorRecord>,
    pub disks: &'a [(DiskName, u64)],
    pub held: &'a Holdings,
    pub links: &'a Links,
}

/// What is known of a destination beside its plan for blocks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// What the policy says.
    pub via: Via,
    /// How an earlier execution of the run has decided.
    pub decided: Option<(Via, Option<SiteName>)>,
    /// Whether it has the point, verified.
    pub done: bool,
    pub style: Option<WriteStyle>,
    pub prices: Option<Prices>,
    /// Bytes of the whole image as it would lie there.
    pub whole: u64,
    /// Bytes a second of the last run, for blocks and for copies.
    pub pace: (Option<f64>, Option<f64>),
}

/// Decides for all destinations, and completes their plans.
pub(crate) fn assign(plans: &mut [DestinationPlan], facts: &[Facts], links: &Links) {
    for (plan, facts) in plans.iter_mut().zip(facts) {
        blocks(plan, facts);
    }
    let mut givers: Vec<usize> = Vec::new();
    // who insists on a copy waits for the others, so that one of them can be what it is copied from
    let order = |insists: bool| (0..facts.len()).filter(move |i| (facts[*i].via == Via::Relay) == insists);
    for index in order(false).chain(order(true)) {
        let Place::Site(site) = plans[index].place.clone() else { continue };
        let found = best(index, &site, plans, facts, links, &givers);
        match decide(&plans[index], &facts[index], found) {
            Decision::Blocks(choice) => {
                plans[index].choice = choice;
                givers.push(index);
            }
            Decision::Relay(copied, choice) => {
                let plan = &mut plans[index];
                plan.choice = choice;
                relay(plan, &facts[index], copied);
            }
            Decision::None(why) => plans[index].problem = Some(why),
        }
    }
}

/// A way to copy, and what it moves and costs.
struct Copied {
    from: SiteName,
    route: Route,
    bytes: u64,
    cost: Option<Cost>,
}

enum Decision {
    Blocks(Option<String>),
    Relay(Copied, Option<String>),
    None(Problem),
}

/// The best site to copy from among those that have the point or will have it in this run.
fn best(
    index: usize,
    site: &SiteName,
    plans: &[DestinationPlan],
    facts: &[Facts],
    links: &Links,
    givers: &[usize],
) -> Option<Copied> {
    let named = facts[index].decided.as_ref().and_then(|(_, from)| from.as_ref());
    let mut ways: Vec<Copied> = Vec::new();
    for other in 0..plans.len() {
        let Place::Site(from) = &plans[other].place else { continue };
        let has = facts[other].done || (givers.contains(&other) && plans[other].problem.is_none());
        let has = has && other != index;
        let wanted = named.is_none_or(|named| named == from);
        if let (true, true, Some(Ok(route))) = (has, wanted, links.get(&(site.clone(), from.clone()))) {
            let whole = facts[other].whole;
            let bytes = if route.incremental { plans[index].estimated_bytes.min(whole) } else { whole };
            let price = facts[other].prices.as_ref();
            let cost = price.and_then(|prices| cost(bytes, prices.relay, prices));
            ways.push(Copied { from: from.clone(), route: route.clone(), bytes, cost });
        }
    }
    let rank = |way: &Copied| (way.route.through_us, way.cost.as_ref().map_or(f64::MAX, |cost| cost.amount), way.bytes);
    ways.into_iter().min_by(|a, b| rank(a).partial_cmp(&rank(b)).unwrap_or(std::cmp::Ordering::Equal))
}

fn decide(plan: &DestinationPlan, facts: &Facts, copied: Option<Copied>) -> Decision {
    let decided = facts.decided.as_ref().map(|(via, _)| *via);
    match (decided, facts.via, copied) {
        (Some(Via::Blocks), via, _) if via != Via::Relay => Decision::Blocks(None),
        (Some(Via::Relay), _, Some(copied)) => Decision::Relay(copied, None),
        (_, Via::Blocks, _) => Decision::Blocks(Some("the policy says so".to_owned())),
        (_, Via::Relay, Some(copied)) => Decision::Relay(copied, Some("the policy says so".to_owned())),
        (_, Via::Relay, None) => {
            let error = model::Error::new(model::Kind::Invalid, format!("cannot relay to {}", plan.place))
                .because("no other destination of the policy is a site that its provider copies from")
                .hint("name such a site among the destinations, or leave `via` out");
            Decision::None((&error).into())
        }
        (_, Via::Auto, None) => Decision::Blocks(None),
        (_, Via::Auto, Some(copied)) => cheaper(plan, copied),
    }
}

/// By prices where both ways have one, else by bytes.
fn cheaper(plan: &DestinationPlan, copied: Copied) -> Decision {
    let (here, there) = (size(plan.estimated_bytes), size(copied.bytes));
    match (&plan.estimated_cost, &copied.cost) {
        (Some(blocks), Some(relay)) if blocks.currency == relay.currency => {
            let both = format!(
                "a copy of {there} costs {:.2} {}, blocks of {here} cost {:.2}",
                relay.amount, relay.currency, blocks.amount
            );
            match relay.amount <= blocks.amount {
                true => Decision::Relay(copied, Some(both)),
                false => Decision::Blocks(Some(both)),
            }
        }
        _ if copied.bytes <= plan.estimated_bytes => {
            let who = if copied.route.through_us { "as it is stored" } else { "inside the provider" };
            Decision::Relay(copied, Some(format!("{there} move {who}, blocks would be {here}")))
        }
        _ => Decision::Blocks(Some(format!("blocks are {here}, a copy would be the whole image of {there}"))),
    }
}

/// Completes a plan for blocks.
fn blocks(plan: &mut DestinationPlan, facts: &Facts) {
    if let Some(style) = facts.style {
        if !style.patches && plan.problem.is_none() {
            plan.estimated_bytes = facts.whole;
            let whole = "the site takes whole disks only".to_owned();
            plan.reason = Some(plan.reason.take().map_or(whole.clone(), |reason| format!("{reason}; {whole}")));
        }
        let data = style.request.map_or(1, |request| plan.estimated_bytes.div_ceil(request.max(1)));
        // a disk is made and an image registered
        plan.estimated_calls = Some(data + 2);
    }
    let prices = facts.prices.as_ref();
    plan.estimated_cost = prices.and_then(|prices| cost(plan.estimated_bytes, prices.inbound, prices));
    plan.estimated_seconds = facts.pace.0.map(|pace| plan.estimated_bytes as f64 / pace);
}

/// Turns a plan for blocks into one for a copy.
fn relay(plan: &mut DestinationPlan, facts: &Facts, copied: Copied) {
    plan.via = Via::Relay;
    plan.from = Some(copied.from);
    plan.estimated_bytes = copied.bytes;
    // begin, look, commit
    plan.estimated_calls = Some(3);
    plan.estimated_cost = copied.cost;
    plan.estimated_seconds = facts.pace.1.map(|pace| copied.bytes as f64 / pace);
    plan.steps = plan::relay_steps(&plan.place);
}

fn cost(bytes: u64, price: Option<f64>, prices: &Prices) -> Option<Cost> {
    price.map(|price| Cost { amount: bytes as f64 / GIB * price, currency: prices.currency.clone() })
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["B", "KiB", "MiB", "GiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

impl Engine {
    /// Asks every site of `places` which of the others it can be copied to from. A site that does not answer has no
    /// links: it gets blocks.
    pub(crate) async fn links(&self, places: &[Place]) -> Links {
        let mut peers = Vec::new();
        for place in places {
            let Place::Site(name) = place else { continue };
            let Some(cloud) = self.sites.get(name) else { continue };
            if let Some(relay) = cloud.relay() {
                match relay.peer().await {
                    Ok(peer) => peers.push((name, relay, peer)),
                    Err(error) => {
                        tracing::warn!(site = %name, error = %error.chain(), "no copies to or from this site")
                    }
                }
            }
        }
        let mut links = Links::new();
        for (to, relay, own) in &peers {
            for (from, _, peer) in peers.iter().filter(|(from, ..)| from != to) {
                let route = match own.can_reach(peer) {
                    true => relay.route(peer).await.map_err(|error| error.chain()),
                    false => Err(format!("{to} and {from} are not of one domain")),
                };
                links.insert(((*to).clone(), (*from).clone()), route);
            }
        }
        links
    }

    /// Plans of all destinations, with the way that each one's bytes come. Looks only.
    pub(crate) async fn ways(&self, wanted: &[Wanted], scene: &Scene<'_>) -> Result<Vec<DestinationPlan>> {
        let (runs, catalogue) = (self.runs().await?, self.catalogue().await?);
        let unknown = |place: &Place| {
            let error = model::Error::new(model::Kind::Permanent, format!("cannot plan for {place}"));
            Err(Problem::from(&error.because("nobody looked what it holds")))
        };
        let mut plans: Vec<DestinationPlan> = (wanted.iter().map(|wanted| &wanted.place))
            .map(|place| {
                let held = scene.held.iter().find(|(at, _)| at == place);
                let held = held.map_or_else(|| unknown(place), |(_, held)| held.as_deref().map_err(Clone::clone));
                plan::destination(place, held, scene.server, scene.cursor, scene.disks)
            })
            .collect();
        let facts: Vec<Facts> = wanted.iter().map(|wanted| self.facts(wanted, scene, &runs, &catalogue)).collect();
        assign(&mut plans, &facts, scene.links);
        Ok(plans)
    }

    /// What is known of a destination. `runs`: all that there were, for the pace of the last one.
    fn facts(&self, wanted: &Wanted, scene: &Scene<'_>, runs: &[RunRecord], catalogue: &Catalogue) -> Facts {
        let place = &wanted.place;
        let site = match place {
            Place::Site(name) => Some(name),
            Place::Vault(_) => None,
        };
        let style = site.and_then(|name| self.sites.get(name)?.target().map(|target| target.write_style()));
        let prices = site.and_then(|name| self.settings.prices.get(name).cloned());
        let last = |relayed: bool| {
            let ended = runs.iter().filter(|run| run.state == RunState::Closed);
            let moved =
                ended.flat_map(|run| run.destinations.iter().map(move |d| (run.finished_at, d))).filter(|(_, d)| {
                    d.place == *place && d.state == DestinationState::Done && (d.via == Via::Relay) == relayed
                });
            let paced = moved.filter_map(|(at, d)| {
                let bytes = if relayed { d.relayed_bytes } else { d.received_bytes };
                (bytes > 0 && d.seconds > 0.0).then(|| (at, bytes as f64 / d.seconds))
            });
            paced.max_by_key(|(at, _)| *at).map(|(_, pace)| pace)
        };
        // where disks are sent whole, the newest image tells how large one is there
        let of_server = |r: &&Replica| catalogue.points.get(&r.point).is_some_and(|p| p.server == *scene.server);
        let newest = (catalogue.replicas.iter())
            .filter(|r| r.place == *place && r.stored_bytes > 0)
            .filter(of_server)
            .max_by_key(|r| catalogue.points.get(&r.point).map(|point| point.taken_at));
        let total = scene.disks.iter().map(|(_, size)| size).sum();
        let whole = newest.filter(|_| style.is_some_and(|style| !style.patches)).map_or(total, |r| r.stored_bytes);
        let (via, decided, done) = (wanted.via, wanted.decided.clone(), wanted.done);
        Facts { via, decided, done, style, prices, whole, pace: (last(false), last(true)) }
    }
}

#[cfg(test)]
mod tests;

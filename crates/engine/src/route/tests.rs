//! Who gets blocks and who is copied to.

use cloud::{Route, WriteStyle};
use model::{Place, Prices, SiteName, Via};

use super::{Facts, Links, assign};
use crate::{DestinationPlan, Mode};

fn site(name: &str) -> SiteName {
    SiteName::new(name).unwrap()
}

fn plan(name: &str, bytes: u64) -> DestinationPlan {
    DestinationPlan {
        place: Place::Site(site(name)),
        mode: Mode::Full,
        parent: None,
        reason: None,
        via: Via::Blocks,
        from: None,
        choice: None,
        estimated_bytes: bytes,
        estimated_calls: None,
        estimated_cost: None,
        estimated_seconds: None,
        steps: Vec::new(),
        problem: None,
    }
}

fn facts(via: Via, whole: u64) -> Facts {
    Facts { via, whole, ..Facts::default() }
}

fn links(pairs: &[(&str, &str, bool)]) -> Links {
    let route = |through_us| Route { through_us, incremental: false, method: "test".to_owned() };
    pairs.iter().map(|(to, from, through)| ((site(to), site(from)), Ok(route(*through)))).collect()
}

fn ways(plans: &[DestinationPlan]) -> Vec<(Via, Option<&str>)> {
    plans.iter().map(|plan| (plan.via, plan.from.as_ref().map(SiteName::as_str))).collect()
}

#[test]
fn one_gets_blocks_and_the_others_are_copied_to_by_the_shortest_way() {
    let mut plans = [plan("a", 100), plan("b", 100), plan("c", 100)];
    let all = [facts(Via::Auto, 100), facts(Via::Blocks, 100), facts(Via::Auto, 100)];
    assign(&mut plans, &all, &links(&[("b", "a", false), ("c", "a", true), ("c", "b", false)]));
    assert_eq!(ways(&plans), [(Via::Blocks, None), (Via::Blocks, None), (Via::Relay, Some("b"))]);
    assert_eq!(plans[2].choice.as_deref(), Some("100 B move inside the provider, blocks would be 100 B"));
}

#[test]
fn who_insists_may_be_named_first_and_no_copy_is_made_of_a_copy() {
    let mut plans = [plan("a", 100), plan("b", 100), plan("c", 100)];
    let all = [facts(Via::Relay, 100), facts(Via::Auto, 100), facts(Via::Auto, 100)];
    assign(&mut plans, &all, &links(&[("a", "b", false), ("b", "a", false), ("c", "a", false)]));
    assert_eq!(ways(&plans), [(Via::Relay, Some("b")), (Via::Blocks, None), (Via::Blocks, None)]);
}

#[test]
fn a_decision_holds_for_the_whole_run() {
    let decided = |via, from: Option<&str>| Facts { decided: Some((via, from.map(site))), ..facts(Via::Auto, 100) };
    let all =
        [Facts { done: true, ..facts(Via::Auto, 100) }, decided(Via::Relay, Some("a")), decided(Via::Blocks, None)];
    // a copy would not be chosen now for the one, and would be for the other
    let mut plans = [plan("a", 1), plan("b", 1), plan("c", 1000)];
    assign(&mut plans, &all, &links(&[("b", "a", false), ("c", "a", false)]));
    assert_eq!(ways(&plans)[1..], [(Via::Relay, Some("a")), (Via::Blocks, None)]);
}

#[test]
fn a_site_that_takes_whole_disks_only_counts_whole_disks() {
    let whole = WriteStyle { patches: false, request: None };
    let all = [facts(Via::Auto, 100), Facts { style: Some(whole), ..facts(Via::Auto, 100) }];
    let mut plans = [plan("a", 1), plan("b", 1)];
    assign(&mut plans, &all, &links(&[("b", "a", false)]));
    assert_eq!(ways(&plans)[1], (Via::Relay, Some("a")));
    assert!(plans[1].reason.as_deref().is_some_and(|reason| reason.contains("whole disks only")));
}

#[test]
fn costs_of_two_currencies_are_not_compared() {
    let prices = |currency: &str, inbound, relay| Some(Prices { currency: currency.to_owned(), inbound, relay });
    let all = |currency| {
        [
            Facts { prices: prices("EUR", None, Some(0.5)), ..facts(Via::Auto, 2 << 30) },
            Facts { prices: prices(currency, Some(0.1), None), ..facts(Via::Auto, 2 << 30) },
        ]
    };
    for (currency, expected) in [("EUR", Via::Blocks), ("USD", Via::Relay)] {
        let mut plans = [plan("a", 2 << 30), plan("b", 2 << 30)];
        assign(&mut plans, &all(currency), &links(&[("b", "a", false)]));
        assert_eq!(plans[1].via, expected, "{plans:?}");
    }
}

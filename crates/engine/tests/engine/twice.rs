//! Every durable step executed twice gives the same state. A step is let through to its outcome, the outcome is forgotten, and the step is
//! executed again: by the run that goes on, or by the command that is given again. Then the ledger, the vault and what the sites own must be
//! what they are after a calm run.
//!
//! Two ways to forget: the record of the outcome alone, with all that the same commit said elsewhere kept; and the whole commit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloud::Cloud;
use cloud::memory::{Fault, Promise, Rule};
use engine::ledger::{Batch, Ledger, MemoryLedger, Tree};
use engine::{Choice, DrillRequest, PruneRequest, RestoreRequest, RestoreTo, RunOutcome, StepRecord};
use regex::Regex;
use serde_json::Value;

use crate::house::{HALF, House, server, site};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Scenario {
    Run,
    Restore,
    Drill,
    Prune,
    Move,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Forget {
    Outcome,
    Commit,
}

/// A house with three points, one of them doomed for long, and changes since.
async fn lived_in() -> House {
    let mut house = House::new();
    house.policy.keep.last = 2;
    for byte in 1..=3 {
        house.write("vda", 0, byte, 512);
        assert_eq!(house.run().await.outcome(), RunOutcome::Done);
    }
    house.engine().await.prune(&PruneRequest::default()).await.unwrap();
    house.clock.advance(100 * 3600);
    house.write("vda", HALF, 0x31, 4096);
    house
}

async fn act(house: &House, scenario: Scenario) {
    let engine = house.engine().await;
    let choice = Choice { server: server(), at: None, point: None, from: None, via: model::Via::Auto };
    match scenario {
        Scenario::Run => {
            engine.run(&house.request()).await.unwrap();
        }
        Scenario::Restore => {
            let to = RestoreTo::Site { site: site("lab"), name: None, launch: false };
            engine.restore(&RestoreRequest { choice, to }).await.unwrap();
        }
        Scenario::Drill => {
            assert!(engine.drill(&DrillRequest { choice, site: Some(site("lab")) }).await.unwrap().passed);
        }
        Scenario::Prune => {
            engine.prune(&PruneRequest::default()).await.unwrap();
        }
        Scenario::Move => {
            engine.migrate(&crate::moves::request()).await.unwrap();
        }
    }
}

/// What the next start does; what has nobody who resumes it is asked for again.
async fn go_on(house: &House, scenario: Scenario) {
    let engine = house.engine().await;
    let resumed = engine.resume().await.unwrap();
    engine.sweep().await.unwrap();
    if scenario != Scenario::Run || resumed.runs.is_empty() {
        drop(engine);
        act(house, scenario).await;
    }
}

/// The state of the world as text, with what may differ taken out: ids are numbered in their order, instants of the journal and counts of
/// attempts go, and runs that were cut off stay in the ledger as such, for audit.
async fn state(house: &House) -> BTreeSet<String> {
    let mut lines = Vec::new();
    for tree in [
        Tree::Points,
        Tree::Replicas,
        Tree::Cursors,
        Tree::Holds,
        Tree::Tombstones,
        Tree::Journal,
        Tree::Proofs,
        Tree::Runs,
        Tree::Moves,
    ] {
        for (key, bytes) in house.ledger.scan_raw(tree, "").await.unwrap() {
            let body = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
            let mut value: Value = serde_json::from_slice(&bytes[body..]).unwrap();
            if tree == Tree::Runs && value["outcome"] == "failed" {
                continue;
            }
            match tree {
                // signed over instants: that there is one is what counts
                Tree::Proofs => value = Value::Null,
                // how long the new server took to come up
                Tree::Moves => {
                    for field in ["attempts", "rungs"] {
                        value.as_object_mut().unwrap().remove(field);
                    }
                }
                // what the guards saw is told as they saw it, and the replica was gone by then
                // as is whether an image that is gone was protected
                Tree::Tombstones => {
                    value["guards"] = Value::Null;
                    value["replica"].as_object_mut().unwrap().remove("unprotected_at");
                }
                _ => {
                    for field in ["attempts", "started_at", "finished_at"] {
                        value.as_object_mut().unwrap().remove(field);
                    }
                    for destination in value["destinations"].as_array_mut().into_iter().flatten() {
                        destination.as_object_mut().unwrap().remove("seconds");
                    }
                }
            }
            lines.push(format!("{} {key} {value}", tree.name()));
        }
    }
    for (id, (point, disks)) in &house.vault.state.lock().unwrap().points {
        let disks: BTreeMap<_, _> = disks.iter().map(|(name, bytes)| (name, crate::archive::root(bytes))).collect();
        lines.push(format!("vault {id} {point:?} {disks:?}"));
    }
    for cloud in [&house.lab, &house.remote] {
        // the provider's own ids are drawn anew
        let owned = cloud
            .owned()
            .await
            .unwrap()
            .into_iter()
            .map(|r| format!("{} {} {:?} {:?}", cloud.site(), r.kind, r.role, r.tags));
        lines.extend(owned);
    }
    numbered(lines)
}

fn numbered(lines: Vec<String>) -> BTreeSet<String> {
    let id = Regex::new(r"\d{8}T\d{6}Z-[0-9a-f]{8}").unwrap();
    let image = Regex::new(r#""(image|instance)":"[^"]*""#).unwrap();
    let ids: BTreeSet<String> =
        lines.iter().flat_map(|line| id.find_iter(line).map(|found| found.as_str().to_owned())).collect();
    let number: BTreeMap<String, usize> = ids.into_iter().zip(0..).collect();
    let line = |line: String| {
        let line = id.replace_all(&line, |found: &regex::Captures<'_>| format!("[{}]", number[&found[0]])).into_owned();
        image.replace_all(&line, "image").into_owned()
    };
    lines.into_iter().map(line).collect()
}

/// Forgets the outcomes of the steps that were finished since. None: there is none.
async fn forget_outcomes(house: &House, since: &MemoryLedger) -> Option<String> {
    let mut forgotten = Vec::new();
    for (key, bytes) in house.ledger.scan_raw(Tree::Journal, "").await.unwrap() {
        let body = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        let step: StepRecord = serde_json::from_slice(&bytes[body..]).unwrap();
        if step.done_at.is_some() && since.get_raw(Tree::Journal, &key).await.unwrap().as_ref() != Some(&bytes) {
            let mut batch = Batch::new();
            let undone = StepRecord { done_at: None, outcome: Value::Null, ..step.clone() };
            batch.put(Tree::Journal, &key, &undone).unwrap();
            house.ledger.commit(batch).await.unwrap();
            forgotten.push(step.step);
        }
    }
    (!forgotten.is_empty()).then(|| forgotten.join(", "))
}

/// What came of one attempt.
struct Twice {
    /// How often the ledger was committed to until then.
    commits: usize,
    /// What was executed twice; none: the last effect was no outcome.
    step: Option<String>,
    /// What differs from the calm run.
    differs: Vec<String>,
}

/// Executes the scenario up to its n-th effect, forgets, goes on. None: it has fewer effects. `commits` as of the effect before: only what
/// is the very last effect is forgotten, for nothing may rest on it.
async fn twice(scenario: Scenario, n: u64, forget: Forget, broken: bool, commits: usize) -> Option<Twice> {
    let calm = lived_in().await;
    act(&calm, scenario).await;
    calm.engine().await.sweep().await.unwrap();
    let mut house = lived_in().await;
    let past = Arc::new(Mutex::new(vec![house.ledger.copy()]));
    house.past = Some(past.clone());
    house.blade.set(n);
    if tokio::time::timeout(Duration::from_secs(3600), act(&house, scenario)).await.is_ok() {
        return None;
    }
    house.blade.set(0);
    house.past = None;
    let states: Vec<MemoryLedger> = past.lock().unwrap().drain(..).collect();
    let step = match (forget, states.len() - 1) {
        (_, now) if now <= commits => None,
        (Forget::Outcome, _) => forget_outcomes(&house, &states[commits]).await,
        (Forget::Commit, now) => {
            house.ledger = Arc::new(states[now - 1].copy());
            Some("a commit".to_owned())
        }
    };
    let commits = states.len() - 1;
    // what comes before a move has begun is a usual run, which the command given again makes once more
    let unbegun = scenario == Scenario::Move && house.ledger.scan_raw(Tree::Moves, "").await.unwrap().is_empty();
    if step.is_none() || unbegun {
        return Some(Twice { commits, step: None, differs: Vec::new() });
    }
    if broken {
        house.lab.inject(Rule::always("*", Fault::Break(Promise::SameToken)));
    }
    go_on(&house, scenario).await;
    house.lab.heal();
    house.engine().await.sweep().await.unwrap();
    let (calm, twice) = (state(&calm).await, state(&house).await);
    let told =
        |mark: &str, lines: Vec<&String>| lines.into_iter().map(|line| format!("{mark} {line}")).collect::<Vec<_>>();
    let mut differs = told("calm:", calm.difference(&twice).collect());
    differs.extend(told("twice:", twice.difference(&calm).collect()));
    Some(Twice { commits, step, differs })
}

async fn sweep(scenario: Scenario) -> BTreeSet<String> {
    let (mut steps, mut executed) = (BTreeSet::new(), 0);
    for forget in [Forget::Outcome, Forget::Commit] {
        let mut commits = 0;
        for n in 1.. {
            let Some(end) = twice(scenario, n, forget, false, commits).await else { break };
            commits = end.commits;
            let Some(step) = end.step else { continue };
            let differs = end.differs;
            assert!(differs.is_empty(), "{scenario:?}, {step} twice ({forget:?}, effect {n}): {differs:#?}");
            steps.insert(step);
            executed += 1;
        }
    }
    println!("{scenario:?}: {executed} executions twice, of steps {steps:?}");
    steps
}

#[tokio::test(start_paused = true)]
async fn every_step_of_a_run() {
    let steps = sweep(Scenario::Run).await;
    // sealing goes on beside registering, whose outcome is the later one: it is among the commits that are forgotten
    for step in ["capture", "transfer", "register", "verify", "a commit"] {
        assert!(steps.iter().any(|name| name.contains(step)), "{step} is not among {steps:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_step_of_a_restore() {
    assert!(sweep(Scenario::Restore).await.contains("restore-image"));
}

#[tokio::test(start_paused = true)]
async fn every_step_of_a_drill() {
    assert!(sweep(Scenario::Drill).await.contains("launch"));
}

#[tokio::test(start_paused = true)]
async fn every_step_of_a_move() {
    let steps = sweep(Scenario::Move).await;
    for step in ["capture", "register", "restore-image", "launch"] {
        assert!(steps.iter().any(|name| name.contains(step)), "{step} is not among {steps:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_step_of_a_prune() {
    assert!(!sweep(Scenario::Prune).await.is_empty());
}

/// The check can fail: a provider for which the same token makes two is caught.
#[tokio::test(start_paused = true)]
async fn a_step_that_does_its_work_twice_is_caught() {
    let (mut caught, mut commits) = (BTreeSet::new(), 0);
    for n in 1.. {
        let Some(end) = twice(Scenario::Run, n, Forget::Commit, true, commits).await else { break };
        commits = end.commits;
        caught.extend(end.step.filter(|_| !end.differs.is_empty()));
    }
    assert!(!caught.is_empty(), "a provider that makes two of one token was not noticed");
}

//! The model test of protocol F: every interleaving of writers, collectors, retention and crashes, over the product's own
//! transition functions. Breadth first, so that a violation is shown by one of its shortest histories.
//!
//! Clocks do not exist here: every pack may be "old enough" or not, and everybody may stall between any two steps. Listings
//! are complete and reads see all earlier writes, as the bucket promises.

use std::collections::HashSet;
use std::hash::BuildHasherDefault;

use super::super::protocol::{CheckWant, Collector, Packs, PostCheck, Want, reusable};
use super::fingerprint;

type Pack = u8;

/// A few packs, as bits: a world is copied and hashed millions of times.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Set(u16);

impl Set {
    fn of(pack: Pack) -> Self {
        Self(1 << pack)
    }
    fn has(self, pack: Pack) -> bool {
        self.0 & 1 << pack != 0
    }
}

impl Packs for Set {
    type Pack = Pack;

    fn add(&mut self, pack: Pack) {
        self.0 |= 1 << pack;
    }
    fn take(&mut self, pack: Pack) {
        self.0 &= !(1 << pack);
    }
    fn both(&self, other: &Self) -> Self {
        Self(self.0 & other.0)
    }
    fn without(&self, other: &Self) -> Self {
        Self(self.0 & !other.0)
    }
    fn all(&self) -> Vec<Pack> {
        (0..16).filter(|pack| self.has(*pack)).collect()
    }
}

/// Manifests of one writer, by version; 0 for none, else one more than the pack that it needs.
type Versions = [u8; 8];

/// Uploads that one writer can make at most: the names that it has.
const UPLOADS: u8 = 3;
/// The pack of the last compaction; those of earlier ones come behind it.
const COMPACTED: Pack = 2 * UPLOADS;

/// A rule that is taken away, to prove that the model would notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutant {
    None,
    /// The writer lists packs first and tombstones second.
    LivenessFirst,
    /// The collector judges by its first listing of manifests.
    NoSecondListing,
    /// A collector that finds a condemned pack in use takes the tombstone away.
    WithdrawnTombs,
    /// A writer that stores data again uses the old name.
    ReusedNames,
    /// The writer does not check after its commit.
    NoPostCheck,
    /// A version that was replaced is dropped although nobody has checked the newest one.
    UncheckedDrop,
    /// A version that was replaced is dropped after a check whose listings are older than the newest version.
    StaleDrop,
}

/// What is explored.
#[derive(Debug, Clone, Copy)]
struct Scope {
    writers: usize,
    collectors: usize,
    /// Passes of each collector.
    passes: u8,
    /// Crashes in all.
    crashes: u8,
    /// Whether retention drops manifests.
    expiry: bool,
    /// Uploads that a writer makes before it gives up.
    uploads: u8,
    /// Compactions of the first writer's point.
    compactions: u8,
    mutant: Mutant,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Writer {
    /// Looks which packs are condemned, then which are there.
    Begin,
    SawTombs(Set),
    /// Commits a manifest that needs this pack, found or uploaded.
    Commit(Pack),
    Check(Pack, PostCheck<Set>),
    /// With mutant `LivenessFirst`: the listing that was made too early.
    CheckLate(Pack, PostCheck<Set>, Set),
    /// The point counts, and its source is gone.
    Verified(u8),
    /// Retention has dropped the point; the manifests that are still to delete are seen in the world.
    Expired,
    /// Was not verified in as many tries as the model allows: no loss, the source is still held.
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Pass {
    machine: Collector<Set>,
    left: u8,
    /// First listing, for the mutants.
    first: Option<Set>,
    tombs: Option<Set>,
    withdraw: Set,
}

/// Moves what a version of the first writer's point needs into a new pack, and commits the next version. What comes behind
/// its commit is not modelled: whoever drops the old version checks the new one himself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Compactor {
    Idle,
    /// Has read this version's data and stored it in this pack.
    Stored(u8, Pack),
}

/// Drops versions of the first writer's point that a newer one has replaced.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Dropper {
    Idle,
    /// Has listed the versions: checks this newest one.
    Check(u8, PostCheck<Set>),
    /// Versions below this one go, one by one.
    Drop(u8),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    packs: Set,
    tombs: Set,
    manifests: [Versions; 2],
    uploads: [u8; 2],
    writers: [Writer; 2],
    collectors: [Pass; 2],
    compactor: Compactor,
    compactions: u8,
    dropper: Dropper,
    crashes: u8,
}

impl World {
    fn new(scope: &Scope) -> Self {
        let writer = |number| if number <= scope.writers { Writer::Begin } else { Writer::Failed };
        let pass = |number| Pass {
            machine: Collector::new(),
            left: if number <= scope.collectors { scope.passes } else { 0 },
            first: None,
            tombs: None,
            withdraw: Set::default(),
        };
        Self {
            // an unreferenced pack with the data that every writer is about to store
            packs: Set::of(0),
            tombs: Set::default(),
            manifests: [[0; 8]; 2],
            uploads: [0; 2],
            writers: [writer(1), writer(2)],
            collectors: [pass(1), pass(2)],
            compactor: Compactor::Idle,
            compactions: scope.compactions,
            dropper: Dropper::Idle,
            crashes: scope.crashes,
        }
    }

    /// Whether a verified point has lost its data.
    fn loss(&self) -> bool {
        self.writers.iter().zip(&self.manifests).any(|(writer, versions)| match writer {
            // with a compaction the point may live on in another version
            Writer::Verified(_) => !versions.iter().any(|pack| *pack > 0 && self.packs.has(pack - 1)),
            _ => false,
        })
    }

    fn needed(&self) -> Set {
        let mut needed = Set::default();
        self.manifests.iter().flatten().filter(|pack| **pack > 0).for_each(|pack| needed.add(pack - 1));
        needed
    }

    /// The newest version of a writer's manifest.
    fn newest(&self, index: usize) -> Option<usize> {
        self.manifests[index].iter().rposition(|pack| *pack > 0)
    }

    fn next(&self, scope: &Scope, out: &mut Vec<World>) {
        for index in 0..self.writers.len() {
            self.write(scope, index, out);
        }
        for index in 0..self.collectors.len() {
            self.collect(scope, index, out);
        }
        self.compact(out);
        self.drop_replaced(scope, out);
    }

    fn with_writer(&self, index: usize, writer: Writer, out: &mut Vec<World>) {
        let mut world = self.clone();
        world.writers[index] = writer;
        out.push(world);
    }

    fn write(&self, scope: &Scope, index: usize, out: &mut Vec<World>) {
        let writer = &self.writers[index];
        match writer {
            Writer::Begin => self.with_writer(index, Writer::SawTombs(self.tombs), out),
            Writer::SawTombs(tombs) => {
                for pack in reusable(&self.packs, tombs).all() {
                    self.with_writer(index, Writer::Commit(pack), out);
                }
                self.upload(scope, index, None, out);
            }
            Writer::Commit(pack) => self.commit(scope, index, *pack, out),
            Writer::Check(pack, check) => self.check(scope, index, *pack, check, out),
            Writer::CheckLate(pack, check, packs) => {
                let mut check = check.clone();
                check.listed(&self.tombs);
                check.listed(packs);
                self.with_writer(index, Writer::Check(*pack, check), out);
            }
            Writer::Verified(_) if scope.expiry => self.with_writer(index, Writer::Expired, out),
            Writer::Expired => {
                // the versions go one by one, in any order
                for version in (0..8).filter(|version| self.manifests[index][*version] > 0) {
                    let mut world = self.clone();
                    world.manifests[index][version] = 0;
                    out.push(world);
                }
            }
            Writer::Verified(_) | Writer::Failed => {}
        }
        // a writer that dies is run again from its beginning; what it has put stays
        let busy = !matches!(writer, Writer::Begin | Writer::Verified(_) | Writer::Expired | Writer::Failed);
        if busy && self.crashes > 0 {
            let mut world = self.clone();
            world.crashes -= 1;
            world.writers[index] = Writer::Begin;
            out.push(world);
        }
    }

    fn upload(&self, scope: &Scope, index: usize, old: Option<Pack>, out: &mut Vec<World>) {
        let mut world = self.clone();
        if world.uploads[index] == scope.uploads {
            world.writers[index] = Writer::Failed;
        } else {
            let fresh = 1 + index as u8 * UPLOADS + world.uploads[index];
            world.uploads[index] += 1;
            let name = if scope.mutant == Mutant::ReusedNames { old.unwrap_or(fresh) } else { fresh };
            world.packs.add(name);
            world.writers[index] = Writer::Commit(name);
        }
        out.push(world);
    }

    fn commit(&self, scope: &Scope, index: usize, pack: Pack, out: &mut Vec<World>) {
        let mut world = self.clone();
        let version = self.newest(index).map_or(0, |version| version + 1);
        world.manifests[index][version] = pack + 1;
        world.writers[index] = match scope.mutant {
            Mutant::NoPostCheck => Writer::Verified(version as u8),
            _ => Writer::Check(pack, PostCheck::new(Set::of(pack))),
        };
        out.push(world);
    }

    fn check(&self, scope: &Scope, index: usize, pack: Pack, check: &PostCheck<Set>, out: &mut Vec<World>) {
        let mut later = check.clone();
        match check.want() {
            CheckWant::ListTombs if scope.mutant == Mutant::LivenessFirst => {
                self.with_writer(index, Writer::CheckLate(pack, later, self.packs), out);
            }
            CheckWant::ListTombs => {
                later.listed(&self.tombs);
                self.with_writer(index, Writer::Check(pack, later), out);
            }
            CheckWant::ListPacks => {
                later.listed(&self.packs);
                self.with_writer(index, Writer::Check(pack, later), out);
            }
            CheckWant::Conclude(lost) if lost == Set::default() => {
                self.with_writer(index, Writer::Verified(self.newest(index).unwrap_or(0) as u8), out);
            }
            CheckWant::Conclude(_) => self.upload(scope, index, Some(pack), out),
        }
    }

    fn compact(&self, out: &mut Vec<World>) {
        match self.compactor {
            Compactor::Idle if self.compactions > 0 => {
                // any version whose data can be read: what it has listed may be long ago
                for (version, pack) in (0_u8..).zip(self.manifests[0]) {
                    if pack > 0 && self.packs.has(pack - 1) {
                        let mut world = self.clone();
                        let fresh = COMPACTED + self.compactions;
                        world.compactions -= 1;
                        world.packs.add(fresh);
                        world.compactor = Compactor::Stored(version, fresh);
                        out.push(world);
                    }
                }
            }
            Compactor::Idle => {}
            Compactor::Stored(version, pack) => {
                let mut world = self.clone();
                world.compactor = Compactor::Idle;
                // create-only; and a point that is seen to be forgotten does not come back
                if self.newest(0) == Some(usize::from(version)) {
                    world.manifests[0][usize::from(version) + 1] = pack + 1;
                }
                out.push(world);
            }
        }
    }

    fn drop_replaced(&self, scope: &Scope, out: &mut Vec<World>) {
        if scope.compactions == 0 {
            return;
        }
        let mut later = self.clone();
        match &self.dropper {
            Dropper::Idle => {
                let Some(newest) = self.newest(0).filter(|newest| *newest > 0) else { return };
                let mut check = PostCheck::new(Set::of(self.manifests[0][newest] - 1));
                if scope.mutant == Mutant::StaleDrop {
                    // what was listed before any compaction: no tombstone, and every pack
                    check.listed(&Set::default());
                    check.listed(&Set(u16::MAX));
                }
                later.dropper = match scope.mutant {
                    Mutant::UncheckedDrop => Dropper::Drop(newest as u8),
                    _ => Dropper::Check(newest as u8, check),
                };
            }
            Dropper::Check(newest, check) => {
                let mut check = check.clone();
                later.dropper = match check.want() {
                    CheckWant::ListTombs => {
                        check.listed(&self.tombs);
                        Dropper::Check(*newest, check)
                    }
                    CheckWant::ListPacks => {
                        check.listed(&self.packs);
                        Dropper::Check(*newest, check)
                    }
                    CheckWant::Conclude(lost) if lost == Set::default() => Dropper::Drop(*newest),
                    CheckWant::Conclude(_) => Dropper::Idle,
                };
            }
            Dropper::Drop(newest) => {
                match self.manifests[0][..usize::from(*newest)].iter().position(|pack| *pack > 0) {
                    Some(old) => later.manifests[0][old] = 0,
                    None => later.dropper = Dropper::Idle,
                }
            }
        }
        out.push(later);
        // one that dies is another one that begins anew
        if self.dropper != Dropper::Idle && self.crashes > 0 {
            let mut world = self.clone();
            world.crashes -= 1;
            world.dropper = Dropper::Idle;
            out.push(world);
        }
    }

    fn collect(&self, scope: &Scope, index: usize, out: &mut Vec<World>) {
        let pass = &self.collectors[index];
        if pass.left == 0 {
            return;
        }
        let wants = pass.machine.wants();
        if let Some(pack) = pass.withdraw.all().first() {
            let mut world = self.clone();
            world.tombs.take(*pack);
            world.collectors[index].withdraw.take(*pack);
            out.push(world);
        } else if wants.is_empty() {
            let mut world = self.clone();
            world.collectors[index].restart();
            out.push(world);
        }
        for want in &wants {
            self.satisfy(scope, index, *want, out);
        }
        // a collector that dies leaves its pass where it is; another pass of it, if there is one, begins anew
        if pass.machine != Collector::new() && self.crashes > 0 {
            let mut world = self.clone();
            world.crashes -= 1;
            world.collectors[index].restart();
            out.push(world);
        }
    }

    fn satisfy(&self, scope: &Scope, index: usize, want: Want<Pack>, out: &mut Vec<World>) {
        let mut world = self.clone();
        let pass = &mut world.collectors[index];
        match want {
            Want::ListPacks => {
                pass.machine.listed(&self.packs);
                // or none of them is old enough yet, and the pass only ends what others began
                let mut young = self.clone();
                young.collectors[index].machine.listed(&Set::default());
                out.push(young);
            }
            Want::ListManifests => {
                let now = self.needed();
                let judged = match (scope.mutant, pass.first) {
                    (Mutant::NoSecondListing, Some(first)) => first,
                    _ => now,
                };
                if let (Mutant::WithdrawnTombs, Some(tombs)) = (scope.mutant, pass.tombs) {
                    pass.withdraw = tombs.both(&now);
                }
                if scope.mutant == Mutant::NoSecondListing {
                    pass.first = Some(now);
                }
                pass.machine.listed(&judged);
            }
            Want::ListTombs => {
                if scope.mutant == Mutant::WithdrawnTombs {
                    pass.tombs = Some(self.tombs);
                }
                pass.machine.listed(&self.tombs);
            }
            Want::PutTomb(pack) => {
                pass.machine.done(want);
                world.tombs.add(pack);
            }
            Want::DeletePack(pack) => {
                pass.machine.done(want);
                world.packs.take(pack);
            }
            Want::DeleteTomb(pack) => {
                pass.machine.done(want);
                world.tombs.take(pack);
            }
        }
        out.push(world);
    }
}

impl Pass {
    fn restart(&mut self) {
        let left = self.left - 1;
        *self = Self { machine: Collector::new(), left, first: None, tombs: None, withdraw: Set::default() };
    }
}

/// What an exploration found.
#[derive(Debug)]
struct Explored {
    states: usize,
    /// Steps of the shortest history that loses data.
    loss_after: Option<usize>,
    verified: bool,
    deleted: bool,
    repaired: bool,
    /// A verified point rests on a compaction alone.
    moved: bool,
}

fn explore(scope: Scope) -> Explored {
    let start = World::new(&scope);
    let mut seen: HashSet<u128, BuildHasherDefault<fingerprint::Keep>> = HashSet::default();
    seen.insert(fingerprint::of(&start));
    let mut level = vec![start];
    let mut found =
        Explored { states: 0, loss_after: None, verified: false, deleted: false, repaired: false, moved: false };
    let mut next = Vec::new();
    for depth in 0.. {
        let mut deeper = Vec::new();
        for world in level {
            found.states += 1;
            if world.loss() {
                return Explored { loss_after: Some(depth), ..found };
            }
            let verified = |w: &Writer| matches!(w, Writer::Verified(_));
            found.verified |= world.writers[..scope.writers].iter().all(verified);
            found.deleted |= !world.packs.has(0);
            found.repaired |= world.writers.iter().any(|w| matches!(w, Writer::Verified(version) if *version > 0));
            let rest = world.manifests[0].iter().all(|pack| *pack == 0 || *pack - 1 > COMPACTED);
            found.moved |= verified(&world.writers[0]) && rest && world.newest(0).is_some();
            next.clear();
            world.next(&scope, &mut next);
            deeper.extend(next.drain(..).filter(|world| seen.insert(fingerprint::of(world))));
        }
        if deeper.is_empty() {
            break;
        }
        level = deeper;
    }
    found
}

const SMALL: Scope = Scope {
    writers: 1,
    collectors: 1,
    passes: 1,
    crashes: 0,
    expiry: false,
    uploads: 2,
    compactions: 0,
    mutant: Mutant::None,
};

/// No history of this scope loses data, and the scope is not empty talk: points get verified, packs get deleted, and
/// writers get caught by collectors and store again.
fn holds(scope: Scope) -> usize {
    let found = explore(scope);
    eprintln!("{} states: {scope:?}", found.states);
    assert_eq!(found.loss_after, None, "{scope:?}");
    assert!(found.verified && found.deleted && found.repaired, "{found:?} {scope:?}");
    assert_eq!(found.moved, scope.compactions > 0, "{found:?} {scope:?}");
    found.states
}

#[test]
fn small_scopes_lose_nothing() {
    holds(SMALL);
    holds(Scope { writers: 2, ..SMALL });
    holds(Scope { collectors: 2, ..SMALL });
    holds(Scope { crashes: 2, passes: 2, ..SMALL });
    holds(Scope { crashes: 1, passes: 2, expiry: true, ..SMALL });
    holds(Scope { passes: 2, compactions: 1, ..SMALL });
    holds(Scope { uploads: 1, compactions: 2, ..SMALL });
    holds(Scope { uploads: 1, compactions: 1, crashes: 1, expiry: true, ..SMALL });
}

#[test]
fn every_rule_is_needed() {
    let one = Scope { crashes: 1, passes: 2, expiry: true, ..SMALL };
    let two = Scope { collectors: 2, ..SMALL };
    let compacted = Scope { compactions: 1, ..SMALL };
    for (mutant, scope) in [
        (Mutant::LivenessFirst, one),
        (Mutant::NoSecondListing, one),
        (Mutant::WithdrawnTombs, two),
        (Mutant::ReusedNames, two),
        (Mutant::NoPostCheck, one),
        (Mutant::UncheckedDrop, compacted),
        (Mutant::StaleDrop, compacted),
    ] {
        let found = explore(Scope { mutant, ..scope });
        eprintln!("{mutant:?}: loses data after {:?} steps, {} states", found.loss_after, found.states);
        assert!(found.loss_after.is_some(), "{mutant:?} is not caught");
    }
}

#[test]
fn two_writers_and_two_collectors_lose_nothing() {
    let states = holds(Scope { writers: 2, collectors: 2, uploads: 1, ..SMALL });
    assert!(states >= 1_000_000, "only {states} states");
}

#[test]
#[ignore = "minutes: `cargo test --release -p vault interleavings -- --ignored` explores about 4 * 10^7 states"]
fn wide_scopes_lose_nothing() {
    holds(Scope { writers: 2, collectors: 2, uploads: 2, ..SMALL });
    holds(Scope { writers: 2, collectors: 2, uploads: 1, crashes: 1, ..SMALL });
    holds(Scope { writers: 2, passes: 2, crashes: 1, ..SMALL });
    holds(Scope { writers: 2, passes: 2, expiry: true, ..SMALL });
    holds(Scope { collectors: 2, crashes: 1, expiry: true, ..SMALL });
    holds(Scope { collectors: 2, uploads: 1, compactions: 2, ..SMALL });
    holds(Scope { passes: 2, compactions: 1, crashes: 1, expiry: true, ..SMALL });
    holds(Scope { writers: 2, uploads: 1, compactions: 1, passes: 2, ..SMALL });
}

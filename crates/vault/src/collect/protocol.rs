//! Protocol F: how writers and collectors share a bucket without locks, clocks or knowledge of each other.
//!
//! Pure state machines. They say what to do next and are told what came of it; [`super::run`] does it to a bucket, and
//! the model test does it to every interleaving of several writers, collectors and crashes. The rules:
//!
//! 1. Names of packs are never used twice.
//! 2. A tombstone is never taken from a pack that still exists: who saw it may count on the pack's end.
//! 3. A collector lists the manifests *again* after it has listed the tombstones, and deletes only what is in that list
//!    of tombstones and in no manifest of that second listing. The tombstone goes last.
//! 4. A writer, after its manifest is committed, lists the tombstones *first* and the packs *second*. What is condemned or
//!    gone must be stored again under a new name. Only a manifest that passed counts, and the source is held until then.
//! 5. A compaction is a writer that puts the next version of a point's manifest. Whoever drops the versions below looks up
//!    the newest one first, then makes the check of rule 4 for it, and drops only if it passed. The newest version goes with
//!    its point alone, so that no name of a manifest is used twice.
//!
//! Why it holds: if the tombstone of a pack was there when the writer looked, the writer stores the data again. If not, it
//! was either put later, and then the second listing of that collector, being later still, shows the manifest; or it was
//! already gone, and then so is the pack, which the listing of packs shows.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::hash::Hash;

/// A set of packs by name: a tree in the product, a few bits in the model.
pub(crate) trait Packs: Clone + Debug + Default + Eq + Hash {
    /// A pack's name.
    type Pack: Copy + Debug + Ord + Hash;

    /// Adds a pack.
    fn add(&mut self, pack: Self::Pack);
    /// Takes a pack away.
    fn take(&mut self, pack: Self::Pack);
    /// The packs that are in both.
    fn both(&self, other: &Self) -> Self;
    /// The packs that are in this one alone.
    fn without(&self, other: &Self) -> Self;
    /// All of them.
    fn all(&self) -> Vec<Self::Pack>;
}

impl<P: Copy + Debug + Ord + Hash> Packs for BTreeSet<P> {
    type Pack = P;

    fn add(&mut self, pack: P) {
        self.insert(pack);
    }
    fn take(&mut self, pack: P) {
        self.remove(&pack);
    }
    fn both(&self, other: &Self) -> Self {
        self.intersection(other).copied().collect()
    }
    fn without(&self, other: &Self) -> Self {
        self.difference(other).copied().collect()
    }
    fn all(&self) -> Vec<P> {
        self.iter().copied().collect()
    }
}

/// The check of a writer after its commit.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PostCheck<S> {
    needed: S,
    stage: CheckStage<S>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum CheckStage<S> {
    Tombs,
    Packs { condemned: S },
    Concluded { lost: S },
}

/// What the check wants next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CheckWant<S> {
    /// A complete listing of the tombstones.
    ListTombs,
    /// A complete listing of the packs.
    ListPacks,
    /// Nothing more. The data of these packs must be stored again, and a new version of the manifest committed and
    /// checked; if there are none, the manifest is sound for good.
    Conclude(S),
}

impl<S: Packs> PostCheck<S> {
    /// The check of a committed manifest that needs these packs.
    pub fn new(needed: S) -> Self {
        Self { needed, stage: CheckStage::Tombs }
    }

    /// What to do next.
    pub fn want(&self) -> CheckWant<S> {
        match &self.stage {
            CheckStage::Tombs => CheckWant::ListTombs,
            CheckStage::Packs { .. } => CheckWant::ListPacks,
            CheckStage::Concluded { lost } => CheckWant::Conclude(lost.clone()),
        }
    }

    /// Takes the listing that was wanted.
    pub fn listed(&mut self, listing: &S) {
        self.stage = match std::mem::replace(&mut self.stage, CheckStage::Tombs) {
            CheckStage::Tombs => CheckStage::Packs { condemned: self.needed.both(listing) },
            CheckStage::Packs { mut condemned } => {
                self.needed.without(listing).all().into_iter().for_each(|pack| condemned.add(pack));
                CheckStage::Concluded { lost: condemned }
            }
            concluded @ CheckStage::Concluded { .. } => concluded,
        };
    }
}

/// The packs that a writer may refer to: those that are there and not condemned. An outdated answer does no harm, for
/// the check after the commit catches it; it only makes that check find more.
#[cfg(test)]
pub(crate) fn reusable<S: Packs>(packs: &S, tombs: &S) -> S {
    packs.without(tombs)
}

/// One pass of a collector.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Collector<S> {
    stage: Stage<S>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Stage<S> {
    /// Which packs are there, and old enough.
    Packs,
    /// Which of them does no manifest need.
    FirstManifests { old: S },
    /// Those are condemned; the tombstones still to put.
    Condemn { left: S },
    /// What is condemned, by whomever.
    Tombs,
    /// What of that is still needed by no manifest.
    SecondManifests { condemned: S },
    /// That is deleted: packs still to delete, then tombstones of packs that are gone.
    Delete { packs: S, tombs: S },
}

/// What a collector wants next. Several wants may be met at the same time and in any order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Want<P> {
    /// A complete listing of the packs that are older than the grace period by the store's clock.
    ListPacks,
    /// The packs that any manifest of a complete listing needs.
    ListManifests,
    /// A complete listing of the tombstones.
    ListTombs,
    /// A tombstone for this pack; one that exists will do.
    PutTomb(P),
    /// This pack deleted; absent will do.
    DeletePack(P),
    /// The tombstone of this pack deleted; absent will do.
    DeleteTomb(P),
}

impl<S: Packs> Collector<S> {
    /// A new pass. A pass that died needs nothing but a new one.
    pub fn new() -> Self {
        Self { stage: Stage::Packs }
    }

    /// What to do next, in any order; nothing if the pass is complete.
    pub fn wants(&self) -> Vec<Want<S::Pack>> {
        match &self.stage {
            Stage::Packs => vec![Want::ListPacks],
            Stage::FirstManifests { .. } | Stage::SecondManifests { .. } => vec![Want::ListManifests],
            Stage::Condemn { left } => left.all().into_iter().map(Want::PutTomb).collect(),
            Stage::Tombs => vec![Want::ListTombs],
            Stage::Delete { packs, tombs } => {
                let packs = packs.all().into_iter().map(Want::DeletePack);
                packs.chain(tombs.all().into_iter().map(Want::DeleteTomb)).collect()
            }
        }
    }

    /// Takes the listing that was wanted.
    pub fn listed(&mut self, listing: &S) {
        self.stage = match std::mem::replace(&mut self.stage, Stage::Packs) {
            Stage::Packs => Stage::FirstManifests { old: listing.clone() },
            Stage::FirstManifests { old } => Self::condemning(old.without(listing)),
            Stage::Tombs => Stage::SecondManifests { condemned: listing.clone() },
            Stage::SecondManifests { condemned } => {
                Stage::Delete { packs: condemned.without(listing), tombs: S::default() }
            }
            other => other,
        };
    }

    /// Takes note that a put or delete that was wanted has taken effect.
    pub fn done(&mut self, want: Want<S::Pack>) {
        match (&mut self.stage, want) {
            (Stage::Condemn { left }, Want::PutTomb(pack)) => {
                left.take(pack);
                let left = std::mem::take(left);
                self.stage = Self::condemning(left);
            }
            (Stage::Delete { packs, tombs }, Want::DeletePack(pack)) => {
                packs.take(pack);
                tombs.add(pack);
            }
            (Stage::Delete { tombs, .. }, Want::DeleteTomb(pack)) => {
                tombs.take(pack);
            }
            _ => {}
        }
    }

    fn condemning(left: S) -> Stage<S> {
        if left == S::default() { Stage::Tombs } else { Stage::Condemn { left } }
    }
}

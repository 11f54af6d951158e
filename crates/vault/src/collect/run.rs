//! Does to a bucket what the state machines of protocol F want.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, FuturesUnordered, StreamExt, TryStreamExt};
use jiff::Timestamp;
use model::{Error, Kind, Result, crash};

use super::protocol::{CheckWant, Collector, PostCheck, Want};
use super::{CollectReport, clock};
use crate::PackId;
use crate::bucket::{Bucket, Object, Put};
use crate::layout::{DAMAGED, INDEX, MANIFESTS, PACKS, TOMBS, parse_manifest_key};

/// Requests under way at a time.
const PARALLEL: usize = 16;

/// Reads which packs an object refers to: the one thing of the collector that needs the keys of the vault.
#[async_trait]
pub(crate) trait References: Send + Sync {
    /// The packs that this manifest needs. Any doubt is an error, and the pass ends.
    async fn of_manifest(&self, object: &Object) -> Result<Vec<PackId>>;
    /// The same, of a manifest that was read and checked to its end.
    async fn of_whole_manifest(&self, object: &Object) -> Result<Vec<PackId>>;
    /// The packs that this index object describes.
    async fn of_index(&self, object: &Object) -> Result<Vec<PackId>>;
}

/// What is condemned and what is there, looked up in the order that rule 4 asks for. It speaks for manifests that were
/// committed before the look.
pub(crate) struct Standing {
    tombs: BTreeSet<PackId>,
    packs: BTreeSet<PackId>,
}

impl Standing {
    /// Looks.
    pub async fn look(bucket: &dyn Bucket) -> Result<Self> {
        let tombs = names(&bucket.list(TOMBS).await?);
        let packs = names(&bucket.list(PACKS).await?);
        Ok(Self { tombs, packs })
    }

    /// Which of the packs that a manifest needs must be stored again.
    pub fn lost(&self, needed: BTreeSet<PackId>) -> BTreeSet<PackId> {
        let mut check = PostCheck::new(needed);
        loop {
            match check.want() {
                CheckWant::ListTombs => check.listed(&self.tombs),
                CheckWant::ListPacks => check.listed(&self.packs),
                CheckWant::Conclude(lost) => return lost,
            }
        }
    }
}

/// The writer's check after its commit: which of the packs that the manifest needs must be stored again.
pub(crate) async fn lost_packs(bucket: &dyn Bucket, needed: BTreeSet<PackId>) -> Result<BTreeSet<PackId>> {
    Ok(Standing::look(bucket).await?.lost(needed))
}

/// One pass of a collector over a bucket.
pub(crate) struct Pass<'a> {
    pub(super) bucket: &'a dyn Bucket,
    pub(super) references: &'a dyn References,
    grace: Duration,
    /// Keys of manifests that a newer version has replaced: dropped, or would be.
    pub(super) replaced: BTreeSet<String>,
    /// What was read of manifests: they never change, so that the second listing reads only the new ones.
    read: Mutex<HashMap<String, Vec<PackId>>>,
    /// What the first listing told about the packs.
    packs: BTreeMap<PackId, Object>,
    pub(super) report: CollectReport,
}

impl<'a> Pass<'a> {
    /// A pass that condemns packs which nothing needs for at least `grace`, by the store's clock.
    pub fn new(bucket: &'a dyn Bucket, references: &'a dyn References, grace: Duration) -> Self {
        let (replaced, packs, report) = (BTreeSet::new(), BTreeMap::new(), CollectReport::default());
        Self { bucket, references, grace, replaced, read: Mutex::default(), packs, report }
    }

    /// Runs the pass. What a pass that died left is finished by the next one.
    pub async fn run(mut self) -> Result<CollectReport> {
        let bound = clock::before(self.bucket, self.grace).await?;
        self.drop_replaced(bound, true).await?;
        let mut machine = Collector::new();
        loop {
            let wants = machine.wants();
            match wants.first() {
                None => break,
                Some(Want::ListPacks) => machine.listed(&self.old_packs(bound).await?),
                Some(Want::ListManifests) => machine.listed(&self.needed().await?),
                Some(Want::ListTombs) => {
                    let tombs = names(&self.bucket.list(TOMBS).await?);
                    self.report.condemned = tombs.len() as u64;
                    machine.listed(&tombs);
                }
                Some(_) => self.effects(&mut machine).await?,
            }
        }
        self.report.in_use_though_condemned = self.report.condemned - self.report.deleted;
        self.tidy(bound, true).await?;
        Ok(self.report)
    }

    /// Tells what a pass would do, and changes nothing (save for the clock's mark, which is taken away again).
    pub async fn rehearse(mut self) -> Result<CollectReport> {
        let bound = clock::before(self.bucket, self.grace).await?;
        self.drop_replaced(bound, false).await?;
        let old = self.old_packs(bound).await?;
        let mut tombs = names(&self.bucket.list(TOMBS).await?);
        let needed = self.needed().await?;
        tombs.extend(old.difference(&needed));
        self.report.condemned = tombs.len() as u64;
        for pack in tombs.difference(&needed) {
            self.note_deleted(*pack);
        }
        self.report.in_use_though_condemned = self.report.condemned - self.report.deleted;
        self.tidy(bound, false).await?;
        Ok(self.report)
    }

    /// Meets all wants of puts and deletes, several at a time, until the machine wants something else.
    async fn effects(&mut self, machine: &mut Collector<BTreeSet<PackId>>) -> Result<()> {
        let mut under_way = BTreeSet::new();
        let mut running = FuturesUnordered::new();
        loop {
            let wants = machine.wants();
            let listing = |want: &Want<PackId>| matches!(want, Want::ListPacks | Want::ListManifests | Want::ListTombs);
            let fresh = wants.into_iter().filter(|want| !listing(want) && !under_way.contains(want));
            for want in fresh.take(PARALLEL - running.len()).collect::<Vec<_>>() {
                under_way.insert(want);
                running.push(effect(self.bucket, want));
            }
            let Some(done) = running.next().await else { return Ok(()) };
            let want = done?;
            under_way.remove(&want);
            machine.done(want);
            if let Want::DeletePack(pack) = want {
                self.note_deleted(pack);
            }
        }
    }

    fn note_deleted(&mut self, pack: PackId) {
        self.report.deleted += 1;
        self.report.freed_bytes += self.packs.get(&pack).map_or(0, |object| object.size);
    }

    async fn old_packs(&mut self, bound: Timestamp) -> Result<BTreeSet<PackId>> {
        let listed = self.bucket.list(PACKS).await?;
        self.packs = listed.into_iter().filter_map(|object| Some((PackId::of_key(&object.key)?, object))).collect();
        self.report.packs = self.packs.len() as u64;
        Ok(self.packs.iter().filter(|(_, object)| object.modified <= bound).map(|(pack, _)| *pack).collect())
    }

    /// The packs that any version of any manifest needs. All of them could be read, or the pass ends here.
    async fn needed(&mut self) -> Result<BTreeSet<PackId>> {
        let listed = self.bucket.list(MANIFESTS).await?;
        let counts =
            |object: &Object| parse_manifest_key(&object.key).is_some() && !self.replaced.contains(&object.key);
        let manifests: Vec<Object> = listed.into_iter().filter(counts).collect();
        self.report.manifests = manifests.len() as u64;
        let reads: Vec<_> = manifests.iter().map(|object| self.packs_of(object)).collect();
        let packs: Vec<Vec<PackId>> = stream::iter(reads).buffer_unordered(PARALLEL).try_collect().await?;
        Ok(packs.into_iter().flatten().collect())
    }

    async fn packs_of(&self, object: &Object) -> Result<Vec<PackId>> {
        if let Some(packs) = crate::shared::lock(&self.read).get(&object.key) {
            return Ok(packs.clone());
        }
        match self.references.of_manifest(object).await {
            Ok(packs) => {
                crate::shared::lock(&self.read).insert(object.key.clone(), packs.clone());
                Ok(packs)
            }
            // forgotten meanwhile, if the listing agrees; a manifest that is listed and cannot be read stops everything
            Err(error) if error.kind() == Kind::NotFound => {
                let again = self.bucket.list(&object.key).await?;
                if again.iter().any(|other| other.key == object.key) {
                    Err(unreadable(object, error))
                } else {
                    Ok(vec![])
                }
            }
            Err(error) => Err(unreadable(object, error)),
        }
    }

    /// Removes index objects and damage marks that speak of nothing but packs that are gone. Nothing rests on them: a pack
    /// without an index is read by its trailer, and a name that is gone never comes back.
    async fn tidy(&mut self, bound: Timestamp, remove: bool) -> Result<()> {
        let index = self.bucket.list(INDEX).await?;
        let marks = self.bucket.list(DAMAGED).await?;
        let old: Vec<Object> = index.into_iter().filter(|object| object.modified <= bound).collect();
        let reads: Vec<_> = old.into_iter().map(|object| described(self.references, object)).collect();
        // one that cannot be read helps nobody to find a block, but it is a scrub's to judge, not ours
        let read: Vec<Result<_>> = stream::iter(reads).buffer_unordered(PARALLEL).collect().await;
        let described = read.into_iter().flatten();
        let needed = self.needed().await?;
        // listed after what speaks of them: a pack that is not in this listing is gone for good
        let present = names(&self.bucket.list(PACKS).await?);
        for (object, packs) in described {
            if !packs.iter().any(|pack| present.contains(pack)) {
                self.report.index_objects += 1;
                self.remove(&object.key, remove).await?;
            }
        }
        for object in marks {
            let Some(pack) = PackId::of_key(&object.key) else { continue };
            if !present.contains(&pack) && !needed.contains(&pack) {
                self.report.damage_marks += 1;
                self.remove(&object.key, remove).await?;
            }
        }
        Ok(())
    }

    async fn remove(&self, key: &str, really: bool) -> Result<()> {
        if really {
            crash::point("collect.tidy.before");
            self.bucket.delete(key).await?;
            crash::point("collect.tidy.after");
        }
        Ok(())
    }
}

async fn described(references: &dyn References, object: Object) -> Result<(Object, Vec<PackId>)> {
    let packs = references.of_index(&object).await?;
    Ok((object, packs))
}

fn unreadable(object: &Object, error: Error) -> Error {
    let what = format!("cannot collect: it is not known which packs {} needs", object.key);
    Error::new(error.kind(), what).because(error).hint("nothing was deleted; verify the point, or forget it")
}

pub(super) fn names(objects: &[Object]) -> BTreeSet<PackId> {
    objects.iter().filter_map(|object| PackId::of_key(&object.key)).collect()
}

/// Makes one put or delete, and tells which.
async fn effect(bucket: &dyn Bucket, want: Want<PackId>) -> Result<Want<PackId>> {
    match want {
        Want::PutTomb(pack) => {
            crash::point("collect.condemn.before");
            match bucket.put(&pack.tomb_key(), Bytes::new(), Put::CreateOnly).await {
                Err(error) if error.kind() != Kind::Exists => return Err(error),
                _ => {}
            }
            crash::point("collect.condemn.after");
        }
        Want::DeletePack(pack) => {
            crash::point("collect.delete.before");
            bucket.delete(&pack.key()).await?;
            crash::point("collect.delete.after");
        }
        Want::DeleteTomb(pack) => {
            crash::point("collect.bury.before");
            bucket.delete(&pack.tomb_key()).await?;
            crash::point("collect.bury.after");
        }
        Want::ListPacks | Want::ListManifests | Want::ListTombs => {}
    }
    Ok(want)
}

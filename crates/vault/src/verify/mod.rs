//! Scrubbing: packs are read back and checked, points are checked against what their packs hold, damage is marked.

pub(crate) mod marks;
mod points;
mod scan;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use disk::{PageHash, Progress, Silent};
use model::{Error, Kind, PointId, Result};
use serde::{Deserialize, Serialize};

use crate::PackId;
use crate::layout::PACKS;
use crate::manifest::ManifestRef;
use crate::pack::FrameAt;
use crate::shared::Shared;
use marks::{Mark, write_mark};
use scan::Fine;
pub(crate) use tree::page_fits;

/// Which packs are read back.
#[derive(Debug, Clone)]
pub enum VerifyScope {
    /// All of them.
    All,
    /// A random share, in percent.
    Sample(f64),
    /// All but these: the caller keeps when it saw which pack whole ([`VerifyReport::packs`]) and leaves out the fresh
    /// ones.
    NotVerifiedFor(BTreeSet<String>),
    /// Everything that one point needs: all of its packs are read, and its blocks must fit its root.
    Point(PointId),
    /// What a point has added over its parent: its new packs are read, and the blocks of every leaf that differs must fit
    /// its root. Cost in proportion to the change; together with an earlier check of the parent it says as much as
    /// [`VerifyScope::Point`].
    Added(PointId),
}

impl VerifyScope {
    /// Whether the verdict on this point is asked for.
    fn names(&self, point: &PointId) -> bool {
        match self {
            VerifyScope::All => true,
            VerifyScope::Point(id) | VerifyScope::Added(id) => id == point,
            VerifyScope::Sample(_) | VerifyScope::NotVerifiedFor(_) => false,
        }
    }
}

/// A pack with damage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedPack {
    /// Its name, hexadecimal.
    pub pack: String,
    /// The frames that do not read back; empty if the whole pack is missing or unreadable.
    pub frames: Vec<u32>,
    /// What is wrong.
    pub why: String,
}

/// What a scrub found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// Packs that were read back whole, hexadecimal.
    pub packs: Vec<String>,
    /// Bytes that were read.
    pub bytes: u64,
    /// Packs with damage.
    pub damaged: Vec<DamagedPack>,
    /// Points that cannot be restored whole, with the reason.
    pub affected: BTreeMap<String, String>,
    /// Points whose maps and roots were checked.
    pub points: Vec<PointId>,
}

impl VerifyReport {
    /// Whether everything that was read is as it must be.
    pub fn is_clean(&self) -> bool {
        self.damaged.is_empty() && self.affected.is_empty()
    }
}

/// What was found so far.
struct Findings<'a> {
    report: VerifyReport,
    /// Packs that are gone, and why.
    packs: BTreeMap<PackId, String>,
    /// Frames that do not read back.
    frames: BTreeMap<FrameAt, String>,
    /// Pages that read back.
    pages: HashMap<FrameAt, PageHash>,
    progress: &'a dyn Progress,
}

impl Findings<'_> {
    fn lost(&mut self, pack: PackId, why: String) {
        self.packs.insert(pack, why);
    }

    fn fine(&mut self, at: FrameAt, fine: &Fine) {
        let stored = u64::from(fine.stored);
        self.report.bytes += stored;
        self.progress.read(stored);
        self.progress.looked(stored);
        if let Some(hash) = fine.page {
            self.pages.insert(at, hash);
        }
    }

    /// What became of a frame. Damage is a finding, other trouble an error.
    fn frame(&mut self, at: FrameAt, result: Result<Fine>) -> Result<()> {
        match result {
            Ok(fine) => self.fine(at, &fine),
            Err(error) if is_damage(&error) => drop(self.frames.insert(at, error.chain())),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn affect(&mut self, point: &PointId, why: impl Into<String>) {
        self.report.affected.entry(point.to_string()).or_insert_with(|| why.into());
    }

    /// Puts down which packs are whole and which have damage.
    fn judge(&mut self, chosen: &BTreeSet<PackId>) {
        let mut broken: BTreeMap<PackId, (Vec<u32>, &String)> =
            self.packs.iter().map(|(pack, why)| (*pack, (Vec::new(), why))).collect();
        for (at, why) in self.frames.iter().filter(|(at, _)| !self.packs.contains_key(&at.pack)) {
            broken.entry(at.pack).or_insert_with(|| (Vec::new(), why)).0.push(at.frame);
        }
        let whole = chosen.iter().filter(|pack| !broken.contains_key(pack));
        self.report.packs = whole.map(PackId::to_string).collect();
        let damaged = broken.into_iter().map(|(pack, (frames, why))| (pack.to_string(), frames, why.clone()));
        self.report.damaged = damaged.map(|(pack, frames, why)| DamagedPack { pack, frames, why }).collect();
    }
}

/// Whether an error tells of damage: bytes that are not as they were stored, or are gone.
pub(crate) fn is_damage(error: &Error) -> bool {
    matches!(error.kind(), Kind::Damaged | Kind::NotFound)
}

/// Runs a scrub.
pub(crate) async fn run(shared: &Arc<Shared>, scope: &VerifyScope, progress: &dyn Progress) -> Result<VerifyReport> {
    let (report, packs, frames, pages) = Default::default();
    let mut findings = Findings { report, packs, frames, pages, progress };
    let manifests = shared.manifest_keys().await?;
    let sizes = needed(shared, &manifests, &mut findings).await?;
    let listed: BTreeMap<PackId, u64> = shared
        .bucket
        .list(PACKS)
        .await?
        .iter()
        .filter_map(|object| Some((PackId::of_key(&object.key)?, object.size)))
        .collect();
    let all: BTreeSet<PackId> = listed.keys().chain(sizes.keys()).copied().collect();
    let one =
        |id: &PointId| manifests.get(id).cloned().ok_or_else(|| crate::keys::no_point(id, &shared.bucket.describe()));
    let mut chosen = all;
    match scope {
        VerifyScope::All => {}
        VerifyScope::Sample(percent) => chosen.retain(|_| rand::random::<f64>() * 100.0 < *percent),
        VerifyScope::NotVerifiedFor(fresh) => chosen.retain(|pack| !fresh.contains(&pack.to_string())),
        VerifyScope::Point(id) | VerifyScope::Added(id) => {
            chosen = points::scope(shared, &one(id)?, scope).await?;
        }
    }
    // what was read before this scrub tells nothing of the bucket as it is now
    shared.packs.forget(&chosen);
    shared.packs.note_sizes(listed.iter().filter_map(|(pack, size)| Some((*pack, u32::try_from(*size).ok()?))));
    progress.expect(chosen.iter().filter_map(|pack| listed.get(pack)).sum());
    // packs that a point needs and that are gone are found without reading
    let gone = sizes.keys().filter(|pack| !listed.contains_key(pack));
    let wanted: BTreeSet<PackId> = chosen.iter().chain(gone).copied().collect();
    let wanted = wanted.into_iter().map(|pack| (pack, sizes.get(&pack).copied(), listed.get(&pack).copied())).collect();
    scan::scan(shared, wanted, &mut findings).await?;
    let wrong = tree::check(shared, &manifests, scope, &mut findings).await?;
    findings.judge(&chosen);
    mark(shared, &findings).await?;
    points::check(shared, &manifests, scope, wrong, &mut findings).await?;
    Ok(findings.report)
}

/// Reads packs back that this process has stored. Damage is an error.
pub(crate) async fn read_back(shared: &Arc<Shared>, packs: &[PackId]) -> Result<()> {
    let (report, lost, frames, pages) = Default::default();
    let mut findings = Findings { report, packs: lost, frames, pages, progress: &Silent };
    shared.packs.forget(&packs.iter().copied().collect());
    let sized = |pack: &PackId| (*pack, shared.packs.size(*pack), shared.packs.size(*pack).map(u64::from));
    scan::scan(shared, packs.iter().map(sized).collect(), &mut findings).await?;
    let lost = findings.packs.iter().map(|(pack, why)| (*pack, why));
    let first = lost.chain(findings.frames.iter().map(|(at, why)| (at.pack, why))).next();
    first.map_or(Ok(()), |(pack, why)| {
        Err(Error::new(Kind::Damaged, format!("pack {pack} does not read back as it was stored")).because(why.clone()))
    })
}

/// The packs that any point needs, with their sizes. A manifest that cannot be read is a finding.
async fn needed(
    shared: &Arc<Shared>,
    manifests: &BTreeMap<PointId, ManifestRef>,
    findings: &mut Findings<'_>,
) -> Result<BTreeMap<PackId, u32>> {
    let mut sizes = BTreeMap::new();
    for (point, at) in manifests {
        match shared.manifest_packs(at).await {
            Ok((_, packs)) => sizes.extend(packs),
            Err(error) if error.kind() == Kind::Damaged => findings.affect(point, error.chain()),
            // a collector or an administrator has dropped the point meanwhile
            Err(error) if error.kind() == Kind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sizes)
}

/// Marks what is newly found, so that nothing new rests on it.
async fn mark(shared: &Arc<Shared>, findings: &Findings<'_>) -> Result<()> {
    if findings.report.damaged.is_empty() {
        return Ok(());
    }
    shared.index.refresh(shared).await?;
    let known = shared.index.excluded();
    for pack in findings.packs.keys().filter(|pack| !known.packs.contains(pack)) {
        write_mark(shared, *pack, &Mark { whole: true, frames: Vec::new() }).await?;
        shared.packs.forget(&BTreeSet::from([*pack]));
    }
    let mut frames: BTreeMap<PackId, Vec<u32>> = BTreeMap::new();
    for at in findings.frames.keys().filter(|at| known.allows(**at)) {
        frames.entry(at.pack).or_default().push(at.frame);
    }
    for (pack, frames) in frames {
        write_mark(shared, pack, &Mark { whole: false, frames }).await?;
    }
    shared.index.refresh(shared).await
}

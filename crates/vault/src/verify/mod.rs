//! Scrubbing: packs are read back and checked, points are checked against what their packs hold, damage is marked.

pub(crate) mod marks;
mod points;
mod scan;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use disk::PageHash;
use futures::{StreamExt, TryStreamExt, stream};
use model::{Kind, PointId, Result};
use serde::{Deserialize, Serialize};

use crate::PackId;
use crate::layout::PACKS;
use crate::manifest::ManifestRef;
use crate::options::Progress;
use crate::pack::FrameAt;
use crate::shared::Shared;
use marks::{Mark, write_mark};
use scan::{Scanned, scan};

/// Packs that are read at a time: one arrives while another is checked.
const IN_FLIGHT: usize = 2;

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
    /// Everything that one point needs: every byte of its disks is read, and must fit its root.
    Point(PointId),
    /// What a point has added over its parent: its new packs, and every leaf that differs. Cost in proportion to the
    /// change; together with an earlier check of the parent it says as much as [`VerifyScope::Point`].
    Added(PointId),
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
#[derive(Default)]
struct Findings {
    report: VerifyReport,
    /// Packs that are gone, and why.
    packs: BTreeMap<PackId, String>,
    /// Frames that do not read back.
    frames: BTreeMap<FrameAt, String>,
    /// Pages that read back.
    pages: HashMap<FrameAt, PageHash>,
    /// Packs that were read.
    scanned: BTreeSet<PackId>,
}

impl Findings {
    fn add(&mut self, pack: PackId, scanned: Scanned) {
        self.scanned.insert(pack);
        self.report.bytes += scanned.bytes;
        self.pages.extend(scanned.pages.into_iter().map(|(frame, hash)| (FrameAt { pack, frame }, hash)));
        match scanned.whole {
            Some(why) => {
                self.report.damaged.push(DamagedPack { pack: pack.to_string(), frames: Vec::new(), why: why.clone() });
                self.packs.insert(pack, why);
            }
            None if scanned.frames.is_empty() => self.report.packs.push(pack.to_string()),
            None => {
                let why = scanned.frames.values().next().cloned().unwrap_or_default();
                let frames = scanned.frames.keys().copied().collect();
                self.report.damaged.push(DamagedPack { pack: pack.to_string(), frames, why });
                self.frames.extend(scanned.frames.into_iter().map(|(frame, why)| (FrameAt { pack, frame }, why)));
            }
        }
    }

    fn affect(&mut self, point: &PointId, why: impl Into<String>) {
        self.report.affected.entry(point.to_string()).or_insert_with(|| why.into());
    }
}

/// Runs a scrub.
pub(crate) async fn run(shared: &Arc<Shared>, scope: &VerifyScope, progress: &dyn Progress) -> Result<VerifyReport> {
    let mut findings = Findings::default();
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
    let chosen: BTreeSet<PackId> = match scope {
        VerifyScope::All => all,
        VerifyScope::Sample(percent) => all.into_iter().filter(|_| rand::random::<f64>() * 100.0 < *percent).collect(),
        VerifyScope::NotVerifiedFor(fresh) => {
            all.into_iter().filter(|pack| !fresh.contains(&pack.to_string())).collect()
        }
        VerifyScope::Point(id) | VerifyScope::Added(id) => points::scope(shared, &one(id)?, scope).await?,
    };
    // packs that a point needs and that are gone are found without reading
    let total: u64 = chosen.iter().filter_map(|pack| listed.get(pack)).sum();
    progress.bytes(0, total);
    // owned ids: a future that borrows them is not `Send` enough for callers behind `dyn`
    let wanted: Vec<(PackId, Option<u32>)> = chosen.iter().map(|pack| (*pack, sizes.get(pack).copied())).collect();
    let scans = wanted
        .into_iter()
        .map(|(pack, size)| async move { Ok::<_, model::Error>((pack, scan(shared, pack, size).await?)) });
    let mut scans = stream::iter(scans).buffer_unordered(IN_FLIGHT);
    while let Some((pack, scanned)) = scans.try_next().await? {
        findings.add(pack, scanned);
        progress.bytes(findings.report.bytes, total);
    }
    drop(scans);
    for pack in sizes.keys().filter(|pack| !listed.contains_key(pack)) {
        if !findings.packs.contains_key(pack) {
            findings.add(*pack, Scanned { whole: Some("it is missing".to_owned()), ..Scanned::default() });
        }
    }
    mark(shared, &findings).await?;
    points::check(shared, &manifests, scope, &mut findings).await?;
    Ok(findings.report)
}

/// The packs that any point needs, with their sizes. A manifest that cannot be read is a finding.
async fn needed(
    shared: &Arc<Shared>,
    manifests: &BTreeMap<PointId, ManifestRef>,
    findings: &mut Findings,
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
async fn mark(shared: &Arc<Shared>, findings: &Findings) -> Result<()> {
    if findings.report.damaged.is_empty() {
        return Ok(());
    }
    shared.index.refresh(shared).await?;
    let known = shared.index.excluded();
    for pack in findings.packs.keys().filter(|pack| !known.packs.contains(pack)) {
        write_mark(shared, *pack, &Mark { whole: true, frames: Vec::new() }).await?;
        shared.packs.forget(*pack);
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

//! Compaction: what points still need of packs that hold much else, or that were compressed in a hurry, is moved into new
//! packs, and each point that rests on it gets a new version of its manifest.
//!
//! A compaction is one more writer of protocol F, whose source is the vault itself. It deletes nothing: the versions that it
//! replaces keep the old packs until the collector has seen, after the grace, that the new ones are sound. So it may be
//! killed anywhere, run twice at a time, and beside any writer, reader or collector; what it knows of the vault may be
//! outdated, and then it only moves too little. Every block is compared with its id when it is moved, what was stored is
//! read back from the bucket, and the tree of every page that was made anew is checked, all before the first commit.

mod carry;
mod choose;
mod commit;
mod live;
mod pages;

use std::sync::Arc;
use std::time::Duration;

use disk::Progress;
use model::Result;
use serde::{Deserialize, Serialize};

use self::carry::Moved;
use crate::Vault;
use crate::pack::build::{Effort, PackStream};
use crate::shared::Shared;
use crate::work::Workers;
use crate::writer::run::Run;

/// What is worth moving.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compaction {
    /// Packs of whose bytes at least so many percent are needed by no point; above 100: none for that.
    pub waste: u8,
    /// zstd level of what is written.
    pub level: i32,
    /// Packs that are as old by the store's clock and hold frames of a lower level: what was written in a hurry and has
    /// stayed. None: none for that.
    pub recompress_after: Option<Duration>,
    /// Bytes of packs that one pass takes, at most: it bounds memory (200 bytes for each MiB), and what a pass that dies
    /// has done in vain.
    pub most: u64,
}

/// What a compaction did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompactReport {
    /// Packs that points need.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those of them that no point needs.
    pub waste: u64,
    /// Packs that were taken.
    pub taken: u64,
    /// Their bytes: the collector frees them after the grace.
    pub taken_bytes: u64,
    /// Bytes of packs that are worth it and did not fit into this pass.
    pub left_bytes: u64,
    /// Packs that were written instead.
    pub written: u64,
    /// Their bytes.
    pub written_bytes: u64,
    /// Points with a new version.
    pub points: u64,
    /// Points that somebody else has changed meanwhile: the next pass sees to them.
    pub raced: u64,
    /// What could not be read, and was therefore left where it is; `verify` tells and marks it.
    pub unreadable: Vec<String>,
}

impl CompactReport {
    /// This pass and the one behind it.
    #[must_use]
    pub fn then(self, next: Self) -> Self {
        Self {
            taken: self.taken + next.taken,
            taken_bytes: self.taken_bytes + next.taken_bytes,
            left_bytes: next.left_bytes,
            written: self.written + next.written,
            written_bytes: self.written_bytes + next.written_bytes,
            points: self.points.max(next.points),
            raced: self.raced + next.raced,
            unreadable: next.unreadable,
            ..self
        }
    }
}

impl Vault {
    /// Moves what is worth it, or only tells. See the module.
    pub async fn compact(
        &self,
        compaction: &Compaction,
        dry_run: bool,
        progress: &dyn Progress,
    ) -> Result<CompactReport> {
        let done = compact(&self.shared, compaction, dry_run, progress).await;
        done.map_err(|error| error.within(format!("cannot compact vault {}", self.describe())))
    }
}

async fn compact(
    shared: &Arc<Shared>,
    compaction: &Compaction,
    dry_run: bool,
    progress: &dyn Progress,
) -> Result<CompactReport> {
    let mut report = CompactReport::default();
    let sources = commit::sources(shared).await?;
    let live = live::mark(shared, &sources, &mut report).await?;
    let chosen = choose::choose(shared, &live, compaction, &mut report).await?;
    let mends = sources.iter().any(commit::Source::mends);
    if dry_run || (chosen.is_empty() && !mends) {
        return Ok(report);
    }
    progress.expect(report.taken_bytes);
    let run = Arc::new(Run::moving());
    // the only copy of these bytes is about to be replaced: every frame is compared before it is stored
    let effort = Effort { level: compaction.level, check_every: 1, uploads: 1 };
    // backups of this process must not queue behind frames that take a hundred times as long as theirs
    let workers = Arc::new(Workers::start_idle(shared.workers.threads)?);
    let mut stream = PackStream::with_effort(shared.clone(), run.clone(), effort, workers);
    let mut moved = Moved::default();
    for pack in &chosen {
        carry::carry(shared, *pack, &live, &mut stream, &mut moved, &mut report).await?;
        run.write_index(shared, false).await?;
        let size = shared.packs.size(*pack).map_or(0, u64::from);
        progress.read(size);
        progress.looked(size);
    }
    drop(live);
    let mut pages = pages::Pages::new(shared.clone(), chosen, moved);
    let mut concerned = Vec::new();
    for source in &sources {
        if pages.renew(source, &mut stream).await? || source.mends() {
            concerned.push(source);
        }
    }
    stream.flush().await?;
    run.write_index(shared, true).await?;
    let (stored, written) = run.totals();
    (report.written, report.written_bytes) = (written.len() as u64, stored);
    pages.check(&written).await?;
    commit::commit(shared, &concerned, &pages, &written, &mut report).await?;
    Ok(report)
}

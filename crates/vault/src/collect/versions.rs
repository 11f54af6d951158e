//! Drops versions of manifests that a newer one has replaced: what they alone needed is freed by the same pass.
//!
//! A version goes only when the newest one of its point is known to be sound for good: it reads back whole, it passes the
//! check that a writer makes after its commit (rule 4 of the protocol), none of its packs is marked as damaged, and it is
//! older than the grace, so that whoever reads by the old version has had that long to end. The newest version itself is
//! never dropped here, so no name of a manifest is used twice.

use std::collections::BTreeSet;

use jiff::Timestamp;
use model::{Result, crash};

use super::run::{Pass, Standing, names};
use crate::PackId;
use crate::bucket::Object;
use crate::layout::{DAMAGED, MANIFESTS};
use crate::manifest::by_point;
use crate::verify::is_damage;

impl Pass<'_> {
    /// Drops what was replaced before `bound`, or only notes it.
    pub(super) async fn drop_replaced(&mut self, bound: Timestamp, really: bool) -> Result<()> {
        let mut points = by_point(self.bucket.list(MANIFESTS).await?);
        let is_old = |(_, newest): &(_, Object)| newest.modified <= bound;
        points.retain(|_, versions| versions.len() > 1 && versions.values().last().is_some_and(is_old));
        if points.is_empty() {
            return Ok(());
        }
        // both listings are later than the one of the manifests: rule 4
        let standing = Standing::look(self.bucket).await?;
        let damaged = names(&self.bucket.list(DAMAGED).await?);
        for mut versions in points.into_values() {
            let Some((_, (_, newest))) = versions.pop_last() else { continue };
            let needed: BTreeSet<PackId> = match self.references.of_whole_manifest(&newest).await {
                Ok(packs) => packs.into_iter().collect(),
                // forgotten meanwhile, or unreadable: then the older ones are all there is
                Err(error) if is_damage(&error) => continue,
                Err(error) => return Err(error),
            };
            if !needed.is_disjoint(&damaged) || !standing.lost(needed).is_empty() {
                continue;
            }
            for (_, object) in versions.into_values() {
                if really {
                    crash::point("collect.replaced.before");
                    self.bucket.delete(&object.key).await?;
                    crash::point("collect.replaced.after");
                }
                self.report.versions += 1;
                self.replaced.insert(object.key);
            }
        }
        Ok(())
    }
}

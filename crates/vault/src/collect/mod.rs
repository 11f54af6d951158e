//! The collector: removes packs that no restore point needs, beside any number of writers and other collectors.

pub(crate) mod clock;
mod protocol;
mod run;
#[cfg(test)]
mod tests;
mod versions;

use std::time::Duration;

use async_trait::async_trait;
use model::{Kind, Result};
use serde::{Deserialize, Serialize};

use crate::bucket::Object;
use crate::layout::parse_manifest_key;
use crate::manifest::ManifestRef;
use crate::shared::Shared;
use crate::{PackId, Vault};

use run::{Pass, References};
pub(crate) use run::{Standing, lost_packs};

/// What a pass of the collector did, or what it would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectReport {
    /// Manifests that were read, all versions.
    pub manifests: u64,
    /// Packs that were there.
    pub packs: u64,
    /// Packs with a tombstone, by whomever.
    pub condemned: u64,
    /// Packs that were deleted.
    pub deleted: u64,
    /// Their bytes.
    pub freed_bytes: u64,
    /// Condemned packs that a manifest needs, because it was committed while they were condemned: they stay as long as
    /// it does, and their data is stored elsewhere, too.
    pub in_use_though_condemned: u64,
    /// Versions of manifests that a newer one has replaced, and that were dropped.
    #[serde(default)]
    pub versions: u64,
    /// Index objects that described only deleted packs.
    pub index_objects: u64,
    /// Damage marks of deleted packs.
    pub damage_marks: u64,
}

impl Vault {
    /// Removes versions of manifests that another one has replaced for `grace`, and packs that no manifest needs and that
    /// are older than `grace`, both by the store's clock; with `dry_run`, only tells which.
    ///
    /// Safe at any time, beside writers and other collectors, whatever the grace: a short one only makes more work for
    /// writers that are caught. Stops before the first deletion if one manifest cannot be read. May be killed anywhere.
    pub async fn collect(&self, grace: Duration, dry_run: bool) -> Result<CollectReport> {
        let pass = Pass::new(self.shared.bucket.as_ref(), self.shared.as_ref(), grace);
        let report = if dry_run { pass.rehearse().await } else { pass.run().await };
        report.map_err(|error| error.within(format!("cannot collect vault {}", self.describe())))
    }
}

#[async_trait]
impl References for Shared {
    async fn of_manifest(&self, object: &Object) -> Result<Vec<PackId>> {
        let parsed = parse_manifest_key(&object.key)
            .ok_or_else(|| model::Error::new(Kind::Invalid, format!("{} is no manifest", object.key)))?;
        let at = ManifestRef { key: object.key.clone(), parsed, size: object.size };
        let (_, packs) = self.manifest_packs(&at).await?;
        Ok(packs.into_iter().map(|(pack, _)| pack).collect())
    }

    async fn of_whole_manifest(&self, object: &Object) -> Result<Vec<PackId>> {
        let manifest = self.manifest(&object.key).await?;
        Ok(manifest.packs.into_iter().map(|(pack, _)| pack).collect())
    }

    async fn of_index(&self, object: &Object) -> Result<Vec<PackId>> {
        let packs = crate::index::object::read(self, &object.key).await?;
        Ok(packs.into_iter().map(|pack| pack.pack).collect())
    }
}

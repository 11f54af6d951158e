//! A point whose map has moved: every version of its manifest holds the same bytes, so what one does not find another may.
//!
//! A reader that began before a compaction goes on by the new version, however long it takes; and one that meets a version
//! whose packs are gone, because its writer died between its commit and its check, reads by the one before.

use std::sync::Arc;

use bytes::Bytes;
use model::{Error, Kind, PointId, Result};

use super::VaultDisk;
use crate::layout::{MANIFESTS, parse_manifest_key};
use crate::manifest::{Manifest, ManifestRef};
use crate::map::Page;
use crate::shared::{Shared, lock};

/// Whether another version may have what this one has not.
pub(super) fn may_lie_elsewhere(error: &Error) -> bool {
    matches!(error.kind(), Kind::Damaged | Kind::NotFound)
}

impl Shared {
    /// All versions of a point's manifest, the newest last.
    pub async fn versions(&self, point: &PointId) -> Result<Vec<ManifestRef>> {
        let listed = self.bucket.list(MANIFESTS).await?.into_iter().filter_map(|object| {
            let parsed = parse_manifest_key(&object.key).filter(|parsed| parsed.point == *point)?;
            Some(ManifestRef { key: object.key, parsed, size: object.size })
        });
        let mut versions: Vec<ManifestRef> = listed.collect();
        versions.sort_by_key(|at| at.parsed.version);
        Ok(versions)
    }

    /// The newest version of a point's manifest that reads back.
    pub async fn point_manifest(&self, point: &PointId) -> Result<(ManifestRef, Manifest)> {
        let mut trouble = None;
        for at in self.versions(point).await?.into_iter().rev() {
            match self.manifest(&at.key).await {
                Ok(manifest) => return Ok((at, manifest)),
                Err(error) if may_lie_elsewhere(&error) => trouble = trouble.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        Err(trouble.unwrap_or_else(|| crate::keys::no_point(point, &self.bucket.describe())))
    }
}

impl VaultDisk {
    /// The same disk by another version of its point; none if there is none.
    async fn other(&self) -> Option<Arc<VaultDisk>> {
        let (point, key) = self.version.as_ref()?;
        if let Some(other) = lock(&self.other).clone() {
            return Some(other);
        }
        let versions = self.shared.versions(point).await.ok()?;
        for at in versions.iter().rev().filter(|at| at.key != *key) {
            let Ok(manifest) = self.shared.manifest(&at.key).await else { continue };
            let table = manifest.disk(&self.table.name).ok().filter(|table| table.root == self.table.root);
            let Some(table) = table.cloned() else { continue };
            let other = VaultDisk::new(self.shared.clone(), Arc::new(table), self.point.clone());
            *lock(&self.other) = Some(other.clone());
            return Some(other);
        }
        None
    }

    /// A page that this version has not found, by another version; or `error`.
    pub(super) async fn page_elsewhere(&self, index: u64, error: Error) -> Result<Option<Arc<Page>>> {
        match self.other().await {
            Some(other) => Box::pin(other.page(index)).await.map_err(|_| error),
            None => Err(error),
        }
    }

    /// Bytes that this version has not found, by another version; or `error`.
    pub(super) async fn read_elsewhere(&self, offset: u64, len: usize, error: Error) -> Result<Bytes> {
        match self.other().await {
            Some(other) => Box::pin(other.read_at(offset, len)).await.map_err(|_| error),
            None => Err(error),
        }
    }
}

//! A point whose map has moved: every version of its manifest holds the same bytes, so what one does not find another may.
//!
//! A reader that began before a compaction goes on by the new version, however long it takes; and one that meets a version
//! whose packs are gone, because its writer died between its commit and its check, reads by the one before.

use std::sync::Arc;

use bytes::Bytes;
use model::{PointId, Result};

use super::VaultDisk;
use crate::layout::MANIFESTS;
use crate::manifest::{Manifest, ManifestRef, by_point};
use crate::map::Page;
use crate::shared::{Shared, lock};
use crate::verify::is_damage;

impl Shared {
    /// All versions of a point's manifest, the newest last.
    pub async fn versions(&self, point: &PointId) -> Result<Vec<ManifestRef>> {
        let mut points = by_point(self.bucket.list(MANIFESTS).await?);
        let versions = points.remove(point).unwrap_or_default();
        Ok(versions.into_values().map(ManifestRef::from).collect())
    }

    /// The newest version of a point's manifest that reads back.
    pub async fn point_manifest(&self, point: &PointId) -> Result<(ManifestRef, Manifest)> {
        let mut trouble = None;
        for at in self.versions(point).await?.into_iter().rev() {
            match self.manifest(&at.key).await {
                Ok(manifest) => return Ok((at, manifest)),
                Err(error) if is_damage(&error) => trouble = trouble.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        Err(trouble.unwrap_or_else(|| crate::keys::no_point(point, &self.bucket.describe())))
    }
}

impl VaultDisk {
    /// The version that had last what this one had not.
    fn known(&self) -> Option<(String, Arc<VaultDisk>)> {
        lock(&self.other).clone()
    }

    /// The same disk by the newest version of its point that was not tried yet; none if there is none.
    async fn find(&self, known: Option<&str>) -> Option<Arc<VaultDisk>> {
        let (point, own) = self.version.as_ref()?;
        let versions = self.shared.versions(point).await.ok()?;
        for at in versions.into_iter().rev().filter(|at| at.key != *own && known != Some(&at.key)) {
            let Ok(manifest) = self.shared.manifest(&at.key).await else { continue };
            let table = manifest.disk(&self.table.name).ok().filter(|table| table.root == self.table.root);
            let Some(table) = table.cloned() else { continue };
            let other = VaultDisk::new(self.shared.clone(), Arc::new(table), self.point.clone());
            *lock(&self.other) = Some((at.key, other.clone()));
            return Some(other);
        }
        None
    }

    /// A page; none if it is zero.
    pub async fn page(&self, index: u64) -> Result<Option<Arc<Page>>> {
        let known = self.known();
        if let Some((_, other)) = &known
            && let Ok(page) = Box::pin(other.page(index)).await
        {
            return Ok(page);
        }
        match self.page_here(index).await {
            Err(error) if is_damage(&error) => match self.find(known.as_ref().map(|(key, _)| key.as_str())).await {
                Some(other) => Box::pin(other.page(index)).await.map_err(|_| error),
                None => Err(error),
            },
            other => other,
        }
    }

    /// See [`disk::DiskRead`].
    pub async fn read_at(self: &Arc<Self>, offset: u64, len: usize) -> Result<Bytes> {
        let known = self.known();
        if let Some((_, other)) = &known
            && let Ok(bytes) = Box::pin(other.read_at(offset, len)).await
        {
            return Ok(bytes);
        }
        match self.read_here(offset, len).await {
            Err(error) if is_damage(&error) => match self.find(known.as_ref().map(|(key, _)| key.as_str())).await {
                Some(other) => Box::pin(other.read_at(offset, len)).await.map_err(|_| error),
                None => Err(error),
            },
            other => other,
        }
    }
}

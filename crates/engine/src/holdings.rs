//! What a place holds now. Vaults and sites are asked, the ledger only adds what it knows about damage.

use std::collections::{BTreeMap, BTreeSet};

use model::{ImageId, Place, Replica, ReplicaState, Result, tag};

use crate::Engine;
use crate::ledger::{self, Tree};
use crate::plan::Held;

/// Prefix of the step that registers a restored image: such an image belongs to whoever restored it, is no replica, and retention
/// never touches it.
pub(crate) const RESTORE_STEP: &str = "restore";

impl Engine {
    /// Everything that `place` holds. Complete, or an error.
    pub(crate) async fn held(&self, place: &Place) -> Result<Vec<Held>> {
        let known = self.replicas_at(place).await?;
        let damaged = |held: &Held| {
            known.get(held.point.id.as_str()).is_some_and(|replica| replica.state == ReplicaState::Damaged)
        };
        let mut found: Vec<Held> = match place {
            Place::Vault(name) => {
                let points = self.vault(name).await?.points().await?;
                points.into_iter().map(|point| Held { point, image: None, damaged: false }).collect()
            }
            Place::Site(name) => {
                let site = self.site(name)?;
                let Some(target) = site.target() else { return Ok(Vec::new()) };
                let images = target.images().await?;
                let restored: BTreeSet<String> = site
                    .owned()
                    .await?
                    .into_iter()
                    .filter(|r| r.kind == "image" && r.tags.get(tag::STEP).is_some_and(|s| s.starts_with(RESTORE_STEP)))
                    .map(|resource| resource.id)
                    .collect();
                let replica = |id: &ImageId| !restored.contains(id.as_str());
                images
                    .into_iter()
                    .filter(|(id, _)| replica(id))
                    .map(|(id, point)| Held { point, image: Some(id), damaged: false })
                    .collect()
            }
        };
        for held in &mut found {
            held.damaged = damaged(held);
        }
        Ok(found)
    }

    /// The ledger's replicas at a place, by point.
    async fn replicas_at(&self, place: &Place) -> Result<BTreeMap<String, Replica>> {
        let all: Vec<(String, Replica)> = ledger::scan(&*self.ledger, Tree::Replicas, "").await?;
        let here = all.into_iter().map(|(_, replica)| replica).filter(|replica| replica.place == *place);
        Ok(here.map(|replica| (replica.point.to_string(), replica)).collect())
    }
}

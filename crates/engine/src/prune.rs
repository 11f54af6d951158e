//! Retention, in two phases: doomed (journalled, visible in `plan`, cancellable), grace, guards evaluated again at delete time, delete,
//! tombstone.

use model::{Place, RestorePoint, Result, crash};

use crate::Engine;
use crate::steps::register;

/// Deletes a replica where it is; absent is success. Guards are the caller's.
pub(crate) async fn remove(engine: &Engine, place: &Place, point: &RestorePoint) -> Result<()> {
    match place {
        Place::Vault(name) => {
            crash::point("prune.forget.before");
            engine.vault(name)?.forget(&point.id).await?;
            crash::point("prune.forget.after");
        }
        Place::Site(name) => {
            let site = engine.site(name)?;
            let Some(image) = register::find(engine, place, point).await? else { return Ok(()) };
            let owned = site.owned().await?;
            for resource in owned.iter().filter(|r| r.kind == "image" && r.id == image.as_str()) {
                crash::point("prune.delete.before");
                site.delete(resource).await?;
                crash::point("prune.delete.after");
            }
        }
    }
    Ok(())
}

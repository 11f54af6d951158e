//! Commits an image: written disks become a replica at a site.

use model::{Error, ImageId, ImageOptions, Kind, Place, RestorePoint, Result, Role, crash};

use super::{Transferred, token};
use crate::Engine;
use crate::plan;
use crate::records::RunRecord;
use crate::steps::seal::committed;

/// Registers the disks and notes the replica.
pub(crate) async fn run(
    engine: &Engine,
    run: &RunRecord,
    place: &Place,
    moved: &Transferred,
    point: &RestorePoint,
) -> Result<ImageId> {
    let Place::Site(name) = place else {
        return Err(Error::new(Kind::Permanent, format!("cannot register an image at {place}")));
    };
    let target = engine.site(name)?.target().ok_or_else(|| {
        Error::new(Kind::Invalid, format!("cannot register an image at {place}")).because("it is not a target")
    })?;
    let step = plan::register_step(place);
    let begun = engine.step_begin(&run.id, &step).await?;
    // an earlier execution may have registered before it died; the token would find it, but the scratch disks are
    // gone by then, and not every provider can tell the two apart
    let known = if begun.is_repeated() { find(engine, place, point).await? } else { None };
    let image = match known {
        Some(image) => image,
        None => {
            crash::point("run.register.before");
            let token = token(engine, run, "register");
            let image =
                target.register(&moved.images, point, &options(run, place, point), Role::Replica, &token).await?;
            crash::point("run.register.after");
            image
        }
    };
    let batch = committed(point, place, Some(image.clone()), moved.stored)?;
    engine.step_finish(&run.id, begun, &image, batch).await?;
    Ok(image)
}

/// What the run's policy asks of the image of this point at a place.
pub(crate) fn options(run: &RunRecord, place: &Place, point: &RestorePoint) -> ImageOptions {
    run.with.as_ref().map(|policy| policy.image_options(place).of(point)).unwrap_or_default()
}

/// The image of this point at a site, if there is one.
pub(crate) async fn find(engine: &Engine, place: &Place, point: &RestorePoint) -> Result<Option<ImageId>> {
    let held = engine.held(place).await?;
    Ok(held.into_iter().find(|held| held.point == *point).and_then(|held| held.image))
}

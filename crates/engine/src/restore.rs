//! Restore: choose a point, order its replicas, write it somewhere, compare the roots.

use disk::DiskRead;
use model::{DiskName, Error, ImageId, Kind, Place, RestorePoint, Result};

use crate::Engine;

/// Opens a disk of a replica for reading everything.
pub(crate) async fn open_replica(
    engine: &Engine,
    place: &Place,
    image: Option<&ImageId>,
    point: &RestorePoint,
    disk: &DiskName,
) -> Result<Box<dyn DiskRead>> {
    let operation = || format!("cannot open disk {disk} of point {} at {place}", point.id);
    match place {
        Place::Vault(name) => engine.vault(name)?.open_disk(&point.id, disk).await,
        Place::Site(name) => {
            let target = engine.site(name)?.target();
            let target = target.ok_or_else(|| Error::new(Kind::Invalid, operation()).because("it has no images"))?;
            let image = image.ok_or_else(|| Error::new(Kind::NotFound, operation()).because("its image is gone"))?;
            target.open_image(image, disk).await
        }
    }
    .map_err(|error| error.within(operation()))
}

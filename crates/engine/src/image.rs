//! Reads replicas and writes them as images of a site.
//!
//! Where the site holds an image of another point of the server, and the vault has that point too, only what differs between the two
//! moves: the rest is the image's. It is read back before it is built on, so what comes out is compared with the point's roots as ever.

use cloud::{ImageDisk, Target};
use disk::{DiskRead, DiskWrite};
use model::{
    DiskName, Error, ImageId, ImageOptions, Kind, Place, PointDisk, PointId, RestorePoint, Result, Role, SiteName,
    Token, crash,
};

use crate::Engine;
use crate::choose::Source;
use crate::ledger::Batch;
use crate::meter::Meter;
use crate::observe::Event;
use crate::plan::Held;
use crate::records::RunRecord;
use crate::report::disk_label;
use crate::restore::{Made, Tried, Trouble};
use crate::steps::{disk_step, token};

/// Images that are looked at for a base, the nearest in time first.
const CANDIDATES: usize = 3;

impl Engine {
    /// Makes an image of a point at a site: copied by the provider if it can, else written disk by disk and registered.
    pub(crate) async fn write_image(
        &self,
        run: &RunRecord,
        point: &RestorePoint,
        source: &Source,
        site: &SiteName,
        role: Role,
        step: &str,
    ) -> Tried<Made> {
        let target = self.target(site)?;
        if let Some(made) = self.relayed(run, point, source, site, role).await? {
            return Ok(made);
        }
        // a drill proves the replica: nothing may come from elsewhere
        let mut base = match role {
            Role::Replica => self.base_for(run, point, source, site).await?,
            Role::Scratch => None,
        };
        let (mut made, mut disks): (Made, Vec<ImageDisk>) = Default::default();
        for disk in &point.disks {
            let token = token(self, run, &disk_step(&disk.name));
            let built = match &base {
                Some(held) => self.build_on(run, point, source, disk, held, target, &token).await,
                None => Ok(None),
            };
            let (image, bytes) = match built {
                Ok(Some(built)) => {
                    made.since = base.as_ref().map(|held| held.point.id.clone());
                    built
                }
                Ok(None) => self.write_whole(run, point, source, disk, target, &token).await?,
                Err(Trouble { error, .. }) => {
                    let message = format!("{}; everything is read instead", error.chain());
                    self.tell(Event::Warning { run: Some(run.id.clone()), message });
                    base = None;
                    self.write_whole(run, point, source, disk, target, &token).await?
                }
            };
            made.bytes += bytes;
            disks.push(image);
        }
        crash::point("restore.register.before");
        let begun = self.step_begin(&run.id, step).await?;
        let options = ImageOptions::default();
        let image = target.register(&disks, point, &options, role, &token(self, run, step)).await?;
        self.step_finish(&run.id, begun, &image, Batch::new()).await?;
        crash::point("restore.register.after");
        made.image = Some(image);
        Ok(made)
    }

    async fn write_whole(
        &self,
        run: &RunRecord,
        point: &RestorePoint,
        source: &Source,
        disk: &PointDisk,
        target: &dyn Target,
        token: &Token,
    ) -> Tried<(ImageDisk, u64)> {
        let (image, writer) = target.create_disk(&disk.name, disk.size, None, token).await?;
        let bytes = self.copy(run, point, source, disk, None, writer).await?;
        Ok((image, bytes))
    }

    /// Writes one disk as the base's with what differs. `None` if the base has no such disk.
    #[allow(clippy::too_many_arguments, reason = "a disk of a point from a replica, on a base, at a target, for a run")]
    async fn build_on(
        &self,
        run: &RunRecord,
        point: &RestorePoint,
        source: &Source,
        disk: &PointDisk,
        base: &Held,
        target: &dyn Target,
        token: &Token,
    ) -> Tried<Option<(ImageDisk, u64)>> {
        let same = |known: &&PointDisk| known.name == disk.name && known.size == disk.size;
        let (Some(known), Some(image)) = (base.point.disks.iter().find(same), &base.image) else { return Ok(None) };
        let reader = target.open_image(image, &disk.name).await?;
        let meter = Meter::new(&*self.observer, Some(&run.id), format!("check the base of {}", disk_label(&disk.name)));
        let root = crate::check::root_of(&*reader, &meter).await;
        meter.close();
        if root? != known.root {
            let what = format!("cannot build on image {image}");
            return Err(Error::new(Kind::Damaged, what).because(format!("its disk {} is damaged", disk.name)).into());
        }
        let (written, writer) = target.create_disk(&disk.name, disk.size, Some(image), token).await?;
        let bytes = self.copy(run, point, source, disk, Some(&base.point.id), writer).await?;
        Ok(Some((written, bytes)))
    }

    /// The image at the site that is nearest to the point and that the vault can tell the changes from. Retention leaves it alone until
    /// the run is closed.
    async fn base_for(
        &self,
        run: &RunRecord,
        point: &RestorePoint,
        source: &Source,
        site: &SiteName,
    ) -> Result<Option<Held>> {
        let Place::Vault(vault) = &source.place else { return Ok(None) };
        // what cannot be looked up is no base: the restore goes on without
        let Ok(mut held) = self.held(&Place::Site(site.clone())).await else { return Ok(None) };
        let Ok(vault) = self.vault(vault).await else { return Ok(None) };
        held.retain(|held| held.point.server == point.server && !held.damaged && held.image.is_some());
        held.sort_by_key(|held| held.point.taken_at.duration_since(point.taken_at).abs());
        for held in held.into_iter().take(CANDIDATES) {
            if vault.point(&held.point.id).await.is_ok_and(|known| known.disks == held.point.disks) {
                self.hold_for(run, &held.point).await?;
                return Ok(Some(held));
            }
        }
        Ok(None)
    }

    /// Copies one disk of a replica, or what differs from its state at `since`, and compares the root of what was written with the
    /// point's.
    pub(crate) async fn copy(
        &self,
        run: &RunRecord,
        point: &RestorePoint,
        source: &Source,
        disk: &PointDisk,
        since: Option<&PointId>,
        writer: Box<dyn DiskWrite>,
    ) -> Tried<u64> {
        let operation = || format!("cannot restore disk {} of point {} from {}", disk.name, point.id, source.place);
        let broken = |error: Error| Trouble::of_replica(error.within(operation()));
        let damaged = |why: String| broken(Error::new(Kind::Damaged, why));
        let opened = match (&source.place, since) {
            (Place::Vault(name), Some(since)) => match self.vault(name).await {
                Ok(vault) => vault.open_changes(&point.id, since, &disk.name).await,
                Err(error) => Err(error),
            },
            _ => open_replica(self, &source.place, source.image.as_ref(), point, &disk.name).await,
        };
        let reader = opened.map_err(broken)?;
        if reader.size() != disk.size {
            return Err(damaged(format!("it has {} bytes, not {}", reader.size(), disk.size)));
        }
        let meter = Meter::new(&*self.observer, Some(&run.id), format!("restore {}", disk_label(&disk.name)));
        crash::point("restore.disk.before");
        let moved = disk::transfer(&*reader, vec![writer], &meter).await;
        meter.close();
        crash::point("restore.disk.after");
        // the transfer fails as a whole only if the reader does; trouble of the writer is in its slot
        let results = moved.map_err(broken)?;
        let slot = results.into_iter().next();
        let written = slot.unwrap_or_else(|| Err(Error::new(Kind::Permanent, operation())))?;
        if written.root != disk.root {
            return Err(damaged(format!("what was written has root {}, the point has {}", written.root, disk.root)));
        }
        Ok(written.received)
    }
}

/// Opens a disk of a replica for reading everything.
pub(crate) async fn open_replica(
    engine: &Engine,
    place: &Place,
    image: Option<&ImageId>,
    point: &RestorePoint,
    disk: &DiskName,
) -> Result<Box<dyn DiskRead>> {
    let operation = || format!("cannot open disk {disk} of point {} at {place}", point.id);
    let opened = match place {
        Place::Vault(name) => engine.vault(name).await?.open_disk(&point.id, disk).await,
        Place::Site(name) => {
            let target = engine.site(name)?.target();
            let target = target.ok_or_else(|| Error::new(Kind::Invalid, operation()).because("it has no images"))?;
            let image = image.ok_or_else(|| Error::new(Kind::NotFound, operation()).because("its image is gone"))?;
            target.open_image(image, disk).await
        }
    };
    opened.map_err(|error| error.within(operation()))
}

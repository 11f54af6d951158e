//! Images: an incremental snapshot per disk, `<image>` of the boot disk and `<image>-1` and so on of the others. The
//! tags that are set on the boot disk's snapshot last are the commit.

use model::{
    DiskName, Error, Firmware, ImageId, ImageOptions, Kind, PointDisk, RestorePoint, Result, Role, Tags, Token,
};
use serde_json::json;

use super::super::arm::{Shown, What};
use super::super::http::Client;
use super::super::{AzureSite, encryption, marks};
use super::gallery;
use super::keep::keep;
use super::record;
use super::write::WRITTEN;
use cloud::{CopyRequest, ImageDisk};

/// The snapshot of an image's disk, by its place in boot order.
pub(in crate::compute) fn snapshot(image: &str, place: usize) -> String {
    match place {
        0 => image.to_owned(),
        place => format!("{image}-{place}"),
    }
}

/// The image that a snapshot of another disk than the boot disk belongs to.
pub(in crate::compute) fn image_of(snapshot: &str) -> Option<&str> {
    let (image, place) = snapshot.rsplit_once('-')?;
    (image.ends_with("-i") && place.parse::<usize>().is_ok_and(|place| place > 0)).then_some(image)
}

/// The name of the image that a token makes.
pub(in crate::compute) fn name(token: &Token) -> String {
    format!("{}-i", marks::name(token))
}

/// Azure's word for what a machine boots with.
pub(in crate::compute) fn generation(firmware: &Firmware) -> &'static str {
    match firmware {
        Firmware::Bios => "V1",
        Firmware::Uefi { .. } => "V2",
    }
}

/// The boot disk's snapshot of an image, and the point that it carries.
pub(in crate::compute) async fn show(client: &Client, image: &ImageId) -> Result<(Shown, RestorePoint)> {
    let absent = |why: &str| {
        Error::new(Kind::NotFound, format!("cannot find image {image}")).because(format!("snapshot {image} {why}"))
    };
    let found = client.find(What::Snapshot, image.as_str()).await?.ok_or_else(|| absent("does not exist"))?;
    let point = marks::point_in(image.as_str(), &found.tags).ok_or_else(|| absent("carries no restore point"))??;
    Ok((found, point))
}

/// The snapshot of a disk of an image, and what the point says of the disk.
pub(super) async fn disk_of(client: &Client, image: &ImageId, disk: &DiskName) -> Result<(String, PointDisk)> {
    let (_, mut point) = show(client, image).await?;
    let place = point.disks.iter().position(|known| known.name == *disk);
    let place = place.ok_or_else(|| {
        Error::new(Kind::NotFound, format!("cannot open disk {disk} of image {image}")).because("it has no such disk")
    })?;
    Ok((snapshot(image.as_str(), place), point.disks.swap_remove(place)))
}

/// Makes an image of disks that were written.
pub(super) async fn register(
    site: &AzureSite,
    disks: &[ImageDisk],
    point: &RestorePoint,
    options: &ImageOptions,
    role: Role,
    token: &Token,
) -> Result<ImageId> {
    let (client, name) = (site.client()?, name(token));
    let operation = || format!("cannot register point {}", point.id);
    let wrong = |why: String| Error::new(Kind::Invalid, operation()).because(why);
    fits(options, site)?;
    if disks.is_empty() || disks.len() != point.disks.len() {
        return Err(wrong(format!("it has {} disks, and {} were written", point.disks.len(), disks.len())));
    }
    if disks.iter().zip(&point.disks).any(|(written, known)| written.name != known.name) {
        return Err(wrong("the disks come in another order than the point's".to_owned()));
    }
    let committed = sealed(options, point, role, token, &disks[0].name)?;
    let known = client.find(What::Snapshot, &name).await?;
    // registered by a call whose answer was lost
    let later = [record::BASE, marks::VERSION];
    let same = |known: &Shown| known.tags.iter().filter(|(key, _)| !later.contains(&key.as_str())).eq(&committed);
    if !known.as_ref().is_some_and(same) {
        let mut all = Vec::new();
        for disk in disks {
            let found = written(client, disk).await.map_err(|error| error.within(operation()))?;
            // by a configuration that was changed since
            options.encrypted_by(&format!("disk {}", disk.id), encryption::set_of(&found))?;
            all.push(found);
        }
        let mut bases = Vec::new();
        for (place, (disk, held)) in disks.iter().zip(&all).enumerate() {
            let frozen = freeze(site, &disk.name, held, &snapshot(&name, place), point, token).await;
            bases.push(frozen.map_err(|error| error.within(operation()))?);
        }
        let mut bases = bases.into_iter();
        let boot = bases.next().flatten();
        for ((place, disk), base) in disks.iter().enumerate().skip(1).zip(bases) {
            let mut tags = further(options, role, token, &disk.name);
            tags.extend(base);
            client.tag(What::Snapshot, &snapshot(&name, place), &tags).await?;
        }
        client.tag(What::Snapshot, &name, &committed.into_iter().chain(boot).collect()).await?;
    }
    if let (Some(time), Role::Replica) = (options.immutability, role) {
        keep(client, &name, disks.len(), time).await.map_err(|error| error.within(operation()))?;
    }
    // the snapshots hold everything now
    for disk in disks {
        client.delete(What::Disk, &disk.id).await?;
    }
    ImageId::new(name)
}

/// Refuses options that no image here can have, and another key than the site's.
pub(in crate::compute) fn fits(options: &ImageOptions, site: &AzureSite) -> Result<()> {
    options.within(cloud::AZURE_IMAGE_OPTIONS, "azure")?;
    options.encrypted_by(&format!("what site {} makes", site.config.site), site.config.encryption_set.as_deref())?;
    gallery::fits(options, site)?;
    marks::fits(&options.tags)
}

/// The tags of a disk of an image that is a copy, by its place.
pub(in crate::compute) fn tags(place: usize, disk: &DiskName, request: &CopyRequest, role: Role) -> Result<Tags> {
    let CopyRequest { point, options, token, .. } = request;
    match place {
        0 => sealed(options, point, role, token, disk),
        _ => Ok(further(options, role, token, disk)),
    }
}

/// The tags of another disk's snapshot than the boot disk's.
fn further(options: &ImageOptions, role: Role, token: &Token, disk: &DiskName) -> Tags {
    let mut tags = marks::tags(token, role, &[(marks::PART, "image"), (marks::DISK, disk.as_str())]);
    tags.extend(options.tags.clone());
    tags
}

/// The tags of the boot disk's snapshot of a registered image, but for that of its base and that of its version.
fn sealed(options: &ImageOptions, point: &RestorePoint, role: Role, token: &Token, boot: &DiskName) -> Result<Tags> {
    let mut tags = further(options, role, token, boot);
    let carried = marks::of_point(point, tags.len() + 2)?;
    tags.extend(carried);
    Ok(tags)
}

/// A managed disk that was written to its end.
async fn written(client: &Client, disk: &ImageDisk) -> Result<Shown> {
    let operation = || format!("cannot use disk {}", disk.name);
    let found = client.find(What::Disk, &disk.id).await?;
    let found = found
        .ok_or_else(|| Error::new(Kind::NotFound, operation()).because(format!("disk {} does not exist", disk.id)))?;
    match found.tags.get(marks::PART).map(String::as_str) {
        Some(WRITTEN) => Ok(found),
        _ => Err(Error::new(Kind::Invalid, operation()).because("it was not written to its end")),
    }
}

/// Makes the snapshot of a disk that was written. Answers the tag that names the disk's base, if it has one.
async fn freeze(
    site: &AzureSite,
    disk: &DiskName,
    written: &Shown,
    name: &str,
    point: &RestorePoint,
    token: &Token,
) -> Result<Option<(String, String)>> {
    let client = site.client()?;
    // an earlier attempt's, of a disk that was written anew since
    client.delete(What::Snapshot, name).await?;
    let tags = marks::tags(token, Role::Scratch, &[(marks::PART, "image"), (marks::DISK, disk.as_str())]);
    let body = json!({
        "location": site.config.location, "tags": tags,
        "properties": {
            "incremental": true, "hyperVGeneration": generation(&point.machine.firmware),
            "encryption": encryption::of(written),
            "creationData": { "createOption": "Copy", "sourceResourceId": written.id },
        },
    });
    client.create(What::Snapshot, name, &body, false).await?;
    Ok(written.tags.get(record::BASE).map(|base| (record::BASE.to_owned(), base.clone())))
}

/// Deletes an image: where it is published first, then the boot disk's snapshot, without which the others are leftovers.
pub(in crate::compute) async fn delete(client: &Client, image: &str) -> Result<()> {
    let found = client.find(What::Snapshot, image).await?;
    if let Some((boot, version)) = found.as_ref().and_then(|boot| Some((boot, boot.tags.get(marks::VERSION)?))) {
        gallery::retire(client, version, boot).await?;
    }
    if let Some(Ok(point)) = found.and_then(|found| marks::point_in(image, &found.tags)) {
        point.disks.iter().for_each(|disk| record::forget(&client.config.scratch, &disk.root));
    }
    client.delete(What::Snapshot, image).await?;
    for other in client.list(What::Snapshot).await? {
        if image_of(&other.name) == Some(image) && marks::ours(&other.tags).is_some() {
            client.delete(What::Snapshot, &other.name).await?;
        }
    }
    Ok(())
}

//! Images: an incremental snapshot per disk, `<image>` of the boot disk and `<image>-1` and so on of the others. The
//! tags that are set on the boot disk's snapshot last are the commit.

use model::{DiskName, Error, Firmware, ImageId, ImageOptions, Kind, RestorePoint, Result, Role, Tags, Token};
use serde_json::json;

use super::super::arm::{Shown, What};
use super::super::http::Client;
use super::super::{AzureSite, marks};
use super::write::WRITTEN;
use cloud::ImageDisk;

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

fn name(token: &Token) -> String {
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

/// The snapshot of a disk of an image, and the disk's size.
pub(super) async fn disk_of(client: &Client, image: &ImageId, disk: &DiskName) -> Result<(String, u64)> {
    let (_, point) = show(client, image).await?;
    let place = point.disks.iter().position(|known| known.name == *disk);
    let place = place.ok_or_else(|| {
        Error::new(Kind::NotFound, format!("cannot open disk {disk} of image {image}")).because("it has no such disk")
    })?;
    Ok((snapshot(image.as_str(), place), point.disks[place].size))
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
    options.within(cloud::AZURE_IMAGE_OPTIONS, "azure")?;
    marks::fits(&options.tags)?;
    if disks.is_empty() || disks.len() != point.disks.len() {
        return Err(wrong(format!("it has {} disks, and {} were written", point.disks.len(), disks.len())));
    }
    if disks.iter().zip(&point.disks).any(|(written, known)| written.name != known.name) {
        return Err(wrong("the disks come in another order than the point's".to_owned()));
    }
    let committed = sealed(options, point, role, token, &disks[0].name)?;
    let known = client.find(What::Snapshot, &name).await?;
    // registered by a call whose answer was lost
    if known.is_none_or(|known| known.tags != committed) {
        for (place, disk) in disks.iter().enumerate() {
            freeze(site, disk, &snapshot(&name, place), point, token)
                .await
                .map_err(|error| error.within(operation()))?;
        }
        for (place, disk) in disks.iter().enumerate().skip(1) {
            let mut tags = marks::tags(token, role, &[(marks::PART, "image"), (marks::DISK, disk.name.as_str())]);
            tags.extend(options.tags.clone());
            client.tag(What::Snapshot, &snapshot(&name, place), &tags).await?;
        }
        client.tag(What::Snapshot, &name, &committed).await?;
    }
    // the snapshots hold everything now
    for disk in disks {
        client.delete(What::Disk, &disk.id).await?;
    }
    ImageId::new(name)
}

/// The tags of the boot disk's snapshot of a registered image.
fn sealed(options: &ImageOptions, point: &RestorePoint, role: Role, token: &Token, boot: &DiskName) -> Result<Tags> {
    let mut tags = marks::tags(token, role, &[(marks::PART, "image"), (marks::DISK, boot.as_str())]);
    tags.extend(options.tags.clone());
    let carried = marks::of_point(point, tags.len())?;
    tags.extend(carried);
    Ok(tags)
}

/// Makes the snapshot of a disk that was written, unless it is there.
async fn freeze(site: &AzureSite, disk: &ImageDisk, name: &str, point: &RestorePoint, token: &Token) -> Result<()> {
    let client = site.client()?;
    let operation = || format!("cannot use disk {}", disk.name);
    let written = client.find(What::Disk, &disk.id).await?;
    let written = written
        .ok_or_else(|| Error::new(Kind::NotFound, operation()).because(format!("disk {} does not exist", disk.id)))?;
    if written.tags.get(marks::PART).map(String::as_str) != Some(WRITTEN) {
        return Err(Error::new(Kind::Invalid, operation()).because("it was not written to its end"));
    }
    // an earlier attempt's, of a disk that was written anew since
    client.delete(What::Snapshot, name).await?;
    let tags = marks::tags(token, Role::Scratch, &[(marks::PART, "image"), (marks::DISK, disk.name.as_str())]);
    let body = json!({
        "location": site.config.location, "tags": tags,
        "properties": {
            "incremental": true, "hyperVGeneration": generation(&point.machine.firmware),
            "creationData": { "createOption": "Copy", "sourceResourceId": written.id },
        },
    });
    client.create(What::Snapshot, name, &body, false).await
}

/// Deletes an image: the boot disk's snapshot first, without which the others are leftovers.
pub(in crate::compute) async fn delete(client: &Client, image: &str) -> Result<()> {
    client.delete(What::Snapshot, image).await?;
    for other in client.list(What::Snapshot).await? {
        if image_of(&other.name) == Some(image) && marks::ours(&other.tags).is_some() {
            client.delete(What::Snapshot, &other.name).await?;
        }
    }
    Ok(())
}

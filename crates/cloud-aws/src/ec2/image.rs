//! Images of restore points: an AMI whose devices are the snapshots that were written. `RegisterImage` is the commit.

use aws_sdk_ec2::types as ec2;
use model::{
    Arch, DiskName, Error, Firmware, ImageId, ImageOptions, Kind, RestorePoint, Result, Role, Tags, Token, crash, tag,
};

use super::config::Clients;
use super::error::classify;
use super::lock;
use super::marks;
use super::options;
use super::snapshot::{self, Held};
use super::uefi;
use super::wait::Bound;

/// The boot disk's device.
const ROOT: &str = "/dev/sda1";

/// An image.
#[derive(Debug, Clone)]
pub(super) struct Image {
    pub(super) id: String,
    pub(super) state: ec2::ImageState,
    /// Why it failed, and the like.
    pub(super) reason: String,
    /// Snapshots of its devices, the boot disk's first.
    pub(super) snapshots: Vec<String>,
    /// The same by their devices.
    pub(super) devices: Vec<(String, String)>,
    pub(super) tags: Tags,
}

impl Image {
    fn of(image: &ec2::Image) -> Self {
        let root = image.root_device_name().unwrap_or_default();
        let mut devices: Vec<_> = image.block_device_mappings().iter().collect();
        devices.sort_by_key(|device| device.device_name() != Some(root));
        let devices = devices.into_iter().filter_map(|it| {
            Some((it.device_name()?.to_owned(), it.ebs()?.snapshot_id().filter(|id| !id.is_empty())?.to_owned()))
        });
        let devices: Vec<(String, String)> = devices.collect();
        Self {
            id: image.image_id().unwrap_or_default().to_owned(),
            state: image.state().cloned().unwrap_or(ec2::ImageState::Pending),
            reason: image.state_reason().and_then(|it| it.message()).unwrap_or_default().to_owned(),
            snapshots: devices.iter().map(|(_, snapshot)| snapshot.clone()).collect(),
            devices,
            tags: marks::of_ec2(image.tags()),
        }
    }
}

/// All images of this account that fit all filters, deprecated and disabled ones too.
pub(super) async fn list(clients: &Clients, filters: Vec<ec2::Filter>) -> Result<Vec<Image>> {
    let call = clients.ec2.describe_images().owners("self").include_deprecated(true).include_disabled(true);
    let mut pages = call.set_filters(Some(filters)).max_results(1000).into_paginator().send();
    let mut found = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| classify("cannot list images", error))?;
        found.extend(page.images().iter().map(Image::of));
    }
    Ok(found)
}

/// One image. [`Kind::NotFound`] if there is none.
pub(super) async fn show(clients: &Clients, id: &str) -> Result<Image> {
    let operation = || format!("cannot open image {id}");
    let call = clients.ec2.describe_images().owners("self").image_ids(id);
    let answer = call.include_deprecated(true).include_disabled(true).send().await;
    let answer = answer.map_err(|error| classify(operation(), error))?;
    let found = answer.images().first().map(Image::of);
    found.ok_or_else(|| Error::new(Kind::NotFound, operation()).because("there is no such image"))
}

/// The snapshot that holds a disk of an image.
pub(super) async fn disk(clients: &Clients, image: &ImageId, disk: &DiskName) -> Result<Held> {
    for id in show(clients, image.as_str()).await?.snapshots {
        let held = snapshot::show(clients, &id).await?;
        if held.tags.get(marks::DISK).is_some_and(|name| name == disk.as_str()) {
            return Ok(held);
        }
    }
    Err(Error::new(Kind::NotFound, format!("cannot open disk {disk} of image {image}")).because("it has no such disk"))
}

/// A name as EC2 takes it: 3 to 128 characters.
pub(super) fn name_of(options: &ImageOptions, token: &Token) -> Result<String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "()[] ./-'@_".contains(c);
    let Some(name) = &options.name else {
        let name: String = token.name().chars().map(|c| if fine(c) { c } else { '.' }).collect();
        let sum = blake3::hash(token.name().as_bytes()).to_hex();
        return Ok(if name.len() <= 128 { name } else { format!("{}-{}", &name[..100], &sum[..16]) });
    };
    if (3..=128).contains(&name.chars().count()) && name.chars().all(fine) {
        return Ok(name.clone());
    }
    Err(Error::new(Kind::Invalid, format!("cannot name an image `{name}`"))
        .because("EC2 takes 3 to 128 letters, digits, spaces and ( ) [ ] . / - ' @ _"))
}

/// Where the n-th disk is attached.
pub(super) fn device(at: usize) -> Option<String> {
    let letter = |first: u8, at: usize| char::from(first + at as u8);
    match at {
        0 => Some(ROOT.to_owned()),
        1..=11 => Some(format!("/dev/sd{}", letter(b'f', at - 1))),
        12..=37 => Some(format!("/dev/xvdb{}", letter(b'a', at - 12))),
        _ => None,
    }
}

fn devices(disks: &[Held], point: &RestorePoint) -> Result<Vec<ec2::BlockDeviceMapping>> {
    let wrong =
        |why: &str| Error::new(Kind::Invalid, format!("cannot register point {}", point.id)).because(why.to_owned());
    if disks.is_empty() {
        return Err(wrong("it has no disk"));
    }
    let mapped = disks.iter().enumerate().map(|(at, disk)| {
        let device = device(at).ok_or_else(|| wrong("it has more than 38 disks"))?;
        let ebs = ec2::EbsBlockDevice::builder().snapshot_id(&disk.id).volume_type(ec2::VolumeType::Gp3);
        Ok(ec2::BlockDeviceMapping::builder().device_name(device).ebs(ebs.delete_on_termination(true).build()).build())
    });
    mapped.collect()
}

/// Architecture and boot mode in EC2's words.
fn hardware(point: &RestorePoint) -> Result<(ec2::ArchitectureValues, ec2::BootModeValues)> {
    let machine = &point.machine;
    match (machine.arch, &machine.firmware) {
        (Arch::X86_64, Firmware::Bios) => Ok((ec2::ArchitectureValues::X8664, ec2::BootModeValues::LegacyBios)),
        (Arch::X86_64, Firmware::Uefi { .. }) => Ok((ec2::ArchitectureValues::X8664, ec2::BootModeValues::Uefi)),
        (Arch::Aarch64, Firmware::Uefi { .. }) => Ok((ec2::ArchitectureValues::Arm64, ec2::BootModeValues::Uefi)),
        (Arch::Aarch64, Firmware::Bios) => {
            Err(Error::new(Kind::Invalid, format!("cannot register point {}", point.id))
                .because("EC2 boots aarch64 with UEFI alone, and the server has BIOS"))
        }
    }
}

/// Makes an image of snapshots, the boot disk's first. The same token gives the same image.
pub(super) async fn register(
    clients: &Clients,
    disks: &[Held],
    point: &RestorePoint,
    options: &ImageOptions,
    role: Role,
    token: &Token,
) -> Result<ImageId> {
    let name = name_of(options, token)?;
    let (devices, (arch, boot)) = (devices(disks, point)?, hardware(point)?);
    let snapshots: Vec<String> = disks.iter().map(|disk| disk.id.clone()).collect();
    let id = match by_name(clients, &name, token, &[role]).await? {
        Some(id) => id,
        None => {
            let (mut tags, more) = marks::carry(point)?;
            snapshot::tag(clients, snapshots[..1].to_vec(), &more).await?;
            tags.extend(options.tags.clone());
            tags.extend(token.tags(role));
            let call = clients.ec2.register_image().name(&name).architecture(arch).boot_mode(boot);
            let call = call.virtualization_type("hvm").ena_support(true).root_device_name(ROOT);
            let call = call.description(format!("replicate: server {} at {}", point.server, point.taken_at));
            let call = call.set_block_device_mappings(Some(devices)).set_uefi_data(uefi::of(point)?);
            let call = call.tag_specifications(marks::specification(ec2::ResourceType::Image, &tags));
            crash::point("aws.image-register.before");
            let answer = call.send().await;
            crash::point("aws.image-register.after");
            registered(answer.map_err(|error| classify(format!("cannot register point {}", point.id), error)), &name)?
                .image_id()
                .unwrap_or_default()
                .to_owned()
        }
    };
    wait_available(clients, &id).await?;
    snapshot::tag(clients, snapshots.clone(), &role_tag(role)).await?;
    options::apply(clients, &id, &snapshots, options).await?;
    ImageId::new(id)
}

/// A name that is taken while nobody of it is seen belongs to a call of ours whose answer was lost.
pub(super) fn registered<T>(answer: Result<T>, name: &str) -> Result<T> {
    answer.map_err(|error| match error.kind() {
        Kind::Exists => Error::new(Kind::NotYetVisible, format!("cannot see image `{name}`")).because(error),
        _ => error,
    })
}

pub(super) fn role_tag(role: Role) -> Tags {
    let word = if role == Role::Replica { "replica" } else { "scratch" };
    Tags::from([(tag::ROLE.to_owned(), word.to_owned())])
}

/// The image that a token has made. [`Kind::Exists`] if somebody else has that name.
pub(super) async fn by_name(clients: &Clients, name: &str, token: &Token, roles: &[Role]) -> Result<Option<String>> {
    let found = list(clients, vec![marks::filter("name", escaped(name))]).await?;
    let Some(image) = found.into_iter().find(|image| image.state != ec2::ImageState::Deregistered) else {
        return Ok(None);
    };
    match marks::ours(&image.tags) {
        Some((role, tags)) if roles.contains(&role) && tags == token.tags(role) => Ok(Some(image.id)),
        _ => Err(Error::new(Kind::Exists, format!("cannot name an image `{name}`"))
            .because(format!("image {} has that name", image.id))
            .hint("put `{point}` into the `name` of the policy's destination")),
    }
}

/// Filters have wildcards.
fn escaped(name: &str) -> String {
    name.replace('\\', "\\\\").replace('*', "\\*").replace('?', "\\?")
}

async fn wait_available(clients: &Clients, id: &str) -> Result<()> {
    let mut bound = Bound::new(format!("cannot wait for image {id}"));
    loop {
        match show(clients, id).await {
            Ok(image) => match &image.state {
                ec2::ImageState::Available => return Ok(()),
                ec2::ImageState::Pending => bound.pause("it is pending").await?,
                state => return Err(bound.error(Kind::Permanent, format!("EC2 says `{state}`: {}", image.reason))),
            },
            Err(error) if error.kind() == Kind::NotFound => bound.pause("it is not visible").await?,
            Err(error) => drop(bound.bear::<()>(Err(error)).await?),
        }
    }
}

/// The point that an image carries.
pub(super) async fn point(clients: &Clients, image: &Image) -> Result<RestorePoint> {
    let mut more = Tags::new();
    if let Some(boot) = image.snapshots.first().filter(|_| marks::goes_on(&image.tags)) {
        more = snapshot::show(clients, boot).await?.tags;
    }
    marks::point(&image.id, &image.tags, &more)
}

/// Replicas, each with its point. One that does not read is told of and left out: it must not hide the others when
/// everything else is lost.
pub(super) async fn replicas(clients: &Clients) -> Result<Vec<(ImageId, RestorePoint)>> {
    let mut found = Vec::new();
    for image in list(clients, vec![marks::tagged(tag::ROLE, Some("replica"))]).await? {
        let ours = marks::ours(&image.tags).is_some_and(|(role, _)| role == Role::Replica);
        if !ours || !marks::has_point(&image.tags) {
            continue;
        }
        match point(clients, &image).await {
            Ok(point) => found.push((ImageId::new(image.id)?, point)),
            Err(error) if error.kind() == Kind::Damaged => {
                tracing::warn!(error = error.chain(), "an image is left out")
            }
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Refuses what launch templates refer to: whoever scales by one would find nothing to start.
async fn refuse_if_referred(clients: &Clients, id: &str) -> Result<()> {
    let call = clients.ec2.describe_launch_template_versions().versions("$Latest").versions("$Default");
    let mut pages = call.into_paginator().send();
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| classify(format!("cannot see whether image {id} is in use"), error))?;
        let mut versions = page.launch_template_versions().iter();
        let uses =
            |it: &&ec2::LaunchTemplateVersion| it.launch_template_data().and_then(|it| it.image_id()) == Some(id);
        if let Some(version) = versions.find(uses) {
            let template = version.launch_template_name().or(version.launch_template_id()).unwrap_or_default();
            return Err(Error::new(Kind::Denied, format!("cannot delete image {id}"))
                .because(format!("launch template {template} starts servers of it"))
                .hint("give the template another image"));
        }
    }
    Ok(())
}

/// Deregisters an image and deletes its snapshots, which are answered. Absent is success. What is to go is found before
/// the image is gone: nobody could ask it afterwards. A crash between the two leaves snapshots that no image refers to,
/// which are leftovers.
pub(super) async fn delete(clients: &Clients, id: &str) -> Result<Vec<String>> {
    let image = match show(clients, id).await {
        Err(error) if error.kind() == Kind::NotFound => return Ok(Vec::new()),
        image => image?,
    };
    refuse_if_referred(clients, id).await?;
    lock::refuse_if_locked(clients, id, &image.snapshots).await?;
    let mut ours = Vec::new();
    for snapshot in image.snapshots {
        match snapshot::show(clients, &snapshot).await {
            Err(error) if error.kind() == Kind::NotFound => {}
            held if marks::ours(&held.as_ref().map(|held| held.tags.clone()).unwrap_or_default()).is_some() => {
                ours.push(snapshot);
            }
            held => drop(held?),
        }
    }
    let mut bound = Bound::new(format!("cannot delete image {id}"));
    loop {
        crash::point("aws.image-delete.before");
        let answer = clients.ec2.deregister_image().image_id(id).send().await;
        crash::point("aws.image-delete.after");
        match answer.map_err(|error| classify(format!("cannot deregister image {id}"), error)) {
            Ok(_) => break,
            // gone already, by a call whose answer was lost
            Err(error) if error.kind() == Kind::NotFound => break,
            // whoever began anew would not find the image, and forget its snapshots
            Err(error) => drop(bound.bear::<()>(Err(error)).await?),
        }
    }
    for snapshot in &ours {
        // EC2 may take a while to notice that the image is gone
        while let Err(error) = snapshot::delete(clients, snapshot).await {
            bound.bear::<()>(Err(error)).await?;
        }
    }
    Ok(ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_disk_has_a_device_of_its_own() {
        let all: std::collections::BTreeSet<_> = (0..38).filter_map(device).collect();
        assert_eq!(all.len(), 38);
        assert_eq!(
            (device(1).as_deref(), device(12).as_deref(), device(38)),
            (Some("/dev/sdf"), Some("/dev/xvdba"), None)
        );
    }

    #[test]
    fn filters_take_names_literally() {
        assert_eq!(escaped("a*b?c\\d"), "a\\*b\\?c\\\\d");
    }
}

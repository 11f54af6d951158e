//! What a policy asks of an image, in Glance's words, and the change of a boot disk's image that is the commit of all.

use model::{Error, ImageId, ImageOption, ImageOptions, Kind, RestorePoint, Result, Role, Tags, Token, crash};

use super::super::api::glance::{Change, Glance, Image};
use super::super::http::Client;
use super::super::marks;
use super::image::{DiskImage, disks_of, show};
use super::stores;

const GIB: u64 = 1 << 30;

/// What can be asked of an image here.
pub const OPTIONS: &[ImageOption] = &[
    ImageOption::Name,
    ImageOption::Tags,
    ImageOption::Visibility,
    ImageOption::Share,
    ImageOption::Protected,
    ImageOption::HideOlder,
    ImageOption::Stores,
];

/// What every image has; no tag of a policy can have such a name.
const FIXED: [&str; 24] = [
    "id",
    "name",
    "status",
    "visibility",
    "protected",
    "owner",
    "size",
    "virtual_size",
    "checksum",
    "disk_format",
    "container_format",
    "min_disk",
    "min_ram",
    "tags",
    "created_at",
    "updated_at",
    "file",
    "self",
    "schema",
    "locations",
    "direct_url",
    "os_hidden",
    "os_hash_algo",
    "os_hash_value",
];

/// Refuses what Glance cannot do.
pub(in crate::openstack) fn fits(options: &ImageOptions) -> Result<()> {
    options.within(OPTIONS, "openstack")?;
    match options.tags.keys().find(|key| FIXED.contains(&key.as_str())) {
        Some(key) => Err(Error::new(Kind::Invalid, format!("cannot tag an image with `{key}`"))
            .because("Glance has a property of that name itself")
            .hint("call the tag otherwise in the policy")),
        None => Ok(()),
    }
}

/// Makes an image of a restore point of its disks' images, the boot disk's first: the change of that one is the commit.
/// What would keep a leftover from being deleted comes with it or after it. Repeating it is harmless.
pub(super) async fn seal(
    client: &Client,
    images: &[DiskImage],
    more: Vec<Change>,
    point: &RestorePoint,
    options: &ImageOptions,
    role: Role,
    token: &Token,
) -> Result<ImageId> {
    let operation = || format!("cannot register point {}", point.id);
    let Some((boot, others)) = images.split_first() else {
        return Err(Error::new(Kind::Invalid, operation()).because("it has no disk"));
    };
    stores::known(client, &options.stores).await?;
    for disk in images {
        stores::place(client, &disk.image, &options.stores).await?;
        share(client, &disk.image, options).await?;
    }
    for other in others {
        let mut changes = looks(options, &token.tags(role), Some(&other.name))?;
        changes.push(Change::add(marks::OF, boot.image.as_str()));
        change(client, &other.image, &changes, "openstack.register-disk").await?;
    }
    let mut changes = more;
    changes.extend(looks(options, &token.tags(role), None)?);
    let listed =
        serde_json::to_string(images).map_err(|error| Error::new(Kind::Permanent, operation()).because(error))?;
    changes.push(Change::add(marks::DISKS, listed));
    if let Some(disk) = point.disks.first() {
        changes.push(Change::replace("min_disk", disk.size.div_ceil(GIB)));
    }
    change(client, &boot.image, &changes, "openstack.register").await?;
    protect_others(client, others, options).await?;
    ImageId::new(boot.image.clone())
}

/// Protects the disks beside the boot disk as that one is.
pub(super) async fn protect_others(client: &Client, others: &[DiskImage], options: &ImageOptions) -> Result<()> {
    for other in others.iter().filter(|_| options.protected) {
        change(client, &other.image, &[Change::replace("protected", true)], "openstack.image-protect").await?;
    }
    Ok(())
}

/// Lets others see an image, before it is committed: afterwards nobody would come back to it.
async fn share(client: &Client, image: &str, options: &ImageOptions) -> Result<()> {
    let visibility = match options.visibility {
        Some(visibility) => Some(visibility.to_string()),
        None if options.share.is_empty() => None,
        None => Some("shared".to_owned()),
    };
    let Some(visibility) = visibility else { return Ok(()) };
    change(client, image, &[Change::replace("visibility", visibility)], "openstack.image-share").await?;
    for project in &options.share {
        match Glance(client).add_member(image, project).await {
            Err(error) if error.kind() == Kind::Exists => {}
            // Glance tells a member that it has by a conflict without more
            Err(error) if error.kind() == Kind::Transient && error.chain().contains("409") => {}
            other => other?,
        }
    }
    Ok(())
}

/// What people see of an image, and our marks. `disk`: of another disk than the boot disk.
fn looks(options: &ImageOptions, tags: &Tags, disk: Option<&model::DiskName>) -> Result<Vec<Change>> {
    let own = serde_json::to_string(&options.tags)
        .map_err(|error| Error::new(Kind::Permanent, "cannot write the tags of an image").because(error))?;
    let mut changes: Vec<Change> =
        options.tags.iter().chain(tags).map(|(key, value)| Change::add(key, value.as_str())).collect();
    if !options.tags.is_empty() {
        changes.push(Change::add(marks::OWN_TAGS, own));
    }
    if let Some(name) = &options.name {
        let name = disk.map_or_else(|| name.clone(), |disk| format!("{name}-{disk}"));
        changes.push(Change::replace("name", name));
    }
    // the other disks are protected once the commit has made a replica of them all
    if options.protected && disk.is_none() {
        changes.push(Change::replace("protected", true));
    }
    Ok(changes)
}

/// The tags of a registered image: ours, and those that a policy asked for.
pub(in crate::openstack) fn all_tags(image: &Image, tags: Tags) -> Tags {
    let own = image.property(marks::OWN_TAGS).and_then(|text| serde_json::from_str::<Tags>(text).ok());
    own.into_iter().flatten().chain(tags).collect()
}

/// Sets something of all disks of a registered image that people see.
pub(super) async fn set(client: &Client, image: &ImageId, key: &str, on: bool, point: &str) -> Result<()> {
    let boot = show(client, image).await?;
    let others = disks_of(&boot).into_iter().map(|disk| disk.image).filter(|other| *other != boot.id);
    for id in others.chain([boot.id.clone()]) {
        change(client, &id, &[Change::replace(key, on)], point).await?;
    }
    Ok(())
}

pub(super) async fn change(client: &Client, image: &str, changes: &[Change], point: &str) -> Result<()> {
    crash::point(&format!("{point}.before"));
    Glance(client).change(image, changes).await?;
    crash::point(&format!("{point}.after"));
    Ok(())
}

//! What a policy asks of an image, in EC2's words.

use aws_sdk_ec2::types as ec2;
use jiff::Timestamp;
use model::{Error, ImageOptions, Kind, Result, crash};

use super::config::{AwsConfig, Clients};
use super::error::classify;
use super::lock;
use super::snapshot::Held;

/// Tags that there is room for beside ours and the restore point.
const TAGS: usize = 8;
/// Days that a snapshot can be locked for.
const DAYS: u64 = 36_500;
/// Seconds from now at which a deprecation begins.
const SOON: i64 = 120;

/// Refuses what EC2 cannot do, and another key than the site's.
pub(super) fn fits(options: &ImageOptions, config: &AwsConfig) -> Result<()> {
    options.within(cloud::AWS_IMAGE_OPTIONS, "aws")?;
    options.encrypted_by(&format!("what site {} makes", config.site), config.kms_key.as_deref())?;
    let refuse = |what: String, why: &str| Err(Error::new(Kind::Invalid, what).because(why.to_owned()));
    if options.tags.len() > TAGS {
        return refuse(
            format!("cannot tag an image {} times", options.tags.len()),
            "EC2 has room for 8 tags beside ours",
        );
    }
    if let Some(key) = options.tags.keys().find(|key| key.starts_with("aws:") || key.starts_with("replicate:")) {
        return refuse(format!("cannot tag an image with `{key}`"), "tags of that beginning are taken");
    }
    if let Some(account) = options.share.iter().find(|id| id.len() != 12 || !id.bytes().all(|b| b.is_ascii_digit())) {
        return refuse(format!("cannot share an image with `{account}`"), "an account has 12 digits");
    }
    if options.immutability.is_some_and(|time| lock::days(time) > DAYS) {
        return refuse("cannot lock an image for so long".to_owned(), "EC2 locks a snapshot for 36500 days at most");
    }
    Ok(())
}

/// Refuses snapshots that were made with another key, by a configuration that was changed since.
pub(super) fn have_key(held: &[Held], options: &ImageOptions) -> Result<()> {
    held.iter().try_for_each(|it| options.encrypted_by(&format!("snapshot {}", it.id), it.key.as_deref()))
}

/// Gives a registered image what was asked. Repeating it is harmless.
pub(super) async fn apply(clients: &Clients, image: &str, snapshots: &[String], options: &ImageOptions) -> Result<()> {
    for account in &options.share {
        share(clients, image, snapshots, account).await?;
    }
    if options.protected {
        protect(clients, image, true).await?;
    }
    if let Some(time) = options.immutability {
        for snapshot in snapshots {
            lock::lock(clients, snapshot, time).await?;
        }
    }
    Ok(())
}

async fn share(clients: &Clients, image: &str, snapshots: &[String], account: &str) -> Result<()> {
    let operation = format!("cannot share image {image} with account {account}");
    let who = ec2::LaunchPermission::builder().user_id(account).build();
    let change = ec2::LaunchPermissionModifications::builder().add(who).build();
    crash::point("aws.image-share.before");
    let call = clients.ec2.modify_image_attribute().image_id(image).launch_permission(change).send();
    call.await.map_err(|error| classify(&operation, error))?;
    for snapshot in snapshots {
        let who = ec2::CreateVolumePermission::builder().user_id(account).build();
        let change = ec2::CreateVolumePermissionModifications::builder().add(who).build();
        let call = clients.ec2.modify_snapshot_attribute().snapshot_id(snapshot);
        let call = call.attribute(ec2::SnapshotAttributeName::CreateVolumePermission).create_volume_permission(change);
        call.send().await.map_err(|error| classify(&operation, error))?;
    }
    crash::point("aws.image-share.after");
    Ok(())
}

/// Puts protection against deregistration on an image, or takes it off.
pub(super) async fn protect(clients: &Clients, image: &str, on: bool) -> Result<()> {
    crash::point("aws.image-protect.before");
    if on {
        let call = clients.ec2.enable_image_deregistration_protection().image_id(image).with_cooldown(false).send();
        call.await.map_err(|error| classify(format!("cannot protect image {image}"), error))?;
    } else {
        let call = clients.ec2.disable_image_deregistration_protection().image_id(image).send();
        call.await.map_err(|error| classify(format!("cannot take the protection off image {image}"), error))?;
    }
    crash::point("aws.image-protect.after");
    Ok(())
}

/// Deprecates an image, so that nobody but its owner finds it in lists, or takes that back.
pub(super) async fn hide(clients: &Clients, image: &str, hidden: bool, now: Timestamp) -> Result<()> {
    crash::point("aws.image-hide.before");
    if hidden {
        // EC2 takes no instant of the past, and has minutes; for people it is at once
        let at = aws_sdk_ec2::primitives::DateTime::from_secs(now.as_second() + SOON);
        let call = clients.ec2.enable_image_deprecation().image_id(image).deprecate_at(at).send();
        call.await.map_err(|error| classify(format!("cannot hide image {image}"), error))?;
    } else {
        let call = clients.ec2.disable_image_deprecation().image_id(image).send();
        call.await.map_err(|error| classify(format!("cannot show image {image}"), error))?;
    }
    crash::point("aws.image-hide.after");
    Ok(())
}

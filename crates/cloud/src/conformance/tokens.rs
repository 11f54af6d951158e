//! The same token never makes two.

use model::{DiskName, ImageOptions, Role};

use super::content::Content;
use super::{Bench, Check, ensure};
use crate::Resource;

pub(super) async fn source(bench: &Bench<'_>) {
    bench.check("capture.same-token", "the same token finds the same capture", capture(bench)).await;
}

pub(super) async fn target(bench: &Bench<'_>) {
    bench.check("disk.same-token", "the same token gives the same disk, emptied", disk(bench)).await;
    bench.check("register.same-token", "the same token gives the same image", image(bench)).await;
}

/// Exactly one resource; a provider whose listing has no entry fails in the checks of tags.
fn one(found: &[Resource], what: &str) -> Check<()> {
    ensure(found.len() < 2, || format!("the same token made {} {what}s", found.len()))
}

async fn capture(bench: &Bench<'_>) -> Check {
    let first = bench.capture("token", None).await?;
    let second = bench.capture("token", None).await?;
    ensure(first.id == second.id, || format!("captures {} and {} of one token", first.id, second.id))?;
    ensure(first == second, || format!("capture {} changed when it was asked again", first.id))?;
    one(&bench.made("capture", "token").await?, "capture")?;
    Ok(String::new())
}

async fn disk(bench: &Bench<'_>) -> Check {
    let (target, token, name) = (bench.target()?, bench.token("token-disk")?, DiskName::new("vda")?);
    let size = bench.leaves() * disk::LEAF;
    let (first, mut writer) = target.create_disk(&name, size, None, &token).await?;
    writer.write(0, super::content::pattern(1, disk::LEAF).into()).await?;
    drop(writer);
    let (second, writer) = target.create_disk(&name, size, None, &token).await?;
    ensure(first == second, || format!("disks {} and {} of one token", first.id, second.id))?;
    let written = writer.finish().await?;
    ensure(written.root == Content::new(size).root(), || format!("disk {} was not emptied", second.id))?;
    one(&bench.made("disk", "token-disk").await?, "disk")?;
    Ok(String::new())
}

async fn image(bench: &Bench<'_>) -> Check {
    let made = super::write::image(bench, "token-image", 1, Role::Replica).await?;
    let options = ImageOptions::default();
    let again = bench.target()?.register(&made.disks, &made.point, &options, Role::Replica, &made.token).await?;
    ensure(again == made.id, || format!("images {} and {again} of one token", made.id))?;
    one(&bench.made("image", "token-image").await?, "image")?;
    let listed = bench.target()?.images().await?.into_iter().filter(|(id, _)| *id == made.id).count();
    ensure(listed == 1, || format!("image {} is listed {listed} times", made.id))?;
    Ok(String::new())
}

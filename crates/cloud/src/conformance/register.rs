//! Registering is the commit point: before it nothing looks like a replica, after it the image tells its whole story.

use disk::LEAF;
use model::{DiskName, ImageId, ImageOptions, Kind, PointDisk, Role};

use super::content::Content;
use super::{Bench, Check, Stop, ensure, write};
use crate::ImageDisk;

pub(super) async fn check(bench: &Bench<'_>) {
    bench.check("register.commits", "nothing is a replica before it is registered", commits(bench)).await;
    bench.check("register.point", "an image carries its whole restore point", carries(bench)).await;
    bench.check("register.scratch", "a scratch image is not taken for a replica", scratch(bench)).await;
    bench.check("register.absent", "an image of absent disks is refused", absent_disk(bench)).await;
    bench.check("image.absent", "an absent image is told as such", absent_image(bench)).await;
}

async fn commits(bench: &Bench<'_>) -> Check {
    let (target, token, name) = (bench.target()?, bench.token("commit")?, DiskName::new("vda")?);
    let size = bench.leaves() * LEAF;
    let (_, writer) = target.create_disk(&name, size, None, &token).await?;
    writer.finish().await?;
    let early = bench.made("image", "commit").await?;
    ensure(early.is_empty(), || "an image exists before it was registered".to_owned())?;
    let scratch = bench.made("disk", "commit").await?.iter().all(|resource| resource.role == Role::Scratch);
    ensure(scratch, || "a disk that is not registered has the role of a replica".to_owned())?;
    Ok(String::new())
}

async fn carries(bench: &Bench<'_>) -> Check {
    let made = write::image(bench, "point", 16, Role::Replica).await?;
    let images = bench.target()?.images().await?;
    match images.iter().find(|(id, _)| *id == made.id) {
        None => Err(Stop::Failed(format!("image {} is not listed", made.id))),
        Some((_, point)) if *point == made.point => Ok(format!("{} images", images.len())),
        Some(_) => Err(Stop::Failed(format!("image {} carries another point than it was given", made.id))),
    }
}

async fn scratch(bench: &Bench<'_>) -> Check {
    let made = write::image(bench, "scratch", 20, Role::Scratch).await?;
    let listed = bench.target()?.images().await?.iter().any(|(id, _)| *id == made.id);
    ensure(!listed, || format!("scratch image {} is listed as a replica", made.id))?;
    write::reads_as(bench, &made).await?;
    let roles: Vec<Role> = bench.made("image", "scratch").await?.iter().map(|resource| resource.role).collect();
    ensure(roles == [Role::Scratch], || format!("scratch image {} has the roles {roles:?}", made.id))?;
    Ok(String::new())
}

async fn absent_disk(bench: &Bench<'_>) -> Check {
    let (name, size) = (DiskName::new("vda")?, bench.leaves() * LEAF);
    let disks = [ImageDisk { name: name.clone(), id: "conformance-no-such-disk".to_owned() }];
    let point = bench.point(vec![PointDisk { name, size, root: Content::new(size).root() }])?;
    let (token, options) = (bench.token("absent-disk")?, ImageOptions::default());
    let answer = bench.target()?.register(&disks, &point, &options, Role::Scratch, &token).await;
    match answer {
        Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Invalid) => Ok(String::new()),
        Err(error) => Err(Stop::Failed(format!("it is refused for another reason: {}", error.chain()))),
        Ok(_) => Err(Stop::Failed("an image of a disk that does not exist was registered".to_owned())),
    }
}

async fn absent_image(bench: &Bench<'_>) -> Check {
    let absent = ImageId::new("conformance-no-such-image")?;
    match bench.target()?.open_image(&absent, &DiskName::new("vda")?).await.err() {
        Some(error) if error.kind() == Kind::NotFound => Ok(String::new()),
        Some(error) => Err(Stop::Failed(format!("it is told otherwise: {}", error.chain()))),
        None => Err(Stop::Failed("an image that does not exist was opened".to_owned())),
    }
}

//! What a policy asks of an image is there, and what a site cannot do is refused rather than forgotten.

use disk::LEAF;
use model::{DiskName, ImageOption, ImageOptions, Kind, PointDisk, Role, Tags};

use super::write::{self, Made};
use super::{Bench, Check, Stop, ensure, skip};

pub(super) async fn check(bench: &Bench<'_>) {
    bench.check("options.tags", "tags of a policy are on the image, and take none of ours away", tags(bench)).await;
    bench.check("options.protected", "a protected image stays until its protection is off", protected(bench)).await;
    bench.check("options.hidden", "an image off people's lists is still listed to us", hidden(bench)).await;
    bench.check("options.refused", "what the site cannot do is refused", refused(bench)).await;
}

fn offered(bench: &Bench<'_>, option: ImageOption) -> Check<()> {
    match bench.target()?.image_options().contains(&option) {
        true => Ok(()),
        false => skip("the site does not have that"),
    }
}

async fn image(bench: &Bench<'_>, step: &str, options: ImageOptions) -> Check<Made> {
    write::image_as(bench, step, 44, Role::Replica, &options).await
}

async fn tags(bench: &Bench<'_>) -> Check {
    offered(bench, ImageOption::Tags)?;
    let own = Tags::from([("team".to_owned(), "recovery".to_owned())]);
    let step = "options-tags";
    let made = image(bench, step, ImageOptions { tags: own.clone(), ..ImageOptions::default() }).await?;
    let found = bench.made("image", step).await?;
    let [resource] = found.as_slice() else {
        return Err(Stop::Failed(format!("image {} is listed {} times under its tags", made.id, found.len())));
    };
    for (key, value) in own.iter().chain(&made.token.tags(Role::Replica)) {
        let has = resource.tags.get(key);
        ensure(has == Some(value), || format!("image {}: tag {key} is {has:?}, not {value}", made.id))?;
    }
    Ok(String::new())
}

async fn protected(bench: &Bench<'_>) -> Check {
    offered(bench, ImageOption::Protected)?;
    let step = "options-protected";
    let made = image(bench, step, ImageOptions { protected: true, ..ImageOptions::default() }).await?;
    let found = bench.made("image", step).await?;
    for resource in &found {
        ensure(bench.cloud.delete(resource).await.is_err(), || format!("protected image {} was deleted", made.id))?;
    }
    write::reads_as(bench, &made).await?;
    let target = bench.target()?;
    for on in [true, false, false] {
        target.protect(&made.id, on).await?;
    }
    for resource in &found {
        bench.cloud.delete(resource).await?;
    }
    let left = bench.made("image", step).await?.len();
    ensure(left == 0, || format!("image {} stays though its protection is off", made.id))?;
    Ok(String::new())
}

async fn hidden(bench: &Bench<'_>) -> Check {
    offered(bench, ImageOption::HideOlder)?;
    let made = image(bench, "options-hidden", ImageOptions::default()).await?;
    let target = bench.target()?;
    for hidden in [true, true, false, true] {
        target.hide(&made.id, hidden).await?;
    }
    let listed = target.images().await?.iter().any(|(id, _)| *id == made.id);
    ensure(listed, || format!("hidden image {} is not listed to us", made.id))?;
    write::reads_as(bench, &made).await?;
    let owned = bench.made("image", "options-hidden").await?.len();
    ensure(owned == 1, || format!("hidden image {} is listed {owned} times among what is ours", made.id))?;
    Ok(String::new())
}

async fn refused(bench: &Bench<'_>) -> Check {
    let target = bench.target()?;
    let absent = |options: &ImageOptions| options.asked().iter().all(|o| !target.image_options().contains(o));
    let every = [
        ImageOptions { protected: true, ..ImageOptions::default() },
        ImageOptions { share: vec!["conformance".to_owned()], ..ImageOptions::default() },
        ImageOptions { encryption: Some("conformance".to_owned()), ..ImageOptions::default() },
        ImageOptions { stores: vec!["conformance".to_owned()], ..ImageOptions::default() },
    ];
    let Some(options) = every.into_iter().find(absent) else { return skip("the site has everything") };
    let (name, size, token) = (DiskName::new("vda")?, bench.leaves() * LEAF, bench.token("options-refused")?);
    let (disk, writer) = target.create_disk(&name, size, None, &token).await?;
    let root = writer.finish().await?.root;
    let point = bench.point(vec![PointDisk { name, size, root }])?;
    match target.register(&[disk], &point, &options, Role::Replica, &token).await {
        Err(error) if error.kind() == Kind::Invalid => Ok(error.chain()),
        Err(error) => Err(Stop::Failed(format!("it is refused for another reason: {}", error.chain()))),
        Ok(image) => Err(Stop::Failed(format!("image {image} was registered without what was asked of it"))),
    }
}

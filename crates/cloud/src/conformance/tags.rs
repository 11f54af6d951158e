//! Everything made carries its tags from the moment it exists, or a crash leaves an orphan that nobody finds.

use model::{DiskName, Role, tag};

use super::{Bench, Check, ensure};

pub(super) async fn source(bench: &Bench<'_>) {
    bench.check("capture.tagged", "a capture carries its tags", capture(bench)).await;
}

pub(super) async fn target(bench: &Bench<'_>) {
    bench.check("disk.tagged", "a disk carries its tags before it is written", disk(bench)).await;
    bench.check("image.tagged", "an image carries its tags", image(bench)).await;
}

/// One resource of the step, with all tags of its token and the role.
async fn tagged(bench: &Bench<'_>, kind: &str, step: &str, role: Role) -> Check {
    let token = bench.token(step)?;
    let found = bench.made(kind, step).await?;
    let [resource] = found.as_slice() else {
        let why = format!("{} {kind}s are listed with the tags of step {}, not 1", found.len(), token.step);
        return Err(super::Stop::Failed(why));
    };
    ensure(resource.role == role, || format!("{kind} {} has the role {:?}", resource.id, resource.role))?;
    for (key, value) in token.tags(role) {
        let has = resource.tags.get(&key);
        ensure(has == Some(&value), || format!("{kind} {}: tag {key} is {has:?}, not {value}", resource.id))?;
    }
    Ok(format!("{} with {} and {} more", resource.id, tag::OWNER, resource.tags.len().saturating_sub(1)))
}

async fn capture(bench: &Bench<'_>) -> Check {
    bench.capture("tags", None).await?;
    tagged(bench, "capture", "tags", Role::Scratch).await
}

async fn disk(bench: &Bench<'_>) -> Check {
    let (token, name) = (bench.token("tags-disk")?, DiskName::new("vda")?);
    let size = bench.leaves() * disk::LEAF;
    let (_, writer) = bench.target()?.create_disk(&name, size, None, &token).await?;
    let found = tagged(bench, "disk", "tags-disk", Role::Scratch).await;
    drop(writer);
    found
}

async fn image(bench: &Bench<'_>) -> Check {
    super::write::image(bench, "tags-image", 1, Role::Replica).await?;
    tagged(bench, "image", "tags-image", Role::Replica).await
}

//! What is ours is listed completely, and deleting is repeatable: a sweep finds every leftover of a dead run.

use std::collections::BTreeSet;

use disk::LEAF;
use model::{DiskName, Role};

use super::{Bench, Check, ensure, write};

pub(super) async fn check(bench: &Bench<'_>) {
    bench.check("owned.complete", "everything made is listed", complete(bench)).await;
    bench.check("delete.twice", "deleting deletes, and deleting again is harmless", twice(bench)).await;
}

/// Makes an unfinished disk with a step of its own.
async fn disk(bench: &Bench<'_>, step: &str) -> Check<()> {
    let size = bench.leaves() * LEAF;
    let made = bench.target()?.create_disk(&DiskName::new("vda")?, size, None, &bench.token(step)?).await?;
    drop(made);
    Ok(())
}

async fn complete(bench: &Bench<'_>) -> Check {
    let steps = ["owned-1", "owned-2", "owned-3"];
    for step in steps {
        disk(bench, step).await?;
    }
    write::image(bench, "owned-image", 28, Role::Replica).await?;
    for (kind, step) in steps.map(|step| ("disk", step)).into_iter().chain([("image", "owned-image")]) {
        let found = bench.made(kind, step).await?.len();
        ensure(found == 1, || format!("the {kind} of step {step} is listed {found} times"))?;
    }
    let all = bench.mine().await?;
    let ids: BTreeSet<(&str, &str)> = all.iter().map(|r| (r.kind.as_str(), r.id.as_str())).collect();
    ensure(ids.len() == all.len(), || "a resource is listed twice".to_owned())?;
    Ok(format!("{} resources", all.len()))
}

async fn twice(bench: &Bench<'_>) -> Check {
    disk(bench, "delete").await?;
    let kept = write::image(bench, "delete-kept", 32, Role::Replica).await?;
    let gone = write::image(bench, "delete-image", 36, Role::Replica).await?;
    for (kind, step) in [("disk", "delete"), ("image", "delete-image")] {
        let found = bench.made(kind, step).await?;
        ensure(!found.is_empty(), || format!("the {kind} of step {step} is not listed"))?;
        for resource in &found {
            bench.cloud.delete(resource).await?;
        }
        let left = bench.made(kind, step).await?.len();
        ensure(left == 0, || format!("the {kind} of step {step} is still listed after deletion"))?;
        for resource in &found {
            bench.cloud.delete(resource).await?;
        }
    }
    ensure(bench.target()?.open_image(&gone.id, &DiskName::new("vda")?).await.is_err(), || {
        format!("image {} can be opened after deletion", gone.id)
    })?;
    write::reads_as(bench, &kept).await?;
    Ok(String::new())
}

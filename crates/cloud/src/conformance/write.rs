//! Bytes arrive as they were written: without a base the rest is zero, with one it is the base's, and zeroes are data.

use disk::{DiskWrite, LEAF, Written};
use model::{DiskName, ImageId, ImageOptions, PointDisk, RestorePoint, Role, Token};

use super::content::{Content, pattern};
use super::{Bench, Check, Stop, ensure};
use crate::ImageDisk;

pub(super) async fn check(bench: &Bench<'_>) {
    bench.check("write.roots", "an image reads back what was written", read_back(bench)).await;
    bench.check("write.base", "a base is kept where nothing arrives, and zeroes replace it", on_base(bench)).await;
    bench.check("write.has-leaf", "a writer claims only leaves that it has", has_leaf(bench)).await;
    bench.check("write.bounds", "a write behind the end is refused", bounds(bench)).await;
}

/// An image that a check made.
pub(super) struct Made {
    pub(super) id: ImageId,
    pub(super) disks: Vec<ImageDisk>,
    pub(super) point: RestorePoint,
    pub(super) token: Token,
    pub(super) content: Content,
}

fn vda() -> Check<DiskName> {
    Ok(DiskName::new("vda")?)
}

/// Writes data at some leaves, hands in zeroes at others, and leaves the rest alone.
async fn fill(mut writer: Box<dyn DiskWrite>, content: &mut Content, seed: u64, leaves: u64) -> Check<Written> {
    for index in 0..leaves {
        let offset = index * LEAF;
        match (index + seed) % 8 {
            0 | 3 | 6 => {
                let data = pattern(seed * 1000 + index, LEAF);
                content.put(offset, &data);
                writer.write(offset, data.into()).await?;
            }
            1 | 4 => {
                content.put(offset, &vec![0; LEAF as usize]);
                writer.zero(offset, LEAF).await?;
            }
            _ => {}
        }
    }
    Ok(writer.finish().await?)
}

/// Makes an image of one disk with data, from scratch.
pub(super) async fn image(bench: &Bench<'_>, step: &str, seed: u64, role: Role) -> Check<Made> {
    build(bench, step, seed, role, None, &ImageOptions::default()).await
}

/// The same, with what a policy asks of it.
pub(super) async fn image_as(
    bench: &Bench<'_>,
    step: &str,
    seed: u64,
    role: Role,
    options: &ImageOptions,
) -> Check<Made> {
    build(bench, step, seed, role, None, options).await
}

async fn build(
    bench: &Bench<'_>,
    step: &str,
    seed: u64,
    role: Role,
    base: Option<&Made>,
    options: &ImageOptions,
) -> Check<Made> {
    let (target, token, name, leaves) = (bench.target()?, bench.token(step)?, vda()?, bench.leaves());
    let size = leaves * LEAF;
    let mut content = base.map_or_else(|| Content::new(size), |made| made.content.clone());
    let (disk, writer) = target.create_disk(&name, size, base.map(|made| &made.id), &token).await?;
    ensure(writer.size() == size, || format!("disk {} has {} bytes, not {size}", disk.id, writer.size()))?;
    let written = fill(writer, &mut content, seed, leaves).await?;
    let root = content.root();
    ensure(written.root == root, || format!("disk {} tells root {}, its bytes have {root}", disk.id, written.root))?;
    let point = bench.point(vec![PointDisk { name, size, root }])?;
    let disks = vec![disk];
    let id = target.register(&disks, &point, options, role, &token).await?;
    Ok(Made { id, disks, point, token, content })
}

/// Compares an image's disk with what it must hold.
pub(super) async fn reads_as(bench: &Bench<'_>, made: &Made) -> Check<()> {
    let reader = bench.target()?.open_image(&made.id, &vda()?).await?;
    let read = Content::read(reader.as_ref()).await?;
    match made.content.difference(&read) {
        None => Ok(()),
        Some(difference) => Err(Stop::Failed(format!("image {}: {difference}", made.id))),
    }
}

async fn read_back(bench: &Bench<'_>) -> Check {
    let made = image(bench, "write", 4, Role::Replica).await?;
    reads_as(bench, &made).await?;
    Ok(format!("root {}", &made.content.root().to_hex()[..12]))
}

async fn on_base(bench: &Bench<'_>) -> Check {
    let base = image(bench, "write-base", 8, Role::Replica).await?;
    // one seed further: zeroes arrive over some of the base's data, data beside it, and some of it is left alone
    let made = build(bench, "write-on-base", 9, Role::Replica, Some(&base), &ImageOptions::default()).await?;
    reads_as(bench, &made).await?;
    reads_as(bench, &base).await?;
    Ok(String::new())
}

async fn has_leaf(bench: &Bench<'_>) -> Check {
    let base = image(bench, "leaf-base", 12, Role::Replica).await?;
    let size = bench.leaves() * LEAF;
    let (_, writer) = bench.target()?.create_disk(&vda()?, size, Some(&base.id), &bench.token("leaf")?).await?;
    let mut known = 0;
    for index in 0..bench.leaves() {
        let own = base.content.leaf(index);
        known += u64::from(writer.has_leaf(index, &own));
        let other = disk::leaf(&pattern(7_777 + index, LEAF));
        ensure(!writer.has_leaf(index, &other), || format!("leaf {index} is claimed though the base has other bytes"))?;
    }
    writer.finish().await?;
    Ok(format!("{known} of {} leaves of the base are known", bench.leaves()))
}

async fn bounds(bench: &Bench<'_>) -> Check {
    let size = bench.leaves() * LEAF;
    let (disk, mut writer) = bench.target()?.create_disk(&vda()?, size, None, &bench.token("bounds")?).await?;
    let accepted = match writer.write(size, pattern(1, LEAF).into()).await {
        Err(_) => false,
        // errors may surface at the end
        Ok(()) => writer.finish().await.is_ok(),
    };
    ensure(!accepted, || format!("disk {} took bytes behind its end", disk.id))?;
    Ok(String::new())
}

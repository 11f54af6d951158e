//! The leaves of written disks, and what they are good for: an update knows what it leaves alone, and a check of an
//! image reads what its making has sent.
//!
//! A record is named by the disk's root, which the point in an image's tags has too: it holds for every image with
//! those bytes. Where it is missing, the base is read once and it is made anew.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use cloud::leaves::InOrder;
use cloud::records::{self, Record};
use disk::{DiskRead, LEAF, Progress, zero_leaf};
use model::{Change, DiskName, DiskRoot, Error, Extent, ExtentList, ImageId, Kind, PointDisk, Result};

use super::super::AzureSite;
use super::super::arm::What;
use super::super::patience::{Patient, patiently};
use super::super::read::BlobDisk;
use super::write::Base;
use super::{copied, image};

/// The root of the disk that a disk was written over, as a tag of its snapshot.
pub(super) const BASE: &str = "replicate:base";
/// Of what was copied one leaf of so many is read, ...
const SAMPLE: u64 = 128;
/// ... and so many of a disk at most, which are 16 MiB.
const MOST: u64 = 256;
/// Extents of one page.
const PAGE: usize = 1024;

/// Where the record of that name is: a root's, or while a disk is written, the disk's.
pub(super) fn path(scratch: &Path, name: &str) -> PathBuf {
    scratch.join("azure-leaves").join(name)
}

fn of_root(scratch: &Path, root: &DiskRoot) -> PathBuf {
    path(scratch, &root.to_string())
}

/// Puts the record of a written disk in its place. Answers the disk's root.
pub(super) async fn finish(leaves: InOrder, scratch: &Path) -> Result<DiskRoot> {
    leaves.finish_at(|root| of_root(scratch, root)).await
}

/// Forgets a disk of an image that is deleted. Another one of the same bytes has its record made anew.
pub(super) fn forget(scratch: &Path, root: &DiskRoot) {
    // absent is success; a leftover costs a file
    let _ = std::fs::remove_file(of_root(scratch, root));
}

/// A reader of an image's disk.
pub(super) async fn reader(site: &AzureSite, image: &ImageId, disk: &DiskName) -> Result<(BlobDisk, DiskRoot)> {
    let client = site.client()?;
    let (snapshot, known) = image::disk_of(client, image, disk).await?;
    let access = site.accesses.open(client, What::Snapshot, &snapshot, false).await?;
    let name = format!("disk {disk} of image {image} at {}", site.config.site);
    Ok((BlobDisk { http: client.http.clone(), access, since: None, size: known.size, name }, known.root))
}

/// A disk of an image as the base of another one.
pub(super) async fn base(site: &AzureSite, image: &ImageId, disk: &DiskName) -> Result<Base> {
    let (reader, root) = reader(site, image, disk).await?;
    let reader = Patient(reader);
    let record = records::of(&reader, &of_root(&site.config.scratch, &root)).await?;
    Ok(Base { access: reader.0.access, record, root })
}

/// Makes sure of what an image's disk holds, at a cost in proportion to the change; see [`cloud::Target::check_written`].
///
/// * Of one that was written over a base what was sent is read back. What the service copied it has checked by our sums
///   on the way; whether all of it is there is looked at, and a sample of it is read.
/// * One that Azure copied from another region is checked whole by the service, again by our sums (`copied`).
pub(super) async fn check(
    site: &AzureSite,
    image: &ImageId,
    disk: &PointDisk,
    progress: &dyn Progress,
) -> Result<Option<u64>> {
    let client = site.client()?;
    // the decorator does not repeat this one as a whole
    let (name, _) = patiently("look at an image", || image::disk_of(client, image, &disk.name)).await?;
    let Some(found) = patiently("look at a snapshot", || client.find(What::Snapshot, &name)).await? else {
        return Ok(None);
    };
    let (base, is_copy) = (found.tags.get(BASE), copied::is_copy(&found));
    if base.is_none() && !is_copy {
        return Ok(None);
    }
    let (reader, root) = patiently("open an image", || reader(site, image, &disk.name)).await?;
    let damaged = |why: String| Error::new(Kind::Damaged, format!("image {image} is damaged")).because(why);
    if root != disk.root || reader.size() != disk.size {
        return Err(damaged(format!("disk {} is of another point", disk.name)));
    }
    let scratch = &site.config.scratch;
    let Some(new) = Record::open(of_root(scratch, &root), disk.size).await else { return Ok(None) };
    let reader = Patient(reader);
    if is_copy {
        let compared = copied::compare(site, &found, &reader, &new, progress).await;
        return compared.map(Some).map_err(|error| error.within(format!("cannot trust image {image}")));
    }
    let Some(base) = base else { return Ok(None) };
    let Some(old) = Record::any(path(scratch, base)).await else { return Ok(None) };
    if let Some(index) = missing(&reader, &new).await? {
        return Err(damaged(format!("nothing is at {} of disk {}, where there were bytes", index * LEAF, disk.name)));
    }
    let stride = (disk.size.div_ceil(LEAF) / MOST).max(SAMPLE);
    let changes = Changes { reader, old, new, stride, phase: rand::random_range(0..stride) };
    let (root, read) = records::read(&changes, Some(&changes.new), None, progress).await?;
    if root == disk.root {
        return Ok(Some(read));
    }
    Err(damaged(format!("disk {} has root {root}, not {}", disk.name, disk.root)))
}

/// A leaf that must hold something and lies where nothing was ever written.
async fn missing(reader: &dyn DiskRead, record: &Record) -> Result<Option<u64>> {
    let mut at = 0;
    while at < reader.size() {
        let list = reader.extents(at).await?;
        for hole in list.as_slice().iter().filter(|extent| extent.change == Change::Zero) {
            for index in hole.offset.div_ceil(LEAF)..hole.end() / LEAF {
                if record.leaf(index)? != zero_leaf() {
                    return Ok(Some(index));
                }
            }
        }
        at = list.as_slice().last().map_or(reader.size(), Extent::end);
    }
    Ok(None)
}

/// A disk of which those leaves are listed that differ from its base, and a few that do not.
struct Changes {
    reader: Patient<BlobDisk>,
    old: Record,
    new: Record,
    /// Which of the equal ones: one of so many, and which.
    stride: u64,
    phase: u64,
}

#[async_trait]
impl DiskRead for Changes {
    fn size(&self) -> u64 {
        self.reader.size()
    }

    async fn extents(&self, from: u64) -> Result<ExtentList> {
        let (mut list, mut index) = (ExtentList::new(), from / LEAF);
        while index * LEAF < self.size() && list.as_slice().len() < PAGE {
            let new = self.new.leaf(index)?;
            let sampled = index % self.stride == self.phase && new != zero_leaf();
            if sampled || new != self.old.leaf(index)? {
                let start = index * LEAF;
                list.push(Extent::data(start, LEAF.min(self.size() - start)));
            }
            index += 1;
        }
        Ok(list)
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        self.reader.read_at(offset, len).await
    }

    fn is_incremental(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        self.reader.describe()
    }
}

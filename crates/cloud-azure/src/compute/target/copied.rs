//! Whether a snapshot that Azure copied from another region holds what the image's record says, without reading it here:
//! the service is asked to copy every page of it once more, into a disk that is thrown away, and checks them by our sums.
//! Nothing may lie where the snapshot lists nothing.
//!
//! A process that dies leaves the disk, which is scratch of the copy's own run.

use cloud::records::Record;
use disk::{DiskRead, LEAF, Progress, zero_leaf};
use model::{Change, Error, Extent, Kind, Result, Role, Tags, tag};

use super::super::arm::{Shown, What};
use super::super::patience::{Patient, patiently};
use super::super::read::BlobDisk;
use super::super::{AzureSite, marks, vhd};
use super::flight::Flight;
use super::write;

/// Whether Azure has copied a snapshot from another region.
pub(super) fn is_copy(snapshot: &Shown) -> bool {
    snapshot.text("/creationData/createOption") == Some("CopyStart")
}

/// Compares. Answers how many bytes were; [`Kind::Damaged`] if the snapshot holds others.
pub(super) async fn compare(
    site: &AzureSite,
    snapshot: &Shown,
    reader: &Patient<BlobDisk>,
    record: &Record,
    progress: &dyn Progress,
) -> Result<u64> {
    let (client, name) = (site.client()?, format!("{}-k", snapshot.name));
    let (_, mut tags) = marks::ours(&snapshot.tags).unwrap_or((Role::Scratch, Tags::new()));
    tags.insert(tag::ROLE.to_owned(), "scratch".to_owned());
    tags.insert(marks::PART.to_owned(), "check".to_owned());
    let full = vhd::disk_size(reader.size()).ok_or_else(|| {
        Error::new(Kind::Invalid, format!("cannot check snapshot {}", snapshot.name))
            .because("it is larger than a disk")
    })?;
    // the decorator does not repeat any of this
    let to = patiently("make a disk", || write::empty(site, &name, &tags, full)).await?;
    let from = patiently("open a copy", || site.accesses.open(client, What::Snapshot, &snapshot.name, false)).await?;
    let mut flight = Flight::new(client.http.clone(), to, Some(from));
    let compared = every_page(&mut flight, reader, record, progress).await;
    let copied = flight.copied;
    drop(flight);
    patiently("delete a disk", || client.delete(What::Disk, &name)).await?;
    compared.map(|()| copied)
}

/// Has everything that is listed copied, each leaf by its sum.
async fn every_page(
    flight: &mut Flight,
    reader: &dyn DiskRead,
    record: &Record,
    progress: &dyn Progress,
) -> Result<()> {
    progress.expect(reader.size());
    let (mut at, mut next) = (0, 0);
    while at < reader.size() {
        let list = reader.extents(at).await?;
        for extent in list.as_slice() {
            if extent.change == Change::Zero {
                for index in (extent.offset.div_ceil(LEAF)..extent.end() / LEAF).filter(|index| *index >= next) {
                    if record.leaf(index)? != zero_leaf() {
                        return Err(Error::new(Kind::Damaged, format!("{} is no copy", reader.describe()))
                            .because(format!("nothing is at {}, where there were bytes", index * LEAF)));
                    }
                }
            } else {
                for index in (extent.offset / LEAF).max(next)..extent.end().div_ceil(LEAF) {
                    flight.copy(index, record.noted(index)?.crc).await?;
                    next = index + 1;
                }
            }
            progress.looked(extent.len);
        }
        at = list.as_slice().last().map_or(reader.size(), Extent::end);
    }
    flight.landed().await
}

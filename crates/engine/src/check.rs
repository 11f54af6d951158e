//! Reading a disk back to tell its root.

use disk::{Discard, DiskRead};
use model::{DiskRoot, Error, Kind, Result};

/// Reads everything and tells the root of what was read.
pub(crate) async fn root_of(reader: &dyn DiskRead, progress: &dyn disk::Progress) -> Result<DiskRoot> {
    if reader.is_incremental() {
        return Err(
            Error::new(Kind::Permanent, format!("cannot check {}", reader.describe())).because("it lists changes only")
        );
    }
    let writer = Discard::with_root(reader.size());
    let results = disk::transfer(reader, vec![Box::new(writer)], progress).await?;
    match results.into_iter().next() {
        Some(written) => Ok(written?.root),
        None => Err(Error::new(Kind::Permanent, format!("cannot check {}", reader.describe()))),
    }
}

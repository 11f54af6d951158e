//! The store's time: no decision to delete may rest on this machine's clock.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use model::{Error, Kind, Result};

use crate::bucket::{Bucket, Put};
use crate::layout::CLOCK;

/// Age at which the mark of somebody who read the clock belongs to a dead one.
const DEAD_MARK: Duration = Duration::from_secs(24 * 3600);

/// The instant that lies `age` before the store's now. Asks the store for its time by making an object, and takes it away
/// again.
pub(crate) async fn before(bucket: &dyn Bucket, age: Duration) -> Result<Timestamp> {
    let mark = format!("{CLOCK}{:032x}", rand::random::<u128>());
    bucket.put(&mark, Bytes::from_static(b"the collector reads the store's time here"), Put::CreateOnly).await?;
    let marks = bucket.list(CLOCK).await?;
    let now = marks.iter().find(|object| object.key == mark).map(|object| object.modified);
    let before = |age: Duration| now.and_then(|now| now.checked_sub(age).ok());
    let (Some(bound), Some(left_over)) = (before(age), before(age.max(DEAD_MARK))) else {
        let what = format!("cannot read the time of {}", bucket.describe());
        return Err(Error::new(Kind::Transient, what).because("the listing does not show an object that was just made"));
    };
    // a young mark of somebody else is a collector that looks for it right now
    for object in marks.iter().filter(|object| object.key == mark || object.modified <= left_over) {
        bucket.delete(&object.key).await?;
    }
    Ok(bound)
}

//! Images that nobody deletes for a while: the immutability policy of each of their snapshots, set and then locked.
//!
//! It is set after the commit, by the same step: a snapshot that is locked before it is anybody's image could not be swept.
//! A process that dies in between registers again, finds the image, and locks what is not locked yet.

use std::time::Duration;

use model::{Error, Kind, Result};
use serde_json::json;

use super::super::arm::What;
use super::super::http::Client;
use super::image::snapshot;

const DAY: u64 = 86_400;

/// Keeps the snapshots of an image of so many disks, the boot disk's last and so the longest: it is deleted first.
pub(in crate::compute) async fn keep(client: &Client, image: &str, disks: usize, time: Duration) -> Result<()> {
    let days = time.as_secs().div_ceil(DAY).max(1);
    let days = u32::try_from(days).map_err(|error| {
        Error::new(Kind::Invalid, format!("cannot keep image {image}")).because(format!("{days} days: {error}"))
    })?;
    for name in (0..disks).rev().map(|place| snapshot(image, place)) {
        let operation = || format!("cannot keep snapshot {name}");
        let found = client
            .find_kept(&name)
            .await?
            .ok_or_else(|| Error::new(Kind::NotFound, operation()).because("it does not exist"))?;
        let number = |path: &str| found.properties.pointer(path).and_then(serde_json::Value::as_u64);
        let known = number("/immutabilityPolicy/immutabilityDurationDays").unwrap_or_default();
        let is_locked = found.text("/immutabilityPolicy/type") == Some("Locked");
        if is_locked && known >= u64::from(days) {
            continue;
        }
        let policy = |kind: &str| json!({ "immutabilityDurationDays": days, "type": kind });
        if !is_locked {
            client.act(What::Snapshot, &name, "updateImmutabilityPolicy", &policy("Unlocked")).await?;
        }
        client.act(What::Snapshot, &name, "updateImmutabilityPolicyLock", &policy("Locked")).await?;
    }
    Ok(())
}

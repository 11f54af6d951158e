//! Images that nobody deletes for a while: each of their snapshots is locked in compliance mode, which no right takes
//! off. EC2 would still let go of the image itself, so whoever deletes one asks for the locks first.

use std::time::Duration;

use aws_sdk_ec2::types as ec2;
use model::{Error, Kind, Result, crash};

use super::config::Clients;
use super::error::classify;

const DAY: u64 = 86_400;

/// EC2 locks for whole days.
pub(super) fn days(time: Duration) -> u64 {
    (time.as_secs() + u64::from(time.subsec_nanos() > 0)).div_ceil(DAY)
}

/// Locks a snapshot from now on. Repeating it makes the time no shorter.
pub(super) async fn lock(clients: &Clients, snapshot: &str, time: Duration) -> Result<()> {
    let operation = || format!("cannot lock snapshot {snapshot}");
    let days = i32::try_from(days(time)).map_err(|error| Error::new(Kind::Invalid, operation()).because(error))?;
    crash::point("aws.snapshot-lock.before");
    let call = clients.ec2.lock_snapshot().snapshot_id(snapshot).lock_mode(ec2::LockMode::Compliance);
    call.lock_duration(days).send().await.map_err(|error| classify(operation(), error))?;
    crash::point("aws.snapshot-lock.after");
    Ok(())
}

/// Refuses what has a locked snapshot.
pub(super) async fn refuse_if_locked(clients: &Clients, image: &str, snapshots: &[String]) -> Result<()> {
    if snapshots.is_empty() {
        return Ok(());
    }
    let operation = format!("cannot delete image {image}");
    let call = clients.ec2.describe_locked_snapshots().set_snapshot_ids(Some(snapshots.to_vec()));
    let answer = call.send().await.map_err(|error| classify(&operation, error))?;
    let locked = |it: &&ec2::LockedSnapshotsInfo| it.lock_state() != Some(&ec2::LockState::Expired);
    let Some(held) = answer.snapshots().iter().find(locked) else { return Ok(()) };
    let until = held.lock_expires_on().and_then(|at| jiff::Timestamp::from_second(at.secs()).ok());
    let until = until.map_or_else(|| "nobody knows when".to_owned(), |until| until.to_string());
    Err(Error::new(Kind::Denied, operation)
        .because(format!("snapshot {} is immutable until {until}", held.snapshot_id().unwrap_or_default()))
        .hint("wait until its lock has expired"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_whole_and_never_too_few() {
        let days = |seconds| days(Duration::from_secs(seconds));
        assert_eq!((days(1), days(DAY), days(DAY + 1), days(30 * DAY)), (1, 1, 2, 30));
    }
}

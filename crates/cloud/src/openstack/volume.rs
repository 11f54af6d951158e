//! Deleting volumes: those that captures are read through, and those of servers that were launched.

use model::{Result, crash};

use super::api::cinder::Cinder;
use super::http::Client;
use super::wait::{Attempts, Bound};

/// Deletes a volume and waits until it is gone: what it was made of cannot be deleted everywhere before. Absent is
/// success.
pub(super) async fn remove(client: &Client, id: &str, bound: &mut Bound) -> Result<()> {
    let (cinder, mut attempts) = (Cinder(client), Attempts::default());
    while let Some(volume) = bound.look(|| cinder.volume(id)).await? {
        let (what, state) = (format!("volume {id}"), volume.status);
        // what works on it comes to an end by itself
        if !["creating", "downloading", "uploading", "detaching", "deleting"].contains(&state.as_str()) {
            attempts.next(bound, &what, &state)?;
            crash::point("openstack.volume-delete.before");
            cinder.delete_volume(id).await?;
            crash::point("openstack.volume-delete.after");
        }
        bound.pause(&format!("{what} is {state}")).await?;
    }
    Ok(())
}

//! The reference provider: a whole cloud in memory, with faults as data.
//!
//! All handles of one cloud share its state, so that a second handle is what a restarted process sees. Tests write to
//! servers' disks, switch servers off or kill them, script how images boot, and add [`Rule`]s for what goes wrong.

mod boot;
mod bytes;
mod fault;
mod hands;
mod keep;
mod relay;
mod source;
mod state;
mod stream;
mod switch;
mod target;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use model::{CaptureId, Clock, Error, ImageId, InstanceId, Kind, Result, SiteName, crash};

pub use boot::BootScript;
pub use fault::{Fault, Hit, Promise, Rule};

pub use target::IMAGE_OPTIONS;

use crate::{Cloud, Relay, Resource, Source, Switch, Target};
use fault::{Entered, Faults};
use keep::Folder;
use state::Inner;

/// Locks, also after a panic of another holder: a test that failed elsewhere is not hidden by a second panic here.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct State {
    inner: Mutex<Inner>,
    faults: Faults,
    clock: Arc<dyn Clock>,
    folder: Option<Folder>,
    /// The clouds that images can be copied from, by their site. Not kept: they are other processes' to hold.
    links: Mutex<BTreeMap<String, Weak<State>>>,
    lag: Mutex<Duration>,
}

impl State {
    fn new(inner: Inner, clock: Arc<dyn Clock>, folder: Option<Folder>) -> Arc<Self> {
        let (inner, faults, links) = (Mutex::new(inner), Faults::default(), Mutex::default());
        Arc::new(Self { inner, faults, clock, folder, links, lag: Mutex::default() })
    }
}

/// Calls after which there is nothing new to keep. A scratch disk is kept when it is finished; what a killed process
/// has written to it before is lost, as it is on its way to a real disk.
const LOOKS: [&str; 15] = [
    "servers",
    "describe",
    "open",
    "read",
    "extents",
    "write",
    "zero",
    "open_image",
    "images",
    "probe",
    "console",
    "execute",
    "owned",
    "peer",
    "route",
];

/// A cloud in memory. Clones are handles of the same cloud.
#[derive(Clone)]
pub struct MemoryCloud {
    site: SiteName,
    state: Arc<State>,
}

impl std::fmt::Debug for MemoryCloud {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryCloud").field("site", &self.site).finish_non_exhaustive()
    }
}

impl MemoryCloud {
    /// An empty cloud.
    pub fn new(site: SiteName, clock: Arc<dyn Clock>) -> Self {
        Self { site, state: State::new(Inner::default(), clock, None) }
    }

    /// The cloud that is kept in a folder; an empty one if there is none yet. It outlives the process, so that a test can
    /// kill it. Faults are not kept.
    pub fn kept(site: SiteName, clock: Arc<dyn Clock>, folder: &Path) -> Result<Self> {
        let (folder, inner) = Folder::open(folder)?;
        Ok(Self { site, state: State::new(inner, clock, Some(folder)) })
    }

    /// Adds a fault.
    pub fn inject(&self, rule: Rule) {
        self.state.faults.add(rule);
    }

    /// Removes all faults; the log of hits stays.
    pub fn heal(&self) {
        self.state.faults.clear();
    }

    /// Says that lists may leave out what is younger. That they do is a fault.
    pub fn set_lag(&self, lag: Duration) {
        *locked(&self.state.lag) = lag;
    }

    /// Every fault that happened.
    pub fn hits(&self) -> Vec<Hit> {
        self.state.faults.hits()
    }

    /// The name of every call that arrived, in order: what a step repeated, what a plan cost.
    pub fn calls(&self) -> Vec<String> {
        self.state.faults.calls()
    }

    /// One call of the provider: faults, effect, faults.
    async fn call<T: Send>(
        &self,
        operation: &'static str,
        effect: impl FnOnce(&mut Inner, &Entered<'_>) -> Result<T> + Send,
    ) -> Result<T> {
        let entered = self.state.faults.enter(operation).await?;
        let answer = if LOOKS.contains(&operation) {
            effect(&mut locked(&self.state.inner), &entered)?
        } else {
            self.changed(operation, |inner| effect(inner, &entered))?
        };
        entered.leave().await?;
        Ok(answer)
    }

    /// An effect of the provider, kept, between two crash points.
    fn changed<T>(&self, operation: &str, effect: impl FnOnce(&mut Inner) -> Result<T>) -> Result<T> {
        crash::point(&format!("memory.{operation}.before"));
        let answer = {
            let mut inner = locked(&self.state.inner);
            let answer = effect(&mut inner);
            // also a failed call may have had a part of its effect
            if let Some(folder) = &self.state.folder {
                folder.save(&mut inner)?;
            }
            answer?
        };
        crash::point(&format!("memory.{operation}.after"));
        Ok(answer)
    }
}

#[async_trait]
impl Cloud for MemoryCloud {
    fn site(&self) -> &SiteName {
        &self.site
    }

    fn kind(&self) -> &'static str {
        "memory"
    }

    fn source(&self) -> Option<&dyn Source> {
        Some(self)
    }

    fn switch(&self) -> Option<&dyn Switch> {
        (!locked(&self.state.inner).no_switch).then_some(self as &dyn Switch)
    }

    fn target(&self) -> Option<&dyn Target> {
        Some(self)
    }

    fn relay(&self) -> Option<&dyn Relay> {
        let alone = locked(&self.state.links).is_empty();
        (!alone).then_some(self as &dyn Relay)
    }

    fn lag(&self) -> Duration {
        *locked(&self.state.lag)
    }

    async fn owned(&self) -> Result<Vec<Resource>> {
        self.call("owned", |inner, call| {
            let mut all: Vec<Resource> = inner.tagged().into_iter().map(|(_, resource)| resource).collect();
            all.truncate(all.len().saturating_sub(call.stale()));
            if call.breaks(Promise::OwnedComplete) {
                all.pop();
            }
            Ok(all)
        })
        .await
    }

    async fn delete(&self, resource: &Resource) -> Result<()> {
        self.call("delete", |inner, call| {
            if call.breaks(Promise::Deleted) {
                return Ok(());
            }
            let found = remove(inner, resource, self.state.clock.now())?;
            if !found && call.breaks(Promise::AbsentIsSuccess) {
                return Err(Error::new(Kind::NotFound, format!("cannot delete {} {}", resource.kind, resource.id)));
            }
            Ok(())
        })
        .await
    }
}

/// Removes a resource of any kind and tells whether it was there.
fn remove(inner: &mut Inner, resource: &Resource, now: Timestamp) -> Result<bool> {
    let id = resource.id.as_str();
    Ok(match resource.kind.as_str() {
        "capture" => {
            let id = CaptureId::new(id)?;
            let held = inner.captures.get(&id).map(|p| (p.capture.server.clone(), p.capture.cursor.clone()));
            let frozen = inner.servers.iter().find(|(_, m)| m.frozen.as_ref().is_some_and(|(by, _)| *by == id));
            match held.or_else(|| frozen.map(|(name, _)| (name.clone(), None))) {
                Some((server, cursor)) => {
                    inner.end_capture(&id, &server, cursor.as_ref());
                    true
                }
                None => false,
            }
        }
        "disk" => inner.disks.remove(id).is_some(),
        "image" => {
            let id = ImageId::new(id)?;
            if let Some(image) = inner.images.get(&id) {
                target::may_delete(&id, image, now)?;
            }
            inner.images.remove(&id).is_some()
        }
        "instance" => target::destroy(inner, &InstanceId::new(id)?),
        kind => {
            return Err(Error::new(Kind::Invalid, format!("cannot delete {kind} {id}")).because("no such kind here"));
        }
    })
}

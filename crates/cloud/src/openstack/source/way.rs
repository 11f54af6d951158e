//! How one instant of all disks of a server is pinned, and how consistent that instant is: a pure decision, made
//! before anything is created.
//!
//! What the services promise, read in their sources:
//! * `createImage` of a volume-backed server freezes the guest through its agent, asks Cinder for a snapshot of every
//!   volume, waits until none of them is being created any more, and thaws. Whether it could freeze is told nowhere;
//!   only with `os_require_quiesce` in the image properties does a freeze that failed fail the call.
//! * `createImage` of an image-backed server freezes after its mirror is complete, and goes on without if that fails,
//!   whatever the properties say: such an image is a crash-consistent one as far as anyone can tell.
//! * Where volumes are files, Cinder has Nova make the snapshots, and Nova freezes for each of them by itself. In a guest that
//!   `createImage` has frozen already this fails: with `os_require_quiesce` no such image ever comes to pass.
//! * Cinder snapshots of a group whose type is consistent show one instant; other ones are taken one by one.

use model::{Consistency, Error, Kind, Result};

use super::super::api::cinder::Volume;
use super::super::api::nova::Server;
use super::machine::{Disk, Place, Properties, is_true};
use crate::Consistent;

/// How the volumes are pinned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Volumes {
    /// There are none.
    None,
    /// By `createImage`, which makes a snapshot of each.
    Image,
    /// By one snapshot of their group.
    Group(String),
    /// One after another.
    Each,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Way {
    /// Whether the root is read by `createImage`.
    pub(super) root: bool,
    pub(super) volumes: Volumes,
    /// The level that is reached if all goes well.
    pub(super) level: Consistency,
    pub(super) warnings: Vec<String>,
}

/// What a server lets be done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    /// The guest writes.
    Running,
    /// Nothing writes.
    Quiet,
    /// Nothing is known of the guest, and Nova makes no image of it.
    Unknown,
    /// Nothing writes, and Nova makes no image of it.
    Parked,
}

/// Decides. `group` is the group of all volumes, if they are in one whose snapshots are consistent.
pub(super) fn way(
    server: &Server,
    properties: &Properties,
    disks: &[Disk],
    volumes: &[&Volume],
    group: Option<&str>,
    wanted: &Consistent,
) -> Result<Way> {
    let refuse = |because: String, hint: &str| {
        let operation = format!("cannot capture server {} ({})", server.name, server.id);
        Error::new(Kind::Invalid, operation).because(because).hint(hint)
    };
    if let Some(volume) = volumes.iter().find(|volume| volume.encrypted) {
        let why = format!("volume {} is encrypted, and the service hands out its ciphertext only", volume.id);
        return Err(refuse(
            why,
            "move its data to a volume of a type without encryption: the vault encrypts by itself",
        ));
    }
    if disks.iter().all(|disk| disk.place == Place::Blank) {
        return Err(refuse("it has no disk that can be read".to_owned(), "attach a volume, or boot it from an image"));
    }
    let root = disks.iter().any(|disk| disk.place == Place::Root);
    let condition = condition(server);
    if root && matches!(condition, Condition::Unknown | Condition::Parked) {
        let why = format!("Nova makes no image of a server in the state `{}`", server.vm_state);
        return Err(refuse(why, hint_for(&server.vm_state)));
    }
    let running = matches!(condition, Condition::Running | Condition::Unknown);
    let may_image = matches!(condition, Condition::Running | Condition::Quiet);
    let frozen = condition == Condition::Running
        && !root
        && is_true(properties, "hw_qemu_guest_agent")
        && is_true(properties, "os_require_quiesce");
    let wants_files = wanted.level > Consistency::Crash;
    let many = disks.iter().filter(|disk| disk.place != Place::Blank).count() > 1;
    let way = match (volumes.len(), group) {
        (0, _) => Volumes::None,
        _ if wants_files && frozen => Volumes::Image,
        (_, Some(group)) if volumes.len() > 1 => Volumes::Group(group.to_owned()),
        // its freeze, though nobody knows of it, is better than none
        _ if !root && may_image && running && (volumes.len() > 1 || is_true(properties, "hw_qemu_guest_agent")) => {
            Volumes::Image
        }
        _ => Volumes::Each,
    };
    let mut warnings = Vec::new();
    // the hooks of an application run here, around the call that freezes
    let level = if frozen { wanted.level } else { Consistency::Crash };
    if level < wanted.level {
        let why = why_not(root, condition, properties);
        if wanted.required {
            return Err(refuse(format!("its consistency would be {level}, not {}: {why}", wanted.level), QUIESCE));
        }
        warnings.push(format!("consistency is {level}, not {}: {why}", wanted.level));
    }
    let atomic = !running || !many || (!root && (level >= Consistency::Filesystem || matches!(way, Volumes::Group(_))));
    warnings.extend(unsaid(atomic, disks));
    Ok(Way { root, volumes: way, level, warnings })
}

impl Way {
    /// What is left where Nova could not make the snapshots that it was to make: one after another, by Cinder. None: that
    /// is not enough for what is wanted.
    pub(super) fn without_nova(&self, disks: &[Disk], wanted: &Consistent) -> Option<Self> {
        let less = wanted.level > Consistency::Crash;
        if self.volumes != Volumes::Image || (less && wanted.required) {
            return None;
        }
        let why = format!("consistency is {}, not {}: Nova could not freeze it", Consistency::Crash, wanted.level);
        let many = disks.iter().filter(|disk| disk.place != Place::Blank).count() > 1;
        let warnings = less.then_some(why).into_iter().chain(unsaid(!many, disks)).collect();
        Some(Self { root: self.root, volumes: Volumes::Each, level: Consistency::Crash, warnings })
    }
}

/// What the person should know of the disks.
fn unsaid(atomic: bool, disks: &[Disk]) -> Vec<String> {
    let torn = "multi-disk instant not atomic: its disks were pinned one after another";
    let blank = disks.iter().filter(|disk| disk.place == Place::Blank).map(|disk| {
        let name = &disk.spec.name;
        format!("disk {name} is recorded empty: the service has no call that reads it")
    });
    (!atomic).then(|| torn.to_owned()).into_iter().chain(blank).collect()
}

const QUIESCE: &str = "boot it from a volume whose image has `hw_qemu_guest_agent=yes` and `os_require_quiesce=yes`, \
                       or ask for crash consistency";

fn condition(server: &Server) -> Condition {
    match server.vm_state.as_str() {
        "active" => Condition::Running,
        "stopped" | "paused" | "suspended" => Condition::Quiet,
        "shelved" | "shelved_offloaded" => Condition::Parked,
        _ => Condition::Unknown,
    }
}

fn hint_for(vm_state: &str) -> &'static str {
    match vm_state {
        "shelved" | "shelved_offloaded" => "unshelve it: a shelved server is an image already",
        "resized" => "confirm or revert its resize",
        "rescued" => "unrescue it",
        "building" => "wait until it is built",
        "error" => "see its fault with `openstack server show`, then rebuild it or reset its state",
        _ => "bring it into the state `active` or `stopped`",
    }
}

fn why_not(root: bool, condition: Condition, properties: &Properties) -> &'static str {
    match condition {
        Condition::Quiet | Condition::Parked => "whether its file systems were left clean is not known",
        Condition::Unknown => "nothing is known of its guest",
        Condition::Running if !is_true(properties, "hw_qemu_guest_agent") => {
            "its image does not say that there is a guest agent (`hw_qemu_guest_agent`)"
        }
        Condition::Running if root => "Nova does not tell whether it froze a server with a disk of its own",
        Condition::Running => "its image does not require the freeze (`os_require_quiesce`), so Nova may leave it out",
    }
}

#[cfg(test)]
mod tests;

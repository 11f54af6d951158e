//! The operating system on a volume: release, kernels and their drivers, and what it carries that a person should know.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

use ext4_view::Ext4;

use super::window::Window;
use super::{Finding, Inspection, Kernel, System, initramfs};

/// The longest text file that is read.
const TEXT: u64 = 1 << 20;
/// The longest initramfs that is looked into.
const INITRAMFS: u64 = 512 << 20;
/// Entries of a folder that are looked at.
const ENTRIES: usize = 4096;
/// Kernels that are looked into.
const KERNELS: usize = 8;

/// Kinds of disks, and the module that each needs.
const DRIVERS: [(&str, &str); 7] = [
    ("virtio-blk", "virtio_blk"),
    ("virtio-scsi", "virtio_scsi"),
    ("nvme", "nvme"),
    ("sata", "ahci"),
    ("xen", "xen_blkfront"),
    ("hyper-v", "hv_storvsc"),
    ("vmware", "vmw_pvscsi"),
];

/// Text of a guest without what a terminal would act on.
pub(super) fn plain(text: &str) -> String {
    text.chars().take(256).map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Looks for systems on all ext volumes.
pub(super) fn read(window: &Window, found: &mut Inspection) {
    let mut mounted = Vec::new();
    for volume in &found.volumes {
        match volume.content.as_deref() {
            Some("ext2" | "ext3" | "ext4") => match Ext4::load(Box::new(window.part(volume.offset, volume.len))) {
                Ok(ext4) => mounted.push((volume.number, Tree(ext4))),
                Err(error) => {
                    let error = plain(&error.to_string());
                    found.unknown.push(format!("partition {}: cannot read its file system: {error}", volume.number));
                }
            },
            Some(kind @ ("xfs" | "btrfs" | "lvm" | "luks" | "ntfs" | "raid" | "iso9660")) => {
                found.unknown.push(format!("partition {}: {kind} is not looked into", volume.number));
            }
            _ => {}
        }
    }
    let has_swap = found.volumes.iter().any(|volume| volume.content.as_deref() == Some("swap"));
    for (number, tree) in &mounted {
        let Some(release) = ["/etc/os-release", "/usr/lib/os-release"].iter().find_map(|path| tree.text(path)) else {
            continue;
        };
        let mut system = describe(*number, tree, &release);
        let boots = mounted.iter().map(|(_, tree)| tree);
        system.kernels = kernels(tree, boots);
        if has_swap {
            system.findings.push(Finding::new("secret", "a swap partition, which may hold what was in memory"));
        }
        system.findings.sort();
        found.systems.push(system);
    }
}

/// A file system that is read.
struct Tree(Ext4);

impl Tree {
    fn has(&self, path: &str) -> bool {
        self.0.exists(path).unwrap_or(false)
    }

    fn text(&self, path: &str) -> Option<String> {
        let file = self.0.open(path).ok()?;
        let mut bytes = Vec::new();
        Content(file).take(TEXT).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Names in a folder; none if there is no such folder.
    fn names(&self, folder: &str) -> Vec<String> {
        let Ok(entries) = self.0.read_dir(folder) else { return Vec::new() };
        let names = entries.take(ENTRIES).filter_map(|entry| Some(entry.ok()?.file_name().as_str().ok()?.to_owned()));
        let mut names: Vec<String> = names.filter(|name| name != "." && name != "..").collect();
        names.sort();
        names
    }
}

/// A file as a stream.
struct Content(ext4_view::File);

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_bytes(buffer).map_err(|error| io::Error::other(error.to_string()))
    }
}

fn describe(volume: u32, tree: &Tree, release: &str) -> System {
    let field = |key: &str| {
        let line = release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.map(|value| plain(value.trim().trim_matches(['"', '\''])))
    };
    let id = field("ID").unwrap_or_default();
    let version = field("VERSION_ID").unwrap_or_default();
    System {
        volume,
        name: field("PRETTY_NAME").unwrap_or_else(|| id.clone()),
        release: format!("{id} {version}").trim().to_owned(),
        hostname: tree.text("/etc/hostname").map(|name| plain(name.trim())).filter(|name| !name.is_empty()),
        kernels: Vec::new(),
        findings: findings(tree),
    }
}

fn findings(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for line in tree.text("/etc/fstab").unwrap_or_default().lines().map(str::trim) {
        let mut words = line.split_whitespace();
        let (Some(device), Some(at)) = (words.next(), words.next()) else { continue };
        if device.starts_with("/dev/sd") || device.starts_with("/dev/vd") || device.starts_with("/dev/xvd") {
            let what =
                format!("/etc/fstab mounts {} by the name {}, which another bus changes", plain(at), plain(device));
            found.push(Finding::new("boot", what));
        }
        if words.next() == Some("swap") && device.starts_with('/') && !device.starts_with("/dev/") {
            let what = format!("the swap file {}, which may hold what was in memory", plain(device));
            found.push(Finding::new("secret", what));
        }
    }
    if tree.has("/etc/udev/rules.d/70-persistent-net.rules") {
        found.push(Finding::new("boot", "network cards are tied to hardware addresses in 70-persistent-net.rules"));
    }
    let keys =
        tree.names("/etc/ssh").into_iter().filter(|name| name.starts_with("ssh_host_") && name.ends_with("_key"));
    match keys.count() {
        0 => {}
        count => found.push(Finding::new("identity", format!("{count} ssh host keys in /etc/ssh"))),
    }
    if tree.text("/etc/machine-id").is_some_and(|id| id.trim().len() == 32) {
        found.push(Finding::new("identity", "a machine id in /etc/machine-id"));
    }
    if let Some(instance) = tree.text("/var/lib/cloud/data/instance-id") {
        let what = format!("cloud-init has set it up as instance {}", plain(instance.trim()));
        found.push(Finding::new("identity", what));
    }
    found.extend(secrets(tree).into_iter().map(|path| Finding::new("secret", plain(&path))));
    found
}

/// Files that let whoever reads them act as someone. Their content is never looked at.
fn secrets(tree: &Tree) -> Vec<String> {
    let homes = tree.names("/home").into_iter().map(|name| format!("/home/{name}")).chain(["/root".to_owned()]);
    let mut found = Vec::new();
    for home in homes.take(ENTRIES) {
        let ssh = format!("{home}/.ssh");
        let keys = tree.names(&ssh).into_iter().filter(|name| name.starts_with("id_") && !name.ends_with(".pub"));
        found.extend(keys.map(|name| format!("{ssh}/{name}")));
        let more =
            [".aws/credentials", ".azure/msal_token_cache.json", ".config/gcloud/credentials.db", ".netrc", ".pgpass"];
        found.extend(more.iter().map(|name| format!("{home}/{name}")).filter(|path| tree.has(path)));
    }
    found.truncate(64);
    found
}

/// Kernels in `/boot` of the root, or at the top of a volume that is `/boot`.
fn kernels<'a>(root: &Tree, trees: impl Iterator<Item = &'a Tree> + Clone) -> Vec<Kernel> {
    let find = |tree: &Tree, folder: &str| -> Vec<String> {
        let names = tree.names(folder).into_iter();
        // a kernel without a version in its name has the one whose modules there are
        let modules = || root.names("/lib/modules").pop().unwrap_or_default();
        names
            .filter_map(|name| match name.strip_prefix("vmlinuz")? {
                "" => Some(modules()),
                version => Some(version.strip_prefix('-')?.to_owned()),
            })
            .collect()
    };
    let mut versions = find(root, "/boot");
    let mut boot: (&Tree, &str) = (root, "/boot");
    if versions.is_empty() {
        for tree in trees {
            versions = find(tree, "/");
            if !versions.is_empty() {
                boot = (tree, "");
                break;
            }
        }
    }
    versions.dedup();
    versions.into_iter().rev().take(KERNELS).map(|version| kernel(root, boot, &version)).collect()
}

fn kernel(root: &Tree, (tree, folder): (&Tree, &str), version: &str) -> Kernel {
    let built = root.text(&format!("/lib/modules/{version}/modules.builtin")).unwrap_or_default();
    let built: BTreeSet<String> = built.lines().filter_map(initramfs::module).collect();
    let versioned = [format!("initrd.img-{version}"), format!("initramfs-{version}.img"), format!("initrd-{version}")];
    let names = versioned.into_iter().chain(["initrd.img", "initramfs.img", "initrd"].map(str::to_owned));
    let file = names.into_iter().find_map(|name| tree.0.open(format!("{folder}/{name}").as_str()).ok());
    let (carried, note) = match file {
        Some(file) => initramfs::modules(Content(file).take(INITRAMFS)),
        None => (BTreeSet::new(), Some("it has no initramfs".to_owned())),
    };
    let drivers: BTreeMap<String, String> = DRIVERS
        .iter()
        .map(|(kind, module)| {
            let module = (*module).to_owned();
            let how = match (built.contains(&module), carried.contains(&module)) {
                (true, _) => "builtin",
                (false, true) => "initramfs",
                (false, false) => "missing",
            };
            ((*kind).to_owned(), how.to_owned())
        })
        .collect();
    Kernel { version: plain(version), drivers, note }
}

//! A site in `replicate.toml`: each provider takes its own keys, and a key of another provider is a mistake, not a
//! thing to pass over.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cloud::openstack::{CloudRef, LaunchSpec, MacChoice, NetworkSpec};
use cloud::{Restore, Spec};
use model::ServerName;

use super::document::{Document, below};
use super::raw::{RawImport, RawNetwork, RawRestore, RawSite, SiteKind};
use super::settings::{Accelerator, Format, OpenStackSettings, QemuSettings, SiteSettings};

/// Where uploads are put together if nothing else is said.
pub(super) const SCRATCH: &str = "/var/tmp/replicate";

/// Checks one site.
pub(super) fn site(document: &mut Document, raw: RawSite, folder: &Path, at: &str) -> Option<SiteSettings> {
    let kind = raw.kind?;
    refuse_foreign(document, &raw, kind, at);
    match kind {
        SiteKind::Qemu => Some(SiteSettings::Qemu(qemu(document, raw, folder, at))),
        SiteKind::Openstack => openstack(document, raw, folder, at).map(Box::new).map(SiteSettings::OpenStack),
        #[cfg(feature = "aws")]
        SiteKind::Aws => super::aws::site(document, raw, folder, at).map(Box::new).map(SiteSettings::Aws),
        #[cfg(not(feature = "aws"))]
        SiteKind::Aws => {
            document.wrong_value(&below(at, "kind"), "this program was built without `aws`".to_owned());
            None
        }
        #[cfg(feature = "azure")]
        SiteKind::Azure => super::azure::site(document, raw, folder, at).map(Box::new).map(SiteSettings::Azure),
        #[cfg(not(feature = "azure"))]
        SiteKind::Azure => {
            document.wrong_value(&below(at, "kind"), "this program was built without `azure`".to_owned());
            None
        }
    }
}

fn refuse_foreign(document: &mut Document, raw: &RawSite, kind: SiteKind, at: &str) {
    use SiteKind::{Aws, Azure, Openstack, Qemu};
    let keys: [(&str, bool, &[SiteKind]); 29] = [
        ("sockets", raw.sockets.is_some(), &[Qemu]),
        ("disks", raw.disks.is_some(), &[Qemu]),
        ("accelerator", raw.accelerator.is_some(), &[Qemu]),
        ("bridge", raw.bridge.is_some(), &[Qemu]),
        ("scratch", raw.scratch.is_some(), &[Qemu, Openstack, Aws, Azure]),
        ("format", raw.format.is_some(), &[Qemu, Openstack]),
        ("cloud", raw.cloud.is_some(), &[Openstack]),
        ("clouds-file", raw.clouds_file.is_some(), &[Openstack]),
        ("region", raw.region.is_some(), &[Openstack, Aws]),
        ("interface", raw.interface.is_some(), &[Openstack]),
        ("import", raw.import.is_some(), &[Openstack]),
        ("restore", raw.restore.is_some(), &[Openstack, Aws, Azure]),
        ("profile", raw.profile.is_some(), &[Aws]),
        ("role", raw.role.is_some(), &[Aws]),
        ("kms-key", raw.kms_key.is_some(), &[Aws]),
        ("freeze", raw.freeze.is_some(), &[Aws]),
        ("endpoints", raw.endpoints.is_some(), &[Aws]),
        ("subscription", raw.subscription.is_some(), &[Azure]),
        ("resource-group", raw.resource_group.is_some(), &[Azure]),
        ("location", raw.location.is_some(), &[Azure]),
        ("identity", raw.identity.is_some(), &[Azure]),
        ("tenant", raw.tenant.is_some(), &[Azure]),
        ("client", raw.client.is_some(), &[Azure]),
        ("secret", raw.secret.is_some(), &[Azure]),
        ("certificate", raw.certificate.is_some(), &[Azure]),
        ("storage", raw.storage.is_some(), &[Azure]),
        ("disk-encryption-set", raw.disk_encryption_set.is_some(), &[Azure]),
        ("arm-endpoint", raw.arm_endpoint.is_some(), &[Azure]),
        ("login-endpoint", raw.login_endpoint.is_some(), &[Azure]),
    ];
    refuse(document, keys, kind, at);
}

/// Refuses what one cloud gives to restored servers and another does not.
pub(super) fn refuse_foreign_launch(document: &mut Document, raw: &RawRestore, kind: SiteKind, at: &str) {
    use SiteKind::{Aws, Azure, Openstack};
    let keys: [(&str, bool, &[SiteKind]); 11] = [
        ("instance-type", raw.instance_type.is_some(), &[Aws]),
        ("subnet", raw.subnet.is_some(), &[Aws, Azure]),
        ("drill-subnet", raw.drill_subnet.is_some(), &[Azure]),
        ("size", raw.size.is_some(), &[Azure]),
        ("windows", raw.windows.is_some(), &[Azure]),
        ("flavor", raw.flavor.is_some(), &[Openstack]),
        ("networks", raw.networks.is_some(), &[Openstack]),
        ("user-data", raw.user_data.is_some(), &[Openstack, Aws]),
        ("availability-zone", raw.availability_zone.is_some(), &[Openstack]),
        ("boot-from-volume", raw.boot_from_volume.is_some(), &[Openstack]),
        ("volume-type", raw.volume_type.is_some(), &[Openstack]),
    ];
    refuse(document, keys, kind, at);
}

fn refuse<const N: usize>(document: &mut Document, keys: [(&str, bool, &[SiteKind]); N], kind: SiteKind, at: &str) {
    for (key, _, of) in keys.into_iter().filter(|(_, given, of)| *given && !of.contains(&kind)) {
        let of: Vec<String> = of.iter().map(|kind| format!("`{}`", kind.word())).collect();
        let text =
            format!("`{key}` is for sites of kind {}, and this one is of kind `{}`", of.join(" or "), kind.word());
        document.wrong_key(&below(at, key), text);
    }
}

/// A path of the site, relative to the file.
pub(super) fn path(
    document: &mut Document,
    folder: &Path,
    at: &str,
    key: &str,
    text: Option<String>,
) -> Option<PathBuf> {
    let text = text?;
    if text.trim().is_empty() {
        document.wrong_value(&below(at, key), format!("`{key}` is empty"));
        return None;
    }
    Some(folder.join(text))
}

fn qemu(document: &mut Document, raw: RawSite, folder: &Path, at: &str) -> QemuSettings {
    if raw.sockets.is_none() && raw.disks.is_none() {
        document.wrong_key(at, "the site has neither `sockets` (to capture from) nor `disks` (to restore to)");
    }
    let sockets = path(document, folder, at, "sockets", raw.sockets);
    let disks = path(document, folder, at, "disks", raw.disks);
    let scratch = path(document, folder, at, "scratch", raw.scratch);
    QemuSettings {
        scratch: scratch.or_else(|| disks.as_ref().map(|disks| disks.join(".scratch"))),
        sockets,
        disks,
        format: raw.format.unwrap_or(Format::Qcow2),
        accelerator: raw.accelerator.unwrap_or(Accelerator::Auto),
        bridge: raw.bridge,
    }
}

fn openstack(document: &mut Document, raw: RawSite, folder: &Path, at: &str) -> Option<OpenStackSettings> {
    let Some(cloud) = raw.cloud.filter(|cloud| !cloud.trim().is_empty()) else {
        document.wrong_key(at, "a site of kind `openstack` needs `cloud`, the name of its entry in clouds.yaml");
        return None;
    };
    if let Some(interface) = &raw.interface
        && !["public", "internal", "admin"].contains(&interface.as_str())
    {
        let text = format!("`{interface}` is no interface — write `public`, `internal` or `admin`");
        document.wrong_value(&below(at, "interface"), text);
    }
    let file = path(document, folder, at, "clouds-file", raw.clouds_file);
    let scratch = path(document, folder, at, "scratch", raw.scratch);
    Some(OpenStackSettings {
        cloud: CloudRef { cloud, file, region: raw.region, interface: raw.interface },
        scratch: scratch.unwrap_or_else(|| SCRATCH.into()),
        format: raw.format.unwrap_or(Format::Qcow2),
        staged: raw.import == Some(RawImport::GlanceDirect),
        restore: restore(document, raw.restore, at, |document, raw, at| launch(document, raw, folder, at)),
    })
}

/// What restored servers get; `launch` reads it in the words of the site's provider.
pub(super) fn restore<S: Spec>(
    document: &mut Document,
    raw: Option<RawRestore>,
    at: &str,
    launch: impl Fn(&mut Document, RawRestore, &str) -> S,
) -> Restore<S> {
    let (mut raw, at) = (raw.unwrap_or_default(), below(at, "restore"));
    let at_servers = below(&at, "servers");
    let mut servers = BTreeMap::new();
    for (name, raw) in std::mem::take(&mut raw.servers) {
        let at = below(&at_servers, &name);
        if !raw.servers.is_empty() {
            document.wrong_key(&below(&at, "servers"), "`servers` stands in `restore` only, not in one server");
        }
        let spec = launch(document, raw, &at);
        match ServerName::new(name) {
            Ok(name) => drop(servers.insert(name, spec)),
            Err(error) => document.wrong_key(&at, error.chain()),
        }
    }
    Restore { usual: launch(document, raw, &at), servers }
}

fn launch(document: &mut Document, raw: RawRestore, folder: &Path, at: &str) -> LaunchSpec {
    refuse_foreign_launch(document, &raw, SiteKind::Openstack, at);
    if raw.volume_type.is_some() && raw.boot_from_volume == Some(false) {
        document.wrong_key(&below(at, "volume-type"), "`volume-type` needs `boot-from-volume = true`");
    }
    let networks = raw.networks.map(|networks| {
        let all = networks.into_iter().enumerate();
        all.filter_map(|(index, raw)| network(document, raw, &below(&below(at, "networks"), &index.to_string())))
            .collect()
    });
    LaunchSpec {
        flavor: raw.flavor,
        networks,
        security_groups: raw.security_groups,
        key: raw.key,
        user_data: path(document, folder, at, "user-data", raw.user_data),
        zone: raw.availability_zone,
        boot_from_volume: raw.boot_from_volume,
        volume_type: raw.volume_type,
    }
}

fn network(document: &mut Document, raw: RawNetwork, at: &str) -> Option<NetworkSpec> {
    if let Some(address) = &raw.address
        && address.parse::<std::net::IpAddr>().is_err()
    {
        document.wrong_value(&below(at, "address"), format!("`{address}` is no address — `10.0.2.15` is one"));
    }
    let mac = match raw.mac {
        None => MacChoice::New,
        Some(word) if word == "keep" => MacChoice::Keep,
        Some(mac) if is_mac(&mac) => MacChoice::Given(mac.to_lowercase()),
        Some(mac) => {
            let text = format!("`{mac}` is no hardware address — write `keep`, or one like `fa:16:3e:00:00:01`");
            document.wrong_value(&below(at, "mac"), text);
            MacChoice::New
        }
    };
    Some(NetworkSpec { network: raw.network?, address: raw.address, mac })
}

fn is_mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    parts.len() == 6 && parts.iter().all(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))
}

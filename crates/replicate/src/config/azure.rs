//! A site of kind `azure` in `replicate.toml`.

use std::path::{Path, PathBuf};

use cloud_azure::compute::{ARM, LaunchSpec, Restore};

use super::azure_login::{AzureLogin, Who, endpoint, login};
use super::document::{Document, below};
use super::raw::{RawRestore, RawSite, SiteKind};
use super::site::{SCRATCH, path, refuse_foreign_launch, restore};

/// The kind of storage if nothing else is said: the cheapest that a server can be run on.
const STORAGE: &str = "StandardSSD_LRS";

/// A resource group in a region of Azure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AzureSettings {
    /// The subscription's id.
    pub subscription: String,
    /// The resource group.
    pub group: String,
    /// The region.
    pub location: String,
    /// Who signs in.
    pub login: AzureLogin,
    /// Address of the Resource Manager.
    pub arm: String,
    /// Kind of storage of managed disks.
    pub storage: String,
    /// Id of the disk encryption set, where it is not the platform's key.
    pub encryption_set: Option<String>,
    /// Where hashes of written disks are kept.
    pub scratch: PathBuf,
    /// What restored servers get.
    pub restore: Restore,
}

/// Checks one site.
pub(super) fn site(document: &mut Document, raw: RawSite, folder: &Path, at: &str) -> Option<AzureSettings> {
    let scratch = path(document, folder, at, "scratch", raw.scratch);
    let mut needed = |key: &str, what: &str, value: Option<String>| {
        let value = value.filter(|value| !value.trim().is_empty());
        if value.is_none() {
            document.wrong_key(at, format!("a site of kind `azure` needs `{key}`, {what}"));
        }
        value
    };
    let subscription = needed("subscription", "the subscription's id", raw.subscription);
    let group = needed("resource-group", "which is worked in", raw.resource_group);
    let location = needed("location", "the region: `westeurope`", raw.location);
    let arm = endpoint(document, raw.arm_endpoint.as_deref(), ARM, at, "arm-endpoint");
    let encryption_set = raw.disk_encryption_set.and_then(|id| encryption_set(document, id, &subscription, at));
    let who = Who {
        identity: raw.identity,
        tenant: raw.tenant.as_deref(),
        client: raw.client.as_deref(),
        secret: raw.secret.as_deref(),
        certificate: raw.certificate.as_deref(),
        endpoint: raw.login_endpoint.as_deref(),
    };
    let login = login(document, &who, folder, "a site of kind `azure`", at);
    let restore = restore(document, raw.restore, at, launch);
    Some(AzureSettings {
        subscription: subscription?,
        group: group?,
        location: location?,
        login: login?,
        arm,
        storage: raw.storage.unwrap_or_else(|| STORAGE.to_owned()),
        encryption_set,
        scratch: scratch.unwrap_or_else(|| SCRATCH.into()),
        restore,
    })
}

/// A set is of the site's subscription; whether it is of its region, only Azure knows.
fn encryption_set(document: &mut Document, id: String, subscription: &Option<String>, at: &str) -> Option<String> {
    let parts: Vec<&str> = id.split('/').collect();
    let is = |place: usize, word: &str| parts.get(place).is_some_and(|part| part.eq_ignore_ascii_case(word));
    let named = parts.len() == 9 && [4, 8].iter().all(|place| !parts[*place].is_empty());
    let at = below(at, "disk-encryption-set");
    if !named || !is(1, "subscriptions") || !is(3, "resourceGroups") || !is(7, "diskEncryptionSets") {
        let form = "/subscriptions/.../resourceGroups/.../providers/Microsoft.Compute/diskEncryptionSets/NAME";
        document.wrong_value(&at, format!("`{id}` is no disk encryption set's id — it is like `{form}`"));
        return None;
    }
    if subscription.as_ref().is_some_and(|own| !is(2, own)) {
        let why = format!("`{id}` is of another subscription than the site, and Azure encrypts nothing with it here");
        document.wrong_value(&at, why);
        return None;
    }
    Some(id)
}

fn launch(document: &mut Document, raw: RawRestore, at: &str) -> LaunchSpec {
    if raw.key.is_some() {
        let why = "`key` has no use at `azure`: a machine that is made of disks as they are takes no SSH key";
        document.wrong_key(&below(at, "key"), why);
    }
    refuse_foreign_launch(document, &raw, SiteKind::Azure, at);
    for (key, id) in [("subnet", &raw.subnet), ("drill-subnet", &raw.drill_subnet)] {
        if let Some(id) = id
            && !(id.starts_with("/subscriptions/") && id.contains("/subnets/"))
        {
            let why = format!("`{id}` is no subnet's id — it begins with `/subscriptions/` and has `/subnets/`");
            document.wrong_value(&below(at, key), why);
        }
    }
    let groups = raw.security_groups.unwrap_or_default();
    if groups.len() > 1 {
        document.wrong_value(&below(at, "security-groups"), "a card at `azure` has one security group");
    }
    LaunchSpec {
        size: raw.size,
        subnet: raw.subnet,
        drill_subnet: raw.drill_subnet,
        security_group: groups.into_iter().next(),
        windows: raw.windows,
    }
}

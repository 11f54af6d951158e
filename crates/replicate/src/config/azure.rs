//! A site of kind `azure` in `replicate.toml`.

use std::path::Path;

use cloud_azure::compute::{ARM, LOGIN, LaunchSpec, Restore, Secret};

use super::document::{Document, below};
use super::raw::{RawRestore, RawSite, SiteKind};
use super::site::{refuse_foreign_launch, restore};
use super::value::SecretRef;

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
    /// The directory's id.
    pub tenant: String,
    /// The application's id.
    pub client: String,
    /// Where its secret is.
    pub secret: Secret,
    /// Address of the Resource Manager.
    pub arm: String,
    /// Address of Entra ID.
    pub login: String,
    /// Kind of storage of managed disks.
    pub storage: String,
    /// What restored servers get.
    pub restore: Restore,
}

/// Checks one site.
pub(super) fn site(document: &mut Document, raw: RawSite, folder: &Path, at: &str) -> Option<AzureSettings> {
    let secret = secret(document, raw.secret.as_deref(), folder, at);
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
    let tenant = needed("tenant", "the directory's id", raw.tenant);
    let client = needed("client", "the application's id", raw.client);
    let arm = endpoint(document, raw.arm_endpoint, ARM, at, "arm-endpoint");
    let login = endpoint(document, raw.login_endpoint, LOGIN, at, "login-endpoint");
    let restore = restore(document, raw.restore, at, launch);
    Some(AzureSettings {
        subscription: subscription?,
        group: group?,
        location: location?,
        tenant: tenant?,
        client: client?,
        secret: secret?,
        arm,
        login,
        storage: raw.storage.unwrap_or_else(|| STORAGE.to_owned()),
        restore,
    })
}

fn secret(document: &mut Document, text: Option<&str>, folder: &Path, at: &str) -> Option<Secret> {
    let Some(text) = text else {
        let others = "certificates, managed identities and the login of Azure's command line are not supported";
        let needs = "a site of kind `azure` needs `secret`, where the application's secret is: `env:NAME` or";
        document.wrong_key(at, format!("{needs} `file:/path` — {others}"));
        return None;
    };
    match SecretRef::parse(text, folder) {
        Ok(SecretRef::Env(name)) => Some(Secret::Env(name)),
        Ok(SecretRef::File(path)) => Some(Secret::File(path)),
        Err(why) => {
            document.wrong_value(&below(at, "secret"), why);
            None
        }
    }
}

/// An address that secrets are sent to: plain HTTP goes to this host alone.
fn endpoint(document: &mut Document, text: Option<String>, usual: &str, at: &str, key: &str) -> String {
    let Some(text) = text else { return usual.to_owned() };
    let host = |rest: &str| rest.split(['/', ':']).next().unwrap_or_default().to_owned();
    let fine = match text.split_once("://") {
        Some(("https", rest)) => !host(rest).is_empty(),
        Some(("http", rest)) => ["127.0.0.1", "localhost"].contains(&host(rest).as_str()),
        _ => false,
    };
    if !fine {
        let why = format!("`{text}` is no address that a secret may go to — write `https://...`");
        document.wrong_value(&below(at, key), why);
    }
    text
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

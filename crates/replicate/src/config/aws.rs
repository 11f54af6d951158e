//! A site of kind `aws` in `replicate.toml`.

use std::path::{Path, PathBuf};

use cloud_aws::ec2::{Endpoints, Freeze, LaunchSpec, Restore};

use super::document::{Document, below};
use super::raw::{RawEndpoints, RawFreeze, RawRestore, RawSite, SiteKind};
use super::site::{SCRATCH, path, refuse_foreign_launch, restore};

/// An account in a region of AWS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsSettings {
    /// Its region.
    pub region: String,
    /// Profile of the AWS files.
    pub profile: Option<String>,
    /// Role that is assumed.
    pub role: Option<String>,
    /// Key that replicas are encrypted with.
    pub kms_key: Option<String>,
    /// Addresses of the services.
    pub endpoints: Endpoints,
    /// Where hashes of written disks are kept.
    pub scratch: PathBuf,
    /// What restored servers get.
    pub restore: Restore,
    /// Who freezes guests.
    pub freeze: Option<Freeze>,
}

/// Checks one site.
pub(super) fn site(document: &mut Document, raw: RawSite, folder: &Path, at: &str) -> Option<AwsSettings> {
    let scratch = path(document, folder, at, "scratch", raw.scratch);
    for (key, text) in [("role", &raw.role), ("kms-key", &raw.kms_key)] {
        if let Some(text) = text.as_ref().filter(|text| !text.starts_with("arn:")) {
            document.wrong_value(&below(at, key), format!("`{text}` is no ARN — it begins with `arn:aws:`"));
        }
    }
    let RawEndpoints { ec2, ebs, sts, ssm } = raw.endpoints.unwrap_or_default();
    let endpoints = Endpoints { ec2, ebs, sts, ssm };
    for (key, url) in endpoints.named() {
        let wrong = |url: &&str| !url.starts_with("https://") && !url.starts_with("http://");
        if let Some(url) = url.filter(wrong) {
            let text = format!("`{url}` is no address — it begins with `https://` or `http://`");
            document.wrong_value(&below(&below(at, "endpoints"), key), text);
        }
    }
    let restore = restore(document, raw.restore, at, |document, raw, at| launch(document, raw, folder, at));
    let Some(region) = raw.region.filter(|region| !region.trim().is_empty()) else {
        document.wrong_key(at, "a site of kind `aws` needs `region` (`eu-west-1`)");
        return None;
    };
    if let Some(key) = raw.kms_key.as_ref().filter(|key| key.starts_with("arn:")) {
        let parts: Vec<_> = key.split(':').collect();
        if parts.get(3).is_some_and(|it| *it != region) {
            document.wrong_value(&below(at, "kms-key"), format!("`{key}` is no key of region `{region}`"));
        } else if !parts.get(5).is_some_and(|it| it.starts_with("key/")) {
            // EC2 tells of a snapshot which key it has, by this name alone
            let form = "arn:aws:kms:REGION:ACCOUNT:key/ID";
            document.wrong_value(&below(at, "kms-key"), format!("`{key}` is no key's own ARN — it is like `{form}`"));
        }
    }
    Some(AwsSettings {
        region,
        profile: raw.profile,
        role: raw.role,
        kms_key: raw.kms_key,
        endpoints,
        scratch: scratch.unwrap_or_else(|| SCRATCH.into()),
        restore,
        freeze: raw.freeze.map(|RawFreeze::Ssm| Freeze::Ssm),
    })
}

fn launch(document: &mut Document, raw: RawRestore, folder: &Path, at: &str) -> LaunchSpec {
    refuse_foreign_launch(document, &raw, SiteKind::Aws, at);
    LaunchSpec {
        instance_type: raw.instance_type,
        subnet: raw.subnet,
        security_groups: raw.security_groups,
        key: raw.key,
        user_data: path(document, folder, at, "user-data", raw.user_data),
    }
}

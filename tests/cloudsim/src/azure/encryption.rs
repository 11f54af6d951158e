//! Disk encryption sets: a key that disks and snapshots of one region and subscription are encrypted with. Nothing is
//! encrypted here; what counts is who is asked for which key, and what is refused.
//!
//! A snapshot of a disk must be encrypted with the disk's own set: the provider's older documents say so of all disks, its
//! newer ones of Ultra disks and Premium SSD v2 alone. One that is left out of the request is taken for the platform's key.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::disks::invalid;
use super::state::{GROUPS, SUBSCRIPTION, TENANT};
use crate::error::{Answer, ApiError};
use crate::http::{Request, Response};

const PLATFORM: &str = "EncryptionAtRestWithPlatformKey";

/// The sets that every group has, in its region: their names, and what they encrypt with.
const SETS: [(&str, &str); 3] = [
    ("replicas", "EncryptionAtRestWithCustomerKey"),
    ("replicas-twice", "EncryptionAtRestWithPlatformAndCustomerKeys"),
    ("confidential", "ConfidentialVmEncryptedWithCustomerKey"),
];

/// What a disk or snapshot is encrypted with, as it is asked for and shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Encryption {
    #[serde(default = "platform")]
    r#type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    disk_encryption_set_id: Option<String>,
}

fn platform() -> String {
    PLATFORM.to_owned()
}

impl Default for Encryption {
    fn default() -> Self {
        Self { r#type: platform(), disk_encryption_set_id: None }
    }
}

impl Encryption {
    /// With the key of a set, whatever its kind.
    pub(super) fn of_set(id: &str) -> Self {
        let found =
            find(id).ok().and_then(|(shown, _)| shown["properties"]["encryptionType"].as_str().map(str::to_owned));
        Self { r#type: found.unwrap_or_else(platform), disk_encryption_set_id: Some(id.to_owned()) }
    }

    /// Whether both name one key: ids are not sensitive to case.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let set = |it: &Self| it.disk_encryption_set_id.as_ref().map(|id| id.to_lowercase());
        self.r#type == other.r#type && set(self) == set(other)
    }

    /// Refuses what cannot be used in a region.
    pub(super) fn usable(&self, location: &str) -> Answer<()> {
        let Some(id) = &self.disk_encryption_set_id else {
            return match self.r#type.as_str() {
                PLATFORM => Ok(()),
                other => Err(invalid(format!("Encryption type {other} needs a diskEncryptionSetId."))),
            };
        };
        let (shown, place) = find(id)?;
        if place != location {
            return Err(ApiError::refuse("BadRequest", format!("Disk encryption set {id} is in {place}.")));
        }
        if shown["properties"]["encryptionType"] != self.r#type || self.r#type.starts_with("Confidential") {
            return Err(invalid(format!("Encryption type {} is not that of disk encryption set {id}.", self.r#type)));
        }
        Ok(())
    }
}

/// Refuses another key for the snapshot of a disk than the disk's.
pub(super) fn inherited(disk: &Encryption, snapshot: &Encryption) -> Answer<()> {
    if disk.disk_encryption_set_id.is_none() || disk.is_same(snapshot) {
        return Ok(());
    }
    Err(invalid(
        "A snapshot of a disk with a customer-managed key must be encrypted with the same disk encryption set.",
    ))
}

/// A set of a group, by its id.
pub(crate) fn id(group: &str, name: &str) -> String {
    format!(
        "/subscriptions/{SUBSCRIPTION}/resourceGroups/{group}/providers/Microsoft.Compute/diskEncryptionSets/{name}"
    )
}

/// A set as it is shown, and where it is.
fn find(wanted: &str) -> Answer<(Value, &'static str)> {
    let all = GROUPS.iter().flat_map(|(group, place)| SETS.iter().map(move |(name, kind)| (group, place, name, kind)));
    let mut found = all.filter(|(group, _, name, _)| id(group, name).eq_ignore_ascii_case(wanted));
    let Some((group, place, name, kind)) = found.next() else {
        let message = format!("The Resource {wanted} was not found.");
        return Err(ApiError::new(404, "ResourceNotFound", message));
    };
    let vault = "/subscriptions/s/resourceGroups/keys/providers/Microsoft.KeyVault/vaults/keys";
    let shown = json!({
        "id": id(group, name), "name": name, "type": "Microsoft.Compute/diskEncryptionSets", "location": place,
        "identity": { "type": "SystemAssigned", "principalId": TENANT, "tenantId": TENANT },
        "properties": {
            "activeKey": { "keyUrl": format!("https://keys.vault.azure.net/keys/{name}/1"), "sourceVault": { "id": vault } },
            "encryptionType": kind, "provisioningState": "Succeeded", "rotationToLatestKeyVersionEnabled": false,
        },
    });
    Ok((shown, place))
}

/// Whether a path is about a set.
pub(super) fn is_one(path: &str) -> bool {
    path.to_lowercase().contains("/diskencryptionsets/")
}

pub(super) fn call(path: &str, request: &Request) -> Answer<Response> {
    if request.method != "GET" {
        return Err(ApiError::new(404, "InvalidResourceType", "sets are looked at only"));
    }
    find(&format!("/{}", path.trim_matches('/'))).map(|(shown, _)| Response::json(200, &shown))
}

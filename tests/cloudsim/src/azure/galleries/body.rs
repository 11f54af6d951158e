//! What definitions and versions are asked for, in the provider's words and no others.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::disks::invalid;
use super::super::encryption::Encryption;
use crate::error::Answer;
use crate::world::resource::Tags;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DefinitionBody {
    pub(super) location: String,
    #[serde(default)]
    pub(super) tags: Tags,
    pub(super) properties: DefinitionProperties,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct DefinitionProperties {
    os_type: String,
    os_state: String,
    #[serde(default = "first", rename = "hyperVGeneration")]
    generation: String,
    #[serde(default = "x64")]
    architecture: String,
    identifier: Identifier,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    features: Vec<Feature>,
}

fn first() -> String {
    "V1".to_owned()
}

fn x64() -> String {
    "x64".to_owned()
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Identifier {
    publisher: String,
    offer: String,
    sku: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Feature {
    name: String,
    value: String,
}

impl DefinitionProperties {
    pub(super) fn check(&self) -> Answer<()> {
        let one_of = |value: &str, known: &[&str]| match known.contains(&value) {
            true => Ok(()),
            false => Err(invalid(format!("'{value}' is none of {}.", known.join(", ")))),
        };
        one_of(&self.os_type, &["Linux", "Windows"])?;
        one_of(&self.os_state, &["Generalized", "Specialized"])?;
        one_of(&self.generation, &["V1", "V2"])?;
        one_of(&self.architecture, &["x64", "Arm64"])
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VersionBody {
    pub(super) location: String,
    #[serde(default)]
    pub(super) tags: Tags,
    pub(super) properties: VersionProperties,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct VersionProperties {
    pub(super) publishing_profile: Publishing,
    pub(super) storage_profile: Storage,
    pub(super) safety_profile: Safety,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VersionUpdate {
    #[serde(default)]
    pub(super) tags: Option<Tags>,
    #[serde(default)]
    properties: Option<VersionChange>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct VersionChange {
    publishing_profile: Publishing,
}

impl VersionUpdate {
    pub(super) fn publishing(&self) -> Option<&Publishing> {
        self.properties.as_ref().map(|it| &it.publishing_profile)
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Publishing {
    #[serde(default)]
    pub(super) target_regions: Vec<TargetRegion>,
    #[serde(default)]
    pub(super) replication_mode: Option<String>,
    #[serde(default)]
    pub(super) exclude_from_latest: Option<bool>,
    #[serde(default)]
    pub(super) end_of_life_date: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct TargetRegion {
    pub(super) name: String,
    #[serde(default = "one")]
    regional_replica_count: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    encryption: Option<Encrypted>,
}

fn one() -> u32 {
    1
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Encrypted {
    os_disk_image: Set,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    data_disk_images: Vec<Set>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Set {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lun: Option<u32>,
    disk_encryption_set_id: String,
}

impl TargetRegion {
    /// `West Europe` and `westeurope` are one.
    pub(super) fn place(&self) -> String {
        self.name.to_lowercase().replace(' ', "")
    }

    pub(super) fn is_more(&self) -> bool {
        self.regional_replica_count != 1 || self.encryption.is_some()
    }

    /// Refuses keys of another region.
    pub(super) fn check(&self, place: &str) -> Answer<()> {
        let sets = self.encryption.iter().flat_map(|it| std::iter::once(&it.os_disk_image).chain(&it.data_disk_images));
        for set in sets {
            Encryption::of_set(&set.disk_encryption_set_id).usable(place)?;
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Storage {
    os_disk_image: DiskImage,
    #[serde(default)]
    data_disk_images: Vec<DiskImage>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct DiskImage {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lun: Option<u32>,
    source: Reference,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reference {
    pub(super) id: String,
}

impl Storage {
    pub(super) fn shown(&self) -> Value {
        json!(self)
    }

    /// `os`, then the others by their numbers.
    pub(super) fn all(&self) -> Vec<(String, &Reference)> {
        let data = self.data_disk_images.iter().map(|it| (it.lun.unwrap_or_default().to_string(), &it.source));
        std::iter::once(("os".to_owned(), &self.os_disk_image.source)).chain(data).collect()
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Safety {
    pub(super) allow_deletion_of_replicated_locations: bool,
    #[serde(default)]
    pub(super) block_deletion_before_end_of_life: Option<bool>,
}

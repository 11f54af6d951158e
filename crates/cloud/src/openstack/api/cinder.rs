//! Cinder: volumes, their snapshots, snapshots of groups.

use model::{Error, Kind, Result, Tags};
use reqwest::Method;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Service;
use super::pages::{self, Listing};
use crate::openstack::http::{Call, Client};

/// A volume.
#[derive(Debug, Clone, Deserialize)]
pub(in crate::openstack) struct Volume {
    pub id: String,
    /// In GiB.
    pub size: u64,
    pub status: String,
    #[serde(default)]
    pub encrypted: bool,
    #[serde(default)]
    pub group_id: Option<String>,
    #[serde(default)]
    pub metadata: Tags,
    /// The properties of the image that it was made from.
    #[serde(default)]
    pub volume_image_metadata: Tags,
    #[serde(default)]
    pub attachments: Vec<Attachment>,
}

/// Where a volume is attached.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(in crate::openstack) struct Attachment {
    pub server_id: String,
    /// `/dev/vdb`.
    #[serde(default)]
    pub device: Option<String>,
}

/// A snapshot of a volume.
#[derive(Debug, Clone, Deserialize)]
pub(in crate::openstack) struct Snapshot {
    pub id: String,
    #[serde(default)]
    pub name: Option<String>,
    pub volume_id: String,
    pub status: String,
    /// In GiB.
    pub size: u64,
    #[serde(default)]
    pub metadata: Tags,
    #[serde(default)]
    pub group_snapshot_id: Option<String>,
    pub created_at: String,
}

/// One snapshot of every volume of a group.
#[derive(Debug, Clone, Deserialize)]
pub(in crate::openstack) struct GroupSnapshot {
    pub id: String,
}

/// A group of volumes.
#[derive(Debug, Clone, Deserialize)]
pub(in crate::openstack) struct Group {
    /// The id of its type.
    pub group_type: String,
}

/// What the volumes of a group have in common.
#[derive(Debug, Clone, Deserialize)]
pub(in crate::openstack) struct GroupType {
    #[serde(default)]
    pub group_specs: Tags,
}

impl GroupType {
    /// Whether a snapshot of the group shows all its volumes at one instant.
    pub(in crate::openstack) fn is_consistent(&self) -> bool {
        let spec = self.group_specs.get("consistent_group_snapshot_enabled");
        spec.is_some_and(|spec| spec.eq_ignore_ascii_case("<is> true"))
    }
}

/// A volume that is to be made.
#[derive(Debug, Clone, Serialize)]
pub(in crate::openstack) struct NewVolume<'a> {
    pub name: &'a str,
    /// In GiB; of a snapshot's own size if it is not told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_id: Option<&'a str>,
    #[serde(rename = "imageRef", skip_serializing_if = "Option::is_none")]
    pub image: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_type: Option<&'a str>,
    pub metadata: &'a Tags,
}

/// Calls to Cinder.
#[derive(Clone, Copy)]
pub(in crate::openstack) struct Cinder<'a>(pub &'a Client);

impl Cinder<'_> {
    /// The path with the project in it, which releases before Xena want.
    async fn call(&self, operation: &str, method: Method, path: &str) -> Result<Call<'_>> {
        let project = self.0.project().await.map_err(|error| error.within(operation.to_owned()))?;
        Ok(self.0.call(operation, Service::Volume, method, format!("{project}/{path}")))
    }

    async fn all<T: DeserializeOwned>(&self, key: &str, path: &str) -> Result<Vec<T>> {
        let project = self.0.project().await.map_err(|error| error.within(format!("cannot list {key} of Cinder")))?;
        let path = format!("{project}/{path}");
        pages::all(self.0, Listing { service: Service::Volume, path: &path, key, query: &[] }).await
    }

    /// One thing that the answer wraps into `key`.
    async fn one<T: DeserializeOwned>(call: Call<'_>, operation: &str, key: &str) -> Result<T> {
        let mut answer: Map<String, Value> = call.answer().await?;
        read(operation, answer.remove(key).unwrap_or_default())
    }

    async fn get<T: DeserializeOwned>(&self, operation: &str, path: &str, key: &str) -> Result<T> {
        Self::one(self.call(operation, Method::GET, path).await?, operation, key).await
    }

    async fn post<T: DeserializeOwned>(&self, operation: &str, path: &str, key: &str, body: &Value) -> Result<T> {
        Self::one(self.call(operation, Method::POST, path).await?.json(body)?, operation, key).await
    }

    async fn delete(&self, operation: &str, path: &str) -> Result<()> {
        self.call(operation, Method::DELETE, path).await?.gone().await
    }

    pub(in crate::openstack) async fn volumes(&self) -> Result<Vec<Volume>> {
        self.all("volumes", "volumes/detail").await
    }

    pub(in crate::openstack) async fn volume(&self, id: &str) -> Result<Volume> {
        self.get(&format!("cannot look at volume {id}"), &format!("volumes/{id}"), "volume").await
    }

    pub(in crate::openstack) async fn create_volume(&self, volume: &NewVolume<'_>) -> Result<Volume> {
        let operation = format!("cannot make volume {}", volume.name);
        self.post(&operation, "volumes", "volume", &json!({ "volume": volume })).await
    }

    pub(in crate::openstack) async fn delete_volume(&self, id: &str) -> Result<()> {
        self.delete(&format!("cannot delete volume {id}"), &format!("volumes/{id}")).await
    }

    async fn act(&self, operation: &str, volume: &str, action: &Value) -> Result<Call<'_>> {
        self.call(operation, Method::POST, &format!("volumes/{volume}/action")).await?.json(action)
    }

    /// Sets properties that an image made of the volume will have.
    pub(in crate::openstack) async fn set_image_metadata(&self, volume: &str, metadata: &Tags) -> Result<()> {
        let operation = format!("cannot set image metadata of volume {volume}");
        let action = json!({ "os-set_image_metadata": { "metadata": metadata } });
        self.act(&operation, volume, &action).await?.done().await
    }

    /// Begins to make an image of a volume, and tells the image's id. The image has the volume's image metadata from
    /// its first moment.
    pub(in crate::openstack) async fn upload_to_image(&self, volume: &str, name: &str, format: &str) -> Result<String> {
        let operation = format!("cannot make an image of volume {volume}");
        let action = json!({ "os-volume_upload_image": {
            "image_name": name, "disk_format": format, "container_format": "bare", "force": false
        } });
        let call = self.act(&operation, volume, &action).await?;
        let upload: Upload = Self::one(call, &operation, "os-volume_upload_image").await?;
        Ok(upload.image_id)
    }

    pub(in crate::openstack) async fn snapshots(&self) -> Result<Vec<Snapshot>> {
        self.all("snapshots", "snapshots/detail").await
    }

    pub(in crate::openstack) async fn snapshot(&self, id: &str) -> Result<Snapshot> {
        self.get(&format!("cannot look at snapshot {id}"), &format!("snapshots/{id}"), "snapshot").await
    }

    /// Begins a snapshot, also of a volume that is attached.
    pub(in crate::openstack) async fn create_snapshot(
        &self,
        volume: &str,
        name: &str,
        metadata: &Tags,
    ) -> Result<Snapshot> {
        let operation = format!("cannot make a snapshot of volume {volume}");
        let body = json!({ "snapshot": { "volume_id": volume, "name": name, "metadata": metadata, "force": true } });
        self.post(&operation, "snapshots", "snapshot", &body).await
    }

    /// Adds metadata to a snapshot.
    pub(in crate::openstack) async fn tag_snapshot(&self, id: &str, metadata: &Tags) -> Result<()> {
        let operation = format!("cannot tag snapshot {id}");
        let call = self.call(&operation, Method::POST, &format!("snapshots/{id}/metadata")).await?;
        call.json(&json!({ "metadata": metadata }))?.done().await
    }

    pub(in crate::openstack) async fn delete_snapshot(&self, id: &str) -> Result<()> {
        self.delete(&format!("cannot delete snapshot {id}"), &format!("snapshots/{id}")).await
    }

    pub(in crate::openstack) async fn group(&self, id: &str) -> Result<Group> {
        self.get(&format!("cannot look at group {id}"), &format!("groups/{id}"), "group").await
    }

    pub(in crate::openstack) async fn group_type(&self, id: &str) -> Result<GroupType> {
        self.get(&format!("cannot look at group type {id}"), &format!("group_types/{id}"), "group_type").await
    }

    /// Begins a snapshot of all volumes of a group. It takes no metadata: name and description must say whose it is.
    pub(in crate::openstack) async fn create_group_snapshot(
        &self,
        group: &str,
        name: &str,
        description: &str,
    ) -> Result<GroupSnapshot> {
        let operation = format!("cannot make a snapshot of group {group}");
        let body = json!({ "group_snapshot": { "group_id": group, "name": name, "description": description } });
        self.post(&operation, "group_snapshots", "group_snapshot", &body).await
    }

    pub(in crate::openstack) async fn delete_group_snapshot(&self, id: &str) -> Result<()> {
        self.delete(&format!("cannot delete group snapshot {id}"), &format!("group_snapshots/{id}")).await
    }
}

#[derive(Deserialize)]
struct Upload {
    image_id: String,
}

fn read<T: DeserializeOwned>(operation: &str, value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(|error| {
        Error::new(Kind::Permanent, operation).because(format!("Cinder's answer is not understood: {error}"))
    })
}

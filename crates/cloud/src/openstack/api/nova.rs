//! Nova v2.1: servers and flavours.

use std::collections::BTreeMap;

use model::Result;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Service;
use super::pages::{self, Listing};
use crate::openstack::http::{Call, Client};

/// A server as the service shows it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(in crate::openstack) struct Server {
    pub id: String,
    pub name: String,
    /// `ACTIVE`, `SHUTOFF`, `ERROR`, `BUILD` and so on.
    pub status: String,
    #[serde(rename = "OS-EXT-STS:task_state")]
    pub task: Option<String>,
    /// 1: it runs.
    #[serde(rename = "OS-EXT-STS:power_state")]
    pub power: Option<u32>,
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    #[serde(default)]
    pub tags: Vec<String>,
    #[serde(default)]
    pub addresses: BTreeMap<String, Vec<Address>>,
    /// What went wrong, of a server in `ERROR`.
    pub fault: Option<Fault>,
    /// Volumes, in no order that means anything.
    #[serde(rename = "os-extended-volumes:volumes_attached", default)]
    pub volumes: Vec<Attached>,
    /// The image that it was made from: an object, or an empty text if it boots from a volume.
    pub image: Option<Value>,
    /// What it is made of.
    #[serde(default)]
    pub flavor: Size,
    pub created: Option<String>,
    /// When it first ran; none of one that never came up.
    #[serde(rename = "OS-SRV-USG:launched_at")]
    pub launched: Option<String>,
    /// `active`, `stopped`, `shelved_offloaded` and so on: what Nova decides by.
    #[serde(rename = "OS-EXT-STS:vm_state", default)]
    pub vm_state: String,
    /// `/dev/vda`; told to administrators only.
    #[serde(rename = "OS-EXT-SRV-ATTR:root_device_name")]
    pub root_device: Option<String>,
}

impl Server {
    /// The image that its root disk was made from; none of a server that boots from a volume.
    pub(in crate::openstack) fn image_id(&self) -> Option<&str> {
        self.image.as_ref()?.get("id")?.as_str()
    }
}

/// A flavour as it was when a server was made of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(in crate::openstack) struct Size {
    #[serde(rename = "original_name")]
    pub name: Option<String>,
    pub vcpus: u32,
    /// MiB.
    pub ram: u64,
    /// GiB; 0: as much as the image wants.
    pub disk: u64,
    /// GiB of further disks without content.
    pub ephemeral: u64,
    /// MiB.
    pub swap: u64,
    pub extra_specs: BTreeMap<String, String>,
}

/// An address of a server.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(in crate::openstack) struct Address {
    pub addr: String,
    #[serde(rename = "OS-EXT-IPS-MAC:mac_addr")]
    pub mac: Option<String>,
    #[serde(rename = "OS-EXT-IPS:type")]
    pub kind: Option<String>,
}

/// Why a server is in `ERROR`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(in crate::openstack) struct Fault {
    #[serde(default)]
    pub message: String,
}

/// A volume of a server.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(in crate::openstack) struct Attached {
    pub id: String,
    #[serde(default)]
    pub delete_on_termination: bool,
}

/// A flavour.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(in crate::openstack) struct Flavor {
    pub id: String,
    pub name: String,
    pub vcpus: u32,
    /// MiB.
    pub ram: u64,
    /// GiB; 0: as much as the image wants.
    pub disk: u64,
}

#[derive(Deserialize)]
struct One {
    server: Server,
}

#[derive(Deserialize)]
struct Made {
    server: Id,
}

#[derive(Deserialize)]
struct Id {
    id: String,
}

#[derive(Deserialize)]
struct Output {
    output: Option<String>,
}

/// The calls.
pub(in crate::openstack) struct Nova<'a>(pub &'a Client);

impl Nova<'_> {
    fn call(&self, what: String, method: Method, path: String) -> Call<'_> {
        self.0.call(what, Service::Compute, method, path)
    }

    /// All servers of the project.
    pub(in crate::openstack) async fn servers(&self) -> Result<Vec<Server>> {
        let listing = Listing { service: Service::Compute, path: "servers/detail", key: "servers", query: &[] };
        pages::all(self.0, listing).await
    }

    pub(in crate::openstack) async fn server(&self, id: &str) -> Result<Server> {
        let call = self.call(format!("cannot look at server {id}"), Method::GET, format!("servers/{id}"));
        Ok(call.answer::<One>().await?.server)
    }

    /// Orders a server; it is there when its status says so. Answers its id.
    pub(in crate::openstack) async fn create(&self, name: &str, server: &Value) -> Result<String> {
        let call = self.call(format!("cannot create server {name}"), Method::POST, "servers".to_owned());
        Ok(call.json(&json!({ "server": server }))?.answer::<Made>().await?.server.id)
    }

    /// Orders its end. Absent is success.
    pub(in crate::openstack) async fn delete(&self, id: &str) -> Result<()> {
        self.call(format!("cannot delete server {id}"), Method::DELETE, format!("servers/{id}")).gone().await
    }

    /// Does something with a server: `{"os-stop": null}`. The answer may be empty.
    pub(in crate::openstack) async fn action(&self, id: &str, what: &str, action: &Value) -> Result<Value> {
        let call = self.call(format!("cannot {what} server {id}"), Method::POST, format!("servers/{id}/action"));
        let (_, body) = call.json(action)?.bytes().await?;
        Ok(serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    /// What the console said so far, as much of it as the service keeps.
    pub(in crate::openstack) async fn console(&self, id: &str) -> Result<String> {
        let call =
            self.call(format!("cannot read the console of server {id}"), Method::POST, format!("servers/{id}/action"));
        let answer: Output = call.json(&json!({ "os-getConsoleOutput": {} }))?.answer().await?;
        Ok(answer.output.unwrap_or_default())
    }

    /// All flavours that the project may use.
    pub(in crate::openstack) async fn flavors(&self) -> Result<Vec<Flavor>> {
        let listing = Listing { service: Service::Compute, path: "flavors/detail", key: "flavors", query: &[] };
        pages::all(self.0, listing).await
    }
}

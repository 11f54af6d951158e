//! Neutron v2.0: networks, subnets and ports.

use model::Result;
use reqwest::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Service;
use super::pages::{self, Listing};
use crate::openstack::http::Client;

/// Kinds of things at Neutron.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::openstack) enum Thing {
    Network,
    Subnet,
    Port,
    SecurityGroup,
}

impl Thing {
    pub(in crate::openstack) fn word(self) -> &'static str {
        match self {
            Thing::Network => "network",
            Thing::Subnet => "subnet",
            Thing::Port => "port",
            Thing::SecurityGroup => "security_group",
        }
    }

    fn plural(self) -> &'static str {
        match self {
            Thing::Network => "networks",
            Thing::Subnet => "subnets",
            Thing::Port => "ports",
            Thing::SecurityGroup => "security_groups",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Thing::SecurityGroup => "security-groups",
            other => other.plural(),
        }
    }
}

/// A network, a subnet or a port as the service shows it: as much of it as is used.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(in crate::openstack) struct Item {
    pub id: String,
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub description: String,
    /// Of a port: who uses it.
    #[serde(default)]
    pub device_id: String,
    /// Of a port.
    pub mac_address: Option<String>,
    /// Of a port.
    #[serde(default)]
    pub fixed_ips: Vec<FixedIp>,
    /// Of a subnet and of a port.
    pub network_id: Option<String>,
}

/// An address of a port.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(in crate::openstack) struct FixedIp {
    pub ip_address: String,
}

/// The calls.
pub(in crate::openstack) struct Neutron<'a>(pub &'a Client);

impl Neutron<'_> {
    /// All networks, subnets or ports of the project that fit the query.
    pub(in crate::openstack) async fn list(&self, thing: Thing, query: &[(&'static str, String)]) -> Result<Vec<Item>> {
        self.list_as(thing, query).await
    }

    /// The same, with other fields.
    pub(in crate::openstack) async fn list_as<T: DeserializeOwned>(
        &self,
        thing: Thing,
        query: &[(&'static str, String)],
    ) -> Result<Vec<T>> {
        let listing = Listing { service: Service::Network, path: thing.path(), key: thing.plural(), query };
        pages::all(self.0, listing).await
    }

    pub(in crate::openstack) async fn create(&self, thing: Thing, name: &str, value: &Value) -> Result<Item> {
        let (word, what) = (thing.word(), format!("cannot create {} {name}", thing.word()));
        let call = self.0.call(what.clone(), Service::Network, Method::POST, thing.path());
        let mut answer: Value = call.json(&json!({ word: value }))?.answer().await?;
        serde_json::from_value(answer[word].take()).map_err(|error| {
            model::Error::new(model::Kind::Permanent, what)
                .because(format!("Neutron's answer is not understood: {error}"))
        })
    }

    /// Absent is success.
    pub(in crate::openstack) async fn delete(&self, thing: Thing, id: &str) -> Result<()> {
        let (what, path) = (format!("cannot delete {} {id}", thing.word()), format!("{}/{id}", thing.path()));
        self.0.call(what, Service::Network, Method::DELETE, path).gone().await
    }
}

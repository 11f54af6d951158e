//! How everything that the program makes is marked, and the token that makes creating it repeatable.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{OwnerId, PointId, PolicyName, RunId, ServerName};

/// Free key-value marks of a server or a resource, in order.
pub type Tags = BTreeMap<String, String>;

/// The tag keys that the program sets.
pub mod tag {
    /// Which installation made it.
    pub const OWNER: &str = "replicate:owner";
    /// Which policy asked for it.
    pub const POLICY: &str = "replicate:policy";
    /// Of which server it is.
    pub const SERVER: &str = "replicate:server";
    /// Which restore point it holds.
    pub const POINT: &str = "replicate:point";
    /// Which run made it.
    pub const RUN: &str = "replicate:run";
    /// Which step of the run made it.
    pub const STEP: &str = "replicate:step";
    /// `scratch` or `replica`.
    pub const ROLE: &str = "replicate:role";
}

/// What a resource is for: `scratch` is swept when its run is dead, `replica` is touched by retention alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Made on the way; belongs to its run.
    Scratch,
    /// A committed replica.
    Replica,
}

/// Makes a create call repeatable: the same token never makes two resources.
///
/// Goes into the provider's idempotency parameter where there is one, and into the tags of the create call always.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Token {
    /// Which installation.
    pub owner: OwnerId,
    /// Which policy, if a policy asked.
    pub policy: Option<PolicyName>,
    /// Of which server.
    pub server: ServerName,
    /// Which run.
    pub run: RunId,
    /// Which step of the run: a ledger key, never renamed.
    pub step: String,
}

impl Token {
    /// A name for the resource, unique per run and step: `replicate-<run>-<step>`.
    pub fn name(&self) -> String {
        format!("replicate-{}-{}", self.run, self.step)
    }

    /// The tags that the create call carries.
    pub fn tags(&self, role: Role) -> Tags {
        let point: PointId = self.run.point();
        let role = match role {
            Role::Scratch => "scratch",
            Role::Replica => "replica",
        };
        let mut tags: Tags = [
            (tag::OWNER, self.owner.as_str()),
            (tag::SERVER, self.server.as_str()),
            (tag::POINT, point.as_str()),
            (tag::RUN, self.run.as_str()),
            (tag::STEP, self.step.as_str()),
            (tag::ROLE, role),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
        if let Some(policy) = &self.policy {
            tags.insert(tag::POLICY.to_owned(), policy.to_string());
        }
        tags
    }
}

//! What a call at the Resource Manager needs, and whether an application may: custom role definitions in the form that
//! Azure's command line takes. The application of the greeting is the owner of everything; others have what is
//! assigned to them, and can log in from then on.
//!
//! What is needed of things that a call only refers to is what the provider names in `LinkedAuthorizationFailed`; that of
//! a card that comes and goes with its machine is a guess.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::state::CLIENT;
use crate::auth::policy::fits;
use crate::error::{Answer, ApiError};
use crate::http::Request;
use crate::sim::Sim;
use crate::world::World;

/// A role definition.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub(crate) struct Role {
    name: String,
    #[serde(default)]
    is_custom: bool,
    #[serde(default)]
    description: String,
    actions: Vec<String>,
    #[serde(default)]
    not_actions: Vec<String>,
    /// The bytes behind a SAS need none of these.
    #[serde(default)]
    data_actions: Vec<String>,
    #[serde(default)]
    not_data_actions: Vec<String>,
    assignable_scopes: Vec<String>,
}

impl Role {
    fn allows(&self, action: &str) -> bool {
        let any =
            |patterns: &[String]| patterns.iter().any(|pattern| fits(&pattern.to_lowercase(), &action.to_lowercase()));
        any(&self.actions) && !any(&self.not_actions)
    }
}

/// Assigns roles to an application, in place of those that it had.
pub(crate) fn assign(sim: &Sim, request: &Request) -> Answer<Value> {
    let roles: Vec<Role> =
        serde_json::from_slice(&request.body).map_err(|why| ApiError::refuse("BadRequest", why.to_string()))?;
    let application = request.query("application").unwrap_or_default().to_owned();
    if application.is_empty() || application == CLIENT {
        return Err(ApiError::refuse("BadRequest", "name another application than the owner"));
    }
    if let Some(role) = roles.iter().find(|role| !role.is_custom || role.assignable_scopes.is_empty()) {
        return Err(ApiError::refuse("BadRequest", format!("{} is no custom role, or has no scope", role.name)));
    }
    sim.change(|world| {
        world.azure.roles.insert(application, roles);
        Ok(json!(world.azure.roles))
    })
}

/// Whether somebody can log in under that id.
pub(super) fn is_known(world: &World, application: &str) -> bool {
    application == CLIENT || world.azure.roles.contains_key(application)
}

/// Refuses what an application may not.
pub(super) fn permit(sim: &Sim, application: &str, needs: &[String]) -> Answer<()> {
    if application == CLIENT {
        return Ok(());
    }
    let missing = sim.with(|world| {
        let roles = world.azure.roles.get(application).cloned().unwrap_or_default();
        needs.iter().position(|need| !roles.iter().any(|role| role.allows(need)))
    });
    match missing {
        None => Ok(()),
        Some(place) => {
            let code = if place == 0 { "AuthorizationFailed" } else { "LinkedAuthorizationFailed" };
            let need = &needs[place];
            let message = format!("The client '{application}' does not have authorization to perform action '{need}'.");
            Err(ApiError::new(403, code, message))
        }
    }
}

/// The actions that a call needs, its own first.
pub(super) fn needs(method: &str, path: &str, body: &[u8]) -> Vec<String> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let at = parts.iter().position(|part| part.eq_ignore_ascii_case("Microsoft.Compute"));
    let Some((kind, rest)) = at.and_then(|at| parts[at + 1..].split_first()) else { return Vec::new() };
    if kind.eq_ignore_ascii_case("locations") {
        let what = rest.get(1).copied().unwrap_or_default();
        return vec![format!("Microsoft.Compute/locations/{what}/read")];
    }
    if kind.eq_ignore_ascii_case("restorePointCollections") {
        return of_points(method, rest);
    }
    if kind.eq_ignore_ascii_case("galleries") {
        return of_galleries(method, rest.len());
    }
    let (name, action) = (rest.first(), rest.get(1));
    let own = match (method, name, action) {
        ("POST", _, Some(action)) => format!("{kind}/{action}/action"),
        ("GET", _, Some(part)) => format!("{kind}/{part}/read"),
        ("PUT" | "PATCH", _, Some(_)) => format!("{kind}/write"),
        ("GET", ..) => format!("{kind}/read"),
        ("DELETE", ..) => format!("{kind}/delete"),
        _ => format!("{kind}/write"),
    };
    let mut all = vec![format!("Microsoft.Compute/{own}")];
    if method == "PUT" {
        linked(&serde_json::from_slice(body).unwrap_or_default(), &mut all);
    }
    if method == "DELETE" && kind.eq_ignore_ascii_case("virtualMachines") {
        all.push("Microsoft.Network/networkInterfaces/delete".to_owned());
    }
    all
}

/// Of collections of restore points and what is in them. Whether the machine has to be read for a point is a guess.
fn of_points(method: &str, rest: &[&str]) -> Vec<String> {
    let kinds = ["", "/restorePoints", "/restorePoints/diskRestorePoints"];
    let (depth, action) = match rest.len() {
        0 | 1 => (0, None),
        2 | 3 => (1, None),
        4 => (2, None),
        5 => (2, None),
        _ => (2, rest.get(5)),
    };
    let verb = match (method, action) {
        (_, Some(action)) => format!("{action}/action"),
        ("GET", _) => "read".to_owned(),
        ("DELETE", _) => "delete".to_owned(),
        _ => "write".to_owned(),
    };
    let mut all = vec![format!("Microsoft.Compute/restorePointCollections{}/{verb}", kinds[depth])];
    if method == "PUT" {
        all.push("Microsoft.Compute/virtualMachines/read".to_owned());
    }
    all
}

/// Of galleries and what is in them. That the source of a version has to be read is a guess.
fn of_galleries(method: &str, depth: usize) -> Vec<String> {
    let kind = ["", "/images", "/images/versions"][(depth / 2).min(2)];
    let verb = match method {
        "GET" => "read",
        "DELETE" => "delete",
        _ => "write",
    };
    let mut all = vec![format!("Microsoft.Compute/galleries{kind}/{verb}")];
    if method == "PUT" && depth == 5 {
        all.push("Microsoft.Compute/snapshots/read".to_owned());
    }
    all
}

/// What a body refers to.
fn linked(body: &Value, all: &mut Vec<String>) {
    let text = |path: &str| body.pointer(path).and_then(Value::as_str);
    if let Some(source) = text("/properties/creationData/sourceResourceId") {
        let kind = if source.to_lowercase().contains("/snapshots/") { "snapshots" } else { "disks" };
        all.push(format!("Microsoft.Compute/{kind}/beginGetAccess/action"));
    }
    if text("/properties/creationData/galleryImageReference/id").is_some() {
        all.push("Microsoft.Compute/galleries/images/versions/read".to_owned());
    }
    if body.pointer("/properties/encryption/diskEncryptionSetId").is_some() {
        all.push("Microsoft.Compute/diskEncryptionSets/read".to_owned());
    }
    if body.pointer("/properties/storageProfile/osDisk/managedDisk").is_some() {
        all.push("Microsoft.Compute/disks/write".to_owned());
    }
    let network = body.pointer("/properties/networkProfile").map(Value::to_string).unwrap_or_default();
    if network.contains("networkInterfaceConfigurations") {
        all.push("Microsoft.Network/networkInterfaces/write".to_owned());
        all.push("Microsoft.Network/virtualNetworks/subnets/join/action".to_owned());
    } else if network.contains("networkInterfaces") {
        all.push("Microsoft.Network/networkInterfaces/join/action".to_owned());
    }
    if network.contains("networkSecurityGroup") {
        all.push("Microsoft.Network/networkSecurityGroups/join/action".to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_needs_its_own_action_and_those_of_what_it_refers_to() {
        let group = "subscriptions/s/resourceGroups/g/providers/Microsoft.Compute";
        let of = |method: &str, path: &str, body: Value| {
            needs(method, &format!("{group}/{path}"), body.to_string().as_bytes())
        };
        assert_eq!(of("GET", "disks", Value::Null), ["Microsoft.Compute/disks/read"]);
        assert_eq!(
            of("POST", "disks/d/beginGetAccess", Value::Null),
            ["Microsoft.Compute/disks/beginGetAccess/action"]
        );
        let body = json!({ "properties": { "creationData": { "sourceResourceId": "/x/snapshots/s" } } });
        assert_eq!(
            of("PUT", "disks/d", body),
            ["Microsoft.Compute/disks/write", "Microsoft.Compute/snapshots/beginGetAccess/action"]
        );
        let path = "subscriptions/s/providers/Microsoft.Compute/locations/westeurope/DiskOperations/1";
        assert_eq!(needs("GET", path, b""), ["Microsoft.Compute/locations/DiskOperations/read"]);
    }

    #[test]
    fn a_role_is_read_as_azure_reads_it() {
        let role: Role = serde_json::from_value(json!({
            "Name": "n", "IsCustom": true, "Actions": ["microsoft.compute/DISKS/*"], "NotActions": ["*/delete"],
            "AssignableScopes": ["/subscriptions/s"],
        }))
        .unwrap();
        assert!(role.allows("Microsoft.Compute/disks/write") && !role.allows("Microsoft.Compute/disks/delete"));
        assert!(!role.allows("Microsoft.Compute/snapshots/write"));
    }
}

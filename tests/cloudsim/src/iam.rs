//! What a call needs to be permitted: actions and the resources they are about, in the form of policies. It is
//! enforced, and it is logged, so that a least-privilege policy can be read off a recorded run.

use serde_json::{Value, json};

use crate::auth::Caller;
use crate::auth::policy::allows;
use crate::ebs::Operation;
use crate::ec2::params::Params;
use crate::error::{Answer, ApiError};
use crate::world::World;

/// Action and resource.
pub(crate) type Need = (String, String);

/// A type of resource by the prefix of its ids; snapshots and images have no account in their names.
fn kind(id: &str) -> Option<&'static str> {
    let (prefix, rest) = id.split_once('-')?;
    if rest.is_empty() || !rest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    Some(match prefix {
        "snap" => "snapshot",
        "ami" => "image",
        "vol" => "volume",
        "i" => "instance",
        "sg" => "security-group",
        "subnet" => "subnet",
        "vpc" => "vpc",
        "lt" => "launch-template",
        _ => return None,
    })
}

fn arn(caller: &Caller, kind: &str, name: &str) -> String {
    let account = if matches!(kind, "snapshot" | "image") { "" } else { &caller.account };
    format!("arn:aws:ec2:{}:{account}:{kind}/{name}", caller.region)
}

/// Types of what an action makes.
fn makes(action: &str) -> &'static [&'static str] {
    match action {
        "CreateSnapshot" | "CreateSnapshots" | "CopySnapshot" => &["snapshot"],
        "RegisterImage" => &["image"],
        "CopyImage" | "CreateImage" => &["image", "snapshot"],
        "RunInstances" => &["instance", "volume", "network-interface"],
        "CreateVolume" => &["volume"],
        "CreateSecurityGroup" => &["security-group"],
        _ => &[],
    }
}

/// What a call of the query API needs.
pub(crate) fn query(caller: &Caller, action: &str, params: &Params) -> Vec<Need> {
    let name = format!("ec2:{action}");
    // descriptions cannot be limited to resources
    if action.starts_with("Describe") {
        return vec![(name, "*".to_owned())];
    }
    let mut resources: Vec<String> = makes(action).iter().map(|kind| arn(caller, kind, "*")).collect();
    if action == "CreateSnapshots" {
        // those of the instance, whichever they are
        resources.push(arn(caller, "volume", "*"));
    }
    for (key, value) in params.all() {
        if key.contains("Tag.") || key == "ClientToken" {
            continue;
        }
        if let Some(kind) = kind(value) {
            resources.push(arn(caller, kind, value));
        }
        if key == "KeyName" {
            resources.push(arn(caller, "key-pair", value));
        }
    }
    resources.sort();
    resources.dedup();
    if resources.is_empty() {
        resources.push("*".to_owned());
    }
    let mut needs: Vec<Need> = resources.into_iter().map(|resource| (name.clone(), resource)).collect();
    // tags in a create call need the right to tag as well
    for one in params.structs("TagSpecification") {
        if let Some(kind) = one.get("ResourceType") {
            needs.push(("ec2:CreateTags".to_owned(), arn(caller, &kind, "*")));
        }
    }
    needs
}

/// What a call of the direct API needs.
pub(crate) fn direct(caller: &Caller, operation: &Operation, body: &[u8]) -> Vec<Need> {
    let name = format!("ebs:{}", operation.name());
    let resource = arn(caller, "snapshot", operation.snapshot().unwrap_or("*"));
    let mut needs = vec![(name.clone(), resource)];
    if *operation == Operation::Start {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        if let Some(parent) = body["ParentSnapshotId"].as_str() {
            needs.push((name, arn(caller, "snapshot", parent)));
        }
        if body["Tags"].as_array().is_some_and(|tags| !tags.is_empty()) {
            needs.push(("ec2:CreateTags".to_owned(), arn(caller, "snapshot", "*")));
        }
    }
    needs
}

/// What a call of Systems Manager needs. Sending is about the document and every instance, the rest about nothing.
pub(crate) fn ssm(caller: &Caller, action: &str, body: &Value) -> Vec<Need> {
    let name = format!("ssm:{action}");
    if action != "SendCommand" {
        return vec![(name, "*".to_owned())];
    }
    let document = body["DocumentName"].as_str().unwrap_or("*");
    let mut needs = vec![(name.clone(), format!("arn:aws:ssm:{}::document/{document}", caller.region))];
    let instances = body["InstanceIds"].as_array().into_iter().flatten().filter_map(Value::as_str);
    needs.extend(instances.map(|id| (name.clone(), arn(caller, "instance", id))));
    needs
}

/// What a call of STS needs.
pub(crate) fn sts(action: &str, params: &Params) -> Vec<Need> {
    if action == "GetCallerIdentity" {
        // everybody may ask who they are, even where it is denied
        return Vec::new();
    }
    let resource = params.get("RoleArn").unwrap_or_else(|| "*".to_owned());
    vec![(format!("sts:{action}"), resource)]
}

/// Whose policy counts: a session's is its role's.
fn principal(arn: &str) -> String {
    let session = arn.strip_prefix("arn:aws:sts::").and_then(|rest| rest.split_once(":assumed-role/"));
    match session.and_then(|(account, rest)| Some((account, rest.split_once('/')?.0))) {
        Some((account, role)) => format!("arn:aws:iam::{account}:role/{role}"),
        None => arn.to_owned(),
    }
}

/// Refuses a call that a policy does not permit.
pub(crate) fn permit(world: &World, caller: &Caller, needs: &[Need]) -> Answer<()> {
    let own = world.policies.get(&principal(&caller.arn));
    let general = world.policies.get("*");
    for (action, resource) in needs {
        if allows(own, general, action, resource) {
            continue;
        }
        let message = format!(
            "You are not authorized to perform this operation. User: {} is not authorized to perform: {action} on \
             resource: {resource} because no identity-based policy allows the {action} action",
            caller.arn
        );
        let code = match caller.service.as_str() {
            "ec2" => "UnauthorizedOperation",
            "ebs" | "ssm" => "AccessDeniedException",
            _ => "AccessDenied",
        };
        let status = if caller.service == "ssm" { 400 } else { 403 };
        return Err(ApiError::new(status, code, message).reason("DEPENDENCY_ACCESS_DENIED"));
    }
    Ok(())
}

/// For the log.
pub(crate) fn logged(needs: &[Need]) -> Value {
    needs.iter().map(|(action, resource)| json!({ "action": action, "resource": resource })).collect()
}

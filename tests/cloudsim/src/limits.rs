//! Which limits a call is held to, and in which words it is told.

use serde_json::{Map, Value, json};

use crate::auth::Caller;
use crate::ebs::Operation;
use crate::ec2::params::Params;
use crate::error::{Answer, ApiError};
use crate::http::Request;
use crate::sim::Sim;
use crate::world::settings::Limits;

/// The code that a service gives to a status nobody has explained.
pub(crate) fn code_of(service: &str, status: u16) -> &'static str {
    match (service, status) {
        ("ebs", 429) => "RequestThrottledException",
        ("ebs", 503) => "ServiceUnavailableException",
        ("ebs", _) => "InternalServerException",
        ("ssm", 429) => "ThrottlingException",
        ("ssm", 503) => "ServiceUnavailable",
        ("ssm", _) => "InternalServerError",
        ("azure", 503) => "ServerBusy",
        ("azure", 429) => "TooManyRequests",
        (_, 503) => "Unavailable",
        (_, 429) => "RequestLimitExceeded",
        _ => "InternalError",
    }
}

/// Limits of the query API.
pub(crate) fn query(sim: &Sim, limits: &Limits, caller: &Caller, name: &str, params: &Params) -> Answer<()> {
    let reads = name.starts_with("Describe") || name.starts_with("Get");
    let bare = params.all().keys().all(|key| matches!(key.as_str(), "Action" | "Version"));
    let (class, (size, refill)) = match (reads, bare) {
        (true, true) => ("read-all", limits.read_all),
        (true, false) => ("read", limits.read),
        (false, _) => ("write", limits.write),
    };
    let bucket = format!("ec2/{}/{}/{class}", caller.account, caller.region);
    sim.limiter
        .take(&[(bucket, size, refill)])
        .map_err(|_| ApiError::new(503, "RequestLimitExceeded", "Request limit exceeded."))
}

/// Limits of the direct API.
pub(crate) fn direct(sim: &Sim, limits: &Limits, caller: &Caller, operation: &Operation) -> Answer<()> {
    let account = format!("ebs/{}/{}", caller.account, caller.region);
    let name = operation.name();
    let of_account = |(size, refill)| (format!("{account}/{name}"), size, refill);
    let buckets = match operation {
        Operation::Get { snapshot, .. } | Operation::Put { snapshot, .. } => {
            let (size, refill) = limits.blocks_of_snapshot;
            vec![of_account(limits.blocks), (format!("snapshot/{snapshot}/{name}"), size, refill)]
        }
        Operation::List { .. } | Operation::Changed { .. } => vec![of_account(limits.lists)],
        Operation::Start => vec![of_account(limits.starts)],
        Operation::Complete { .. } => vec![of_account(limits.completes)],
    };
    sim.limiter.take(&buckets).map_err(|empty| {
        let (reason, what) = match empty.starts_with("snapshot/") {
            true => ("RESOURCE_LEVEL_THROTTLE", "snapshot"),
            false => ("ACCOUNT_THROTTLED", "account"),
        };
        let message = format!("You have exceeded the request rate of the {what} for {name}.");
        ApiError::refuse("RequestThrottledException", message).reason(reason)
    })
}

/// A request of the direct API for the log: everything but the blocks.
pub(crate) fn described(request: &Request) -> Value {
    let mut headers = Map::new();
    for (name, value) in &request.headers {
        let name = name.as_str();
        let secret = matches!(name, "x-amz-security-token" | "x-amz-date" | "x-amz-content-sha256");
        if name.starts_with("x-amz-") && !secret {
            headers.insert(name.to_owned(), json!(value.to_str().unwrap_or_default()));
        }
    }
    let query: Map<String, Value> = request.query.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    let mut line = json!({ "method": request.method, "path": request.path, "query": query, "headers": headers });
    if request.method == "POST" && !request.body.is_empty() {
        line["body"] = serde_json::from_slice(&request.body).unwrap_or_default();
    }
    line
}

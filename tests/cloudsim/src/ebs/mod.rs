//! The EBS direct API: JSON and blocks over REST.

mod read;
mod token;
mod write;

use serde_json::json;

use crate::auth::Caller;
use crate::error::{Answer, ApiError};
use crate::http::{Request, Response};
use crate::sim::Sim;
use crate::world::World;
use crate::world::resource::Snapshot;

/// What a request is, by its method and path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Operation {
    Start,
    Put { snapshot: String, index: u32 },
    Complete { snapshot: String },
    List { snapshot: String },
    Changed { snapshot: String },
    Get { snapshot: String, index: u32 },
}

impl Operation {
    /// None: there is no such thing.
    pub(crate) fn of(request: &Request) -> Option<Self> {
        let parts: Vec<&str> = request.path.trim_matches('/').split('/').collect();
        let own = |text: &str| text.to_owned();
        Some(match (request.method.as_str(), &parts[..]) {
            ("POST", ["snapshots"]) => Self::Start,
            ("PUT", ["snapshots", id, "blocks", index]) => Self::Put { snapshot: own(id), index: index.parse().ok()? },
            ("POST", ["snapshots", "completion", id]) => Self::Complete { snapshot: own(id) },
            ("GET", ["snapshots", id, "blocks"]) => Self::List { snapshot: own(id) },
            ("GET", ["snapshots", id, "changedblocks"]) => Self::Changed { snapshot: own(id) },
            ("GET", ["snapshots", id, "blocks", index]) => Self::Get { snapshot: own(id), index: index.parse().ok()? },
            _ => return None,
        })
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Start => "StartSnapshot",
            Self::Put { .. } => "PutSnapshotBlock",
            Self::Complete { .. } => "CompleteSnapshot",
            Self::List { .. } => "ListSnapshotBlocks",
            Self::Changed { .. } => "ListChangedBlocks",
            Self::Get { .. } => "GetSnapshotBlock",
        }
    }

    /// The snapshot that it is about, if there is one already.
    pub(crate) fn snapshot(&self) -> Option<&str> {
        match self {
            Self::Start => None,
            Self::Put { snapshot, .. }
            | Self::Complete { snapshot }
            | Self::List { snapshot }
            | Self::Changed { snapshot }
            | Self::Get { snapshot, .. } => Some(snapshot),
        }
    }
}

/// Does what a request asks for.
pub(crate) fn call(sim: &Sim, caller: &Caller, operation: &Operation, request: &Request) -> Answer<Response> {
    match operation {
        Operation::Start => write::start(sim, caller, request),
        Operation::Put { snapshot, index } => write::put(sim, caller, snapshot, *index, request),
        Operation::Complete { snapshot } => write::complete(sim, caller, snapshot, request),
        Operation::List { snapshot } => read::list(sim, caller, snapshot, request),
        Operation::Changed { snapshot } => read::changed(sim, caller, snapshot, request),
        Operation::Get { snapshot, index } => read::get(sim, caller, snapshot, *index, request),
    }
}

/// An error in this API's envelope.
pub(crate) fn refusal(error: &ApiError) -> Response {
    let body = match error.reason {
        Some(reason) => json!({ "Message": error.message, "Reason": reason }),
        None => json!({ "Message": error.message }),
    };
    Response::json(error.status, &body).with("x-amzn-errortype", error.code.clone())
}

fn invalid(reason: &'static str, message: impl Into<String>) -> ApiError {
    ApiError::refuse("ValidationException", message).reason(reason)
}

/// A header that must be there and be a number.
fn number(request: &Request, name: &str) -> Answer<u64> {
    let value = request.header(name).and_then(|value| value.parse().ok());
    value.ok_or_else(|| invalid("INVALID_PARAMETER_VALUE", format!("The header {name} must be a number.")))
}

/// A snapshot of this region that the caller may use. This API sees at once what it has made itself.
fn find<'w>(world: &'w World, caller: &Caller, id: &str) -> Answer<&'w Snapshot> {
    let found = world.snapshots.get(id).filter(|it| it.base.region == caller.region);
    let found = found.ok_or_else(|| {
        let message = format!("The snapshot '{id}' does not exist.");
        ApiError::new(404, "ResourceNotFoundException", message).reason("SNAPSHOT_NOT_FOUND")
    })?;
    if !found.is_open_to(&caller.account) {
        let message = format!("The account is not authorized to access the snapshot '{id}'.");
        return Err(ApiError::new(403, "AccessDeniedException", message).reason("UNAUTHORIZED_ACCOUNT"));
    }
    Ok(found)
}

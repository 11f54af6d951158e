//! Long-running operations: 202 with two addresses to ask at, one for the state, one for the result.

use serde_json::{Value, json};

use super::state::{Operation, SUBSCRIPTION};
use crate::clock::later;
use crate::error::{Answer, ApiError};
use crate::http::{Request, Response};
use crate::sim::Sim;
use crate::world::World;
use crate::world::ids;

/// Records an operation that ends after the weather's time. Its effect is there already: only its end takes time.
pub(super) fn begin(world: &mut World, output: Option<Value>) -> String {
    let id = ids::request();
    let now = world.now();
    let ready = later(now, world.settings.weather.arm_seconds);
    world.azure.operations.insert(id.clone(), Operation { started: now, ready, output, error: None });
    id
}

/// Records one that will turn out to have failed.
pub(super) fn begin_failing(world: &mut World, code: &str, message: &str) -> String {
    let id = begin(world, None);
    if let Some(operation) = world.azure.operations.get_mut(&id) {
        operation.error = Some((code.to_owned(), message.to_owned()));
    }
    id
}

/// The answer to what has begun.
pub(super) fn accepted(sim: &Sim, request: &Request, location: &str, id: &str, body: Option<Value>) -> Response {
    let seconds = sim.with(|world| world.settings.weather.arm_seconds);
    let host = request.header("host").unwrap_or_default();
    let version = request.query("api-version").unwrap_or_default();
    let path = request.path.to_lowercase();
    // what is of machines is another provider's than what is of disks
    let of_machines = path.contains("/virtualmachines/")
        || path.contains("/restorepointcollections/") && !path.contains("/diskrestorepoints/");
    let kind = match of_machines {
        true => "operations",
        false if super::galleries::is_one(&path) => "capsOperations",
        false => "DiskOperations",
    };
    let at = format!(
        "http://{host}/azure/arm/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Compute/locations/{location}/\
         {kind}/{id}"
    );
    let response = match body {
        Some(body) => Response::json(202, &body),
        None => Response::new(202, "application/json", ""),
    };
    response
        .with("azure-asyncoperation", format!("{at}?api-version={version}"))
        .with("location", format!("{at}?monitor=true&api-version={version}"))
        // the provider says 2; where nothing takes time nobody has to wait
        .with("retry-after", format!("{:.0}", seconds.clamp(0.0, 2.0)))
}

pub(super) fn get(sim: &Sim, path: &str, request: &Request) -> Answer<Response> {
    let id = path.trim_matches('/').rsplit('/').next().unwrap_or_default();
    let monitor = request.query("monitor").is_some();
    sim.with(|world| {
        let now = world.now();
        let it = world.azure.operations.get(id);
        let it = it.ok_or_else(|| ApiError::new(404, "NotFound", format!("There is no operation {id}.")))?;
        if now < it.ready {
            if monitor {
                return Ok(Response::new(202, "application/json", "").with("retry-after", "10"));
            }
            let body = json!({ "startTime": it.started, "status": "InProgress", "name": id });
            return Ok(Response::json(200, &body).with("retry-after", "10"));
        }
        if let Some((code, message)) = &it.error {
            let body = json!({
                "startTime": it.started, "endTime": it.ready, "status": "Failed", "name": id,
                "error": { "code": code, "message": message },
            });
            return if monitor { Err(ApiError::new(409, code, message)) } else { Ok(Response::json(200, &body)) };
        }
        if monitor {
            let empty = Response::new(204, "application/json", "");
            return Ok(it.output.as_ref().map_or(empty, |output| Response::json(200, output)));
        }
        let mut body = json!({ "startTime": it.started, "endTime": it.ready, "status": "Succeeded", "name": id });
        if let Some(output) = &it.output {
            body["properties"] = json!({ "output": output });
        }
        Ok(Response::json(200, &body))
    })
}

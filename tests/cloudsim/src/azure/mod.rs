//! Azure as far as managed disks go: tokens of Entra ID, the Resource Manager's disks, snapshots and virtual machines
//! with their long-running operations, and the page blobs that a SAS opens.
//!
//! `/azure/login` gives tokens, `/azure/identity` those of a machine's own identity, `/azure/arm` is the Resource Manager, `/azure/blob` are the blobs behind a SAS.

mod access;
mod arm;
pub(crate) mod assertion;
mod blob;
mod disks;
pub(crate) mod encryption;
pub(crate) mod galleries;
mod login;
mod machines;
mod operations;
pub(crate) mod points;
mod ranges;
pub(crate) mod rights;
mod snapshots;
pub(crate) mod state;
mod trusted;
mod vhd;

pub(crate) use machines::{noticed, restart};
use serde_json::json;

use crate::error::ApiError;
use crate::http::{Request, Response};
use crate::sim::Sim;

/// What a request is called in rules and in the log: the operation ids of the provider's own specifications.
pub(crate) fn name(request: &Request) -> String {
    match request.path.strip_prefix("/azure/").and_then(|rest| rest.split_once('/')) {
        Some(("login" | "identity", _)) => "Token".to_owned(),
        Some(("arm", path)) => arm::name(&request.method, path),
        Some(("blob", _)) => blob::name(request).to_owned(),
        _ => String::new(),
    }
}

/// Answers a request.
pub(crate) fn serve(sim: &Sim, request: &Request, request_id: &str) -> Response {
    crate::hypervisor::hold::reap(sim);
    let (part, path) = request.path.strip_prefix("/azure/").and_then(|rest| rest.split_once('/')).unwrap_or_default();
    let (done, log_error) = match part {
        "login" => split(login::token(sim, path, request), login::refusal),
        "identity" => split(login::of_machine(sim, request), login::refusal),
        "arm" => split(arm::call(sim, path, request), refusal),
        "blob" => split(blob::call(sim, path, request), blob::refusal),
        _ => (Response::new(404, "text/plain", "there is no such service"), None),
    };
    let mut line = json!({
        "request": request_id, "service": format!("azure-{part}"), "operation": name(request), "status": done.status,
        "method": request.method, "path": path,
    });
    if matches!(part, "arm" | "blob") {
        line["query"] = request.query.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        let told = request.headers.iter().filter(|(name, _)| *name != "authorization");
        let told = told.map(|(name, value)| (name.to_string(), json!(value.to_str().unwrap_or_default())));
        line["headers"] = told.collect();
    }
    if part == "arm" {
        line["application"] = json!(arm::application(sim, request));
        line["needs"] = json!(rights::needs(&request.method, path, &request.body));
    }
    if part == "arm" && !request.body.is_empty() {
        line["body"] = serde_json::from_slice(&request.body).unwrap_or_default();
    }
    if part == "blob" {
        blob::tell(sim, path, request, &done, &mut line);
    }
    if let Some(code) = log_error {
        line["error"] = json!(code);
    }
    sim.calls.add(&line);
    done.with("x-ms-request-id", request_id)
}

fn split(done: Result<Response, ApiError>, refuse: fn(&ApiError) -> Response) -> (Response, Option<String>) {
    match done {
        Ok(response) => (response, None),
        Err(error) => (refuse(&error), Some(error.code)),
    }
}

/// The answer that a rule puts in place of another, in the form of the part that was asked.
pub(crate) fn instead(request: &Request, error: &ApiError) -> Response {
    let refuse = if request.path.starts_with("/azure/blob/") { blob::refusal } else { refusal };
    refuse(error)
}

/// An error of the Resource Manager.
fn refusal(error: &ApiError) -> Response {
    let body = json!({ "error": { "code": error.code, "message": error.message } });
    let response = Response::json(error.status, &body).with("x-ms-failure-cause", "gateway");
    if error.status == 401 { response.with("www-authenticate", "Bearer error=\"invalid_token\"") } else { response }
}

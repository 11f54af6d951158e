//! Tokens for applications that know the secret or sign with their certificate, and for the machine that all this runs on.

use serde_json::json;

use super::state::{CLIENT, SECRET, TENANT};
use super::{assertion, rights};
use crate::clock::later;
use crate::error::{Answer, ApiError};
use crate::http::{Request, Response};
use crate::sim::Sim;
use crate::world::ids::capitals;

const SECONDS: u32 = 3599;
/// The one kind of assertion that there is.
const JWT: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

pub(super) fn token(sim: &Sim, path: &str, request: &Request) -> Answer<Response> {
    let denied = |status, code: &str, message: &str| Err(ApiError::new(status, code, message));
    if request.method != "POST" || path != format!("{TENANT}/oauth2/v2.0/token") {
        return denied(400, "invalid_request", "AADSTS90002: there is no such tenant");
    }
    let form: Vec<(String, String)> = form_urlencoded::parse(&request.body).into_owned().collect();
    let get = |name: &str| form.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    if get("grant_type") != Some("client_credentials") {
        return denied(400, "unsupported_grant_type", "AADSTS70003: only client_credentials is simulated");
    }
    let application = get("client_id").unwrap_or_default().to_owned();
    if !sim.with(|world| rights::is_known(world, &application)) {
        return denied(400, "unauthorized_client", "AADSTS700016: the application was not found in the directory");
    }
    match (get("client_assertion_type"), get("client_assertion")) {
        (Some(JWT), Some(asserted)) => assertion::check(sim, &application, asserted, &assertion::address(request))?,
        _ if get("client_secret") == Some(SECRET) => {}
        _ => return denied(401, "invalid_client", "AADSTS7000215: Invalid client secret provided."),
    }
    if !get("scope").is_some_and(|scope| scope.ends_with("/.default")) {
        return denied(400, "invalid_scope", "AADSTS70011: the scope is not valid");
    }
    let (made, _) = give(sim, application)?;
    let body =
        json!({ "token_type": "Bearer", "expires_in": SECONDS, "ext_expires_in": SECONDS, "access_token": made });
    Ok(Response::json(200, &body))
}

/// A new token, and until when it is good.
fn give(sim: &Sim, application: String) -> Answer<(String, jiff::Timestamp)> {
    let made = format!("sim.{}", capitals(60));
    sim.change(|world| {
        let now = world.now();
        let until = later(now, f64::from(SECONDS));
        world.azure.tokens.retain(|_, (until, _)| now < *until);
        world.azure.tokens.insert(made.clone(), (until, application));
        Ok((made, until))
    })
}

/// The identity of the machine, as App Service and Functions tell it: whoever knows the header's secret is on the machine.
/// It is the application of the greeting.
pub(super) fn of_machine(sim: &Sim, request: &Request) -> Answer<Response> {
    let denied = |why: &str| Err(ApiError::new(400, "invalid_request", why));
    if request.method != "GET" || request.query("api-version") != Some("2019-08-01") {
        return denied("the request is not understood");
    }
    if request.header("x-identity-header") != Some(SECRET) {
        return denied("the header X-IDENTITY-HEADER is not that of this machine");
    }
    let client = request.query("client_id").unwrap_or(CLIENT);
    if client != CLIENT {
        return denied("this machine has no such identity");
    }
    let (made, until) = give(sim, client.to_owned())?;
    let body = json!({
        "access_token": made, "expires_on": until.as_second().to_string(), "token_type": "Bearer",
        "resource": request.query("resource"), "client_id": client,
    });
    Ok(Response::json(200, &body))
}

pub(super) fn refusal(error: &ApiError) -> Response {
    Response::json(error.status, &json!({ "error": error.code, "error_description": error.message }))
}

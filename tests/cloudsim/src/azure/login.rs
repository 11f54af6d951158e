//! Tokens for applications that know the secret.

use serde_json::json;

use super::rights;
use super::state::{SECRET, TENANT};
use crate::clock::later;
use crate::error::{Answer, ApiError};
use crate::http::{Request, Response};
use crate::sim::Sim;
use crate::world::ids::capitals;

const SECONDS: u32 = 3599;

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
    if get("client_secret") != Some(SECRET) {
        return denied(401, "invalid_client", "AADSTS7000215: Invalid client secret provided.");
    }
    if !get("scope").is_some_and(|scope| scope.ends_with("/.default")) {
        return denied(400, "invalid_scope", "AADSTS70011: the scope is not valid");
    }
    let made = format!("sim.{}", capitals(60));
    sim.change(|world| {
        let now = world.now();
        world.azure.tokens.retain(|_, (until, _)| now < *until);
        world.azure.tokens.insert(made.clone(), (later(now, f64::from(SECONDS)), application));
        Ok(())
    })?;
    let body =
        json!({ "token_type": "Bearer", "expires_in": SECONDS, "ext_expires_in": SECONDS, "access_token": made });
    Ok(Response::json(200, &body))
}

pub(super) fn refusal(error: &ApiError) -> Response {
    Response::json(error.status, &json!({ "error": error.code, "error_description": error.message }))
}

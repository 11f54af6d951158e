//! STS: who am I, and becoming somebody else for a while.

use crate::auth::Caller;
use crate::auth::principal::Session;
use crate::clock::{iso, later};
use crate::ec2::params::Params;
use crate::ec2::xml::{Xml, document, node, text};
use crate::error::{Answer, ApiError};
use crate::http::Response;
use crate::sim::Sim;
use crate::world::ids::capitals;

const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

/// Does what a request asks for.
pub(crate) fn call(sim: &Sim, caller: &Caller, request_id: &str, name: &str, params: &Params) -> Answer<Response> {
    let (result, body) = match name {
        "GetCallerIdentity" => {
            params.done()?;
            let me = vec![text("UserId", &caller.id), text("Account", &caller.account), text("Arn", &caller.arn)];
            ("GetCallerIdentityResult", me)
        }
        "AssumeRole" => ("AssumeRoleResult", assume(sim, caller, params)?),
        _ => return Err(ApiError::refuse("InvalidAction", format!("Could not find operation {name}"))),
    };
    let root = format!("{name}Response");
    let body = [node(result, body), node("ResponseMetadata", vec![text("RequestId", request_id)])];
    Ok(Response::new(200, "text/xml", document(&root, Some(NAMESPACE), &body)))
}

fn assume(sim: &Sim, caller: &Caller, params: &Params) -> Answer<Vec<Xml>> {
    let (arn, name) = (params.need("RoleArn")?, params.need("RoleSessionName")?);
    let seconds = params.number("DurationSeconds")?.unwrap_or(3600);
    params.get("ExternalId");
    params.done()?;
    if !(900..=43_200).contains(&seconds) {
        return Err(ApiError::refuse("ValidationError", "DurationSeconds is from 900 to 43200"));
    }
    let fine = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c);
    if !(2..=64).contains(&name.len()) || !name.chars().all(fine) {
        return Err(ApiError::refuse("ValidationError", "RoleSessionName has 2 to 64 of the allowed characters"));
    }
    let parts = arn.strip_prefix("arn:aws:iam::").and_then(|rest| rest.split_once(":role/"));
    sim.change(|world| {
        let denied = || {
            let message =
                format!("User: {} is not authorized to perform: sts:AssumeRole on resource: {arn}", caller.arn);
            ApiError::new(403, "AccessDenied", message)
        };
        let (account, role) = parts.ok_or_else(denied)?;
        let known = world.accounts.get(account).is_some_and(|it| it.roles.iter().any(|known| known == role));
        if !known {
            return Err(denied());
        }
        let now = world.now();
        world.sessions.retain(|_, it| now < later(it.expires, 86_400.0));
        let key = format!("ASIA{}", capitals(16));
        let session = Session {
            account: account.to_owned(),
            role: role.to_owned(),
            name: name.clone(),
            secret: capitals(40),
            token: capitals(120),
            expires: later(now, seconds as f64),
        };
        let credentials = vec![
            text("AccessKeyId", &key),
            text("SecretAccessKey", &session.secret),
            text("SessionToken", &session.token),
            text("Expiration", iso(session.expires)),
        ];
        let user = vec![
            text("AssumedRoleId", format!("AROA{key}:{name}")),
            text("Arn", format!("arn:aws:sts::{account}:assumed-role/{role}/{name}")),
        ];
        world.sessions.insert(key, session);
        Ok(vec![node("Credentials", credentials), node("AssumedRoleUser", user)])
    })
}

/// An error in this API's envelope.
pub(crate) fn refusal(error: &ApiError, request_id: &str) -> Response {
    let kind = if error.status < 500 { "Sender" } else { "Receiver" };
    let one = vec![text("Type", kind), text("Code", &error.code), text("Message", &error.message)];
    let body = [node("Error", one), text("RequestId", request_id)];
    Response::new(error.status, "text/xml", document("ErrorResponse", Some(NAMESPACE), &body))
}

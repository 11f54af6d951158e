//! The control API under `/_sim/`: what a test does to the simulated world from outside. Not signed: it is bound to
//! the loopback like everything else here.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::auth::policy::Policy;
use crate::error::{Answer, ApiError};
use crate::faults::rule::Rule;
use crate::http::{Request, Response};
use crate::sim::Sim;
use crate::world::resource::Fixture;
use crate::world::settings::Settings;
use crate::{neutral, servers};

/// Answers a request.
pub(crate) fn call(sim: &Sim, request: &Request) -> Response {
    let path = request.path.trim_start_matches("/_sim/").trim_end_matches('/');
    let done = match (request.method.as_str(), path) {
        ("GET", "clock") => Ok(clock(sim)),
        ("POST", "clock") => set_clock(sim, request),
        ("GET", "settings") => Ok(sim.with(|world| json!(world.settings))),
        ("PATCH", "settings") => set_settings(sim, request),
        ("GET", "rules") => Ok(sim.with(|world| json!(world.rules))),
        ("POST", "rules") => add_rule(sim, request),
        ("DELETE", "rules") => clear_rules(sim),
        ("GET", "hits") => sim.hits.read(skip(request)).map(|lines| json!(lines)).map_err(ApiError::from),
        ("GET", "calls") => sim.calls.read(skip(request)).map(|lines| json!(lines)).map_err(ApiError::from),
        ("PUT", "policies") => set_policy(sim, request),
        ("DELETE", "policies") => drop_policy(sim, request),
        ("PUT", "credentials") => crate::azure::assertion::register(sim, request),
        ("PUT", "roles") => crate::azure::rights::assign(sim, request),
        ("PUT", "agents") => crate::ssm::script(sim, request),
        ("POST", "servers") => servers::add(sim, request),
        ("POST", "templates") => add_template(sim, request),
        ("GET", "state") => Ok(neutral::state(sim)),
        _ => Err(ApiError::new(404, "NotFound", format!("there is no {} {}", request.method, request.path))),
    };
    match done {
        Ok(value) => Response::json(200, &value),
        Err(error) => Response::json(error.status, &json!({ "code": error.code, "message": error.message })),
    }
}

/// A body of this API.
pub(crate) fn body<T: for<'de> Deserialize<'de>>(request: &Request) -> Answer<T> {
    serde_json::from_slice(&request.body).map_err(|why| ApiError::refuse("BadRequest", why.to_string()))
}

fn skip(request: &Request) -> usize {
    request.query("skip").and_then(|value| value.parse().ok()).unwrap_or_default()
}

fn clock(sim: &Sim) -> Value {
    sim.with(|world| json!({ "now": world.now(), "speed": world.clock.speed(), "skew": world.clock.skew_seconds }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetClock {
    /// Seconds to move on.
    #[serde(default)]
    advance: f64,
    /// Simulated seconds for a real one.
    #[serde(default)]
    speed: Option<f64>,
    /// How far the simulator's own machine is off, for signatures.
    #[serde(default)]
    skew: Option<i64>,
}

fn set_clock(sim: &Sim, request: &Request) -> Answer<Value> {
    let wanted: SetClock = body(request)?;
    sim.change(|world| {
        world.clock.advance(wanted.advance.max(0.0));
        if let Some(speed) = wanted.speed {
            world.clock.run_at(speed);
        }
        if let Some(skew) = wanted.skew {
            world.clock.skew_seconds = skew;
        }
        Ok(())
    })?;
    Ok(clock(sim))
}

/// Changes the settings that are named, and leaves the others.
fn set_settings(sim: &Sim, request: &Request) -> Answer<Value> {
    fn merge(into: &mut Value, from: Value) {
        match (into, from) {
            (Value::Object(into), Value::Object(from)) => {
                from.into_iter().for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value));
            }
            (into, from) => *into = from,
        }
    }
    let wanted: Value = body(request)?;
    sim.change(|world| {
        let mut all = json!(world.settings);
        merge(&mut all, wanted);
        world.settings = serde_json::from_value::<Settings>(all.clone())
            .map_err(|why| ApiError::refuse("BadRequest", why.to_string()))?;
        Ok(all)
    })
}

fn add_rule(sim: &Sim, request: &Request) -> Answer<Value> {
    let rule: Rule = body(request)?;
    sim.change(|world| {
        world.rules.push(rule);
        Ok(json!(world.rules))
    })
}

fn clear_rules(sim: &Sim) -> Answer<Value> {
    sim.change(|world| {
        world.rules.clear();
        Ok(json!([]))
    })
}

fn principal(request: &Request) -> String {
    request.query("principal").unwrap_or("*").to_owned()
}

fn set_policy(sim: &Sim, request: &Request) -> Answer<Value> {
    let policy: Policy = body(request)?;
    sim.change(|world| {
        world.policies.insert(principal(request), policy);
        Ok(json!(world.policies))
    })
}

fn drop_policy(sim: &Sim, request: &Request) -> Answer<Value> {
    sim.change(|world| {
        world.policies.remove(&principal(request));
        Ok(json!(world.policies))
    })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Template {
    account: String,
    region: String,
    name: String,
    image: String,
}

/// A launch template of somebody else's that refers to an image: what a check of references must find.
fn add_template(sim: &Sim, request: &Request) -> Answer<Value> {
    let wanted: Template = body(request)?;
    sim.change(|world| {
        let mut base = world.base("lt", &wanted.account, &wanted.region, Default::default());
        base.visible = base.created;
        let id = base.id.clone();
        let (vpc, cidr) = (String::new(), String::new());
        world.templates.insert(id.clone(), Fixture { base, name: wanted.name, about: wanted.image, vpc, cidr });
        Ok(json!({ "id": id }))
    })
}

//! From a request to its delivery: faults, signature, limits, rights, and then the service.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};

use crate::auth::refusal::{Refusal, say};
use crate::auth::{Caller, sigv4};
use crate::clock::iso;
use crate::ebs::Operation;
use crate::ec2::params::Params;
use crate::error::{Answer, ApiError};
use crate::faults::Delivery;
use crate::faults::apply::Trouble;
use crate::http::{Request, Response};
use crate::hypervisor::hold;
use crate::sim::Sim;
use crate::world::ids;
use crate::{azure, control, ebs, ec2, iam, limits, ssm, sts};

/// What a request is, before anybody has looked at its signature.
#[derive(Debug, Clone)]
struct Target {
    service: String,
    /// Region and service of the endpoint, where the address names them.
    endpoint: Option<(String, String)>,
    /// The path within the endpoint.
    path: String,
    operation: String,
}

impl Target {
    fn of(request: &Request) -> Self {
        if request.path.starts_with("/azure/") {
            let (service, path) = ("azure".to_owned(), request.path.clone());
            return Self { service, endpoint: None, path, operation: azure::name(request) };
        }
        let mut path = request.path.clone();
        let mut endpoint = None;
        // http://host/aws/REGION/SERVICE is an endpoint; without it the signature's scope decides
        if let Some(rest) = request.path.strip_prefix("/aws/") {
            let mut parts = rest.splitn(3, '/');
            if let (Some(region), Some(service)) = (parts.next(), parts.next()) {
                endpoint = Some((region.to_owned(), service.to_owned()));
                path = format!("/{}", parts.next().unwrap_or_default());
            }
        }
        let claimed = sigv4::claimed(request).map(|(_, service)| service);
        let service = endpoint.as_ref().map(|(_, service)| service.clone()).or(claimed).unwrap_or_default();
        let inner = Request { path: path.clone(), ..request.clone() };
        let operation = match service.as_str() {
            "ebs" => Operation::of(&inner).map(|it| it.name().to_owned()),
            "ssm" => ssm::operation(request),
            _ => form(request).into_iter().find(|(name, _)| name == "Action").map(|(_, value)| value),
        };
        Self { service, endpoint, path, operation: operation.unwrap_or_default() }
    }

    fn refuse(&self, error: &ApiError, request_id: &str) -> Response {
        match self.service.as_str() {
            "ebs" => ebs::refusal(error),
            "ssm" => ssm::refusal(error),
            "sts" => sts::refusal(error, request_id),
            _ => ec2::refusal(error, request_id),
        }
    }
}

/// The parameters of a query request.
fn form(request: &Request) -> Vec<(String, String)> {
    if request.method == "GET" {
        return request.query.clone();
    }
    form_urlencoded::parse(&request.body).into_owned().collect()
}

/// Answers one request, in whatever way the rules let it.
pub(crate) async fn answer(sim: Arc<Sim>, mut request: Request) -> Delivery {
    if request.path.starts_with("/_sim/") {
        let done = tokio::task::spawn_blocking(move || control::call(&sim, &request));
        return Delivery::Whole(
            done.await.unwrap_or_else(|_| Response::new(500, "text/plain", "the simulator failed")),
        );
    }
    let request_id = ids::request();
    let target = Target::of(&request);
    let trouble = Trouble::of(&sim, &request_id, &target.operation, &request);
    tokio::time::sleep(trouble.delay()).await;
    if let Some((status, code, after)) = trouble.instead() {
        let code = code.unwrap_or_else(|| limits::code_of(&target.service, status).to_owned());
        let error = ApiError::new(status, code, "Injected by a fault rule");
        let mut response = match target.service.as_str() {
            "azure" => azure::instead(&request, &error),
            _ => target.refuse(&error, &request_id),
        };
        if let Some(seconds) = after {
            response = response.with("retry-after", seconds.to_string());
        }
        return trouble.leave(response.with("x-amzn-requestid", request_id));
    }
    trouble.arrive(&mut request);
    let question = question(&target, &request);
    if let (true, Some(question)) = (trouble.stale(), &question) {
        let earlier = sim.earlier.lock().unwrap_or_else(PoisonError::into_inner).get(question).cloned();
        if let Some(response) = earlier {
            return trouble.leave(response);
        }
    }
    let work = {
        let (sim, target) = (sim.clone(), target.clone());
        let twice = trouble.twice();
        tokio::task::spawn_blocking(move || {
            let serve = |request: &Request| match target.service.as_str() {
                "azure" => azure::serve(&sim, request, &request_id),
                _ => serve(&sim, &target, request, &request_id),
            };
            if twice {
                serve(&request);
            }
            serve(&request)
        })
    };
    let response = work.await.unwrap_or_else(|_| Response::new(500, "text/plain", "the simulator failed"));
    if let Some(question) = question {
        let mut earlier = sim.earlier.lock().unwrap_or_else(PoisonError::into_inner);
        if earlier.len() > 2000 {
            earlier.clear();
        }
        earlier.insert(question, response.clone());
    }
    trouble.leave(response)
}

/// What a listing asks, without who asks it when; none for other calls.
fn question(target: &Target, request: &Request) -> Option<String> {
    let starts = ["Describe", "List"].iter().any(|word| target.operation.starts_with(word));
    let lists = starts || ["_Get", "_List"].iter().any(|word| target.operation.ends_with(word));
    let key = sigv4::key(request).unwrap_or_default();
    lists.then(|| format!("{key} {} {:?} {:?} {:?}", target.path, target.endpoint, request.query, form(request)))
}

/// Serves one call and logs it.
fn serve(sim: &Sim, target: &Target, request: &Request, request_id: &str) -> Response {
    let began = Instant::now();
    hold::reap(sim);
    let mut line = json!({ "request": request_id, "service": target.service, "operation": target.operation });
    let done = call(sim, target, request, request_id, &mut line);
    let response = match &done {
        Ok(response) => response.clone(),
        Err(error) => {
            line["error"] = json!(error.code);
            target.refuse(error, request_id)
        }
    };
    line["status"] = json!(response.status);
    line["ms"] = json!(began.elapsed().as_millis() as u64);
    line["time"] = json!(iso(sim.now()));
    sim.calls.add(&line);
    response.with("x-amzn-requestid", request_id)
}

fn call(sim: &Sim, target: &Target, request: &Request, request_id: &str, line: &mut Value) -> Answer<Response> {
    let service = target.service.as_str();
    let caller = sim
        .with(|world| sigv4::verify(request, world))
        .and_then(|caller| in_place(sim, target, caller))
        .map_err(|why| say(service, &why))?;
    line["account"] = json!(caller.account);
    line["region"] = json!(caller.region);
    line["principal"] = json!(caller.arn);
    let settings = sim.with(|world| world.settings.limits.clone());
    let _flight = sim.limiter.enter(&format!("parallel/{}", caller.account), settings.parallel).ok_or_else(|| {
        ApiError::new(503, limits::code_of(service, 503), "Too many requests are in flight at once. Please reduce.")
    })?;
    if service == "ebs" {
        let inner = Request { path: target.path.clone(), ..request.clone() };
        line["http"] = limits::described(&inner);
        let operation = Operation::of(&inner)
            .ok_or_else(|| ApiError::new(404, "UnknownOperationException", "There is no such operation"))?;
        limits::direct(sim, &settings, &caller, &operation)?;
        let needs = iam::direct(&caller, &operation, &inner.body);
        line["needs"] = iam::logged(&needs);
        sim.with(|world| iam::permit(world, &caller, &needs))?;
        return ebs::call(sim, &caller, &operation, &inner);
    }
    if service == "ssm" {
        let body = ssm::body(request)?;
        line["body"] = body.clone();
        let needs = iam::ssm(&caller, &target.operation, &body);
        line["needs"] = iam::logged(&needs);
        sim.with(|world| iam::permit(world, &caller, &needs))?;
        return ssm::call(sim, &caller, &target.operation, &body);
    }
    let params = Params::new(form(request));
    line["params"] = json!(params.all());
    let name = target.operation.as_str();
    if service == "sts" {
        let needs = iam::sts(name, &params);
        line["needs"] = iam::logged(&needs);
        sim.with(|world| iam::permit(world, &caller, &needs))?;
        return sts::call(sim, &caller, request_id, name, &params);
    }
    limits::query(sim, &settings, &caller, name, &params)?;
    let needs = iam::query(&caller, name, &params);
    line["needs"] = iam::logged(&needs);
    sim.with(|world| iam::permit(world, &caller, &needs))?;
    ec2::call(sim, &caller, request_id, name, &params)
}

/// Whether the caller's scope is a region of its account and the endpoint's own.
fn in_place(sim: &Sim, target: &Target, caller: Caller) -> Result<Caller, Refusal> {
    let known = sim.with(|world| {
        world.accounts.get(&caller.account).is_some_and(|account| account.regions.contains(&caller.region))
    });
    let here =
        target.endpoint.as_ref().is_none_or(|(region, service)| *region == caller.region && *service == caller.service);
    let served = matches!(caller.service.as_str(), "ec2" | "ebs" | "sts" | "ssm");
    if !known || !here {
        return Err(Refusal::Scope("Credential should be scoped to a valid region.".to_owned()));
    }
    if !served {
        return Err(Refusal::Scope(format!("Credential should be scoped to correct service, not {}.", caller.service)));
    }
    Ok(caller)
}

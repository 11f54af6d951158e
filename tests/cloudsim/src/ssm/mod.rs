//! Systems Manager's Run Command: scripts that really run in an instance, through its agent, in their own time.

pub(crate) mod commands;

use std::time::Duration;

use serde_json::{Value, json};

use crate::auth::Caller;
use crate::clock::{iso, later};
use crate::control;
use crate::error::{Answer, ApiError};
use crate::http::{Request, Response};
use crate::sim::Sim;
use crate::world::ids;
use crate::world::resource::{Instance, Wish};
use commands::{Command, Order, Scripted, State, parameter};

const KIND: &str = "application/x-amz-json-1.1";
const DOCUMENT: &str = "AWS-RunShellScript";

/// The operation that a request names in its header.
pub(crate) fn operation(request: &Request) -> Option<String> {
    Some(request.header("x-amz-target")?.strip_prefix("AmazonSSM.")?.to_owned())
}

/// The body of a request.
pub(crate) fn body(request: &Request) -> Answer<Value> {
    if request.method != "POST" || request.header("content-type") != Some(KIND) {
        return Err(ApiError::refuse("UnknownOperationException", "There is no such operation"));
    }
    serde_json::from_slice(&request.body).map_err(|why| ApiError::refuse("SerializationException", why.to_string()))
}

/// An error in this API's envelope.
pub(crate) fn refusal(error: &ApiError) -> Response {
    answer(error.status, &json!({ "__type": error.code, "message": error.message }))
}

fn answer(status: u16, value: &Value) -> Response {
    Response::new(status, KIND, value.to_string())
}

/// Does what a request asks for.
pub(crate) fn call(sim: &Sim, caller: &Caller, name: &str, body: &Value) -> Answer<Response> {
    let value = match name {
        "SendCommand" => send(sim, caller, body),
        "GetCommandInvocation" => look(sim, caller, body),
        "DescribeInstanceInformation" => describe(sim, caller, body),
        _ => Err(ApiError::refuse("UnknownOperationException", format!("There is no operation {name}"))),
    }?;
    Ok(answer(200, &value))
}

/// A made-up agent, for instances that do not boot.
pub(crate) fn script(sim: &Sim, request: &Request) -> Answer<Value> {
    let agent: Scripted = control::body(request)?;
    sim.commands.make_up(agent);
    Ok(json!({}))
}

fn wrong(why: impl Into<String>) -> ApiError {
    ApiError::refuse("ValidationException", why)
}

/// Refuses what this simulator does not know.
fn known(value: &Value, members: &[&str]) -> Answer<()> {
    match value.as_object().into_iter().flatten().find(|(key, _)| !members.contains(&key.as_str())) {
        Some((odd, _)) => Err(wrong(format!("{odd} is not known here"))),
        None => Ok(()),
    }
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|it| it.as_str().map(str::to_owned)).collect()
}

/// A running instance of the caller's.
fn running(sim: &Sim, caller: &Caller, id: &str) -> Option<Instance> {
    let found = sim.with(|world| world.instances.get(id).cloned())?;
    let own = found.base.account == caller.account && found.base.region == caller.region;
    (own && found.wish == Wish::Running).then_some(found)
}

/// The platform of an instance whose agent has registered.
fn managed(sim: &Sim, id: &str) -> Option<String> {
    if let Some(made_up) = sim.commands.made_up(id) {
        return Some(made_up.platform);
    }
    let socket = sim.machines.agent(id)?;
    sim.commands.ping(&socket).then(|| "Linux".to_owned())
}

fn send(sim: &Sim, caller: &Caller, body: &Value) -> Answer<Value> {
    known(body, &["InstanceIds", "DocumentName", "TimeoutSeconds", "Comment", "Parameters"])?;
    known(&body["Parameters"], &["commands", "executionTimeout"])?;
    let ids = texts(&body["InstanceIds"]);
    let [id] = ids.as_slice() else { return Err(wrong("this simulator sends to one instance at a time")) };
    if body["DocumentName"] != DOCUMENT {
        return Err(ApiError::refuse("InvalidDocument", format!("document {} does not exist", body["DocumentName"])));
    }
    let (delivery, comment) = (body["TimeoutSeconds"].as_u64().unwrap_or(3600), body["Comment"].as_str());
    if !(30..=2_592_000).contains(&delivery) || comment.is_some_and(|text| text.len() > 100) {
        return Err(wrong("TimeoutSeconds is from 30 to 2592000, and Comment has 100 characters at most"));
    }
    let lines = texts(&body["Parameters"]["commands"]);
    let execution = parameter(body, "executionTimeout").unwrap_or("3600").parse().ok();
    let (false, Some(execution)) = (lines.is_empty(), execution) else {
        return Err(ApiError::refuse("InvalidParameters", "commands and executionTimeout are lists of text"));
    };
    let agent = running(sim, caller, id).and_then(|_| managed(sim, id));
    if agent.is_none() {
        let message = format!("Instances [[{id}]] not in a valid state for account {}", caller.account);
        return Err(ApiError::refuse("InvalidInstanceId", message));
    }
    let (now, seconds) = sim.with(|world| (world.now(), world.settings.weather.command_seconds));
    let command = Command {
        account: caller.account.clone(),
        region: caller.region.clone(),
        instance: id.clone(),
        document: DOCUMENT.to_owned(),
        comment: comment.unwrap_or_default().to_owned(),
        visible: later(now, seconds),
        state: State::Pending,
    };
    let order = Order {
        id: ids::request(),
        script: lines.join("\n"),
        delivery: Duration::from_secs(delivery),
        execution: Duration::from_secs(execution),
        agent: sim.commands.made_up(id).is_none().then(|| sim.machines.agent(id)).flatten(),
    };
    let shown = json!({
        "CommandId": order.id, "DocumentName": DOCUMENT, "DocumentVersion": "$DEFAULT", "Comment": command.comment,
        "Parameters": body["Parameters"], "InstanceIds": [id], "Targets": [], "Status": "Pending",
        "StatusDetails": "Pending", "TargetCount": 1, "CompletedCount": 0, "ErrorCount": 0,
        "DeliveryTimedOutCount": 0, "TimeoutSeconds": delivery, "RequestedDateTime": now.as_second(),
        "ExpiresAfter": later(now, (delivery + execution) as f64).as_second(),
    });
    sim.commands.send(order, command);
    Ok(json!({ "Command": shown }))
}

/// What the provider keeps of what a script says.
fn cut(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

fn look(sim: &Sim, caller: &Caller, body: &Value) -> Answer<Value> {
    known(body, &["CommandId", "InstanceId"])?;
    let (id, instance) = (body["CommandId"].as_str(), body["InstanceId"].as_str());
    let (Some(id), Some(instance)) = (id, instance) else { return Err(wrong("CommandId and InstanceId are needed")) };
    let now = sim.now();
    let found = sim.commands.get(id).filter(|it| {
        it.account == caller.account && it.region == caller.region && it.instance == instance && now >= it.visible
    });
    let found = found.ok_or_else(|| ApiError::refuse("InvocationDoesNotExist", "An error occurred"))?;
    let nothing = Default::default();
    let (status, details, ended) = match &found.state {
        State::Pending => ("Pending", "Pending", &nothing),
        State::InProgress => ("InProgress", "InProgress", &nothing),
        State::Ended(ended) if ended.code == 0 => ("Success", "Success", ended),
        State::Ended(ended) => ("Failed", "Failed", ended),
        State::TimedOut(details) => ("TimedOut", *details, &nothing),
    };
    let code = if matches!(found.state, State::Ended(_)) { ended.code } else { -1 };
    Ok(json!({
        "CommandId": id, "InstanceId": instance, "Comment": found.comment, "DocumentName": found.document,
        "DocumentVersion": "$DEFAULT", "PluginName": "aws:runShellScript", "ResponseCode": code,
        "Status": status, "StatusDetails": details, "ExecutionStartDateTime": iso(now),
        "StandardOutputContent": cut(&ended.stdout, 24_000), "StandardOutputUrl": "",
        "StandardErrorContent": cut(&ended.stderr, 8000), "StandardErrorUrl": "",
        "CloudWatchOutputConfig": { "CloudWatchLogGroupName": "", "CloudWatchOutputEnabled": false },
    }))
}

fn describe(sim: &Sim, caller: &Caller, body: &Value) -> Answer<Value> {
    known(body, &["Filters", "MaxResults"])?;
    let mut wanted: Option<Vec<String>> = None;
    for filter in body["Filters"].as_array().into_iter().flatten() {
        known(filter, &["Key", "Values"])?;
        if filter["Key"] != "InstanceIds" {
            return Err(ApiError::refuse("InvalidFilterKey", format!("{} is not known here", filter["Key"])));
        }
        wanted = Some(texts(&filter["Values"]));
    }
    let all: Vec<String> = match wanted {
        Some(ids) => ids,
        None => sim.with(|world| world.instances.keys().cloned().collect()),
    };
    let mut list = Vec::new();
    for id in all {
        let Some(instance) = running(sim, caller, &id) else { continue };
        let Some(platform) = managed(sim, &id) else { continue };
        list.push(json!({
            "InstanceId": id, "PingStatus": "Online", "LastPingDateTime": sim.now().as_second(),
            "AgentVersion": "3.3.1611.0", "IsLatestVersion": true, "PlatformType": platform,
            "ResourceType": "EC2Instance", "IPAddress": instance.ip,
        }));
    }
    Ok(json!({ "InstanceInformationList": list }))
}

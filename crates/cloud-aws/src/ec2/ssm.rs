//! Systems Manager's Run Command, as far as a freeze takes it: three calls of its JSON protocol over the SDK's own
//! runtime, which signs, connects and ends them as it does for the other services. The service's own crate has 142
//! operations, which would be two minutes of every build.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_runtime::auth::SigV4OperationSigningConfig;
use aws_runtime::auth::sigv4::{SCHEME_ID, SigV4AuthScheme};
use aws_smithy_runtime::client::orchestrator::operation::Operation;
use aws_smithy_runtime_api::client::auth::AuthSchemeOptionResolverParams;
use aws_smithy_runtime_api::client::auth::static_resolver::StaticAuthSchemeOptionResolver;
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse, OrchestratorError};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponentsBuilder;
use aws_smithy_runtime_api::client::runtime_plugin::StaticRuntimePlugin;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::config_bag::Layer;
use aws_smithy_types::error::ErrorMetadata;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use aws_types::SigningName;
use aws_types::region::{Region, SigningRegion};
use model::Result;
use serde_json::{Value, json};

use super::error::classify;

/// The document whose parameter is a script.
const DOCUMENT: &str = "AWS-RunShellScript";

/// A client.
#[derive(Debug, Clone)]
pub(super) struct Ssm {
    call: Operation<Call, Value, Refused>,
}

/// One call.
#[derive(Debug)]
struct Call {
    operation: &'static str,
    body: Value,
}

/// The service said no.
#[derive(Debug)]
struct Refused(ErrorMetadata);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for Refused {}

impl ProvideErrorMetadata for Refused {
    fn meta(&self) -> &ErrorMetadata {
        &self.0
    }
}

/// How far a command has come.
#[derive(Debug)]
pub(super) enum Ran {
    /// It waits or runs.
    NotYet,
    /// It went well, and said this.
    Well(String),
    /// It did not, and why.
    Ill(String),
}

impl Ssm {
    /// A client with the keys and settings of the others. Without `endpoint` it is AWS's own.
    pub(super) fn new(shared: &SdkConfig, region: &str, endpoint: Option<&str>) -> Self {
        let china = if region.starts_with("cn-") { ".cn" } else { "" };
        let own = format!("https://ssm.{region}.amazonaws.com{china}");
        let mut layer = Layer::new("ssm");
        layer.store_put(AuthSchemeOptionResolverParams::new(()));
        layer.store_put(SigV4OperationSigningConfig {
            region: Some(SigningRegion::from(Region::new(region.to_owned()))),
            name: Some(SigningName::from_static("ssm")),
            ..SigV4OperationSigningConfig::default()
        });
        let mut parts = RuntimeComponentsBuilder::new("ssm")
            .with_http_client(shared.http_client())
            .with_identity_cache(shared.identity_cache())
            .with_sleep_impl(shared.sleep_impl())
            .with_time_source(shared.time_source())
            .with_auth_scheme(SigV4AuthScheme::new())
            .with_auth_scheme_option_resolver(Some(StaticAuthSchemeOptionResolver::new(vec![SCHEME_ID])));
        if let Some(keys) = shared.credentials_provider() {
            parts.set_identity_resolver(SCHEME_ID, keys);
        }
        let mut call = Operation::builder().service_name("SSM").operation_name("RunCommand").no_retry();
        if let Some(times) = shared.timeout_config() {
            call = call.timeout_config(times.clone());
        }
        let call = call
            .endpoint_url(endpoint.unwrap_or(&own))
            .runtime_plugin(StaticRuntimePlugin::new().with_config(layer.freeze()).with_runtime_components(parts))
            .serializer(|call: Call| {
                let mut request = HttpRequest::new(SdkBody::from(call.body.to_string()));
                request.set_method("POST")?;
                request.set_uri("/")?;
                request.headers_mut().insert("content-type", "application/x-amz-json-1.1");
                request.headers_mut().insert("x-amz-target", format!("AmazonSSM.{}", call.operation));
                Ok(request)
            })
            .deserializer(read)
            .build();
        Self { call }
    }

    async fn call(&self, what: String, operation: &'static str, body: Value) -> Result<Value> {
        self.call.invoke(Call { operation, body }).await.map_err(|error| classify(what, error))
    }

    /// The platforms of instances whose agents are there: of one, or of all.
    pub(super) async fn platforms(&self, instance: Option<&str>) -> Result<BTreeMap<String, String>> {
        let mut wanted = match instance {
            Some(id) => json!({ "Filters": [{ "Key": "InstanceIds", "Values": [id] }] }),
            None => json!({ "MaxResults": 50 }),
        };
        let mut found = BTreeMap::new();
        loop {
            let what = "cannot see whose agents Systems Manager knows".to_owned();
            let answer = self.call(what, "DescribeInstanceInformation", wanted.clone()).await?;
            let all = answer["InstanceInformationList"].as_array().into_iter().flatten();
            let online = all.filter(|it| it["PingStatus"] == "Online");
            found.extend(online.map(|it| (text(it, "InstanceId"), text(it, "PlatformType"))));
            match answer["NextToken"].as_str().filter(|token| !token.is_empty()) {
                Some(token) => wanted["NextToken"] = json!(token),
                None => return Ok(found),
            }
        }
    }

    /// Sends a script to an instance, whose agent may take it up so late and let it run so long; answers the command's
    /// id. The service knows no token: a call whose answer is lost may run, and a repeated one twice.
    pub(super) async fn send(&self, instance: &str, script: &str, limit: Duration) -> Result<String> {
        let limit = limit.as_secs();
        let body = json!({
            "DocumentName": DOCUMENT, "InstanceIds": [instance], "TimeoutSeconds": limit, "Comment": "replicate",
            "Parameters": { "commands": [script], "executionTimeout": [limit.to_string()] },
        });
        let what = format!("cannot send a command to instance {instance}");
        Ok(text(&self.call(what, "SendCommand", body).await?["Command"], "CommandId"))
    }

    /// What became of a command.
    pub(super) async fn look(&self, instance: &str, command: &str) -> Result<Ran> {
        let body = json!({ "CommandId": command, "InstanceId": instance });
        let what = format!("cannot look at command {command} to instance {instance}");
        let answer = self.call(what, "GetCommandInvocation", body).await?;
        Ok(match answer["Status"].as_str().unwrap_or_default() {
            "Success" => Ran::Well(text(&answer, "StandardOutputContent")),
            "Pending" | "InProgress" | "Delayed" | "Cancelling" => Ran::NotYet,
            _ => {
                let said = text(&answer, "StandardErrorContent");
                let last = said.lines().rev().find(|line| !line.trim().is_empty());
                Ran::Ill(last.map_or_else(|| text(&answer, "StatusDetails"), |line| line.trim().to_owned()))
            }
        })
    }
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

/// An answer, or the refusal in it: its code stands behind the last `#`.
fn read(response: &HttpResponse) -> std::result::Result<Value, OrchestratorError<Refused>> {
    let value = serde_json::from_slice::<Value>(response.body().bytes().unwrap_or_default());
    if response.status().is_success() {
        return value.map_err(OrchestratorError::other);
    }
    let value = value.unwrap_or_default();
    let mut refused = ErrorMetadata::builder();
    if let Some(code) = value["__type"].as_str() {
        refused = refused.code(code.rsplit('#').next().unwrap_or(code));
    }
    if let Some(message) = value["message"].as_str().or(value["Message"].as_str()) {
        refused = refused.message(message);
    }
    Err(OrchestratorError::operation(Refused(refused.build())))
}

//! `replicate run` and `replicate plan`: a policy now, or what it would do.

use engine::RunRequest;
use model::{PolicyName, Result, ServerName};

use super::{Context, Outcome};
use crate::args::{PlanArgs, RunArgs};
use crate::config::Settings;
use crate::request::Request;
use crate::wiring;

/// Runs a policy, or everything that is due.
pub async fn run(context: &Context, args: RunArgs) -> Outcome {
    let settings = context.settings()?;
    let request = match args.policy {
        Some(policy) => {
            let server = args.server.map(ServerName::new).transpose()?;
            Request::Run(RunRequest { policy: policy_of(&settings, &policy)?, server })
        }
        None => Request::RunDue,
    };
    context.answer(&settings, request).await
}

/// Shows what runs would do.
pub async fn plan(context: &Context, args: PlanArgs) -> Outcome {
    let settings = context.settings()?;
    let policy = args.policy.map(|name| policy_of(&settings, &name)).transpose()?;
    context.answer(&settings, Request::Plan { policy }).await
}

fn policy_of(settings: &Settings, name: &str) -> Result<PolicyName> {
    match settings.policies.keys().find(|policy| policy.as_str() == name) {
        Some(policy) => Ok(policy.clone()),
        None => Err(wiring::unknown("policy", name, settings.policies.keys().map(ToString::to_string))),
    }
}

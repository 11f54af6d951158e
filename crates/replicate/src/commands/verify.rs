//! `replicate verify`: reads replicas back and checks every byte.

use engine::{CheckScope, VerifyRequest};
use model::{Place, ServerName};

use super::{Context, Outcome, place};
use crate::args::VerifyArgs;
use crate::request::Request;

/// Verifies.
pub async fn run(context: &Context, args: VerifyArgs) -> Outcome {
    let settings = context.settings()?;
    let (vault, site) = match args.place.map(|text| place(&settings, &text)).transpose()? {
        Some(Place::Vault(vault)) => (Some(vault), None),
        Some(Place::Site(site)) => (None, Some(site)),
        None => (None, None),
    };
    let scope = match (args.sample, args.stale) {
        (Some(percent), _) => CheckScope::Sample(percent),
        (_, Some(days)) => CheckScope::Stale(days),
        _ => CheckScope::All,
    };
    let server = args.server.map(ServerName::new).transpose()?;
    context.answer(&settings, Request::Verify(VerifyRequest { scope, vault, site, server })).await
}

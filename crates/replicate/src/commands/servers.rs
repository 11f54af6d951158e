//! `replicate servers`: what there is to protect, and what protects it.

use super::{Context, Outcome, site};
use crate::args::ServersArgs;
use crate::request::Request;

/// Lists servers.
pub async fn servers(context: &Context, args: ServersArgs) -> Outcome {
    let settings = context.settings()?;
    let site = args.site.map(|name| site(&settings, &name)).transpose()?;
    context.answer(&settings, Request::Servers { site }).await
}

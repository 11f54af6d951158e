//! `replicate points`: restore points and their replicas.

use model::ServerName;

use super::{Context, Outcome};
use crate::args::PointsArgs;
use crate::request::Request;

/// Lists points.
pub async fn run(context: &Context, args: PointsArgs) -> Outcome {
    let settings = context.settings()?;
    let server = args.server.map(ServerName::new).transpose()?;
    context.answer(&settings, Request::Points { server }).await
}

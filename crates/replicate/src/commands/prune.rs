//! `replicate prune`: retention, in two phases.

use engine::PruneRequest;
use model::{PointId, ServerName};

use super::{Context, Outcome};
use crate::args::PruneArgs;
use crate::request::Request;

/// Prunes.
pub async fn run(context: &Context, args: PruneArgs) -> Outcome {
    let settings = context.settings()?;
    let request = PruneRequest {
        dry: args.dry_run,
        server: args.server.map(ServerName::new).transpose()?,
        collect: !args.no_collect,
        keep: args.keep.map(PointId::new).transpose()?,
    };
    context.answer(&settings, Request::Prune(request)).await
}

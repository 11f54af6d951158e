//! `replicate compact`: frees what is no longer needed inside packs.

use engine::CompactRequest;

use super::{Context, Outcome, vault};
use crate::args::CompactArgs;
use crate::request::Request;

/// Compacts.
pub async fn run(context: &Context, args: CompactArgs) -> Outcome {
    let settings = context.settings()?;
    let only = args.vault.map(|name| vault(&settings, &name)).transpose()?;
    let (dry, waste, level, recompress) = (args.dry_run, args.waste, args.level, args.recompress);
    context.answer(&settings, Request::Compact(CompactRequest { vault: only, dry, waste, level, recompress })).await
}

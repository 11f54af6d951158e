//! `replicate daemon`: runs policies by their schedules until it is told to stop.

use super::{Context, Outcome};
use crate::{config, daemon, exit, logs};

/// Serves until SIGTERM.
pub async fn run(context: &Context) -> Outcome {
    let file = config::find(context.config.as_deref())?;
    let settings = config::load(&file)?;
    logs::for_daemon(context.verbose, settings.daemon.log);
    daemon::serve(settings).await?;
    Ok(exit::DONE)
}

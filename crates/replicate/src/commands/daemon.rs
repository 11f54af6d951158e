//! `replicate daemon`: runs policies by their schedules until it is told to stop.

use model::Kind;

use super::{Context, Outcome, Stop};
use crate::{config, daemon, exit, logs};

/// Serves until SIGTERM.
pub async fn run(context: &Context) -> Outcome {
    let file = config::find(context.config.as_deref())?;
    let settings = config::load(&file)?;
    logs::for_daemon(context.verbose, settings.daemon.log);
    match daemon::serve(settings).await {
        Ok(()) => Ok(exit::DONE),
        Err(error) if error.kind() == Kind::Exists => Err(Stop::Error(error, Some(exit::ALREADY_RUNNING))),
        Err(error) => Err(error.into()),
    }
}

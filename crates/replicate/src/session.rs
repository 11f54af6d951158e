//! How a command gets its answer: from the daemon that has the ledger, or by opening the ledger itself. The person at
//! the terminal sees no difference.

use std::sync::Arc;

use model::{Error, Kind, Result};

use crate::client;
use crate::config::Settings;
use crate::output::{Printer, Progress};
use crate::request::{Request, Response, execute};
use crate::wiring;

/// What is said when another command has the ledger. The exit code hangs on it.
pub const BUSY: &str = "another command of this installation is at work";

/// What is said at Ctrl-C.
const INTERRUPTED: &str = "interrupted";

/// Carries out a request, with progress on stderr.
pub async fn ask(settings: &Settings, printer: Printer, request: &Request) -> Result<Response> {
    let progress = Arc::new(Progress::new(printer));
    let answer = until_interrupted(answer(settings, &progress, request)).await;
    progress.finish();
    answer.map_err(|error| if error.kind() == Kind::Cancelled { advised(error, request) } else { error })
}

/// Does the work, or ends it at Ctrl-C.
pub async fn until_interrupted<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        answer = work => answer,
        signal = tokio::signal::ctrl_c() => match signal {
            Ok(()) => Err(Error::new(Kind::Cancelled, INTERRUPTED)),
            Err(source) => Err(Error::io("cannot listen for Ctrl-C", source)),
        },
    }
}

async fn answer(settings: &Settings, progress: &Arc<Progress>, request: &Request) -> Result<Response> {
    if let Some(daemon) = client::connect(&settings.daemon.socket).await? {
        tracing::debug!(socket = %settings.daemon.socket.display(), "the daemon has the ledger, asking it");
        return daemon.ask(request, progress.as_ref()).await;
    }
    let engine = match wiring::engine(settings, Arc::clone(progress) as _).await {
        Err(error) if error.kind() == Kind::Damaged && matches!(request, Request::Adopt) => {
            let aside = engine::ledger::set_aside(&settings.ledger)?;
            tracing::warn!(aside = %aside.display(), why = error.chain(), "the ledger is damaged, beginning an empty one");
            wiring::engine(settings, Arc::clone(progress) as _).await?
        }
        Err(error) if error.kind() == Kind::Damaged && error.advice().is_none() => {
            return Err(error.hint("rebuild it from vaults and sites with `replicate adopt`"));
        }
        Err(error) if error.kind() == Kind::Exists => return Err(error.within(BUSY)),
        other => other?,
    };
    execute(&engine, request).await
}

/// What is to be done after an interruption.
fn advised(error: Error, request: &Request) -> Error {
    if error.to_string() != INTERRUPTED {
        return error;
    }
    match request {
        Request::Run(run) => error
            .because("the run is parked: what is stored so far stays")
            .hint(format!("go on where it stopped with `replicate run {}`", run.policy)),
        Request::RunDue => error
            .because("the run is parked: what is stored so far stays")
            .hint("go on where it stopped with `replicate run --due`"),
        Request::Import(_) => error.hint("what is stored so far is used again when you repeat the import"),
        Request::Move(moved) => error.because("the move stands where it was; its server may be off").hint(format!(
            "give the same command again to go on, or go back with `replicate migrate rollback {}`",
            moved.server
        )),
        Request::EndMove { .. } => error.hint("give the same command again"),
        Request::Restore(_) | Request::Drill(_) => {
            error.hint("repeat the restore, or remove what it left with `replicate sweep`")
        }
        _ => error,
    }
}

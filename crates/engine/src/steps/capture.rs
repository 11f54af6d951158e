//! Pins one instant of all disks at the source.

use cloud::{Capture, CaptureRequest, Consistent, Hook};
use model::{Error, Kind, Result, crash};

use super::Context;
use crate::ledger::Batch;

/// Ledger name.
pub(crate) const NAME: &str = "capture";

/// What became of the capture.
pub(crate) enum Pinned {
    /// It holds.
    Held(Box<Capture>),
    /// It was made by an earlier execution and is gone: the run cannot go on, a new one can begin.
    Lost(Error),
}

/// Captures, or makes sure that the capture of an earlier execution still holds.
pub(crate) async fn run(context: &Context<'_>) -> Result<Pinned> {
    let run = &context.run;
    let done: Option<Capture> = context.engine.step_done(&run.id, NAME).await?;
    let Some(source) = context.source()? else {
        let capture = done.ok_or_else(|| {
            Error::new(Kind::Damaged, format!("cannot go on with import {}", run.id)).because("its journal is empty")
        })?;
        return Ok(Pinned::Held(Box::new(capture)));
    };
    if let Some(capture) = done {
        // the same token: finds the capture again, and does nothing else
        let held = source.capture(&request(context, capture.since.clone())?).await;
        return match held {
            Ok(now) if now.id == capture.id && now.taken_at == capture.taken_at => Ok(Pinned::Held(Box::new(capture))),
            Ok(_) => Ok(Pinned::Lost(lost(context).because("the source has taken a new one in its place"))),
            Err(error) if matches!(error.kind(), Kind::Damaged | Kind::NotFound) => {
                Ok(Pinned::Lost(lost(context).because(error)))
            }
            Err(error) => Err(error),
        };
    }
    let since = context.cursor.as_ref().map(|cursor| cursor.cursor.clone());
    let begun = context.engine.step_begin(&run.id, NAME).await?;
    let repeated = begun.is_repeated();
    crash::point("run.capture.before");
    let capture = match source.capture(&request(context, since)?).await {
        Ok(capture) => capture,
        Err(error) if repeated && error.kind() == Kind::Damaged => return Ok(Pinned::Lost(error)),
        Err(error) => return Err(error),
    };
    crash::point("run.capture.after");
    context.engine.step_finish(&run.id, begun, &capture, Batch::new()).await?;
    Ok(Pinned::Held(Box::new(capture)))
}

fn lost(context: &Context<'_>) -> Error {
    Error::new(Kind::Damaged, format!("the capture of run {} is lost", context.run.id))
}

fn request(context: &Context<'_>, since: Option<model::Cursor>) -> Result<CaptureRequest> {
    let run = &context.run;
    let policy = run.with.as_ref().ok_or_else(|| {
        Error::new(Kind::Invalid, format!("cannot capture server {}", run.server)).because("the run has no policy")
    })?;
    let wanted = &policy.capture;
    Ok(CaptureRequest {
        server: run.server.clone(),
        consistent: Consistent {
            level: wanted.consistency,
            required: wanted.required,
            hook: Hook { before: wanted.before.clone(), after: wanted.after.clone() },
            freeze_limit: wanted.freeze_limit,
        },
        since,
        token: context.token(NAME),
    })
}

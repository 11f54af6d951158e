//! The level of a capture: what is asked, what was reached, and what is said of the difference.
//!
//! The hooks of an application run on this host around the freeze, the second one whatever became of the first and of
//! the snapshots. EC2 tells nothing of a freeze, so the level is noted in the snapshots' tags once it is proved; a process
//! that dies before that leaves snapshots which are those of a crash.

use std::future::Future;

use cloud::{CaptureRequest, Power, hook};
use model::{Consistency, Error, Kind, Result, ServerName, Tags, crash};
use tokio::time::Instant;

use super::config::Clients;
use super::freeze::{self, Appointment, Freezing};
use super::inventory::{self, Seen};
use super::marks;
use super::snapshot::{self, Held};

/// What was reached, and what is to be told of it.
#[derive(Debug)]
pub(super) struct Reached {
    pub(super) level: Consistency,
    pub(super) warnings: Vec<String>,
}

/// Why nobody is frozen, and what to do about it.
const NOBODY: &str = "EC2 freezes no guest";
const SETTING: &str = "let Systems Manager do it: `freeze = \"ssm\"` at the site";

/// The tag that tells a level.
pub(super) fn tag(level: Consistency) -> Tags {
    Tags::from([(marks::LEVEL.to_owned(), level.to_string())])
}

/// The level that snapshots were proved to have.
fn told(held: &[Held]) -> Consistency {
    let levels = [Consistency::Filesystem, Consistency::Application];
    let of = |held: &Held| {
        let told = held.tags.get(marks::LEVEL);
        levels.into_iter().find(|level| told == Some(&level.to_string())).unwrap_or(Consistency::Crash)
    };
    held.iter().map(of).min().unwrap_or(Consistency::Crash)
}

/// What was reached by whoever took these snapshots and did not get to the end. None: it is not what is required.
pub(super) async fn again(clients: &Clients, request: &CaptureRequest, held: &[Held]) -> Result<Option<Reached>> {
    let (wanted, level) = (&request.consistent, told(held));
    let mut reached = Reached { level, warnings: Vec::new() };
    if level >= wanted.level {
        return Ok(Some(reached));
    }
    if clients.ssm.is_some() && wanted.level == Consistency::Application {
        // who took them may have died before it ran that
        after(request, &mut reached.warnings).await;
    }
    reached.warnings.push(match clients.ssm {
        Some(_) => {
            format!("consistency is {level}, not {}: no more was proved when its snapshots were taken", wanted.level)
        }
        None => format!("consistency is {level}, not {}: {NOBODY}; {SETTING}", wanted.level),
    });
    Ok((!wanted.required).then_some(reached))
}

async fn after(request: &CaptureRequest, warnings: &mut Vec<String>) {
    if let Err(error) = hook::run(&request.consistent.hook.after, &request.server).await {
        warnings.push(format!("the hook after the thaw did not succeed: {}", error.chain()));
    }
}

/// The running servers that cannot be frozen, and why; see [`cloud::Source::unfrozen`].
pub(super) async fn unfrozen(clients: &Clients) -> Result<Option<Vec<(ServerName, String)>>> {
    let Some(ssm) = &clients.ssm else { return Ok(None) };
    let platforms = ssm.platforms(None).await?;
    let running = inventory::all(clients).await?.into_iter().filter(|seen| seen.server.power == Power::On);
    let unfit = running.filter_map(|seen| Some((seen.server.name, freeze::unfit(platforms.get(&seen.id))?)));
    Ok(Some(unfit.collect()))
}

/// Takes snapshots by `pin`, at the level that is wanted or the best that can be had.
pub(super) async fn take(
    clients: &Clients,
    request: &CaptureRequest,
    seen: &Seen,
    pin: impl Future<Output = Result<Vec<String>>>,
) -> Result<(Vec<String>, Reached)> {
    let mut taking = Taking { clients, request, seen, warnings: Vec::new() };
    let hooked = taking.before().await?;
    let taken = taking.pin(pin).await;
    if hooked {
        after(request, &mut taking.warnings).await;
    }
    let (ids, frozen) = taken?;
    let level = match (frozen, hooked) {
        (true, true) => Consistency::Application,
        (true, false) => Consistency::Filesystem,
        (false, _) => Consistency::Crash,
    };
    Ok((ids, Reached { level, warnings: taking.warnings }))
}

struct Taking<'a> {
    clients: &'a Clients,
    request: &'a CaptureRequest,
    seen: &'a Seen,
    warnings: Vec<String>,
}

impl<'a> Taking<'a> {
    /// Runs the hook before the freeze; whether there is one.
    async fn before(&mut self) -> Result<bool> {
        let wanted = &self.request.consistent;
        if wanted.level < Consistency::Application || self.clients.ssm.is_none() || self.seen.server.power == Power::Off
        {
            return Ok(false);
        }
        if wanted.hook.before.is_empty() {
            self.degrade(Consistency::Application, "the policy names no hook to run before the freeze", None)?;
            return Ok(false);
        }
        crash::point("aws.hook.before");
        if let Err(error) = hook::run(&wanted.hook.before, &self.request.server).await {
            after(self.request, &mut self.warnings).await;
            return Err(error);
        }
        crash::point("aws.hook.after");
        Ok(true)
    }

    /// Takes the snapshots; whether all file systems were frozen meanwhile.
    async fn pin(&mut self, pin: impl Future<Output = Result<Vec<String>>>) -> Result<(Vec<String>, bool)> {
        let Some((freezing, made)) = self.freeze().await? else { return Ok((pin.await?, false)) };
        made.wait().await;
        let began = Instant::now();
        let ids = pin.await;
        let held = freezing.end(&made, began, Instant::now()).await;
        let ids = ids?;
        let Err(error) = held else { return Ok((ids, true)) };
        if let Err(error) = self.degrade(Consistency::Filesystem, &error.chain(), error.advice()) {
            for id in &ids {
                snapshot::delete(self.clients, id).await?;
            }
            return Err(error);
        }
        Ok((ids, false))
    }

    async fn freeze(&mut self) -> Result<Option<(Freezing<'a>, Appointment)>> {
        let wanted = &self.request.consistent;
        if wanted.level < Consistency::Filesystem {
            return Ok(None);
        }
        let (clients, seen) = (self.clients, self.seen);
        let Some(ssm) = &clients.ssm else {
            if wanted.required {
                let why = format!("its consistency would be crash, not {}: {NOBODY}", wanted.level);
                let error = Error::new(Kind::Invalid, format!("cannot capture server {}", self.request.server));
                return Err(error.because(why).hint(SETTING));
            }
            self.warnings.push(format!("consistency is crash, not {}: {NOBODY}; {SETTING}", wanted.level));
            return Ok(None);
        };
        if seen.server.power == Power::Off {
            self.degrade(wanted.level, "it is off, and EC2 does not tell how it was shut down", None)?;
            return Ok(None);
        }
        match Freezing::begin(ssm, &seen.id, wanted.freeze_limit).await {
            Ok(frozen) => Ok(Some(frozen)),
            Err(error) => {
                self.degrade(Consistency::Filesystem, &error.chain(), error.advice())?;
                Ok(None)
            }
        }
    }

    /// Notes that a level cannot be had, or fails if it is required.
    fn degrade(&mut self, level: Consistency, reason: &str, advice: Option<&str>) -> Result<()> {
        let advice = advice.unwrap_or("mend that");
        if self.request.consistent.required {
            let operation = format!("cannot capture server {} at level {level}", self.request.server);
            return Err(Error::new(Kind::Permanent, operation)
                .because(reason.to_owned())
                .hint(format!("{advice}, or let the policy say `required = false`")));
        }
        self.warnings.push(format!("level {level} could not be had: {reason}; {advice}"));
        Ok(())
    }
}

//! Freezing a guest's file systems through Systems Manager, for as long as `CreateSnapshots` takes and never longer than
//! a bound that the guest itself keeps.
//!
//! The agent reads and writes files of the guest's root file system for every command. While that is frozen it neither
//! takes a command nor answers one, so nobody can ask whether the freeze has come to pass, nor tell the guest to thaw.
//! (AWS's own scripts leave out `/` and `/boot` for that, and with them most of most servers.) Therefore the freeze is an
//! appointment:
//!
//! 1. The first command leaves a process behind in the guest ([`FREEZE`]) and answers. A few seconds later that process
//!    freezes, holds for a fixed time, and thaws, whether anybody is left to hear of it or not. It was there before the
//!    freeze, is nobody's child, and writes into memory only.
//! 2. The guest's clock is read when the appointment is made, which is between our sending and our seeing the answer. So
//!    there is a time of which we know that it lies within the appointment, and `CreateSnapshots` is called then.
//! 3. The second command ([`THAW`]), which the agent takes up once the guest is thawed, tells from when to when all file
//!    systems were frozen. Only if the call lies within that for certain, by the widest of what the clocks allow, was the
//!    capture consistent. All else (an agent that is late, a freeze that was slow, a thaw that came first) is a crash's.
//!
//! `SendCommand` knows no token, so the scripts do: a freeze that the guest knows already is not begun again, and the
//! second command, come first, sees to it that the first will do nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use model::{Error, Kind, Result, crash};
use tokio::time::{Instant, sleep, sleep_until};

use super::ssm::{Ran, Ssm};

const FREEZE: &str = include_str!("freeze.sh");
const THAW: &str = include_str!("thaw.sh");

/// What takes an agent.
const AGENT: &str = "install Systems Manager's agent there, and let the instance's profile use it";

/// From the first command to the freeze: what the agent needs to answer.
const DELAY: Duration = Duration::from_secs(5);
/// A guest is not frozen for longer, whatever a policy allows: unlike elsewhere it is frozen for all of the time.
const LONGEST: Duration = Duration::from_secs(20);
/// The least time in which `CreateSnapshots` is called.
const LEAST: Duration = Duration::from_secs(1);
/// How long a command may take beside what it is to wait for. The service waits for half of that at least.
const ANSWER: Duration = Duration::from_secs(60);
/// Between two looks at a command.
const PAUSE: Duration = Duration::from_millis(500);

/// What a command said, and when.
#[derive(Debug, Clone)]
struct Answer {
    /// Not later than it began.
    sent: Instant,
    /// Not earlier than it ended.
    seen: Instant,
    said: String,
}

/// A guest that has been told to freeze.
#[derive(Debug)]
pub(super) struct Freezing<'a> {
    ssm: &'a Ssm,
    instance: &'a str,
    token: String,
    hold: Duration,
}

/// An appointment: what is known of the time in which the guest is frozen.
#[derive(Debug, Clone)]
pub(super) struct Appointment {
    answer: Answer,
    /// The guest's clock when it was made.
    armed: f64,
    hold: Duration,
}

impl<'a> Freezing<'a> {
    /// Makes an appointment. If that fails, the guest is told to forget it.
    pub(super) async fn begin(ssm: &'a Ssm, instance: &'a str, limit: Duration) -> Result<(Self, Appointment)> {
        let operation = || format!("cannot freeze instance {instance}");
        if let Some(why) = unfit(platforms(ssm, instance).await?.get(instance)) {
            return Err(Error::new(Kind::Permanent, operation()).because(why).hint(AGENT));
        }
        let hold = limit.clamp(LEAST, LONGEST);
        let it = Self { ssm, instance, token: format!("{:032x}", rand::random::<u128>()), hold };
        let script = format!("token={}\ndelay={}\nhold={}\n{FREEZE}", it.token, DELAY.as_secs(), hold.as_secs());
        crash::point("aws.freeze.before");
        let answer = it.run(&script, ANSWER).await;
        crash::point("aws.freeze.after");
        let made = answer.and_then(|answer| {
            let armed = number(&answer.said, "armed=").ok_or_else(|| it.error("its answer is not understood"))?;
            let made = Appointment { answer, armed, hold };
            made.moment().ok_or_else(|| {
                let took = made.answer.seen.duration_since(made.answer.sent).as_secs();
                it.error(&format!("its agent took {took} s to answer, and it is frozen for {} s", hold.as_secs()))
                    .hint("raise `freeze-limit`")
            })?;
            Ok(made)
        });
        match made {
            Ok(made) => Ok((it, made)),
            Err(error) => {
                it.call_off().await;
                Err(error)
            }
        }
    }

    fn error(&self, why: &str) -> Error {
        Error::new(Kind::Permanent, format!("cannot freeze instance {}", self.instance)).because(why.to_owned())
    }

    /// Tells the guest to forget it, without waiting for an answer: it thaws by itself.
    async fn call_off(&self) {
        if let Err(error) = self.ssm.send(self.instance, &self.thaw(), ANSWER).await {
            tracing::debug!(instance = self.instance, error = error.chain(), "a freeze is not called off");
        }
    }

    fn thaw(&self) -> String {
        format!("token={}\nlimit={}\n{THAW}", self.token, (DELAY + self.hold + DELAY).as_secs())
    }

    /// Ends the freeze. An error if all file systems were not frozen for certain from `began` to `ended`, and why.
    pub(super) async fn end(&self, made: &Appointment, began: Instant, ended: Instant) -> Result<()> {
        crash::point("aws.thaw.before");
        let answer = self.run(&self.thaw(), DELAY + self.hold + ANSWER).await;
        crash::point("aws.thaw.after");
        let said = answer?.said;
        if let Some((_, why)) = said.split_once("why=") {
            return Err(self.error(why.trim()));
        }
        let times = number(&said, "frozen=").zip(number(&said, "held="));
        let (frozen, held) = times.ok_or_else(|| self.error("its answer is not understood"))?;
        if frozen > made.earliest(began) {
            return Err(self.error("it may not have been frozen yet when the snapshots were taken"));
        }
        if held < made.latest(ended) {
            let error = self.error("it may have thawed before the snapshots were taken");
            return Err(error.hint("raise `freeze-limit`"));
        }
        Ok(())
    }

    /// Runs a script until it has answered. A call whose answer is lost is made again: the scripts take that.
    async fn run(&self, script: &str, limit: Duration) -> Result<Answer> {
        let sent = Instant::now();
        let until = sent + limit;
        let mut command = None;
        loop {
            let looked = match &command {
                None => self.ssm.send(self.instance, script, limit).await.map(|id| {
                    command = Some(id);
                    Ran::NotYet
                }),
                Some(id) => self.ssm.look(self.instance, id).await,
            };
            match looked {
                Ok(Ran::Well(said)) => return Ok(Answer { sent, seen: Instant::now(), said }),
                Ok(Ran::Ill(why)) => return Err(self.error(&why)),
                Err(error) if !error.kind().is_retryable() || Instant::now() >= until => return Err(error),
                Ok(Ran::NotYet) if Instant::now() >= until => {
                    return Err(self.error(&format!("its agent did not answer within {} s", limit.as_secs())));
                }
                Ok(Ran::NotYet) | Err(_) => sleep(PAUSE).await,
            }
        }
    }
}

/// Why a guest cannot be frozen, by what its agent says of its platform.
pub(super) fn unfit(platform: Option<&String>) -> Option<String> {
    match platform.map(String::as_str) {
        Some("Linux") => None,
        Some(other) => Some(format!("it runs {other}, and only Linux is frozen")),
        None => Some("no agent of Systems Manager answers for it".to_owned()),
    }
}

/// As [`Ssm::platforms`]; a moment's trouble is borne.
async fn platforms(ssm: &Ssm, instance: &str) -> Result<BTreeMap<String, String>> {
    let until = Instant::now() + ANSWER;
    loop {
        match ssm.platforms(Some(instance)).await {
            Err(error) if error.kind().is_retryable() && Instant::now() < until => sleep(PAUSE).await,
            looked => return looked,
        }
    }
}

impl Appointment {
    /// When to call, if there is time enough: after a third of it, because a freeze takes a while.
    fn moment(&self) -> Option<Instant> {
        let (opens, closes) = (self.answer.seen + DELAY, self.answer.sent + DELAY + self.hold);
        let time = closes.checked_duration_since(opens).filter(|time| *time >= LEAST)?;
        Some(opens + time / 3)
    }

    /// Waits until it is time to call.
    pub(super) async fn wait(&self) {
        if let Some(moment) = self.moment() {
            sleep_until(moment).await;
        }
    }

    /// The least that the guest's clock showed at an instant after it was made: it was made when that was seen, at the
    /// latest.
    fn earliest(&self, at: Instant) -> f64 {
        self.armed + at.duration_since(self.answer.seen).as_secs_f64()
    }

    /// The most that it showed: it was made when that was sent, at the earliest.
    fn latest(&self, at: Instant) -> f64 {
        self.armed + at.duration_since(self.answer.sent).as_secs_f64()
    }
}

/// The number behind a word.
fn number(text: &str, word: &str) -> Option<f64> {
    text.split_whitespace().find_map(|part| part.strip_prefix(word)?.parse().ok())
}

#[cfg(test)]
mod tests;

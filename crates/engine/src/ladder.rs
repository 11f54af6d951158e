//! The ladder that a booting guest climbs: firmware, kernel, root found, ready. Read from its console, from outside; a guest agent that
//! answers implies all of it. A sign of death ends the climb, wherever it shows.

use std::time::{Duration, Instant};

use cloud::{ProbeState, Target};
use model::{InstanceId, Kind, Result, RunId};

use crate::observe::{Event, Observer};
use crate::proof::Rung;

/// Signs that a rung was reached; any one will do.
const FIRMWARE: &[&str] = &["SeaBIOS", "BdsDxe", "UEFI", "TianoCore", "EDK II", "Booting from", "GRUB", "iPXE"];
const KERNEL: &[&str] = &["Linux version ", "Booting Linux", "[    0.000000]", "Decompressing Linux", "Command line: "];
const ROOT: &[&str] = &[
    "REPLICATE-ROOT",
    "mounted filesystem",
    "systemd[1]: ",
    "Mounted root",
    "Run /sbin/init",
    "Welcome to ",
    "INIT: version",
    "OpenRC",
];
const READY: &[&str] = &[
    "login: ",
    "Reached target multi-user",
    "Reached target Multi-User",
    "Reached target graphical",
    "Reached target Graphical",
    "REPLICATE-READY",
];
/// Signs of death: whatever came before, such a guest has not booted.
const DEAD: &[&str] = &[
    "Kernel panic",
    "Unable to mount root",
    "REPLICATE-NOROOT",
    "REPLICATE-PANIC",
    "Cannot open root device",
    "Gave up waiting for root",
    "dracut-initqueue timeout",
    "dracut Warning: Could not boot",
    "You are in emergency mode",
    "Give root password for maintenance",
    "grub rescue>",
    "No bootable device",
    "not a bootable disk",
    "BUG: unable to handle",
    "end Kernel panic",
];

/// Names of the rungs, in order.
const NAMES: [&str; 4] = ["firmware", "kernel", "root", "ready"];

/// What the console shows.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    /// Per rung, the sign that was found.
    rungs: [Option<&'static str>; 4],
    dead: Option<String>,
}

fn look(console: &str) -> Seen {
    let first = |signs: &[&'static str]| signs.iter().find(|sign| console.contains(**sign)).copied();
    let dead = DEAD.iter().find_map(|sign| console.find(sign)).map(|at| line_at(console, at));
    Seen { rungs: [first(FIRMWARE), first(KERNEL), first(ROOT), first(READY)], dead }
}

/// The whole line around a position, bounded.
fn line_at(text: &str, at: usize) -> String {
    let start = text[..at].rfind('\n').map_or(0, |i| i + 1);
    let end = text[at..].find('\n').map_or(text.len(), |i| at + i);
    text[start..end].trim().chars().take(200).collect()
}

/// How a climb went.
pub(crate) struct Climb {
    pub rungs: Vec<Rung>,
    pub console: String,
    /// Why the guest will not get further.
    pub dead: Option<String>,
}

impl Climb {
    pub(crate) fn is_up(&self) -> bool {
        self.dead.is_none() && self.rungs.len() == NAMES.len() && self.rungs.iter().all(|rung| rung.passed)
    }
}

/// Who is watched, and how.
pub(crate) struct Watch<'a> {
    pub target: &'a dyn Target,
    pub instance: &'a InstanceId,
    pub observer: &'a dyn Observer,
    pub run: &'a RunId,
    pub launched: Instant,
    pub limit: Duration,
    pub poll: Duration,
}

impl Watch<'_> {
    /// Seconds since launch.
    pub(crate) fn seconds(&self) -> f64 {
        self.launched.elapsed().as_secs_f64()
    }

    pub(crate) fn is_late(&self) -> bool {
        self.launched.elapsed() >= self.limit
    }

    /// One look: the console and the machine's state, and why it is dead, if it is.
    pub(crate) async fn alive(&self) -> Result<(String, ProbeState, Option<String>)> {
        let console = self.target.console(self.instance).await?.text;
        let state = self.target.probe(self.instance).await?;
        let dead = look(&console).dead.map(|line| format!("the console says `{line}`"));
        let dead = dead.or_else(|| state.panicked.then(|| "the guest panicked".to_owned()));
        let dead = dead.or_else(|| (!state.running).then(|| "the machine stopped".to_owned()));
        Ok((console, state, dead))
    }

    /// Climbs until the last rung, a sign of death or the limit.
    pub(crate) async fn climb(&self) -> Result<Climb> {
        let mut reached: [Option<(f64, String)>; 4] = Default::default();
        loop {
            let (console, state, dead) = match self.alive().await {
                Ok(seen) => seen,
                // the machine is there, only the look failed: the limit bounds how often
                Err(error) if error.kind().is_retryable() && !self.is_late() => {
                    tokio::time::sleep(self.poll).await;
                    continue;
                }
                Err(error) if error.kind() == Kind::NotFound => {
                    return Ok(self.end(reached, String::new(), Some("the machine is gone".to_owned())));
                }
                Err(error) => return Err(error),
            };
            let seen = look(&console);
            let agent = state.agent && dead.is_none();
            for index in 0..NAMES.len() {
                // a higher rung implies the lower ones: a quiet kernel prints no banner
                let sign = seen.rungs[index..].iter().flatten().next();
                let sign = sign.map(|sign| format!("`{}`", sign.trim()));
                let sign = sign.or_else(|| agent.then(|| "the guest agent answers".to_owned()));
                if let (Some(sign), None) = (sign, &reached[index]) {
                    let seconds = self.seconds();
                    let rung = NAMES[index].to_owned();
                    self.observer.event(&Event::Rung { run: self.run.clone(), rung, seconds });
                    reached[index] = Some((seconds, sign));
                }
            }
            if dead.is_some() || reached.iter().all(Option::is_some) {
                return Ok(self.end(reached, console, dead));
            }
            if self.is_late() {
                let late = format!("the guest was not ready after {} seconds", self.limit.as_secs());
                return Ok(self.end(reached, console, Some(late)));
            }
            tokio::time::sleep(self.poll).await;
        }
    }

    fn end(&self, reached: [Option<(f64, String)>; 4], console: String, dead: Option<String>) -> Climb {
        let mut rungs = Vec::new();
        for (name, reached) in NAMES.into_iter().zip(reached) {
            let passed = reached.is_some();
            let (seconds, detail) =
                reached.unwrap_or_else(|| (self.seconds(), dead.clone().unwrap_or_else(|| "not reached".to_owned())));
            rungs.push(Rung { name: name.to_owned(), passed, seconds, detail });
        }
        if let (Some(dead), true) = (&dead, rungs.iter().all(|rung| rung.passed)) {
            rungs.push(Rung { name: "alive".to_owned(), passed: false, seconds: self.seconds(), detail: dead.clone() });
        }
        Climb { rungs, console, dead }
    }
}

#[cfg(test)]
mod tests {
    use super::look;

    #[test]
    fn death_is_seen_wherever_it_is() {
        let seen = look("Linux version 6\r\nfoo login: \r\n[ 3.1] Kernel panic - not syncing: x\r\nmore");
        assert!(seen.rungs[3].is_some());
        assert_eq!(seen.dead.as_deref(), Some("[ 3.1] Kernel panic - not syncing: x"));
        assert_eq!(look("Debian GNU/Linux 13 web ttyS0\n\nweb login: ").dead, None);
    }
}

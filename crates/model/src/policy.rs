//! A validated policy: which servers, when, to where, kept how long, proven how often. The file form and its checks
//! are the command's; only values that make sense reach this type.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Consistency, ImageOptions, Keep, Place, PolicyName, ServerName, SiteName, Via};

/// Which servers a policy covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Select {
    /// At which site.
    pub site: SiteName,
    /// Patterns with `*` and `?`; a server must fit one. Empty: all.
    pub servers: Vec<String>,
    /// Tags that a server must carry.
    pub tags: BTreeMap<String, String>,
}

impl Select {
    /// Whether a server with this name and these tags is covered.
    pub fn covers(&self, name: &ServerName, tags: &BTreeMap<String, String>) -> bool {
        let named = self.servers.is_empty() || self.servers.iter().any(|pattern| fits(pattern, name.as_str()));
        named && self.tags.iter().all(|(key, value)| tags.get(key) == Some(value))
    }
}

/// What to do about occurrences that were missed while the daemon was down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CatchUp {
    /// Forget them.
    None,
    /// Run once, however many were missed.
    Once,
}

/// When a policy runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// A cron expression of 5 to 7 fields, or an alias such as `@daily`; checked.
    pub cron: String,
    /// IANA time zone; checked.
    pub timezone: String,
    /// Each server's start is spread over this long, the same for a server every time.
    pub jitter: Duration,
    /// What to do about missed occurrences.
    pub catch_up: CatchUp,
}

/// How servers are captured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturePolicy {
    /// The level wanted.
    pub consistency: Consistency,
    /// Fail rather than degrade.
    pub required: bool,
    /// Hook before the freeze (command and arguments on the daemon's host).
    pub before: Vec<String>,
    /// Hook after the thaw.
    pub after: Vec<String>,
    /// The longest that a guest may stay frozen.
    pub freeze_limit: Duration,
}

/// What the administrator wants to be true; `status` measures against it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Objectives {
    /// Longest acceptable age of the newest verified point.
    pub rpo: Option<Duration>,
    /// Longest acceptable time to restore.
    pub rto: Option<Duration>,
    /// Longest acceptable age of the newest proof.
    pub proof: Option<Duration>,
}

/// One check of a drill, beyond what every drill checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Probe {
    /// The console shows this text.
    Console {
        /// What must appear.
        text: String,
    },
    /// A TCP port accepts a connection.
    Tcp {
        /// The guest's port.
        port: u16,
    },
    /// An HTTP request is answered with a status below 400 and, if given, a body that holds the text.
    Http {
        /// The guest's port.
        port: u16,
        /// Path and query.
        path: String,
        /// What the body must hold.
        text: Option<String>,
    },
    /// A command through the guest agent ends with code 0 and, if given, prints the text.
    Command {
        /// Command and arguments, inside the guest.
        command: Vec<String>,
        /// What the output must hold.
        text: Option<String>,
    },
}

/// How drills of this policy's servers go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillPolicy {
    /// Where to boot; the first qemu site by default.
    pub site: Option<SiteName>,
    /// Checks after the ladder.
    pub probes: Vec<Probe>,
    /// The longest that a drill may take until the last rung.
    pub limit: Duration,
}

/// One destination of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredDestination")]
pub struct Destination {
    /// Where.
    pub place: Place,
    /// How bytes are to come there.
    pub via: Via,
    /// How images there are to look.
    pub image: ImageOptions,
}

impl From<Place> for Destination {
    fn from(place: Place) -> Self {
        Self { place, via: Via::Auto, image: ImageOptions::default() }
    }
}

/// A destination as a ledger may hold it: runs of earlier versions noted the place alone.
#[derive(Deserialize)]
#[serde(untagged)]
enum StoredDestination {
    Whole { place: Place, via: Via, image: Box<ImageOptions> },
    Place(Place),
}

impl From<StoredDestination> for Destination {
    fn from(stored: StoredDestination) -> Self {
        match stored {
            StoredDestination::Whole { place, via, image } => Self { place, via, image: *image },
            StoredDestination::Place(place) => place.into(),
        }
    }
}

/// A whole policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Its name: the file's name without `.toml`.
    pub name: PolicyName,
    /// Which servers.
    pub select: Select,
    /// When; none: only by `replicate run`.
    pub schedule: Option<Schedule>,
    /// How to capture.
    pub capture: CapturePolicy,
    /// To where; at least one.
    pub replicate: Vec<Destination>,
    /// What to keep.
    pub keep: Keep,
    /// What must be true.
    pub objectives: Objectives,
    /// How to drill.
    pub drill: DrillPolicy,
}

impl Policy {
    /// What is asked of images at a place; nothing, if the policy does not name it.
    pub fn image_options(&self, place: &Place) -> ImageOptions {
        let named = self.replicate.iter().find(|destination| destination.place == *place);
        named.map(|destination| destination.image.clone()).unwrap_or_default()
    }
}

/// Shell-like match of the whole text: `*` any run, `?` one character.
fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        if p < pattern.len() && pattern[p] == '*' {
            star = Some((p, t));
            p += 1;
        } else if p < pattern.len() && (pattern[p] == '?' || pattern[p] == text[t]) {
            p += 1;
            t += 1;
        } else if let Some((at, taken)) = star {
            star = Some((at, taken + 1));
            p = at + 1;
            t = taken + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::{Destination, Via, fits};
    use crate::{Place, SiteName};

    #[test]
    fn patterns() {
        assert!(fits("web-*", "web-1") && fits("*", "") && fits("a?c*e", "abcde") && fits("web-1", "web-1"));
        assert!(!fits("web-*", "db-1") && !fits("web-?", "web-12") && !fits("", "x"));
    }

    #[test]
    fn a_destination_of_an_earlier_ledger_is_read() {
        let place = Place::Site(SiteName::new("dr").unwrap());
        let old: Destination = serde_json::from_value(serde_json::to_value(&place).unwrap()).unwrap();
        assert_eq!(old, Destination::from(place));
        let now = Destination { via: Via::Relay, ..old };
        assert_eq!(serde_json::from_value::<Destination>(serde_json::to_value(&now).unwrap()).unwrap(), now);
    }
}

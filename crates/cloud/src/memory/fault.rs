//! Faults as data: which call goes wrong, and how. Every hit is logged, so that a test proves its fault happened.

use std::sync::Mutex;
use std::time::Duration;

use model::{Error, Kind, Result};
use serde::{Deserialize, Serialize};

use super::locked;

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Nothing happens and the call fails.
    FailBefore(Kind),
    /// The effect happens, the answer is lost: the worst that a network does.
    FailAfter(Kind),
    /// The call takes this much longer.
    Delay(Duration),
    /// The call never answers and has no effect; whoever waits must have a deadline, or is dropped (a crash).
    HangBefore,
    /// The effect happens and the call never answers: a crash right behind it.
    HangAfter,
    /// What is made is not seen by the next so many look-ups: eventual consistency.
    Invisible(u32),
    /// A list lacks the newest so many resources: a stale answer.
    Stale(u32),
    /// The provider breaks a promise; the conformance suites must notice.
    Break(Promise),
}

/// A promise of the traits that the provider can be told to break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Promise {
    /// The same token never makes two.
    SameToken,
    /// Everything made carries its tags.
    Tagged,
    /// All disks of a capture show one instant.
    OneInstant,
    /// A change map misses nothing.
    EveryChange,
    /// A lost or foreign cursor is not taken for a known one.
    CursorKnown,
    /// Nothing frozen is left behind.
    Thawed,
    /// An abandoned capture leaves the old cursor's changes to the next one.
    AbandonKeeps,
    /// Repeating a release or a delete is harmless.
    AbsentIsSuccess,
    /// A full reader lists every byte.
    FullReader,
    /// Bytes are what was written.
    Bytes,
    /// A writer with a base keeps it.
    BaseKept,
    /// Zeroes are written.
    ZeroIsData,
    /// The same token gives an emptied disk.
    Emptied,
    /// The root is the one of the bytes.
    TrueRoot,
    /// A registered image has the role asked for.
    RoleKept,
    /// An image carries its whole point.
    PointCarried,
    /// The image is not touched by what runs from it.
    ImageUntouched,
    /// A destroyed instance is gone.
    Destroyed,
    /// What is owned is listed completely.
    OwnedComplete,
    /// Deleting deletes.
    Deleted,
    /// What does not exist is told as [`Kind::NotFound`].
    NotFoundTold,
    /// A capture has all disks.
    AllDisks,
    /// A change map lists what changed only.
    OnlyChanges,
    /// A capture and its readers agree on what is incremental.
    IncrementalTold,
    /// A read is answered wholly or not at all.
    WholeAnswer,
    /// A writer claims only leaves that it has.
    LeafTruth,
    /// Nothing is written behind the end.
    Bounds,
    /// An image consists of disks that exist.
    DisksExist,
    /// An image has what a policy asks of it.
    OptionsKept,
    /// What a site cannot do is refused.
    OptionsRefused,
    /// An image that is off people's lists is listed to us.
    HiddenListed,
    /// A site that cannot be copied from is refused.
    StrangerRefused,
    /// A server that is said to be off is off, and one that is said to be on is on.
    Switched,
}

/// One fault: the `nth` call (from 1) of an operation, and the `times - 1` after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// The operation's name: that of the trait method (`capture`, `register`, `owned`), or `read`, `extents`,
    /// `write`, `zero`, `finish` of open disks, or `*` for all.
    pub operation: String,
    /// Which call, from 1, counted from the moment the rule was added.
    pub nth: u64,
    /// How many calls in a row.
    pub times: u64,
    /// What goes wrong.
    pub fault: Fault,
}

impl Rule {
    /// A fault of one call.
    pub fn new(operation: &str, nth: u64, fault: Fault) -> Self {
        Self { operation: operation.to_owned(), nth, times: 1, fault }
    }

    /// A fault of every call from now on.
    pub fn always(operation: &str, fault: Fault) -> Self {
        Self { operation: operation.to_owned(), nth: 1, times: u64::MAX, fault }
    }
}

/// A fault that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hit {
    /// In which operation.
    pub operation: String,
    /// Which call of it, counted by the rule.
    pub call: u64,
    /// What went wrong.
    pub fault: Fault,
}

#[derive(Debug, Default)]
struct Book {
    rules: Vec<(Rule, u64)>,
    hits: Vec<Hit>,
    calls: Vec<String>,
}

/// All rules of a cloud, what they did, and every call that arrived.
#[derive(Debug, Default)]
pub(super) struct Faults(Mutex<Book>);

impl Faults {
    pub(super) fn add(&self, rule: Rule) {
        locked(&self.0).rules.push((rule, 0));
    }

    pub(super) fn clear(&self) {
        locked(&self.0).rules.clear();
    }

    pub(super) fn hits(&self) -> Vec<Hit> {
        locked(&self.0).hits.clone()
    }

    pub(super) fn calls(&self) -> Vec<String> {
        locked(&self.0).calls.clone()
    }

    /// Counts a call and tells which faults apply to it.
    fn count(&self, operation: &str) -> Vec<Fault> {
        let mut guard = locked(&self.0);
        let book = &mut *guard;
        book.calls.push(operation.to_owned());
        let mut found = Vec::new();
        for (rule, seen) in &mut book.rules {
            if rule.operation != operation && rule.operation != "*" {
                continue;
            }
            *seen += 1;
            if *seen >= rule.nth && *seen - rule.nth < rule.times {
                // a rule about broken promises is hit where it takes effect
                if !matches!(rule.fault, Fault::Break(_)) {
                    book.hits.push(Hit { operation: operation.to_owned(), call: *seen, fault: rule.fault.clone() });
                }
                found.push(rule.fault.clone());
            }
        }
        found
    }

    /// Whether a call that cannot wait is to break a promise.
    pub(super) fn breaks(&self, operation: &'static str, promise: Promise) -> bool {
        let faults = self.count(operation);
        Entered { book: &self.0, operation, faults }.breaks(promise)
    }

    /// Begins a call: waits, hangs or fails as the rules say.
    pub(super) async fn enter(&self, operation: &'static str) -> Result<Entered<'_>> {
        let faults = self.count(operation);
        for fault in &faults {
            match fault {
                Fault::Delay(time) => tokio::time::sleep(*time).await,
                Fault::HangBefore => std::future::pending().await,
                Fault::FailBefore(kind) => return Err(injected(operation, *kind, "before its effect")),
                _ => {}
            }
        }
        Ok(Entered { book: &self.0, operation, faults })
    }
}

/// A call that was let in.
pub(super) struct Entered<'a> {
    book: &'a Mutex<Book>,
    operation: &'static str,
    faults: Vec<Fault>,
}

impl Entered<'_> {
    /// Whether this call is to break a promise; logged as a hit.
    pub(super) fn breaks(&self, promise: Promise) -> bool {
        let broken = self.faults.contains(&Fault::Break(promise));
        if broken {
            let hit = Hit { operation: self.operation.to_owned(), call: 0, fault: Fault::Break(promise) };
            locked(self.book).hits.push(hit);
        }
        broken
    }

    /// For how many look-ups what this call makes is not seen.
    pub(super) fn invisible(&self) -> u32 {
        self.faults.iter().find_map(|f| if let Fault::Invisible(looks) = f { Some(*looks) } else { None }).unwrap_or(0)
    }

    /// How many of the newest resources a list lacks.
    pub(super) fn stale(&self) -> usize {
        self.faults.iter().find_map(|f| if let Fault::Stale(n) = f { Some(*n as usize) } else { None }).unwrap_or(0)
    }

    /// Ends a call after its effect: loses the answer if a rule says so.
    pub(super) async fn leave(&self) -> Result<()> {
        for fault in &self.faults {
            match fault {
                Fault::HangAfter => std::future::pending().await,
                Fault::FailAfter(kind) => return Err(injected(self.operation, *kind, "after its effect")),
                _ => {}
            }
        }
        Ok(())
    }
}

fn injected(operation: &str, kind: Kind, when: &str) -> Error {
    Error::new(kind, format!("cannot {operation} at memory cloud")).because(format!("injected fault {when}"))
}

//! The one error of the program: what was tried (with ids), what kind of trouble, why, and what to do about it.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

/// Shorthand used by every crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of trouble; whoever meets it classifies, one decorator retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Network trouble, a 5xx, a reset: the same call may succeed in a moment.
    Transient,
    /// Asked too often: try later, and less.
    Throttled,
    /// Just created by us and not visible yet.
    NotYetVisible,
    /// Does not exist.
    NotFound,
    /// A create-only write met an existing thing, or a name is taken.
    Exists,
    /// Credentials or keys are refused.
    Denied,
    /// A limit of the account, the file system or the program is reached.
    Quota,
    /// The request, configuration or input is wrong; the same call will never succeed.
    Invalid,
    /// Bytes are not what they must be: a checksum, a seal or a length does not fit.
    Damaged,
    /// Stopped on request.
    Cancelled,
    /// Everything else that a retry does not mend.
    Permanent,
}

impl Kind {
    /// Whether the same call may succeed later without anyone changing anything.
    pub fn is_retryable(self) -> bool {
        matches!(self, Kind::Transient | Kind::Throttled | Kind::NotYetVisible)
    }
}

/// An error with the operation (ids included), its [`Kind`], its cause and an optional hint that names an action.
///
/// `Display` prints the operation only; the chain (`caused by:`) and the `hint:` are printed once, by the command.
/// No secret may get into any field.
#[derive(Debug)]
pub struct Error {
    operation: String,
    kind: Kind,
    source: Option<Box<dyn StdError + Send + Sync>>,
    hint: Option<String>,
    retry_after: Option<Duration>,
}

impl Error {
    /// An error of `kind` in `operation`, worded as `cannot open vault main`: lower case, with ids, no period.
    pub fn new(kind: Kind, operation: impl Into<String>) -> Self {
        Self { operation: operation.into(), kind, source: None, hint: None, retry_after: None }
    }

    /// Adds why. A [`String`] or `&str` will do where there is no error value.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds what the reader can do: an action, not a guess.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds how long the other side asks us to stay away (`Retry-After`).
    #[must_use]
    pub fn come_back_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Wraps this error in a wider operation; kind, hint and the asked wait are kept.
    #[must_use]
    pub fn within(self, operation: impl Into<String>) -> Self {
        let (kind, hint, retry_after) = (self.kind, self.hint.clone(), self.retry_after);
        let source = Some(Box::new(Self { hint: None, ..self }).into());
        Self { operation: operation.into(), kind, source, hint, retry_after }
    }

    /// An I/O error, classified by its code (`ENOSPC` and `EDQUOT` are [`Kind::Quota`]).
    pub fn io(operation: impl Into<String>, source: std::io::Error) -> Self {
        use std::io::ErrorKind as E;
        let kind = match source.kind() {
            E::NotFound => Kind::NotFound,
            E::AlreadyExists => Kind::Exists,
            E::PermissionDenied => Kind::Denied,
            E::StorageFull | E::QuotaExceeded | E::FileTooLarge => Kind::Quota,
            E::InvalidInput | E::InvalidData => Kind::Invalid,
            E::ConnectionReset
            | E::ConnectionRefused
            | E::ConnectionAborted
            | E::TimedOut
            | E::BrokenPipe
            | E::Interrupted
            | E::UnexpectedEof
            | E::NetworkUnreachable
            | E::HostUnreachable => Kind::Transient,
            _ => Kind::Permanent,
        };
        Self::new(kind, operation).because(source)
    }

    /// What sort of trouble.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The advice, if there is one.
    pub fn advice(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// How long the other side asks us to stay away, if it does.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The whole chain in one line, for logs and for the ledger.
    pub fn chain(&self) -> String {
        let mut text = self.operation.clone();
        let mut next = self.source();
        while let Some(error) = next {
            text.push_str(": ");
            text.push_str(&error.to_string());
            next = error.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.operation)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|s| s as &(dyn StdError + 'static))
    }
}

//! The exit codes, for scripts. Documented, and never renumbered.

use model::Kind;

/// Everything was done.
pub const DONE: u8 = 0;
/// It failed.
pub const FAILED: u8 = 1;
/// Usage or configuration is wrong.
pub const USAGE: u8 = 2;
/// Some of it was done; the rest is tried again by the next run.
pub const PARTLY_DONE: u8 = 3;
/// There is no such restore point.
pub const NO_POINT: u8 = 10;
/// It is running already.
pub const ALREADY_RUNNING: u8 = 11;
/// Credentials or a key are refused.
pub const DENIED: u8 = 12;
/// Interrupted from the keyboard.
pub const INTERRUPTED: u8 = 130;

/// The code of an error where nothing more is known than its kind.
pub fn of_kind(kind: Kind) -> u8 {
    match kind {
        Kind::Invalid => USAGE,
        Kind::Denied => DENIED,
        Kind::Cancelled => INTERRUPTED,
        _ => FAILED,
    }
}

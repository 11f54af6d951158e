//! Accounts, their long-lived keys, and sessions of assumed roles.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// An account.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Account {
    pub(crate) keys: BTreeMap<String, Key>,
    /// Names of roles that any account here may assume.
    pub(crate) roles: Vec<String>,
    pub(crate) regions: Vec<String>,
}

/// An access key of a user.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Key {
    pub(crate) secret: String,
    pub(crate) user: String,
}

/// Temporary credentials, by their access key id.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Session {
    pub(crate) account: String,
    pub(crate) role: String,
    pub(crate) name: String,
    pub(crate) secret: String,
    pub(crate) token: String,
    pub(crate) expires: Timestamp,
}

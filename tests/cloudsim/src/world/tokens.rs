//! Client tokens: the same request again is answered with what the first one made; another request with the same
//! token is refused.

use serde::{Deserialize, Serialize};

use super::World;
use crate::error::{Answer, ApiError};

/// A token that was used.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Use {
    /// The request's parameters.
    print: String,
    /// What it made.
    made: Vec<String>,
}

/// A token of a request, with the request's print.
#[derive(Debug)]
pub(crate) struct Token {
    key: String,
    print: String,
}

impl Token {
    /// Whose token it is, for what, and with which parameters.
    pub(crate) fn new(account: &str, region: &str, action: &str, token: &str, print: String) -> Self {
        Self { key: format!("{account}/{region}/{action}/{token}"), print }
    }
}

impl World {
    /// What a token has made already. Asked before the work, and once more under the lock that records it: the same
    /// request may be on its way twice.
    pub(crate) fn made(&self, token: Option<&Token>) -> Answer<Option<Vec<String>>> {
        let Some(token) = token else { return Ok(None) };
        match self.tokens.get(&token.key) {
            None => Ok(None),
            Some(used) if used.print == token.print => Ok(Some(used.made.clone())),
            Some(_) => {
                let message = "Arguments on this idempotent request are inconsistent with arguments used in previous \
                               request(s).";
                Err(ApiError::refuse("IdempotentParameterMismatch", message))
            }
        }
    }

    pub(crate) fn remember(&mut self, token: Option<&Token>, made: Vec<String>) {
        if let Some(token) = token {
            self.tokens.insert(token.key.clone(), Use { print: token.print.clone(), made });
        }
    }
}

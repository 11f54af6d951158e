//! Signs requests with an account's key, which the official client leaves out.
//!
//! The text that is signed is the provider's: learn.microsoft.com, "Authorize with Shared Key".

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use aws_lc_rs::hmac;
use azure_core::error::ErrorKind;
use azure_core::http::policies::{Policy, PolicyResult};
use azure_core::http::{Context, Request};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use model::{Clock, Error, Kind, Result};
use secrecy::{ExposeSecret, SecretString};

/// Headers that are signed by their places, in this order; between the third and the others stands the length.
const SIGNED: [&str; 11] = [
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
];

/// The policy that signs each attempt.
pub(super) struct SharedKey {
    account: String,
    key: hmac::Key,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for SharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedKey").field("account", &self.account).finish_non_exhaustive()
    }
}

impl SharedKey {
    pub(super) fn new(account: &str, key: &SecretString, clock: Arc<dyn Clock>) -> Result<Self> {
        let raw = STANDARD.decode(key.expose_secret().trim()).map_err(|_| {
            Error::new(Kind::Invalid, format!("cannot sign in to storage account {account}"))
                .because("its key is no base64")
                .hint("copy one of the account's two keys as it is shown")
        })?;
        Ok(Self { account: account.to_owned(), key: hmac::Key::new(hmac::HMAC_SHA256, &raw), clock })
    }

    fn authorization(&self, request: &Request) -> String {
        let signature = hmac::sign(&self.key, to_sign(&self.account, request).as_bytes());
        format!("SharedKey {}:{}", self.account, STANDARD.encode(signature))
    }
}

fn to_sign(account: &str, request: &Request) -> String {
    let mut text = request.method().as_str().to_owned();
    for name in SIGNED {
        let given = request.headers().get_optional_str(&name.into()).map(str::to_owned);
        let value = match (name, given) {
            // the transport adds it later; none is signed as empty
            ("content-length", None) => request.body().len().filter(|len| *len > 0).map(|len| len.to_string()),
            ("content-length", Some(length)) if length == "0" => None,
            (_, given) => given,
        };
        text.push('\n');
        text.push_str(&value.unwrap_or_default());
    }
    let mut own: Vec<(&str, &str)> = request
        .headers()
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str().trim()))
        .filter(|(name, _)| name.starts_with("x-ms-"))
        .collect();
    own.sort_unstable();
    for (name, value) in own {
        text.push_str(&format!("\n{name}:{value}"));
    }
    text.push_str(&format!("\n/{account}{}", request.url().path()));
    let mut query: Vec<(String, String)> =
        request.url().query_pairs().map(|(name, value)| (name.to_lowercase(), value.into_owned())).collect();
    query.sort_unstable();
    for (name, value) in query {
        text.push_str(&format!("\n{name}:{value}"));
    }
    text
}

#[async_trait]
impl Policy for SharedKey {
    async fn send(&self, context: &Context, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        let now = self.clock.now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        request.insert_header("x-ms-date", now);
        let authorization = self.authorization(request);
        request.insert_header("authorization", authorization);
        match next {
            [first, rest @ ..] => first.send(context, request, rest).await,
            [] => Err(azure_core::Error::with_message(ErrorKind::Other, "nothing sends the request")),
        }
    }
}

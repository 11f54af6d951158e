//! What is the same of every AWS service's failures: an answer's clock, and calls that got no answer.

use std::error::Error as StdError;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use jiff::Timestamp;
use model::{Error, Kind};

/// The wait that an answer asks for. A date in it belongs to the service's own clock, without which it says nothing;
/// seconds need none.
pub(crate) fn retry_after(response: &HttpResponse) -> Option<std::time::Duration> {
    let clock = match response.headers().get("date") {
        Some(date) => jiff::fmt::rfc2822::parse(date).ok().map(|date| date.timestamp()),
        None => Some(Timestamp::MAX),
    };
    model::parse_retry_after(response.headers().get("retry-after")?, clock?)
}

/// No answer came: network trouble, or the request could not even be signed, for which `keys` is the advice.
pub(crate) fn without(operation: String, error: &(dyn StdError + 'static), keys: &'static str) -> Error {
    let (mut why, mut keyless): (Vec<String>, bool) = (Vec::new(), false);
    let mut next = Some(error);
    while let Some(cause) = next {
        keyless |= cause.is::<CredentialsError>();
        let text = cause.to_string();
        if why.last() != Some(&text) {
            why.push(text);
        }
        next = cause.source();
    }
    let why = why.join(": ");
    match keyless {
        true => Error::new(Kind::Denied, operation).because(why).hint(keys),
        false => Error::new(Kind::Transient, operation).because(why),
    }
}

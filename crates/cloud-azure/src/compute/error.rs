//! What the answers of the Resource Manager and of blobs mean to us. The one place that reads status and error codes.

use std::error::Error as StdError;
use std::time::Duration;

use model::{Error, Kind};
use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use serde_json::Value;

/// The most of the provider's own words that goes into a message.
const LONGEST: usize = 300;

/// An answer that is no success.
pub(super) struct Refusal<'a> {
    pub status: StatusCode,
    pub headers: &'a HeaderMap,
    pub body: &'a [u8],
}

impl Refusal<'_> {
    /// Turns it into an error of `operation` (`cannot delete snapshot s`).
    pub(super) fn error(&self, operation: &str) -> Error {
        let (code, said) = self.words();
        let (kind, hint) = meaning(self.status, &code, &said);
        let mut why = format!("Azure answered {} {code}", self.status.as_u16());
        if !said.is_empty() {
            why = format!("{why}: {said}");
        }
        if let Some(request) = self.headers.get("x-ms-request-id").and_then(|id| id.to_str().ok()) {
            why = format!("{why} (request {request})");
        }
        let mut error = Error::new(kind, operation).because(why);
        if let Some(after) = retry_after(self.headers).filter(|_| kind.is_retryable()) {
            error = error.come_back_after(after);
        }
        hint.into_iter().fold(error, Error::hint)
    }

    /// Code and message: JSON from the Resource Manager and Entra ID, a header and XML from blobs.
    fn words(&self) -> (String, String) {
        if let Some(code) = self.headers.get("x-ms-error-code").and_then(|code| code.to_str().ok()) {
            let text = String::from_utf8_lossy(self.body);
            let said = text.split_once("<Message>").and_then(|(_, rest)| rest.split_once("</Message>"));
            return (code.to_owned(), short(said.map_or("", |(said, _)| said)));
        }
        let value: Value = serde_json::from_slice(self.body).unwrap_or_default();
        let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
        match value.get("error") {
            Some(Value::String(code)) => (code.clone(), short(&text(value.get("error_description")))),
            Some(error) => (text(error.get("code")), short(&text(error.get("message")))),
            None => (String::new(), String::new()),
        }
    }
}

/// An operation that was accepted and then failed.
pub(super) fn failed(operation: &str, status: &str, error: Option<&Value>) -> Error {
    let text = |key: &str| error.and_then(|error| error.get(key)?.as_str()).unwrap_or_default().to_owned();
    let (code, said) = (text("code"), short(&text("message")));
    let (kind, hint) = meaning(StatusCode::CONFLICT, &code, &said);
    let kind = match kind {
        // it ran and ended: nothing tells that the same would go otherwise next time
        Kind::Transient if !is_passing(&code) => Kind::Permanent,
        kind => kind,
    };
    let error = Error::new(kind, operation).because(format!("the operation ended as {status} {code}: {said}"));
    hint.into_iter().fold(error, Error::hint)
}

/// How long the provider asks us to stay away.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get("retry-after")?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Codes of what passes by itself.
fn is_passing(code: &str) -> bool {
    const CODES: [&str; 7] = [
        "AnotherOperationInProgress",
        "RetryableError",
        "InternalServerError",
        "InternalExecutionError",
        "NetworkingInternalOperationError",
        "OperationPreempted",
        "AllocationFailed",
    ];
    CODES.contains(&code)
}

fn meaning(status: StatusCode, code: &str, said: &str) -> (Kind, Option<&'static str>) {
    let quota = code.contains("Quota") || code.contains("LimitExceeded") || code == "SkuNotAvailable";
    let quota = quota || code == "OperationNotAllowed" && said.to_lowercase().contains("quota");
    let kept = |word: &str| code == "OperationNotAllowed" && said.to_lowercase().contains(word);
    if kept("immutab") || kept("endoflife") {
        return (Kind::Denied, Some("wait until its immutability policy has expired"));
    }
    if quota {
        return (Kind::Quota, Some("free something in the subscription, or have the quota raised"));
    }
    let kind = match status.as_u16() {
        401 => return (Kind::Denied, Some("check `tenant`, `client` and `secret` of the site")),
        400 if matches!(code, "unauthorized_client" | "invalid_request" | "invalid_scope") => {
            return (Kind::Denied, Some("check `tenant`, `client` and `secret` of the site"));
        }
        403 => return (Kind::Denied, Some("give the application the rights that the README lists")),
        404 | 410 => Kind::NotFound,
        412 => Kind::Exists,
        409 if matches!(code, "PropertyChangeNotAllowed" | "ResourceExists") => Kind::Exists,
        // what has a SAS, is attached or is being changed
        409 if code == "OperationNotAllowed" => Kind::Invalid,
        409 if code.starts_with("PreviousSnapshot") => Kind::Invalid,
        // something is in it
        409 if code == "CannotDeleteResource" => Kind::Invalid,
        408 | 409 | 425 => Kind::Transient,
        429 => Kind::Throttled,
        503 => Kind::Throttled,
        500..=599 => Kind::Transient,
        400..=499 => Kind::Invalid,
        _ => Kind::Permanent,
    };
    (kind, None)
}

fn short(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = text.trim_end_matches('.');
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// No whole answer came. The address is left out: a SAS is a secret.
pub(super) fn transport(operation: &str, error: reqwest::Error) -> Error {
    let kind = if error.is_builder() { Kind::Invalid } else { Kind::Transient };
    let error = error.without_url();
    let mut why = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        why = format!("{why}: {cause}");
        next = cause.source();
    }
    Error::new(kind, operation).because(format!("no whole answer from Azure: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, code: &str, said: &str) -> Kind {
        let body = serde_json::json!({ "error": { "code": code, "message": said } }).to_string();
        let status = StatusCode::from_u16(status).unwrap();
        Refusal { status, headers: &HeaderMap::new(), body: body.as_bytes() }.error("cannot do it").kind()
    }

    #[test]
    fn codes_have_their_meaning() {
        assert_eq!(refused(409, "OperationNotAllowed", "exceeding approved Total Regional Cores quota"), Kind::Quota);
        assert_eq!(refused(409, "OperationNotAllowed", "Disk d is attached to VM v."), Kind::Invalid);
        assert_eq!(refused(409, "OperationNotAllowed", "its immutability policy has not expired"), Kind::Denied);
        assert_eq!(refused(409, "OperationNotAllowed", "before its endOfLifeDate"), Kind::Denied);
        assert_eq!(refused(409, "AnotherOperationInProgress", ""), Kind::Transient);
        assert_eq!(refused(409, "PropertyChangeNotAllowed", ""), Kind::Exists);
        assert_eq!(refused(412, "PreconditionFailed", ""), Kind::Exists);
        assert_eq!(refused(401, "ExpiredAuthenticationToken", ""), Kind::Denied);
        assert_eq!(refused(404, "ResourceNotFound", ""), Kind::NotFound);
        assert_eq!(refused(429, "TooManyRequests", ""), Kind::Throttled);
        assert_eq!(refused(400, "InvalidParameter", ""), Kind::Invalid);
    }

    #[test]
    fn the_wait_that_is_asked_for_is_told() {
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", "17".parse().unwrap());
        let refusal = Refusal { status: StatusCode::TOO_MANY_REQUESTS, headers: &headers, body: b"" };
        assert_eq!(refusal.error("cannot list").retry_after(), Some(Duration::from_secs(17)));
    }

    #[test]
    fn an_operation_that_failed_is_not_begun_again() {
        let error = serde_json::json!({ "code": "InvalidVhd", "message": "no footer" });
        assert_eq!(failed("cannot end", "Failed", Some(&error)).kind(), Kind::Permanent);
        let error = serde_json::json!({ "code": "InternalExecutionError" });
        assert_eq!(failed("cannot end", "Failed", Some(&error)).kind(), Kind::Transient);
    }
}

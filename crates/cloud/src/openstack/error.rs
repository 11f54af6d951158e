//! What the services' answers mean to us. The one place that reads status codes and error bodies.

use std::error::Error as StdError;
use std::time::Duration;

use model::{Error, Kind};
use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use serde_json::Value;

/// The most of a service's own words that goes into a message.
const LONGEST: usize = 300;

/// An answer that is no success.
pub(super) struct Refusal<'a> {
    /// Who answered: `Glance`.
    pub service: &'a str,
    pub status: StatusCode,
    pub headers: &'a HeaderMap,
    pub body: &'a [u8],
}

impl Refusal<'_> {
    /// Turns it into an error of `operation` (`cannot delete image 7`).
    pub(super) fn error(&self, operation: &str) -> Error {
        let (kind_word, said) = words(self.body);
        let after = retry_after(self.headers);
        let (kind, hint) =
            meaning(self.status, kind_word.as_deref(), &said, after.is_some_and(|after| !after.is_zero()));
        let mut why = format!("{} answered {}", self.service, self.status.as_u16());
        if !said.is_empty() {
            why = format!("{why}: {said}");
        }
        if let Some(request) = request_id(self.headers) {
            why = format!("{why} (request {request})");
        }
        let mut error = Error::new(kind, operation).because(why);
        if let Some(after) = after.filter(|_| kind.is_retryable()) {
            error = error.come_back_after(after);
        }
        hint.into_iter().fold(error, Error::hint)
    }
}

/// The id under which the service logs a request.
pub(super) fn request_id(headers: &HeaderMap) -> Option<&str> {
    let names = ["x-openstack-request-id", "x-compute-request-id"];
    names.into_iter().find_map(|name| headers.get(name)?.to_str().ok())
}

/// Seconds, as the services send it; a date is ignored, the decorator's own wait does as well.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get("retry-after")?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

fn meaning(status: StatusCode, word: Option<&str>, said: &str, asked_to_wait: bool) -> (Kind, Option<&'static str>) {
    let lower = said.to_lowercase();
    let limit = ["quota", "exceed", "limit"].into_iter().any(|part| lower.contains(part));
    let taken = ["already exists", "already allocated", "duplicate"].into_iter().any(|part| lower.contains(part))
        || word
            .is_some_and(|word| word.ends_with("InUse") && (word.starts_with("Mac") || word.starts_with("IpAddress")));
    let kind = match status.as_u16() {
        401 => {
            return (Kind::Denied, Some("check the cloud's entry in clouds.yaml, and whether its secret still holds"));
        }
        403 | 409 if limit => return (Kind::Quota, Some("free something there, or have the quota raised")),
        403 => return (Kind::Denied, Some("the cloud's policy refuses this to our user: have a role added")),
        404 | 410 => Kind::NotFound,
        408 | 425 => Kind::Transient,
        409 if taken => Kind::Exists,
        // something is in the wrong state just now: a server that is being imaged, a network whose port still goes
        409 => Kind::Transient,
        // Cinder tells a full quota by 413 with a wait of 0
        413 if !asked_to_wait => Kind::Quota,
        413 | 429 => Kind::Throttled,
        503 if asked_to_wait => Kind::Throttled,
        501 | 505 => Kind::Invalid,
        507 => Kind::Quota,
        500..=599 => Kind::Transient,
        400..=499 => Kind::Invalid,
        _ => Kind::Permanent,
    };
    (kind, None)
}

/// The machine's word and the person's words in an error body. Every service has its own form: a JSON object around a
/// message, a list of errors, a page of HTML.
fn words(body: &[u8]) -> (Option<String>, String) {
    let text = String::from_utf8_lossy(body);
    let Ok(value) = serde_json::from_slice::<Value>(body) else {
        return (None, short(&without_markup(&text)));
    };
    if let Some(errors) = value.get("errors").and_then(Value::as_array) {
        let said = errors.iter().filter_map(|error| error.get("detail").or(error.get("title"))?.as_str());
        return (None, short(&said.collect::<Vec<_>>().join("; ")));
    }
    let inner = match value.as_object().and_then(|map| map.values().next()) {
        Some(inner @ (Value::Object(_) | Value::String(_))) => inner,
        _ => &value,
    };
    let said = inner.as_str().or_else(|| inner.get("message")?.as_str()).unwrap_or_default();
    let word = inner.get("type").and_then(Value::as_str).map(str::to_owned);
    (word, short(&without_markup(said)))
}

/// What a page of HTML says in its body.
fn without_markup(text: &str) -> String {
    let body = text.split_once("<body>").map_or(text, |(_, body)| body);
    let body = body.split_once("</h1>").map_or(body, |(_, rest)| rest);
    let mut plain = String::new();
    let mut inside = false;
    for c in body.chars() {
        match c {
            '<' => inside = true,
            '>' if inside => inside = false,
            c if !inside => plain.push(c),
            _ => {}
        }
    }
    plain
}

fn short(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = text.trim_end_matches('.');
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// No whole answer came.
pub(super) fn transport(operation: &str, service: &str, error: reqwest::Error) -> Error {
    let builder = error.is_builder();
    let mut why: Vec<String> = Vec::new();
    let error = error.without_url();
    let mut next: Option<&dyn StdError> = Some(&error);
    while let Some(cause) = next {
        let text = cause.to_string();
        if why.last() != Some(&text) {
            why.push(text);
        }
        next = cause.source();
    }
    let why = why.join(": ");
    let certificate = why.contains("certificate");
    let error = |kind| Error::new(kind, operation).because(format!("no whole answer from {service}: {why}"));
    if certificate {
        return error(Kind::Invalid).hint("set `cacert` of the cloud in clouds.yaml to its authority's certificate");
    }
    error(if builder { Kind::Invalid } else { Kind::Transient })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, body: &str, after: Option<&'static str>) -> Error {
        let mut headers = HeaderMap::new();
        headers.insert("x-openstack-request-id", "req-7".parse().unwrap());
        if let Some(after) = after {
            headers.insert("retry-after", after.parse().unwrap());
        }
        let status = StatusCode::from_u16(status).unwrap();
        Refusal { service: "Nova", status, headers: &headers, body: body.as_bytes() }.error("cannot make server s")
    }

    #[test]
    fn a_quota_is_no_policy() {
        let quota = r#"{"forbidden": {"code": 403, "message": "Quota exceeded for cores: Requested 4"}}"#;
        assert_eq!(refused(403, quota, None).kind(), Kind::Quota);
        let policy = r#"{"forbidden": {"code": 403, "message": "Policy doesn't allow os_compute_api:servers:create"}}"#;
        assert_eq!(refused(403, policy, None).kind(), Kind::Denied);
        let volumes = r#"{"overLimit": {"code": 413, "message": "VolumeLimitExceeded: Maximum number of volumes"}}"#;
        assert_eq!(refused(413, volumes, Some("0")).kind(), Kind::Quota);
        let ports = r#"{"NeutronError": {"type": "OverQuota", "message": "Quota exceeded for resources: ['port']."}}"#;
        assert_eq!(refused(409, ports, None).kind(), Kind::Quota);
    }

    #[test]
    fn asked_to_slow_down() {
        for status in [413, 429, 503] {
            let error = refused(status, r#"{"overLimit": {"message": "This request was rate-limited."}}"#, Some("17"));
            assert_eq!(
                (error.kind(), error.retry_after()),
                (Kind::Throttled, Some(Duration::from_secs(17))),
                "{status}"
            );
        }
        assert_eq!(refused(413, "", None).kind(), Kind::Quota);
    }

    #[test]
    fn conflicts_pass_and_taken_names_do_not() {
        let busy =
            r#"{"conflictingRequest": {"message": "Cannot 'createImage' while it is in task_state image_backup"}}"#;
        assert_eq!(refused(409, busy, None).kind(), Kind::Transient);
        let taken = r#"{"NeutronError": {"type": "MacAddressInUse", "message": "The mac address is in use."}}"#;
        assert_eq!(refused(409, taken, None).kind(), Kind::Exists);
        let ports = r#"{"NeutronError": {"type": "NetworkInUse", "message": "There are ports still in use."}}"#;
        assert_eq!(refused(409, ports, None).kind(), Kind::Transient);
        assert_eq!(refused(409, "Image ID 7 already exists!", None).kind(), Kind::Exists);
    }

    #[test]
    fn pages_of_html_are_read() {
        let page = "<html>\n <head>\n  <title>404 Not Found</title>\n </head>\n <body>\n  <h1>404 Not Found</h1>\n  \
                    No image found with ID 7<br /><br />\n\n\n\n </body>\n</html>";
        let error = refused(404, page, None);
        assert_eq!(error.kind(), Kind::NotFound);
        assert_eq!(error.chain(), "cannot make server s: Nova answered 404: No image found with ID 7 (request req-7)");
    }

    #[test]
    fn every_other_status_has_a_meaning() {
        for (status, kind) in [
            (400, Kind::Invalid),
            (401, Kind::Denied),
            (410, Kind::NotFound),
            (416, Kind::Invalid),
            (500, Kind::Transient),
            (502, Kind::Transient),
            (503, Kind::Transient),
            (501, Kind::Invalid),
            (507, Kind::Quota),
            (302, Kind::Permanent),
        ] {
            assert_eq!(refused(status, "", None).kind(), kind, "{status}");
        }
    }
}

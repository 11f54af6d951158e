//! What the services' refusals mean to us. The one place that reads error codes.

use std::error::Error as StdError;

use aws_sdk_ec2::config::http::HttpResponse;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use model::{Error, Kind};

use crate::answer;

/// What to do when there are no keys to sign with.
const KEYS: &str = "check `profile` and `role` of the site, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY";

/// Turns an SDK error into ours: kind by the service's code, else by the HTTP status.
pub(super) fn classify<E>(operation: impl Into<String>, error: SdkError<E, HttpResponse>) -> Error
where
    E: StdError + ProvideErrorMetadata + Send + Sync + 'static,
{
    let operation = operation.into();
    let (code, message) = (error.code().map(str::to_owned), error.message().map(str::to_owned));
    let Some(response) = error.raw_response() else {
        return answer::without(operation, &error, KEYS);
    };
    let status = response.status().as_u16();
    // the direct API has few codes; what it means stands in the reason
    let reason = response.body().bytes().and_then(reason_of);
    let (kind, hint) = meaning(code.as_deref(), reason.as_deref(), status);
    let mut said = format!("HTTP {status}");
    for part in [code, reason, message].into_iter().flatten() {
        said = format!("{said}, {}", part.trim_end_matches('.'));
    }
    let error = Error::new(kind, operation).because(said);
    let error = answer::retry_after(response).into_iter().fold(error, Error::come_back_after);
    hint.into_iter().fold(error, Error::hint)
}

/// The member `Reason` of the direct API's errors.
fn reason_of(body: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    Some(value.get("Reason").or(value.get("reason"))?.as_str()?.to_owned())
}

/// A limit that an operator raises, and one that passes by itself.
const RAISE: &str = "free something there, or have the account's quota raised";

/// What an error means for us, and what to do about it: the direct API's reason says most, then the code, then the status.
fn meaning(code: Option<&str>, reason: Option<&str>, status: u16) -> (Kind, Option<&'static str>) {
    let code = code.unwrap_or_default();
    let advised = of_reason(reason.unwrap_or_default()).or_else(|| of_refusal(code)).or_else(|| of_limit(code));
    advised.unwrap_or_else(|| (of_code(code).unwrap_or_else(|| of_status(status)), None))
}

fn of_reason(reason: &str) -> Option<(Kind, Option<&'static str>)> {
    Some(match reason {
        "ACCOUNT_THROTTLED" | "RESOURCE_LEVEL_THROTTLE" | "DEPENDENCY_REQUEST_THROTTLED" => (Kind::Throttled, None),
        "SNAPSHOT_NOT_FOUND" => (Kind::NotFound, None),
        // somebody, perhaps an attempt of ours whose answer was lost, writes the same block just now
        "CONFLICTING_BLOCK_UPDATE" => (Kind::Transient, None),
        "DEPENDENCY_SERVICE_QUOTA_EXCEEDED" => (Kind::Quota, Some(RAISE)),
        // it has expired: the next attempt has a new one
        "INVALID_BLOCK_TOKEN" => (Kind::Transient, None),
        _ => return None,
    })
}

fn of_refusal(code: &str) -> Option<(Kind, Option<&'static str>)> {
    let advice = match code {
        "AuthFailure"
        | "SignatureDoesNotMatch"
        | "InvalidClientTokenId"
        | "ExpiredToken"
        | "RequestExpired"
        | "UnrecognizedClientException"
        | "InvalidSignatureException"
        | "ExpiredTokenException" => "check the site's keys, and this machine's clock",
        "UnauthorizedOperation" | "AccessDenied" | "AccessDeniedException" => {
            "the keys are known, but their policy refuses this: allow it there"
        }
        "OperationNotPermitted" => "take its protection or lock off first",
        "SnapshotLocked" => "wait until the snapshot's lock has expired",
        _ => return None,
    };
    Some((Kind::Denied, Some(advice)))
}

fn of_limit(code: &str) -> Option<(Kind, Option<&'static str>)> {
    match code {
        "RequestLimitExceeded" => Some((Kind::Throttled, None)),
        "InsufficientInstanceCapacity" => Some((Kind::Quota, Some("name another `instance-type` or `subnet`"))),
        "ConcurrentLimitExceededException" | "ServiceQuotaExceededException" => Some((Kind::Quota, Some(RAISE))),
        code if code.ends_with("LimitExceeded") => Some((Kind::Quota, Some(RAISE))),
        _ => None,
    }
}

fn of_code(code: &str) -> Option<Kind> {
    Some(match code {
        "Throttling"
        | "ThrottlingException"
        | "RequestThrottledException"
        | "RequestThrottled"
        | "EC2ThrottledException"
        | "SlowDown" => Kind::Throttled,
        "InternalError"
        | "InternalFailure"
        | "InternalServerException"
        | "InternalServerError"
        | "ServiceUnavailable"
        | "Unavailable"
        | "RequestTimeout"
        | "IncorrectState"
        | "IncorrectInstanceState"
        | "DependencyViolation"
        | "ConflictException"
        | "SnapshotCreationPerVolumeRateExceeded"
        | "InvalidSnapshot.InUse" => Kind::Transient,
        // a command that was sent just now
        "InvocationDoesNotExist" => Kind::NotYetVisible,
        "InvalidAMIName.Duplicate" | "InvalidGroup.Duplicate" => Kind::Exists,
        // deregistered
        "ResourceNotFoundException" | "InvalidAMIID.Unavailable" => Kind::NotFound,
        "ValidationException" | "UnknownParameter" | "OptInRequired" => Kind::Invalid,
        code if code.ends_with(".NotFound") || code.ends_with(".Malformed") => Kind::NotFound,
        code if ["Invalid", "Missing", "Unsupported"].iter().any(|word| code.starts_with(word)) => Kind::Invalid,
        _ => return None,
    })
}

fn of_status(status: u16) -> Kind {
    match status {
        401 | 403 => Kind::Denied,
        404 => Kind::NotFound,
        408 | 409 | 425 => Kind::Transient,
        429 | 503 => Kind::Throttled,
        200..=299 | 500..=599 => Kind::Transient,
        _ => Kind::Permanent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_pass_and_limits_that_do_not() {
        assert_eq!(meaning(Some("RequestLimitExceeded"), None, 503).0, Kind::Throttled);
        assert_eq!(meaning(Some("RequestThrottledException"), Some("RESOURCE_LEVEL_THROTTLE"), 400).0, Kind::Throttled);
        assert_eq!(meaning(Some("InstanceLimitExceeded"), None, 400).0, Kind::Quota);
        assert_eq!(meaning(Some("ResourceLimitExceeded"), None, 400).0, Kind::Quota);
    }

    #[test]
    fn what_is_absent_and_what_is_in_the_way() {
        assert_eq!(meaning(Some("InvalidSnapshot.NotFound"), None, 400).0, Kind::NotFound);
        assert_eq!(meaning(Some("ResourceNotFoundException"), Some("SNAPSHOT_NOT_FOUND"), 404).0, Kind::NotFound);
        assert_eq!(meaning(Some("InvalidAMIID.Unavailable"), None, 400).0, Kind::NotFound);
        assert_eq!(meaning(Some("InvalidSnapshot.InUse"), None, 400).0, Kind::Transient);
        assert_eq!(meaning(Some("DependencyViolation"), None, 400).0, Kind::Transient);
        assert_eq!(meaning(Some("OperationNotPermitted"), None, 400).0, Kind::Denied);
        assert_eq!(meaning(Some("InvalidParameterValue"), None, 400).0, Kind::Invalid);
        assert_eq!(meaning(Some("SomethingNew"), None, 400).0, Kind::Permanent);
        assert_eq!(meaning(None, None, 500).0, Kind::Transient);
    }

    #[test]
    fn the_direct_apis_reason_is_read() {
        assert_eq!(reason_of(br#"{"Message":"m","Reason":"ACCOUNT_THROTTLED"}"#).as_deref(), Some("ACCOUNT_THROTTLED"));
        assert_eq!(reason_of(b"<html>"), None);
    }
}

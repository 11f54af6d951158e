//! What the SDK's and the store's errors mean to us.

use std::error::Error as StdError;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use model::{Error, Kind};

use crate::answer;

/// What to do when there are no keys to sign with.
const KEYS: &str = "give the vault a profile or an access key, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY";

/// Turns an SDK error into ours: kind by the store's code, else by the HTTP status.
pub(super) fn classify<E>(operation: String, error: SdkError<E, HttpResponse>) -> Error
where
    E: StdError + ProvideErrorMetadata + Send + Sync + 'static,
{
    let (code, message) = (error.code().map(str::to_owned), error.message().map(str::to_owned));
    let Some(response) = error.raw_response() else {
        return answer::without(operation, &error, KEYS);
    };
    let status = response.status().as_u16();
    let (kind, hint) = meaning(code.as_deref(), status);
    let mut said = format!("HTTP {status}");
    for part in [code, message].into_iter().flatten() {
        said = format!("{said}, {part}");
    }
    let error = Error::new(kind, operation).because(said);
    let error = answer::retry_after(response).into_iter().fold(error, Error::come_back_after);
    hint.into_iter().fold(error, Error::hint)
}

fn meaning(code: Option<&str>, status: u16) -> (Kind, Option<&'static str>) {
    let kind = match code.unwrap_or_default() {
        "NoSuchBucket" => return (Kind::Invalid, Some("create the bucket; replicate does not")),
        "RequestTimeTooSkewed" => return (Kind::Invalid, Some("set this machine's clock")),
        "PermanentRedirect"
        | "TemporaryRedirect"
        | "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException" => {
            return (Kind::Invalid, Some("set the bucket's region"));
        }
        "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" => {
            return (Kind::Denied, Some("check the vault's credentials"));
        }
        "AccessDenied" | "AllAccessDisabled" | "AccountProblem" => {
            return (
                Kind::Denied,
                Some("the credentials are known, but the bucket's policy or the user's rights refuse this"),
            );
        }
        "InvalidObjectState" => {
            return (Kind::Invalid, Some("the object was moved to cold storage: bring it back first"));
        }
        "NoSuchKey" | "NotFound" => Kind::NotFound,
        "PreconditionFailed" => Kind::Exists,
        // somebody races for the same key: who wins is not decided yet
        "ConditionalRequestConflict" | "OperationAborted" => Kind::Transient,
        // the upload was swept away by another process: the whole put is to be repeated
        "NoSuchUpload" | "InvalidPart" => Kind::Transient,
        "SlowDown"
        | "SlowDownRead"
        | "SlowDownWrite"
        | "Throttling"
        | "ThrottlingException"
        | "TooManyRequests"
        | "RequestLimitExceeded"
        | "BandwidthLimitExceeded" => Kind::Throttled,
        "RequestTimeout"
        | "InternalError"
        | "ServiceUnavailable"
        | "BadDigest"
        | "IncompleteBody"
        | "XAmzContentSHA256Mismatch" => Kind::Transient,
        "InvalidRange" => Kind::Invalid,
        "EntityTooLarge" | "QuotaExceeded" | "XMinioStorageFull" => Kind::Quota,
        _ => match status {
            401 | 403 => Kind::Denied,
            404 => Kind::NotFound,
            408 | 409 | 425 => Kind::Transient,
            412 => Kind::Exists,
            416 => Kind::Invalid,
            429 | 503 => Kind::Throttled,
            507 => Kind::Quota,
            200..=299 | 500..=599 => Kind::Transient,
            _ => Kind::Permanent,
        },
    };
    (kind, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conflicts_are_retried_and_failed_conditions_are_final() {
        assert_eq!(meaning(Some("ConditionalRequestConflict"), 409).0, Kind::Transient);
        assert_eq!(meaning(None, 409).0, Kind::Transient);
        assert_eq!(meaning(Some("PreconditionFailed"), 412).0, Kind::Exists);
        assert_eq!(meaning(None, 412).0, Kind::Exists);
        assert_eq!(meaning(Some("SlowDown"), 503).0, Kind::Throttled);
        assert_eq!(meaning(Some("NoSuchKey"), 404).0, Kind::NotFound);
        assert_eq!(meaning(Some("SomethingNew"), 400).0, Kind::Permanent);
    }

    #[test]
    fn a_missing_bucket_is_never_a_missing_object() {
        assert_eq!(meaning(Some("NoSuchBucket"), 404).0, Kind::Invalid);
    }
}

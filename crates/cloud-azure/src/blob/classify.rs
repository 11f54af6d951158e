//! What the answers of the blob service mean to us.

use std::error::Error as StdError;
use std::time::Duration;

use azure_core::error::ErrorKind;
use model::{Error, Kind};

/// Turns an SDK error into ours: kind by the service's code, else by the HTTP status.
pub(super) fn classify(operation: String, error: azure_core::Error) -> Error {
    let ErrorKind::HttpResponse { status, error_code, raw_response } = error.kind() else {
        return without_answer(operation, error);
    };
    let status = u16::from(*status);
    let (kind, hint) = meaning(error_code.as_deref().unwrap_or_default(), status);
    let mut said = format!("HTTP {status}");
    if let Some(code) = error_code {
        said = format!("{said}, {code}");
    }
    let header = |name: &'static str| raw_response.as_ref()?.headers().get_optional_str(&name.into());
    if let Some(request) = header("x-ms-request-id") {
        said = format!("{said} (request {request})");
    }
    let wait = header("retry-after").and_then(|wait| wait.trim().parse().ok()).map(Duration::from_secs);
    let error = Error::new(kind, operation).because(said);
    let error = wait.filter(|_| kind.is_retryable()).into_iter().fold(error, Error::come_back_after);
    hint.into_iter().fold(error, Error::hint)
}

/// No whole answer came, or none was asked for because nobody is signed in.
fn without_answer(operation: String, error: azure_core::Error) -> Error {
    let mut next: Option<&(dyn StdError + 'static)> = Some(&error);
    while let Some(cause) = next {
        if let Some(login) = cause.downcast_ref::<Error>() {
            let hint = login.advice().map(str::to_owned);
            let error = Error::new(login.kind(), operation).because(login.chain());
            return hint.into_iter().fold(error, Error::hint);
        }
        next = cause.source();
    }
    let kind = match error.kind() {
        ErrorKind::Credential => Kind::Denied,
        // an answer that is not understood was cut or mixed up on the way
        _ => Kind::Transient,
    };
    Error::new(kind, operation).because(error.to_string())
}

fn meaning(code: &str, status: u16) -> (Kind, Option<&'static str>) {
    let kind = match code {
        "ContainerNotFound" | "ContainerBeingDeleted" | "ContainerDisabled" => {
            return (Kind::Invalid, Some("create the container; replicate does not"));
        }
        "AuthenticationFailed" | "InvalidAuthenticationInfo" | "NoAuthenticationInformation" => {
            return (Kind::Denied, Some("check the account's key or the login, and this machine's clock"));
        }
        "AuthorizationFailure"
        | "AuthorizationPermissionMismatch"
        | "InsufficientAccountPermissions"
        | "KeyBasedAuthenticationNotPermitted"
        | "AccountIsDisabled" => {
            return (
                Kind::Denied,
                Some(
                    "who signs in is known, but needs the role Storage Blob Data Contributor, or the account's \
                      firewall refuses this host",
                ),
            );
        }
        "BlobArchived" | "BlobBeingRehydrated" => {
            return (Kind::Invalid, Some("the object was moved to the archive tier: bring it back first"));
        }
        "BlobImmutableDueToPolicy" => {
            return (Kind::Denied, Some("the container's immutability policy keeps the object"));
        }
        "LeaseIdMissing" => return (Kind::Invalid, Some("somebody holds a lease of the object: break it")),
        "BlobNotFound" | "ResourceNotFound" => Kind::NotFound,
        "BlobAlreadyExists" | "ConditionNotMet" | "UnauthorizedBlobOverwrite" => Kind::Exists,
        "ServerBusy" => Kind::Throttled,
        "OperationTimedOut" | "InternalError" | "Md5Mismatch" | "InvalidBlockList" => Kind::Transient,
        "InvalidRange" => Kind::Invalid,
        _ => match status {
            401 | 403 => Kind::Denied,
            404 => Kind::NotFound,
            408 | 409 | 425 => Kind::Transient,
            412 => Kind::Exists,
            416 => Kind::Invalid,
            429 | 503 => Kind::Throttled,
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
    fn a_missing_container_is_never_a_missing_object() {
        assert_eq!(meaning("ContainerNotFound", 404).0, Kind::Invalid);
        assert_eq!(meaning("BlobNotFound", 404).0, Kind::NotFound);
    }

    #[test]
    fn failed_conditions_are_final_and_conflicts_are_retried() {
        assert_eq!(meaning("BlobAlreadyExists", 409).0, Kind::Exists);
        assert_eq!(meaning("ConditionNotMet", 412).0, Kind::Exists);
        assert_eq!(meaning("", 409).0, Kind::Transient);
        assert_eq!(meaning("ServerBusy", 503).0, Kind::Throttled);
        assert_eq!(meaning("SomethingNew", 400).0, Kind::Permanent);
    }
}

//! Why a caller was turned away, in the words of each service: the same trouble has three names.

use crate::error::ApiError;

/// The trouble.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Not signed.
    Unsigned,
    /// The authorization header cannot be read.
    Malformed(String),
    UnknownKey,
    BadToken,
    ExpiredToken,
    BadSignature,
    /// Signed too long ago, or in the future.
    Skewed {
        signed: String,
        now: String,
        future: bool,
    },
    /// The scope is another region's or service's than the endpoint's.
    Scope(String),
}

/// As `service` says it.
pub(crate) fn say(service: &str, refusal: &Refusal) -> ApiError {
    match service {
        "ec2" => ec2(refusal),
        "ebs" => ebs(refusal),
        // the same words, in a protocol that has one status for all of them
        "ssm" => ApiError { status: 400, ..ebs(refusal) },
        _ => sts(refusal),
    }
}

fn ec2(refusal: &Refusal) -> ApiError {
    let failure = |status, message: &str| ApiError::new(status, "AuthFailure", message);
    let general = "AWS was not able to validate the provided access credentials";
    match refusal {
        Refusal::Malformed(why) => failure(400, why),
        Refusal::Scope(why) => failure(401, why),
        Refusal::ExpiredToken | Refusal::Skewed { future: false, .. } => {
            ApiError::refuse("RequestExpired", "Request has expired.")
        }
        Refusal::Unsigned | Refusal::UnknownKey | Refusal::BadToken | Refusal::BadSignature => failure(401, general),
        // a clock that is ahead looks like wrong keys: that is how the provider answers
        Refusal::Skewed { future: true, .. } => failure(401, general),
    }
}

fn skewed(signed: &str, now: &str, future: bool) -> String {
    if future {
        format!("Signature not yet current: {signed} is still later than {now} (5 min.)")
    } else {
        format!("Signature expired: {signed} is now earlier than {now} (5 min.)")
    }
}

const MISMATCH: &str = "The request signature we calculated does not match the signature you provided. Check your AWS \
                        Secret Access Key and signing method. Consult the service documentation for details.";

fn ebs(refusal: &Refusal) -> ApiError {
    let invalid = "The security token included in the request is invalid.";
    let (code, message) = match refusal {
        Refusal::Unsigned => ("MissingAuthenticationTokenException", "Missing Authentication Token".to_owned()),
        Refusal::Malformed(why) => ("IncompleteSignatureException", why.clone()),
        Refusal::Scope(why) => ("InvalidSignatureException", why.clone()),
        Refusal::UnknownKey | Refusal::BadToken => ("UnrecognizedClientException", invalid.to_owned()),
        Refusal::ExpiredToken => {
            ("ExpiredTokenException", "The security token included in the request is expired".to_owned())
        }
        Refusal::BadSignature => ("InvalidSignatureException", MISMATCH.to_owned()),
        Refusal::Skewed { signed, now, future } => ("InvalidSignatureException", skewed(signed, now, *future)),
    };
    ApiError::new(403, code, message)
}

fn sts(refusal: &Refusal) -> ApiError {
    let (code, message) = match refusal {
        Refusal::Unsigned => ("MissingAuthenticationToken", "Request is missing Authentication Token".to_owned()),
        Refusal::Malformed(why) => ("IncompleteSignature", why.clone()),
        Refusal::Scope(why) => ("SignatureDoesNotMatch", why.clone()),
        Refusal::UnknownKey | Refusal::BadToken => {
            ("InvalidClientTokenId", "The security token included in the request is invalid.".to_owned())
        }
        Refusal::ExpiredToken => ("ExpiredToken", "The security token included in the request is expired".to_owned()),
        Refusal::BadSignature => ("SignatureDoesNotMatch", MISMATCH.to_owned()),
        Refusal::Skewed { signed, now, future } => ("SignatureDoesNotMatch", skewed(signed, now, *future)),
    };
    ApiError::new(403, code, message)
}

//! Signature version 4, checked as the provider does: the canonical request is rebuilt from the bytes that came.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
use jiff::{SignedDuration, Timestamp};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::Caller;
use super::refusal::Refusal;
use crate::clock::iso;
use crate::http::Request;
use crate::store::hash_hex;
use crate::world::World;

const STRICT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
const PATH: &AsciiSet = &STRICT.remove(b'/');
const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const TOLERANCE: SignedDuration = SignedDuration::from_mins(5);

/// What the authorization header says.
struct Header<'a> {
    key: &'a str,
    date: &'a str,
    region: &'a str,
    service: &'a str,
    signed: Vec<&'a str>,
    signature: &'a str,
}

fn parse(header: &str) -> Result<Header<'_>, Refusal> {
    let malformed = |what: &str| Refusal::Malformed(format!("Authorization header {what}."));
    let rest = header.strip_prefix(ALGORITHM).ok_or_else(|| malformed("names no known algorithm"))?;
    let (mut credential, mut signed, mut signature) = (None, None, None);
    for part in rest.split(',').map(str::trim) {
        match part.split_once('=') {
            Some(("Credential", value)) => credential = Some(value),
            Some(("SignedHeaders", value)) => signed = Some(value),
            Some(("Signature", value)) => signature = Some(value),
            _ => return Err(malformed("has an unknown part")),
        }
    }
    let credential = credential.ok_or_else(|| malformed("requires 'Credential' parameter"))?;
    let parts: Vec<&str> = credential.split('/').collect();
    let [key, date, region, service, "aws4_request"] = parts[..] else {
        return Err(malformed("has a Credential that is not KEY/DATE/REGION/SERVICE/aws4_request"));
    };
    let signed = signed.ok_or_else(|| malformed("requires 'SignedHeaders' parameter"))?.split(';').collect();
    let signature = signature.ok_or_else(|| malformed("requires 'Signature' parameter"))?;
    Ok(Header { key, date, region, service, signed, signature })
}

/// The scope that a request claims, unproven: `(region, service)`.
pub(crate) fn claimed(request: &Request) -> Option<(String, String)> {
    let header = parse(request.header("authorization")?).ok()?;
    Some((header.region.to_owned(), header.service.to_owned()))
}

/// The access key that a request claims, unproven.
pub(crate) fn key(request: &Request) -> Option<String> {
    Some(parse(request.header("authorization")?).ok()?.key.to_owned())
}

/// Checks a request's signature.
pub(crate) fn verify(request: &Request, world: &World) -> Result<Caller, Refusal> {
    let header = parse(request.header("authorization").ok_or(Refusal::Unsigned)?)?;
    let (secret, caller) = credentials(request, world, &header)?;
    let stamp = request.header("x-amz-date").ok_or_else(|| Refusal::Malformed("X-Amz-Date is absent".to_owned()))?;
    let signed_at = instant(stamp).ok_or_else(|| Refusal::Malformed(format!("X-Amz-Date {stamp} is no date")))?;
    if !stamp.starts_with(header.date) {
        return Err(Refusal::Scope("Date in Credential scope does not match YYYYMMDD from ISO-8601".to_owned()));
    }
    if !header.signed.contains(&"host") {
        return Err(Refusal::Malformed("'Host' must be a 'SignedHeader' in the AWS Authorization.".to_owned()));
    }
    let payload = payload(request, header.service)?;
    let scope = format!("{}/{}/{}/aws4_request", header.date, header.region, header.service);
    let canonical = hash_hex(canonical(request, &header.signed, &payload).as_bytes());
    let to_sign = format!("{ALGORITHM}\n{stamp}\n{scope}\n{canonical}");
    let wanted = hex::encode(mac(&signing_key(secret, &header), &to_sign));
    verify_slices_are_equal(wanted.as_bytes(), header.signature.as_bytes()).map_err(|_| Refusal::BadSignature)?;
    // the date is looked at last: only a right signature says when it was made
    let now = world.clock.wall();
    let off = signed_at.duration_since(now);
    if off.abs() > TOLERANCE {
        return Err(Refusal::Skewed { signed: stamp.to_owned(), now: iso(now), future: off.is_positive() });
    }
    Ok(caller)
}

fn credentials<'a>(request: &Request, world: &'a World, header: &Header<'_>) -> Result<(&'a str, Caller), Refusal> {
    let caller = |account: &str, arn: String, id: String| Caller {
        account: account.to_owned(),
        arn,
        id,
        region: header.region.to_owned(),
        service: header.service.to_owned(),
    };
    let token = request.header("x-amz-security-token");
    if let Some(session) = world.sessions.get(header.key) {
        if token != Some(session.token.as_str()) {
            return Err(Refusal::BadToken);
        }
        if world.now() >= session.expires {
            return Err(Refusal::ExpiredToken);
        }
        let arn = format!("arn:aws:sts::{}:assumed-role/{}/{}", session.account, session.role, session.name);
        return Ok((&session.secret, caller(&session.account, arn, format!("AROA{}:{}", header.key, session.name))));
    }
    let found = world.accounts.iter().find_map(|(account, it)| it.keys.get(header.key).map(|key| (account, key)));
    let (account, key) = found.ok_or(Refusal::UnknownKey)?;
    if token.is_some() {
        return Err(Refusal::BadToken);
    }
    let arn = format!("arn:aws:iam::{account}:user/{}", key.user);
    Ok((&key.secret, caller(account, arn, format!("AIDA{}", &header.key[4..]))))
}

fn instant(stamp: &str) -> Option<Timestamp> {
    let digits = stamp.strip_suffix('Z').filter(|rest| rest.len() == 15 && rest.is_ascii())?;
    let (date, time) = digits.split_once('T')?;
    format!("{}-{}-{}T{}:{}:{}Z", &date[..4], &date[4..6], &date[6..8], &time[..2], &time[2..4], &time[4..6])
        .parse()
        .ok()
}

/// The hash of the body that was signed; only the block upload may leave its body unsigned.
fn payload(request: &Request, service: &str) -> Result<String, Refusal> {
    match request.header("x-amz-content-sha256") {
        Some("UNSIGNED-PAYLOAD") if service == "ebs" && request.method == "PUT" => Ok("UNSIGNED-PAYLOAD".to_owned()),
        Some(claimed) => {
            if claimed == hash_hex(&request.body) {
                Ok(claimed.to_owned())
            } else {
                Err(Refusal::BadSignature)
            }
        }
        None => Ok(hash_hex(&request.body)),
    }
}

fn canonical(request: &Request, signed: &[&str], payload: &str) -> String {
    let path = if request.path.is_empty() { "/" } else { &request.path };
    // encoded once more than on the wire, as every service but the object store does
    let path = utf8_percent_encode(path, PATH).to_string();
    let encode = |text: &str| utf8_percent_encode(text, STRICT).to_string();
    let mut query: Vec<String> =
        request.query.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
    query.sort();
    let mut headers = String::new();
    for name in signed {
        let values = request.headers.get_all(*name).iter().filter_map(|value| value.to_str().ok());
        let values: Vec<String> = values.map(|it| it.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        headers.push_str(&format!("{name}:{}\n", values.join(",")));
    }
    format!("{}\n{path}\n{}\n{headers}\n{}\n{payload}", request.method, query.join("&"), signed.join(";"))
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    sign(&Key::new(HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

fn signing_key(secret: &str, header: &Header<'_>) -> Vec<u8> {
    let date = mac(format!("AWS4{secret}").as_bytes(), header.date);
    let region = mac(&date, header.region);
    mac(&mac(&region, header.service), "aws4_request")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The provider's published example of a signing key.
    #[test]
    fn the_signing_key_is_the_published_one() {
        let header = Header {
            key: "AKIDEXAMPLE",
            date: "20150830",
            region: "us-east-1",
            service: "iam",
            signed: Vec::new(),
            signature: "",
        };
        assert_eq!(
            hex::encode(signing_key("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", &header)),
            "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9"
        );
    }
}

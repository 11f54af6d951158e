//! Where a vault is, and how its store is reached.

use std::path::Path;

use super::document::{Document, below};
use super::raw::{RawAzblob, RawS3};
use super::settings::{BucketUrl, S3Settings};
use super::value::SecretRef;

const FORMS: &str = "write `dir:/srv/vault`, `s3://bucket/prefix` or `azblob://container/prefix`";

/// Checks the address of a vault and the tables beside it.
pub(super) fn bucket(
    document: &mut Document,
    url: Option<&str>,
    tables: (Option<RawS3>, Option<RawAzblob>),
    folder: &Path,
    at: &str,
) -> Option<BucketUrl> {
    let (s3, azblob) = tables;
    let url = url?;
    let scheme = url.split(':').next().unwrap_or_default();
    for (key, given, of) in [("s3", s3.is_some(), "s3"), ("azblob", azblob.is_some(), "azblob")] {
        if given && scheme != of {
            document.wrong_key(&below(at, key), format!("`{key}` is for vaults whose url begins with `{of}://`"));
        }
    }
    let url_at = below(at, "url");
    if let Some(path) = url.strip_prefix("dir:") {
        if path.is_empty() {
            document.wrong_value(&url_at, format!("`{url}` names no folder — {FORMS}"));
            return None;
        }
        return Some(BucketUrl::Dir(folder.join(path)));
    }
    if let Some(rest) = url.strip_prefix("s3://") {
        let (bucket, prefix) = parts(document, url, rest, "s3 = { access-key = \"env:NAME\" }", &url_at)?;
        let settings = self::s3(document, s3.unwrap_or_default(), folder, &below(at, "s3"));
        return Some(BucketUrl::S3 { bucket, prefix, settings });
    }
    if let Some(rest) = url.strip_prefix("azblob://") {
        let (container, prefix) = parts(document, url, rest, "azblob = { account-key = \"env:NAME\" }", &url_at)?;
        return self::azblob(document, azblob, (container, prefix), folder, at);
    }
    let reason = match scheme {
        "gs" | "oss" => format!("vaults on `{scheme}://` are not built into this program"),
        _ if url.starts_with('/') => {
            document.wrong_value(&url_at, format!("`{url}` has no scheme — did you mean `dir:{url}`?"));
            return None;
        }
        _ => "this is not the address of a vault".to_owned(),
    };
    document.wrong_value(&url_at, format!("{reason} — {FORMS}"));
    None
}

/// Name and prefix of an address.
fn parts(document: &mut Document, url: &str, rest: &str, keys: &str, at: &str) -> Option<(String, String)> {
    if rest.contains('@') {
        document.wrong_value(at, format!("credentials must not stand in the url — use `{keys}`"));
        return None;
    }
    let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if name.is_empty() {
        document.wrong_value(at, format!("`{url}` names no bucket — {FORMS}"));
        return None;
    }
    Some((name.to_owned(), prefix.trim_matches('/').to_owned()))
}

fn s3(document: &mut Document, raw: RawS3, folder: &Path, at: &str) -> S3Settings {
    let mut refer = |key: &str, text: Option<&str>| -> Option<SecretRef> {
        SecretRef::parse(text?, folder).map_err(|wrong| document.wrong_value(&below(at, key), wrong)).ok()
    };
    let access = refer("access-key", raw.access_key.as_deref());
    let secret = refer("secret-key", raw.secret_key.as_deref());
    let token = refer("session-token", raw.session_token.as_deref());
    if raw.access_key.is_some() != raw.secret_key.is_some() {
        document.wrong_key(at, "`access-key` and `secret-key` belong together — give both or neither");
    }
    if raw.session_token.is_some() && raw.secret_key.is_none() {
        document.wrong_key(&below(at, "session-token"), "`session-token` needs `access-key` and `secret-key`");
    }
    if raw.profile.is_some() && raw.secret_key.is_some() {
        document.wrong_key(&below(at, "profile"), "`profile` and `secret-key` exclude each other");
    }
    if let Some(endpoint) = &raw.endpoint
        && !(endpoint.starts_with("http://") || endpoint.starts_with("https://"))
    {
        document.wrong_value(
            &below(at, "endpoint"),
            "an endpoint begins with `https://` (or `http://` on a closed network)",
        );
    }
    S3Settings {
        endpoint: raw.endpoint,
        region: raw.region,
        path_style: raw.path_style.unwrap_or(false),
        profile: raw.profile,
        keys: access.zip(secret).map(|(access, secret)| (access, secret, token)),
    }
}

#[cfg(not(feature = "azure"))]
fn azblob(
    document: &mut Document,
    _raw: Option<RawAzblob>,
    _named: (String, String),
    _folder: &Path,
    at: &str,
) -> Option<BucketUrl> {
    document.wrong_value(&below(at, "url"), "this program was built without `azure`".to_owned());
    None
}

#[cfg(feature = "azure")]
fn azblob(
    document: &mut Document,
    raw: Option<RawAzblob>,
    (container, prefix): (String, String),
    folder: &Path,
    at: &str,
) -> Option<BucketUrl> {
    use super::azure_login::{Who, endpoint, login};
    use super::settings::{AzblobAccess, AzblobSettings};

    let Some(raw) = raw else {
        let why = "a vault at `azblob://` needs `azblob = { account = \"...\" }`, the storage account";
        document.wrong_key(at, why);
        return None;
    };
    let at = &below(at, "azblob");
    let account = raw.account.filter(|name| !name.is_empty());
    let fits = |name: &String| name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    if let Some(name) = account.as_ref().filter(|name| !fits(name)) {
        let why = format!("`{name}` is no storage account's name — it has lower-case letters and digits only");
        document.wrong_value(&below(at, "account"), why);
    }
    let endpoint = raw.endpoint.as_deref().map(|text| endpoint(document, Some(text), "", at, "endpoint"));
    let words = [&raw.tenant, &raw.client, &raw.secret, &raw.certificate];
    let signs_in = raw.identity.is_some() || words.into_iter().any(Option::is_some);
    let access = match &raw.account_key {
        Some(_) if signs_in => {
            document.wrong_key(&below(at, "account-key"), "`account-key` and a login exclude each other");
            None
        }
        Some(text) => SecretRef::parse(text, folder)
            .map_err(|wrong| document.wrong_value(&below(at, "account-key"), wrong))
            .ok()
            .map(AzblobAccess::Key),
        None => {
            let who = Who {
                identity: raw.identity,
                tenant: raw.tenant.as_deref(),
                client: raw.client.as_deref(),
                secret: raw.secret.as_deref(),
                certificate: raw.certificate.as_deref(),
                endpoint: raw.login_endpoint.as_deref(),
            };
            login(document, &who, folder, "a vault at `azblob://` without `account-key`", at).map(AzblobAccess::Login)
        }
    };
    let settings = AzblobSettings { account: account?, endpoint, access: access? };
    Some(BucketUrl::Azblob { container, prefix, settings })
}

//! Who signs in to Azure, at a site and at a vault alike.

use std::path::Path;
use std::sync::Arc;

use cloud_azure::identity::{Identity, LOGIN, Login, Secret};
use model::Clock;

use super::document::{Document, below};
use super::raw::AzureIdentity;
use super::value::SecretRef;

/// Who signs in, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AzureLogin {
    identity: Identity,
    /// Address of Entra ID.
    authority: String,
}

impl AzureLogin {
    /// The login; nobody signs in before the first token is needed.
    pub fn open(&self, clock: &Arc<dyn Clock>) -> Login {
        Login::new(self.identity.clone(), self.authority.clone(), Arc::clone(clock))
    }
}

/// What a table says of it.
pub(super) struct Who<'a> {
    pub identity: Option<AzureIdentity>,
    pub tenant: Option<&'a str>,
    pub client: Option<&'a str>,
    pub secret: Option<&'a str>,
    pub certificate: Option<&'a str>,
    pub endpoint: Option<&'a str>,
}

/// Checks it. `owner`: `a site of kind `azure``.
pub(super) fn login(document: &mut Document, who: &Who, folder: &Path, owner: &str, at: &str) -> Option<AzureLogin> {
    let authority = endpoint(document, who.endpoint, LOGIN, at, "login-endpoint");
    let word = who.identity.unwrap_or(AzureIdentity::Application);
    let takes_client = matches!(word, AzureIdentity::Application | AzureIdentity::Managed);
    for (key, given, fits) in [
        ("tenant", who.tenant, word == AzureIdentity::Application),
        ("client", who.client, takes_client),
        ("secret", who.secret, word == AzureIdentity::Application),
        ("certificate", who.certificate, word == AzureIdentity::Application),
    ] {
        if given.is_some() && !fits {
            let why = format!("`{key}` has no use beside `identity = \"{}\"`", word.word());
            document.wrong_key(&below(at, key), why);
        }
    }
    let identity = match word {
        AzureIdentity::Application => application(document, who, folder, owner, at)?,
        AzureIdentity::Managed => Identity::Managed(who.client.map(str::to_owned)),
        AzureIdentity::Workload => Identity::Workload,
        AzureIdentity::Cli => Identity::Cli,
    };
    Some(AzureLogin { identity, authority })
}

fn application(document: &mut Document, who: &Who, folder: &Path, owner: &str, at: &str) -> Option<Identity> {
    let mut needed = |key: &str, what: &str, value: Option<&str>| {
        let value = value.filter(|value| !value.trim().is_empty());
        if value.is_none() {
            document.wrong_key(at, format!("{owner} needs `{key}`, {what}"));
        }
        value.map(str::to_owned)
    };
    let tenant = needed("tenant", "the directory's id", who.tenant);
    let client = needed("client", "the application's id", who.client);
    if who.secret.is_some() && who.certificate.is_some() {
        let why = "`secret` and `certificate` exclude each other — the application shows one of them";
        document.wrong_key(&below(at, "certificate"), why);
    }
    let (key, given) = match who.certificate {
        Some(_) => ("certificate", who.certificate),
        None => ("secret", who.secret),
    };
    let Some(text) = given else {
        let others =
            "or a `certificate`, or `identity = \"managed\"`, `\"workload\"` or `\"cli\"` instead of the three";
        let needs = format!("{owner} needs `secret`, where the application's secret is: `env:NAME` or `file:/path`");
        document.wrong_key(at, format!("{needs} — {others}"));
        return None;
    };
    let secret = match SecretRef::parse(text, folder) {
        Ok(SecretRef::Env(name)) => Some(Secret::Env(name)),
        Ok(SecretRef::File(path)) => Some(Secret::File(path)),
        Err(why) => {
            document.wrong_value(&below(at, key), why);
            None
        }
    };
    let (tenant, client, secret) = (tenant?, client?, secret?);
    Some(match who.certificate {
        Some(_) => Identity::Certificate { tenant, client, certificate: secret },
        None => Identity::Secret { tenant, client, secret },
    })
}

/// An address that secrets are sent to: plain HTTP goes to this host alone.
pub(super) fn endpoint(document: &mut Document, text: Option<&str>, usual: &str, at: &str, key: &str) -> String {
    let Some(text) = text else { return usual.to_owned() };
    let host = |rest: &str| rest.split(['/', ':']).next().unwrap_or_default().to_owned();
    let fine = match text.split_once("://") {
        Some(("https", rest)) => !host(rest).is_empty(),
        Some(("http", rest)) => ["127.0.0.1", "localhost"].contains(&host(rest).as_str()),
        _ => false,
    };
    if !fine {
        let why = format!("`{text}` is no address that a secret may go to — write `https://...`");
        document.wrong_value(&below(at, key), why);
    }
    text.to_owned()
}

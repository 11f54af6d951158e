//! Who we are at Azure: the official credentials behind one login, for the Resource Manager and for blobs alike.
//!
//! A token is cached and renewed before it ends by the credential. However many calls wait for one, one of them asks;
//! a final refusal is believed for a while, so that a wrong secret is not tried by every call. After any failure the
//! secret is read anew: one that was changed is used without a restart.

mod certificate;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use azure_core::cloud::CustomConfiguration;
use azure_core::credentials::{AccessToken, TokenCredential, TokenRequestOptions};
use azure_core::error::ErrorKind;
use azure_core::http::policies::{Policy, PolicyResult};
use azure_core::http::{ClientOptions, Context, Request, RetryOptions};
use azure_identity::{
    AzureCliCredential, AzureCliCredentialOptions, ClientAssertionCredential, ClientAssertionCredentialOptions,
    ClientSecretCredential, ClientSecretCredentialOptions, ManagedIdentityCredential, ManagedIdentityCredentialOptions,
    UserAssignedId, WorkloadIdentityCredential, WorkloadIdentityCredentialOptions,
};
use model::{Clock, Error, Kind, Result};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Mutex;
use tokio::time::Instant;

use self::certificate::Certificate;

/// Where Entra ID is.
pub const LOGIN: &str = "https://login.microsoftonline.com";
/// How long a refused login is believed.
const REFUSED: Duration = Duration::from_secs(10);
/// The most of Entra's own words that goes into a message.
const LONGEST: usize = 300;

/// Who signs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// An application with a secret.
    Secret {
        /// The directory's id.
        tenant: String,
        /// The application's id.
        client: String,
        /// Its secret.
        secret: Secret,
    },
    /// An application with a certificate.
    Certificate {
        /// The directory's id.
        tenant: String,
        /// The application's id.
        client: String,
        /// The certificate and its key, as PEM.
        certificate: Secret,
    },
    /// The managed identity of the machine that this runs on; its own, or the user-assigned one of a client id.
    Managed(Option<String>),
    /// The workload identity of the Kubernetes pod that this runs in, as its environment says.
    Workload,
    /// Whoever is logged in with `az login`.
    Cli,
}

/// Where a secret is; it is read when it is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Secret {
    /// An environment variable.
    Env(String),
    /// The first line of a file.
    File(PathBuf),
}

impl Secret {
    /// Reads it. `what`: `the application's secret`. [`Kind::Denied`] if it is not there.
    pub async fn read(&self, what: &str) -> Result<SecretString> {
        let text = self.read_all(what).await?;
        let Secret::File(path) = self else { return Ok(text) };
        // a comment may stand before it, as in other files of secrets here
        let line = text.expose_secret().lines().find(|line| !line.starts_with('#') && !line.trim().is_empty());
        let empty = || {
            let operation = format!("cannot read {what} from {}", path.display());
            Error::new(Kind::Denied, operation).because("the file is empty")
        };
        Ok(line.ok_or_else(empty)?.to_owned().into())
    }

    /// Reads what has several lines.
    pub(super) async fn read_all(&self, what: &str) -> Result<SecretString> {
        let operation = format!("cannot read {what}");
        match self {
            Secret::Env(name) => std::env::var(name).map(Into::into).map_err(|_| {
                Error::new(Kind::Denied, operation)
                    .because(format!("the environment variable {name} is not set"))
                    .hint(format!("set {name}"))
            }),
            Secret::File(path) => {
                let operation = format!("{operation} from {}", path.display());
                let text = tokio::fs::read_to_string(path).await;
                Ok(text.map_err(|error| Error::io(operation, error))?.into())
            }
        }
    }
}

/// The login of an identity. Touches nothing before the first token is asked for.
#[derive(Clone)]
pub struct Login(Arc<Inner>);

struct Inner {
    identity: Identity,
    /// Address of Entra ID.
    authority: String,
    clock: Arc<dyn Clock>,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    credential: Option<Arc<dyn TokenCredential>>,
    /// The token that was given last.
    token: Option<AccessToken>,
    refusal: Option<(Error, Instant)>,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Login").field(&self.0.identity).finish()
    }
}

impl Login {
    /// The login of `identity` at Entra ID (`authority`: [`LOGIN`], another cloud's, or a simulator's on this host).
    pub fn new(identity: Identity, authority: impl Into<String>, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner { identity, authority: authority.into(), clock, held: Mutex::default() }))
    }

    /// A token for `scope` (`https://management.azure.com/.default`).
    pub async fn token(&self, scope: &str) -> Result<AccessToken> {
        let mut held = self.0.held.lock().await;
        if let Some((error, until)) = &held.refusal
            && *until > Instant::now()
        {
            return Err(again(error));
        }
        let credential = match &held.credential {
            Some(credential) => Arc::clone(credential),
            None => self.credential().await?,
        };
        match credential.get_token(&[scope], None).await {
            Ok(token) => {
                *held = Held { credential: Some(credential), token: Some(token.clone()), refusal: None };
                Ok(token)
            }
            Err(error) => {
                let error = self.refused(&error);
                // what may pass is for the retries above to try again, each in its time
                let refusal = (!error.kind().is_retryable()).then(|| (again(&error), Instant::now() + REFUSED));
                *held = Held { refusal, ..Held::default() };
                Err(error)
            }
        }
    }

    /// A token that was given is refused: the next call signs in again, unless another call has seen to it already.
    pub async fn forget(&self, refused: &AccessToken) {
        let mut held = self.0.held.lock().await;
        if held.token.as_ref().is_some_and(|token| token.token.secret() == refused.token.secret()) {
            *held = Held::default();
        }
    }

    async fn credential(&self) -> Result<Arc<dyn TokenCredential>> {
        let client_options = self.client_options();
        let made: azure_core::Result<Arc<dyn TokenCredential>> = match &self.0.identity {
            Identity::Secret { tenant, client, secret } => {
                let secret = secret.read("the application's secret").await;
                let secret = secret.map_err(|error| error.within(self.operation()))?;
                let options = Some(ClientSecretCredentialOptions { client_options });
                let secret = secret.expose_secret().to_owned().into();
                ClientSecretCredential::new(tenant, client.clone(), secret, options).map(|it| it as _)
            }
            Identity::Certificate { tenant, client, certificate } => {
                let signer = self.signer(tenant, client, certificate);
                // what is wrong with the file is told here, in words of ours
                signer.assertion().await.map_err(|error| error.within(self.operation()))?;
                let options = Some(ClientAssertionCredentialOptions { client_options });
                ClientAssertionCredential::new(tenant.clone(), client.clone(), signer, options).map(|it| it as _)
            }
            Identity::Managed(client) => {
                let user_assigned_id = client.clone().map(UserAssignedId::ClientId);
                let options = ManagedIdentityCredentialOptions {
                    user_assigned_id,
                    client_options: ClientOptions { retry: RetryOptions::none(), ..ClientOptions::default() },
                };
                ManagedIdentityCredential::new(Some(options)).map(|it| it as _)
            }
            Identity::Workload => {
                let credential_options = ClientAssertionCredentialOptions { client_options };
                let options = WorkloadIdentityCredentialOptions { credential_options, ..Default::default() };
                WorkloadIdentityCredential::new(Some(options)).map(|it| it as _)
            }
            Identity::Cli => AzureCliCredential::new(Some(AzureCliCredentialOptions::default())).map(|it| it as _),
        };
        made.map_err(|error| {
            Error::new(Kind::Invalid, self.operation()).because(short(&error.to_string())).hint(self.hint())
        })
    }

    fn signer(&self, tenant: &str, client: &str, pem: &Secret) -> Certificate {
        let audience = format!("{}/{tenant}/oauth2/v2.0/token", self.0.authority.trim_end_matches('/'));
        Certificate { audience, client: client.to_owned(), pem: pem.clone(), clock: Arc::clone(&self.0.clock) }
    }

    /// The options of whatever speaks to Entra ID.
    fn client_options(&self) -> ClientOptions {
        let mut custom = CustomConfiguration::default();
        let mut options = ClientOptions { retry: RetryOptions::none(), ..ClientOptions::default() };
        custom.authority_host = match self.0.authority.strip_prefix("http://") {
            // the credentials refuse plain http; on this host, where a simulator is, nobody listens between
            Some(rest) => {
                let (host, path) = rest.trim_end_matches('/').split_once('/').unwrap_or((rest, ""));
                options.per_try_policies.push(Arc::new(Plain { path: path.to_owned() }));
                format!("https://{host}")
            }
            None => self.0.authority.clone(),
        };
        options.cloud = Some(Arc::new(custom.into()));
        options
    }

    fn operation(&self) -> String {
        match &self.0.identity {
            Identity::Secret { client, .. } | Identity::Certificate { client, .. } => {
                format!("cannot log in to Azure as application {client}")
            }
            Identity::Managed(None) => "cannot log in to Azure as this machine's managed identity".to_owned(),
            Identity::Managed(Some(client)) => format!("cannot log in to Azure as managed identity {client}"),
            Identity::Workload => "cannot log in to Azure as this pod's workload identity".to_owned(),
            Identity::Cli => "cannot log in to Azure as the user of `az`".to_owned(),
        }
    }

    fn hint(&self) -> &'static str {
        match &self.0.identity {
            Identity::Secret { .. } => "check `tenant`, `client` and `secret`",
            Identity::Certificate { .. } => {
                "check `tenant` and `client`, and that the application knows the certificate"
            }
            Identity::Managed(_) => "give this machine a managed identity, or use a `secret`",
            Identity::Workload => "label the pod `azure.workload.identity/use: \"true\"`, or use a `secret`",
            Identity::Cli => "run `az login`, or use a `secret`",
        }
    }

    /// What a credential's error means: Entra's refusals are final, all else may pass.
    fn refused(&self, error: &azure_core::Error) -> Error {
        let (status, said) = innermost(error);
        let error = Error::new(meaning(status, &self.0.identity), self.operation()).because(short(&said));
        match error.kind() {
            Kind::Denied | Kind::Invalid => error.hint(self.hint()),
            _ => error,
        }
    }
}

/// The status and the words of the innermost error: what wraps it repeats it, and adds an address to read.
fn innermost(error: &azure_core::Error) -> (Option<u16>, String) {
    let mut status = error.http_status().map(u16::from);
    let mut said = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        if let Some(inner) = cause.downcast_ref::<azure_core::Error>() {
            status = inner.http_status().map(u16::from).or(status);
        }
        said = cause.to_string();
        next = cause.source();
    }
    (status, said)
}

fn meaning(status: Option<u16>, identity: &Identity) -> Kind {
    match (status, identity) {
        (Some(429), _) => Kind::Throttled,
        (Some(400..=499), _) => Kind::Denied,
        // the command line tells by its words alone what is wrong
        (None, Identity::Cli) => Kind::Denied,
        _ => Kind::Transient,
    }
}

/// As much of a text as a message can carry, in one line.
fn short(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.trim_end_matches('.').to_owned(),
    }
}

/// The same refusal, for one more call.
fn again(error: &Error) -> Error {
    error.advice().into_iter().fold(Error::new(error.kind(), error.chain()), Error::hint)
}

#[async_trait]
impl TokenCredential for Login {
    async fn get_token(
        &self,
        scopes: &[&str],
        _options: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        let scope = scopes.first().copied().unwrap_or_default();
        self.token(scope).await.map_err(|error| azure_core::Error::new(ErrorKind::Credential, error))
    }
}

/// Sends to this host without TLS, and below a path, which the credentials take from no authority.
#[derive(Debug)]
struct Plain {
    /// Without slashes around it; may be empty.
    path: String,
}

#[async_trait]
impl Policy for Plain {
    async fn send(&self, context: &Context, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        if let Some(host) = request.url().host_str()
            && ["127.0.0.1", "localhost"].contains(&host)
            // never fails from https, which is special, too
            && request.url_mut().set_scheme("http").is_err()
        {
            return Err(azure_core::Error::with_message(ErrorKind::Other, "the address is not understood"));
        }
        if !self.path.is_empty() {
            let whole = format!("/{}{}", self.path, request.url().path());
            request.url_mut().set_path(&whole);
        }
        next[0].send(context, request, &next[1..]).await
    }
}

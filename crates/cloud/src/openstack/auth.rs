//! Who we are at a cloud: tokens of Keystone v3 and the catalogue that comes with them.
//!
//! A token is renewed before it ends, and at once when a service refuses it. However many calls wait for it, one of
//! them asks Keystone: a wrong password must not be tried thirty times, accounts are locked for less.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use model::{Error, Kind, Result};
use reqwest::{Certificate, redirect};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{Mutex, OnceCell};
use tokio::time::Instant;

use super::api::Service;
use super::config::{Access, CloudRef, Identity, Named, Scope};
use super::discover::{self, Endpoint};
use super::error::{Refusal, transport};

/// A token is not used in its last minutes: a long upload is checked again when it ends.
const MARGIN: Duration = Duration::from_secs(300);
/// The longest that a connection may take to come up.
const CONNECT: Duration = Duration::from_secs(20);
/// The longest that a login, or a question for versions, may take.
pub(super) const ANSWER: Duration = Duration::from_secs(60);

/// Everything that a token gives: the right to call, and whom.
pub(super) struct Grant {
    /// Counts them.
    number: u64,
    pub http: reqwest::Client,
    pub access: Access,
    pub token: SecretString,
    pub project: String,
    pub catalog: Vec<CatalogEntry>,
    renew_at: Instant,
    endpoints: [OnceCell<Endpoint>; Service::ALL.len()],
}

#[derive(Debug, Deserialize)]
pub(super) struct CatalogEntry {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub endpoints: Vec<CatalogEndpoint>,
}

#[derive(Debug, Deserialize)]
pub(super) struct CatalogEndpoint {
    pub interface: String,
    pub region: Option<String>,
    pub region_id: Option<String>,
    pub url: String,
}

impl CatalogEndpoint {
    pub(super) fn region(&self) -> Option<&str> {
        self.region_id.as_deref().or(self.region.as_deref())
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: TokenBody,
}

#[derive(Deserialize)]
struct TokenBody {
    expires_at: Timestamp,
    issued_at: Timestamp,
    #[serde(default)]
    catalog: Vec<CatalogEntry>,
    project: Option<ProjectBody>,
}

#[derive(Deserialize)]
struct ProjectBody {
    id: String,
}

impl Grant {
    /// Where a service is, asked once for a grant.
    pub(super) async fn endpoint(&self, service: Service) -> Result<&Endpoint> {
        let place = &self.endpoints[service as usize];
        place.get_or_try_init(|| discover::endpoint(self, service)).await
    }
}

/// The session of a site.
pub(super) struct Session {
    cloud: CloudRef,
    /// How many questions Keystone has answered.
    answered: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    grant: Option<Arc<Grant>>,
    /// How the last question ended, if badly.
    failure: Option<(Kind, String, Option<String>)>,
}

impl Session {
    pub(super) fn new(cloud: CloudRef) -> Self {
        Self { cloud, answered: AtomicU64::new(0), state: Mutex::default() }
    }

    /// A grant that holds for a while.
    pub(super) async fn grant(&self) -> Result<Arc<Grant>> {
        let seen = self.answered.load(Ordering::SeqCst);
        let mut state = self.state.lock().await;
        if let Some(grant) = state.grant.as_ref().filter(|grant| grant.renew_at > Instant::now()) {
            return Ok(grant.clone());
        }
        // someone asked while we waited for the lock, and was refused: so would we be
        let number = self.answered.load(Ordering::SeqCst);
        if let (true, Some((kind, why, hint))) = (number > seen, &state.failure) {
            let error = Error::new(*kind, why.clone());
            return Err(hint.iter().fold(error, |error, hint| error.hint(hint)));
        }
        state.grant = None;
        let answer = authenticate(&self.cloud, number).await;
        self.answered.store(number + 1, Ordering::SeqCst);
        match answer {
            Ok(grant) => {
                let grant = Arc::new(grant);
                (state.grant, state.failure) = (Some(grant.clone()), None);
                Ok(grant)
            }
            Err(error) => {
                state.failure = Some((error.kind(), error.chain(), error.advice().map(str::to_owned)));
                Err(error)
            }
        }
    }

    /// A service has refused the token: the next call gets another one.
    pub(super) async fn refused(&self, grant: &Grant) {
        let mut state = self.state.lock().await;
        // unless another call has seen to it already
        if state.grant.as_ref().is_some_and(|current| current.number == grant.number) {
            state.grant = None;
        }
    }
}

/// Asks Keystone. The files are read each time, so that a secret that was changed there is used without a restart.
async fn authenticate(cloud: &CloudRef, number: u64) -> Result<Grant> {
    let reference = cloud.clone();
    let opened = tokio::task::spawn_blocking(move || {
        let access = reference.load()?;
        let http = http_client(&access)?;
        Ok::<_, Error>((access, http))
    });
    let (access, http) =
        opened.await.map_err(|error| Error::new(Kind::Permanent, "cannot read clouds.yaml").because(error))??;
    let operation = format!("cannot log in to cloud `{}` at {}", access.cloud, access.auth_url);
    let url = format!("{}/auth/tokens", access.auth_url);
    let request = http.post(url).timeout(ANSWER).json(&body(&access));
    let answer = request.send().await.map_err(|error| transport(&operation, "Keystone", error))?;
    let (status, headers) = (answer.status(), answer.headers().clone());
    let body = answer.bytes().await.map_err(|error| transport(&operation, "Keystone", error))?;
    if !status.is_success() {
        let error = Refusal { service: "Keystone", status, headers: &headers, body: &body }.error(&operation);
        // a wrong address answers 404 as well
        return Err(match error.kind() {
            Kind::NotFound => error.hint("`auth_url` in clouds.yaml must be the address of Keystone"),
            _ => error,
        });
    }
    let odd = |why: String| Error::new(Kind::Invalid, operation.clone()).because(why);
    let token = headers.get("x-subject-token").and_then(|token| token.to_str().ok());
    let token: SecretString = token.ok_or_else(|| odd("Keystone gave no token".to_owned()))?.to_owned().into();
    let answer: TokenAnswer =
        serde_json::from_slice(&body).map_err(|error| odd(format!("Keystone's answer is not understood: {error}")))?;
    let TokenBody { expires_at, issued_at, catalog, project } = answer.token;
    let project = project.ok_or_else(|| {
        odd("the token belongs to no project".to_owned()).hint("set `project_name` of the cloud in clouds.yaml")
    })?;
    // by Keystone's own clock and our stopwatch: this machine's clock may be wrong
    let life = Duration::try_from(expires_at.duration_since(issued_at)).unwrap_or_default();
    let renew_at = Instant::now() + life.saturating_sub(MARGIN.min(life / 2));
    tracing::debug!(cloud = access.cloud, life = ?life, "logged in");
    let endpoints = std::array::from_fn(|_| OnceCell::new());
    Ok(Grant { number, http, access, token, project: project.id, catalog, renew_at, endpoints })
}

fn http_client(access: &Access) -> Result<reqwest::Client> {
    let operation = || format!("cannot set up the connection to cloud `{}`", access.cloud);
    let mut builder = reqwest::Client::builder()
        .connect_timeout(CONNECT)
        // a redirect would carry the token to wherever it points
        .redirect(redirect::Policy::none())
        // one decorator retries, above all this
        .retry(reqwest::retry::never())
        .tls_danger_accept_invalid_certs(!access.verify)
        .user_agent(concat!("replicate/", env!("CARGO_PKG_VERSION")));
    if let Some(file) = &access.cacert {
        let pem = std::fs::read(file)
            .map_err(|error| Error::io(format!("cannot read {}", file.display()), error).within(operation()))?;
        let wrong = |error| Error::new(Kind::Invalid, format!("cannot read {}", file.display())).because(error);
        let certificates = Certificate::from_pem_bundle(&pem).map_err(wrong)?;
        builder = builder.tls_certs_merge(certificates);
    }
    builder.build().map_err(|error| Error::new(Kind::Invalid, operation()).because(error))
}

fn body(access: &Access) -> Value {
    let identity = match &access.identity {
        Identity::Password { user, domain, password } => {
            let mut user = named(user, domain.as_ref());
            user["password"] = json!(password.expose_secret());
            json!({ "methods": ["password"], "password": { "user": user } })
        }
        Identity::ApplicationCredential { id, user, domain, secret } => {
            let mut credential = named(id, None);
            credential["secret"] = json!(secret.expose_secret());
            if let Some(user) = user {
                credential["user"] = named(user, domain.as_ref());
            }
            json!({ "methods": ["application_credential"], "application_credential": credential })
        }
        Identity::Token(token) => json!({ "methods": ["token"], "token": { "id": token.expose_secret() } }),
    };
    let mut auth = json!({ "identity": identity });
    if let Scope::Project { project, domain } = &access.scope {
        auth["scope"] = json!({ "project": named(project, domain.as_ref()) });
    }
    json!({ "auth": auth })
}

fn named(thing: &Named, domain: Option<&Named>) -> Value {
    let mut value = match thing {
        Named::Id(id) => return json!({ "id": id }),
        Named::Name(name) => json!({ "name": name }),
    };
    if let Some(domain) = domain {
        value["domain"] = named(domain, None);
    }
    value
}

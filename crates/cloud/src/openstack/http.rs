//! The thin client below everything: JSON calls, streamed bodies, errors with their meaning.
//!
//! It retries nothing, except that a call whose token was refused is made once more with a new one. Every request has
//! a bound. Tokens go into a header that is marked as sensitive and nowhere else.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::{Error, Kind, Result};
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode};
use secrecy::ExposeSecret;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::api::Service;
use super::auth::{Grant, Session};
use super::config::CloudRef;
use super::error::{Refusal, request_id, transport};

/// The longest that a call may take, its answer included: some MiB of an image at most.
const LIMIT: Duration = Duration::from_secs(300);
/// The most that an answer may hold which is kept in memory.
const LARGEST: usize = 64 << 20;

/// A client of one cloud. Clones share the session.
#[derive(Clone)]
pub(super) struct Client {
    session: Arc<Session>,
}

/// What is sent.
enum Payload {
    None,
    Json(Vec<u8>),
    /// A stream of this many bytes. It can be sent once only.
    Stream(reqwest::Body, u64),
}

/// One request that is being put together.
pub(super) struct Call<'a> {
    client: &'a Client,
    operation: String,
    service: Service,
    method: Method,
    path: String,
    query: Vec<(&'static str, String)>,
    content_type: &'static str,
    range: Option<String>,
    payload: Payload,
    limit: Option<Duration>,
}

impl Client {
    /// A client; nothing is read or asked before the first call.
    pub(super) fn new(cloud: CloudRef) -> Self {
        Self { session: Arc::new(Session::new(cloud)) }
    }

    /// A call of `operation` (`cannot delete image 7`) to a path below the service's version.
    pub(super) fn call(
        &self,
        operation: impl Into<String>,
        service: Service,
        method: Method,
        path: impl Into<String>,
    ) -> Call<'_> {
        Call {
            client: self,
            operation: operation.into(),
            service,
            method,
            path: path.into(),
            query: Vec::new(),
            content_type: "application/json",
            range: None,
            payload: Payload::None,
            limit: Some(LIMIT),
        }
    }

    /// The id of the project that we are in.
    pub(super) async fn project(&self) -> Result<String> {
        Ok(self.session.grant().await?.project.clone())
    }

    /// Keystone's address, our project, and the region: where we stand among the sites of this cloud.
    pub(super) async fn standing(&self) -> Result<(String, String, String)> {
        let grant = self.session.grant().await?;
        let of_catalog = || grant.catalog.iter().flat_map(|entry| &entry.endpoints).find_map(|point| point.region());
        let region = grant.access.region.as_deref().or_else(of_catalog).unwrap_or_default();
        Ok((grant.access.auth_url.clone(), grant.project.clone(), region.to_owned()))
    }

    /// Whether the cloud has a service for us.
    pub(super) async fn has(&self, service: Service) -> Result<bool> {
        let grant = self.session.grant().await?;
        let listed = grant.catalog.iter().any(|entry| service.types().contains(&entry.kind.as_str()));
        Ok(listed || grant.access.overrides.contains_key(&service))
    }
}

impl Call<'_> {
    /// Adds a parameter.
    pub(super) fn query(mut self, key: &'static str, value: impl ToString) -> Self {
        self.query.push((key, value.to_string()));
        self
    }

    /// Sends JSON.
    pub(super) fn json(mut self, value: &impl Serialize) -> Result<Self> {
        let text = serde_json::to_vec(value)
            .map_err(|error| Error::new(Kind::Permanent, self.operation.clone()).because(error))?;
        self.payload = Payload::Json(text);
        Ok(self)
    }

    /// Says what kind of JSON it is.
    pub(super) fn content_type(mut self, kind: &'static str) -> Self {
        self.content_type = kind;
        self
    }

    /// Sends a stream of `len` bytes. How long that may take is up to the stream, which must watch its own progress.
    pub(super) fn stream(mut self, body: reqwest::Body, len: u64) -> Self {
        (self.payload, self.limit) = (Payload::Stream(body, len), None);
        self.content_type = "application/octet-stream";
        self
    }

    /// Asks for a range of bytes only. How long that may take is up to whoever reads them.
    pub(super) fn range(mut self, offset: u64, len: u64) -> Self {
        self.limit = None;
        self.range = Some(format!("bytes={offset}-{}", offset + len.saturating_sub(1)));
        self
    }

    /// Sends it; the body of the answer is still to be read.
    pub(super) async fn send(mut self) -> Result<Response> {
        let mut renewed = false;
        loop {
            let grant = self.client.session.grant().await.map_err(|error| error.within(self.operation.clone()))?;
            let answer = self.send_once(&grant).await?;
            let status = answer.status();
            if status == StatusCode::UNAUTHORIZED {
                self.client.session.refused(&grant).await;
                if matches!(self.payload, Payload::Stream(..)) {
                    let why =
                        format!("{} no longer takes the token, and the next one is to be asked for", self.service);
                    return Err(Error::new(Kind::Transient, self.operation).because(why));
                }
                if !renewed {
                    renewed = true;
                    continue;
                }
            }
            if status.is_success() {
                return Ok(answer);
            }
            let headers = answer.headers().clone();
            // without its words the refusal is one still
            let body = answer.bytes().await.unwrap_or_default();
            let service = self.service.name();
            return Err(Refusal { service, status, headers: &headers, body: &body }.error(&self.operation));
        }
    }

    async fn send_once(&mut self, grant: &Grant) -> Result<Response> {
        let endpoint = grant.endpoint(self.service).await.map_err(|error| error.within(self.operation.clone()))?;
        let url = format!("{}/{}", endpoint.url, self.path);
        let wrong = |error| Error::new(Kind::Invalid, self.operation.clone()).because(format!("{error}"));
        let mut token = HeaderValue::from_str(grant.token.expose_secret()).map_err(wrong)?;
        token.set_sensitive(true);
        let mut request = grant.http.request(self.method.clone(), &url).query(&self.query);
        request = request.header("x-auth-token", token).header("accept", "application/json, */*");
        if let (Some(wanted), Some((major, minor))) = (self.service.microversions(), endpoint.microversion) {
            request = request.header("openstack-api-version", format!("{} {major}.{minor}", wanted.name));
        }
        if let Some(range) = &self.range {
            request = request.header("range", range);
        }
        if let Some(limit) = self.limit {
            request = request.timeout(limit);
        }
        request = match std::mem::replace(&mut self.payload, Payload::None) {
            Payload::None => request,
            Payload::Json(text) => {
                self.payload = Payload::Json(text.clone());
                request.header("content-type", self.content_type).body(text)
            }
            Payload::Stream(body, len) => {
                self.payload = Payload::Stream(reqwest::Body::default(), len);
                request.header("content-type", self.content_type).header("content-length", len).body(body)
            }
        };
        let answer = request.send().await;
        let answer = answer.map_err(|error| transport(&self.operation, self.service.name(), error))?;
        tracing::debug!(
            service = %self.service, method = %self.method, path = self.path, status = answer.status().as_u16(),
            request = request_id(answer.headers()), "called"
        );
        Ok(answer)
    }

    /// Sends it and reads the answer.
    pub(super) async fn answer<T: DeserializeOwned>(self) -> Result<T> {
        let (operation, service) = (self.operation.clone(), self.service);
        let (_, body) = self.bytes().await?;
        serde_json::from_slice(&body).map_err(|error| {
            Error::new(Kind::Permanent, operation).because(format!("{service}'s answer is not understood: {error}"))
        })
    }

    /// Sends it; what is answered does not matter.
    pub(super) async fn done(self) -> Result<()> {
        self.bytes().await.map(|_| ())
    }

    /// Sends it; what is absent already is as it should be.
    pub(super) async fn gone(self) -> Result<()> {
        match self.done().await {
            Err(error) if error.kind() == Kind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Sends it and reads the whole body, which must fit into memory.
    pub(super) async fn bytes(self) -> Result<(HeaderMap, Bytes)> {
        let (operation, service) = (self.operation.clone(), self.service);
        let mut answer = self.send().await?;
        let headers = answer.headers().clone();
        let mut body = Vec::new();
        loop {
            let part = answer.chunk().await.map_err(|error| transport(&operation, service.name(), error))?;
            let Some(part) = part else { return Ok((headers, body.into())) };
            if body.len() + part.len() > LARGEST {
                let why = format!("{service}'s answer has more than {LARGEST} bytes");
                return Err(Error::new(Kind::Permanent, operation).because(why));
            }
            body.extend_from_slice(&part);
        }
    }
}

//! Calls to the Resource Manager: one request, and the one poller of long-running operations. A token that is refused is
//! renewed once.

use std::sync::Arc;
use std::time::Duration;

use model::{Error, Kind, Result};
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode, Url, redirect};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::AzureConfig;
use super::error::{Refusal, failed, retry_after, transport};

const CONNECT: Duration = Duration::from_secs(20);
/// The longest that one answer may take.
const ANSWER: Duration = Duration::from_secs(120);
/// The longest that an operation may take: a disk of many TiB is copied in hours, and then in the background.
const OPERATION: Duration = Duration::from_secs(2 * 3600);
/// Pauses of the poller where the provider names none.
const FIRST: Duration = Duration::from_millis(500);
const LAST: Duration = Duration::from_secs(15);
/// Where it asks for none at all.
const LEAST: Duration = Duration::from_millis(30);
/// The most that is read of an answer.
const LARGEST: usize = 32 << 20;

/// The connection of a site.
#[derive(Clone)]
pub(super) struct Client {
    pub config: Arc<AzureConfig>,
    pub http: reqwest::Client,
}

/// What came back.
pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// Null where there was no body.
    pub body: Value,
}

impl Client {
    pub(super) fn new(config: Arc<AzureConfig>) -> Result<Self> {
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            // a redirect would carry the token to wherever it points
            .redirect(redirect::Policy::none())
            // one decorator retries, above all this
            .retry(reqwest::retry::never())
            .user_agent(concat!("replicate/", env!("CARGO_PKG_VERSION")))
            .build();
        let http = http.map_err(|error| {
            Error::new(Kind::Invalid, format!("cannot set up the connection to Azure of site {}", config.site))
                .because(error)
        })?;
        Ok(Self { config, http })
    }

    /// The same for another group and region of the subscription.
    pub(super) fn at(&self, group: &str, location: &str) -> Self {
        let config = AzureConfig { group: group.to_owned(), location: location.to_owned(), ..(*self.config).clone() };
        Self { config: config.into(), http: self.http.clone() }
    }

    /// An address of the Resource Manager.
    pub(super) fn url(&self, path: &str, version: &str) -> String {
        format!("{}{path}?api-version={version}", self.config.arm.trim_end_matches('/'))
    }

    /// One request; `only_new`: refuse what exists.
    pub(super) async fn send(
        &self,
        operation: &str,
        method: Method,
        url: &str,
        body: Option<&Value>,
        only_new: bool,
    ) -> Result<Answer> {
        self.own(operation, url)?;
        let mut renewed = false;
        let scope = format!("{}/.default", self.config.arm.trim_end_matches('/'));
        loop {
            let token = self.config.login.token(&scope).await.map_err(|error| error.within(operation.to_owned()))?;
            let bearer = HeaderValue::from_str(&format!("Bearer {}", token.token.secret()));
            let mut bearer =
                bearer.map_err(|_| Error::new(Kind::Invalid, operation).because("the token is no text"))?;
            bearer.set_sensitive(true);
            let mut request = self.http.request(method.clone(), url).timeout(ANSWER).header("authorization", bearer);
            if only_new {
                request = request.header("if-none-match", "*");
            }
            request = match body {
                Some(body) => request.json(body),
                // a POST without a body must say that it has none
                None => request.header("content-length", "0"),
            };
            let answer = request.send().await.map_err(|error| transport(operation, error))?;
            let (status, headers) = (answer.status(), answer.headers().clone());
            tracing::debug!(%method, status = status.as_u16(), operation, "called the Resource Manager");
            if status == StatusCode::UNAUTHORIZED && !renewed {
                renewed = true;
                self.config.login.forget(&token).await;
                continue;
            }
            let bytes = read(operation, answer).await?;
            if !status.is_success() {
                return Err(Refusal { status, headers: &headers, body: &bytes }.error(operation));
            }
            let body = match bytes.is_empty() {
                true => Value::Null,
                false => serde_json::from_slice(&bytes).map_err(|error| {
                    Error::new(Kind::Permanent, operation).because(format!("the answer is not understood: {error}"))
                })?,
            };
            return Ok(Answer { status, headers, body });
        }
    }

    /// The token goes to the Resource Manager alone, whatever an answer says.
    fn own(&self, operation: &str, url: &str) -> Result<()> {
        let origin = |text: &str| Url::parse(text).map(|url| url.origin()).ok();
        match origin(url) {
            Some(there) if Some(&there) == origin(&self.config.arm).as_ref() => Ok(()),
            _ => {
                Err(Error::new(Kind::Permanent, operation).because("the answer points away from the Resource Manager"))
            }
        }
    }

    /// Waits for the end of what an answer has begun, and gives its result.
    pub(super) async fn settle(&self, operation: &str, answer: Answer) -> Result<Value> {
        let header = |name: &str| answer.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (state, location) = (header("azure-asyncoperation"), header("location"));
        let until = Instant::now() + OPERATION;
        let mut pace = Pace { next: FIRST, asked: retry_after(&answer.headers) };
        match (state, location) {
            (Some(state), location) => {
                let done = self.poll_state(operation, &state, &mut pace, until).await?;
                match (done, location) {
                    (Value::Null, Some(location)) if answer.body.is_null() => {
                        self.poll_location(operation, &location, &mut pace, until).await
                    }
                    (Value::Null, _) => Ok(answer.body),
                    (output, _) => Ok(output),
                }
            }
            (None, Some(location)) if answer.status == StatusCode::ACCEPTED => {
                self.poll_location(operation, &location, &mut pace, until).await
            }
            _ => Ok(answer.body),
        }
    }

    async fn poll_state(&self, operation: &str, url: &str, pace: &mut Pace, until: Instant) -> Result<Value> {
        loop {
            pace.wait(operation, until).await?;
            let Some(answer) = self.look(operation, url, pace).await? else { continue };
            match answer.body.get("status").and_then(Value::as_str) {
                Some("Succeeded") => {
                    return Ok(answer.body.pointer("/properties/output").cloned().unwrap_or_default());
                }
                Some(status @ ("Failed" | "Canceled" | "Cancelled")) => {
                    return Err(failed(operation, status, answer.body.get("error")));
                }
                _ => {}
            }
        }
    }

    async fn poll_location(&self, operation: &str, url: &str, pace: &mut Pace, until: Instant) -> Result<Value> {
        loop {
            pace.wait(operation, until).await?;
            match self.look(operation, url, pace).await? {
                Some(answer) if answer.status != StatusCode::ACCEPTED => return Ok(answer.body),
                _ => {}
            }
        }
    }

    /// None: the look failed for the moment, and what was begun goes on.
    async fn look(&self, operation: &str, url: &str, pace: &mut Pace) -> Result<Option<Answer>> {
        match self.send(operation, Method::GET, url, None, false).await {
            Ok(answer) => {
                pace.asked = retry_after(&answer.headers);
                Ok(Some(answer))
            }
            Err(error) if error.kind().is_retryable() => {
                pace.asked = error.retry_after();
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// When the poller looks next.
struct Pace {
    next: Duration,
    asked: Option<Duration>,
}

impl Pace {
    async fn wait(&mut self, operation: &str, until: Instant) -> Result<()> {
        if Instant::now() >= until {
            let why = format!("it is not done after {} s", OPERATION.as_secs());
            return Err(Error::new(Kind::Transient, operation).because(why));
        }
        sleep(self.asked.take().unwrap_or(self.next).max(LEAST)).await;
        self.next = (self.next * 2).min(LAST);
        Ok(())
    }
}

async fn read(operation: &str, mut answer: reqwest::Response) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(|error| transport(operation, error))? {
        if body.len() + part.len() > LARGEST {
            return Err(
                Error::new(Kind::Permanent, operation).because(format!("the answer has more than {LARGEST} bytes"))
            );
        }
        body.extend_from_slice(&part);
    }
    Ok(body)
}

//! The daemon's client: HTTP over its Unix socket.

use std::path::Path;

use bytes::Bytes;
use engine::{Event, Observer};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use model::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

use crate::output::ErrorForm;
use crate::request::{Request, Response};

/// Path of requests.
pub const REQUESTS: &str = "/v1/requests";

/// One line of an answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line {
    /// Something happened.
    Event(Event),
    /// The answer; the last line.
    Done(Box<Response>),
    /// The error; the last line.
    Failed(ErrorForm),
}

/// A daemon that answers.
pub struct Daemon {
    send: SendRequest<Full<Bytes>>,
}

fn lost(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(Kind::Transient, "lost the daemon in the middle of the request")
        .because(source)
        .hint("the daemon goes on with it once it runs: see `replicate status`")
}

/// Connects to the daemon; none if no daemon listens.
pub async fn connect(socket: &Path) -> Result<Option<Daemon>> {
    use std::io::ErrorKind as E;
    let stream = match UnixStream::connect(socket).await {
        Ok(stream) => stream,
        // no socket, or one that a dead daemon left behind
        Err(error) if matches!(error.kind(), E::NotFound | E::ConnectionRefused) => return Ok(None),
        Err(error) => {
            return Err(Error::io(format!("cannot reach the daemon at `{}`", socket.display()), error)
                .hint("run this as the user that the daemon runs as, or as root"));
        }
    };
    let (send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the connection to the daemon ended");
        }
    });
    Ok(Some(Daemon { send }))
}

impl Daemon {
    /// Sends a request, hands on the events, returns the answer.
    pub async fn ask(mut self, request: &Request, observer: &dyn Observer) -> Result<Response> {
        let body = serde_json::to_vec(request)
            .map_err(|source| Error::new(Kind::Permanent, "cannot encode the request").because(source))?;
        let request = hyper::Request::post(REQUESTS)
            .header("host", "replicate")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|source| Error::new(Kind::Permanent, "cannot encode the request").because(source))?;
        let mut answer = self.send.send_request(request).await.map_err(lost)?;
        if !answer.status().is_success() {
            let status = answer.status();
            let text = answer.into_body().collect().await.map_err(lost)?.to_bytes();
            return Err(refused(status, &text));
        }
        let mut pending = Vec::new();
        while let Some(frame) = answer.body_mut().frame().await {
            let Ok(data) = frame.map_err(lost)?.into_data() else { continue };
            pending.extend_from_slice(&data);
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                match serde_json::from_slice(&line).map_err(other_version)? {
                    Line::Event(event) => observer.event(&event),
                    Line::Done(response) => return Ok(*response),
                    Line::Failed(form) => return Err(form.into_error()),
                }
            }
        }
        Err(lost("it closed the connection without an answer"))
    }
}

fn refused(status: hyper::StatusCode, text: &[u8]) -> Error {
    let kind = if status == hyper::StatusCode::FORBIDDEN { Kind::Denied } else { Kind::Invalid };
    Error::new(kind, "the daemon refuses the request").because(String::from_utf8_lossy(text).trim().to_owned())
}

fn other_version(source: serde_json::Error) -> Error {
    Error::new(Kind::Invalid, "cannot read the daemon's answer")
        .because(source)
        .hint("restart the daemon: it may be of another version than this command")
}

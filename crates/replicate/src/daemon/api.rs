//! The API: HTTP on the Unix socket, for the same user and for root only. A request is answered by lines of JSON:
//! events while it is carried out, then the answer.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Json, State as Shared};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response as Answer};
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use axum::{Router, extract};
use bytes::Bytes;
use engine::Event;
use model::RunId;
use tokio::net::UnixListener;
use tokio::sync::broadcast::error::TryRecvError;
use tokio::sync::mpsc;

use super::State;
use crate::client::{Line, REQUESTS};
use crate::output::ErrorForm;
use crate::request::{Request, execute};

/// Lines that wait for a slow client.
const WAITING: usize = 256;

/// Who is at the other end.
#[derive(Debug, Clone, Copy)]
struct Peer {
    /// None: the kernel would not say.
    uid: Option<u32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self { uid: stream.io().peer_cred().ok().map(|credentials| credentials.uid()) }
    }
}

/// Serves until the task is aborted.
pub async fn serve(listener: UnixListener, state: Arc<State>) {
    let router = Router::new()
        .route("/v1/health", get(health))
        .route(REQUESTS, post(request))
        .layer(middleware::from_fn(only_us))
        .with_state(state);
    let service = router.into_make_service_with_connect_info::<Peer>();
    if let Err(error) = axum::serve(listener, service).await {
        tracing::error!(%error, "the API has ended");
    }
}

/// Refuses every user but ours and root. The socket's mode says the same; a mode can be changed by mistake.
async fn only_us(ConnectInfo(peer): ConnectInfo<Peer>, request: extract::Request, next: Next) -> Answer {
    let ours = rustix::process::geteuid().as_raw();
    match peer.uid {
        Some(uid) if uid == ours || uid == 0 => next.run(request).await,
        _ => (StatusCode::FORBIDDEN, "only the daemon's user and root may ask\n").into_response(),
    }
}

async fn health(Shared(state): Shared<Arc<State>>) -> Answer {
    let value = serde_json::json!({
        "program": concat!("replicate ", env!("CARGO_PKG_VERSION")),
        "owner": state.engine().owner(),
        "at-work": state.work.len(),
    });
    Json(value).into_response()
}

async fn request(Shared(state): Shared<Arc<State>>, Json(request): Json<Request>) -> Answer {
    if state.stopping.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping\n").into_response();
    }
    let (send, receive) = mpsc::channel(WAITING);
    let busy = Arc::clone(&state);
    // not part of the connection: a client that goes away does not stop the run it began
    state.begin(async move { carry_out(&busy, request, send).await });
    let lines = futures::stream::unfold(receive, |mut receive| async move {
        receive.recv().await.map(|line: Bytes| (Ok::<_, Infallible>(line), receive))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

async fn carry_out(state: &State, request: Request, send: mpsc::Sender<Bytes>) {
    let mut events = state.hub.listen();
    let mut filter = Filter { request: &request, runs: BTreeSet::new() };
    let engine = state.engine();
    let work = execute(&engine, &request);
    tokio::pin!(work);
    let outcome = loop {
        tokio::select! {
            biased;
            outcome = &mut work => break outcome,
            event = events.recv() => {
                if let Ok(event) = event && filter.concerns(&event) {
                    tell(&send, &Line::Event(event)).await;
                }
            }
        }
    };
    loop {
        match events.try_recv() {
            Ok(event) if filter.concerns(&event) => tell(&send, &Line::Event(event)).await,
            Ok(_) | Err(TryRecvError::Lagged(_)) => {}
            Err(_) => break,
        }
    }
    let last = match outcome {
        Ok(response) => Line::Done(Box::new(response)),
        Err(error) => Line::Failed(ErrorForm::from(&error)),
    };
    tell(&send, &last).await;
}

async fn tell(send: &mpsc::Sender<Bytes>, line: &Line) {
    if let Ok(mut text) = serde_json::to_vec(line) {
        text.push(b'\n');
        // a client that has gone needs no answer
        let _ = send.send(Bytes::from(text)).await;
    }
}

/// Tells a request's own events from those of everything else that the daemon does.
struct Filter<'a> {
    request: &'a Request,
    runs: BTreeSet<RunId>,
}

impl Filter<'_> {
    fn concerns(&mut self, event: &Event) -> bool {
        match event {
            Event::RunStarted { run, server, what, .. } => {
                self.request.starts(what, server) && self.runs.insert(run.clone())
            }
            Event::StepStarted { run, .. }
            | Event::StepFinished { run, .. }
            | Event::StepFailed { run, .. }
            | Event::Rung { run, .. }
            | Event::RunFinished { run, .. }
            | Event::Progress { run: Some(run), .. }
            | Event::Warning { run: Some(run), .. } => self.runs.contains(run),
            Event::FellOver { .. } => matches!(self.request, Request::Restore(_) | Request::Drill(_)),
            Event::Progress { run: None, .. } | Event::Warning { run: None, .. } => {
                self.runs.is_empty() && self.request.is_long()
            }
        }
    }
}

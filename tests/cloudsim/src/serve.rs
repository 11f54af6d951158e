//! The socket: HTTP/1.1 in, and answers delivered whole, cut, or not at all.

use std::convert::Infallible;
use std::io::Error;
use std::net::TcpStream as StdStream;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

use crate::faults::Delivery;
use crate::http::{Request, Response};
use crate::route;
use crate::sim::Sim;

/// More than any request has: a block and its headers.
const LARGEST: usize = 8 << 20;

type Body = BoxBody<Bytes, Error>;

/// Serves a simulated cloud until the task is dropped.
pub async fn serve(sim: Arc<Sim>, listener: TcpListener) -> std::io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let sim = sim.clone();
        tokio::spawn(async move {
            // what goes wrong on a connection is its client's to see
            let _ = connection(sim, stream).await;
        });
    }
}

async fn connection(sim: Arc<Sim>, stream: TcpStream) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let stream = stream.into_std()?;
    stream.set_nodelay(true)?;
    // a second handle, by which a fault can turn the end of the connection into a reset
    let twin = Arc::new(stream.try_clone()?);
    let io = TokioIo::new(TcpStream::from_std(stream)?);
    let service = service_fn(move |request| {
        let (sim, twin) = (sim.clone(), twin.clone());
        async move { exchange(sim, twin, request).await }
    });
    hyper::server::conn::http1::Builder::new().serve_connection(io, service).await?;
    Ok(())
}

async fn exchange(
    sim: Arc<Sim>,
    twin: Arc<StdStream>,
    request: hyper::Request<Incoming>,
) -> Result<hyper::Response<Body>, Error> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, LARGEST).collect().await.map_err(Error::other)?.to_bytes();
    let query = head.uri.query().unwrap_or_default();
    let request = Request {
        method: head.method.as_str().to_owned(),
        path: head.uri.path().to_owned(),
        query: form_urlencoded::parse(query.as_bytes()).into_owned().collect(),
        headers: head.headers,
        body,
    };
    let date = sim.with(|world| world.clock.wall()).strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    match route::answer(sim, request).await {
        Delivery::Whole(response) => {
            let body = Full::new(response.body.clone()).map_err(|never: Infallible| match never {}).boxed();
            answer(&response, &date, body)
        }
        Delivery::Nothing { reset } => {
            if reset {
                abort(&twin)?;
            }
            Err(Error::other("a fault rule takes the answer away"))
        }
        Delivery::Cut { response, after, reset } => {
            let part = response.body.slice(..after.min(response.body.len()));
            let end = async move {
                // the first part has to be on its way before the connection ends
                tokio::time::sleep(Duration::from_millis(100)).await;
                if reset {
                    abort(&twin)?;
                }
                Err(Error::other("a fault rule cuts the answer"))
            };
            let first = futures::stream::iter([Ok(Frame::data(part))]);
            let body = BodyExt::boxed(StreamBody::new(first.chain(futures::stream::once(end))));
            answer(&response, &date, body)
        }
    }
}

fn answer(response: &Response, date: &str, body: Body) -> Result<hyper::Response<Body>, Error> {
    let mut builder = hyper::Response::builder()
        .status(response.status)
        .header("date", date)
        .header("content-length", response.body.len());
    for (name, value) in &response.headers {
        builder = builder.header(name, value);
    }
    builder.body(body).map_err(Error::other)
}

/// The connection's end will be a reset.
fn abort(stream: &StdStream) -> std::io::Result<()> {
    rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))?;
    Ok(())
}

//! Pipes between two regions: the file of an image there is the body of an upload here. Nothing is kept but the few pieces
//! that are on their way.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use disk::file::Ranged;
use futures::{StreamExt, stream};
use model::{Error, Kind, Result};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::api::glance::Glance;
use super::download::Download;
use super::http::Client;

/// Bytes of a piece.
const PIECE: u64 = 4 << 20;
/// Pieces that are read at once: the next ones arrive while one is sent.
const AHEAD: usize = 4;
/// How often a piece is asked for. Nobody above can: bytes that were sent cannot be sent again.
const TRIES: u32 = 5;
/// The longest that nothing may move; and that the service may take after the last byte.
const STALL: Duration = Duration::from_secs(600);

/// The pipes of this process, by the image that they fill.
#[derive(Default)]
pub(super) struct Pipes(Mutex<BTreeMap<String, Pipe>>);

struct Pipe {
    task: JoinHandle<Result<()>>,
    moved: Arc<AtomicU64>,
    failed: Option<(Kind, String)>,
}

/// How a pipe is doing.
pub(super) enum Flow {
    /// So many bytes have left.
    Running(u64),
    /// It ended with an error.
    Failed(Error),
    /// There is none, or it has ended well.
    None,
}

impl Pipes {
    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Pipe>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fills image `to` here from image `from` there, unless that is under way.
    pub(super) fn start(&self, there: &Client, from: &str, here: &Client, to: &str, len: u64) {
        let mut all = self.all();
        if all.get(to).is_some_and(|pipe| !pipe.task.is_finished()) {
            return;
        }
        let moved = Arc::new(AtomicU64::new(0));
        let work = fill(there.clone(), from.to_owned(), here.clone(), to.to_owned(), len, Arc::clone(&moved));
        all.insert(to.to_owned(), Pipe { task: tokio::spawn(work), moved, failed: None });
    }

    /// Whether this process fills the image.
    pub(super) fn fills(&self, to: &str) -> bool {
        self.all().get(to).is_some_and(|pipe| !pipe.task.is_finished())
    }

    /// Looks at the pipe that fills an image.
    pub(super) fn look(&self, to: &str) -> Flow {
        use futures::FutureExt as _;
        let mut all = self.all();
        let Some(pipe) = all.get_mut(to) else { return Flow::None };
        if pipe.failed.is_none() && pipe.task.is_finished() {
            match (&mut pipe.task).now_or_never() {
                Some(Ok(Ok(()))) => {
                    all.remove(to);
                    return Flow::None;
                }
                Some(Ok(Err(error))) => pipe.failed = Some((error.kind(), error.chain())),
                _ => pipe.failed = Some((Kind::Cancelled, "it was stopped".to_owned())),
            }
        }
        match &pipe.failed {
            Some((kind, why)) => {
                Flow::Failed(Error::new(*kind, format!("cannot fill image {to}")).because(why.clone()))
            }
            None => Flow::Running(pipe.moved.load(Ordering::Relaxed)),
        }
    }

    /// Ends the pipe that fills an image, if there is one.
    pub(super) fn stop(&self, to: &str) {
        if let Some(pipe) = self.all().remove(to) {
            pipe.task.abort();
        }
    }
}

/// Sends one image into another.
async fn fill(there: Client, from: String, here: Client, to: String, len: u64, moved: Arc<AtomicU64>) -> Result<()> {
    let counter = Arc::clone(&moved);
    let file = Arc::new(Download::new(&there, &from, len));
    let pieces = stream::iter((0..len).step_by(PIECE as usize))
        .map(move |offset| {
            let file = Arc::clone(&file);
            async move { piece(&file, offset, PIECE.min(len - offset) as usize).await }
        })
        .buffered(AHEAD)
        .map(move |piece| {
            if let Ok(bytes) = &piece {
                counter.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }
            piece.map_err(|error| std::io::Error::other(error.chain()))
        });
    let glance = Glance(&here);
    let call = glance.upload(&to, reqwest::Body::wrap_stream(pieces), len);
    tokio::pin!(call);
    let (mut seen, mut since) = (0, Instant::now());
    loop {
        tokio::select! {
            answer = &mut call => return answer,
            () = sleep(Duration::from_secs(5)) => {}
        }
        let now = moved.load(Ordering::Relaxed);
        if now != seen {
            (seen, since) = (now, Instant::now());
        } else if since.elapsed() > STALL {
            return Err(Error::new(Kind::Transient, format!("cannot fill image {to}"))
                .because(format!("nothing moved for {} s after {now} of {len} bytes", STALL.as_secs())));
        }
    }
}

/// One piece of an image.
async fn piece(file: &Download, offset: u64, len: usize) -> Result<Bytes> {
    let mut wait = Duration::from_millis(500);
    for _ in 1..TRIES {
        match file.read(offset, len).await {
            Err(error) if error.kind().is_retryable() => {
                tracing::debug!(offset, error = error.chain(), "asking for the piece again");
            }
            answer => return answer,
        }
        sleep(wait).await;
        wait *= 2;
    }
    file.read(offset, len).await
}

//! A qcow2 image of a disk whose holes nobody knows beforehand: put together in the site's scratch folder, then sent whole.
//! Holes are neither stored nor sent, and an upload that breaks is sent again from the file.
//!
//! Beside the file lies a note with its tags, written before it, so that a sweep finds what a crash has left.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::digest;
use bytes::Bytes;
use disk::{Buffer, DiskWrite, Written};
use futures::{StreamExt, stream};
use model::{Error, Kind, Result, Role, Tags, Token, crash};
use tokio::sync::{Mutex, mpsc};
use tokio::time::{Instant, sleep, timeout};

use super::upload::{SETTLE, STALL, Sent, Upload};

/// Bytes that are read and sent at once.
const PIECE: usize = 1 << 20;
/// Pieces that wait for the network while the next one is read and summed.
const QUEUE: usize = 4;
/// How often it is looked whether an upload goes on.
const LOOK: Duration = Duration::from_secs(10);
/// Waits between attempts to send; there is one attempt more.
const WAITS: [u64; 4] = [1, 5, 30, 60];

/// The scratch folder of a site.
#[derive(Debug, Clone)]
pub(in crate::openstack) struct Scratch(PathBuf);

impl Scratch {
    pub(in crate::openstack) fn new(scratch: &Path, site: &model::SiteName) -> Self {
        Self(scratch.join(site.as_str().replace('/', "+")))
    }

    fn file(&self, mark: &str) -> PathBuf {
        self.0.join(format!("{mark}.qcow2"))
    }

    /// Makes the folder and the note, and removes what an earlier call with the mark has left.
    async fn begin(&self, mark: &str, token: &Token) -> Result<PathBuf> {
        let (this, mark, tags) = (self.clone(), mark.to_owned(), token.tags(Role::Scratch));
        blocking(move || {
            this.remove_file(&mark)?;
            let what = |error| Error::io(format!("cannot write in {}", this.0.display()), error);
            std::fs::create_dir_all(&this.0).map_err(what)?;
            crash::point("openstack.scratch-note.before");
            std::fs::write(this.0.join(format!("{mark}.json")), serde_json::json!(tags).to_string()).map_err(what)?;
            crash::point("openstack.scratch-note.after");
            Ok(this.file(&mark))
        })
        .await
    }

    fn remove_file(&self, mark: &str) -> Result<()> {
        let file = self.file(mark);
        for path in [file.clone(), file.with_extension("qcow2.partial")] {
            absent_is_fine(&path, std::fs::remove_file(&path))?;
        }
        Ok(())
    }

    /// What lies there, with its tags.
    pub(in crate::openstack) async fn list(&self) -> Result<Vec<(String, Tags)>> {
        let this = self.clone();
        blocking(move || {
            let what = |error| Error::io(format!("cannot list {}", this.0.display()), error);
            let entries = match std::fs::read_dir(&this.0) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
                entries => entries.map_err(what)?,
            };
            let mut found = Vec::new();
            for entry in entries {
                let name = entry.map_err(what)?.file_name();
                let Some(mark) = name.to_str().and_then(|name| name.strip_suffix(".json")) else { continue };
                let path = this.0.join(&name);
                // a note that was being written when the program died stands for nothing: the file comes after it
                let note = std::fs::read(&path).map_err(what)?;
                found.extend(serde_json::from_slice(&note).ok().map(|tags| (mark.to_owned(), tags)));
            }
            found.sort();
            Ok(found)
        })
        .await
    }

    /// Removes what belongs to a mark. Absent is success.
    pub(in crate::openstack) async fn remove(&self, mark: &str) -> Result<()> {
        let (this, mark) = (self.clone(), mark.to_owned());
        blocking(move || {
            crash::point("openstack.scratch-delete.before");
            this.remove_file(&mark)?;
            let note = this.0.join(format!("{mark}.json"));
            absent_is_fine(&note, std::fs::remove_file(&note))?;
            crash::point("openstack.scratch-delete.after");
            Ok(())
        })
        .await
    }
}

fn absent_is_fine(path: &Path, result: std::io::Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("cannot delete {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::new(Kind::Permanent, "cannot finish file work").because(error))?
}

/// A qcow2 disk that is being put together.
pub(super) struct FileThenUpload {
    upload: Upload,
    scratch: Scratch,
    path: PathBuf,
    writer: Box<dyn DiskWrite>,
}

impl FileThenUpload {
    pub(super) async fn new(upload: Upload, scratch: Scratch, size: u64, token: &Token) -> Result<Self> {
        let path = scratch.begin(&upload.mark, token).await?;
        let writer = disk::create_scratch(&path, disk::Format::Qcow2, size).await?;
        Ok(Self { upload, scratch, path, writer })
    }
}

#[async_trait]
impl DiskWrite for FileThenUpload {
    fn size(&self) -> u64 {
        self.writer.size()
    }

    async fn write(&mut self, offset: u64, data: Bytes) -> Result<()> {
        self.writer.write(offset, data).await
    }

    async fn zero(&mut self, offset: u64, len: u64) -> Result<()> {
        self.writer.zero(offset, len).await
    }

    fn may_have_leaves(&self) -> bool {
        false
    }

    async fn finish(self: Box<Self>) -> Result<Written> {
        let Self { mut upload, scratch, path, writer } = *self;
        let written = writer.finish().await?;
        let sent = send(&mut upload, &path).await?;
        upload.settle(&sent).await?;
        scratch.remove(&upload.mark).await?;
        Ok(Written { stored: sent.bytes, ..written })
    }
}

/// Sends a file until it has arrived. Answers what was sent.
async fn send(upload: &mut Upload, path: &Path) -> Result<Sent> {
    let mut waits = WAITS.into_iter();
    loop {
        let body = Body::open(path).await?;
        let len = body.len;
        let (sum, body) = body.into_stream();
        let outcome = watched(upload, body, len, &sum).await;
        let whole = sum.lock().await.take_if_whole(len).map(|sha512| Sent { bytes: len, sha512 });
        let error = match (outcome, &whole) {
            (Ok(()), Some(sent)) => return Ok(sent.clone()),
            (Ok(()), None) => Error::new(Kind::Transient, format!("cannot send image {}", upload.image))
                .because("the service ended the upload before its last byte"),
            (Err(error), _) => error,
        };
        let Some(wait) = waits.next().filter(|_| error.kind().is_retryable()) else { return Err(error) };
        tracing::info!(image = upload.image, error = error.chain(), wait, "an upload broke and is sent again");
        sleep(Duration::from_secs(wait)).await;
        match whole {
            // the answer may be lost, and the bytes there
            Some(sent) if upload.has_arrived().await? => return Ok(sent),
            _ => upload.renew().await?,
        }
    }
}

/// Sends a body, as long as it goes on.
async fn watched(upload: &Upload, body: reqwest::Body, len: u64, sum: &Mutex<Sum>) -> Result<()> {
    let mut call = std::pin::pin!(upload.send(body, len));
    let (mut before, mut since) = (0, Instant::now());
    loop {
        if let Ok(answer) = timeout(LOOK, &mut call).await {
            return answer;
        }
        let now = sum.lock().await.bytes;
        if now != before {
            (before, since) = (now, Instant::now());
        }
        // the service may copy what it has before it answers
        let patience = if now == len { SETTLE } else { STALL };
        if since.elapsed() >= patience {
            let why = format!("the service took nothing for {} s, {now} of {len} bytes are sent", patience.as_secs());
            return Err(Error::new(Kind::Transient, format!("cannot send image {}", upload.image)).because(why));
        }
    }
}

/// A file on its way out.
struct Body {
    file: Arc<std::fs::File>,
    len: u64,
}

/// The sum of what was read of a body so far.
struct Sum {
    context: Option<digest::Context>,
    bytes: u64,
}

impl Sum {
    fn take_if_whole(&mut self, len: u64) -> Option<String> {
        let context = self.context.take().filter(|_| self.bytes == len)?;
        Some(super::hex(context.finish().as_ref()))
    }
}

impl Body {
    async fn open(path: &Path) -> Result<Self> {
        let path = path.to_owned();
        blocking(move || {
            let what = |error| Error::io(format!("cannot read {}", path.display()), error);
            let file = std::fs::File::open(&path).map_err(what)?;
            let len = file.metadata().map_err(what)?.len();
            Ok(Self { file: Arc::new(file), len })
        })
        .await
    }

    fn into_stream(self) -> (Arc<Mutex<Sum>>, reqwest::Body) {
        let context = Some(digest::Context::new(&digest::SHA512));
        let sum = Arc::new(Mutex::new(Sum { context, bytes: 0 }));
        let shared = sum.clone();
        let mut pieces = Box::pin(stream::try_unfold((self, shared), |(body, sum)| async move {
            let piece = read_piece(&body, &sum).await?;
            Ok::<_, std::io::Error>((!piece.is_empty()).then_some((piece, (body, sum))))
        }));
        let (sender, queue) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            while let Some(piece) = pieces.next().await {
                if sender.send(piece).await.is_err() {
                    // whoever sends has given up
                    return;
                }
            }
        });
        let pieces = stream::unfold(queue, |mut queue| async { Some((queue.recv().await?, queue)) });
        (sum, reqwest::Body::wrap_stream(pieces))
    }
}

/// Reads and sums the next piece, on a thread that may block; empty at the end.
async fn read_piece(body: &Body, sum: &Mutex<Sum>) -> std::io::Result<Bytes> {
    use std::os::unix::fs::FileExt;
    let mut sum = sum.lock().await;
    let (file, at) = (body.file.clone(), sum.bytes);
    let len = (body.len - at).min(PIECE as u64) as usize;
    if len == 0 {
        return Ok(Bytes::new());
    }
    let mut context = sum.context.take().ok_or_else(|| std::io::Error::other("an earlier read failed"))?;
    let read = tokio::task::spawn_blocking(move || {
        let mut piece = Buffer::take(len);
        file.read_exact_at(piece.as_mut(), at)?;
        context.update(piece.as_ref());
        Ok::<_, std::io::Error>((piece.freeze(), context))
    });
    let (piece, context) = read.await.map_err(std::io::Error::other)??;
    (sum.context, sum.bytes) = (Some(context), at + len as u64);
    Ok(piece)
}

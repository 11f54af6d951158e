//! `replicate nbd`: a point's disks as block devices, straight from where they lie. What is not read is not fetched.

use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use disk::{DiskRead, Export, NbdServer};
use model::{Error, ExtentList, Kind, Result};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use super::point::{self, Opened};
use super::{Context, Outcome, absolute};
use crate::args::NbdArgs;
use crate::exit;
use crate::output::human::{bytes, instant};

/// Memory of requests, over all clients.
const MEMORY: u64 = 128 << 20;

/// Serves until it is interrupted.
pub async fn run(context: &Context, args: NbdArgs) -> Outcome {
    let settings = context.settings()?;
    let opened = point::open(context, &settings, &args.point, args.from.as_deref()).await?;
    let mut exports = Vec::new();
    for name in opened.disks(args.disk.as_deref())? {
        let disk: Arc<dyn DiskRead> = Arc::new(Told(opened.disk(&name).await?));
        exports.push(Export { name: name.to_string(), disk });
    }
    let sizes: Vec<(String, u64)> = exports.iter().map(|export| (export.name.clone(), export.disk.size())).collect();
    let server = Arc::new(NbdServer::new(exports, MEMORY)?);
    let listener = match (&args.socket, args.listen) {
        (Some(path), _) => Listener::unix(&absolute(path)?).await?,
        (None, Some(address)) => Listener::tcp(address).await?,
        (None, None) => return Err(Error::new(Kind::Invalid, "say where to listen").into()),
    };
    let told = told(&opened, &sizes, &listener);
    context.printer.result(&told, text);
    context.printer.remark(&hint(&told));
    serve(listener, server).await?;
    Ok(exit::DONE)
}

/// What is said when the server listens.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Serving {
    point: model::PointId,
    server: model::ServerName,
    taken_at: jiff::Timestamp,
    place: String,
    disks: Vec<ServedDisk>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct ServedDisk {
    name: String,
    size: u64,
    url: String,
}

fn told(opened: &Opened, sizes: &[(String, u64)], listener: &Listener) -> Serving {
    let disks =
        sizes.iter().map(|(name, size)| ServedDisk { name: name.clone(), size: *size, url: listener.url(name) });
    Serving {
        point: opened.point.id.clone(),
        server: opened.point.server.clone(),
        taken_at: opened.point.taken_at,
        place: opened.place.to_string(),
        disks: disks.collect(),
    }
}

fn text(serving: &Serving) -> String {
    let Serving { point, server, place, .. } = serving;
    let mut text = format!("{server} as of {} (point {point}) from {place}, read-only:\n", instant(serving.taken_at));
    for disk in &serving.disks {
        text += &format!("  {}  {}  {}\n", disk.name, bytes(disk.size), disk.url);
    }
    text
}

fn hint(serving: &Serving) -> String {
    let url = serving.disks.first().map_or("", |disk| disk.url.as_str());
    format!(
        "to boot from it, put an overlay over it: qemu-img create -f qcow2 -F raw -b '{url}' overlay.qcow2\n\
         serving until Ctrl-C"
    )
}

async fn serve(listener: Listener, server: Arc<NbdServer>) -> Result<()> {
    let wrong = |source| Error::io("cannot listen for signals", source);
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt()).map_err(wrong)?, signal(SignalKind::terminate()).map_err(wrong)?);
    // dropped at the end, it ends all clients
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            served = clients.join_next(), if !clients.is_empty() => {
                if let Some(Ok(Err(error))) = served {
                    let error: Error = error;
                    tracing::warn!(why = error.chain(), "lost a client");
                }
            }
            client = listener.accept() => {
                clients.spawn(client?.serve(Arc::clone(&server)));
            }
        }
    }
}

enum Listener {
    Unix(UnixListener, std::path::PathBuf),
    Tcp(TcpListener, SocketAddr),
}

impl Listener {
    /// Only this user (and root) may connect: what is served are whole disks.
    async fn unix(path: &Path) -> Result<Self> {
        let wrong = |source| Error::io(format!("cannot listen at `{}`", path.display()), source);
        match std::fs::symlink_metadata(path) {
            Ok(meta) if meta.file_type().is_socket() && UnixStream::connect(path).await.is_err() => {
                std::fs::remove_file(path).map_err(wrong)?;
            }
            Ok(_) => {
                return Err(Error::new(Kind::Exists, format!("cannot listen at `{}`", path.display()))
                    .because("there is a file of that name, or another server")
                    .hint("choose another path"));
            }
            Err(_) => {}
        }
        let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
        let bound = UnixListener::bind(path);
        rustix::process::umask(before);
        Ok(Self::Unix(bound.map_err(wrong)?, path.to_owned()))
    }

    async fn tcp(address: SocketAddr) -> Result<Self> {
        if !address.ip().is_loopback() {
            return Err(Error::new(Kind::Invalid, format!("cannot listen at {address}"))
                .because("whoever reaches it could read the disks: NBD asks for no password")
                .hint("listen on 127.0.0.1 or [::1], and let ssh carry it elsewhere"));
        }
        let wrong = |source| Error::io(format!("cannot listen at {address}"), source);
        let listener = TcpListener::bind(address).await.map_err(wrong)?;
        let address = listener.local_addr().map_err(wrong)?;
        Ok(Self::Tcp(listener, address))
    }

    fn url(&self, name: &str) -> String {
        match self {
            Self::Unix(_, path) => {
                format!("nbd+unix:///{}?socket={}", escaped(name), escaped(&path.to_string_lossy()))
            }
            Self::Tcp(_, address) => format!("nbd://{address}/{}", escaped(name)),
        }
    }

    /// Waits for a client.
    async fn accept(&self) -> Result<Client> {
        let wrong = |source| Error::io("cannot take a client", source);
        Ok(match self {
            Self::Unix(listener, _) => Client::Unix(listener.accept().await.map_err(wrong)?.0),
            Self::Tcp(listener, _) => {
                let (stream, _) = listener.accept().await.map_err(wrong)?;
                // replies are whole messages: waiting to fill a packet only delays them
                let _ = stream.set_nodelay(true);
                Client::Tcp(stream)
            }
        })
    }
}

enum Client {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Client {
    async fn serve(self, server: Arc<NbdServer>) -> Result<()> {
        match self {
            Self::Unix(stream) => server.serve(stream).await,
            Self::Tcp(stream) => server.serve(stream).await,
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            // one that stays is removed by the next server of that path
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A word of a URL.
fn escaped(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(byte);
    text.bytes().map(|byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// A disk whose trouble is told here too: a client sees an I/O error and no more.
struct Told(Box<dyn DiskRead>);

impl Told {
    fn tell<T>(answer: Result<T>) -> Result<T> {
        if let Err(error) = &answer {
            tracing::warn!(why = error.chain(), "a client gets an I/O error");
        }
        answer
    }
}

#[async_trait]
impl DiskRead for Told {
    fn size(&self) -> u64 {
        self.0.size()
    }

    async fn extents(&self, from: u64) -> Result<ExtentList> {
        Self::tell(self.0.extents(from).await)
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        Self::tell(self.0.read_at(offset, len).await)
    }

    fn describe(&self) -> String {
        self.0.describe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_loopback_and_only_this_user() {
        use std::os::unix::fs::PermissionsExt;
        let error = Listener::tcp("0.0.0.0:0".parse().expect("address")).await.err().expect("refused");
        assert_eq!(error.kind(), Kind::Invalid);
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("a b.sock");
        let listener = Listener::unix(&path).await.expect("listener");
        assert_eq!(std::fs::metadata(&path).expect("socket").permissions().mode() & 0o777, 0o600);
        assert!(listener.url("vda").ends_with("/a%20b.sock"), "{}", listener.url("vda"));
        assert_eq!(Listener::unix(&path).await.err().expect("taken").kind(), Kind::Exists);
        drop(listener);
        assert!(!path.exists());
        std::fs::write(&path, "no socket").expect("file");
        assert_eq!(Listener::unix(&path).await.err().expect("a file").kind(), Kind::Exists);
    }
}

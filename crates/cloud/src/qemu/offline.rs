//! Capturing a server that is off, from its disk files by the sidecar.
//!
//! Nothing keeps the server from being started meanwhile: the files are opened without a lock, and watched. A change
//! of a file's time or size makes every further answer [`Kind::Damaged`]; the run is given up, and the next one
//! captures the running guest. Bitmaps stored in qcow2 files go on as in a running guest.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use disk::DiskRead;
use model::{Consistency, Error, ExtentList, Kind, MachineSpec, Result, crash};
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use super::capture::complete;
use super::guest::{list, text};
use super::inventory::{cold, read_variables};
use super::nbd::NbdDisk;
use super::session::{Method, Record, Session, SessionDisk, bitmap_name, chain, key, nbd_socket};
use super::sidecar::{Format, Sidecar, SidecarFirmware};
use super::{QemuSite, export, scratch};
use crate::{Capture, CaptureRequest, Outcome};

/// How long qemu-nbd may take to serve.
const SERVE: Duration = Duration::from_secs(20);

/// What qemu-img tells of a file.
#[derive(Debug)]
struct Image {
    size: u64,
    keeps_bitmaps: bool,
    /// Name, recording, usable.
    bitmaps: Vec<(String, bool, bool)>,
}

impl Session {
    /// Whether the server was off when it was captured.
    pub(super) fn is_offline(&self) -> bool {
        self.disks.iter().any(|disk| disk.method == Method::Offline)
    }
}

/// The machine by its sidecar, with the sizes that its files have.
pub(super) async fn machine(sidecar: &Sidecar) -> Result<MachineSpec> {
    let mut sizes = Vec::new();
    for disk in &sidecar.disks {
        sizes.push(examine(&disk.path, disk.format).await?.size);
    }
    let variables = match &sidecar.firmware {
        SidecarFirmware::Uefi { variables: Some(file), .. } => read_variables(file).await,
        _ => None,
    };
    Ok(cold(sidecar, sizes, variables))
}

/// Captures a server that is off.
pub(super) async fn capture(
    site: &QemuSite,
    request: &CaptureRequest,
    monitor: PathBuf,
    sidecar: Option<Sidecar>,
) -> Result<Capture> {
    let sidecar = sidecar.filter(|sidecar| !sidecar.disks.is_empty()).ok_or_else(|| {
        Error::new(Kind::NotFound, format!("cannot capture server {}", request.server))
            .because("it is off, and no sidecar describes its disks")
            .hint("start it, or write NAME.toml with its `disks` beside its socket")
    })?;
    let scratch = site.scratch();
    let mut session = plan(&scratch, request, &sidecar, monitor).await?;
    crash::point("capture.record.before");
    session.save(&scratch, None).await?;
    crash::point("capture.record.after");
    let capture = match take(site, &mut session, &sidecar).await {
        Ok(capture) => capture,
        Err(error) => {
            super::release::release(site, &session, Outcome::Abandoned).await?;
            return Err(error);
        }
    };
    crash::point("capture.complete.before");
    session.save(&scratch, Some(&capture)).await?;
    crash::point("capture.complete.after");
    Ok(capture)
}

async fn plan(scratch: &Path, request: &CaptureRequest, sidecar: &Sidecar, monitor: PathBuf) -> Result<Session> {
    let since = request.since.as_ref().map(|cursor| cursor.as_str().to_owned());
    let known = match &since {
        Some(since) => Record::cursor(scratch, since).await?.map(|record| record.session),
        None => None,
    };
    let chain = chain(&request.token.owner, request.token.policy.as_ref());
    let mut disks = Vec::new();
    for disk in &sidecar.disks {
        let image = examine(&disk.path, disk.format).await?;
        let then = known.as_ref().and_then(|session| session.disks.iter().find(|then| then.name == disk.name));
        let found = since.as_ref().map(|since| image.bitmaps.iter().find(|(name, ..)| name == since));
        let foreign = since.as_ref().is_some_and(|since| !since.starts_with(&chain));
        let reason = match found {
            Some(_) if foreign => Some("the last point's cursor is not of this policy and provider"),
            None | Some(Some((_, true, true))) => None,
            Some(None) if !image.keeps_bitmaps => Some("this disk's format keeps no bitmap"),
            Some(None) => Some("the bitmap of the last point is gone: the disk was replaced, or the guest was killed"),
            Some(Some((_, _, false))) => Some("the bitmap is inconsistent: the guest was killed"),
            Some(Some((_, false, _))) => Some("the bitmap was stopped by someone else"),
        };
        let resized = then.is_some_and(|then| then.size != image.size);
        let reason = reason.or(resized.then_some("the disk's size has changed")).map(str::to_owned);
        disks.push(SessionDisk {
            name: disk.name.clone(),
            size: image.size,
            method: Method::Offline,
            file: disk.path.clone(),
            format: disk.format,
            device: String::new(),
            node: String::new(),
            tracked: image.keeps_bitmaps,
            persistent: image.keeps_bitmaps,
            incremental: since.is_some() && reason.is_none(),
            reason,
            stamp: None,
        });
    }
    Ok(Session {
        key: key(&request.token),
        token: request.token.clone(),
        nbd: nbd_socket(scratch, &monitor),
        monitor,
        agent: None,
        frozen: false,
        paused: false,
        after: Vec::new(),
        bitmap: bitmap_name(&request.token),
        since,
        disks,
    })
}

/// Changes the bitmaps over (qemu-img takes the write lock: a guest that is being started wins), then notes how the
/// files look.
async fn take(site: &QemuSite, session: &mut Session, sidecar: &Sidecar) -> Result<Capture> {
    for disk in session.disks.iter().filter(|disk| disk.tracked) {
        crash::point("capture.bitmaps.before");
        // the new one first: between the two, both record, and nothing is missed
        bitmap(disk, &["--add", "-g", "65536"], &session.bitmap).await?;
        if let (true, Some(since)) = (disk.incremental, &session.since) {
            bitmap(disk, &["--disable"], since).await?;
        }
        crash::point("capture.bitmaps.after");
    }
    let taken_at = site.clock().now();
    for disk in &mut session.disks {
        disk.stamp = Some(stamp(&disk.file)?);
    }
    if export::listens(&session.monitor).await {
        return Err(Error::new(Kind::Transient, format!("cannot capture server {}", session.token.server))
            .because("it was started meanwhile"));
    }
    let lost = session.disks.iter().filter_map(|disk| Some((&disk.name, disk.reason.as_ref()?)));
    let warnings = lost.map(|(name, reason)| format!("disk {name} is read whole: {reason}")).collect();
    let machine = machine(sidecar).await?;
    // a server that was shut down has clean file systems, but nobody here can tell whether it was
    complete(session, machine, taken_at, Consistency::Crash, warnings)
}

/// Fails if a disk's file has changed since the capture.
pub(super) fn unchanged(session: &Session) -> Result<()> {
    session.disks.iter().try_for_each(check)
}

fn check(disk: &SessionDisk) -> Result<()> {
    if disk.stamp.as_deref() == Some(stamp(&disk.file)?.as_str()) {
        return Ok(());
    }
    Err(Error::new(Kind::Damaged, format!("cannot read disk {} any more", disk.name))
        .because(format!("{} has changed: the server was started", disk.file.display()))
        .hint("run again: the next capture takes the running server"))
}

fn stamp(file: &Path) -> Result<String> {
    use std::os::unix::fs::MetadataExt;
    let found =
        std::fs::metadata(file).map_err(|error| Error::io(format!("cannot look at {}", file.display()), error))?;
    Ok(format!("{}.{:09} {} {}:{}", found.mtime(), found.mtime_nsec(), found.len(), found.dev(), found.ino()))
}

/// A disk file behind a qemu-nbd of its own.
#[derive(Debug)]
struct OfflineDisk {
    disk: SessionDisk,
    inner: NbdDisk,
    socket: PathBuf,
    _server: Child,
}

/// Opens a disk file through qemu-nbd.
pub(super) async fn open(
    session: &Session,
    index: usize,
    bitmap: Option<&str>,
    about: String,
) -> Result<Box<dyn DiskRead>> {
    let disk = session.disks[index].clone();
    check(&disk)?;
    let operation = || format!("cannot open {about}");
    let folder = session.nbd.parent().unwrap_or(Path::new("."));
    scratch::private(folder, rustix::process::geteuid().as_raw())?;
    let socket = folder.join(format!("{index}-{:08x}", rand::random::<u32>()));
    let file = disk.file.to_string_lossy().replace(',', ",,");
    let image = format!("driver={},file.driver=file,file.filename={file},force-share=on", disk.format.driver());
    let mut command = Command::new("qemu-nbd");
    command.args(["--read-only", "--shared=0", "--export-name=disk", "--image-opts", &image]);
    command.arg("--socket").arg(&socket);
    if let Some(bitmap) = bitmap {
        command.args(["--bitmap", bitmap]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut server = command.spawn().map_err(|error| {
        Error::io(operation(), error).hint("install qemu-nbd (Debian: qemu-utils) on the host of the guests")
    })?;
    // it ends when its last client goes, so it does not outlive us if we are killed; so no connection is made only
    // to see whether it serves
    let until = Instant::now() + SERVE;
    let inner = loop {
        let opened = NbdDisk::open(socket.clone(), "disk", bitmap, about.clone()).await;
        let error = match opened {
            Ok(inner) => break inner,
            Err(error) => error,
        };
        let ended = server.try_wait().map_err(|error| Error::io(operation(), error))?;
        if ended.is_some() {
            let said = said(server).await;
            let why = if said.is_empty() { error.chain() } else { format!("qemu-nbd: {said}") };
            return Err(Error::new(Kind::Damaged, operation()).because(why));
        }
        if Instant::now() > until {
            return Err(error);
        }
        sleep(Duration::from_millis(20)).await;
    };
    Ok(Box::new(OfflineDisk { disk, inner, socket, _server: server }))
}

async fn said(server: Child) -> String {
    let output = server.wait_with_output().await.map(|output| output.stderr).unwrap_or_default();
    String::from_utf8_lossy(&output).trim().to_owned()
}

impl Drop for OfflineDisk {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket); // release removes the folder anyway
    }
}

#[async_trait]
impl DiskRead for OfflineDisk {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    async fn extents(&self, from: u64) -> Result<ExtentList> {
        let list = self.inner.extents(from).await;
        check(&self.disk)?; // after reading: what was read before the change is right
        list
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let data = self.inner.read_at(offset, len).await;
        check(&self.disk)?;
        data
    }

    fn is_incremental(&self) -> bool {
        self.inner.is_incremental()
    }

    fn lists_holes(&self) -> bool {
        self.inner.lists_holes()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

/// Settles the bitmaps in the files of a guest that is off; see `release` for the rules.
pub(super) async fn settle(session: &Session, outcome: Outcome) -> Result<()> {
    for disk in session.disks.iter().filter(|disk| disk.tracked && disk.persistent) {
        if !disk.file.exists() {
            continue; // the server is gone for good
        }
        let image = examine(&disk.file, disk.format).await?;
        let find = |name: &str| image.bitmaps.iter().find(|(bitmap, ..)| bitmap == name);
        let new = find(&session.bitmap);
        crash::point("release.bitmaps.before");
        match outcome {
            Outcome::Committed => {
                let chain = session.chain();
                for (name, _, usable) in image.bitmaps.iter().filter(|(name, ..)| name.starts_with(&chain)) {
                    if *name != session.bitmap || !usable {
                        bitmap(disk, &["--remove"], name).await?;
                    }
                }
            }
            Outcome::Abandoned => {
                if let Some((old, false, usable)) = session.since.as_deref().filter(|_| disk.incremental).and_then(find)
                {
                    match new {
                        Some((new, _, true)) if *usable => bitmap(disk, &["--merge", new, "--enable"], old).await?,
                        _ => bitmap(disk, &["--remove"], old).await?,
                    }
                }
                if let Some((new, ..)) = new {
                    bitmap(disk, &["--remove"], new).await?;
                }
            }
        }
        crash::point("release.bitmaps.after");
    }
    Ok(())
}

/// Removes a bitmap from a disk file.
pub(super) async fn remove_bitmap(disk: &SessionDisk, name: &str) -> Result<()> {
    let image = examine(&disk.file, disk.format).await?;
    match image.bitmaps.iter().any(|(bitmap, ..)| bitmap == name) {
        true => bitmap(disk, &["--remove"], name).await,
        false => Ok(()),
    }
}

async fn bitmap(disk: &SessionDisk, options: &[&str], name: &str) -> Result<()> {
    let mut arguments = vec!["bitmap", "-f", disk.format.driver()];
    arguments.extend(options);
    let file = disk.file.to_string_lossy().into_owned();
    arguments.extend([file.as_str(), name]);
    tool(&arguments, &format!("cannot change bitmap {name} of {file}")).await.map(|_| ())
}

async fn examine(file: &Path, format: Format) -> Result<Image> {
    let shown = file.to_string_lossy().into_owned();
    let operation = format!("cannot examine disk {shown}");
    let told = tool(&["info", "--force-share", "--output=json", "-f", format.driver(), &shown], &operation).await?;
    let told: Value =
        serde_json::from_slice(&told).map_err(|error| Error::new(Kind::Invalid, operation.clone()).because(error))?;
    let version = told.pointer("/format-specific/data/compat").and_then(Value::as_str);
    let bitmaps = told.pointer("/format-specific/data/bitmaps").map_or(&[][..], list).iter().map(|bitmap| {
        let flags: Vec<&str> = list(&bitmap["flags"]).iter().filter_map(Value::as_str).collect();
        (text(bitmap, "name"), flags.contains(&"auto"), !flags.contains(&"in-use"))
    });
    let size = told.get("virtual-size").and_then(Value::as_u64);
    Ok(Image {
        size: size.ok_or_else(|| Error::new(Kind::Invalid, operation).because("qemu-img tells no size"))?,
        keeps_bitmaps: format == Format::Qcow2 && version.is_some_and(|version| version != "0.10"),
        bitmaps: bitmaps.collect(),
    })
}

async fn tool(arguments: &[&str], operation: &str) -> Result<Vec<u8>> {
    let mut command = Command::new("qemu-img");
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.map_err(|error| {
        Error::io(operation, error).hint("install qemu-img (Debian: qemu-utils) on the host of the guests")
    })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let kind = match &said {
        said if said.contains("lock") => Kind::Transient,
        said if said.contains("No such file") => Kind::NotFound,
        said if said.contains("No space left") => Kind::Quota,
        _ => Kind::Permanent,
    };
    Err(Error::new(kind, operation).because(said))
}

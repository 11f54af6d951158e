//! What the tests of the source `qemu` work with: guests, an image that captures are applied to, and a second
//! opinion on an export's bytes (qemu-img).

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cloud::qemu::qmp::Qmp;
use cloud::qemu::{QemuConfig, QemuSite, TargetConfig};
use cloud::{Capture, CaptureRequest, Cloud, Consistent, Hook, Source};
use disk::DiskRead;
use model::{Change, Consistency, Cursor, ManualClock, OwnerId, PolicyName, RunId, ServerName, SiteName, Token};
use serde_json::{Value, json};

/// Whether the tools are there; says so if not.
pub fn tools() -> bool {
    let missing = ["qemu-system-x86_64", "qemu-img", "qemu-nbd"].into_iter().find(|tool| !tests::guest::has(tool));
    match missing {
        Some(tool) => tests::guest::skip(&format!("{tool} is not installed")).unwrap_or(false),
        None => true,
    }
}

/// A QEMU process.
pub struct Guest {
    process: Child,
    pub folder: PathBuf,
    arguments: Vec<String>,
}

impl Guest {
    /// Starts QEMU with its monitor at `NAME.qmp` and its console in `NAME.log`.
    pub async fn start(folder: &Path, name: &str, arguments: &[String]) -> Self {
        let mut all: Vec<String> = ["-accel", "tcg", "-nodefaults", "-no-user-config", "-display", "none", "-m", "192"]
            .map(str::to_owned)
            .to_vec();
        all.extend(["-serial".into(), format!("file:{}", folder.join(name).with_extension("log").display())]);
        let monitor = folder.join(name).with_extension("qmp");
        all.extend(["-qmp".into(), format!("unix:{},server=on,wait=off", monitor.display())]);
        all.extend_from_slice(arguments);
        let guest = Self { process: spawn(&all), folder: folder.to_owned(), arguments: all };
        guest.up(&monitor).await;
        guest
    }

    async fn up(&self, monitor: &Path) {
        let until = Instant::now() + Duration::from_secs(60);
        while Qmp::connect(monitor).await.is_err() {
            assert!(Instant::now() < until, "QEMU does not come up");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the console shows `text`.
    pub async fn console(&self, name: &str, text: &str) {
        let until = Instant::now() + Duration::from_secs(300);
        loop {
            let shown = std::fs::read(self.folder.join(name).with_extension("log")).unwrap_or_default();
            if String::from_utf8_lossy(&shown).contains(text) {
                return;
            }
            assert!(Instant::now() < until, "the console never shows {text}: {}", String::from_utf8_lossy(&shown));
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Kills QEMU as a power cut would.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Ends QEMU in order: bitmaps are stored.
    pub async fn quit(&mut self, name: &str) {
        self.qmp(name).await.execute("quit", json!({})).await.ok();
        self.process.wait().unwrap();
    }

    /// Starts it again with the same arguments.
    pub async fn again(&mut self, name: &str) {
        self.process = spawn(&self.arguments);
        self.up(&self.folder.join(name).with_extension("qmp")).await;
    }

    pub async fn qmp(&self, name: &str) -> Qmp {
        Qmp::connect(&self.folder.join(name).with_extension("qmp")).await.unwrap()
    }

    /// Writes as the guest would: `pattern` over a range of a device.
    pub async fn write(&self, name: &str, device: &str, pattern: u8, offset: u64, len: u64) {
        let line = format!("qemu-io -d {device} \"write -P {pattern} {offset} {len}\"");
        let mut qmp = self.qmp(name).await;
        let said = qmp.execute("human-monitor-command", json!({ "command-line": line })).await.unwrap();
        assert!(!said.as_str().unwrap_or_default().contains("rror"), "{said}");
        // a write that fails prints nothing here, so look
        let line = format!("qemu-io -d {device} \"read -P {pattern} {offset} {len}\"");
        let said = qmp.execute("human-monitor-command", json!({ "command-line": line })).await.unwrap();
        assert!(!said.as_str().unwrap_or_default().contains("ailed"), "{said}");
    }

    /// Whether nothing of ours is left in the guest and it runs.
    pub async fn is_clean(&self, name: &str) -> Result<(), String> {
        let mut qmp = self.qmp(name).await;
        let status = qmp.execute("query-status", json!({})).await.unwrap();
        if status["running"] != json!(true) {
            return Err(format!("the guest does not run: {status}"));
        }
        for (query, key) in
            [("query-named-block-nodes", "node-name"), ("query-block-exports", "id"), ("query-block-jobs", "device")]
        {
            let all = qmp.execute(query, json!({})).await.unwrap();
            let left =
                all.as_array().unwrap().iter().find(|entry| entry[key].as_str().unwrap_or("").starts_with("rpl-"));
            if let Some(left) = left {
                return Err(format!("{query} still has {}", left[key]));
            }
        }
        Ok(())
    }

    /// Names of our bitmaps, over all nodes.
    pub async fn bitmaps(&self, name: &str) -> Vec<String> {
        let all = self.qmp(name).await.execute("query-named-block-nodes", json!({})).await.unwrap();
        let bitmaps = all
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|node| node["dirty-bitmaps"].as_array().cloned().unwrap_or_default());
        let mut names: Vec<String> = bitmaps.filter_map(|bitmap| Some(bitmap["name"].as_str()?.to_owned())).collect();
        names.sort();
        names.dedup();
        names
    }
}

/// The guest `pair`: two disks of 8 MiB and no operating system; its monitor writes as one would.
pub async fn pair(folder: &Path) -> Guest {
    let mut arguments = Vec::new();
    for name in ["one", "two"] {
        let file = folder.join(name);
        run(&format!("qemu-img create -q -f qcow2 {0} 8M; qemu-io -f qcow2 -c 'write -P 3 1M 2M' {0}", file.display()));
        arguments.extend(["-drive".into(), format!("if=none,id={name},format=qcow2,file={}", file.display())]);
        arguments.extend(["-device".into(), format!("virtio-blk-pci,id={name},drive={name}")]);
    }
    Guest::start(folder, "pair", &arguments).await
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(arguments: &[String]) -> Child {
    let mut command = Command::new("qemu-system-x86_64");
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
}

pub fn site(folder: &Path, change: impl FnOnce(&mut QemuConfig)) -> QemuSite {
    let mut config = QemuConfig {
        site: SiteName::new("lab").unwrap(),
        sockets: folder.join("*.qmp").to_string_lossy().into_owned(),
        disks: folder.join("images"),
        scratch: Some(folder.join("scratch")),
        scratch_limit: None,
        jobs_only: false,
        target: TargetConfig::default(),
    };
    change(&mut config);
    QemuSite::new(config, Arc::new(ManualClock::new("2026-11-22T03:00:00Z".parse().unwrap())))
}

pub fn request(server: &str, run: &str, since: Option<&Cursor>, level: Consistency) -> CaptureRequest {
    CaptureRequest {
        server: ServerName::new(server).unwrap(),
        consistent: Consistent { level, required: true, hook: Hook::default(), freeze_limit: Duration::from_secs(20) },
        since: since.cloned(),
        token: Token {
            owner: OwnerId::new("me").unwrap(),
            policy: Some(PolicyName::new("web").unwrap()),
            server: ServerName::new(server).unwrap(),
            run: RunId::new(run).unwrap(),
            step: "capture".into(),
        },
    }
}

/// The image of one disk that a destination would hold.
pub struct Image {
    pub bytes: Vec<u8>,
    /// Bytes that the last capture made us read.
    pub read: u64,
}

impl Image {
    pub fn new() -> Self {
        Self { bytes: Vec::new(), read: 0 }
    }

    /// Applies what a reader lists, as a destination does.
    pub async fn apply(&mut self, reader: &dyn DiskRead) {
        let size = reader.size() as usize;
        if !reader.is_incremental() {
            self.bytes = vec![0xee; size]; // a full reader must list every byte
        }
        self.bytes.resize(size, 0);
        (self.read, _) = (0, ());
        let mut from = 0;
        loop {
            let page = reader.extents(from).await.unwrap();
            let Some(last) = page.as_slice().last() else { break };
            from = last.end();
            for extent in page.as_slice() {
                let range = extent.offset as usize..extent.end() as usize;
                match extent.change {
                    Change::Zero => self.bytes[range].fill(0),
                    Change::Data => {
                        self.read += extent.len;
                        let data = reader.read_at(extent.offset, extent.len as usize).await.unwrap();
                        self.bytes[range].copy_from_slice(&data);
                    }
                }
            }
        }
    }
}

/// Applies every disk of a capture to its image and compares it with what qemu-img reads from the same export.
pub async fn apply(source: &dyn Source, capture: &Capture, images: &mut [Image], folder: &Path) {
    for (index, (disk, image)) in capture.disks.iter().zip(images.iter_mut()).enumerate() {
        let reader = source.open(capture, &disk.name, disk.incremental).await.unwrap();
        assert_eq!(reader.is_incremental(), disk.incremental);
        image.apply(reader.as_ref()).await;
        let truth = second_opinion(capture, index, folder);
        assert!(image.bytes == truth, "disk {} of {} differs from its export", disk.name, capture.id);
    }
}

/// The bytes of a capture's export as qemu-img reads them.
pub fn second_opinion(capture: &Capture, index: usize, folder: &Path) -> Vec<u8> {
    let handle: &Value = &capture.handle;
    let (socket, key) = (handle["nbd"].as_str().unwrap(), handle["key"].as_str().unwrap());
    let export = format!("driver=nbd,server.type=unix,server.path={socket},export=rpl-{key}-e{index}");
    let out = folder.join("opinion.raw");
    let _ = std::fs::remove_file(&out);
    let status = Command::new("qemu-img").args(["convert", "--image-opts", "-O", "raw", &export]).arg(&out).status();
    assert!(status.unwrap().success());
    std::fs::read(&out).unwrap()
}

/// What a sweep does: everything of kind `capture` goes.
pub async fn sweep(site: &QemuSite) {
    for resource in site.owned().await.unwrap().into_iter().filter(|resource| resource.kind == "capture") {
        site.delete(&resource).await.unwrap();
        site.delete(&resource).await.unwrap(); // absent is success
    }
    let left: Vec<_> = site.owned().await.unwrap().into_iter().filter(|left| left.kind == "capture").collect();
    assert!(left.is_empty(), "{left:?}");
}

pub fn run(command: &str) -> String {
    let output = Command::new("bash").args(["-euc", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

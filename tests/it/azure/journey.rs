//! A real guest goes from a file to Azure, boots there, is captured while it runs, and boots again in QEMU; and a
//! server's increment moves what changed.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cloud::qemu::{Accelerator, QemuConfig, QemuSite, TargetConfig};
use cloud::{CaptureRequest, Cloud, Consistent, Hook, LaunchOptions, Network, Outcome};
use disk::{DiskRead, DiskWrite, Format, LEAF, Silent, Written};
use model::{
    Consistency, DiskName, DiskRoot, Firmware, ImageId, ImageOptions, InstanceId, ManualClock, Role, ServerName,
    SiteName,
};
use tests::guest::guest;

use super::lab::{Lab, lab, token, write_at};
use super::suites::{nothing_left, point, server};

/// Boots took up to 166 seconds on the busiest machine.
const BOOT: Duration = Duration::from_secs(300);
/// What the guest says when the first order is on its disk.
const READY: &str = "REPLICATE-READY";

async fn copy(reader: &dyn DiskRead, writer: Box<dyn DiskWrite>) -> Written {
    let written = disk::transfer(reader, vec![writer], &Silent).await.unwrap();
    written.into_iter().next().unwrap().unwrap()
}

/// Puts a disk into an image of a site, over that of another image if there is one. What boots at Azure has secure boot.
async fn image(site: &dyn Cloud, reader: &dyn DiskRead, base: Option<&ImageId>, step: &str) -> (ImageId, DiskRoot) {
    let (target, name, token) = (site.target().unwrap(), DiskName::new("vda").unwrap(), token(step));
    let (made, writer) = target.create_disk(&name, reader.size(), base, &token).await.unwrap();
    let root = copy(reader, writer).await.root;
    let options = ImageOptions::default();
    let mut point = point(reader.size(), root);
    if site.kind() == "azure" {
        point.machine.firmware = secure();
    }
    (target.register(&[made], &point, &options, Role::Replica, &token).await.unwrap(), root)
}

fn secure() -> Firmware {
    Firmware::Uefi { secure_boot: true, variables: None }
}

async fn boots(site: &dyn Cloud, image: &ImageId, name: &ServerName, ephemeral: bool) -> InstanceId {
    let network = if ephemeral { Network::Isolated } else { Network::Site };
    let options = LaunchOptions { name: name.clone(), network, ports: Vec::new(), ephemeral };
    let target = site.target().unwrap();
    let instance = target.launch(image, &options, &token(&format!("launch-{ephemeral}"))).await.unwrap();
    let end = Instant::now() + BOOT;
    loop {
        let text = target.console(&instance.id).await.unwrap().text;
        let state = target.probe(&instance.id).await.unwrap();
        assert!(!state.panicked, "{text}");
        if text.contains(READY) {
            assert!(state.running && text.contains("Linux version"), "{text}");
            return instance.id;
        }
        assert!(Instant::now() < end, "no guest after {} s:\n{text}", BOOT.as_secs());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

pub fn request(server: &ServerName, step: &str, since: Option<model::Cursor>) -> CaptureRequest {
    let consistent = Consistent {
        level: Consistency::Crash,
        required: false,
        hook: Hook::default(),
        freeze_limit: Duration::from_secs(10),
    };
    CaptureRequest { server: server.clone(), consistent, since, token: token(step) }
}

async fn root_of(reader: &dyn DiskRead, folder: &Path, name: &str) -> DiskRoot {
    let writer = disk::create_file(folder.join(name), Format::Raw, reader.size(), None).await.unwrap();
    copy(reader, writer).await.root
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_goes_there_and_back() {
    let Some(guest) = guest() else { return };
    let lab = lab(true, true).await;
    let (azure, folder) = (lab.site(), tempfile::tempdir().unwrap());
    let (name, server) = (DiskName::new("vda").unwrap(), ServerName::new("web-1").unwrap());
    let file = disk::open_file(&guest.raw, Format::Raw).await.unwrap();
    let (whole, root) = image(azure.as_ref(), file.as_ref(), None, "there").await;
    // what boots is an update: nothing has changed, so Azure has copied every byte of it
    let (there, again) = image(azure.as_ref(), file.as_ref(), Some(&whole), "update").await;
    assert_eq!(again, root);
    let first = azure.owned().await.unwrap().into_iter().find(|it| it.id == whole.as_str()).unwrap();
    azure.delete(&first).await.unwrap();
    let read = azure.target().unwrap().open_image(&there, &name).await.unwrap();
    assert_eq!(root_of(read.as_ref(), folder.path(), "read").await, root, "the image is the file");
    drop(read);
    let instance = boots(azure.as_ref(), &there, &server, false).await;
    let source = azure.source().unwrap();
    let capture = source.capture(&request(&server, "capture", None)).await.unwrap();
    assert_eq!((&capture.machine.firmware, capture.machine.tpm), (&secure(), true));
    let captured = source.open(&capture, &capture.disks[0].name, false).await.unwrap();
    let host = QemuSite::new(
        QemuConfig {
            site: SiteName::new("host").unwrap(),
            sockets: folder.path().join("run/*.qmp").display().to_string(),
            disks: folder.path().join("disks"),
            scratch: None,
            scratch_limit: None,
            jobs_only: false,
            target: TargetConfig { format: Format::Qcow2, accelerator: Accelerator::Tcg, ..TargetConfig::default() },
        },
        Arc::new(ManualClock::new("2026-11-22T03:00:00Z".parse().unwrap())),
    );
    let (back, root) = image(&host, captured.as_ref(), None, "back").await;
    assert_eq!(root_of(captured.as_ref(), folder.path(), "captured").await, root, "the file is the capture");
    drop(captured);
    source.release(&capture, Outcome::Abandoned).await.unwrap();
    azure.target().unwrap().destroy(&instance).await.unwrap();
    let instance = boots(&host, &back, &server, true).await;
    host.target().unwrap().destroy(&instance).await.unwrap();
    nothing_left(&lab, &[&format!("snapshot {there}")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_percent_moves_as_one_percent() {
    one_percent(&lab(false, true).await).await;
}

/// Captures a server, changes a hundredth of its bytes, and captures it again.
pub async fn one_percent(lab: &Lab) {
    let (site, folder) = (lab.site(), tempfile::tempdir().unwrap());
    let (server, file) = server(lab, &site, "web-1").await;
    let size = std::fs::metadata(&file).unwrap().len();
    for mib in 0..size >> 20 {
        write_at(&file, mib << 20, &vec![mib as u8 | 1; 1 << 20]).unwrap();
    }
    let source = site.source().unwrap();
    let first = source.capture(&request(&server, "first", None)).await.unwrap();
    let disk = first.disks[0].name.clone();
    let reader = source.open(&first, &disk, false).await.unwrap();
    let base = folder.path().join("base");
    let writer = disk::create_recorded(&base, Format::Raw, size, None).await.unwrap();
    let root = copy(reader.as_ref(), writer).await.root;
    drop(reader);
    source.release(&first, Outcome::Committed).await.unwrap();
    // one percent of the bytes: some are other ones, some are zero now
    let changed: Vec<u64> = (0..size / LEAF / 100 + 1).map(|nth| nth * 83 * LEAF).collect();
    for (nth, offset) in changed.iter().enumerate() {
        let byte = if nth % 3 == 2 { 0 } else { 0xee };
        write_at(&file, *offset, &vec![byte; LEAF as usize]).unwrap();
    }
    let second = source.capture(&request(&server, "second", first.cursor.clone())).await.unwrap();
    assert!(second.disks[0].incremental, "{:?}", second.disks[0].reason);
    let reader = source.open(&second, &disk, true).await.unwrap();
    let over = disk::Base::open(&base, Format::Raw, &root).await.unwrap();
    let writer = disk::create_recorded(folder.path().join("next"), Format::Raw, size, Some(over)).await.unwrap();
    let written = copy(reader.as_ref(), writer).await;
    drop(reader);
    let whole = source.open(&second, &disk, false).await.unwrap();
    assert_eq!(root_of(whole.as_ref(), folder.path(), "whole").await, written.root);
    assert!(written.received > 0 && written.received * 50 <= size, "{} of {size} bytes moved", written.received);
    drop(whole);
    source.release(&second, Outcome::Committed).await.unwrap();
    // the base before the last is gone
    let bases = site.owned().await.unwrap().into_iter().filter(|it| it.kind == "base").count();
    assert_eq!(bases, 1);
}

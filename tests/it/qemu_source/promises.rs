//! The promises that every source makes, on a real QEMU; and what a capture does with disks out of the ordinary.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use cloud::conformance::{self, Probe, Verdict};
use cloud::{Cloud, Outcome, Source};
use model::{Consistency, DiskName, Firmware, Kind, OwnerId, Result, RunId, ServerName};
use serde_json::json;

use super::bench::{Guest, Image, pair, request, run, site, sweep, tools};

const MIB: u64 = 1 << 20;

/// A machine with two disks whose monitor writes as a guest would.
struct Machine {
    guest: Guest,
    folder: PathBuf,
}

async fn machine(folder: &Path) -> Machine {
    Machine { guest: pair(folder).await, folder: folder.to_owned() }
}

#[async_trait]
impl Probe for Machine {
    fn owner(&self) -> OwnerId {
        OwnerId::new("me").unwrap()
    }

    fn run(&self) -> RunId {
        RunId::new("run-conformance").unwrap()
    }

    fn server(&self) -> Option<ServerName> {
        Some(ServerName::new("pair").unwrap())
    }

    fn may_switch(&self) -> bool {
        true
    }

    fn limit(&self) -> Duration {
        Duration::from_secs(60)
    }

    async fn write(&self, _server: &ServerName, disk: &DiskName, offset: u64, data: &[u8]) -> Option<Result<()>> {
        let file = self.folder.join("pattern");
        std::fs::write(&file, data).unwrap();
        let device = format!("/machine/peripheral/{disk}/virtio-backend");
        let line = format!("qemu-io -d {device} \"write -s {} {offset} {}\"", file.display(), data.len());
        let mut qmp = self.guest.qmp("pair").await;
        let said = qmp.execute("human-monitor-command", json!({ "command-line": line })).await.unwrap();
        assert!(!said.as_str().unwrap().contains("rror"), "{said}");
        Some(Ok(()))
    }

    async fn lose_changes(&self, _server: &ServerName) -> Option<Result<()>> {
        let names = self.guest.bitmaps("pair").await;
        let mut qmp = self.guest.qmp("pair").await;
        let nodes = qmp.execute("query-named-block-nodes", json!({})).await.unwrap();
        for node in nodes.as_array().unwrap() {
            for bitmap in node["dirty-bitmaps"].as_array().into_iter().flatten() {
                assert!(names.contains(&bitmap["name"].as_str().unwrap().to_owned()));
                let arguments = json!({ "node": node["node-name"], "name": bitmap["name"] });
                qmp.execute("block-dirty-bitmap-remove", arguments).await.unwrap();
            }
        }
        Some(Ok(()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_promises_of_a_source_hold() {
    if !tools() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let machine = machine(folder.path()).await;
    let findings = conformance::source(&site(folder.path(), |_| {}), &machine).await;
    for finding in &findings {
        eprintln!("{:?} {}: {}", finding.verdict, finding.name, finding.detail);
    }
    assert!(findings.len() > 12);
    let (passed, rest): (Vec<_>, Vec<_>) = findings.iter().partition(|finding| finding.verdict == Verdict::Passed);
    let rest: Vec<_> = rest.iter().map(|finding| finding.name.as_str()).collect();
    assert_eq!(rest, ["capture.thawed"], "only what needs an agent is skipped; {} hold", passed.len());
    machine.guest.is_clean("pair").await.unwrap();
    assert!(machine.guest.bitmaps("pair").await.is_empty());
}

/// A bitmap that someone stopped, or that is someone else's, is neither trusted nor touched.
#[tokio::test(flavor = "multi_thread")]
async fn unfit_bitmaps_are_not_trusted() {
    if !tools() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let Machine { guest, folder } = machine(folder.path()).await;
    let site = site(&folder, |_| {});
    let one = "/machine/peripheral/one/virtio-backend";
    let first = site.capture(&request("pair", "run-1", None, Consistency::Crash)).await.unwrap();
    site.release(&first, Outcome::Committed).await.unwrap();
    let cursor = first.cursor.clone().unwrap();

    // someone stops it, the guest writes, a capture is abandoned: the bitmap must not come back as if it knew
    let mut qmp = guest.qmp("pair").await;
    let stop = json!({ "node": "one", "name": cursor.as_str() });
    let nodes = qmp.execute("query-block", json!({})).await.unwrap();
    let node = nodes.as_array().unwrap().iter().find(|block| block["device"] == "one").unwrap();
    let stop = json!({ "node": node["inserted"]["node-name"], "name": stop["name"] });
    qmp.execute("block-dirty-bitmap-disable", stop).await.unwrap();
    drop(qmp);
    guest.write("pair", one, 55, 4 * MIB, MIB).await;
    for round in ["run-2", "run-3"] {
        let capture = site.capture(&request("pair", round, Some(&cursor), Consistency::Crash)).await.unwrap();
        let known: Vec<bool> = capture.disks.iter().map(|disk| disk.incremental).collect();
        assert_eq!(known, [false, true], "{round}: {:?}", capture.disks);
        assert!(capture.disks[0].reason.as_ref().unwrap().contains("stopped"));
        assert!(capture.warnings.iter().any(|warning| warning.contains("one")), "{:?}", capture.warnings);
        site.release(&capture, Outcome::Abandoned).await.unwrap();
    }

    // another policy's cursor leads to a full read, and their bitmap records on
    let mut other = request("pair", "run-4", Some(&cursor), Consistency::Crash);
    other.token.policy = Some("other".parse().unwrap());
    let capture = site.capture(&other).await.unwrap();
    assert!(capture.disks.iter().all(|disk| !disk.incremental), "{:?}", capture.disks);
    site.release(&capture, Outcome::Committed).await.unwrap();
    assert_eq!(guest.bitmaps("pair").await.len(), 2, "both policies have theirs");
    let capture = site.capture(&request("pair", "run-5", Some(&cursor), Consistency::Crash)).await.unwrap();
    assert!(capture.disks[1].incremental);
    site.release(&capture, Outcome::Committed).await.unwrap();
    assert_eq!(guest.bitmaps("pair").await.len(), 2);

    // the resources are listed with their policies, and can be deleted
    let bitmaps = site.owned().await.unwrap();
    assert_eq!(bitmaps.iter().map(|left| left.tags["replicate:policy"].as_str()).collect::<Vec<_>>().len(), 2);
    for bitmap in &bitmaps {
        site.delete(bitmap).await.unwrap();
        site.delete(bitmap).await.unwrap();
    }
    assert!(guest.bitmaps("pair").await.is_empty() && site.owned().await.unwrap().is_empty());
}

/// A capture whose record is lost (scratch on a volatile file system) is found in the guest and removed.
#[tokio::test(flavor = "multi_thread")]
async fn strays_without_a_record_are_found() {
    if !tools() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let Machine { guest, folder } = machine(folder.path()).await;
    let site = site(&folder, |_| {});
    site.capture(&request("pair", "run-1", None, Consistency::Crash)).await.unwrap();
    std::fs::remove_dir_all(folder.join("scratch")).unwrap();
    let left = site.owned().await.unwrap();
    assert_eq!((left.len(), left[0].kind.as_str()), (1, "capture"));
    assert!(left[0].tags["replicate:owner"].starts_with("unknown:"), "nobody else's is taken for ours");
    let mut other = request("pair", "run-2", None, Consistency::Crash);
    other.token.owner = OwnerId::new("someone").unwrap();
    assert_eq!(site.capture(&other).await.unwrap_err().kind(), Kind::Transient, "it may be someone else's");
    // its owner knows by the missing record that it is dead, and makes way
    let next = site.capture(&request("pair", "run-3", None, Consistency::Crash)).await.unwrap();
    site.release(&next, Outcome::Committed).await.unwrap();
    guest.is_clean("pair").await.unwrap();
    sweep(&site).await;
}

/// Firmware variables travel along; a read-only disk is captured as it is.
#[tokio::test(flavor = "multi_thread")]
async fn firmware_and_read_only_disks() {
    let code = ["/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_CODE_4M.fd"]
        .into_iter()
        .find(|file| Path::new(file).exists());
    let (true, Some(code)) = (tools(), code) else {
        eprintln!("SKIPPED: OVMF is not installed");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (variables, seed) = (folder.join("variables"), folder.join("seed.raw"));
    std::fs::copy(code.replace("CODE", "VARS"), &variables).unwrap();
    run(&format!("truncate -s 1M {0}; qemu-io -f raw -c 'write -P 6 0 64k' {0}", seed.display()));
    let disk = folder.join("disk.qcow2");
    run(&format!("qemu-img create -q -f qcow2 {} 4M", disk.display()));
    let arguments = [
        "-M".to_owned(),
        "q35".into(),
        "-S".into(), // the processor does not run: nothing writes the variables
        "-drive".into(),
        format!("if=pflash,format=raw,readonly=on,file={code}"),
        "-drive".into(),
        format!("if=pflash,format=raw,file={}", variables.display()),
        "-drive".into(),
        format!("if=none,id=d,format=qcow2,file={}", disk.display()),
        "-device".into(),
        "virtio-blk-pci,id=disk,drive=d".into(),
        "-drive".into(),
        format!("if=none,id=s,format=raw,readonly=on,file={}", seed.display()),
        "-device".into(),
        "virtio-blk-pci,id=seed,drive=s".into(),
    ];
    let _guest = Guest::start(folder, "uefi", &arguments).await;
    let site = site(folder, |_| {});
    let found = site.describe(&"uefi".parse().unwrap()).await.unwrap().machine;
    let Firmware::Uefi { secure_boot: false, variables: Some(carried) } = found.firmware else {
        panic!("{:?}", found.firmware)
    };
    assert!(carried.len() < 100_000 && carried.len() > 100, "{} bytes of variables", carried.len());
    let names: Vec<&str> = found.disks.iter().map(|disk| disk.name.as_str()).collect();
    assert_eq!(names, ["disk", "seed"], "flash is no disk");
    // a guest that does not run is captured without being set going
    let capture = site.capture(&request("uefi", "run-1", None, Consistency::Crash)).await.unwrap();
    let mut image = Image::new();
    let name = DiskName::new("seed").unwrap();
    image.apply(site.open(&capture, &name, false).await.unwrap().as_ref()).await;
    assert!(image.bytes[..65_536].iter().all(|byte| *byte == 6) && image.bytes[65_536..].iter().all(|byte| *byte == 0));
    site.release(&capture, Outcome::Committed).await.unwrap();
    let mut qmp = _guest.qmp("uefi").await;
    let state = qmp.execute("query-status", json!({})).await.unwrap();
    assert_eq!(state["running"], json!(false), "it was not running, and it is not");
}

//! Disks served over NBD straight from a vault, to the programs that people use: `qemu-img`, several at once, and a guest that boots.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use disk::{Export, Format, NbdServer, Silent};
use model::{
    Arch, Consistency, DiskName, Firmware, MachineSpec, ManualClock, PointDisk, PointId, RestorePoint, ServerName,
};
use tests::guest::{guest, has, skip};
use vault::bucket::DirBucket;
use vault::{Options, Recipient, Vault};

const AGE_PUBLIC: &str = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";

/// A vault with the disk as a point, served at `socket` until the test's runtime ends.
async fn serve(folder: &Path, raw: &Path) -> String {
    let bucket = Arc::new(DirBucket::create(folder.join("vault")).unwrap());
    let clock = Arc::new(ManualClock::new("2026-11-22T03:00:00Z".parse().unwrap()));
    let recipients = [Recipient::AgePublic(AGE_PUBLIC.to_owned())];
    let vault = Vault::create(bucket, &recipients, Options::new(clock)).await.unwrap();
    let (id, server, name) = (
        PointId::new("20261122T030000Z-7f3a9c21").unwrap(),
        ServerName::new("web-1").unwrap(),
        DiskName::new("vda").unwrap(),
    );
    let reader = disk::open_file(raw, Format::Raw).await.unwrap();
    let writer = vault.begin(&id, &server, None).await.unwrap();
    let writers = vec![writer.disk(&name, reader.size(), false).await.unwrap()];
    let moved = disk::transfer(&*reader, writers, &Silent).await.unwrap();
    let root = moved.into_iter().next().unwrap().unwrap().root;
    let machine = MachineSpec {
        arch: Arch::X86_64,
        firmware: Firmware::Bios,
        memory: 1 << 28,
        vcpus: 1,
        chipset: None,
        flavor: None,
        disks: Vec::new(),
        nics: Vec::new(),
        agent: false,
        tpm: false,
        tags: Default::default(),
    };
    let point = RestorePoint {
        id: id.clone(),
        server,
        site: None,
        policy: None,
        owner: None,
        taken_at: "2026-11-22T03:00:00Z".parse().unwrap(),
        consistency: Consistency::Crash,
        machine,
        disks: vec![PointDisk { name: name.clone(), size: reader.size(), root }],
        program: "tests".to_owned(),
    };
    writer.seal(&point).await.unwrap();
    let export = Export { name: "vda".to_owned(), disk: vault.open_disk(&id, &name).await.unwrap().into() };
    let server = Arc::new(NbdServer::new(vec![export], 64 << 20).unwrap());
    let socket = folder.join("nbd.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    tokio::spawn(async move {
        // the vault's folder lives as long as what reads it
        let _vault = vault;
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let server = server.clone();
            tokio::spawn(async move { server.serve(stream).await });
        }
    });
    format!("nbd+unix:///vda?socket={}", socket.display())
}

async fn run(program: &str, arguments: &[&str]) -> String {
    let output = tokio::process::Command::new(program).args(arguments).output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn qemu_img_reads_the_disk_several_at_once_and_sees_its_holes() {
    if !has("qemu-img") {
        return skip("qemu-img is not installed").unwrap_or_default();
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    let mut bytes = vec![0; (40 << 20) + 512];
    for (number, sector) in bytes.chunks_mut(512).enumerate().filter(|(number, _)| number % 50_000 < 9000) {
        sector.fill((number % 251) as u8 + 1);
    }
    std::fs::write(&raw, &bytes).unwrap();
    let url = serve(folder.path(), &raw).await;
    let copies = ["a.raw", "b.raw", "c.raw"].map(|name| folder.path().join(name));
    let convert = |copy: &Path| {
        let (copy, url) = (copy.display().to_string(), url.clone());
        async move { run("qemu-img", &["convert", "-f", "raw", "-O", "raw", "-m", "8", "-W", &url, &copy]).await }
    };
    tokio::join!(convert(&copies[0]), convert(&copies[1]), convert(&copies[2]));
    for copy in &copies {
        assert!(std::fs::read(copy).unwrap() == bytes, "{}", copy.display());
    }
    let map = run("qemu-img", &["map", "--output=json", "-f", "raw", &url]).await;
    let map: serde_json::Value = serde_json::from_str(&map).unwrap();
    let data: u64 =
        map.as_array().unwrap().iter().filter(|e| e["data"] == true).map(|e| e["length"].as_u64().unwrap()).sum();
    assert!(data < 16 << 20, "holes are told: {data} bytes of data");
    let refused = Command::new("qemu-io").args(["-f", "raw", "-c", "write 0 512", &url]).output().unwrap();
    assert!(!refused.status.success() || String::from_utf8_lossy(&refused.stderr).contains("read"), "{refused:?}");
}

/// Restore in seconds: nothing is copied before the guest runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_boots_from_the_vault_with_an_overlay_over_it() {
    let Some(guest) = guest() else { return };
    let folder = tempfile::tempdir().unwrap();
    let url = serve(folder.path(), &guest.raw).await;
    let overlay = folder.path().join("overlay.qcow2").display().to_string();
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-F", "raw", "-b", &url, &overlay]).await;
    let log = folder.path().join("console.log");
    let arguments = [
        "-accel",
        "tcg",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-m",
        "256",
        "-no-reboot",
        "-serial",
        &format!("file:{}", log.display()),
        "-drive",
        &format!("if=virtio,format=qcow2,file={overlay}"),
    ]
    .map(str::to_owned);
    let mut process =
        Command::new("qemu-system-x86_64").args(&arguments).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let until = Instant::now() + Duration::from_secs(300);
    let shown = loop {
        let shown = std::fs::read(&log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        if shown.contains("REPLICATE-READY") || Instant::now() >= until || process.try_wait().unwrap().is_some() {
            break shown;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(shown.contains("REPLICATE-READY"), "{shown}");
}

//! Servers that are off, captured from their files by a sidecar.

use std::path::Path;

use cloud::{Capture, Cloud, Outcome, Power, Source};
use model::{Consistency, Kind};

use super::bench::{Guest, Image, request, run, site, sweep, tools};

const MIB: u64 = 1 << 20;

pub fn server(folder: &Path) {
    let (qcow2, raw) = (folder.join("a.qcow2"), folder.join("b.raw"));
    run(&format!("qemu-img create -q -f qcow2 {0} 32M; qemu-io -f qcow2 -c 'write -P 1 1M 2M' {0}", qcow2.display()));
    run(&format!("truncate -s 8M {0}; qemu-io -f raw -c 'write -P 2 1M 1M' {0}", raw.display()));
    let sidecar = format!(
        "tags = {{ tier = \"db\" }}\nmemory = \"512MiB\"\nvcpus = 2\nfirmware = {{ kind = \"uefi\" }}\n\
         [[disks]]\nname = \"disk0\"\npath = {qcow2:?}\nformat = \"qcow2\"\n\
         [[disks]]\nname = \"data\"\npath = {raw:?}\nformat = \"raw\"\nbus = \"scsi\"\n"
    );
    std::fs::write(folder.join("db.toml"), sidecar).unwrap();
}

/// The bytes of both disks, by qemu-img.
pub fn truth(folder: &Path) -> [Vec<u8>; 2] {
    let out = folder.join("truth.raw");
    [("qcow2", "a.qcow2"), ("raw", "b.raw")].map(|(format, file)| {
        run(&format!("qemu-img convert -U -f {format} -O raw {} {}", folder.join(file).display(), out.display()));
        std::fs::read(&out).unwrap()
    })
}

async fn apply(source: &dyn Source, capture: &Capture, images: &mut [Image]) {
    for (disk, image) in capture.disks.iter().zip(images) {
        image.apply(source.open(capture, &disk.name, disk.incremental).await.unwrap().as_ref()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn full_then_increment_then_the_server_is_started() {
    if !tools() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    server(folder);
    let site = site(folder, |_| {});
    let servers = site.servers().await.unwrap();
    assert_eq!((servers[0].name.as_str(), servers[0].power), ("db", Power::Off));
    assert_eq!((servers[0].machine.memory, servers[0].machine.disks[0].size), (512 * MIB, 32 * MIB));

    let mut images = [Image::new(), Image::new()];
    let first = site.capture(&request("db", "run-1", None, Consistency::Crash)).await.unwrap();
    assert_eq!(site.capture(&request("db", "run-1", None, Consistency::Crash)).await.unwrap(), first);
    apply(&site, &first, &mut images).await;
    assert!(images.iter().map(|image| &image.bytes).eq(&truth(folder)));
    assert_eq!((images[0].read, images[1].read), (2 * MIB, MIB), "holes are not read");
    site.release(&first, Outcome::Committed).await.unwrap();

    run(&format!("qemu-io -f qcow2 -c 'write -P 7 20M 1M' {}", folder.join("a.qcow2").display()));
    let second = site.capture(&request("db", "run-2", first.cursor.as_ref(), Consistency::Crash)).await.unwrap();
    site.release(&second, Outcome::Abandoned).await.unwrap();
    let third = site.capture(&request("db", "run-3", first.cursor.as_ref(), Consistency::Crash)).await.unwrap();
    let known: Vec<bool> = third.disks.iter().map(|disk| disk.incremental).collect();
    assert_eq!(known, [true, false], "{:?}", third.disks);
    apply(&site, &third, &mut images).await;
    assert!(images.iter().map(|image| &image.bytes).eq(&truth(folder)));
    assert_eq!(images[0].read, MIB, "the abandoned capture loses nothing");
    let info = run(&format!("qemu-img info {}", folder.join("a.qcow2").display()));
    assert_eq!(info.matches("name: rpl-").count(), 2);

    // started between capture and release: the capture is over, and the server is not hindered
    let reader = site.open(&third, &third.disks[0].name, true).await.unwrap();
    let drive = format!("if=none,id=d0,format=qcow2,file={}", folder.join("a.qcow2").display());
    let more = format!("if=none,id=d1,format=raw,file={}", folder.join("b.raw").display());
    let arguments = ["-drive", &drive, "-device", "virtio-blk-pci,id=disk0,drive=d0", "-drive", &more];
    let arguments: Vec<String> = arguments
        .into_iter()
        .chain(["-device", "virtio-scsi-pci", "-device", "scsi-hd,id=x,drive=d1"])
        .map(String::from)
        .collect();
    let guest = Guest::start(folder, "db", &arguments).await;
    guest.write("db", "/machine/peripheral/disk0/virtio-backend", 8, 22 * MIB, MIB).await;
    assert_eq!(reader.read_at(20 * MIB, 65_536).await.unwrap_err().kind(), Kind::Damaged);
    drop(reader);
    sweep(&site).await; // abandons it, in the running guest now
    let fourth = site.capture(&request("db", "run-4", first.cursor.as_ref(), Consistency::Crash)).await.unwrap();
    assert_eq!(fourth.disks[1].name.as_str(), "data", "the sidecar names the disk also while it runs");
    assert!(fourth.disks[0].incremental, "{:?}", fourth.disks);
    images[0].apply(site.open(&fourth, &fourth.disks[0].name, true).await.unwrap().as_ref()).await;
    assert_eq!(images[0].read, 2 * MIB, "what was written while it was off, and while it ran");
    assert_eq!(images[0].bytes[(22 * MIB) as usize], 8);
    site.release(&fourth, Outcome::Committed).await.unwrap();
    guest.is_clean("db").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_captured_says_why() {
    if !tools() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("db.toml"), "tags = {}\n").unwrap();
    let site = site(folder.path(), |_| {});
    let bare = site.capture(&request("db", "run-1", None, Consistency::Crash)).await.unwrap_err();
    assert_eq!(bare.kind(), Kind::NotFound, "{}", bare.chain());
    assert!(bare.advice().unwrap().contains("db.toml") || bare.advice().unwrap().contains("NAME.toml"));
    assert_eq!(site.describe(&"no".parse().unwrap()).await.unwrap_err().kind(), Kind::NotFound);
    assert!(site.owned().await.unwrap().is_empty());
}

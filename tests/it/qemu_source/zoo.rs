//! A machine with a disk on every bus and no operating system: its monitor writes as a guest would.

use std::path::Path;

use cloud::qemu::QemuConfig;
use cloud::{Cloud, Outcome, Power, Source};
use model::{Arch, Consistency, DiskBus, Firmware, Kind};

use super::bench::{Guest, Image, QEMU, apply, request, run, second_opinion, site, sweep, tools};

const MIB: u64 = 1 << 20;

/// virtio-blk; virtio-blk in an I/O thread; virtio-scsi; NVMe; an anonymous `-drive` with a raw file.
const DEVICES: [&str; 5] = [
    "/machine/peripheral/disk0/virtio-backend",
    "/machine/peripheral/threaded/virtio-backend",
    "/machine/peripheral/scsi",
    "/machine/peripheral/nvme",
    "/machine/peripheral-anon/device[0]/virtio-backend",
];

async fn zoo(folder: &Path) -> Guest {
    zoo_by(Path::new(QEMU), folder, true).await
}

/// With or without an I/O thread.
async fn zoo_by(program: &Path, folder: &Path, threaded: bool) -> Guest {
    let mut arguments: Vec<String> = ["-M", "q35", "-device", "virtio-scsi-pci,id=hba"].map(String::from).to_vec();
    if threaded {
        arguments.extend(["-object", "iothread,id=io0"].map(String::from));
    }
    let devices = [
        "virtio-blk-pci,id=disk0,drive=d0,bootindex=1,serial=abc",
        if threaded {
            "virtio-blk-pci,id=threaded,drive=d1,iothread=io0"
        } else {
            "virtio-blk-pci,id=threaded,drive=d1"
        },
        "scsi-hd,id=scsi,drive=d2",
        "nvme,id=nvme,drive=d3,serial=nv",
    ];
    for (index, device) in devices.iter().enumerate() {
        let file = folder.join(format!("{index}.qcow2"));
        run(&format!("qemu-img create -q -f qcow2 {} {}M", file.display(), 16 + index));
        run(&format!("qemu-io -f qcow2 -c 'write -P {} 1M 4M' {}", index + 1, file.display()));
        arguments.extend(["-drive".into(), format!("if=none,id=d{index},format=qcow2,file={}", file.display())]);
        arguments.extend(["-device".into(), (*device).into()]);
    }
    let raw = folder.join("4.raw");
    run(&format!("truncate -s 20M {0}; qemu-io -f raw -c 'write -P 5 1M 4M' {0}", raw.display()));
    arguments.extend(["-drive".into(), format!("if=virtio,format=raw,file={}", raw.display())]);
    arguments.extend(["-nic", "user,model=virtio-net-pci,mac=52:54:00:12:34:99"].map(String::from));
    Guest::start_by(program, folder, "zoo", &arguments).await
}

fn images() -> Vec<Image> {
    (0..5).map(|_| Image::new()).collect()
}

/// A full capture and increments, with one abandoned and one over a restart in between; every disk is compared
/// with its export each time, while the "guest" writes behind the cut.
async fn follow(mut guest: Guest, folder: &Path, change: fn(&mut QemuConfig)) {
    let site = site(folder, change);
    let mut images = images();

    let first = site.capture(&request("zoo", "run-1", None, Consistency::Crash)).await.unwrap();
    for device in DEVICES {
        guest.write("zoo", device, 9, MIB, MIB).await; // must not be seen in the capture
    }
    apply(&site, &first, &mut images, folder).await;
    assert!(images.iter().enumerate().all(|(index, image)| image.bytes[MIB as usize] == index as u8 + 1));
    assert!(images.iter().all(|image| image.read <= 5 * MIB), "holes are not read");
    let again = site.capture(&request("zoo", "run-1", None, Consistency::Crash)).await.unwrap();
    assert_eq!(again, first, "the same token finds the same capture");
    let other = site.capture(&request("zoo", "run-x", None, Consistency::Crash)).await.unwrap_err();
    assert_eq!(other.kind(), Kind::Transient, "{}", other.chain());
    site.release(&first, Outcome::Committed).await.unwrap();
    site.release(&first, Outcome::Committed).await.unwrap();
    guest.is_clean("zoo").await.unwrap();

    // an abandoned capture loses nothing
    let second = site.capture(&request("zoo", "run-2", first.cursor.as_ref(), Consistency::Crash)).await.unwrap();
    assert!(second.disks.iter().all(|disk| disk.incremental), "{:?}", second.disks);
    guest.write("zoo", DEVICES[0], 10, 8 * MIB, MIB).await;
    site.release(&second, Outcome::Abandoned).await.unwrap();
    site.release(&second, Outcome::Abandoned).await.unwrap();
    guest.is_clean("zoo").await.unwrap();
    let third = site.capture(&request("zoo", "run-3", first.cursor.as_ref(), Consistency::Crash)).await.unwrap();
    apply(&site, &third, &mut images, folder).await;
    assert_eq!(images[0].read, 2 * MIB, "what was written before and during the abandoned capture");
    assert_eq!(images[3].read, MIB);
    site.release(&third, Outcome::Committed).await.unwrap();
    assert_eq!(guest.bitmaps("zoo").await, [third.cursor.as_ref().unwrap().as_str()], "one bitmap, the base");

    // a restart keeps the bitmaps of qcow2 disks; the raw disk is read whole, and says why
    guest.write("zoo", DEVICES[2], 11, 9 * MIB, MIB).await;
    guest.quit("zoo").await;
    guest.again("zoo").await;
    let fourth = site.capture(&request("zoo", "run-4", third.cursor.as_ref(), Consistency::Crash)).await.unwrap();
    let known: Vec<bool> = fourth.disks.iter().map(|disk| disk.incremental).collect();
    assert_eq!(known, [true, true, true, true, false], "{:?}", fourth.disks);
    assert!(fourth.disks[4].reason.as_ref().unwrap().contains("restarted"));
    apply(&site, &fourth, &mut images, folder).await;
    assert_eq!((images[1].read, images[2].read), (0, MIB));

    // killed with a capture in place: nothing is held, nothing is trusted
    guest.kill();
    guest.again("zoo").await;
    let lost = site.capture(&request("zoo", "run-4", third.cursor.as_ref(), Consistency::Crash)).await.unwrap_err();
    assert_eq!(lost.kind(), Kind::Damaged, "{}", lost.chain());
    let name = fourth.disks[0].name.clone();
    assert_eq!(site.open(&fourth, &name, true).await.err().unwrap().kind(), Kind::Damaged);
    site.release(&fourth, Outcome::Abandoned).await.unwrap();
    let fifth = site.capture(&request("zoo", "run-5", third.cursor.as_ref(), Consistency::Crash)).await.unwrap();
    assert!(fifth.disks.iter().all(|disk| !disk.incremental && disk.reason.is_some()), "{:?}", fifth.disks);
    apply(&site, &fifth, &mut images, folder).await;
    site.release(&fifth, Outcome::Committed).await.unwrap();
    guest.is_clean("zoo").await.unwrap();
    assert_eq!(guest.bitmaps("zoo").await, [fifth.cursor.as_ref().unwrap().as_str()]);
    let left: Vec<_> = site.owned().await.unwrap().into_iter().map(|left| left.kind).collect();
    assert_eq!(left, ["bitmap"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_on_every_bus() {
    if tools() {
        let folder = tempfile::tempdir().unwrap();
        follow(zoo(folder.path()).await, folder.path(), |_| {}).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_jobs_do_the_same() {
    if tools() {
        let folder = tempfile::tempdir().unwrap();
        follow(zoo(folder.path()).await, folder.path(), |config| config.jobs_only = true).await;
    }
}

/// QEMU 7.2, which Debian 12 has, by filters and by jobs; and a guest with I/O threads, which it would not survive to be read
/// from, is not touched.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "fetches another QEMU: part of the slow proofs"]
async fn an_older_qemu_does_the_same() {
    if !tools() {
        return;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest/older-qemu.sh");
    let output = std::process::Command::new(script).output().unwrap();
    let program = String::from_utf8(output.stdout).unwrap();
    if !output.status.success() {
        return tests::guest::skip(&format!("no older QEMU: {}", String::from_utf8_lossy(&output.stderr).trim()))
            .unwrap_or_default();
    }
    for change in [(|_| {}) as fn(&mut QemuConfig), |config| config.jobs_only = true] {
        let folder = tempfile::tempdir().unwrap();
        follow(zoo_by(Path::new(program.trim()), folder.path(), false).await, folder.path(), change).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let guest = zoo_by(Path::new(program.trim()), folder.path(), true).await;
    let site = site(folder.path(), |_| {});
    let refused = site.capture(&request("zoo", "run-1", None, Consistency::Crash)).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Invalid, "{}", refused.chain());
    assert!(refused.chain().contains("I/O threads"), "{}", refused.chain());
    guest.write("zoo", DEVICES[1], 9, MIB, MIB).await;
    guest.is_clean("zoo").await.unwrap();
}

/// IDE and SATA disks: one kind of device to QEMU, told apart, captured and followed like the others.
#[tokio::test(flavor = "multi_thread")]
async fn disks_on_ide_and_sata() {
    if !tools() {
        return;
    }
    for (chipset, controller, bus) in [("pc", None, DiskBus::Ide), ("q35", Some("ich9-ahci,id=sata"), DiskBus::Sata)] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let mut arguments: Vec<String> = vec!["-M".into(), chipset.into()];
        arguments.extend(controller.into_iter().flat_map(|device| ["-device".to_owned(), device.to_owned()]));
        for index in 0..2 {
            let file = folder.join(format!("{index}.qcow2"));
            run(&format!("qemu-img create -q -f qcow2 {} 16M", file.display()));
            arguments.extend(["-drive".into(), format!("if=none,id=d{index},format=qcow2,file={}", file.display())]);
            let place = if bus == DiskBus::Ide { "ide.0,unit=" } else { "sata." };
            arguments.extend(["-device".into(), format!("ide-hd,id=hd{index},bus={place}{index},drive=d{index}")]);
        }
        let guest = Guest::start(folder, "old", &arguments).await;
        let site = site(folder, |_| {});
        guest.write("old", "/machine/peripheral/hd0", 3, MIB, MIB).await;
        let first = site.capture(&request("old", "run-1", None, Consistency::Crash)).await.unwrap();
        assert!(first.machine.disks.iter().all(|disk| disk.bus == bus), "{:?}", first.machine.disks);
        guest.write("old", "/machine/peripheral/hd0", 4, MIB, MIB).await; // behind the cut
        let mut images: Vec<Image> = (0..2).map(|_| Image::new()).collect();
        apply(&site, &first, &mut images, folder).await;
        assert_eq!(images[0].bytes[MIB as usize], 3);
        site.release(&first, Outcome::Committed).await.unwrap();
        guest.write("old", "/machine/peripheral/hd1", 5, 2 * MIB, MIB).await;
        let second = site.capture(&request("old", "run-2", first.cursor.as_ref(), Consistency::Crash)).await.unwrap();
        assert!(second.disks.iter().all(|disk| disk.incremental), "{:?}", second.disks);
        apply(&site, &second, &mut images, folder).await;
        assert_eq!((images[0].read, images[1].read), (MIB, MIB));
        site.release(&second, Outcome::Committed).await.unwrap();
        guest.is_clean("old").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_scratch_breaks_the_capture_and_not_the_guest() {
    if !tools() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let guest = zoo(folder.path()).await;
    let roomy = site(folder.path(), |_| {});
    let first = roomy.capture(&request("zoo", "run-1", None, Consistency::Crash)).await.unwrap();
    roomy.release(&first, Outcome::Committed).await.unwrap();

    let tight = site(folder.path(), |config| config.scratch_limit = Some(8 * MIB));
    let second = tight.capture(&request("zoo", "run-2", first.cursor.as_ref(), Consistency::Crash)).await.unwrap();
    guest.write("zoo", DEVICES[0], 77, MIB, 4 * MIB).await; // 4 MiB of old data do not fit into its share
    let name = second.disks[0].name.clone();
    let broken = match tight.open(&second, &name, false).await {
        Ok(reader) => match reader.extents(0).await {
            Ok(_) => reader.read_at(MIB, MIB as usize).await.unwrap_err(),
            Err(error) => error,
        },
        Err(error) => error,
    };
    assert_eq!(broken.kind(), Kind::Damaged, "{}", broken.chain());
    assert!(broken.advice().unwrap().contains("scratch"), "{:?}", broken.advice());
    tight.release(&second, Outcome::Abandoned).await.unwrap();
    guest.is_clean("zoo").await.unwrap();

    let third = roomy.capture(&request("zoo", "run-3", first.cursor.as_ref(), Consistency::Crash)).await.unwrap();
    assert!(third.disks[0].incremental);
    let truth = second_opinion(&third, 0, folder.path());
    assert!(truth[MIB as usize..5 * MIB as usize].iter().all(|byte| *byte == 77));
    let mut image = Image::new();
    image.bytes = vec![0; third.disks[0].size as usize];
    image.apply(roomy.open(&third, &name, true).await.unwrap().as_ref()).await;
    assert!(image.bytes[MIB as usize..5 * MIB as usize] == truth[MIB as usize..5 * MIB as usize]);
    sweep(&roomy).await;
    guest.is_clean("zoo").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_machine_is_described() {
    if !tools() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("zoo.toml"), "tags = { backup = \"daily\" }\n").unwrap();
    let mut guest = zoo(folder.path()).await;
    let site = site(folder.path(), |_| {});
    let servers = site.servers().await.unwrap();
    assert_eq!(servers.len(), 1);
    let (server, machine) = (&servers[0], &servers[0].machine);
    assert_eq!((server.name.as_str(), server.power, machine.arch), ("zoo", Power::On, Arch::X86_64));
    assert_eq!((machine.memory, machine.vcpus, machine.chipset.as_deref()), (192 * MIB, 1, Some("q35")));
    assert_eq!(machine.firmware, Firmware::Bios);
    assert_eq!(machine.tags["backup"], "daily");
    assert_eq!(machine.nics[0].mac.as_deref(), Some("52:54:00:12:34:99"));
    let disks: Vec<_> = machine.disks.iter().map(|disk| (disk.name.as_str(), disk.bus, disk.size / MIB)).collect();
    let (virtio, scsi, nvme) = (DiskBus::Virtio, DiskBus::Scsi, DiskBus::Nvme);
    assert_eq!(disks[0], ("disk0", virtio, 16), "the boot disk is the first");
    let mut rest = disks[1..].to_vec();
    rest.sort_by_key(|disk| disk.0);
    assert_eq!(rest, [("nvme", nvme, 19), ("scsi", scsi, 18), ("threaded", virtio, 17), ("virtio0", virtio, 20)]);
    assert_eq!(machine.disks[0].serial.as_deref(), Some("abc"));
    guest.quit("zoo").await;
    let off = site.servers().await.unwrap();
    assert_eq!(off[0].power, Power::Off, "its sidecar keeps it listed");
}

//! The target side of a QEMU host on real guests: disks are written, an image is registered, it boots under BIOS and
//! UEFI on an isolated network, a panic is seen, and nothing is left behind.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cloud::conformance::{self, Probe, Verdict};
use cloud::qemu::{Accelerator, QemuConfig, QemuSite, TargetConfig};
use cloud::{Cloud, LaunchOptions, Network, ProbeState, Resource, Source, Target};
use disk::{Format, Silent};
use model::{
    Arch, Consistency, DiskBus, DiskName, DiskSpec, Firmware, ImageId, ImageOptions, InstanceId, Kind, MachineSpec,
    ManualClock, NicSpec, OwnerId, PointDisk, RestorePoint, Role, RunId, ServerName, SiteName, Tags, Token,
};
use tests::guest::{Guest, guest};

/// Boots took up to 166 seconds on the busiest machine.
const BOOT: Duration = Duration::from_secs(300);

struct Lab {
    folder: tempfile::TempDir,
    site: QemuSite,
    guest: Guest,
}

fn lab(format: Format) -> Option<Lab> {
    let guest = guest()?;
    let folder = tempfile::tempdir().expect("folder");
    let config = QemuConfig {
        site: SiteName::new("lab").unwrap(),
        sockets: format!("{}/run/*.qmp", folder.path().display()),
        disks: folder.path().join("disks"),
        scratch: None,
        scratch_limit: None,
        jobs_only: false,
        target: TargetConfig { format, accelerator: Accelerator::Tcg, ..TargetConfig::default() },
    };
    let clock = Arc::new(ManualClock::new("2026-11-22T03:00:00Z".parse().unwrap()));
    Some(Lab { site: QemuSite::new(config, clock), folder, guest })
}

fn vda() -> DiskName {
    DiskName::new("vda").unwrap()
}

fn token(step: &str) -> Token {
    Token {
        owner: OwnerId::new("tests").unwrap(),
        policy: None,
        server: ServerName::new("web-1").unwrap(),
        run: RunId::new("20261122T030000Z-7f3a9c21").unwrap(),
        step: step.to_owned(),
    }
}

fn machine(firmware: Firmware, bus: DiskBus, size: u64) -> MachineSpec {
    MachineSpec {
        arch: Arch::X86_64,
        firmware,
        // with 256 MiB the GRUB of a guest with secure boot finds no room for a kernel and its initrd
        memory: 512 << 20,
        vcpus: 1,
        chipset: Some("q35".to_owned()),
        flavor: None,
        disks: vec![DiskSpec { name: vda(), size, bus, serial: Some("root-1".to_owned()) }],
        nics: vec![NicSpec {
            mac: Some("52:54:00:aa:bb:cc".to_owned()),
            model: "virtio-net-pci".to_owned(),
            ..NicSpec::default()
        }],
        agent: true,
        tpm: false,
        tags: Tags::from([("backup".to_owned(), "daily".to_owned())]),
    }
}

fn point(machine: MachineSpec, root: model::DiskRoot) -> RestorePoint {
    RestorePoint {
        id: token("x").run.point(),
        server: ServerName::new("web-1").unwrap(),
        site: Some(SiteName::new("prod").unwrap()),
        policy: None,
        owner: None,
        taken_at: "2026-11-22T03:00:00Z".parse().unwrap(),
        consistency: Consistency::Crash,
        disks: vec![PointDisk { name: vda(), size: machine.disks[0].size, root }],
        machine,
        program: "replicate tests".to_owned(),
    }
}

impl Lab {
    /// Writes a raw disk as an image and registers it.
    async fn image(
        &self,
        raw: &Path,
        firmware: Firmware,
        bus: DiskBus,
        role: Role,
        run: &str,
    ) -> (ImageId, RestorePoint) {
        let reader = disk::open_file(raw, Format::Raw).await.unwrap();
        let token = Token { run: RunId::new(run).unwrap(), ..token("transfer:lab") };
        let (disk, writer) = self.site.create_disk(&vda(), reader.size(), None, &token).await.unwrap();
        let written = disk::transfer(reader.as_ref(), vec![writer], &Silent).await.unwrap();
        let written = written.into_iter().next().unwrap().unwrap();
        let mut point = point(machine(firmware, bus, reader.size()), written.root);
        point.id = token.run.point();
        let register = Token { step: "register:lab".to_owned(), ..token };
        let options = ImageOptions::default();
        let one = std::slice::from_ref(&disk);
        let image = self.site.register(one, &point, &options, role, &register).await.unwrap();
        let again = self.site.register(one, &point, &options, role, &register).await.unwrap();
        assert_eq!(again, image, "the same token gives the same image");
        (image, point)
    }

    async fn console_shows(&self, instance: &InstanceId, text: &str) -> String {
        let until = Instant::now() + BOOT;
        loop {
            let console = self.site.console(instance).await.unwrap().text;
            if console.contains(text) {
                return console;
            }
            assert!(Instant::now() < until, "no {text} on the console:\n{console}");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    async fn probe_until(&self, instance: &InstanceId, fits: impl Fn(&ProbeState) -> bool) -> ProbeState {
        let until = Instant::now() + BOOT;
        loop {
            let state = self.site.probe(instance).await.unwrap();
            if fits(&state) {
                return state;
            }
            assert!(Instant::now() < until, "stays {state:?}");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    async fn owned(&self) -> Vec<Resource> {
        self.site.owned().await.unwrap()
    }
}

fn drill(ports: &[u16]) -> LaunchOptions {
    LaunchOptions {
        name: ServerName::new("drill").unwrap(),
        network: Network::Isolated,
        ports: ports.to_vec(),
        ephemeral: true,
    }
}

fn http(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_boots_under_bios_answers_and_leaves_nothing() {
    let Some(lab) = lab(Format::Qcow2) else { return };
    let (image, point) =
        lab.image(&lab.guest.raw, Firmware::Bios, DiskBus::Virtio, Role::Replica, "20261122T030000Z-7f3a9c21").await;
    assert_eq!(lab.site.images().await.unwrap(), [(image.clone(), point.clone())]);
    let root_before = root(&lab, &image).await;
    assert_eq!(root_before, point.disks[0].root, "what is read back is what was written");

    let launched = lab.site.launch(&image, &drill(&[80]), &token("launch")).await.unwrap();
    let again = lab.site.launch(&image, &drill(&[80]), &token("launch")).await.unwrap();
    assert_eq!(again, launched, "the same token gives the same instance");
    lab.console_shows(&launched.id, "REPLICATE-READY").await;
    let state = lab.probe_until(&launched.id, |state| state.agent).await;
    assert_eq!(state, ProbeState { running: true, agent: true, panicked: false });

    // the port is reachable from this host, and the guest reaches nothing
    let (port, address) = launched.ports[0];
    assert_eq!(port, 80);
    let answer = http(address, "/cgi-bin/orders").unwrap();
    assert!(answer.contains("orders=") && answer.contains("broken=0"), "{answer}");
    let command = ["/bin/orders-that-does-not-exist"].map(str::to_owned);
    assert!(lab.site.execute(&launched.id, &command, Duration::from_secs(20)).await.is_err());
    let command = ["/usr/bin/orders", "check"].map(str::to_owned);
    let (code, text) = lab.site.execute(&launched.id, &command, Duration::from_secs(60)).await.unwrap();
    assert_eq!((code, text.contains("broken=0")), (0, true), "{text}");
    let command = ["/bin/nc", "-w", "3", "-z", "10.0.2.2", &live_port().to_string()].map(str::to_owned);
    let (code, _) = lab.site.execute(&launched.id, &command, Duration::from_secs(60)).await.unwrap();
    assert_ne!(code, 0, "an isolated guest must not reach this host");

    let kinds: Vec<_> = lab.owned().await.into_iter().map(|r| (r.kind, r.role)).collect();
    assert_eq!(kinds, [("image".to_owned(), Role::Replica), ("instance".to_owned(), Role::Scratch)]);
    lab.site.destroy(&launched.id).await.unwrap();
    lab.site.destroy(&launched.id).await.unwrap();
    assert_eq!(lab.site.probe(&launched.id).await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(root(&lab, &image).await, root_before, "a drill does not change its image");

    for resource in lab.owned().await {
        lab.site.delete(&resource).await.unwrap();
        lab.site.delete(&resource).await.unwrap();
    }
    assert!(lab.owned().await.is_empty());
    assert!(files_under(&lab.folder.path().join("disks")).is_empty(), "{:?}", files_under(lab.folder.path()));
}

/// A port of this host that accepts connections for as long as the test runs.
fn live_port() -> u16 {
    let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    port
}

async fn root(lab: &Lab, image: &ImageId) -> model::DiskRoot {
    let reader = lab.site.open_image(image, &vda()).await.unwrap();
    let copy = lab.folder.path().join("copy.raw");
    let writer = disk::create_file(&copy, Format::Raw, reader.size(), None).await.unwrap();
    let written = disk::transfer(reader.as_ref(), vec![writer], &Silent).await.unwrap();
    std::fs::remove_file(copy).unwrap();
    written.into_iter().next().unwrap().unwrap().root
}

fn files_under(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(files_under(&entry.path()));
        } else {
            found.push(entry.path().display().to_string());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_server_boots_under_uefi_and_becomes_a_server_of_the_site() {
    let Some(lab) = lab(Format::Raw) else { return };
    let firmware = Firmware::Uefi { secure_boot: false, variables: None };
    let (image, _) =
        lab.image(&lab.guest.raw, firmware, DiskBus::Scsi, Role::Replica, "20261122T030000Z-7f3a9c21").await;
    let options = LaunchOptions {
        name: ServerName::new("web-1").unwrap(),
        network: Network::Site,
        ports: vec![80],
        ephemeral: false,
    };
    let launched = lab.site.launch(&image, &options, &token("launch")).await.unwrap();
    lab.console_shows(&launched.id, "REPLICATE-READY").await;
    lab.probe_until(&launched.id, |state| state.agent).await;
    if let Some(source) = lab.site.source() {
        let servers = Source::servers(source).await.unwrap();
        assert_eq!(servers.len(), 1);
        assert_eq!(servers[0].name.as_str(), "web-1");
        assert_eq!(servers[0].machine.tags["backup"], "daily");
        assert_eq!(servers[0].machine.disks[0].name, vda());
        assert!(matches!(servers[0].machine.firmware, Firmware::Uefi { .. }));
    }
    // another one cannot take its name while it runs
    let other = lab.site.launch(&image, &options, &token("launch-2")).await.unwrap_err();
    assert_eq!(other.kind(), Kind::Exists);
    // its folder has the command that starts it again
    let instance = lab.folder.path().join("disks/instances").join(launched.id.as_str());
    assert!(std::fs::read_to_string(instance.join("start.sh")).unwrap().contains("qemu-system-x86_64"));
    lab.site.destroy(&launched.id).await.unwrap();
    assert!(files_under(&lab.folder.path().join("run")).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_panics_is_seen() {
    let Some(lab) = lab(Format::Qcow2) else { return };
    let Some(sick) = panicking(&lab) else { return };
    let (image, _) =
        lab.image(&sick, Firmware::Bios, DiskBus::Virtio, Role::Scratch, "20261122T030000Z-7f3a9c21").await;
    assert!(lab.site.images().await.unwrap().is_empty(), "an image of a drill is no replica");
    let launched = lab.site.launch(&image, &drill(&[]), &token("launch")).await.unwrap();
    let state = lab.probe_until(&launched.id, |state| state.panicked).await;
    assert!(!state.agent);
    let console = lab.site.console(&launched.id).await.unwrap().text;
    assert!(console.contains("REPLICATE-PANIC") && !console.contains("REPLICATE-READY"), "{console}");
    lab.site.destroy(&launched.id).await.unwrap();
}

/// A copy of the guest's disk that panics at boot.
fn panicking(lab: &Lab) -> Option<std::path::PathBuf> {
    let sick = lab.folder.path().join("sick.raw");
    std::fs::copy(&lab.guest.raw, &sick).unwrap();
    // the third partition begins behind 1 MiB, the BIOS boot partition and 16 MiB of EFI system partition
    let place = format!("{}?offset={}", sick.display(), (1 + 1 + 16) << 20);
    let note = lab.folder.path().join("note");
    std::fs::write(&note, "yes\n").unwrap();
    let request = format!("write {} /etc/panic-on-boot", note.display());
    match Command::new("/sbin/debugfs").args(["-w", "-R", &request, &place]).output() {
        Ok(output) if output.status.success() => Some(sick),
        other => tests::guest::skip(&format!("debugfs does not work here: {other:?}")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_on_a_base_begins_with_its_bytes_and_an_unfinished_one_is_swept() {
    let Some(lab) = lab(Format::Qcow2) else { return };
    let (image, point) =
        lab.image(&lab.guest.raw, Firmware::Bios, DiskBus::Virtio, Role::Replica, "20261122T030000Z-7f3a9c21").await;
    let size = point.disks[0].size;
    let next = Token { run: RunId::new("20261123T030000Z-00000001").unwrap(), ..token("transfer:lab") };

    // an empty increment changes nothing, a small one only what it says
    let (disk, writer) = lab.site.create_disk(&vda(), size, Some(&image), &next).await.unwrap();
    assert_eq!(writer.finish().await.unwrap().root, point.disks[0].root);
    let (again, mut writer) = lab.site.create_disk(&vda(), size, Some(&image), &next).await.unwrap();
    assert_eq!(again, disk);
    writer.write(128 << 20, bytes::Bytes::from(vec![7; 65_536])).await.unwrap();
    let changed = writer.finish().await.unwrap();
    assert_ne!(changed.root, point.disks[0].root);
    assert_eq!(changed.received, 65_536);

    let kinds: Vec<_> = lab.owned().await.into_iter().map(|r| (r.kind, r.tags["replicate:run"].clone())).collect();
    assert_eq!(kinds[0], ("disk".to_owned(), "20261123T030000Z-00000001".to_owned()));
    let scratch = lab.owned().await.into_iter().find(|r| r.kind == "disk").unwrap();
    assert_eq!(scratch.role, Role::Scratch);
    lab.site.delete(&scratch).await.unwrap();
    assert_eq!(lab.owned().await.len(), 1, "the image stays");
    assert_eq!(root(&lab, &image).await, point.disks[0].root);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_accelerator_is_found_by_booting_and_remembered() {
    let Some(mut lab) = lab(Format::Raw) else { return };
    if std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
        println!("SKIPPED: no /dev/kvm, so there is nothing to probe");
        return;
    }
    let mut config = lab.site.config().clone();
    config.target.accelerator = Accelerator::Auto;
    config.target.probe_kernel = Some(lab.guest.kernel.clone());
    let clock = Arc::new(ManualClock::new("2026-11-22T03:00:00Z".parse().unwrap()));
    lab.site = QemuSite::new(config, clock);
    let (image, _) =
        lab.image(&lab.guest.raw, Firmware::Bios, DiskBus::Virtio, Role::Scratch, "20261122T030000Z-7f3a9c21").await;
    let launched = lab.site.launch(&image, &drill(&[]), &token("launch")).await.unwrap();
    // whatever was chosen, the guest boots with it
    lab.console_shows(&launched.id, "REPLICATE-READY").await;
    lab.site.destroy(&launched.id).await.unwrap();
    let note = std::fs::read_to_string(lab.folder.path().join("disks/.accelerator.json")).unwrap();
    assert!(note.contains("under KVM"), "{note}");
    let began = Instant::now();
    let launched = lab.site.launch(&image, &drill(&[]), &token("launch-2")).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(15), "the probe is not repeated");
    lab.site.destroy(&launched.id).await.unwrap();
}

struct Conforms;

impl Probe for Conforms {
    fn owner(&self) -> OwnerId {
        token("x").owner
    }

    fn run(&self) -> RunId {
        token("x").run
    }

    fn may_launch(&self) -> bool {
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_of_targets_passes_for_both_formats() {
    for format in [Format::Raw, Format::Qcow2] {
        let Some(lab) = lab(format) else { return };
        let findings = conformance::target(&lab.site, &Conforms).await;
        let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
        for finding in findings.iter().filter(|finding| finding.verdict != Verdict::Passed) {
            println!("{} {:?}: {}", finding.name, finding.verdict, finding.detail);
        }
        assert!(count(Verdict::Passed) > 10 && count(Verdict::Failed) == 0, "{format}: {findings:#?}");
        // a host of guests neither locks images nor hides them; everything else can be tried here
        let skipped: Vec<_> = findings.iter().filter(|finding| finding.verdict == Verdict::Skipped).collect();
        assert!(skipped.iter().all(|finding| finding.name.starts_with("options.")), "{skipped:#?}");
        assert!(lab.owned().await.is_empty());
    }
}

/// Firmware, boot loader and kernel come from the disk on every bus. The guest's kernel is that of clouds, which has no driver for SATA
/// and IDE: there it says that it finds no root, as a server would that was moved to such hardware.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "four boots: part of the slow proofs"]
async fn a_guest_boots_from_every_bus() {
    for (bus, sign) in [
        (DiskBus::Nvme, "REPLICATE-READY"),
        (DiskBus::Scsi, "REPLICATE-READY"),
        (DiskBus::Sata, "REPLICATE-NOROOT"),
        (DiskBus::Ide, "REPLICATE-NOROOT"),
    ] {
        let Some(lab) = lab(Format::Qcow2) else { return };
        let run = "20261122T030000Z-7f3a9c21";
        let (image, _) = lab.image(&lab.guest.raw, Firmware::Bios, bus, Role::Scratch, run).await;
        let launched = lab.site.launch(&image, &drill(&[]), &token("launch")).await.unwrap();
        let console = lab.console_shows(&launched.id, sign).await;
        assert_eq!(console.contains("REPLICATE-READY"), sign == "REPLICATE-READY", "{console}");
        lab.site.destroy(&launched.id).await.unwrap();
    }
}

/// The keys that a server was captured with are those that it is restored with: with them its firmware refuses a boot loader that they
/// did not sign, and without any it boots it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "two boots of a slow firmware: part of the slow proofs"]
async fn secure_boot_keeps_its_keys() {
    let code = Path::new("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd");
    let store = |name: &str| std::fs::read(format!("/usr/share/OVMF/OVMF_VARS_4M{name}.fd"));
    let (true, Ok(signed), Ok(empty)) = (code.exists(), store(".snakeoil"), store("")) else {
        return tests::guest::skip("OVMF with secure boot is not installed").unwrap_or_default();
    };
    let holds = |bytes: &[u8], word: &str| bytes.windows(word.len()).any(|part| part == word.as_bytes());
    // no template of the target has these keys: if they are there, they came along
    assert!(holds(&signed, "SnakeOil") && !holds(&empty, "SnakeOil"));
    for (variables, boots) in [(empty, true), (signed, false)] {
        let Some(lab) = lab(Format::Qcow2) else { return };
        let captured = captured_firmware(&lab, code, &variables).await;
        assert!(matches!(captured, Firmware::Uefi { secure_boot: true, variables: Some(_) }), "{captured:?}");
        let run = "20261122T030000Z-7f3a9c21";
        let (image, _) = lab.image(&lab.guest.raw, captured, DiskBus::Virtio, Role::Scratch, run).await;
        let launched = lab.site.launch(&image, &drill(&[]), &token("launch")).await.unwrap();
        let sign = if boots { "REPLICATE-READY" } else { "Access Denied" };
        let console = lab.console_shows(&launched.id, sign).await;
        assert_eq!(console.contains("REPLICATE-READY"), boots, "{console}");
        let instance = lab.folder.path().join("disks/instances").join(launched.id.as_str());
        assert_eq!(holds(&std::fs::read(instance.join("vars.fd")).unwrap(), "SnakeOil"), !boots);
        lab.site.destroy(&launched.id).await.unwrap();
    }
}

/// The firmware of a running guest with these variables, as the source describes it.
async fn captured_firmware(lab: &Lab, code: &Path, variables: &[u8]) -> Firmware {
    let run = lab.folder.path().join("run");
    std::fs::create_dir_all(&run).unwrap();
    let store = lab.folder.path().join("vars.fd");
    std::fs::write(&store, variables).unwrap();
    let monitor = run.join("old.qmp");
    let flash = |unit: u8, flags: &str, file: &Path| {
        ["-drive".to_owned(), format!("if=pflash,format=raw,unit={unit}{flags},file={}", file.display())]
    };
    let mut process = Command::new("qemu-system-x86_64")
        .args(["-machine", "q35,smm=on", "-accel", "tcg", "-nodefaults", "-display", "none", "-S", "-qmp"])
        .arg(format!("unix:{},server=on,wait=off", monitor.display()))
        .args(["-global", "driver=cfi.pflash01,property=secure,value=on"])
        .args(flash(0, ",readonly=on", code))
        .args(flash(1, "", &store))
        .spawn()
        .unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    let found = loop {
        match lab.site.describe(&ServerName::new("old").unwrap()).await {
            Ok(server) => break server.machine.firmware,
            Err(error) => assert!(Instant::now() < until, "{}", error.chain()),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    process.kill().unwrap();
    process.wait().unwrap();
    let _ = std::fs::remove_file(&monitor);
    found
}

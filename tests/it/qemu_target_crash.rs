//! Kills the target side of a QEMU host at every crash point, and sees that the next start finishes the work, or that
//! a sweep leaves nothing: no half image, no lost process, no file.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use cloud::qemu::{Accelerator, QemuConfig, QemuSite, TargetConfig};
use cloud::{Cloud, ImageDisk, LaunchOptions, Network, Resource, Target};
use disk::LEAF;
use model::{
    Arch, Consistency, DiskBus, DiskName, DiskSpec, Firmware, ImageOptions, MachineSpec, ManualClock, OwnerId,
    PointDisk, RestorePoint, Role, RunId, ServerName, SiteName, Tags, Token,
};

const FOLDER: &str = "REPLICATE_TEST_FOLDER";

fn site(folder: &Path) -> QemuSite {
    let config = QemuConfig {
        site: SiteName::new("lab").unwrap(),
        sockets: format!("{}/run/*.qmp", folder.display()),
        disks: folder.join("disks"),
        scratch: None,
        scratch_limit: None,
        jobs_only: false,
        target: TargetConfig { accelerator: Accelerator::Tcg, ..TargetConfig::default() },
    };
    QemuSite::new(config, Arc::new(ManualClock::new("2026-11-22T03:00:00Z".parse().unwrap())))
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

async fn written(site: &QemuSite, step: &str) -> (ImageDisk, RestorePoint) {
    let (vda, size) = (DiskName::new("vda").unwrap(), 16 * LEAF);
    let (disk, mut writer) = site.create_disk(&vda, size, None, &token(step)).await.unwrap();
    writer.write(0, bytes::Bytes::from(vec![9; LEAF as usize])).await.unwrap();
    let root = writer.finish().await.unwrap().root;
    let machine = MachineSpec {
        arch: Arch::X86_64,
        firmware: Firmware::Bios,
        memory: 32 << 20,
        vcpus: 1,
        chipset: None,
        flavor: None,
        disks: vec![DiskSpec { name: vda.clone(), size, bus: DiskBus::Virtio, serial: None }],
        nics: Vec::new(),
        agent: false,
        tpm: false,
        tags: Tags::new(),
    };
    let point = RestorePoint {
        id: token(step).run.point(),
        server: token(step).server,
        site: None,
        policy: None,
        owner: None,
        taken_at: "2026-11-22T03:00:00Z".parse().unwrap(),
        consistency: Consistency::Crash,
        machine,
        disks: vec![PointDisk { name: vda, size, root }],
        program: "replicate tests".to_owned(),
    };
    (disk, point)
}

/// A drill and a restore: everything that the target side does, in the order of a run.
async fn work(site: &QemuSite) {
    let (disk, point) = written(site, "transfer").await;
    let image =
        site.register(&[disk], &point, &ImageOptions::default(), Role::Scratch, &token("register")).await.unwrap();
    let mut options = LaunchOptions {
        name: ServerName::new("drill").unwrap(),
        network: Network::Isolated,
        ports: Vec::new(),
        ephemeral: true,
    };
    let drill = site.launch(&image, &options, &token("drill")).await.unwrap();
    site.destroy(&drill.id).await.unwrap();
    options = LaunchOptions { name: ServerName::new("web-1").unwrap(), ephemeral: false, ..options };
    let server = site.launch(&image, &options, &token("launch")).await.unwrap();
    assert_eq!(site.owned().await.unwrap().iter().filter(|r| r.role == Role::Replica).count(), 1);
    site.destroy(&server.id).await.unwrap();
    sweep(site).await;
}

async fn sweep(site: &QemuSite) {
    let all: Vec<Resource> = site.owned().await.unwrap();
    for resource in all {
        assert_eq!(resource.tags["replicate:owner"], "tests", "{resource:?}");
        site.delete(&resource).await.unwrap();
    }
}

/// The child process: does the work, and dies where it is told to.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the child of the_target_survives_a_kill_at_every_point"]
async fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    work(&site(Path::new(&folder))).await;
}

fn run_child(folder: &Path, at: u64) -> bool {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "qemu_target_crash::child", "--ignored"]).env(FOLDER, folder);
    command.env("REPLICATE_CRASH_AT", at.to_string()).env("REPLICATE_CRASH_LOG", folder.join("points"));
    let output = command.output().unwrap();
    use std::os::unix::process::ExitStatusExt;
    let killed = output.status.signal() == Some(9);
    assert!(killed || output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    killed
}

fn nothing_is_left(folder: &Path, when: &str) {
    let mut left = Vec::new();
    for place in ["disks/.making", "disks/images", "disks/instances", "run"] {
        left.extend(std::fs::read_dir(folder.join(place)).into_iter().flatten().flatten().map(|entry| entry.path()));
    }
    assert!(left.is_empty(), "killed at {when}: {left:?} is left");
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let words = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let text = String::from_utf8_lossy(&words).into_owned();
        assert!(!text.contains(&format!("{}/disks", folder.display())), "killed at {when}: {text} still runs");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_target_survives_a_kill_at_every_point() {
    if !tests::guest::has("qemu-system-x86_64") {
        return tests::guest::skip::<()>("qemu-system-x86_64 is not installed").unwrap_or(());
    }
    let mut points = 0;
    for at in 1.. {
        let folder = tempfile::tempdir().unwrap();
        let killed = run_child(folder.path(), at);
        let log = std::fs::read_to_string(folder.path().join("points")).unwrap();
        let last = log.lines().last().unwrap_or_default().to_owned();
        // odd points: the work goes on; even ones: it is given up and swept
        if at % 2 == 1 {
            work(&site(folder.path())).await;
        } else {
            sweep(&site(folder.path())).await;
        }
        nothing_is_left(folder.path(), &last);
        points = at;
        if !killed {
            break;
        }
    }
    assert!(points > 20, "only {points} points were passed");
    println!("the target was killed at {} points", points - 1);
}

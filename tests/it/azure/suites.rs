//! The conformance suites of source and target, and the simulator's word that they leave nothing and no open access.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cloud::{Cloud, LaunchOptions, Network, conformance};
use disk::LEAF;
use model::{
    Arch, Consistency, DiskBus, DiskName, DiskSpec, Firmware, ImageOptions, MachineSpec, PointDisk, RestorePoint, Role,
    ServerName,
};

use super::lab::{Conforms, Lab, all_passed, lab, token};

/// A point of one disk.
pub fn point(size: u64, root: model::DiskRoot) -> RestorePoint {
    let name = DiskName::new("vda").unwrap();
    RestorePoint {
        id: token("point").run.point(),
        server: ServerName::new("web-1").unwrap(),
        site: None,
        policy: None,
        owner: None,
        taken_at: jiff::Timestamp::UNIX_EPOCH,
        consistency: Consistency::Crash,
        machine: MachineSpec {
            arch: Arch::X86_64,
            firmware: Firmware::Bios,
            memory: 256 << 20,
            vcpus: 1,
            chipset: None,
            flavor: None,
            disks: vec![DiskSpec { name: name.clone(), size, bus: DiskBus::Scsi, serial: None }],
            nics: Vec::new(),
            agent: false,
            tpm: false,
            tags: model::Tags::new(),
        },
        disks: vec![PointDisk { name, size, root }],
        program: "tests".to_owned(),
    }
}

/// Nothing is left but what is named; accesses are given back by tasks of their own, for which it waits.
pub async fn nothing_left(lab: &Lab, but: &[&str]) {
    let mut left = Vec::new();
    for _ in 0..100 {
        left = lab.left().await;
        left.retain(|it| !but.iter().any(|known| it == known));
        if left.is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("left behind: {left:?}");
}

/// A server of the site: an image of one disk, restored. The file of its disk.
pub async fn server(lab: &Lab, site: &Arc<dyn Cloud>, name: &str) -> (ServerName, PathBuf) {
    server_of(lab, site, name, &["vda"]).await
}

/// [`server`] with disks of these names, and the file of the last one.
pub async fn server_of(lab: &Lab, site: &Arc<dyn Cloud>, name: &str, disks: &[&str]) -> (ServerName, PathBuf) {
    let (target, size, token) = (site.target().unwrap(), 24 << 20, token(name));
    let (mut made, mut roots) = (Vec::new(), Vec::new());
    for disk in disks {
        let disk = DiskName::new(*disk).unwrap();
        let (written, mut writer) = target.create_disk(&disk, size, None, &token).await.unwrap();
        for index in [0, 5, 100] {
            writer.write(index * LEAF, vec![index as u8 + 1; LEAF as usize].into()).await.unwrap();
        }
        roots.push(PointDisk { name: disk, size, root: writer.finish().await.unwrap().root });
        made.push(written);
    }
    let mut point = point(size, roots[0].root);
    let spec = |disk: &PointDisk| DiskSpec { name: disk.name.clone(), size, bus: DiskBus::Scsi, serial: None };
    point.machine.disks = roots.iter().map(spec).collect();
    point.disks = roots;
    let options = ImageOptions::default();
    let image = target.register(&made, &point, &options, Role::Scratch, &token).await.unwrap();
    let server = ServerName::new(name).unwrap();
    let options = LaunchOptions { name: server.clone(), network: Network::Site, ports: Vec::new(), ephemeral: false };
    target.launch(&image, &options, &token).await.unwrap();
    let scratch = site.owned().await.unwrap().into_iter().filter(|it| it.kind == "image");
    for left in scratch {
        site.delete(&left).await.unwrap();
    }
    let files: Vec<PathBuf> = std::fs::read_dir(lab.disks()).unwrap().map(|it| it.unwrap().path()).collect();
    let newest = files.into_iter().max_by_key(|file| std::fs::metadata(file).unwrap().modified().unwrap());
    (server, newest.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_of_targets_passes() {
    let lab = lab(false, true).await;
    let probe = Conforms { server: None, file: None };
    let skipped = ["options.protected", "options.hidden"];
    all_passed(&conformance::target(lab.site().as_ref(), &probe).await, &skipped);
    nothing_left(&lab, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_of_sources_passes() {
    let lab = lab(false, true).await;
    let site = lab.site();
    let (server, file) = server(&lab, &site, "web-1").await;
    let before = lab.left().await;
    let probe = Conforms { server: Some(server), file: Some(file) };
    let skipped = ["capture.thawed", "changes.lost"];
    all_passed(&conformance::source(site.as_ref(), &probe).await, &skipped);
    let before: Vec<&str> = before.iter().map(String::as_str).collect();
    nothing_left(&lab, &before).await;
}

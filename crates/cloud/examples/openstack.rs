//! Sends a raw file to Glance and reads it back through the provider: what `tests/bench/openstack.sh` measures.
//!
//! ```text
//! openstack CLOUDS.YAML CLOUD raw|qcow2 FILE SCRATCH
//! ```
//! One line of figures on stdout: MiB/s up, MiB/s down, and the peak of memory in MiB so far after each.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::path::PathBuf;
use std::time::Instant;

use cloud::openstack::{CloudRef, OpenStackConfig, OpenStackSite, Restore};
use cloud::{Cloud, Target};
use disk::{Discard, DiskWrite, Format, Silent, open_file, transfer};
use model::{
    Arch, Consistency, DiskBus, DiskName, DiskSpec, Firmware, ImageId, MachineSpec, OwnerId, PointDisk, RestorePoint,
    Role, RunId, ServerName, SiteName, Tags, Token,
};

fn token(step: &str) -> Token {
    Token {
        owner: OwnerId::new("bench").unwrap(),
        policy: None,
        server: ServerName::new("bench").unwrap(),
        run: RunId::new("20261122T030000Z-7f3a9c21").unwrap(),
        step: step.to_owned(),
    }
}

fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() >> 10
}

fn speed(bytes: u64, began: Instant) -> f64 {
    bytes as f64 / f64::from(1 << 20) / began.elapsed().as_secs_f64()
}

/// The image, its size, and MiB/s of the transfer, until the service has said what it has.
async fn upload(site: &OpenStackSite, file: &str) -> (ImageId, u64, f64) {
    let name = DiskName::new("vda").unwrap();
    let reader = open_file(file, Format::Raw).await.unwrap();
    let size = reader.size();
    let (disk, writer) = site.create_disk(&name, size, None, &token("transfer")).await.unwrap();
    let began = Instant::now();
    let written = transfer(reader.as_ref(), vec![writer], &Silent).await.unwrap();
    let up = speed(size, began);
    let root = written.into_iter().next().unwrap().unwrap().root;
    let machine = MachineSpec {
        arch: Arch::X86_64,
        firmware: Firmware::Bios,
        memory: 1 << 28,
        vcpus: 1,
        chipset: None,
        flavor: None,
        disks: vec![DiskSpec { name: name.clone(), size, bus: DiskBus::Virtio, serial: None }],
        nics: Vec::new(),
        agent: false,
        tpm: false,
        tags: Tags::new(),
    };
    let point = RestorePoint {
        id: token("x").run.point(),
        server: token("x").server,
        site: None,
        policy: None,
        owner: None,
        taken_at: jiff::Timestamp::UNIX_EPOCH,
        consistency: Consistency::Crash,
        machine,
        disks: vec![PointDisk { name, size, root }],
        program: "bench".to_owned(),
    };
    let image = site.register(&[disk], &point, &Default::default(), Role::Scratch, &token("register")).await.unwrap();
    (image, size, up)
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [clouds, cloud, format, file, scratch] = arguments.as_slice() else { panic!("five arguments") };
    let site = OpenStackSite::new(OpenStackConfig {
        site: SiteName::new("bench").unwrap(),
        cloud: CloudRef { cloud: cloud.clone(), file: Some(PathBuf::from(clouds)), region: None, interface: None },
        scratch: PathBuf::from(scratch),
        format: if format == "raw" { Format::Raw } else { Format::Qcow2 },
        staged: false,
        restore: Restore::default(),
    });
    // signed in, and the services found
    site.owned().await.unwrap();
    let (image, size, up) = upload(&site, file).await;
    let up_memory = peak_mib();
    let began = Instant::now();
    let reader = site.open_image(&image, &DiskName::new("vda").unwrap()).await.unwrap();
    let nowhere: Vec<Box<dyn DiskWrite>> = vec![Box::new(Discard::new(size))];
    let taken = transfer(reader.as_ref(), nowhere, &Silent).await.unwrap().remove(0).unwrap().received;
    let down = speed(size, began);
    assert!(taken <= size && taken > 0);
    println!("up {up:.0} MiB/s {up_memory} MiB, down {down:.0} MiB/s {} MiB", peak_mib());
    for resource in site.owned().await.unwrap() {
        site.delete(&resource).await.unwrap();
    }
}

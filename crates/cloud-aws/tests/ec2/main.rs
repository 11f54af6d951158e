//! The provider `aws` against the simulated cloud: the conformance suites, and what AWS alone does.

#![allow(clippy::expect_used, clippy::print_stdout, clippy::unwrap_used, reason = "a panic is a test's verdict")]

mod freeze;
mod lab;
mod relay;

use base64::Engine as _;
use cloud::{Cloud, conformance};
use cloud_aws::ec2::AwsConfig;
use disk::LEAF;
use model::{DiskName, ImageOptions, Kind, PointDisk, ServerName};
use serde_json::json;
use tests::sim::CloudSim;

use lab::{Conforms, REGION, all_passed, bytes, calls, config, image, open, point, puts, read, server, state, token};

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_of_targets_passes_and_leaves_nothing() {
    let (sim, folder) = (CloudSim::start(&["--calm", "--no-qemu"]), tempfile::tempdir().unwrap());
    let before = state(&sim);
    let site = open(config(&sim, folder.path()));
    let probe = Conforms { sim: &sim, run: "20261122T030000Z-00000001", volumes: Vec::new() };
    all_passed(&conformance::target(&site, &probe).await, &[]);
    assert_eq!(state(&sim), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_of_sources_passes_and_leaves_nothing() {
    let (sim, folder) = (CloudSim::start(&["--calm", "--no-qemu"]), tempfile::tempdir().unwrap());
    let volumes = server(&sim, folder.path());
    let (site, web) = (open(config(&sim, folder.path())), ServerName::new("web-1").unwrap());
    // the suite switches it off, and leaves it running
    site.switch().unwrap().start(&web).await.unwrap();
    let before = state(&sim);
    let described = site.source().unwrap().describe(&web).await.unwrap();
    let names = described.machine.disks.iter().map(|disk| disk.name.to_string());
    let probe = Conforms { sim: &sim, run: "20261122T030000Z-00000002", volumes: names.zip(volumes).collect() };
    all_passed(&conformance::source(&site, &probe).await, &["capture.thawed", "changes.lost"]);
    assert_eq!(state(&sim), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_puts_what_changed_whether_or_not_its_hashes_are_known() {
    let (sim, folder) = (CloudSim::start(&["--calm", "--no-qemu"]), tempfile::tempdir().unwrap());
    let site = open(config(&sim, folder.path()));
    let size = 64 << 20;
    let all: Vec<(u64, u8)> = (0..size / LEAF).map(|index| (index, 1 + (index % 200) as u8)).collect();
    let (first, written) = image(&site, "first", size, None, &all).await;
    assert_eq!((puts(&sim), written.stored), (128, size));
    let change = [(9, 250), (500, 251)];
    let mut expected = all.clone();
    for (index, byte) in change {
        expected[index as usize].1 = byte;
    }
    let (second, written) = image(&site, "second", size, Some(&first), &change).await;
    assert_eq!((puts(&sim), written.stored, written.fresh), (130, 1 << 20, 2 * LEAF));
    assert!(read(&site, &second, size).await == bytes(size, &expected));
    let target = site.target().unwrap();
    let disk = |root| PointDisk { name: DiskName::new("vda").unwrap(), size, root };
    let checked = target.check_written(&second, &disk(written.root), &disk::Silent).await.unwrap();
    assert_eq!(checked, Some(1 << 20), "only what was put is read back");
    let wrong = target.check_written(&second, &disk(model::DiskRoot([7; 32])), &disk::Silent).await.unwrap_err();
    assert_eq!(wrong.kind(), model::Kind::Damaged);
    assert_eq!(target.check_written(&first, &disk(written.root), &disk::Silent).await.unwrap(), None);
    // a host that knows nothing of the base reads it once, and comes to the same root
    let other = tempfile::tempdir().unwrap();
    let elsewhere = open(config(&sim, other.path()));
    let (third, again) = image(&elsewhere, "third", size, Some(&first), &change).await;
    assert_eq!((puts(&sim), again.root), (132, written.root));
    assert!(read(&site, &third, size).await == bytes(size, &expected));
    assert!(read(&site, &first, size).await == bytes(size, &all), "the base has changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_writes_is_zero_in_an_encrypted_snapshot_too() {
    let (sim, folder) = (CloudSim::start(&["--calm", "--no-qemu"]), tempfile::tempdir().unwrap());
    let account = sim.greeting["accounts"][0]["account"].as_str().unwrap();
    let key = format!("arn:aws:kms:{REGION}:{account}:key/replicas");
    let encrypted = AwsConfig { kms_key: Some(key.clone()), ..config(&sim, folder.path()) };
    let (plain, site) = (open(config(&sim, folder.path())), open(encrypted));
    let size = 4 << 20;
    let leaves = [(3, 5), (40, 6)];
    let (image_1, written) = image(&site, "one", size, None, &leaves).await;
    assert_eq!(written.stored, 1 << 30, "every block of the volume");
    assert!(read(&site, &image_1, size).await == bytes(size, &leaves));
    // a parent of the same key is one; of none, it is read and written over
    let (image_2, written) = image(&site, "two", size, Some(&image_1), &[(3, 9)]).await;
    assert_eq!(written.stored, 512 << 10);
    assert!(read(&site, &image_2, size).await == bytes(size, &[(3, 9), (40, 6)]));
    let (bare, _) = image(&plain, "three", size, None, &leaves).await;
    let (image_4, written) = image(&site, "four", size, Some(&bare), &[(40, 8)]).await;
    assert_eq!(written.stored, 1 << 30);
    assert!(read(&site, &image_4, size).await == bytes(size, &[(3, 5), (40, 8)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_a_policy_insists_on_is_the_one_that_it_gets() {
    let (sim, folder) = (CloudSim::start(&["--calm", "--no-qemu"]), tempfile::tempdir().unwrap());
    let account = sim.greeting["accounts"][0]["account"].as_str().unwrap();
    let key = |name: &str| format!("arn:aws:kms:{REGION}:{account}:key/{name}");
    let encrypted = AwsConfig { kms_key: Some(key("replicas")), ..config(&sim, folder.path()) };
    let (plain, site) = (open(config(&sim, folder.path())), open(encrypted));
    let (size, name) = (1 << 20, DiskName::new("vda").unwrap());
    let asks = |name: &str| ImageOptions { encryption: Some(key(name)), ..ImageOptions::default() };
    // whose configuration was changed between writing and registering
    for (writer, registrar, asked, goes) in [
        (&site, &site, "replicas", true),
        (&site, &site, "others", false),
        (&site, &plain, "replicas", false),
        (&plain, &site, "replicas", false),
    ] {
        let token = token(&format!("key-{goes}"));
        let (disk, made) = writer.target().unwrap().create_disk(&name, size, None, &token).await.unwrap();
        let point = point(size, made.finish().await.unwrap().root);
        let target = registrar.target().unwrap();
        match target.register(&[disk], &point, &asks(asked), model::Role::Replica, &token).await {
            Ok(_) => assert!(goes, "registered without {asked}"),
            Err(error) => assert!(!goes && error.kind() == Kind::Invalid, "{}", error.chain()),
        }
    }
    let made = state(&sim).into_iter().filter(|it| it["kind"] == "image").count();
    assert_eq!(made, 1, "what was refused is no image");
}

/// With all delays and the lag of reads, in simulated time that runs fast; some calls fail in every way.
#[tokio::test(flavor = "multi_thread")]
async fn bad_weather_and_faults_cost_time_alone() {
    let (sim, folder) = (CloudSim::start(&["--no-qemu"]), tempfile::tempdir().unwrap());
    sim.control("POST", "clock", &json!({"speed": 60}));
    let rules = [
        json!({"operation": "PutSnapshotBlock", "every": 5, "fault": {"kind": "status", "status": 503, "code": "Unavailable"}}),
        json!({"operation": "PutSnapshotBlock", "every": 7, "fault": {"kind": "drop"}}),
        json!({"operation": "GetSnapshotBlock", "every": 4, "fault": {"kind": "flip", "byte": 4711, "bit": 3}}),
        json!({"operation": "GetSnapshotBlock", "every": 9, "fault": {"kind": "truncate", "after": 300_000}}),
        json!({"operation": "StartSnapshot", "nth": 1, "fault": {"kind": "drop"}}),
        json!({"operation": "CompleteSnapshot", "nth": 1, "fault": {"kind": "drop"}}),
        json!({"operation": "RegisterImage", "nth": 1, "fault": {"kind": "drop"}}),
        json!({"operation": "DeregisterImage", "nth": 1, "fault": {"kind": "drop"}}),
        json!({"operation": "RunInstances", "nth": 1, "fault": {"kind": "drop"}}),
        json!({"operation": "Describe*", "every": 11, "fault": {"kind": "status", "status": 503, "code": "RequestLimitExceeded"}}),
    ];
    for rule in &rules {
        sim.control("POST", "rules", rule);
    }
    let site = open(config(&sim, folder.path()));
    let size = 16 << 20;
    let all: Vec<(u64, u8)> = (0..size / LEAF).map(|index| (index, 1 + (index % 200) as u8)).collect();
    let (first, _) = image(&site, "first", size, None, &all).await;
    let (second, _) = image(&site, "second", size, Some(&first), &[(9, 250)]).await;
    let mut expected = all.clone();
    expected[9].1 = 250;
    assert!(read(&site, &second, size).await == bytes(size, &expected));
    let target = site.target().unwrap();
    let options = cloud::LaunchOptions {
        name: ServerName::new("drill").unwrap(),
        network: cloud::Network::Isolated,
        ports: Vec::new(),
        ephemeral: true,
    };
    let instance = target.launch(&second, &options, &token("launch")).await.unwrap();
    assert_eq!(target.launch(&second, &options, &token("launch")).await.unwrap(), instance);
    assert!(state(&sim).iter().any(|it| it["about"]["isolated"] == true), "the drill is isolated");
    target.destroy(&instance.id).await.unwrap();
    for image in [&first, &second] {
        for resource in site.owned().await.unwrap().iter().filter(|it| it.id == image.as_str()) {
            site.delete(resource).await.unwrap();
        }
    }
    let left = state(&sim);
    assert!(left.is_empty(), "{left:#?}");
}

/// An image that is locked is let go of neither whole nor in part, and its snapshots by nobody.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_deletes_what_is_immutable() {
    let (sim, folder) = (CloudSim::start(&["--calm", "--no-qemu"]), tempfile::tempdir().unwrap());
    let site = open(config(&sim, folder.path()));
    let (size, name) = (1 << 20, DiskName::new("vda").unwrap());
    let target = site.target().unwrap();
    let (disk, writer) = target.create_disk(&name, size, None, &token("kept")).await.unwrap();
    let written = writer.finish().await.unwrap();
    let far = std::time::Duration::from_secs(40_000 * 86_400);
    let locked = |time| model::ImageOptions { immutability: Some(time), ..model::ImageOptions::default() };
    let register = |options| {
        let (disks, point) = ([disk.clone()], point(size, written.root));
        async move { target.register(&disks, &point, &options, model::Role::Replica, &token("kept")).await }
    };
    assert_eq!(register(locked(far)).await.unwrap_err().kind(), model::Kind::Invalid);
    let hour = std::time::Duration::from_secs(3600);
    let image = register(locked(hour)).await.unwrap();
    assert_eq!(register(locked(hour)).await.unwrap(), image, "once more is harmless");
    let resource = || async { site.owned().await.unwrap().into_iter().find(|it| it.id == image.as_str()) };
    let made = resource().await.unwrap();
    let error = site.delete(&made).await.unwrap_err();
    assert!(error.kind() == model::Kind::Denied && error.chain().contains("immutable until"), "{}", error.chain());
    assert!(resource().await.is_some() && calls(&sim, "DeregisterImage").is_empty(), "it was let go of in part");
    sim.control("POST", "clock", &json!({"advance": 86_000}));
    assert!(site.delete(&made).await.is_err(), "a day is a day");
    sim.control("POST", "clock", &json!({"advance": 500}));
    site.delete(&made).await.unwrap();
    assert!(state(&sim).is_empty());
}

/// A server's UEFI variables go with its points from image to server to image; those of another form do not.
#[tokio::test(flavor = "multi_thread")]
async fn uefi_variables_go_where_the_server_goes() {
    let (sim, folder) = (CloudSim::start(&["--calm", "--no-qemu"]), tempfile::tempdir().unwrap());
    let (site, size, name) = (open(config(&sim, folder.path())), 1 << 20, DiskName::new("vda").unwrap());
    let (target, source) = (site.target().unwrap(), site.source().unwrap());
    let uefi = |raw: &[u8]| {
        let packed = zstd::bulk::compress(raw, 3).unwrap();
        let variables = Some(base64::engine::general_purpose::STANDARD.encode(packed));
        model::Firmware::Uefi { secure_boot: false, variables }
    };
    let (own, other) = (b"AMZNUEFI\x01\x02\x03\x04 and so on", [0xff; 4096]);
    for (step, raw) in [("own", &own[..]), ("other", &other[..])] {
        let (disk, writer) = target.create_disk(&name, size, None, &token(step)).await.unwrap();
        let mut point = point(size, writer.finish().await.unwrap().root);
        point.machine.firmware = uefi(raw);
        let options = model::ImageOptions::default();
        let image = target.register(&[disk], &point, &options, model::Role::Replica, &token(step)).await.unwrap();
        let server = ServerName::new(format!("{step}-1")).unwrap();
        let launch = cloud::LaunchOptions {
            name: server.clone(),
            network: cloud::Network::Site,
            ports: Vec::new(),
            ephemeral: false,
        };
        target.launch(&image, &launch, &token(step)).await.unwrap();
        let consistent = cloud::Consistent {
            level: model::Consistency::Crash,
            required: false,
            hook: cloud::Hook::default(),
            freeze_limit: std::time::Duration::from_secs(1),
        };
        let token = token(&format!("capture-{step}"));
        let request = cloud::CaptureRequest { server, consistent, since: None, token };
        let captured = source.capture(&request).await.unwrap();
        assert_eq!(captured.warnings, Vec::<String>::new());
        let model::Firmware::Uefi { variables, .. } = captured.machine.firmware else { panic!("it boots by BIOS") };
        let raw_again = variables.map(|text| {
            let packed = base64::engine::general_purpose::STANDARD.decode(text).unwrap();
            zstd::bulk::decompress(&packed, 1 << 20).unwrap()
        });
        assert_eq!(raw_again.as_deref(), (step == "own").then_some(raw), "{step}");
    }
}

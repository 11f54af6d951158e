//! Copies from region to region: the suite, what AWS alone does, and that no block of them passes through us.

use std::path::Path;

use cloud::{Cloud, CopyRequest, CopyState, ImageCopy, Relay, Retrying, conformance};
use cloud_aws::ec2::AwsConfig;
use disk::LEAF;
use model::{DiskName, ImageId, ImageOptions, Kind, PointDisk, Role};
use serde_json::json;
use tests::sim::CloudSim;

use super::lab::{Conforms, all_passed, bytes, calls, config_of, image, open, point, puts, read, state, token};

const FROM: &str = "eu-west-1";
const TO: &str = "us-east-1";
const SIZE: u64 = 16 << 20;

fn pair(sim: &CloudSim, scratch: &Path) -> (Retrying, Retrying) {
    (open(config_of(sim, scratch, FROM)), open(config_of(sim, scratch, TO)))
}

fn relay(site: &Retrying) -> &dyn Relay {
    site.relay().unwrap()
}

async fn request(from: &Retrying, image: &ImageId, root: model::DiskRoot, step: &str) -> CopyRequest {
    CopyRequest {
        from: relay(from).peer().await.unwrap(),
        image: image.clone(),
        point: point(SIZE, root),
        options: ImageOptions::default(),
        token: token(step),
    }
}

async fn whole(to: &Retrying, copy: &ImageCopy) -> u64 {
    loop {
        if let CopyState::Done { moved, proof } = relay(to).state(copy).await.unwrap() {
            assert_eq!(proof, None, "AWS tells no sums");
            return moved;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

fn gets(sim: &CloudSim, region: &str) -> usize {
    calls(sim, "GetSnapshotBlock").iter().filter(|call| call["region"] == region).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_of_relays_passes_and_leaves_nothing() {
    let (sim, folder) = (CloudSim::start(&["--calm", "--no-qemu"]), tempfile::tempdir().unwrap());
    let before = state(&sim);
    let (from, to) = pair(&sim, folder.path());
    let probe = Conforms { sim: &sim, run: "20261122T030000Z-00000004", volumes: Vec::new() };
    all_passed(&conformance::relay(&from, &to, &probe).await, &[]);
    assert_eq!(state(&sim), before);
}

/// Two points of a server go from region to region: of the second only what changed is read back, and the copy is what a
/// third is written over.
#[tokio::test(flavor = "multi_thread")]
async fn copies_move_no_block_through_us_and_are_built_on() {
    let (sim, folder) = (CloudSim::start(&["--calm", "--no-qemu"]), tempfile::tempdir().unwrap());
    let (from, to) = pair(&sim, folder.path());
    let all: Vec<(u64, u8)> = (0..SIZE / LEAF).map(|index| (index, 1 + (index % 200) as u8)).collect();
    let (first, written) = image(&from, "first", SIZE, None, &all).await;
    let disk = |root| PointDisk { name: DiskName::new("vda").unwrap(), size: SIZE, root };
    let (put, got) = (puts(&sim), gets(&sim, FROM));
    let asked = request(&from, &first, written.root, "copy-1").await;
    let copy = relay(&to).copy(&asked).await.unwrap();
    assert_eq!(whole(&to, &copy).await, SIZE);
    let target = to.target().unwrap();
    let checked = target.check_written(&copy.image, &disk(written.root), &disk::Silent).await.unwrap();
    assert_eq!(checked, Some(SIZE), "all of the first copy is read back");
    let wrong = target.check_written(&copy.image, &disk(model::DiskRoot([7; 32])), &disk::Silent).await.unwrap_err();
    assert_eq!(wrong.kind(), Kind::Damaged);
    relay(&to).commit(&copy, &asked, Role::Replica).await.unwrap();
    assert_eq!((puts(&sim), gets(&sim, FROM)), (put, got), "blocks of the first copy passed through us");

    let (second, written) = image(&from, "second", SIZE, Some(&first), &[(9, 250), (200, 251)]).await;
    let (put, got, back) = (puts(&sim), gets(&sim, FROM), gets(&sim, TO));
    let asked = request(&from, &second, written.root, "copy-2").await;
    let copy = relay(&to).copy(&asked).await.unwrap();
    whole(&to, &copy).await;
    let checked = target.check_written(&copy.image, &disk(written.root), &disk::Silent).await.unwrap();
    assert_eq!(checked, Some(1 << 20), "only what changed is read back");
    relay(&to).commit(&copy, &asked, Role::Replica).await.unwrap();
    assert_eq!((puts(&sim), gets(&sim, FROM)), (put, got), "blocks of the second copy passed through us");
    assert_eq!(gets(&sim, TO) - back, 2);

    let (third, written) = image(&to, "third", SIZE, Some(&copy.image), &[(9, 77)]).await;
    assert_eq!(written.stored, 512 << 10, "a copy is a base as any other");
    assert_eq!(puts(&sim) - put, 1);
    let mut expected = all.clone();
    (expected[9].1, expected[200].1) = (77, 251);
    assert!(read(&to, &third, SIZE).await == bytes(SIZE, &expected));
}

/// With the lag of reads, and with calls whose answers are lost or that arrive twice, in simulated time that runs fast.
#[tokio::test(flavor = "multi_thread")]
async fn one_copy_whatever_becomes_of_the_answers() {
    let (sim, folder) = (CloudSim::start(&["--no-qemu"]), tempfile::tempdir().unwrap());
    sim.control("POST", "clock", &json!({"speed": 60}));
    let (from, to) = pair(&sim, folder.path());
    let (first, written) = image(&from, "first", SIZE, None, &[(3, 5)]).await;
    for rule in [
        json!({"operation": "CopyImage", "nth": 1, "fault": {"kind": "drop"}}),
        json!({"operation": "CopyImage", "nth": 2, "fault": {"kind": "twice"}}),
        json!({"operation": "CreateTags", "every": 3, "fault": {"kind": "drop"}}),
        json!({"operation": "Describe*", "every": 5, "fault": {"kind": "status", "status": 503, "code": "RequestLimitExceeded"}}),
    ] {
        sim.control("POST", "rules", &rule);
    }
    let mut made = Vec::new();
    for step in ["copy-1", "copy-2"] {
        let asked = request(&from, &first, written.root, step).await;
        let copy = relay(&to).copy(&asked).await.unwrap();
        whole(&to, &copy).await;
        assert_eq!(relay(&to).commit(&copy, &asked, Role::Replica).await.unwrap(), copy.image);
        assert_eq!(relay(&to).copy(&asked).await.unwrap().image, copy.image, "a committed copy is found again");
        made.push(copy.image);
    }
    let images = to.target().unwrap().images().await.unwrap();
    assert_eq!(images.len(), made.len(), "{images:?}");
    assert!(read(&to, &made[1], SIZE).await == bytes(SIZE, &[(3, 5)]));
    for resource in to.owned().await.unwrap() {
        to.delete(&resource).await.unwrap();
    }
    let left: Vec<_> = state(&sim).into_iter().filter(|it| it["region"] == TO).collect();
    assert!(left.is_empty(), "{left:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_is_waited_for() {
    let (sim, folder) = (CloudSim::start(&["--calm", "--no-qemu"]), tempfile::tempdir().unwrap());
    let (from, to) = pair(&sim, folder.path());
    let (first, written) = image(&from, "first", SIZE, None, &[(3, 5)]).await;
    sim.control("PATCH", "settings", &json!({"weather": {"copy_seconds": 900.0}, "limits": {"image_copies": 1}}));
    let one = request(&from, &first, written.root, "copy-1").await;
    let two = request(&from, &first, written.root, "copy-2").await;
    let copy = relay(&to).copy(&one).await.unwrap();
    let state = relay(&to).state(&copy).await.unwrap();
    assert!(matches!(state, CopyState::Running { total: Some(SIZE), .. }), "{state:?}");
    assert_eq!(relay(&to).copy(&two).await.unwrap_err().kind(), Kind::Quota);
    assert_eq!(relay(&to).copy(&one).await.unwrap().image, copy.image, "one that is begun needs no second slot");
    sim.control("POST", "clock", &json!({"advance": 901}));
    let next = relay(&to).copy(&two).await.unwrap();
    sim.control("POST", "clock", &json!({"advance": 901}));
    whole(&to, &next).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_checked_beforehand_and_options_are_carried_over() {
    let (sim, folder) = (CloudSim::start(&["--calm", "--no-qemu"]), tempfile::tempdir().unwrap());
    let account = sim.greeting["accounts"][0]["account"].as_str().unwrap();
    let partner = sim.greeting["accounts"][1]["account"].as_str().unwrap().to_owned();
    let key = |region: &str| Some(format!("arn:aws:kms:{region}:{account}:key/replicas"));
    let from = open(AwsConfig { kms_key: key(FROM), ..config_of(&sim, folder.path(), FROM) });
    let (first, written) = image(&from, "first", 1 << 20, None, &[(3, 5)]).await;
    let mut asked = request(&from, &first, written.root, "copy-1").await;
    asked.point = point(1 << 20, written.root);
    let foreign = open(AwsConfig { kms_key: key(FROM), ..config_of(&sim, folder.path(), TO) });
    for refused in [relay(&foreign).route(&asked.from).await.err(), relay(&foreign).copy(&asked).await.err()] {
        assert_eq!(refused.unwrap().kind(), Kind::Invalid);
    }
    assert!(calls(&sim, "CopyImage").is_empty(), "it was noticed only after the copy");

    asked.options = ImageOptions {
        name: Some("web-1 recovery".to_owned()),
        tags: [("team".to_owned(), "recovery".to_owned())].into(),
        share: vec![partner.clone()],
        protected: true,
        ..ImageOptions::default()
    };
    // the account's own key opens for nobody else
    let keyless = open(config_of(&sim, folder.path(), TO));
    assert_eq!(relay(&keyless).copy(&asked).await.unwrap_err().kind(), Kind::Invalid);
    for resource in keyless.owned().await.unwrap() {
        keyless.delete(&resource).await.unwrap();
    }
    let to = open(AwsConfig { kms_key: key(TO), ..config_of(&sim, folder.path(), TO) });
    asked.options.encryption = key(TO);
    let copy = relay(&to).copy(&asked).await.unwrap();
    whole(&to, &copy).await;
    assert_eq!(calls(&sim, "ModifyImageAttribute").len(), 0, "nobody sees it before it is committed");
    let mut other = asked.clone();
    other.options.encryption = key(FROM);
    assert_eq!(relay(&to).commit(&copy, &other, Role::Replica).await.unwrap_err().kind(), Kind::Invalid);
    assert_eq!(calls(&sim, "ModifyImageAttribute").len(), 0, "it has another key");
    relay(&to).commit(&copy, &asked, Role::Replica).await.unwrap();
    let made = state(&sim);
    let made = |kind: &str| {
        let found: Vec<_> = made.iter().filter(|it| it["kind"] == kind && it["region"] == TO).cloned().collect();
        assert_eq!(found.len(), 1, "{found:#?}");
        found[0].clone()
    };
    let (image, snapshot) = (made("image"), made("snapshot"));
    assert_eq!(image["about"]["name"], "web-1 recovery");
    assert_eq!(image["tags"]["team"], "recovery");
    assert_eq!(image["about"]["shared"], json!([partner]));
    assert_eq!(image["about"]["protected"], true);
    assert_eq!(snapshot["about"]["key"], json!(key(TO)));
    assert_eq!(snapshot["about"]["shared"], json!([partner]));
}

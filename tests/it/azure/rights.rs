//! `deploy/iam/azure.json`: each role is what its part of the work needs, no more and no less. The simulator refuses what
//! an application may not, and writes down what its calls need.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use cloud::{Cloud, CopyRequest, CopyState, LaunchOptions, Network, Outcome, Power, RetryOptions, Retrying, Stop};
use cloud_azure::compute::{AzureConfig, AzureSite};
use disk::LEAF;
use model::{DiskName, ImageId, ImageOptions, Kind, PointDisk, RestorePoint, Role, ServerName};
use serde_json::{Value, json};

use super::journey::request;
use super::lab::{Lab, lab, token, write_at};
use super::suites::{nothing_left, point, server, server_of};

const SIZE: u64 = 24 << 20;

/// The role of that name.
fn role(name: &str) -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/iam/azure.json");
    let roles: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    roles[name].clone()
}

fn lower(actions: &Value) -> BTreeSet<String> {
    actions.as_array().unwrap().iter().map(|action| action.as_str().unwrap().to_lowercase()).collect()
}

/// Sites in both regions, whose application has that role.
async fn sites(lab: &Lab, name: &str, role: &Value) -> (Arc<dyn Cloud>, Arc<dyn Cloud>) {
    lab.control("PUT", &format!("roles?application={name}"), Some(&json!([role]))).await;
    let site = |config: AzureConfig| -> Arc<dyn Cloud> {
        let mut config = AzureConfig { login: lab.login(name), ..config };
        config.restore.usual.security_group = Some("/subscriptions/s/networkSecurityGroups/closed".to_owned());
        Arc::new(Retrying::new(Arc::new(AzureSite::new(config)), RetryOptions::default()))
    };
    let of = |config: AzureConfig, group: &str| AzureConfig { encryption_set: Some(lab.set_of(group)), ..config };
    (site(of(lab.config(), "prod")), site(of(lab.config_there(), "dr")))
}

/// What the application has needed since.
async fn needed(lab: &Lab, name: &str) -> BTreeSet<String> {
    let calls = lab.control("GET", "calls", None).await;
    let own = calls.as_array().unwrap().iter().filter(|call| call["application"] == name);
    own.flat_map(|call| lower(&call["needs"])).collect()
}

/// The role is neither too large nor too small.
async fn fits(lab: &Lab, name: &str) {
    // accesses are given back by tasks of their own
    for _ in 0..100 {
        if lab.left().await.iter().all(|it| !it.ends_with('!')) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(
        needed(lab, name).await,
        lower(&role(name)["Actions"]),
        "of {name}: what is needed, and what is granted"
    );
}

fn disk() -> DiskName {
    DiskName::new("vda").unwrap()
}

/// A written disk and its point.
async fn written(site: &dyn Cloud, base: Option<&ImageId>, step: &str) -> (cloud::ImageDisk, RestorePoint) {
    let (made, mut writer) = site.target().unwrap().create_disk(&disk(), SIZE, base, &token(step)).await.unwrap();
    writer.write(0, vec![step.len() as u8; LEAF as usize].into()).await.unwrap();
    writer.write(9 * LEAF, vec![5; LEAF as usize].into()).await.unwrap();
    (made, point(SIZE, writer.finish().await.unwrap().root))
}

async fn image(site: &dyn Cloud, step: &str) -> (ImageId, RestorePoint) {
    let (made, point) = written(site, None, step).await;
    let options = ImageOptions::default();
    let image = site.target().unwrap().register(&[made], &point, &options, Role::Replica, &token(step)).await.unwrap();
    (image, point)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_auditor_looks() {
    let lab = lab(false, true).await;
    let owner = lab.site();
    let (name, _) = server(&lab, &owner, "web-1").await;
    let (image, _) = image(owner.as_ref(), "image").await;
    let gallery = model::Gallery { name: "replicas".to_owned(), ..model::Gallery::default() };
    let options = ImageOptions { gallery: Some(gallery), ..ImageOptions::default() };
    assert!(owner.target().unwrap().publish(&image, &options).await.unwrap().is_whole());
    let (site, _) = sites(&lab, "auditor", &role("auditor")).await;
    let source = site.source().unwrap();
    assert_eq!(source.servers().await.unwrap().len(), 1);
    source.describe(&name).await.unwrap();
    assert_eq!(site.target().unwrap().images().await.unwrap().len(), 1);
    assert!(!site.owned().await.unwrap().is_empty());
    fits(&lab, "auditor").await;
    // and does nothing else
    let denied = site.target().unwrap().open_image(&image, &disk()).await.map(drop).unwrap_err();
    assert!(denied.kind() == Kind::Denied && denied.advice().is_some(), "{}", denied.chain());
    let resource = site.owned().await.unwrap().into_iter().find(|it| it.kind == "image").unwrap();
    assert_eq!(site.delete(&resource).await.unwrap_err().kind(), Kind::Denied);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_writer_captures_and_writes() {
    let lab = lab(false, true).await;
    let owner = lab.site();
    let (pair, _) = server_of(&lab, &owner, "web-2", &["vda", "vdb"]).await;
    let (name, file) = server(&lab, &owner, "web-1").await;
    let (base, _) = image(owner.as_ref(), "base").await;
    let (site, _) = sites(&lab, "writer", &role("writer")).await;
    let source = site.source().unwrap();
    let mut since = None;
    for step in ["first", "second", "third"] {
        write_at(&file, 7 * LEAF, step.as_bytes()).unwrap();
        let capture = source.capture(&request(&name, step, since.clone())).await.unwrap();
        let reader = source.open(&capture, &capture.disks[0].name, since.is_some()).await.unwrap();
        reader.extents(0).await.unwrap();
        reader.read_at(7 * LEAF, 512).await.unwrap();
        drop(reader);
        let outcome = if step == "third" { Outcome::Abandoned } else { Outcome::Committed };
        source.release(&capture, outcome).await.unwrap();
        since = capture.cursor;
    }
    // several disks of one that runs
    let mut since = None;
    for step in ["fourth", "fifth"] {
        let capture = source.capture(&request(&pair, step, since.clone())).await.unwrap();
        let reader = source.open(&capture, &capture.disks[1].name, since.is_some()).await.unwrap();
        reader.extents(0).await.unwrap();
        drop(reader);
        source.release(&capture, Outcome::Committed).await.unwrap();
        since = capture.cursor;
    }
    written(site.as_ref(), None, "whole").await;
    written(site.as_ref(), Some(&base), "update").await;
    // once more: the disk of the first attempt goes
    let (made, point) = written(site.as_ref(), Some(&base), "update").await;
    let options = ImageOptions::default();
    let target = owner.target().unwrap();
    let image = target.register(&[made], &point, &options, Role::Replica, &token("update")).await.unwrap();
    let known = PointDisk { name: disk(), size: SIZE, root: point.disks[0].root };
    assert!(site.target().unwrap().check_written(&image, &known, &disk::Silent).await.unwrap().is_some());
    fits(&lab, "writer").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_registrar_makes_and_copies_images() {
    let lab = lab(false, true).await;
    let owner = lab.site();
    let (made, point) = written(owner.as_ref(), None, "image").await;
    let (site, there) = sites(&lab, "registrar", &role("registrar")).await;
    let (target, options) = (site.target().unwrap(), ImageOptions::default());
    let image = target.register(&[made], &point, &options, Role::Replica, &token("image")).await.unwrap();
    // a disk that was written anew takes the place of an earlier attempt's
    let (made, point) = written(owner.as_ref(), None, "image").await;
    let other = RestorePoint { program: "another".to_owned(), ..point.clone() };
    target.register(&[made], &other, &options, Role::Replica, &token("image")).await.unwrap();
    let (relay, from) = (there.relay().unwrap(), site.relay().unwrap().peer().await.unwrap());
    let options = ImageOptions { immutability: Some(std::time::Duration::from_secs(1)), ..options };
    let request = CopyRequest { from, image, point, options, token: token("copy") };
    let copy = relay.copy(&request).await.unwrap();
    assert!(matches!(relay.state(&copy).await.unwrap(), CopyState::Done { .. }));
    let checked = there.target().unwrap().check_written(&copy.image, &request.point.disks[0], &disk::Silent).await;
    assert!(checked.unwrap().is_some());
    relay.commit(&copy, &request, Role::Replica).await.unwrap();
    // published, where nothing can be had at first
    let gallery = model::Gallery { name: "replicas".to_owned(), ..model::Gallery::default() };
    let options = ImageOptions { gallery: Some(gallery), ..ImageOptions::default() };
    for bad in [json!(["westeurope"]), json!(["westeurope"]), json!([])] {
        lab.control("PATCH", "settings", Some(&json!({ "weather": { "bad_regions": bad } }))).await;
        target.publish(&request.image, &options).await.unwrap();
    }
    assert!(target.publish(&request.image, &options).await.unwrap().is_whole());
    fits(&lab, "registrar").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_deletes() {
    let lab = lab(false, true).await;
    let owner = lab.site();
    let (name, _) = server_of(&lab, &owner, "web-2", &["vda", "vdb"]).await;
    image(owner.as_ref(), "image").await;
    let target = owner.target().unwrap();
    // an upload that was broken off, and an access that a dead process has left
    let (_, writer) = target.create_disk(&disk(), SIZE, None, &token("upload")).await.unwrap();
    drop(writer);
    let images = target.images().await.unwrap();
    let gallery = model::Gallery { name: "replicas".to_owned(), ..model::Gallery::default() };
    let options = ImageOptions { gallery: Some(gallery), ..ImageOptions::default() };
    assert!(target.publish(&images[0].0, &options).await.unwrap().is_whole());
    let reader = target.open_image(&images[0].0, &disk()).await.unwrap();
    let capture = owner.source().unwrap().capture(&request(&name, "capture", None)).await.unwrap();
    let point = owner.source().unwrap().open(&capture, &capture.disks[0].name, false).await.unwrap();
    let (site, _) = sites(&lab, "retention", &role("retention")).await;
    for resource in site.owned().await.unwrap().iter().filter(|it| it.kind != "instance") {
        site.delete(resource).await.unwrap();
    }
    drop((reader, point));
    let mut left = lab.left().await;
    left.retain(|it| !it.starts_with("machine ") && !it.starts_with("disk rpl-") || it.starts_with("disk of"));
    assert_eq!(left, Vec::<String>::new(), "but for the server");
    fits(&lab, "retention").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restore_launches_and_takes_down() {
    let lab = lab(false, true).await;
    let owner = lab.site();
    let (made, mut point) = written(owner.as_ref(), None, "image").await;
    point.machine.firmware = model::Firmware::Uefi { secure_boot: true, variables: None };
    let options = ImageOptions::default();
    let target = owner.target().unwrap();
    let image = target.register(&[made], &point, &options, Role::Replica, &token("image")).await.unwrap();
    let (site, _) = sites(&lab, "restore", &role("restore")).await;
    let target = site.target().unwrap();
    let name = ServerName::new("drill-1").unwrap();
    let options = LaunchOptions { name, network: Network::Isolated, ports: Vec::new(), ephemeral: true };
    let instance = target.launch(&image, &options, &token("launch")).await.unwrap();
    target.probe(&instance.id).await.unwrap();
    target.console(&instance.id).await.unwrap();
    target.destroy(&instance.id).await.unwrap();
    fits(&lab, "restore").await;
    nothing_left(&lab, &[&format!("snapshot {image}")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mover_switches_servers() {
    let lab = lab(false, true).await;
    let (name, _) = server(&lab, &lab.site(), "web-1").await;
    let (site, _) = sites(&lab, "mover", &role("mover")).await;
    let switch = site.switch().unwrap();
    switch.stop(&name, Stop { limit: std::time::Duration::from_secs(60), force: false }).await.unwrap();
    assert_eq!(site.source().unwrap().describe(&name).await.unwrap().power, Power::Off);
    switch.start(&name).await.unwrap();
    fits(&lab, "mover").await;
}

/// No right is there for nothing: without any of them its part of the work is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_lacks_one_action_is_refused() {
    let lab = lab(false, true).await;
    let (image, _) = image(lab.site().as_ref(), "image").await;
    let mut short = role("restore");
    let actions = short["Actions"].as_array_mut().unwrap();
    actions.retain(|action| !action.as_str().unwrap().contains("subnets/join"));
    let (site, _) = sites(&lab, "short", &short).await;
    let name = ServerName::new("drill-1").unwrap();
    let options = LaunchOptions { name, network: Network::Isolated, ports: Vec::new(), ephemeral: true };
    let denied = site.target().unwrap().launch(&image, &options, &token("launch")).await.unwrap_err();
    assert!(denied.kind() == Kind::Denied && denied.chain().contains("subnets/join"), "{}", denied.chain());
}

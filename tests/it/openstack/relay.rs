//! Images from region to region of one Keystone: the suite of relays both ways, and a server of two disks with all that a
//! policy can ask for.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cloud::conformance::{self, Probe, Verdict};
use cloud::openstack::{CloudRef, OpenStackConfig, OpenStackSite, Restore};
use cloud::{Cloud, CopyRequest, CopyState, Relay, RetryOptions, Retrying, Target};
use disk::{DiskRead, Format, LEAF};
use model::{
    DiskName, DiskRoot, ImageOptions, Kind, OwnerId, PointDisk, RestorePoint, Role, RunId, ServerName, SiteName, Token,
    Visibility,
};
use serde_json::json;
use tests::guest::skip;

use super::lab::{Lab, lab};

const SIZE: u64 = 64 * LEAF;

/// The project `relay` in a region of the test cloud, with the least rights, if it runs.
fn site(region: &str, scratch: &Path) -> Option<Retrying> {
    let Some(folder) = std::env::var_os("REPLICATE_OPENSTACK") else {
        return skip("no OpenStack runs: `tests/run.sh openstack` starts one");
    };
    let config = OpenStackConfig {
        site: SiteName::new(region).unwrap(),
        cloud: CloudRef {
            cloud: "relay-least".to_owned(),
            file: Some(PathBuf::from(folder).join("clouds.yaml")),
            region: Some(region.to_owned()),
            interface: None,
        },
        scratch: scratch.to_owned(),
        format: Format::Qcow2,
        staged: false,
        restore: Restore::default(),
    };
    Some(Retrying::new(Arc::new(OpenStackSite::new(config)), RetryOptions::default()))
}

/// A run of its own: ids of images that were deleted are never free again.
fn run(folder: &Path) -> RunId {
    let mut hasher = DefaultHasher::new();
    folder.hash(&mut hasher);
    RunId::at("2026-11-22T03:00:00Z".parse().unwrap(), hasher.finish() as u32)
}

struct Suite(RunId);

#[async_trait]
impl Probe for Suite {
    fn owner(&self) -> OwnerId {
        OwnerId::new("conformance").unwrap()
    }

    fn run(&self) -> RunId {
        self.0.clone()
    }

    fn limit(&self) -> Duration {
        Duration::from_secs(1800)
    }
}

async fn passes(from: &str, to: &str) {
    let folder = tempfile::tempdir().unwrap();
    let (Some(source), Some(target)) = (site(from, folder.path()), site(to, folder.path())) else { return };
    let findings = conformance::relay(&source, &target, &Suite(run(folder.path()))).await;
    for finding in &findings {
        println!("{:?} {}: {}", finding.verdict, finding.name, finding.detail);
    }
    let not: Vec<_> = findings.iter().filter(|finding| finding.verdict != Verdict::Passed).collect();
    assert!(not.is_empty() && findings.len() >= 7, "{not:#?}");
}

#[tokio::test]
async fn the_suite_of_relays_holds_from_the_first_region_to_the_second() {
    passes("RegionOne", "RegionTwo").await;
}

#[tokio::test]
async fn the_suite_of_relays_holds_on_the_way_back() {
    passes("RegionTwo", "RegionOne").await;
}

fn token(run: &RunId, step: &str) -> Token {
    let server = ServerName::new("web-1").unwrap();
    Token { owner: OwnerId::new("conformance").unwrap(), policy: None, server, run: run.clone(), step: step.into() }
}

fn point(run: &RunId, roots: &[DiskRoot]) -> RestorePoint {
    let names = ["vda", "vdb"].map(|name| DiskName::new(name).unwrap());
    let disks: Vec<PointDisk> =
        names.iter().zip(roots).map(|(name, root)| PointDisk { name: name.clone(), size: SIZE, root: *root }).collect();
    let specs = names.map(|name| json!({ "name": name, "size": SIZE, "bus": "scsi" }));
    serde_json::from_value(json!({
        "id": run, "server": "web-1", "taken_at": "2026-11-22T03:00:00Z", "consistency": "crash", "program": "test",
        "machine": { "arch": "x86-64", "firmware": { "kind": "bios" }, "memory": 1 << 28, "vcpus": 1, "disks": specs },
        "disks": disks,
    }))
    .unwrap()
}

async fn bytes(reader: &dyn DiskRead) -> Vec<u8> {
    reader.read_at(0, SIZE as usize).await.unwrap().to_vec()
}

/// What the judge sees of a committed copy: it lies in the store that was asked for and in no other, and the project
/// that it is shared with can read it.
fn seen_by_others(lab: &Lab, cloud: &str, others: &str, image: &str) {
    let world = lab.judge(&[cloud]);
    let told = world.image(cloud, image);
    assert_eq!((told["stores"].as_str(), told["visibility"].as_str()), (Some("cold"), Some("shared")), "{told:#}");
    assert_eq!(told["protected"], true);
    let project = lab.judge(&[others]).project(others).to_owned();
    assert_eq!(told["members"], json!({ project: "pending" }), "{told:#}");
    assert_eq!(lab.sha512(others, image), told["os_hash_value"].as_str().unwrap());
}

/// A server of two disks, copied with everything that a policy can ask for, by either way.
async fn carries_everything(from: &str, to: &str) {
    let Some(lab) = lab() else { return };
    let others = lab.judge(&["alice"]).project("alice").to_owned();
    let folder = tempfile::tempdir().unwrap();
    let (Some(source), Some(target)) = (site(from, folder.path()), site(to, folder.path())) else { return };
    let run = run(folder.path());
    let (mut disks, mut roots, mut contents) = (Vec::new(), Vec::new(), Vec::new());
    for (index, name) in ["vda", "vdb"].into_iter().enumerate() {
        let step = token(&run, &format!("disk-{name}"));
        let made = source.create_disk(&DiskName::new(name).unwrap(), SIZE, None, &step).await.unwrap();
        let (disk, mut writer) = made;
        let data: Vec<u8> = (0..4 * LEAF).map(|at| (at / 512 % 251) as u8 ^ index as u8).collect();
        writer.write(8 * LEAF, data.clone().into()).await.unwrap();
        roots.push(writer.finish().await.unwrap().root);
        let mut whole = vec![0; SIZE as usize];
        whole[8 * LEAF as usize..12 * LEAF as usize].copy_from_slice(&data);
        contents.push(whole);
        disks.push(disk);
    }
    let point = point(&run, &roots);
    let plain = ImageOptions::default();
    let image = source.register(&disks, &point, &plain, Role::Replica, &token(&run, "register")).await.unwrap();

    let options = ImageOptions {
        name: Some(format!("web-1 as of {run}")),
        tags: [("team".to_owned(), "recovery".to_owned())].into(),
        visibility: Some(Visibility::Shared),
        protected: true,
        share: vec![others],
        stores: vec!["cold".to_owned()],
        ..ImageOptions::default()
    };
    let request = CopyRequest {
        from: source.peer().await.unwrap(),
        image,
        point: point.clone(),
        options,
        token: token(&run, "relay"),
    };
    let route = target.route(&request.from).await.unwrap();
    let copy = target.copy(&request).await.unwrap();
    let proof = loop {
        match target.state(&copy).await.unwrap() {
            CopyState::Done { proof, .. } => break proof,
            CopyState::Running { .. } => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    };
    println!("{from} to {to} by {}: {proof:?}", route.method);
    assert_eq!(proof.as_deref(), Some("sha512 of both images"));
    let committed = target.commit(&copy, &request, Role::Replica).await.unwrap();
    assert_eq!(target.commit(&copy, &request, Role::Replica).await.unwrap(), committed);
    for (name, content) in ["vda", "vdb"].into_iter().zip(&contents) {
        let reader = target.open_image(&committed, &DiskName::new(name).unwrap()).await.unwrap();
        assert!(bytes(&*reader).await == *content, "{name} differs");
    }
    let mine = |owned: Vec<cloud::Resource>| {
        owned
            .into_iter()
            .filter(|r| r.tags.get(model::tag::RUN).is_some_and(|of| of == run.as_str()))
            .collect::<Vec<_>>()
    };
    let owned = mine(target.owned().await.unwrap());
    let [resource] = owned.as_slice() else { panic!("{owned:?}") };
    assert_eq!((resource.role, resource.tags["team"].as_str()), (Role::Replica, "recovery"));
    assert!(target.images().await.unwrap().contains(&(committed.clone(), point)));
    let tail = if to == "RegionOne" { "" } else { "-two" };
    let cloud = format!("relay{tail}");
    seen_by_others(&lab, &cloud, &format!("alice{tail}"), committed.as_str());
    // protected until it is not, and hidden for people only
    assert_eq!(target.delete(resource).await.unwrap_err().kind(), Kind::Denied);
    target.hide(&committed, true).await.unwrap();
    assert!(target.images().await.unwrap().iter().any(|(id, _)| *id == committed));
    let world = lab.judge(&[&cloud]);
    assert_eq!(world.image(&cloud, committed.as_str())["os_hidden"], true);
    target.protect(&committed, false).await.unwrap();
    for (cloud, name) in [(&source, from), (&target, to)] {
        for resource in mine(cloud.owned().await.unwrap()) {
            cloud.delete(&resource).await.unwrap();
        }
        assert!(mine(cloud.owned().await.unwrap()).is_empty(), "something is left in {name}");
    }
}

#[tokio::test]
async fn a_server_of_two_disks_arrives_with_all_that_a_policy_asks_for() {
    carries_everything("RegionOne", "RegionTwo").await;
    carries_everything("RegionTwo", "RegionOne").await;
}

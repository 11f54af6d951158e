//! Keys of the customer's: what a site makes is encrypted with its disk encryption set, and what it captures with the
//! disk's own.

use std::collections::BTreeSet;

use cloud::{Cloud, CopyRequest, CopyState, LaunchOptions, Network, Outcome};
use cloud_azure::compute::AzureConfig;
use disk::{LEAF, Silent};
use model::{DiskName, ImageId, ImageOptions, Kind, RestorePoint, Role, ServerName};

use super::journey::request;
use super::lab::{Lab, lab, open, token};
use super::suites::{nothing_left, point, server_of};

const SIZE: u64 = 24 << 20;

/// The sets that what is there is encrypted with; empty: the platform's key.
async fn sets(lab: &Lab, kind: &str, region: &str) -> BTreeSet<String> {
    let state = lab.control("GET", "state", None).await;
    let all = state["azure"].as_array().unwrap().iter().filter(|it| it["kind"] == kind && it["region"] == region);
    all.map(|it| it["encryption"]["diskEncryptionSetId"].as_str().unwrap_or_default().to_owned()).collect()
}

fn disk() -> DiskName {
    DiskName::new("vda").unwrap()
}

async fn image(site: &dyn Cloud, base: Option<&ImageId>, step: &str) -> (ImageId, RestorePoint) {
    let (target, token) = (site.target().unwrap(), token(step));
    let (made, mut writer) = target.create_disk(&disk(), SIZE, base, &token).await.unwrap();
    writer.write(3 * LEAF, vec![step.len() as u8; LEAF as usize].into()).await.unwrap();
    let point = point(SIZE, writer.finish().await.unwrap().root);
    let image = target.register(&[made], &point, &ImageOptions::default(), Role::Replica, &token).await.unwrap();
    (image, point)
}

async fn launch(site: &dyn Cloud, image: &ImageId, name: &str) {
    let server = ServerName::new(name).unwrap();
    let options = LaunchOptions { name: server, network: Network::Site, ports: Vec::new(), ephemeral: false };
    site.target().unwrap().launch(image, &options, &token(name)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn images_and_restored_servers_have_the_sites_key() {
    let lab = lab(false, true).await;
    let (set, plain) = (lab.set_of("prod"), lab.site());
    let site = open(AzureConfig { encryption_set: Some(set.clone()), ..lab.config() });
    let of_set = BTreeSet::from([set]);
    // an image with the platform's key is the base of one with the customer's
    let (base, _) = image(plain.as_ref(), None, "plain").await;
    let (made, written) = image(site.as_ref(), Some(&base), "encrypted").await;
    launch(site.as_ref(), &base, "web-1").await;
    assert_eq!(sets(&lab, "disk", "westeurope").await, of_set);
    // a site that names no set takes that of the image
    launch(plain.as_ref(), &made, "web-2").await;
    assert_eq!(sets(&lab, "disk", "westeurope").await, of_set);
    let checked = site.target().unwrap().check_written(&made, &written.disks[0], &Silent).await.unwrap();
    assert!(checked.is_some());
    let image = plain.owned().await.unwrap().into_iter().find(|it| it.id == base.as_str()).unwrap();
    plain.delete(&image).await.unwrap();
    assert_eq!(sets(&lab, "snapshot", "westeurope").await, of_set);
    let reader = site.target().unwrap().open_image(&made, &disk()).await.unwrap();
    assert!(reader.read_at(3 * LEAF, 512).await.unwrap().iter().all(|byte| *byte == b"encrypted".len() as u8));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_that_a_policy_insists_on_is_the_one_that_it_gets() {
    let lab = lab(false, true).await;
    let (set, plain) = (lab.set_of("prod"), lab.site());
    let other = set.replace("/replicas", "/replicas-twice");
    let site = open(AzureConfig { encryption_set: Some(set.clone()), ..lab.config() });
    // whose configuration was changed between writing and registering
    for (writer, registrar, asked, goes) in [
        (&site, &site, &set, true),
        (&site, &site, &other, false),
        (&site, &plain, &set, false),
        (&plain, &site, &set, false),
    ] {
        let token = token(&format!("key-{goes}"));
        let (made, written) = writer.target().unwrap().create_disk(&disk(), SIZE, None, &token).await.unwrap();
        let point = point(SIZE, written.finish().await.unwrap().root);
        let asks = ImageOptions { encryption: Some(asked.clone()), ..ImageOptions::default() };
        match registrar.target().unwrap().register(&[made], &point, &asks, Role::Replica, &token).await {
            Ok(_) => assert!(goes, "registered without {asked}"),
            Err(error) => assert!(!goes && error.kind() == Kind::Invalid, "{}", error.chain()),
        }
    }
    assert_eq!(sets(&lab, "snapshot", "westeurope").await, BTreeSet::from([set]), "what was refused is no image");
}

/// By a site that names no set: the disks have theirs.
#[tokio::test(flavor = "multi_thread")]
async fn encrypted_disks_are_captured() {
    let lab = lab(false, true).await;
    let set = lab.set_of("prod").replace("/replicas", "/replicas-twice");
    let encrypted = open(AzureConfig { encryption_set: Some(set.clone()), ..lab.config() });
    for (name, disks, kind) in [("web-1", &["vda"][..], "snapshot"), ("web-2", &["vda", "vdb"], "disk of a point")] {
        let (name, _) = server_of(&lab, &encrypted, name, disks).await;
        let site = lab.site();
        let source = site.source().unwrap();
        let capture = source.capture(&request(&name, name.as_str(), None)).await.unwrap();
        assert_eq!(capture.disks.len(), disks.len());
        assert_eq!(sets(&lab, kind, "westeurope").await, BTreeSet::from([set.clone()]), "{name}");
        let reader = source.open(&capture, &capture.disks[0].name, false).await.unwrap();
        assert!(reader.read_at(5 * LEAF, 512).await.unwrap().iter().all(|byte| *byte == 6));
        drop(reader);
        source.release(&capture, Outcome::Abandoned).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_that_cannot_be_used_is_refused_before_anything_is_made() {
    let lab = lab(false, true).await;
    let (here, there) = (lab.set_of("prod"), lab.set_of("dr"));
    let absent = format!("{here}-gone");
    let confidential = here.replace("/replicas", "/confidential");
    for (set, why) in [
        (&there, "it is in northeurope, and the site in westeurope"),
        (&absent, "exist"),
        (&confidential, "confidential"),
    ] {
        let site = open(AzureConfig { encryption_set: Some(set.clone()), ..lab.config() });
        let made = site.target().unwrap().create_disk(&disk(), SIZE, None, &token("made")).await;
        let refused = made.map(|(made, _)| made).unwrap_err();
        assert!(refused.kind() == Kind::Invalid && refused.advice().is_some(), "{}", refused.chain());
        assert!(refused.chain().contains(why), "{}", refused.chain());
        let relay = site.relay().unwrap();
        let from = lab.other_region().relay().unwrap().peer().await.unwrap();
        assert_eq!(relay.route(&from).await.unwrap_err().kind(), Kind::Invalid);
    }
    nothing_left(&lab, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_has_the_key_of_its_own_region() {
    let lab = lab(false, true).await;
    let (here, there) = (lab.set_of("prod"), lab.set_of("dr"));
    let from = open(AzureConfig { encryption_set: Some(here.clone()), ..lab.config() });
    let to = open(AzureConfig { encryption_set: Some(there.clone()), ..lab.config_there() });
    let (image, point) = image(from.as_ref(), None, "made").await;
    let (relay, peer) = (to.relay().unwrap(), from.relay().unwrap().peer().await.unwrap());
    relay.route(&peer).await.unwrap();
    let request = CopyRequest { from: peer, image, point, options: ImageOptions::default(), token: token("copy") };
    let copy = relay.copy(&request).await.unwrap();
    assert!(matches!(relay.state(&copy).await.unwrap(), CopyState::Done { .. }));
    let checked = to.target().unwrap().check_written(&copy.image, &request.point.disks[0], &Silent).await.unwrap();
    assert!(checked.is_some());
    // whose configuration was changed since, as was the policy
    let other = there.replace("/replicas", "/replicas-twice");
    let changed = open(AzureConfig { encryption_set: Some(other.clone()), ..lab.config_there() });
    let mut insists = request.clone();
    insists.options.encryption = Some(other);
    let refused = changed.relay().unwrap().commit(&copy, &insists, Role::Replica).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Invalid, "{}", refused.chain());
    assert!(to.target().unwrap().images().await.unwrap().is_empty(), "it became a replica");
    relay.commit(&copy, &request, Role::Replica).await.unwrap();
    assert_eq!(sets(&lab, "snapshot", "westeurope").await, BTreeSet::from([here]));
    assert_eq!(sets(&lab, "snapshot", "northeurope").await, BTreeSet::from([there]));
}

//! Servers with secure boot or a TPM come back as machines of Trusted Launch, and go on as such.

use std::sync::Arc;

use cloud::{Cloud, LaunchOptions, Network, Outcome};
use disk::LEAF;
use model::{DiskName, Firmware, ImageId, ImageOptions, Kind, RestorePoint, Role, ServerName};
use serde_json::Value;

use super::journey::request;
use super::lab::{Lab, lab, open, token};
use super::suites::{nothing_left, point};

const SIZE: u64 = 24 << 20;

/// An image of a server that boots so.
async fn image(site: &Arc<dyn Cloud>, firmware: Firmware, tpm: bool) -> (ImageId, RestorePoint) {
    let (target, disk, token) = (site.target().unwrap(), DiskName::new("vda").unwrap(), token("image"));
    let (made, mut writer) = target.create_disk(&disk, SIZE, None, &token).await.unwrap();
    writer.write(0, vec![7; LEAF as usize].into()).await.unwrap();
    let mut point = point(SIZE, writer.finish().await.unwrap().root);
    (point.machine.firmware, point.machine.tpm) = (firmware, tpm);
    let options = ImageOptions::default();
    (target.register(&[made], &point, &options, Role::Replica, &token).await.unwrap(), point)
}

fn uefi(secure_boot: bool) -> Firmware {
    Firmware::Uefi { secure_boot, variables: None }
}

fn options(ephemeral: bool) -> LaunchOptions {
    let network = if ephemeral { Network::Isolated } else { Network::Site };
    LaunchOptions { name: ServerName::new("web-1").unwrap(), network, ports: Vec::new(), ephemeral }
}

/// How often operations were asked for.
async fn asked(lab: &Lab, operations: &[&str]) -> Vec<usize> {
    let calls = lab.control("GET", "calls", None).await;
    let count = |name: &str| calls.as_array().unwrap().iter().filter(|call| call["operation"] == name).count();
    operations.iter().map(|name| count(name)).collect()
}

/// The one machine, as the simulator sees it.
async fn machine(lab: &Lab) -> Value {
    let state = lab.control("GET", "state", None).await;
    state["azure"].as_array().unwrap().iter().find(|it| it["kind"] == "machine").unwrap().clone()
}

/// From elsewhere to Azure, captured there, and launched once more: secure boot and TPM are those of the server.
#[tokio::test(flavor = "multi_thread")]
async fn facts_go_round() {
    for (secure_boot, tpm, has_tpm) in
        [(true, false, true), (true, true, true), (false, true, true), (false, false, false)]
    {
        let lab = lab(false, true).await;
        let (site, name) = (lab.site(), ServerName::new("web-1").unwrap());
        let (there, _) = image(&site, uefi(secure_boot), tpm).await;
        site.target().unwrap().launch(&there, &options(false), &token("launch")).await.unwrap();
        let is_trusted = machine(&lab).await["security"]["securityType"] == "TrustedLaunch";
        assert_eq!(is_trusted, secure_boot || tpm);
        let source = site.source().unwrap();
        let capture = source.capture(&request(&name, "capture", None)).await.unwrap();
        assert_eq!((&capture.machine.firmware, capture.machine.tpm), (&uefi(secure_boot), has_tpm));
        source.release(&capture, Outcome::Abandoned).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_launch_that_is_repeated_secures_once() {
    let lab = lab(false, true).await;
    let site = lab.site();
    let (image, _) = image(&site, uefi(true), true).await;
    let target = site.target().unwrap();
    let operations = [
        "VirtualMachines_CreateOrUpdate",
        "VirtualMachines_deallocate",
        "VirtualMachines_Update",
        "VirtualMachines_start",
    ];
    let first = target.launch(&image, &options(false), &token("launch")).await.unwrap();
    assert_eq!(asked(&lab, &operations).await, [1, 1, 1, 1]);
    let again = target.launch(&image, &options(false), &token("launch")).await.unwrap();
    assert_eq!((first.id.clone(), asked(&lab, &operations).await), (again.id, vec![1, 1, 1, 1]));
    let it = machine(&lab).await;
    assert_eq!((&it["tags"]["replicate:role"], &it["state"]), (&"replica".into(), &"Running".into()));
    assert!(
        it["tags"]["replicate:said"].is_string(),
        "what it said before it was secured would pass for proof: {it:#}"
    );
    target.destroy(&first.id).await.unwrap();
    nothing_left(&lab, &[&format!("snapshot {image}")]).await;
}

/// What a lost answer, a refusal or a dead process leaves at any step is gone on with by the same token; until it is secured it is nobody's.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_scratch_until_it_is_secured() {
    for (operation, role) in [
        ("VirtualMachines_deallocate", "scratch"),
        ("VirtualMachines_Update", "scratch"),
        ("VirtualMachines_start", "replica"),
    ] {
        let lab = lab(false, true).await;
        let site = lab.site();
        let (image, _) = image(&site, uefi(true), false).await;
        let target = site.target().unwrap();
        let rule = serde_json::json!({ "operation": operation, "times": 1, "fault": { "kind": "status", "status": 400, "code": "BadRequest" } });
        lab.control("POST", "rules", Some(&rule)).await;
        let refused = target.launch(&image, &options(false), &token("launch")).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Invalid, "{}", refused.chain());
        assert_eq!(machine(&lab).await["tags"]["replicate:role"], role, "{operation}");
        let servers = site.source().unwrap().servers().await.unwrap();
        assert_eq!(servers.len(), usize::from(role == "replica"), "{operation}: what is not secured yet is no server");
        target.launch(&image, &options(false), &token("launch")).await.unwrap();
        let it = machine(&lab).await;
        assert_eq!(
            (&it["tags"]["replicate:role"], &it["state"]),
            (&"replica".into(), &"Running".into()),
            "{operation}"
        );
        assert_eq!(it["security"]["securityType"], "TrustedLaunch");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_azure_has_not_is_told() {
    let lab = lab(false, true).await;
    let site = lab.site();
    let (old, _) = image(&site, Firmware::Bios, true).await;
    let target = site.target().unwrap();
    let instance = target.launch(&old, &options(true), &token("old")).await.unwrap();
    assert_eq!(machine(&lab).await["security"], Value::Null, "what boots by BIOS has no TPM");
    target.destroy(&instance.id).await.unwrap();
    // a size that has none
    let mut config = lab.config();
    config.restore.usual.size = Some("Standard_M64".to_owned());
    let (site, resources) = (open(config), site.owned().await.unwrap());
    site.delete(&resources[0]).await.unwrap();
    let (new, _) = image(&site, uefi(true), false).await;
    let refused = site.target().unwrap().launch(&new, &options(true), &token("new")).await.unwrap_err();
    assert!(refused.chain().contains("Standard_M64"), "{}", refused.chain());
    assert!(refused.advice().is_some_and(|hint| hint.contains("size")), "{}", refused.chain());
}

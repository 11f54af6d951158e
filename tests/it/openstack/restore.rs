//! A server comes back with all that a site's `restore` can say: disks that are volumes, a fixed address and the
//! hardware address that it had, security groups, a key, user data. Nova and Neutron are asked, and the guest boots.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cloud::openstack::{LaunchSpec, MacChoice, NetworkSpec};
use serde_json::Value;

use super::house::{House, ONE, SERVER, Setup, in_vault, policy};
use super::lab::{Lab, World, lab, last_order, ready};

const PROJECT: &str = "restore";
const ADDRESS: &str = "10.0.2.99";
const USER_DATA: &[u8] = b"#cloud-config\n{}\n";

fn launched(folder: &std::path::Path) -> LaunchSpec {
    let user_data = folder.join("user-data");
    std::fs::write(&user_data, USER_DATA).unwrap();
    let network = NetworkSpec { network: "net".to_owned(), address: Some(ADDRESS.to_owned()), mac: MacChoice::Keep };
    LaunchSpec {
        flavor: Some("medium".to_owned()),
        networks: Some(vec![network]),
        security_groups: Some(vec!["ops".to_owned()]),
        key: Some("ops".to_owned()),
        user_data: Some(user_data),
        boot_from_volume: Some(true),
        ..LaunchSpec::default()
    }
}

/// The port of a server.
fn port<'a>(world: &'a World, server: &str) -> &'a Value {
    let mut ports = world.of(PROJECT, "ports").iter().filter(|port| port["device_id"] == server);
    let port = ports.next().unwrap();
    assert!(ports.next().is_none(), "{server} has several ports");
    port
}

/// What Nova, Cinder and Neutron say of the restored server.
fn as_configured(lab: &Lab, server: &str, mac: &str, group: &str) {
    let world = lab.judge(&[PROJECT]);
    let told = lab.server("oslab", server);
    assert_eq!((told["image"].as_str(), told["key_name"].as_str()), (Some(""), Some("ops")), "{told:#}");
    assert_eq!(told["flavor"]["original_name"], "medium");
    let user_data = STANDARD.decode(told["OS-EXT-SRV-ATTR:user_data"].as_str().unwrap()).unwrap();
    assert_eq!(user_data, USER_DATA);
    let attached = told["os-extended-volumes:volumes_attached"].as_array().unwrap();
    let volumes: Vec<&Value> = world.of(PROJECT, "volumes").iter().collect();
    assert_eq!((attached.len(), volumes.len()), (2, 2), "{volumes:#?}");
    // they outlive the server: only a person deletes them
    assert!(attached.iter().all(|volume| volume["delete_on_termination"] == false), "{attached:?}");
    let root = volumes.iter().filter(|volume| volume["attachments"][0]["device"] == "/dev/vda");
    assert_eq!(root.map(|volume| volume["bootable"].as_str().unwrap()).collect::<Vec<_>>(), ["true"]);
    let port = port(&world, server);
    assert_eq!((port["mac_address"].as_str(), port["fixed_ips"][0]["ip_address"].as_str()), (Some(mac), Some(ADDRESS)));
    assert_eq!(port["security_groups"], serde_json::json!([group]));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a guest that boots twice, on volumes: minutes"]
async fn a_restored_server_has_what_its_site_says_and_boots_from_volumes() {
    let Some(lab) = lab() else { return };
    lab.clean(PROJECT);
    let image = lab.guest_image(PROJECT);
    let original = lab.hands(&["serve", PROJECT, SERVER, "image", &image, &lab.data_image(PROJECT, &[])]);
    lab.hands(&["key", PROJECT, "ops"]);
    let group = lab.hands(&["group", PROJECT, "ops"]);
    let before = last_order(&lab.console(PROJECT, &original, "REPLICATE-SEQ"));
    let mac = port(&lab.judge(&[PROJECT]), &original)["mac_address"].as_str().unwrap().to_owned();

    let folder = tempfile::tempdir().unwrap();
    let policies = vec![policy("web", ONE, SERVER, &[in_vault()])];
    let setup = Setup { launched: launched(folder.path()), ..policies.into() };
    let house = House::open(&lab.clouds(), folder.path(), PROJECT, setup).await;
    house.run("web").await;
    lab.hands(&["delete", PROJECT, &original]);
    let empty = lab.judge(&[PROJECT]);

    let report = house.restore(SERVER, in_vault(), ONE).await;
    let instance = report.instance.unwrap();
    let console = house.console(ONE, &instance, "REPLICATE-READY").await;
    let found = ready(&console);
    assert_eq!((found["boots"], found["broken"]), (2, 0), "{console}");
    assert!(found["seq"] >= before, "{before} was told, and {} is there", found["seq"]);
    as_configured(&lab, instance.as_str().split('/').next().unwrap(), &mac, &group);

    // what there is of it is known as ours, and goes
    house.target(ONE).destroy(&instance).await.unwrap();
    for resource in house.one.owned().await.unwrap() {
        house.one.delete(&resource).await.unwrap();
    }
    let left = lab.judge(&[PROJECT]).since(&empty);
    assert!(left.is_empty(), "left behind: {left:?}");
    lab.clean(PROJECT);
}

//! Servers that the cloud gives up while they are made: what a real one does on a bad day.

use std::sync::{Arc, Mutex};

use disk::Format;
use model::{ImageId, Kind, OwnerId, RunId, ServerName, SiteName, Token};
use serde_json::{Value, json};

use super::super::fake::{Fake, Reply, Request, reply};
use super::super::{CloudRef, NetworkSpec, OpenStackConfig, OpenStackSite, Restore};
use crate::openstack::{LaunchSpec, MacChoice};
use crate::{LaunchOptions, Network, Target};

/// The servers there are, and how those that come will turn out, the next one last.
#[derive(Default)]
struct World {
    servers: Vec<Value>,
    made: usize,
    faults: Vec<&'static str>,
}

fn image() -> String {
    let point = json!({
        "id": "20261122T030000Z-7f3a9c21", "server": "web-1", "taken_at": "2026-11-22T03:00:00Z",
        "consistency": "crash", "program": "test",
        "machine": { "arch": "x86-64", "firmware": { "kind": "bios" }, "memory": 1 << 28, "vcpus": 1, "disks": [] },
        "disks": [],
    });
    let disks = json!([{ "name": "vda", "image": "b1" }]).to_string();
    json!({ "id": "b1", "status": "active", "replicate:point-0": point.to_string(), "replicate:disks": disks })
        .to_string()
}

fn answer(world: &mut World, request: &Request) -> Reply {
    let line = request.line.trim_end_matches(" HTTP/1.1");
    let last = line.rsplit('/').next().unwrap_or_default();
    match line {
        _ if line.contains("/images/") => reply(200, &image()),
        _ if line.contains("/flavors/detail") => reply(
            200,
            &json!({ "flavors": [{ "id": "f", "name": "f", "vcpus": 1, "ram": 512, "disk": 0 }] }).to_string(),
        ),
        _ if line.contains("/servers/detail") => reply(200, &json!({ "servers": world.servers }).to_string()),
        _ if line.starts_with("POST") && last == "servers" => {
            world.made += 1;
            let form: Value = serde_json::from_slice(&request.body).unwrap();
            let id = format!("s{}", world.made);
            let mut server = json!({
                "id": id, "name": "web-1", "status": "ACTIVE", "metadata": form["server"]["metadata"],
                "OS-SRV-USG:launched_at": "2026-11-22T03:00:00Z",
            });
            if let Some(fault) = world.faults.pop() {
                server["status"] = json!("ERROR");
                server["fault"] = json!({ "message": fault });
                server["OS-SRV-USG:launched_at"] = Value::Null;
            }
            world.servers.push(server);
            reply(202, &json!({ "server": { "id": id } }).to_string())
        }
        _ if line.starts_with("DELETE") => {
            world.servers.retain(|server| server["id"] != last);
            reply(204, "")
        }
        _ => match world.servers.iter().find(|server| server["id"] == last) {
            Some(server) => reply(200, &json!({ "server": server }).to_string()),
            None => reply(404, "{}"),
        },
    }
}

async fn site(world: &Arc<Mutex<World>>) -> (Fake, OpenStackSite) {
    let shared = world.clone();
    let fake = Fake::start(move |request| answer(&mut shared.lock().unwrap(), request)).await;
    let network = NetworkSpec { network: "net".to_owned(), address: None, mac: MacChoice::New };
    let site = OpenStackSite {
        client: fake.client.clone(),
        ..OpenStackSite::new(OpenStackConfig {
            site: SiteName::new("one").unwrap(),
            cloud: CloudRef { cloud: "fake".to_owned(), file: None, region: None, interface: None },
            scratch: "nowhere".into(),
            format: Format::Qcow2,
            staged: false,
            restore: Restore {
                usual: LaunchSpec { networks: Some(vec![network]), ..LaunchSpec::default() },
                ..Restore::default()
            },
        })
    };
    (fake, site)
}

async fn launch(site: &OpenStackSite) -> model::Result<String> {
    let name = ServerName::new("web-1").unwrap();
    let token = Token {
        owner: OwnerId::new("me").unwrap(),
        policy: None,
        server: name.clone(),
        run: RunId::new("20261122T030000Z-7f3a9c21").unwrap(),
        step: "restore-launch".to_owned(),
    };
    let options = LaunchOptions { name, network: Network::Site, ports: Vec::new(), ephemeral: false };
    let instance = site.launch(&ImageId::new("b1").unwrap(), &options, &token).await?;
    Ok(instance.id.as_str().split('/').next().unwrap().to_owned())
}

fn ids(world: &Arc<Mutex<World>>) -> Vec<String> {
    world.lock().unwrap().servers.iter().map(|server| server["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_server_that_the_cloud_gave_up_is_replaced_and_nothing_is_left_of_it() {
    let world = Arc::new(Mutex::new(World { faults: vec!["internal error", "timed out"], ..World::default() }));
    let (_fake, site) = site(&world).await;
    assert_eq!(launch(&site).await.unwrap(), "s3");
    assert_eq!(ids(&world), ["s3"]);
    // the same token again: the same server
    assert_eq!(launch(&site).await.unwrap(), "s3");
    assert_eq!(world.lock().unwrap().made, 3);
}

#[tokio::test]
async fn a_cloud_that_always_gives_up_is_believed_and_asked_anew_by_the_next_run() {
    let world = Arc::new(Mutex::new(World { faults: vec!["internal error"; 4], ..World::default() }));
    let (_fake, site) = site(&world).await;
    let error = launch(&site).await.unwrap_err();
    assert_eq!((error.kind(), world.lock().unwrap().made), (Kind::Permanent, 3));
    assert!(error.chain().contains("internal error"), "{}", error.chain());
    // what the last attempt left is no reason to fail again
    assert_eq!(launch(&site).await.unwrap(), "s5");
    assert_eq!(ids(&world), ["s5"]);
}

#[tokio::test]
async fn where_there_is_no_room_one_attempt_is_enough() {
    let world = Arc::new(Mutex::new(World { faults: vec!["No valid host was found."; 2], ..World::default() }));
    let (_fake, site) = site(&world).await;
    let error = launch(&site).await.unwrap_err();
    assert_eq!((error.kind(), world.lock().unwrap().made), (Kind::Quota, 1));
}

#[tokio::test]
async fn a_server_that_ran_before_it_broke_is_left_alone() {
    let world = Arc::new(Mutex::new(World::default()));
    let (_fake, site) = site(&world).await;
    assert_eq!(launch(&site).await.unwrap(), "s1");
    world.lock().unwrap().servers[0]["status"] = json!("ERROR");
    assert_eq!(launch(&site).await.unwrap_err().kind(), Kind::Permanent);
    assert_eq!(ids(&world), ["s1"]);
}

//! What a healthy cloud does not do: images that nobody fills, volumes in error, deletions that are given up. What
//! counts is that it is told within a bound, and that nothing stays.

use std::sync::{Arc, Mutex};

use model::{Consistency, Kind, OwnerId, RunId, ServerName, Token};
use serde_json::{Value, json};

use super::super::fake::{Fake, Reply, Request, reply};
use super::*;
use crate::{Consistent, Hook};

/// What the fake has, and how it fails.
#[derive(Default)]
struct World {
    images: Vec<Value>,
    volumes: Vec<Value>,
    snapshots: Vec<Value>,
    /// Requests that changed something.
    done: Vec<String>,
    /// The state that a new snapshot gets.
    snapshot: &'static str,
    /// The state that a snapshot gets that Nova makes for an image of the server.
    by_nova: &'static str,
    /// The state that a volume made of a snapshot gets.
    volume: &'static str,
    /// Deletions of volumes are taken and come to nothing.
    stubborn: bool,
    /// The server boots from a volume.
    from_volume: bool,
}

type Shared = Arc<Mutex<World>>;

const SERVER: &str = "6f2f3a5e-0b5e-4f4e-9d3f-0d3f1c1f9a01";

async fn fake(world: World) -> (Fake, Shared) {
    let world = Arc::new(Mutex::new(world));
    let shared = world.clone();
    (Fake::start(move |request| answer(&mut world.lock().unwrap(), request)).await, shared)
}

fn fine(body: &Value) -> Reply {
    reply(200, &body.to_string())
}

fn find<'a>(all: &'a [Value], path: &str) -> Option<&'a Value> {
    let id = path.rsplit('/').next()?;
    all.iter().find(|one| one["id"] == id)
}

fn answer(world: &mut World, request: &Request) -> Reply {
    let mut words = request.line.split(' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let path = path.split('?').next().unwrap().to_owned();
    if path == "/v3/auth/tokens" {
        return reply(201, "");
    }
    if method != "GET" {
        world.done.push(format!("{method} {path}"));
    }
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    match (method, path.strip_prefix("/v3/p1/")) {
        ("GET", None) => look(world, &path),
        ("POST", None) => image_of_server(world, &body["createImage"]),
        ("DELETE", None) => {
            world.images.retain(|image| !path.ends_with(image["id"].as_str().unwrap()));
            reply(204, "")
        }
        ("GET", Some("volumes/detail")) => fine(&json!({"volumes": world.volumes})),
        ("GET", Some("snapshots/detail")) => fine(&json!({"snapshots": world.snapshots})),
        ("GET", Some(path)) => {
            let (all, key) = match path.starts_with("volumes") {
                true => (&world.volumes, "volume"),
                false => (&world.snapshots, "snapshot"),
            };
            find(all, path).map_or_else(|| reply(404, "{}"), |found| fine(&json!({ key: found })))
        }
        ("POST", Some("snapshots")) => {
            let made = json!({"id": "snap-1", "name": body["snapshot"]["name"], "volume_id": "vol-1", "size": 1,
                "status": world.snapshot, "metadata": body["snapshot"]["metadata"],
                "created_at": "2026-11-24T11:26:10.155425"});
            world.snapshots.push(made.clone());
            reply(202, &json!({"snapshot": made}).to_string())
        }
        ("POST", Some("volumes")) => {
            let made =
                json!({"id": "vol-2", "size": 1, "status": world.volume, "metadata": body["volume"]["metadata"]});
            world.volumes.push(made.clone());
            reply(202, &json!({"volume": made}).to_string())
        }
        ("POST", Some(path)) if path.ends_with("/action") => volume_action(world, &body),
        ("POST", Some(path)) if path.ends_with("/metadata") => {
            let more = body["metadata"].as_object().unwrap().clone();
            world.snapshots[0]["metadata"].as_object_mut().unwrap().extend(more);
            fine(&body)
        }
        ("DELETE", Some(path)) => {
            let keep = |one: &Value| !path.ends_with(one["id"].as_str().unwrap());
            if !world.stubborn {
                world.volumes.retain(keep);
            }
            world.snapshots.retain(keep);
            reply(202, "")
        }
        _ => reply(400, "{}"),
    }
}

fn look(world: &World, path: &str) -> Reply {
    let flavor = json!({"vcpus": 1, "ram": 256, "disk": 1, "ephemeral": 0, "swap": 0, "original_name": "small"});
    let (image, volumes) = match world.from_volume {
        true => (json!(""), json!([{"id": "vol-1"}])),
        false => (json!({"id": "base"}), json!([])),
    };
    let server = json!({"id": SERVER, "name": "web-1", "status": "ACTIVE", "OS-EXT-STS:vm_state": "active",
        "OS-EXT-STS:task_state": null, "OS-EXT-STS:power_state": 1, "flavor": flavor, "image": image,
        "os-extended-volumes:volumes_attached": volumes});
    match path {
        "/v2/images" => fine(&json!({"images": world.images})),
        "/v2.1/servers/detail" => fine(&json!({"servers": [server]})),
        path if path.starts_with("/v2.1/servers/") => fine(&json!({"server": server})),
        path => find(&world.images, path).map_or_else(|| reply(404, "{}"), fine),
    }
}

/// An image whose bytes never come.
fn create_image(world: &mut World, properties: &Value, name: &str) -> Reply {
    let id = format!("image-{}", world.done.len());
    let mut image = json!({"id": id, "name": name, "status": "queued", "owner": "p1",
        "created_at": "2026-11-24T11:26:12Z"});
    for (key, value) in properties.as_object().unwrap() {
        image[key] = value.clone();
    }
    world.images.push(image);
    reply(202, &json!({"image_id": id}).to_string())
}

/// What Nova makes: of a server on a volume also that one's snapshot, which has no tags yet.
fn image_of_server(world: &mut World, wanted: &Value) -> Reply {
    let answer = create_image(world, &wanted["metadata"], "createImage");
    if world.from_volume {
        let mapping = json!([{"source_type": "snapshot", "snapshot_id": "snap-nova"}]).to_string();
        world.images.last_mut().unwrap()["block_device_mapping"] = json!(mapping);
        let name = format!("snapshot for {}", wanted["name"].as_str().unwrap());
        world.snapshots.push(json!({"id": "snap-nova", "name": name, "volume_id": "vol-1", "size": 1,
            "status": world.by_nova, "metadata": {}, "created_at": "2026-11-24T11:26:10.155425"}));
    }
    answer
}

fn volume_action(world: &mut World, body: &Value) -> Reply {
    if let Some(set) = body.get("os-set_image_metadata") {
        world.volumes.iter_mut().for_each(|volume| volume["volume_image_metadata"] = set["metadata"].clone());
        return fine(&json!({}));
    }
    let metadata =
        world.volumes.iter().find(|volume| volume["id"] == "vol-2").unwrap()["volume_image_metadata"].clone();
    let Reply::Whole(_, _, text) = create_image(world, &metadata, "upload") else { unreachable!() };
    let id: Value = serde_json::from_str(&text).unwrap();
    reply(202, &json!({"os-volume_upload_image": id}).to_string())
}

fn volume_backed() -> World {
    let volume = json!({"id": "vol-1", "size": 1, "status": "in-use",
        "attachments": [{"server_id": SERVER, "device": "/dev/vda"}]});
    World { volumes: vec![volume], from_volume: true, snapshot: "available", volume: "available", ..World::default() }
}

fn request() -> CaptureRequest {
    let consistent = Consistent {
        level: Consistency::Crash,
        required: false,
        hook: Hook::default(),
        freeze_limit: std::time::Duration::from_secs(1),
    };
    let token = Token {
        owner: OwnerId::new("me").unwrap(),
        policy: None,
        server: ServerName::new("web-1").unwrap(),
        run: RunId::new("run-1").unwrap(),
        step: "capture".to_owned(),
    };
    CaptureRequest { server: token.server.clone(), consistent, since: None, token }
}

#[tokio::test]
async fn an_image_of_a_server_that_nobody_fills() {
    let (fake, world) = fake(World::default()).await;
    let error = capture::capture(&fake.client, &request()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Permanent);
    assert!(
        error.chain().contains("the image is queued, and the service has stopped to work on it"),
        "{}",
        error.chain()
    );
    let world = world.lock().unwrap();
    assert_eq!(world.images, [json!(null); 0]);
    assert_eq!(world.done.len(), 2, "{:?}", world.done);
}

#[tokio::test]
async fn a_snapshot_in_error_goes() {
    let (fake, world) = fake(World { snapshot: "error", ..volume_backed() }).await;
    let error = capture::capture(&fake.client, &request()).await.unwrap_err();
    assert!(error.chain().contains("Cinder says `error` of the snapshot of volume vol-1"), "{}", error.chain());
    assert_eq!(world.lock().unwrap().snapshots, [json!(null); 0]);
}

#[tokio::test]
async fn where_nova_cannot_freeze_cinder_alone_pins() {
    let mut world = World { by_nova: "error", ..volume_backed() };
    world.volumes[0]["volume_image_metadata"] = json!({"hw_qemu_guest_agent": "yes", "os_require_quiesce": "True"});
    let (fake, world) = fake(world).await;
    let mut wanted = request();
    wanted.consistent.level = Consistency::Filesystem;
    let taken = capture::capture(&fake.client, &wanted).await.unwrap();
    assert_eq!(taken.consistency, Consistency::Crash);
    assert_eq!(taken.warnings, ["consistency is crash, not filesystem: Nova could not freeze it"]);
    let there = || {
        let world = world.lock().unwrap();
        (world.snapshots.iter().map(|it| it["id"].clone()).collect::<Vec<_>>(), world.images.len())
    };
    assert_eq!(there(), (vec![json!("snap-1")], 0), "what Nova left is gone");
    assert_eq!(capture::capture(&fake.client, &wanted).await.unwrap(), taken);

    world.lock().unwrap().snapshots.clear();
    wanted.consistent.required = true;
    let error = capture::capture(&fake.client, &wanted).await.unwrap_err();
    assert_eq!((error.kind(), error.advice().is_some_and(|hint| hint.contains("files"))), (Kind::Permanent, true));
    assert_eq!(there(), (Vec::new(), 0));

    world.lock().unwrap().by_nova = "available";
    let frozen = capture::capture(&fake.client, &wanted).await.unwrap();
    assert_eq!((frozen.consistency, frozen.warnings.len()), (Consistency::Filesystem, 0));
}

/// A capture of the volume-backed server, and the export of its one disk.
async fn export(fake: &Fake) -> Result<String> {
    let capture = capture::capture(&fake.client, &request()).await?;
    assert_eq!(capture.taken_at.to_string(), "2026-11-24T11:26:10.155425Z");
    assert_eq!(capture::capture(&fake.client, &request()).await?, capture);
    let handle = Handle::of(&capture)?;
    let (key, disk) = (handle.key()?, DiskName::new("vda")?);
    let export = Export { client: &fake.client, key: &key, tags: &handle.tags, disk: &disk, snapshot: "snap-1" };
    export.image().await
}

#[tokio::test]
async fn an_upload_that_ends_in_neither_active_nor_error() {
    let (fake, world) = fake(volume_backed()).await;
    for _ in 0..2 {
        let error = export(&fake).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Permanent);
        assert!(error.chain().contains("is queued, and the service has stopped"), "{}", error.chain());
        // the second attempt takes what the first one left in its place
        assert_eq!(world.lock().unwrap().images.len(), 1);
    }
    let resources = owned(&fake.client).await.unwrap();
    assert_eq!(resources.len(), 1, "{resources:?}");
    delete(&fake.client, &resources[0]).await.unwrap();
    let world = world.lock().unwrap();
    assert_eq!((world.images.len(), world.snapshots.len(), world.volumes.len()), (0, 0, 1));
}

#[tokio::test]
async fn a_volume_in_error_goes_and_is_told() {
    let (fake, world) = fake(World { volume: "error", ..volume_backed() }).await;
    let error = export(&fake).await.unwrap_err();
    assert!(error.chain().contains("Cinder says `error` of volume vol-2"), "{}", error.chain());
    assert_eq!(world.lock().unwrap().volumes.len(), 1);
}

#[tokio::test]
async fn a_volume_that_does_not_go_is_told() {
    let (fake, world) = fake(World { volume: "error", stubborn: true, ..volume_backed() }).await;
    let error = export(&fake).await.unwrap_err();
    assert!(error.chain().contains("volume vol-2 is error after 5 attempts to delete it"), "{}", error.chain());
    let asked = world.lock().unwrap().done.iter().filter(|done| *done == "DELETE /v3/p1/volumes/vol-2").count();
    assert_eq!(asked, 5);
}

#[tokio::test]
async fn a_part_that_somebody_took_away_is_told_as_lost() {
    let (fake, world) = fake(volume_backed()).await;
    capture::capture(&fake.client, &request()).await.unwrap();
    world.lock().unwrap().snapshots[0]["status"] = json!("error_deleting");
    let error = capture::capture(&fake.client, &request()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Damaged);
    assert!(error.chain().contains("0 of its 1 parts are left"), "{}", error.chain());
}

/// A capture is found again after it was read: the image that was made for reading is none of its parts.
#[tokio::test]
async fn what_is_made_to_read_a_capture_is_no_part_of_it() {
    let (fake, world) = fake(volume_backed()).await;
    let capture = capture::capture(&fake.client, &request()).await.unwrap();
    export(&fake).await.unwrap_err();
    // the service did fill it, after all
    world.lock().unwrap().images.iter_mut().for_each(|image| image["status"] = json!("active"));
    assert_eq!(capture::capture(&fake.client, &request()).await.unwrap(), capture);
    assert_eq!(Handle::of(&capture).unwrap().disks, [(DiskName::new("vda").unwrap(), Held::Snapshot("snap-1".into()))]);
}

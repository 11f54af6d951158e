//! One server goes round: captured while it runs and writes, kept in a vault, as an image in the other region and at a
//! QEMU host; restored everywhere, from everywhere; and home again. Wherever it boots it has what its console had told.

use engine::PointReport;
use model::{InstanceId, Place, ServerName};

use super::house::{HOST, House, ONE, RESTORED, SERVER, TWO, at, in_vault, policy};
use super::lab::{Lab, lab, last_order, ready};

const PROJECT: &str = "live";
const CLOUDS: [&str; 2] = ["live", "live-two"];

/// The newest point of a server.
async fn newest(house: &House, server: &str) -> PointReport {
    let points = house.engine.points(Some(&ServerName::new(server).unwrap())).await.unwrap();
    points.into_iter().max_by_key(|point| point.point.taken_at).unwrap()
}

/// What a restored server must show.
struct Told {
    boots: u64,
    /// The last orders that its console told before and after the capture.
    orders: (u64, u64),
}

/// Restores and boots, and compares what the guest holds with what was told before and after the capture.
async fn boots(house: &House, server: &str, from: Place, to: &str, told: &Told) -> InstanceId {
    let report = house.restore(server, from.clone(), to).await;
    let instance = report.instance.clone().unwrap();
    let console = house.console(to, &instance, "REPLICATE-READY").await;
    let found = ready(&console);
    let story = format!("{from} -> {to}: {found:?}, told {:?}", told.orders);
    assert_eq!((found["boots"], found["broken"]), (told.boots, 0), "{story}");
    // after the boot it goes on taking orders: a few may have come before it said that it is ready
    assert!((told.orders.0..=told.orders.1 + 100).contains(&found["seq"]), "{story}");
    println!("{story}: restored in {:.0} s", report.seconds);
    instance
}

/// Equal roots: in the point, and in every image when it is read back from where it is; and at Glance the service's own
/// hash of what it holds is that of the bytes that the judge gets.
async fn roots_are_equal(house: &House, lab: &Lab, point: &PointReport) {
    let disk = &point.point.disks[0];
    for (site, cloud) in [(ONE, CLOUDS[0]), (TWO, CLOUDS[1]), (HOST, "")] {
        let Some(replica) = point.replicas.iter().find(|replica| replica.place == at(site)) else { continue };
        let image = replica.image.clone().unwrap();
        assert_eq!(house.root(site, &image, &disk.name).await, disk.root, "the image at {site}");
        if !cloud.is_empty() {
            let world = lab.judge(&[cloud]);
            let told = world.image(cloud, image.as_str())["os_hash_value"].as_str().unwrap();
            assert_eq!(lab.sha512(cloud, image.as_str()), told, "the image at {site}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a guest that boots five times: minutes"]
async fn a_running_server_is_restored_everywhere_with_what_its_console_told() {
    let Some(lab) = lab() else { return };
    lab.clean(PROJECT);
    let image = lab.guest_image(PROJECT);
    let original = lab.hands(&["serve", PROJECT, SERVER, "image", &image]);
    let console = lab.console(PROJECT, &original, "REPLICATE-SEQ");

    let folder = tempfile::tempdir().unwrap();
    let policies =
        vec![policy("web", ONE, SERVER, &[in_vault(), at(TWO), at(HOST)]), policy("back", HOST, RESTORED, &[at(ONE)])];
    let house = House::open(&lab.clouds(), folder.path(), PROJECT, policies).await;
    let before = last_order(&console);
    let run = house.run("web").await;
    let after = last_order(&lab.hands(&["console", PROJECT, &original]));
    assert!(after > before, "the server runs on: {before}, then {after}");
    println!("captured and replicated in {:.0} s: {:?}", run.seconds, run.destinations);
    let told = Told { boots: 2, orders: (before, after) };
    roots_are_equal(&house, &lab, &newest(&house, SERVER).await).await;
    lab.hands(&["delete", PROJECT, &original]);

    // vault -> OpenStack, region to region, OpenStack -> QEMU: one guest at a time, it has the processors to itself
    for (from, to) in [(in_vault(), TWO), (at(TWO), ONE), (at(HOST), TWO)] {
        let instance = boots(&house, SERVER, from, to, &told).await;
        house.target(to).destroy(&instance).await.unwrap();
    }
    let guest = boots(&house, SERVER, at(TWO), HOST, &told).await;

    // QEMU -> OpenStack: the restored guest takes orders at the host, is captured there, and goes home
    let before = last_order(&house.console(HOST, &guest, "REPLICATE-SEQ").await);
    let back = house.run("back").await;
    println!("captured at the host and brought back in {:.0} s: {:?}", back.seconds, back.destinations);
    let after = last_order(&house.target(HOST).console(&guest).await.unwrap().text);
    roots_are_equal(&house, &lab, &newest(&house, RESTORED).await).await;
    house.target(HOST).destroy(&guest).await.unwrap();
    let told = Told { boots: 3, orders: (before, after) };
    boots(&house, RESTORED, at(ONE), ONE, &told).await;
    lab.clean(PROJECT);
}

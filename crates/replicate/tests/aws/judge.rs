//! 1 % of a disk changes: what a client of Amazon's own makes of the new image, and how many bytes moved by the simulator's
//! own record.

use std::path::Path;

use serde_json::Value;
use tests::sim::CloudSim;

use super::{REGION, change, world};

/// Reads the newest image back by boto3 and compares it with a file. `None`: there is no Python for it here.
fn read_back(sim: &CloudSim, disk: &Path) -> Option<String> {
    let (mut python, scripts) = tests::judge::python()?;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let (region, account) = (&sim.greeting["regions"][REGION], &sim.greeting["accounts"][0]);
    let output = python
        .arg(scripts.join("read_back.py"))
        .args([text(&region["ec2"]), text(&region["ebs"]), REGION.to_owned()])
        .arg(disk)
        .env("CLOUDSIM", "")
        .env("AWS_ACCESS_KEY_ID", text(&account["access-key"]))
        .env("AWS_SECRET_ACCESS_KEY", text(&account["secret-key"]))
        .output()
        .expect("the script");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

/// Bytes that went in and out of the direct API, in calls that it answered, from the `skip`-th call on.
fn moved(sim: &CloudSim, skip: usize) -> (u64, u64) {
    let calls = sim.control("GET", &format!("calls?skip={skip}"), &Value::Null);
    let of = |operation: &str, status: u64| {
        let calls = calls.as_array().unwrap().iter();
        (calls.filter(|call| call["operation"] == operation && call["status"] == status).count() as u64) * (512 << 10)
    };
    (of("PutSnapshotBlock", 201), of("GetSnapshotBlock", 200))
}

fn count(sim: &CloudSim) -> usize {
    sim.control("GET", "calls", &Value::Null).as_array().unwrap().len()
}

#[test]
fn one_percent_moves_two_at_most_and_others_read_the_image() {
    let sim = CloudSim::start(&["--calm", "--no-qemu"]);
    let (world, size) = (world(&sim), 64_u64 << 20);
    let disk = world.path("guests/web-1.raw");
    world.fine(&["run", "all", "-q"]);
    assert_eq!(moved(&sim, 0).0, size);
    let first = read_back(&sim, &disk);
    for seed in [7, 11] {
        change(&world, seed, 640 << 10);
        let before = count(&sim);
        world.fine(&["run", "all", "-q"]);
        let (put, got) = moved(&sim, before);
        println!("of {size} bytes 655360 changed: {put} went there, {got} were read there");
        assert!(put * 50 <= size, "{put} bytes were put");
        let second = read_back(&sim, &disk);
        println!("{}{}", first.as_deref().unwrap_or_default(), second.as_deref().unwrap_or_default());
        assert!(first.is_none() || first != second, "it is the same image");
    }
}

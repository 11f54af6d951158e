//! The program with a vault in an Azure storage account (Azurite): from `init` to `adopt`, killed in between.
//!
//! Skipped, loudly, where the emulator cannot be had.

#![cfg(feature = "azure")]
#![allow(clippy::expect_used, clippy::print_stdout, clippy::unwrap_used, reason = "a panic is a test's verdict")]

mod common;

use common::{World, is_full};
use tests::azurite::{ACCOUNT, Azurite, KEY};

/// A world whose vault `main` is a prefix of the container `vaults`.
fn world(server: &Azurite) -> World {
    let world = World::new();
    world.secret("account-key", KEY);
    let there = format!(
        "url = \"azblob://vaults/life\"\nazblob = {{ account = \"{ACCOUNT}\", endpoint = \"{}\", account-key = \"file:account-key\" }}",
        server.endpoint()
    );
    world.write("replicate.toml", &world.read("replicate.toml").replace("url = \"dir:vault\"", &there));
    world
}

fn restores(world: &World, story: &str) {
    let _ = std::fs::remove_file(world.path("back.raw"));
    world.fine(&["restore", "web-1", "--to", "./back.raw", "--from", "vault:main", "-q"]);
    let disk = std::fs::read(world.path("guests/web-1.raw")).unwrap();
    assert!(std::fs::read(world.path("back.raw")).unwrap() == disk, "{story}");
}

#[test]
fn a_vault_in_a_storage_account() {
    let server = match Azurite::start() {
        Ok(server) => server,
        Err(why) => return println!("SKIPPED: the program is not tested with a vault at Azure: {why}"),
    };
    server.make("vaults").unwrap();
    let world = world(&server);
    world.fine(&["check"]);
    world.fine(&["init", "--vault", "main"]);
    assert!(!world.run(&["init", "--vault", "main"]).status.success(), "there is one already");
    world.fine(&["doctor", "main"]);
    world.fine(&["run", "all", "-q"]);
    world.change_disk(7);
    let second = world.json(&["run", "all"]);
    let there = second["report"]["runs"][0]["destinations"].as_array().unwrap().iter();
    let stored: u64 =
        there.filter(|d| d["place"]["vault"] == "main").map(|d| d["stored_bytes"].as_u64().unwrap()).sum();
    assert!((1..1 << 20).contains(&stored), "256 KiB changed: {second}");
    restores(&world, "the newest point");
    for n in (1..).step_by(if is_full() { 1 } else { 9 }) {
        world.change_disk(n as u64 + 100);
        if !world.dies(&["run", "all", "-q"], n) {
            break;
        }
        world.fine(&["run", "all", "-q"]);
        restores(&world, &format!("died at {n}"));
    }
    std::fs::remove_dir_all(world.path("ledger")).unwrap();
    world.fine(&["adopt", "-q"]);
    world.fine(&["verify", "-q"]);
    restores(&world, "after all was forgotten");
    let wrong = "bm90IHRoZSBrZXkgb2YgdGhpcyBhY2NvdW50";
    world.secret("account-key", wrong);
    let refused = world.run(&["key", "test", "main"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(12) && said.contains("hint: "), "{said}");
    assert!(!said.contains(wrong), "{said}");
}

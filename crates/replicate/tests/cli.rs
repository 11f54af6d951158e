//! What a person sees: each story is a session at the terminal, kept as a golden file with exit codes and stderr.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a panic is a test's verdict")]

mod common;

use common::{World, golden};

fn story(name: &str, world: &World, session: &[&[&str]]) {
    let text: String = session.iter().map(|arguments| world.show(arguments)).collect();
    golden(name, &text);
}

#[test]
fn help() {
    let world = World::new();
    story("help", &world, &[&["--help"], &["restore", "--help"], &["run"], &["restor"]]);
}

#[test]
fn beginning() {
    let world = World::new();
    story(
        "beginning",
        &world,
        &[&["init", "new"], &["init", "new"], &["-c", "new/replicate.toml", "check"], &["-c", "none.toml", "check"]],
    );
}

#[test]
fn mistakes() {
    let world = World::new();
    world.write("replicate.toml", "[sites.here]\nkind = \"qmeu\"\n[vaults.main]\nurl = \"/srv/vault\"\n");
    world.write(
        "policies/all.toml",
        "select = { site = \"her\" }\nreplicate = [{ to = \"main\" }]\nkeep = { last = 0 }\n",
    );
    story("mistakes", &world, &[&["check"], &["run", "all"], &["--json", "check"]]);
}

#[test]
fn refusals() {
    let world = World::new();
    world.write("wrong.txt", "a wrong passphrase\n");
    let session: &[&[&str]] = &[
        &["servers", "her"],
        &["run", "al"],
        &["run", "all", "-q"],
        &["init", "--vault", "mian"],
        &["init", "--vault", "main"],
        &["init", "--vault", "main"],
        &["key", "test", "main", "--passphrase-file", "wrong.txt"],
        &["restore", "web-1", "--to", "dx"],
        &["restore", "web-1", "--to", "disk.raw"],
        &["restore", "web-1", "--to", "disk.raw", "--at", "yesterday"],
        &["--json", "restore", "web-1", "--to", "disk.raw"],
        &["restore", "web-1", "--to", "main"],
    ];
    story("refusals", &world, session);
}

#[test]
fn moving() {
    let world = World::new();
    story(
        "moving",
        &world,
        &[
            &["migrate", "status"],
            &["migrate", "confirm", "web-1"],
            &["restore", "web-1", "--to", "here", "--final"],
            &["restore", "web-1", "--to", "dr", "--final", "--stop-limit", "soon"],
            &["restore", "web-1", "--to", "dr", "--force"],
            &["migrate", "rollback", "--help"],
        ],
    );
}

#[test]
fn life() {
    let world = World::new();
    story(
        "life",
        &world,
        &[
            &["check"],
            &["servers"],
            &["status"],
            &["init", "--vault", "main"],
            &["plan", "all"],
            &["run", "all"],
            &["points"],
            &["restore", "web-1", "--to", "./disk.raw"],
            &["restore", "web-1", "--to", "./disk.raw"],
            &["verify"],
            &["key", "list", "main"],
            &["key", "test", "main"],
            &["sweep"],
            &["import", "disk.raw", "--server", "copy", "--to", "vault:main"],
            &["prune", "--dry-run"],
            &["compact", "--dry-run"],
            &["compact", "nowhere"],
            &["doctor"],
        ],
    );
    assert_eq!(
        std::fs::read(world.path("disk.raw")).expect("disk"),
        std::fs::read(world.path("guests/web-1.raw")).expect("disk")
    );
}

#[test]
fn every_report_is_json() {
    let world = World::new();
    world.fine(&["init", "--vault", "main"]);
    for arguments in [
        &["run", "all"][..],
        &["check"],
        &["servers"],
        &["plan"],
        &["status"],
        &["points"],
        &["verify"],
        &["prune", "-n"],
        &["compact"],
        &["sweep"],
        &["adopt"],
        &["run", "--due"],
        &["key", "list", "main"],
        &["key", "test", "main"],
        &["restore", "web-1", "--to", "./disk.qcow2"],
    ] {
        let report = world.json(arguments);
        assert!(report.is_object() || report.is_array(), "{arguments:?}: {report}");
    }
}

#[test]
fn a_lost_ledger_is_rebuilt_and_restores() {
    let world = World::new();
    world.fine(&["init", "--vault", "main"]);
    world.fine(&["run", "all"]);
    let before = world.json(&["points"]);
    std::fs::remove_dir_all(world.path("ledger")).expect("ledger");
    world.fine(&["adopt"]);
    let after = world.json(&["points"]);
    let points = |report: &serde_json::Value| -> Vec<String> {
        let list = report["report"].as_array().expect("points").iter();
        list.map(|point| {
            point["point"]["id"].to_string() + &point["replicas"].as_array().expect("replicas").len().to_string()
        })
        .collect()
    };
    assert_eq!(points(&before), points(&after));
    assert_eq!(points(&after).len(), 1);
    world.fine(&["restore", "web-1", "--to", "./disk.raw"]);
}

#[test]
fn completions_are_scripts() {
    let world = World::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(world.fine(&["completions", shell]).contains("replicate"), "{shell}");
    }
}

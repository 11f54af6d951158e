//! The house: which crate may depend on which, and how long a file may be.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lie in the workspace").to_owned()
}

/// What each crate may use. Arrows only inward.
fn allowed() -> BTreeMap<&'static str, &'static [&'static str]> {
    BTreeMap::from([
        ("model", &[][..]),
        ("disk", &["model"][..]),
        ("vault", &["model", "disk"][..]),
        ("cloud", &["model", "disk"][..]),
        ("cloud-aws", &["model", "disk", "cloud", "vault"][..]),
        ("cloud-azure", &["model", "disk", "cloud", "vault"][..]),
        ("engine", &["model", "disk", "cloud", "vault"][..]),
        ("replicate", &["model", "disk", "cloud", "vault", "engine", "cloud-aws", "cloud-azure"][..]),
        // what both believed of a cloud would be tested against itself
        ("cloudsim", &[][..]),
    ])
}

/// Dependencies of a manifest on members of the workspace, development ones included.
fn uses(manifest: &str, members: &[&str]) -> Vec<String> {
    let mut inside = false;
    let mut found = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            inside = line.contains("dependencies");
        } else if inside
            && let Some(name) = line.split(['.', ' ', '=']).next()
            && members.contains(&name)
        {
            found.push(name.to_owned());
        }
    }
    found
}

#[test]
fn arrows_point_inward() {
    let allowed = allowed();
    let members: Vec<&str> = allowed.keys().copied().collect();
    let crates = std::fs::read_dir(root().join("crates")).expect("crates");
    let mut folders: Vec<PathBuf> = crates.map(|entry| entry.expect("entry").path()).collect();
    folders.push(root().join("tests/cloudsim"));
    for folder in folders {
        let name = folder.file_name().and_then(|name| name.to_str()).expect("utf-8").to_owned();
        let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).expect("manifest");
        let may = allowed.get(name.as_str()).unwrap_or_else(|| panic!("crate {name} is not in the house"));
        for used in uses(&manifest, &members) {
            assert!(may.contains(&used.as_str()), "{name} must not depend on {used}");
        }
    }
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("folder") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            if !path.ends_with("target") {
                sources(&path, found);
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn files_are_short_and_say_what_they_are_for() {
    let root = root();
    let mut files = Vec::new();
    sources(&root.join("crates"), &mut files);
    sources(&root.join("tests"), &mut files);
    let mut wrong = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("source");
        let name = file.strip_prefix(&root).expect("inside").display().to_string();
        // the simulator is a program like any other
        let is_test = (name.starts_with("tests/") && !name.starts_with("tests/cloudsim/src/"))
            || name.contains("/tests/")
            || name.ends_with("tests.rs");
        let (lines, limit) = (text.lines().count(), if is_test { 600 } else { 400 });
        if lines > limit {
            wrong.push(format!("{name}: {lines} lines, at most {limit}"));
        }
        if !text.starts_with("//!") {
            wrong.push(format!("{name}: does not open with a `//!` comment that says what it is for"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_forbidden_arrow_is_seen() {
    let manifest = "[dependencies]\nmodel.workspace = true\nvault = { workspace = true }\n[dev-dependencies]\ndisk.workspace = true\n";
    assert_eq!(uses(manifest, &["model", "vault", "disk"]), ["model", "vault", "disk"]);
}

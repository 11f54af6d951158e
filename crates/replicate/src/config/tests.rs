//! The samples under `policies/` are configuration that works; those under `policies/invalid/` have one mistake each,
//! with the message that a person gets. `REPLICATE_BLESS=1` writes messages and schemas anew.

use std::path::{Path, PathBuf};

use super::*;

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies")
}

fn known() -> Known {
    Known {
        sites: ["lab", "dr-eu", "edge", "cloud-a", "cloud-b", "cloud-c", "cloud-d", "cloud-e"]
            .map(|site| (site.into(), site != "dr-eu", site != "edge"))
            .into(),
        kinds: [
            ("lab", "qemu"),
            ("dr-eu", "qemu"),
            ("edge", "qemu"),
            ("cloud-a", "openstack"),
            ("cloud-b", "memory"),
            ("cloud-c", "aws"),
            ("cloud-d", "azure"),
            ("cloud-e", "azure"),
        ]
        .map(|(site, kind)| (site.into(), kind.into()))
        .into(),
        keys: [
            ("cloud-c".into(), "arn:aws:kms:eu-west-1:123456789012:key/replicas".into()),
            ("cloud-e".into(), "/subscriptions/s/diskEncryptionSets/replicas".into()),
        ]
        .into(),
        unfrozen: ["cloud-c", "cloud-d"].map(Into::into).into(),
        vaults: vec!["main".into(), "offsite".into()],
    }
}

fn toml_files(folder: &Path) -> Vec<PathBuf> {
    policy_files(folder).expect("folder")
}

fn compare(golden: &Path, now: &str) {
    if std::env::var_os("REPLICATE_BLESS").is_some() {
        std::fs::write(golden, now).expect("write");
    }
    let was = std::fs::read_to_string(golden).unwrap_or_default();
    assert_eq!(was, now, "{} is not current: run with REPLICATE_BLESS=1 and read what changed", golden.display());
}

#[test]
fn samples_are_fine() {
    let text = std::fs::read_to_string(samples().join("example/replicate.toml")).expect("sample");
    let (parts, mistakes) = settings_of(Path::new("replicate.toml"), &text);
    assert_eq!(mistakes, None);
    let (settings, known, _) = parts.expect("parts");
    assert!(settings.sites.len() >= 2 && settings.vaults.len() >= 2);
    let files = toml_files(&samples());
    assert!(files.len() >= 4, "there are {} samples", files.len());
    for file in files {
        let text = std::fs::read_to_string(&file).expect("sample");
        let policy = policy_of(&file, &text, &known).unwrap_or_else(|wrong| panic!("{wrong:#?}"));
        assert!(!policy.replicate.is_empty(), "{}", policy.name);
    }
}

#[test]
fn invalid_policies_say_what_is_wrong() {
    let files = toml_files(&samples().join("invalid"));
    assert!(files.len() >= 20, "there are {} invalid samples", files.len());
    for file in files {
        let text = std::fs::read_to_string(&file).expect("sample");
        let shown = PathBuf::from(file.file_name().expect("name"));
        let wrong = match shown.to_string_lossy().starts_with("settings-") {
            true => settings_of(&shown, &text).1,
            false => policy_of(&shown, &text, &known()).err(),
        };
        let wrong = wrong.unwrap_or_else(|| panic!("{} was accepted", shown.display()));
        let message = crate::output::error::mistakes(std::slice::from_ref(&wrong));
        if !shown.to_string_lossy().contains("many") {
            assert_eq!(wrong.mistakes.len(), 1, "{message}");
        }
        compare(&file.with_extension("txt"), &message);
    }
}

#[test]
fn schemas_are_current() {
    for (name, schema) in [("replicate.schema.json", schema::settings()), ("policy.schema.json", schema::policy())] {
        let text = serde_json::to_string_pretty(&schema).expect("schema") + "\n";
        compare(&samples().join(name), &text);
    }
}

#[test]
fn a_secret_in_a_file_is_refused_and_not_repeated() {
    let text = r#"
[vaults.main]
url = "s3://bucket/prefix"
recipients = [{ passphrase = "hunter2" }, { age = "AGE-SECRET-KEY-1HUNTER2" }]
s3 = { access-key = "AKIAHUNTER2", secret-key = "hunter2" }
"#;
    let wrong = settings_of(Path::new("replicate.toml"), text).1.expect("mistakes");
    let message = crate::output::error::mistakes(&[wrong]);
    assert!(!message.to_lowercase().contains("hunter2"), "{message}");
    assert_eq!(message.matches("must not stand in this file").count(), 4, "{message}");
}

#[test]
fn nothing_makes_the_check_panic() {
    // every prefix of the samples, and every sample with one character taken out
    for file in toml_files(&samples()) {
        let text = std::fs::read_to_string(&file).expect("sample");
        for (at, c) in text.char_indices() {
            let _ = policy_of(&file, &text[..at], &known());
            let _ = settings_of(&file, &text[..at]);
            let cut = format!("{}{}", &text[..at], &text[at + c.len_utf8()..]);
            let _ = policy_of(&file, &cut, &known());
        }
    }
}

#[test]
fn the_whole_folder_is_reported_at_once() {
    let folder = tempfile::tempdir().expect("folder");
    std::fs::create_dir(folder.path().join("policies")).expect("folder");
    let file = folder.path().join("replicate.toml");
    std::fs::write(&file, "[sites.lab]\nkind = \"qemu\"\nsocket = \"/run/*.qmp\"\ndisks = \"/srv\"\n").expect("write");
    for name in ["a", "b"] {
        let text = "select = { site = \"lab\" }\nreplicate = [{ to = \"vault:none\" }]\n";
        std::fs::write(folder.path().join(format!("policies/{name}.toml")), text).expect("write");
    }
    let Err(Refusal::Mistakes(files)) = load(&file) else { panic!("accepted") };
    assert_eq!(files.len(), 3);
}

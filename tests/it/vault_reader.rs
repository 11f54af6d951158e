//! The vault's format is what its page says: a reader in another language, written from that page, restores a disk.

#[path = "../../crates/vault/tests/common/mod.rs"]
mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use disk::LEAF;
use model::PointDisk;
use vault::bucket::DirBucket;
use vault::{Compaction, Identity, Recipient, Vault};

use common::{AGE_PUBLIC, AGE_SECRET, id, name, options, point, server};
const PASSPHRASE: &str = "correct horse battery staple";

fn reader() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vault-reader")
}

/// A Python with the reader's packages, kept beside the build; or why there is none.
fn python() -> Result<PathBuf, String> {
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("vault-reader-venv");
    let python = venv.join("bin/python");
    let run = |program: &Path, args: &[&str]| match Command::new(program).args(args).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(error.to_string()),
    };
    let packages = "import zstandard, cryptography, blake3, pyrage, argon2";
    if run(&python, &["-c", packages]).is_err() {
        run(Path::new("python3"), &["-m", "venv", &venv.to_string_lossy()])?;
        let list = reader().join("requirements.txt");
        run(&python, &["-m", "pip", "install", "--quiet", "-r", &list.to_string_lossy()])?;
    }
    Ok(python)
}

/// Blocks that compress, blocks that do not, holes, and a size that is no multiple of anything.
fn bytes() -> Vec<u8> {
    let mut data = vec![0; (66 << 20) + 1536];
    let mut state = 1_u64;
    for (number, block) in data.chunks_mut(4096).enumerate() {
        if number % 7 == 0 || (200..400).contains(&number) {
            continue;
        }
        for word in block.chunks_mut(8) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let value = if number % 3 == 0 { state } else { state >> 60 };
            word.copy_from_slice(&value.to_le_bytes()[..word.len()]);
        }
    }
    data
}

async fn write(vault: &Vault, to: &str, parent: Option<&str>, ranges: &[(usize, &[u8])], size: u64) {
    let (to, parent) = (id(to), parent.map(id));
    let writer = vault.begin(&to, &server(), parent.as_ref()).await.unwrap();
    let mut disk = writer.disk(&name(), size, parent.is_some()).await.unwrap();
    for (offset, data) in ranges {
        disk.write(*offset as u64, Bytes::copy_from_slice(data)).await.unwrap();
    }
    let root = disk.finish().await.unwrap().root;
    writer.seal(&point(&to, vec![PointDisk { name: name(), size, root }])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_restores_a_disk_from_the_page_alone() {
    let python = match python() {
        Ok(python) => python,
        Err(why) => {
            println!("SKIPPED: the vault's reader in Python has no packages: {why}");
            return;
        }
    };
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let bucket = Arc::new(DirBucket::create(at("vault")).unwrap());
    let recipients = [Recipient::AgePublic(AGE_PUBLIC.to_owned()), Recipient::Passphrase(PASSPHRASE.to_owned().into())];
    let vault = Vault::create(bucket.clone(), &recipients, options()).await.unwrap();
    let full = bytes();
    let mut next = full.clone();
    let leaf = LEAF as usize;
    next[3 * leaf..3 * leaf + 5000].fill(9);
    write(&vault, "p1", None, &[(0, &full)], full.len() as u64).await;
    write(&vault, "p2", Some("p1"), &[(3 * leaf, &next[3 * leaf..4 * leaf])], full.len() as u64).await;
    // both points by the next version of their manifests, with frames of another level
    let dense = Compaction { waste: 101, level: 15, recompress_after: Some(Duration::ZERO), most: u64::MAX };
    assert_eq!(vault.compact(&dense, false, &disk::Silent).await.unwrap().points, 2);
    assert_eq!(vault.collect(Duration::ZERO, false).await.unwrap().versions, 2);
    // what the reader gets is also what this program opens
    Vault::open(bucket, &[Identity::Passphrase(PASSPHRASE.to_owned().into())], options()).await.unwrap();

    std::fs::write(at("age.key"), AGE_SECRET).unwrap();
    std::fs::write(at("passphrase"), PASSPHRASE).unwrap();
    std::fs::write(at("wrong"), "wrong").unwrap();
    let restore = |key: &str, point: &str| {
        let run = Command::new(&python)
            .arg(reader().join("read.py"))
            .args([at("vault"), at(key), PathBuf::from(point), PathBuf::from("vda"), at("out")])
            .output()
            .unwrap();
        (run.status.success(), String::from_utf8_lossy(&run.stderr).into_owned())
    };
    for (key, point, expected) in [("age.key", "p1", &full), ("passphrase", "p2", &next)] {
        let (fine, why) = restore(key, point);
        assert!(fine, "{why}");
        assert!(std::fs::read(at("out")).unwrap() == *expected, "{point} by {key} has other bytes");
    }
    assert!(!restore("wrong", "p1").0, "a wrong passphrase opens nothing");

    // the reader's checks are real: one bit of a pack, and it refuses
    let pack = std::fs::read_dir(at("vault/packs")).unwrap().next().unwrap().unwrap().path();
    let mut body = std::fs::read(&pack).unwrap();
    body[5000] ^= 1;
    std::fs::write(&pack, body).unwrap();
    assert!(!restore("age.key", "p1").0 || !restore("age.key", "p2").0, "a damaged pack was not noticed");
}

//! A second capture of a running server costs the vault what changed, although OpenStack tells no changed blocks and
//! every byte is read.

use std::path::Path;

use engine::{Choice, FileFormat, RestoreRequest, RestoreTo};
use model::{PointId, ServerName, Via};

use super::house::{House, ONE, SERVER, in_vault, policy};
use super::lab::{lab, last_order};

const PROJECT: &str = "increment";
const BLOCK: usize = 4096;

/// Bytes of all files of the vault.
fn stored(folder: &Path) -> u64 {
    let mut sum = 0;
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let kind = entry.file_type().unwrap();
        sum += if kind.is_dir() { stored(&entry.path()) } else { entry.metadata().unwrap().len() };
    }
    sum
}

/// The bytes of a point's disk, by a restore to a file.
async fn bytes(house: &House, point: &PointId, folder: &Path) -> Vec<u8> {
    let server = ServerName::new(SERVER).unwrap();
    let choice = Choice { server, at: None, point: Some(point.clone()), from: Some(in_vault()), via: Via::Auto };
    let to = RestoreTo::File { path: folder.join(point.as_str()), format: FileFormat::Raw, disk: None };
    let report = house.engine.restore(&RestoreRequest { choice, to }).await.unwrap();
    std::fs::read(&report.files[0]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a guest that writes between two captures: minutes"]
async fn a_second_capture_costs_the_vault_what_changed() {
    let Some(lab) = lab() else { return };
    lab.clean(PROJECT);
    let image = lab.guest_image(PROJECT);
    let server = lab.hands(&["serve", PROJECT, SERVER, "image", &image]);
    let before = last_order(&lab.console(PROJECT, &server, "REPLICATE-SEQ"));

    let folder = tempfile::tempdir().unwrap();
    let mut web = policy("web", ONE, SERVER, &[in_vault()]);
    web.keep.last = 2;
    let house = House::open(&lab.clouds(), folder.path(), PROJECT, vec![web]).await;
    let vault = folder.path().join("vault");
    let first = house.run("web").await;
    let full = stored(&vault);
    // the guest writes on; its journal alone goes round in this time
    while last_order(&lab.hands(&["console", PROJECT, &server])) < before + 300 {
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    }
    let second = house.run("web").await;
    let grown = stored(&vault) - full;

    let (one, two) = (first.point.unwrap(), second.point.unwrap());
    let (one, two) = (bytes(&house, &one, folder.path()).await, bytes(&house, &two, folder.path()).await);
    let differ = one.chunks(BLOCK).zip(two.chunks(BLOCK)).filter(|(one, two)| one != two).count();
    let share = |bytes: u64| 100.0 * bytes as f64 / one.len() as f64;
    let (changed, fresh) = ((differ * BLOCK) as u64, second.destinations[0].fresh_bytes);
    println!(
        "{:.2} % changed; new to the vault {:.2} %, its files grew by {:.2} % ({grown} of {} bytes; the first took {full})",
        share(changed),
        share(fresh),
        share(grown),
        one.len()
    );
    assert_eq!(one.len(), two.len());
    assert!(differ > 20, "the guest wrote nothing: {differ} blocks");
    assert!(fresh <= changed, "{fresh} bytes are new to the vault, and {changed} changed");
    assert!(50 * grown <= full, "more than 2 % of what the first capture took: {grown} and {full}");
    lab.clean(PROJECT);
}

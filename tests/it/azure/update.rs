//! An update of an image: what changed is sent, the rest is copied inside the provider, and whoever reads it finds the
//! disk. A process that dies anywhere on the way leaves the image before as it was.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cloud::{Cloud, ImageDisk, LaunchOptions, Network};
use disk::{Format, LEAF, Silent};
use model::{DiskName, DiskRoot, ImageId, ImageOptions, Kind, PointDisk, Role, ServerName};
use serde_json::json;

use super::lab::{Lab, forged, lab, token, write_at};
use super::suites::{nothing_left, point};

/// Of the disk: no whole number of leaves or of MiB.
const SIZE: u64 = (64 << 20) + 512;

fn disk_name() -> DiskName {
    DiskName::new("vda").unwrap()
}

/// A disk that is full but for a hole.
fn fresh(folder: &Path) -> PathBuf {
    let file = folder.join("disk");
    std::fs::File::create(&file).unwrap().set_len(SIZE).unwrap();
    for leaf in (0..SIZE / LEAF).filter(|leaf| !(100..200).contains(leaf)) {
        write_at(&file, leaf * LEAF, &[leaf as u8 | 1; LEAF as usize]).unwrap();
    }
    write_at(&file, SIZE - 512, &[7; 512]).unwrap();
    file
}

/// A hundredth is other bytes, zeroes where there were some, and some where there were none.
fn change(file: &Path) {
    for (nth, leaf) in [3, 4, 77, 150, 500, 620, 621, 900, SIZE / LEAF].into_iter().enumerate() {
        let len = LEAF.min(SIZE - leaf * LEAF) as usize;
        write_at(file, leaf * LEAF, &vec![if nth % 3 == 2 { 0 } else { 0xee }; len]).unwrap();
    }
}

async fn write(site: &dyn Cloud, file: &Path, base: Option<&ImageId>, step: &str) -> (ImageDisk, DiskRoot) {
    let reader = disk::open_file(file, Format::Raw).await.unwrap();
    let (made, writer) = site.target().unwrap().create_disk(&disk_name(), SIZE, base, &token(step)).await.unwrap();
    let done = disk::transfer(reader.as_ref(), vec![writer], &Silent).await.unwrap();
    let written = done.into_iter().next().unwrap().unwrap();
    let whole = disk::open_file(file, Format::Raw).await.unwrap();
    let check = disk::create_file(file.with_extension(step), Format::Raw, SIZE, None).await.unwrap();
    let check = disk::transfer(whole.as_ref(), vec![check], &Silent).await.unwrap();
    assert_eq!(check.into_iter().next().unwrap().unwrap().root, written.root, "the root is the whole disk's");
    (made, written.root)
}

async fn register(site: &dyn Cloud, made: ImageDisk, root: DiskRoot, step: &str) -> ImageId {
    let options = ImageOptions::default();
    site.target().unwrap().register(&[made], &point(SIZE, root), &options, Role::Replica, &token(step)).await.unwrap()
}

/// Bytes of pages that have come to the simulator since the `from`th call.
async fn received(lab: &Lab, from: usize) -> (u64, usize) {
    let calls = lab.control("GET", &format!("calls?skip={from}"), None).await;
    let calls = calls.as_array().unwrap();
    let put = calls.iter().filter(|call| call["operation"] == "PutPage");
    (put.map(|call| call["received"].as_u64().unwrap()).sum(), from + calls.len())
}

/// What a machine of the image finds on its disk: the provider has made it, and nothing of ours has read it.
async fn restored(lab: &Lab, site: &dyn Cloud, image: &ImageId) -> Vec<u8> {
    let before: Vec<PathBuf> = files(lab);
    let name = ServerName::new("restored").unwrap();
    let options = LaunchOptions { name, network: Network::Isolated, ports: Vec::new(), ephemeral: true };
    let instance = site.target().unwrap().launch(image, &options, &token("look")).await.unwrap();
    let made: Vec<PathBuf> = files(lab).into_iter().filter(|file| !before.contains(file)).collect();
    assert_eq!(made.len(), 1, "{made:?}");
    let mut bytes = std::fs::read(&made[0]).unwrap();
    assert!(bytes[SIZE as usize..].iter().all(|byte| *byte == 0), "behind the disk's end there is nothing");
    bytes.truncate(SIZE as usize);
    site.target().unwrap().destroy(&instance.id).await.unwrap();
    bytes
}

fn files(lab: &Lab) -> Vec<PathBuf> {
    std::fs::read_dir(lab.disks()).unwrap().map(|it| it.unwrap().path()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_percent_is_sent_as_one_percent() {
    let (lab, folder) = (lab(false, true).await, tempfile::tempdir().unwrap());
    let (site, file) = (lab.site(), fresh(folder.path()));
    let (made, root) = write(site.as_ref(), &file, None, "first").await;
    let first = register(site.as_ref(), made, root, "first").await;
    let (whole, calls) = received(&lab, 0).await;
    assert!(whole > SIZE * 8 / 10, "the first one is sent whole: {whole}");
    let before = std::fs::read(&file).unwrap();
    change(&file);
    let (made, root) = write(site.as_ref(), &file, Some(&first), "second").await;
    let second = register(site.as_ref(), made, root, "second").await;
    let (sent, calls) = received(&lab, calls).await;
    assert!(sent > 0 && sent * 50 <= SIZE, "{sent} of {SIZE} bytes were sent");
    assert!(restored(&lab, site.as_ref(), &second).await == std::fs::read(&file).unwrap(), "the image is the disk");
    assert!(restored(&lab, site.as_ref(), &first).await == before, "the base is as it was");
    // what was sent is read back, and a little of the rest
    let target = site.target().unwrap();
    let disk = |root| PointDisk { name: disk_name(), size: SIZE, root };
    let read = target.check_written(&second, &disk(root), &Silent).await.unwrap().unwrap();
    assert!(read > 0 && read * 25 <= SIZE, "{read} bytes were read back");
    assert!(target.check_written(&second, &disk(DiskRoot([7; 32])), &Silent).await.is_err());
    // the hashes are lost with the host: the base is read once, and the update is as small
    std::fs::remove_dir_all(lab.config().scratch).unwrap();
    write_at(&file, 8 * LEAF, &[0x55; LEAF as usize]).unwrap();
    let (made, root) = write(site.as_ref(), &file, Some(&second), "third").await;
    let third = register(site.as_ref(), made, root, "third").await;
    assert!(received(&lab, calls).await.0 * 50 <= SIZE);
    assert!(restored(&lab, site.as_ref(), &third).await == std::fs::read(&file).unwrap());
    let images = [&first, &second, &third].map(|image| format!("snapshot {image}"));
    nothing_left(&lab, &images.each_ref().map(String::as_str)).await;
    for image in site.owned().await.unwrap() {
        site.delete(&image).await.unwrap();
    }
    let left = std::fs::read_dir(lab.config().scratch.join("azure-leaves")).unwrap().count();
    assert_eq!(left, 0, "records go with their images");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_were_not_copied_are_found() {
    let (lab, folder) = (lab(false, true).await, tempfile::tempdir().unwrap());
    let (site, file) = (lab.site(), fresh(folder.path()));
    let (made, root) = write(site.as_ref(), &file, None, "first").await;
    let first = register(site.as_ref(), made, root, "first").await;
    change(&file);
    let (made, root) = write(site.as_ref(), &file, Some(&first), "second").await;
    // nobody but the simulator can do this: a page that was copied is empty
    let uploaded = files(&lab).into_iter().next().unwrap();
    write_at(&uploaded, 300 * LEAF, &[0; LEAF as usize]).unwrap();
    let second = register(site.as_ref(), made, root, "second").await;
    let disk = PointDisk { name: disk_name(), size: SIZE, root };
    let error = site.target().unwrap().check_written(&second, &disk, &Silent).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Damaged, "{}", error.chain());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_holds_other_bytes_is_not_copied() {
    let (lab, folder) = (lab(false, true).await, tempfile::tempdir().unwrap());
    let (site, file) = (lab.site(), fresh(folder.path()));
    let (made, root) = write(site.as_ref(), &file, None, "first").await;
    let first = register(site.as_ref(), made, root, "first").await;
    let known = forged(&lab, &PointDisk { name: disk_name(), size: SIZE, root }, 300).await;
    let target = site.target().unwrap();
    let (_, writer) = target.create_disk(&disk_name(), SIZE, Some(&first), &token("second")).await.unwrap();
    let error = writer.finish().await.unwrap_err();
    assert!(error.kind() == Kind::Damaged && error.advice().is_some(), "{}", error.chain());
    known.put_back();
    let (_, writer) = target.create_disk(&disk_name(), SIZE, Some(&first), &token("second")).await.unwrap();
    assert_eq!(writer.finish().await.unwrap().root, root);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_is_read_on_a_bad_day_is_read_whole() {
    let (lab, folder) = (lab(false, true).await, tempfile::tempdir().unwrap());
    let (site, file) = (lab.site(), fresh(folder.path()));
    let (made, root) = write(site.as_ref(), &file, None, "first").await;
    let first = register(site.as_ref(), made, root, "first").await;
    std::fs::remove_dir_all(lab.config().scratch).unwrap();
    let busy = json!({ "kind": "status", "status": 503, "code": "ServerBusy" });
    for (operation, fault) in [
        ("PutPageFromURL", busy.clone()),
        ("PutPage", json!({ "kind": "drop" })),
        ("GetBlob", json!({ "kind": "truncate", "after": 100 })),
        ("GetPageRanges", busy),
    ] {
        lab.control("POST", "rules", Some(&json!({ "operation": operation, "every": 3, "fault": fault }))).await;
    }
    change(&file);
    let (made, root) = write(site.as_ref(), &file, Some(&first), "second").await;
    let second = register(site.as_ref(), made, root, "second").await;
    assert!(restored(&lab, site.as_ref(), &second).await == std::fs::read(&file).unwrap());
    let hits = lab.control("GET", "hits", None).await;
    assert!(hits.as_array().is_some_and(|hits| hits.len() > 5), "the bad day was felt: {hits}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_runs_out_is_renewed() {
    let (lab, folder) = (lab(false, true).await, tempfile::tempdir().unwrap());
    let (site, file) = (lab.site(), fresh(folder.path()));
    let (made, root) = write(site.as_ref(), &file, None, "first").await;
    let first = register(site.as_ref(), made, root, "first").await;
    change(&file);
    let target = site.target().unwrap();
    let (made, mut writer) = target.create_disk(&disk_name(), SIZE, Some(&first), &token("second")).await.unwrap();
    // longer than a SAS for reading lasts
    lab.control("POST", "clock", Some(&json!({ "advance": 4000 }))).await;
    let bytes = std::fs::read(&file).unwrap();
    for (index, leaf) in bytes.chunks(LEAF as usize).enumerate() {
        writer.write(index as u64 * LEAF, leaf.to_vec().into()).await.unwrap();
    }
    let root = writer.finish().await.unwrap().root;
    let second = register(site.as_ref(), made, root, "second").await;
    assert!(restored(&lab, site.as_ref(), &second).await == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_was_made_smaller_or_larger_is_written_over_its_base() {
    let lab = lab(false, true).await;
    let site: Arc<dyn Cloud> = lab.site();
    let target = site.target().unwrap();
    let mut base: Option<ImageId> = None;
    for (nth, mib) in [24_u64, 40, 30].into_iter().enumerate() {
        let (step, size) = (format!("size-{nth}"), mib << 20);
        let (made, mut writer) = target.create_disk(&disk_name(), size, base.as_ref(), &token(&step)).await.unwrap();
        writer.write(nth as u64 * LEAF, vec![nth as u8 + 1; LEAF as usize].into()).await.unwrap();
        if nth == 1 {
            writer.write(size - LEAF, vec![9; LEAF as usize].into()).await.unwrap();
        }
        let root = writer.finish().await.unwrap().root;
        let options = ImageOptions::default();
        let made = target.register(&[made], &point(size, root), &options, Role::Replica, &token(&step)).await;
        let image = made.unwrap();
        let read = target.open_image(&image, &disk_name()).await.unwrap();
        for (at, byte) in [(0, 1), (1, u8::from(nth > 0) * 2), (2, u8::from(nth > 1) * 3)] {
            assert_eq!(read.read_at(at * LEAF, 512).await.unwrap()[0], byte, "size {nth}, leaf {at}");
        }
        base = Some(image);
    }
}

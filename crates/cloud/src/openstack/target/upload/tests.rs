//! Uploads that break off, at a service that is slow to notice.

use std::sync::{Arc, Mutex};

use disk::{DiskWrite, Format, LEAF};
use model::{OwnerId, RunId, ServerName, SiteName};

use super::super::super::fake::{Fake, Reply, Request, reply};
use super::super::super::{CloudRef, OpenStackConfig, OpenStackSite, Restore};
use super::*;
use crate::Target;

fn token(step: &str) -> Token {
    Token {
        owner: OwnerId::new("me").unwrap(),
        policy: None,
        server: ServerName::new("web").unwrap(),
        run: RunId::new("20261122T030000Z-7f3a9c21").unwrap(),
        step: step.to_owned(),
    }
}

#[test]
fn ids_follow_from_the_token_and_are_uuids() {
    let (vda, vdb) = (DiskName::new("vda").unwrap(), DiskName::new("vdb").unwrap());
    let mark = mark_of(&token("disk"), &vda);
    assert_eq!(mark, mark_of(&token("disk"), &vda));
    assert_ne!(mark, mark_of(&token("disk"), &vdb));
    assert_ne!(mark, mark_of(&token("disc"), &vda));
    let id = id_of(&mark, 0);
    assert_eq!(id, id_of(&mark, 0));
    assert_ne!(id, id_of(&mark, 1));
    let parts: Vec<usize> = id.split('-').map(str::len).collect();
    assert_eq!(parts, [8, 4, 4, 4, 12]);
}

/// What the service does with an image after the first upload, which breaks.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    /// It has yet to look at the broken upload, and then calls the image taken.
    Unnoticed,
    /// It gave the upload up, and the image may be sent to again.
    Queued,
    /// It gave the image up.
    Killed,
    /// All bytes have come; what is lost is its answer, a while before it is done with them.
    Arrived,
    /// All bytes were staged, and the import of them failed.
    Unimported,
    /// All bytes were staged, and what is lost is the answer that the import begins.
    Importing,
    /// It keeps what it imports in another format.
    Converted,
}

/// An image as Glance has it.
#[derive(Debug)]
struct Held {
    id: String,
    attempt: Value,
    status: &'static str,
    format: Value,
    size: usize,
    uploads: usize,
}

impl Held {
    fn show(&self) -> Value {
        let task = if self.status == "importing" { "7" } else { "" };
        json!({
            "id": self.id, "status": self.status, "size": self.size, "disk_format": self.format,
            "os_glance_import_task": task, marks::ATTEMPT: self.attempt,
        })
    }
}

/// Glance with its images.
struct Shelf {
    fate: Fate,
    images: Vec<Held>,
    deleted: Vec<String>,
    uploads: usize,
}

impl Shelf {
    fn put(&mut self, at: usize, request: &Request) -> Reply {
        self.uploads += 1;
        let image = &mut self.images[at];
        image.uploads += 1;
        match (self.uploads, self.fate) {
            (1, Fate::Arrived) => {
                (image.status, image.size) = ("saving", request.len());
                return Reply::Lost;
            }
            (1, Fate::Killed) => image.status = "killed",
            (1, Fate::Unnoticed | Fate::Queued) => {}
            _ if image.uploads > 1 && self.fate == Fate::Unnoticed => {
                return reply(409, "Image status transition from saving to saving is not allowed");
            }
            _ => {
                (image.status, image.size) = ("active", request.len());
                return reply(204, "");
            }
        }
        Reply::Reset
    }

    /// As an upload, but that nothing tells whether all has come.
    fn stage(&mut self, at: usize, request: &Request) -> Reply {
        let reply = self.put(at, request);
        let image = &mut self.images[at];
        if matches!(image.status, "active" | "saving") {
            image.status = "uploading";
        }
        reply
    }

    fn import(&mut self, at: usize) -> Reply {
        let image = &mut self.images[at];
        assert_eq!(image.status, "uploading", "nothing was staged");
        image.status = "importing";
        match self.fate {
            Fate::Unimported if self.uploads == 1 => image.status = "queued",
            Fate::Importing => return Reply::Reset,
            Fate::Converted => (image.format, image.size) = ("raw".into(), 1),
            _ => {}
        }
        reply(202, "")
    }

    fn answer(&mut self, request: &Request) -> Reply {
        let line = request.line.trim_end_matches(" HTTP/1.1");
        let at = self.images.iter().position(|image| line.contains(&image.id));
        match (line.split_once(' ').map(|(method, _)| method), at) {
            (Some("POST"), _) if line.ends_with("/images") => {
                let form: Value = serde_json::from_slice(&request.body).unwrap();
                let id = form["id"].as_str().unwrap().to_owned();
                if self.deleted.contains(&id) {
                    return reply(409, "Image ID already exists");
                }
                let attempt = form[marks::ATTEMPT].clone();
                let format = form["disk_format"].clone();
                let made = Held { id, attempt, format, status: "queued", size: 0, uploads: 0 };
                let answer = reply(201, &made.show().to_string());
                self.images.push(made);
                answer
            }
            (Some("PUT"), Some(at)) if line.ends_with("/stage") => self.stage(at, request),
            (Some("PUT"), Some(at)) => self.put(at, request),
            (Some("POST"), Some(at)) if line.ends_with("/import") => self.import(at),
            (Some("DELETE"), Some(at)) => {
                self.deleted.push(self.images.remove(at).id);
                reply(204, "")
            }
            (Some("GET"), Some(at)) => {
                let seen = reply(200, &self.images[at].show().to_string());
                if matches!(self.images[at].status, "saving" | "importing") {
                    self.images[at].status = "active";
                }
                seen
            }
            (Some("GET"), None) if line.contains("images?") && line.contains("os_hidden=false") => {
                let images: Vec<Value> = self.images.iter().map(Held::show).collect();
                reply(200, &json!({ "images": images }).to_string())
            }
            (Some("GET"), None) if line.contains("images?") => reply(200, r#"{"images": []}"#),
            (Some("GET"), None) if line.ends_with("info/import") => {
                reply(200, r#"{"import-methods": {"value": ["glance-direct"]}}"#)
            }
            _ => reply(404, "{}"),
        }
    }
}

struct World {
    shelf: Arc<Mutex<Shelf>>,
    site: OpenStackSite,
    _fake: Fake,
    folder: tempfile::TempDir,
}

async fn world(fate: Fate, format: Format) -> World {
    begun(fate, format, false).await
}

async fn begun(fate: Fate, format: Format, staged: bool) -> World {
    let shelf = Arc::new(Mutex::new(Shelf { fate, images: Vec::new(), deleted: Vec::new(), uploads: 0 }));
    let shared = shelf.clone();
    let fake = Fake::start(move |request| shared.lock().unwrap().answer(request)).await;
    let folder = tempfile::tempdir().unwrap();
    let site = OpenStackSite {
        client: fake.client.clone(),
        ..OpenStackSite::new(OpenStackConfig {
            site: SiteName::new("one").unwrap(),
            cloud: CloudRef { cloud: "fake".to_owned(), file: None, region: None, interface: None },
            scratch: folder.path().to_owned(),
            format,
            staged,
            restore: Restore::default(),
        })
    };
    World { shelf, site, _fake: fake, folder }
}

impl World {
    async fn begin(&self) -> Box<dyn DiskWrite> {
        let vda = DiskName::new("vda").unwrap();
        self.site.create_disk(&vda, 4 * LEAF, None, &token("disk")).await.unwrap().1
    }

    async fn write(&self) -> Result<disk::Written> {
        let mut writer = self.begin().await;
        writer.write(LEAF, vec![7; LEAF as usize].into()).await?;
        writer.finish().await
    }

    /// Writes the same disk as a transfer does whose reader knows its holes.
    async fn transfer(&self) -> Result<disk::Written> {
        let path = self.folder.path().join("disk");
        let mut file = disk::create_file(&path, Format::Qcow2, 4 * LEAF, None).await?;
        file.write(LEAF, vec![7; LEAF as usize].into()).await?;
        let root = file.finish().await?.root;
        let reader = disk::open_file(&path, Format::Qcow2).await?;
        let done = disk::transfer(&*reader, vec![self.begin().await], &disk::Silent).await;
        std::fs::remove_file(&path).unwrap();
        let written = done?.remove(0)?;
        assert_eq!(written.root, root);
        Ok(written)
    }

    /// One image, whole, and how many uploads it took.
    fn whole(&self, uploads: usize) {
        let shelf = self.shelf.lock().unwrap();
        let [image] = shelf.images.as_slice() else { panic!("{:?}", shelf.images) };
        assert_eq!((image.status, shelf.uploads), ("active", uploads), "{:?}", shelf.fate);
        assert!(image.size > 0);
    }
}

#[tokio::test]
async fn the_next_writer_does_not_meet_an_upload_that_broke_off() {
    for fate in [Fate::Unnoticed, Fate::Queued, Fate::Killed] {
        let world = world(fate, Format::Raw).await;
        let error = world.write().await.unwrap_err();
        assert!(error.kind().is_retryable(), "{}", error.chain());
        world.write().await.unwrap_or_else(|error| panic!("{fate:?}: {}", error.chain()));
        world.whole(2);
    }
}

#[tokio::test]
async fn a_disk_whose_holes_are_known_is_sent_past_the_scratch_folder() {
    for fate in [Fate::Unnoticed, Fate::Queued, Fate::Killed] {
        let world = world(fate, Format::Qcow2).await;
        let error = world.transfer().await.unwrap_err();
        assert!(error.kind().is_retryable(), "{}", error.chain());
        let written = world.transfer().await.unwrap_or_else(|error| panic!("{fate:?}: {}", error.chain()));
        world.whole(2);
        // header, a leaf, its table, the first table, two of reference counts
        assert_eq!((written.received, written.stored), (LEAF, 6 * LEAF));
        assert_eq!(std::fs::read_dir(world.folder.path()).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn an_upload_from_the_scratch_folder_is_sent_again_to_an_image_of_its_own() {
    for fate in [Fate::Unnoticed, Fate::Queued, Fate::Killed] {
        let world = world(fate, Format::Qcow2).await;
        world.write().await.unwrap_or_else(|error| panic!("{fate:?}: {}", error.chain()));
        world.whole(2);
    }
}

#[tokio::test]
async fn bytes_that_have_arrived_are_not_sent_again_for_a_lost_answer() {
    for format in [Format::Raw, Format::Qcow2] {
        let world = world(Fate::Arrived, format).await;
        world.write().await.unwrap_or_else(|error| panic!("{format}: {}", error.chain()));
        world.whole(1);
    }
}

#[tokio::test]
async fn what_is_staged_counts_only_once_its_import_has_begun() {
    let uploads = [
        (Fate::Unnoticed, 2),
        (Fate::Queued, 2),
        (Fate::Killed, 2),
        (Fate::Arrived, 2),
        (Fate::Unimported, 2),
        (Fate::Importing, 1),
        (Fate::Converted, 1),
    ];
    for (fate, uploads) in uploads {
        let world = begun(fate, Format::Qcow2, true).await;
        if fate == Fate::Unimported {
            let error = world.write().await.unwrap_err();
            assert!(error.kind().is_retryable() && error.chain().contains("queued"), "{}", error.chain());
        }
        world.write().await.unwrap_or_else(|error| panic!("{fate:?}: {}", error.chain()));
        world.whole(uploads);
    }
}

//! Death at every point of captures that end well: a release that commits, backup jobs in place of the filter, a server that is off. What
//! a dead process had noted is released again, the rest is swept; then nothing of ours is left, and the next increment misses nothing.

use std::path::{Path, PathBuf};
use std::process::Command;

use cloud::qemu::QemuSite;
use cloud::{Capture, Outcome, Source};
use model::{Consistency, Cursor};

use super::bench::{Guest, Image, pair, request, run, site, sweep, tools};
use super::off;

const MIB: u64 = 1 << 20;
const DEVICE: &str = "/machine/peripheral/one/virtio-backend";

/// Which way a capture goes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Filter,
    Jobs,
    Off,
}

impl Way {
    fn site(self, folder: &Path) -> QemuSite {
        site(folder, |config| config.jobs_only = self == Way::Jobs)
    }

    fn server(self) -> &'static str {
        if self == Way::Off { "db" } else { "pair" }
    }
}

/// A server whose bytes are known.
struct Stage {
    way: Way,
    folder: PathBuf,
    guest: Option<Guest>,
    /// What its disks hold now.
    truth: Vec<Vec<u8>>,
}

impl Stage {
    async fn set(way: Way, folder: &Path) -> Self {
        let guest = if way == Way::Off {
            off::server(folder);
            None
        } else {
            Some(pair(folder).await)
        };
        let truth = if way == Way::Off {
            off::truth(folder).to_vec()
        } else {
            let mut disk = vec![0; 8 << 20];
            disk[1 << 20..3 << 20].fill(3);
            vec![disk.clone(), disk]
        };
        Self { way, folder: folder.to_owned(), guest, truth }
    }

    /// The server writes 64 KiB to its first disk.
    async fn write(&mut self, pattern: u8) {
        let offset = u64::from(pattern) % 32 * 65_536 + 4 * MIB;
        match &self.guest {
            Some(guest) => guest.write("pair", DEVICE, pattern, offset, 65_536).await,
            None => {
                let image = self.folder.join("a.qcow2");
                run(&format!("qemu-io -f qcow2 -c 'write -P {pattern} {offset} 65536' {}", image.display()));
            }
        }
        self.truth[0][offset as usize..offset as usize + 65_536].fill(pattern);
    }

    /// Nothing of ours is left but the bitmaps of the base.
    async fn is_clean(&self, base: &Cursor, story: &str) {
        if let Some(guest) = &self.guest {
            guest.is_clean("pair").await.unwrap_or_else(|left| panic!("{story}: {left}"));
            assert_eq!(guest.bitmaps("pair").await, [base.as_str()], "{story}");
        } else {
            let image = self.folder.join("a.qcow2");
            run(&format!("qemu-img check -q {}", image.display()));
            let info = run(&format!("qemu-img info {}", image.display()));
            assert_eq!(
                (info.matches("name: rpl-").count(), info.matches(base.as_str()).count()),
                (1, 1),
                "{story}: {info}"
            );
        }
        let scratch = std::fs::read_dir(self.folder.join("scratch")).into_iter().flatten();
        let scratch: Vec<PathBuf> = scratch.map(|entry| entry.unwrap().path()).collect();
        assert!(scratch.iter().all(|path| path.ends_with("cursors")), "{story}: {scratch:?}");
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let words = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).into_owned();
            let ours = words.starts_with("qemu-nbd") && words.contains(&*self.folder.to_string_lossy());
            assert!(!ours, "{story}: {words} still runs");
        }
    }
}

/// Applies what has changed since the base, and compares with the truth. Whether a change map was followed.
async fn follows(stage: &Stage, base: &Cursor, images: &[Vec<u8>], name: &str) -> bool {
    let site = stage.way.site(&stage.folder);
    let wanted = request(stage.way.server(), name, Some(base), Consistency::Crash);
    let capture = site.capture(&wanted).await.unwrap();
    for (index, disk) in capture.disks.iter().enumerate() {
        let mut image = Image { bytes: images[index].clone(), read: 0 };
        image.apply(site.open(&capture, &disk.name, disk.incremental).await.unwrap().as_ref()).await;
        assert!(image.bytes == stage.truth[index], "{name}: an increment misses changes of disk {}", disk.name);
    }
    site.release(&capture, Outcome::Abandoned).await.unwrap();
    capture.disks[0].incremental
}

async fn die_everywhere(way: Way) {
    if !tools() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut stage = Stage::set(way, folder.path()).await;
    let site = way.site(folder.path());
    let first = site.capture(&request(way.server(), "run-first", None, Consistency::Crash)).await.unwrap();
    site.release(&first, Outcome::Committed).await.unwrap();
    let (mut base, mut images) = (first.cursor.unwrap(), stage.truth.clone());
    let (mut deaths, mut mapped) = (0, 0);
    for outcome in [Outcome::Committed, Outcome::Abandoned] {
        for point in 1_u8.. {
            stage.write(point).await;
            let survived = child_dies(&stage, &base, outcome, point).await;
            let story = format!("{way:?}, {outcome:?}, died at {point}");
            // the journal has the capture: the run goes on, which here is only its release
            if let Ok(noted) = std::fs::read(folder.path().join("noted.json")) {
                let capture: Capture = serde_json::from_slice(&noted).unwrap();
                site.release(&capture, outcome).await.unwrap_or_else(|error| panic!("{story}: {}", error.chain()));
                if outcome == Outcome::Committed {
                    (base, images) = (capture.cursor.unwrap(), stage.truth.clone());
                }
                std::fs::remove_file(folder.path().join("noted.json")).unwrap();
            }
            sweep(&site).await;
            stage.is_clean(&base, &story).await;
            mapped += u32::from(
                follows(&stage, &base, &images, &format!("run-after-{outcome:?}-{point}").to_lowercase()).await,
            );
            if survived {
                break;
            }
            deaths += 1;
        }
    }
    println!("{way:?}: died at {deaths} points; {mapped} of the increments after it followed a change map");
    assert!(deaths > 10 && mapped + 4 >= deaths, "{deaths} deaths, {mapped} increments by map");
}

/// Captures, notes and releases in a process that dies at the given point; true: it did not come so far.
async fn child_dies(stage: &Stage, base: &Cursor, outcome: Outcome, point: u8) -> bool {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["qemu_source::death::child", "--exact", "--ignored", "--nocapture"]);
    child.env("REPLICATE_TEST_FOLDER", &stage.folder).env("REPLICATE_CRASH_AT", point.to_string());
    child.env("REPLICATE_TEST_SINCE", base.as_str()).env("REPLICATE_TEST_WAY", format!("{:?}", stage.way));
    child.env("REPLICATE_TEST_OUTCOME", format!("{outcome:?}"));
    let ended = tokio::task::spawn_blocking(move || child.output().unwrap()).await.unwrap();
    assert!(ended.status.success() || ended.status.code().is_none(), "{}", String::from_utf8_lossy(&ended.stdout));
    ended.status.success()
}

/// The part that dies: a process of its own.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by another test, in a process of its own"]
async fn child() {
    let Ok(folder) = std::env::var("REPLICATE_TEST_FOLDER") else { return };
    let folder = PathBuf::from(folder);
    let told = |name: &str| std::env::var(name).unwrap();
    let ways = [Way::Filter, Way::Jobs, Way::Off];
    let way = ways.into_iter().find(|way| format!("{way:?}") == told("REPLICATE_TEST_WAY")).unwrap();
    let outcomes = [Outcome::Committed, Outcome::Abandoned];
    let outcome = outcomes.into_iter().find(|one| format!("{one:?}") == told("REPLICATE_TEST_OUTCOME")).unwrap();
    let site = way.site(&folder);
    let run = format!("run-{}-{}", told("REPLICATE_TEST_OUTCOME"), told("REPLICATE_CRASH_AT")).to_lowercase();
    let since = Cursor::new(told("REPLICATE_TEST_SINCE")).unwrap();
    let capture = site.capture(&request(way.server(), &run, Some(&since), Consistency::Crash)).await.unwrap();
    std::fs::write(folder.join("noting"), serde_json::to_vec(&capture).unwrap()).unwrap();
    std::fs::rename(folder.join("noting"), folder.join("noted.json")).unwrap();
    site.release(&capture, outcome).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_commits() {
    die_everywhere(Way::Filter).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_jobs() {
    die_everywhere(Way::Jobs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_off() {
    die_everywhere(Way::Off).await;
}

//! A booted Debian guest that writes to two disks all the time: consistency, and death at every point.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cloud::qemu::agent::Agent;
use cloud::{Cloud, Hook, Outcome, Source};
use model::{Consistency, Cursor, Firmware};
use serde_json::json;

use tests::guest::guest;

use super::bench::{Guest, Image, apply, request, run, site, sweep, tools};

const NAME: &str = "web";

async fn boot(folder: &Path, disk: &Path) -> Guest {
    let (root, data) = (folder.join("root.qcow2"), folder.join("data.qcow2"));
    std::fs::copy(disk, &root).unwrap();
    let raw = folder.join("data.raw");
    run(&format!(
        "truncate -s 64M {0} && /sbin/mke2fs -q -t ext4 {0} && qemu-img convert -f raw -O qcow2 {0} {1} && rm {0}",
        raw.display(),
        data.display()
    ));
    let agent = folder.join("agent");
    let arguments = [
        "-drive".to_owned(),
        format!("if=none,id=d0,format=qcow2,file={}", root.display()),
        "-device".to_owned(),
        "virtio-blk-pci,id=root,drive=d0,bootindex=1".to_owned(),
        "-drive".to_owned(),
        format!("if=none,id=d1,format=qcow2,file={}", data.display()),
        "-device".to_owned(),
        "virtio-blk-pci,id=data,drive=d1".to_owned(),
        "-device".to_owned(),
        "virtio-serial".to_owned(),
        "-chardev".to_owned(),
        format!("socket,id=ga,path={},server=on,wait=off", agent.display()),
        "-device".to_owned(),
        "virtserialport,chardev=ga,name=org.qemu.guest_agent.0".to_owned(),
    ];
    let guest = Guest::start(folder, NAME, &arguments).await;
    guest.console(NAME, "REPLICATE-READY").await;
    guest
}

/// The sequence numbers on both disks, after their journals were replayed as a boot would.
fn sequence(folder: &Path, images: &[Image]) -> [i64; 2] {
    let (disk, part) = (folder.join("check.raw"), folder.join("check.part"));
    let read = |part: &Path, file: &str| -> i64 {
        let part = part.display();
        let text = run(&format!(
            "/sbin/e2fsck -fy {part} >/dev/null 2>&1 || [ $? -le 1 ]; /sbin/debugfs -R 'cat {file}' {part} 2>/dev/null"
        ));
        text.trim().parse().unwrap_or_else(|_| panic!("{file} holds {text:?}"))
    };
    std::fs::write(&disk, &images[0].bytes).unwrap();
    let start = run(&format!("/sbin/sgdisk -i 3 {} | awk '/First sector/{{print $3}}'", disk.display()));
    run(&format!("dd if={} of={} bs=512 skip={} status=none", disk.display(), part.display(), start.trim()));
    let first = read(&part, "/data/seq");
    std::fs::write(&part, &images[1].bytes).unwrap();
    [first, read(&part, "/seq")]
}

async fn agent_says(folder: &Path, command: &str) -> serde_json::Value {
    let limit = Duration::from_secs(20);
    let mut agent = Agent::connect(&folder.join("agent"), limit).await.unwrap();
    agent.execute(command, json!({}), limit).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn consistent_increments_and_death_at_every_point() {
    let Some(built) = tools().then(guest).flatten() else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut guest = boot(folder, &built.qcow2).await;
    let site = site(folder, |_| {});
    let described = site.describe(&NAME.parse().unwrap()).await.unwrap();
    assert!(described.machine.agent);
    assert_eq!(described.machine.firmware, Firmware::Bios);

    let mut images = [Image::new(), Image::new()];
    let mut base: Option<Cursor> = None;
    let mut last = 0;
    for (round, level) in [Consistency::Filesystem, Consistency::Crash, Consistency::Filesystem].into_iter().enumerate()
    {
        let capture = site.capture(&request(NAME, &format!("run-{round}"), base.as_ref(), level)).await.unwrap();
        assert_eq!((capture.consistency, capture.warnings.len()), (level, 0), "{:?}", capture.warnings);
        assert_eq!(agent_says(folder, "guest-fsfreeze-status").await, "thawed");
        tokio::time::sleep(Duration::from_secs(1)).await; // the guest writes on, behind the cut
        apply(&site, &capture, &mut images, folder).await;
        let whole: u64 = images.iter().map(|image| image.bytes.len() as u64).sum();
        let read: u64 = images.iter().map(|image| image.read).sum();
        assert!(round == 0 || read < whole / 16, "increment {round} read {read} of {whole} bytes");
        eprintln!("capture {round}: read {} KiB of {} KiB", read >> 10, whole >> 10);
        let [first, second] = sequence(folder, &images);
        assert!((0..=1).contains(&(first - second)), "impossible state: {first} on disk 1, {second} on disk 2");
        assert!(first > last, "the guest went on writing");
        last = first;
        site.release(&capture, Outcome::Committed).await.unwrap();
        base = capture.cursor;
    }
    guest.is_clean(NAME).await.unwrap();
    application(folder, &site, base.as_ref()).await;
    let points = die_at_every_point(folder, &guest, base.as_ref()).await;
    eprintln!("died at {points} points");
    assert!(points > 30, "only {points} crash points");

    // after all that: an increment over everything, still equal to its export
    let capture = site.capture(&request(NAME, "run-last", base.as_ref(), Consistency::Filesystem)).await.unwrap();
    assert!(capture.disks.iter().all(|disk| disk.incremental), "{:?}", capture.disks);
    apply(&site, &capture, &mut images, folder).await;
    let [first, second] = sequence(folder, &images);
    assert!(first > last && (0..=1).contains(&(first - second)), "{last} then {first}, {second}");
    // killed while the capture holds
    guest.kill();
    site.release(&capture, Outcome::Committed).await.unwrap();
    assert!(site.owned().await.unwrap().iter().all(|left| left.kind == "bitmap"));
}

/// Hooks run around the freeze, and the level is recorded; a hook that does not succeed ends the capture.
async fn application(folder: &Path, site: &cloud::qemu::QemuSite, base: Option<&Cursor>) {
    let log = folder.join("hooks");
    let say =
        |what: &str| vec!["sh".into(), "-c".into(), format!("echo {what} $REPLICATE_SERVER >> {}", log.display())];
    let mut wanted = request(NAME, "run-hooks", base, Consistency::Application);
    wanted.consistent.hook = Hook { before: say("before"), after: say("after") };
    let capture = site.capture(&wanted).await.unwrap();
    assert_eq!(capture.consistency, Consistency::Application);
    site.release(&capture, Outcome::Abandoned).await.unwrap();
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "before web\nafter web\n");
    wanted.token.run = "run-hooks-2".parse().unwrap();
    wanted.consistent.hook.before = vec!["false".into()];
    let refused = site.capture(&wanted).await.unwrap_err();
    assert!(refused.chain().contains("hook false"), "{}", refused.chain());
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "before web\nafter web\nafter web\n", "after, in every path");
}

/// Dies at every crash point of a capture and its release; a sweep must bring the guest back each time.
async fn die_at_every_point(folder: &Path, guest: &Guest, base: Option<&Cursor>) -> u64 {
    let site = site(folder, |_| {});
    for point in 1.. {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["qemu_source::live::child", "--exact", "--ignored", "--nocapture"]);
        child.env("REPLICATE_TEST_FOLDER", folder).env("REPLICATE_CRASH_AT", point.to_string());
        child.env("REPLICATE_TEST_SINCE", base.map_or("", |base| base.as_str()));
        let ended = tokio::task::spawn_blocking(move || child.output().unwrap()).await.unwrap();
        let survived = ended.status.success();
        assert!(survived || ended.status.code().is_none(), "{}", String::from_utf8_lossy(&ended.stdout));
        sweep(&site).await;
        guest.is_clean(NAME).await.unwrap_or_else(|left| panic!("after death at point {point}: {left}"));
        assert_eq!(agent_says(folder, "guest-fsfreeze-status").await, "thawed", "after death at point {point}");
        let bitmaps = guest.bitmaps(NAME).await;
        assert_eq!(bitmaps, [base.unwrap().as_str()], "after death at point {point}");
        let scratch: Vec<PathBuf> =
            std::fs::read_dir(folder.join("scratch")).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(scratch.iter().all(|path| path.ends_with("cursors")), "after death at point {point}: {scratch:?}");
        if survived {
            return point - 1;
        }
    }
    unreachable!()
}

/// The part of [`die_at_every_point`] that dies: a process of its own.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by another test, in a process of its own"]
async fn child() {
    let Ok(folder) = std::env::var("REPLICATE_TEST_FOLDER") else { return };
    let since = std::env::var("REPLICATE_TEST_SINCE").unwrap();
    let site = site(Path::new(&folder), |_| {});
    let wanted = request(NAME, "run-child", Some(&Cursor::new(since).unwrap()), Consistency::Filesystem);
    let capture = site.capture(&wanted).await.unwrap();
    site.release(&capture, Outcome::Abandoned).await.unwrap();
}

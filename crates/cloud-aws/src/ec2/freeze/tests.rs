//! The scripts, run by this machine's shell on made-up mounts with a made-up `fsfreeze`; and what is known of the time in
//! which a guest is frozen. That a real guest is, is seen in `tests/ec2/freeze.rs`.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::*;

/// Notes what it is told; one mount is frozen by somebody else, one takes its time.
const TOOL: &str = r#"#!/bin/sh
here=FOLDER
name=$(echo "$2" | tr / _)
if [ "$1" = --freeze ]; then
  [ -e "$here/slow$name" ] && for i in $(seq 300); do
    grep -q thaw.*loop "$here/log" && break
    sleep 0.2
  done
  [ -e "$here/busy$name" ] && { echo "fsfreeze: $2: freeze failed: Device or resource busy" >&2; exit 1; }
  touch "$here/frozen$name"
  echo "freeze $2" >> "$here/log"
else
  echo "thaw $2" >> "$here/log"
  rm "$here/frozen$name"
fi"#;

/// A root, memory, an EFI system partition, a data disk, a second sight of the root, a read-only image, and a file system
/// in a file of the data disk. None of them is there: a shell with an `fsfreeze` of its own finds nothing to freeze.
const MOUNTS: &str = "\
22 1 259:1 / /none rw,relatime shared:1 - ext4 /dev/nvme0n1p1 rw,discard
24 22 0:20 / /run rw shared:3 - tmpfs tmpfs rw
25 22 259:2 / /boot/efi rw shared:4 - vfat /dev/nvme0n1p15 rw,fmask=0077
26 22 259:3 / /none/my\\040data rw - xfs /dev/nvme1n1 rw,attr2
27 22 259:1 /x /bind rw - ext4 /dev/nvme0n1p1 rw
28 22 7:0 / /snap/core ro - squashfs /dev/loop0 ro
29 26 7:1 / /none/loop rw - ext4 /dev/loop1 rw
";

struct Guest {
    folder: tempfile::TempDir,
}

impl Guest {
    fn new() -> Self {
        let guest = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::write(guest.path("mountinfo"), MOUNTS).unwrap();
        std::fs::create_dir(guest.path("bin")).unwrap();
        let tool = guest.path("bin/fsfreeze");
        std::fs::write(&tool, TOOL.replace("FOLDER", guest.path("").to_str().unwrap())).unwrap();
        std::fs::set_permissions(tool, std::fs::Permissions::from_mode(0o755)).unwrap();
        guest
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a script of ours in it; what it says.
    fn run(&self, script: &str) -> String {
        let at = |name: &str| self.path(name).to_str().unwrap().to_owned();
        let script = script.replace("PATH=/usr", &format!("PATH={}:/usr", at("bin")));
        let script = script.replace("/proc/self/mountinfo", &at("mountinfo"));
        std::fs::write(self.path("script"), script.replace("/run/replicate-freeze", &at("places"))).unwrap();
        let ended = Command::new("sh").arg(self.path("script")).stdin(Stdio::null()).output().unwrap();
        String::from_utf8([ended.stdout, ended.stderr].concat()).unwrap()
    }

    fn freeze(&self, delay: u32, hold: u32) -> String {
        self.run(&format!("token=t\ndelay={delay}\nhold={hold}\n{FREEZE}"))
    }

    fn thaw(&self) -> String {
        self.run(&format!("token=t\nlimit=60\n{THAW}"))
    }

    fn log(&self) -> Vec<String> {
        std::fs::read_to_string(self.path("log")).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// Waits until it has thawed by itself, and then asks.
    fn waited(&self) -> String {
        while !self.path("places/t/done").exists() {
            std::thread::sleep(Duration::from_millis(100));
        }
        self.thaw()
    }

    fn is_frozen(&self) -> bool {
        std::fs::read_dir(self.folder.path())
            .unwrap()
            .any(|it| it.unwrap().file_name().to_string_lossy().starts_with("frozen"))
    }
}

const FREEZES: [&str; 3] = ["freeze /none/loop", "freeze /none/my data", "freeze /none"];

#[test]
fn what_is_written_to_is_frozen_once_the_root_last_and_thaws_by_itself() {
    let guest = Guest::new();
    let first = guest.freeze(1, 2);
    assert!(number(&first, "armed=").is_some(), "{first}");
    assert_eq!(guest.freeze(1, 2), first, "the same token, the same appointment");
    let said = guest.waited();
    let (frozen, held) = (number(&said, "frozen=").unwrap(), number(&said, "held=").unwrap());
    assert!(number(&first, "armed=").unwrap() < frozen && frozen < held, "{first} {said}");
    let mut log = guest.log();
    assert_eq!(log[..3], FREEZES);
    log[3..].sort();
    assert_eq!(log[3..], ["thaw /none", "thaw /none/loop", "thaw /none/my data"]);
    assert!(!guest.is_frozen());
    assert_eq!(guest.freeze(1, 2), first, "one that is over does not begin again");
    assert_eq!(guest.log().len(), 6);
}

#[test]
fn what_somebody_else_has_frozen_is_not_thawed() {
    let guest = Guest::new();
    std::fs::write(guest.path("busy_none"), "").unwrap();
    guest.freeze(0, 30);
    assert!(guest.waited().contains("why=fsfreeze: /none: freeze failed: Device or resource busy"));
    assert!(!guest.log().iter().any(|line| line == "thaw /none"), "{:?}", guest.log());
    assert!(!guest.is_frozen());
}

#[test]
fn a_freeze_that_is_under_way_at_the_bound_is_thawed_when_it_has_come_to_pass() {
    let guest = Guest::new();
    std::fs::write(guest.path("slow_none"), "").unwrap();
    guest.freeze(0, 1);
    assert!(guest.waited().contains("why=it did not get all file systems frozen in 1 s"));
    let log = guest.log();
    let of = |line: &str| log.iter().position(|it| it == line).unwrap();
    assert!(
        of("thaw /none/loop") < of("freeze /none") && !guest.is_frozen(),
        "the others did not wait for it: {log:?}"
    );
}

#[test]
fn who_calls_it_off_is_heard_before_and_after_it_was_agreed() {
    let guest = Guest::new();
    assert_eq!(guest.thaw(), "replicate-freeze why=it never began\n");
    assert_eq!(guest.freeze(0, 30), "it was called off\n");
    let guest = Guest::new();
    guest.freeze(2, 30);
    assert_eq!(guest.thaw(), "replicate-freeze why=it was called off\n");
    assert_eq!(guest.log(), [""; 0]);
    // a thaw that gets through ends it early
    let guest = Guest::new();
    guest.freeze(0, 600);
    while guest.log().len() < 3 {
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(number(&guest.thaw(), "held=").is_some() && !guest.is_frozen());
}

#[test]
fn what_cannot_be_frozen_is_said_at_once() {
    let guest = Guest::new();
    std::fs::write(guest.path("mountinfo"), MOUNTS.replace("tmpfs", "ext4")).unwrap();
    assert_eq!(guest.freeze(0, 1), "/run is not in memory\n");
    std::fs::write(guest.path("mountinfo"), MOUNTS.replace("- xfs", "- zfs")).unwrap();
    assert_eq!(guest.freeze(0, 1), "file systems of type zfs cannot be frozen\n");
    assert!(!guest.path("places").exists());
}

#[tokio::test(start_paused = true)]
async fn the_slower_an_agent_the_less_is_known() {
    let sent = Instant::now();
    let made = |seconds| Appointment {
        answer: Answer { sent, seen: sent + Duration::from_secs(seconds), said: String::new() },
        armed: 100.0,
        hold: Duration::from_secs(10),
    };
    // frozen from 5 to 15 or from 9 to 19: from 9 to 15 for certain
    assert_eq!(made(4).moment(), Some(sent + Duration::from_secs(11)));
    let at = sent + Duration::from_secs(12);
    assert_eq!((made(4).earliest(at), made(4).latest(at)), (108.0, 112.0));
    assert_eq!(made(10).moment(), None);
}

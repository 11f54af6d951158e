//! The daemon as a process: the same answers with and without it, signals, and who may ask.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a panic is a test's verdict")]

mod common;

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::World;

struct Daemon(Child);

impl Daemon {
    fn start(world: &World) -> Self {
        let log = std::fs::File::create(world.path("daemon.log")).expect("log");
        let child = world.command(&["daemon"]).stdout(Stdio::null()).stderr(log).spawn().expect("daemon");
        let daemon = Self(child);
        wait_for("the daemon", || world.read("daemon.log").contains("the daemon is ready"));
        daemon
    }

    fn signal(&self, name: &str) {
        let status = std::process::Command::new("kill").args(["-s", name, &self.0.id().to_string()]).status();
        assert!(status.expect("kill").success());
    }

    fn stop(mut self) -> Option<i32> {
        self.signal("TERM");
        self.0.wait().expect("daemon").code()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_for(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(180);
    while !holds() {
        assert!(Instant::now() < end, "{what} did not come");
        std::thread::sleep(Duration::from_millis(50));
    }
}

const SESSION: &[&[&str]] = &[
    &["servers"],
    &["run", "all"],
    &["plan"],
    &["points"],
    &["restore", "nobody", "--to", "x.raw"],
    &["restore", "web-1", "--to", "./disk.raw"],
    &["run", "al"],
    &["verify"],
    &["import", "disk.raw", "--server", "copy", "--to", "vault:main"],
    &["status"],
    &["prune"],
    &["compact"],
    &["sweep"],
];

#[test]
fn the_same_with_and_without_a_daemon() {
    let session = |world: &World| -> String { SESSION.iter().map(|arguments| world.show(arguments)).collect() };
    let alone = World::new();
    alone.fine(&["init", "--vault", "main"]);
    let without = session(&alone);
    let beside = World::new();
    beside.fine(&["init", "--vault", "main"]);
    let daemon = Daemon::start(&beside);
    let with = session(&beside);
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(without, with);
    assert!(beside.read("daemon.log").contains("run finished"), "the daemon has not done it");
}

#[test]
fn it_stops_cleanly_and_only_one_runs() {
    let world = World::new();
    let daemon = Daemon::start(&world);
    let second = world.run(&["daemon"]);
    assert_eq!(second.status.code(), Some(11), "{}", String::from_utf8_lossy(&second.stderr));
    assert!(world.path("replicate.sock").exists(), "the second one took the first one's socket away");
    assert_eq!(daemon.stop(), Some(0));
    assert!(!world.path("replicate.sock").exists());
    world.fine(&["status"]);
}

#[test]
fn a_killed_daemon_leaves_no_obstacle() {
    let world = World::new();
    drop(Daemon::start(&world));
    assert!(world.path("replicate.sock").exists(), "kill -9 leaves the socket");
    world.fine(&["status"]);
    assert_eq!(Daemon::start(&world).stop(), Some(0));
}

#[test]
fn a_reload_is_whole_or_not_at_all() {
    let world = World::new();
    world.fine(&["init", "--vault", "main"]);
    let daemon = Daemon::start(&world);
    let policy = world.read("policies/all.toml");
    world.write("policies/more.toml", &policy);
    world.write("policies/all.toml", &format!("{policy}nonsense = 1\n"));
    daemon.signal("HUP");
    wait_for("the refusal", || world.read("daemon.log").contains("kept the old configuration"));
    world.write("policies/all.toml", &policy);
    // the command reads the new files itself, so the daemon's own view shows in what it plans
    assert!(!world.fine(&["plan"]).contains("by more"));
    daemon.signal("HUP");
    wait_for("the reload", || world.read("daemon.log").contains("the new configuration is in force"));
    assert!(world.fine(&["plan"]).contains("by more"));
    // sites and vaults too: a vault that was not there when the daemon began takes the next run's point
    let settings = world.read("replicate.toml");
    let second = format!(
        "{settings}[vaults.second]\nurl = \"dir:second\"\nrecipients = [{{ age = \"{}\" }}]\n\
         identities = [{{ age-file = \"key.txt\" }}]\n",
        common::AGE_PUBLIC
    );
    world.write("replicate.toml", &second);
    world.fine(&["init", "--vault", "second"]);
    world.write("policies/more.toml", &policy.replace("vault:main", "vault:second"));
    daemon.signal("HUP");
    wait_for("the second reload", || {
        world.read("daemon.log").matches("the new configuration is in force").count() == 2
    });
    world.fine(&["run", "more", "-q"]);
    assert!(world.json(&["points"]).to_string().contains("\"second\""));
    world.write("replicate.toml", &format!("{second}[daemon]\nparallel-runs = 7\n"));
    daemon.signal("HUP");
    wait_for("the second refusal", || world.read("daemon.log").contains("restart the daemon for that"));
    assert_eq!(daemon.stop(), Some(0));
}

/// A destination that is down for a while: the daemon tries again by itself, and says when.
#[test]
fn a_parked_run_is_tried_again() {
    let world = World::new();
    world.fine(&["init", "--vault", "main"]);
    let daemon = Daemon::start(&world);
    std::fs::rename(world.path("vault"), world.path("away")).expect("away");
    let parked = world.run(&["run", "all", "-q"]);
    assert_eq!(parked.status.code(), Some(3), "{}", String::from_utf8_lossy(&parked.stderr));
    assert!(world.fine(&["status"]).contains("next try"), "status says when");
    std::fs::rename(world.path("away"), world.path("vault")).expect("back");
    wait_for("the next try", || world.read("daemon.log").contains("parked runs were tried again"));
    let status = world.json(&["status"]);
    assert!(status["report"]["servers"][0]["open_run"].is_null(), "{status}");
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn what_is_due_runs_once() {
    let world = World::new();
    world.fine(&["init", "--vault", "main"]);
    let policy = world.read("policies/all.toml").replace("keep = { last = 1 }", "keep = { last = 9 }");
    world.write("policies/all.toml", &format!("schedule = {{ cron = \"*/2 * * * * *\" }}\n{policy}"));
    let daemon = Daemon::start(&world);
    wait_for("two runs", || world.read("daemon.log").matches("run finished").count() >= 2);
    assert_eq!(daemon.stop(), Some(0));
    let points = world.json(&["points"]);
    let points = points["report"].as_array().expect("points").len();
    let finished = world.read("daemon.log").matches("run finished").count();
    assert_eq!(points, finished);
}

/// Beside retention, and by what its table says: what no run would ever write again is compressed again here.
#[test]
fn it_compacts_by_itself() {
    let world = World::new();
    let settings = world.read("replicate.toml").replace("[retention]\n", "[retention]\nevery = \"1s\"\n");
    let eager = "[vaults.main.compact]\nlevel = 19\nrecompress-after = \"0s\"\n";
    world.write("replicate.toml", &(settings + eager));
    let disk = &b"it does compress. ".repeat(1 << 16)[..1 << 20];
    std::fs::write(world.path("guests/web-1.raw"), disk).expect("disk");
    world.fine(&["init", "--vault", "main"]);
    world.fine(&["run", "all", "-q"]);
    let daemon = Daemon::start(&world);
    wait_for("a compaction", || world.read("daemon.log").contains("compacted vault=main"));
    assert_eq!(daemon.stop(), Some(0));
    let report = world.json(&["compact", "--dry-run", "--recompress"]);
    assert_eq!(report["report"]["vaults"][0][1]["taken"], 0, "it was done: {report}");
    world.fine(&["verify", "-q"]);
    world.fine(&["restore", "web-1", "--to", "./disk.raw", "-q"]);
    assert!(std::fs::read(world.path("disk.raw")).expect("disk") == disk);
}

#[test]
fn the_socket_is_ours_alone() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new();
    let daemon = Daemon::start(&world);
    let mode = std::fs::metadata(world.path("replicate.sock")).expect("socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    if std::fs::metadata("/proc/self").is_ok_and(|about| std::os::unix::fs::MetadataExt::uid(&about) == 0) {
        // as root: let everyone connect, and see that another user is still refused
        for (path, mode) in [(world.path("replicate.sock"), 0o666), (world.folder.path().to_owned(), 0o755)] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("mode");
        }
        let python = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); \
                      s.sendall(b'GET /v1/health HTTP/1.0\\r\\nHost: x\\r\\n\\r\\n'); print(s.recv(64).decode())";
        let ask = |user: &str| {
            // the system's Python: one in root's home would be closed to the other user
            let output = std::process::Command::new("setpriv")
                .args([&format!("--reuid={user}"), "--clear-groups", "env", "-i", "PATH=/usr/bin:/bin"])
                .args(["python3", "-c", python])
                .arg(world.path("replicate.sock"))
                .output();
            output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
        };
        let (mine, theirs) = (ask("0"), ask("65534"));
        if mine.is_empty() || theirs.is_empty() {
            println!("SKIPPED: python3 or setpriv is missing, the peer's uid was not tried");
        } else {
            assert!(mine.contains("200"), "{mine}");
            assert!(theirs.contains("403"), "{theirs}");
        }
    } else {
        println!("SKIPPED: not root, the peer's uid was not tried");
    }
    assert_eq!(daemon.stop(), Some(0));
}

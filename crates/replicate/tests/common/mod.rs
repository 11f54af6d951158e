//! A world for the command's tests: a folder with a configuration, a vault, a server that is powered off, and the
//! program itself.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use regex::Regex;

/// The identity of the published age test vectors: opening a vault with it costs no stretched passphrase.
pub const AGE_PUBLIC: &str = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj";
const AGE_SECRET: &str = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX\n";

/// A copy of a world.
pub type Saved = tempfile::TempDir;

/// Whether deaths are wanted at every point, and storms of the length that is promised.
pub fn is_full() -> bool {
    std::env::var_os("REPLICATE_SWEEP").is_some_and(|value| value == "full")
}

/// In memory where there is such a place: a sweep over hundreds of deaths would wait for fsync most of the time. What is proved is death
/// of the process, not of the machine.
fn folder(prefix: &str) -> tempfile::TempDir {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix);
    builder.tempdir_in("/dev/shm").or_else(|_| builder.tempdir()).expect("folder")
}

/// A folder with everything.
pub struct World {
    pub folder: tempfile::TempDir,
}

/// A restored guest outlives the program that launched it, and would outlive a test that fails, too.
impl Drop for World {
    fn drop(&mut self) {
        for site in ["disks", "dr"] {
            let instances = std::fs::read_dir(self.path(site).join("instances")).into_iter().flatten().flatten();
            for pid in instances.filter_map(|it| std::fs::read_to_string(it.path().join("pid")).ok()) {
                let _ = Command::new("kill").args(["-9", pid.trim()]).status();
            }
        }
    }
}

impl World {
    /// A configuration with the sites `here` (one server, off) and `dr`, and the vault `main`, which is not created.
    pub fn new() -> Self {
        let world = Self { folder: folder("rpl-") };
        for folder in ["guests", "disks", "dr", "policies"] {
            std::fs::create_dir(world.path(folder)).expect("folder");
        }
        world.secret("key.txt", AGE_SECRET);
        world.write(
            "replicate.toml",
            &format!(
                r#"ledger = "ledger"
[sites.here]
kind = "qemu"
sockets = "guests/*.qmp"
disks = "disks"
[sites.dr]
kind = "qemu"
disks = "dr"
format = "raw"
[vaults.main]
url = "dir:vault"
recipients = [{{ age = "{AGE_PUBLIC}" }}]
identities = [{{ age-file = "key.txt" }}]
threads = 1
[retention]
replica-grace = "0s"
"#
            ),
        );
        world.write(
            "policies/all.toml",
            "select = { site = \"here\" }\nreplicate = [{ to = \"vault:main\" }, { to = \"dr\" }]\nkeep = { last = 1 }\n",
        );
        let disk = world.path("guests/web-1.raw");
        let sidecar = format!(
            "tags = {{ backup = \"daily\" }}\n[[disks]]\nname = \"disk0\"\npath = \"{}\"\nformat = \"raw\"\n",
            disk.display()
        );
        world.write("guests/web-1.toml", &sidecar);
        std::fs::write(disk, pattern(1, 3 << 20)).expect("disk");
        world
    }

    /// A copy of everything, to come back to.
    pub fn save(&self) -> Saved {
        let copy = folder("rpl-saved-");
        copy_all(self.folder.path(), copy.path());
        copy
    }

    /// Comes back to a copy, at the same path.
    pub fn reset(&self, saved: &Saved) {
        for entry in std::fs::read_dir(self.folder.path()).expect("folder") {
            let path = entry.expect("entry").path();
            if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.expect("remove");
        }
        copy_all(saved.path(), self.folder.path());
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("parent")).expect("folder");
        std::fs::write(path, text).expect("write");
    }

    /// A file that nobody else may read.
    pub fn secret(&self, name: &str, text: &str) {
        self.write(name, text);
        let ours = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(self.path(name), ours).expect("mode");
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Changes a part of the server's disk.
    pub fn change_disk(&self, seed: u64) {
        use std::os::unix::fs::FileExt;
        let disk = std::fs::OpenOptions::new().write(true).open(self.path("guests/web-1.raw")).expect("disk");
        disk.write_all_at(&pattern(seed, 256 << 10), 1 << 20).expect("write");
    }

    /// The program, in the folder, away from this process' environment.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_replicate"));
        command.args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        for name in ["REPLICATE_CONFIG", "REPLICATE_LOG", "REPLICATE_CRASH_AT", "REPLICATE_CRASH_LOG"] {
            command.env_remove(name);
        }
        // keys of AWS are the world's own, never the machine's
        command.env("AWS_SHARED_CREDENTIALS_FILE", self.path("aws-credentials"));
        command.env("TZ", "UTC").env("COLUMNS", "100");
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("replicate")
    }

    /// Runs a command that must succeed, and gives its stdout.
    pub fn fine(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "replicate {arguments:?}: {}\n{out}\n{err}", output.status);
        out.into_owned()
    }

    /// Dies at the n-th point of a command, or at the one of a name; false if it came to its end, which must be a good one.
    pub fn dies(&self, arguments: &[&str], at: impl ToString) -> bool {
        let output = self.command(arguments).env("REPLICATE_CRASH_AT", at.to_string()).output().expect("replicate");
        let died = output.status.signal() == Some(9);
        assert!(died || output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        died
    }

    /// The names of the points that a command passes, which must come to a good end.
    pub fn points(&self, arguments: &[&str]) -> Vec<String> {
        let log = self.path("points.log");
        let output = self.command(arguments).env("REPLICATE_CRASH_LOG", &log).output().expect("replicate");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        let text = std::fs::read_to_string(&log).expect("points");
        std::fs::remove_file(log).expect("points");
        text.lines().filter_map(|line| Some(line.split_once(' ')?.1.to_owned())).collect()
    }

    /// The report of a command with `--json`.
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let mut all = vec!["--json"];
        all.extend(arguments);
        serde_json::from_str(&self.fine(&all)).expect("json")
    }

    /// Applies retention until nothing is left to be deleted.
    pub fn prune(&self) {
        for _ in 0..80 {
            // 3: more is due than may be deleted at once
            let output = self.run(&["--json", "prune"]);
            assert!(matches!(output.status.code(), Some(0 | 3)), "{}", String::from_utf8_lossy(&output.stderr));
            let pruned: serde_json::Value = serde_json::from_slice(&output.stdout).expect("json");
            if pruned["report"]["doomed"].as_array().expect("a list").is_empty() {
                return;
            }
        }
        panic!("retention does not come to an end");
    }

    /// One command as a golden file shows it.
    pub fn show(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let quoted: Vec<String> = arguments
            .iter()
            .map(|word| if word.contains(' ') { format!("{word:?}") } else { (*word).into() })
            .collect();
        let mut text = format!("$ replicate {}\n", quoted.join(" "));
        text += &String::from_utf8_lossy(&output.stdout);
        let stderr = String::from_utf8_lossy(&output.stderr);
        // destinations go on side by side: neighbouring steps have no order
        let mut lines: Vec<String> = stderr.lines().map(|line| format!("2> {line}").trim_end().to_owned()).collect();
        for steps in lines.chunk_by_mut(|one, two| one.starts_with("2>   ") && two.starts_with("2>   ")) {
            steps.sort_unstable();
        }
        text.extend(lines.into_iter().map(|line| line + "\n"));
        text += &format!("exit {}\n\n", output.status.code().unwrap_or(-1));
        filter(&text, self.folder.path())
    }
}

fn copy_all(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status().expect("cp");
    assert!(status.success());
}

/// Bytes that do not compress and that a seed tells.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Takes out what differs from run to run.
pub fn filter(text: &str, folder: &Path) -> String {
    let mut text = text.replace(&folder.display().to_string(), "[FOLDER]");
    let rules = [
        (r"\d{8}T\d{6}Z-[0-9a-f]{8}", "[RUN]"),
        (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", "[INSTANT]"),
        (r"\(\d+(\.\d+)? [KMG]?i?B/s\)", "([RATE])"),
        (r"\d+(\.\d+)? (h|min) \d+ (min|s)\b", "[TIME]"),
        (r"\b\d+(\.\d+)? s\b", "[TIME]"),
        (r"\d+(\.\d+)? [KMGT]iB free", "[SIZE] free"),
        (r"\d+(\.\d+)? ([KMGT]i)?B stored", "[SIZE] stored"),
        (r"root [0-9a-f]{16}", "root [ROOT]"),
        (r"[0-9a-f]{16}  (age|passphrase)", "[ID]  $1"),
        (r" +(\d+(\.\d+)? ([KMGT]i)?B) +(vault)", "  [SIZE]  $4"),
        (r"process \d+", "process [PID]"),
        (r"replicate \d+\.\d+\.\d+", "replicate [VERSION]"),
        (r"[ \t]+\n", "\n"),
    ];
    for (pattern, replacement) in rules {
        text = Regex::new(pattern).expect("pattern").replace_all(&text, replacement).into_owned();
    }
    text
}

/// Compares with a golden file. `REPLICATE_BLESS=1` writes it anew.
pub fn golden(name: &str, now: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.txt"));
    if std::env::var_os("REPLICATE_BLESS").is_some() {
        std::fs::write(&path, now).expect("write");
    }
    let was = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(was == now, "{} is not current; now:\n{now}", path.display());
}

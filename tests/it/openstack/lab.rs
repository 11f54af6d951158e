//! The test cloud (`tests/openstack`) as the tests see it: the judge, the hands of a person with an account, and servers
//! that write all the time and tell on their consoles what they wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::guest::{Guest, guest, skip};

/// The longest that anything in the cloud may take on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(900);

/// The running cloud.
pub struct Lab {
    folder: PathBuf,
    pub guest: Guest,
}

/// The cloud that `tests/openstack/with.sh` has started; none, said loudly, where there is none.
pub fn lab() -> Option<Lab> {
    let Some(folder) = std::env::var_os("REPLICATE_OPENSTACK") else {
        return skip("no OpenStack runs: `tests/run.sh openstack` starts one");
    };
    Some(Lab { folder: folder.into(), guest: guest()? })
}

/// Something that the judge has seen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Thing {
    pub cloud: String,
    pub kind: String,
    pub id: String,
}

/// Everything that some projects hold, as the judge tells it.
pub struct World(Value);

impl World {
    /// All things of a kind in a cloud.
    pub fn of(&self, cloud: &str, kind: &str) -> &[Value] {
        self.0[cloud][kind].as_array().unwrap_or_else(|| panic!("the judge knows no {kind} of {cloud}"))
    }

    /// The id of a cloud's project.
    pub fn project(&self, cloud: &str) -> &str {
        self.0[cloud]["project"].as_str().unwrap()
    }

    pub fn image(&self, cloud: &str, id: &str) -> &Value {
        self.of(cloud, "images").iter().find(|image| image["id"] == id).unwrap_or_else(|| panic!("no image {id}"))
    }

    /// Everything there is, of every kind.
    pub fn things(&self) -> BTreeSet<Thing> {
        let mut found = BTreeSet::new();
        for (cloud, kinds) in self.0.as_object().unwrap() {
            for (kind, entries) in kinds.as_object().unwrap() {
                for entry in entries.as_array().into_iter().flatten() {
                    let id = entry["id"].as_str().or(entry["name"].as_str()).unwrap().to_owned();
                    found.insert(Thing { cloud: cloud.clone(), kind: kind.clone(), id });
                }
            }
        }
        found
    }

    /// What came since another look.
    pub fn since(&self, before: &World) -> BTreeSet<Thing> {
        self.things().difference(&before.things()).cloned().collect()
    }
}

impl Lab {
    /// Where the cloud keeps what it keeps.
    pub fn clouds(&self) -> PathBuf {
        self.folder.join("clouds.yaml")
    }

    fn python(&self, script: &str, arguments: &[&str]) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("openstack").join(script);
        // Debian's own Python: it has openstacksdk, as the services have
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-W", "ignore"]).arg(&script).args(arguments);
        command.env("OS_CLIENT_CONFIG_FILE", self.clouds()).env("PYTHONNOUSERSITE", "1").env_remove("PYTHONPATH");
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        let output = command.output().unwrap_or_else(|error| panic!("{}: {error}", script.display()));
        let problem = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} {arguments:?}: {problem}", script.display());
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// What is there, seen by other eyes than ours.
    pub fn judge(&self, clouds: &[&str]) -> World {
        let mut arguments = vec!["list"];
        arguments.extend(clouds);
        World(serde_json::from_str(&self.python("judge.py", &arguments)).unwrap())
    }

    /// SHA-512 of an image's bytes, downloaded by the judge.
    pub fn sha512(&self, cloud: &str, image: &str) -> String {
        self.python("judge.py", &["hash", cloud, image])
    }

    /// What a person would do; see `hands.py`.
    pub fn hands(&self, arguments: &[&str]) -> String {
        self.python("hands.py", arguments)
    }

    /// Deletes whatever a project holds.
    pub fn clean(&self, project: &str) {
        self.hands(&["clean", project, &format!("{project}-two")]);
    }

    /// The image of the writing guest, uploaded once per project.
    pub fn guest_image(&self, cloud: &str) -> String {
        let world = self.judge(&[cloud]);
        if let Some(image) = world.of(cloud, "images").iter().find(|image| image["name"] == "guest") {
            return image["id"].as_str().unwrap().to_owned();
        }
        self.hands(&["upload", cloud, "guest", self.guest.qcow2.to_str().unwrap(), "qcow2"])
    }

    /// A data disk with an empty file system, as an image with properties.
    pub fn data_image(&self, cloud: &str, properties: &[&str]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("data.raw");
        let made = Command::new("mke2fs").args(["-q", "-t", "ext4", "-F"]).arg(&file).arg("64M").output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        self.hands(&[&["upload", cloud, "data", file.to_str().unwrap(), "raw"], properties].concat())
    }

    /// What Nova tells an administrator of a server.
    pub fn server(&self, admin: &str, server: &str) -> Value {
        serde_json::from_str(&self.python("judge.py", &["server", admin, server])).unwrap()
    }

    /// The console of a server, once it shows a text.
    pub fn console(&self, cloud: &str, server: &str, text: &str) -> String {
        let until = Instant::now() + LIMIT;
        loop {
            let console = self.hands(&["console", cloud, server]);
            if console.contains(text) {
                return console;
            }
            assert!(Instant::now() < until, "no {text} on the console of {server}:\n{console}");
            std::thread::sleep(Duration::from_secs(2));
        }
    }
}

/// What the guest tells of itself when it has booted: `REPLICATE-READY boots=2 seq=19 orders=19 broken=0 ...`.
pub fn ready(console: &str) -> BTreeMap<String, u64> {
    let line = console.lines().rfind(|line| line.contains("REPLICATE-READY")).unwrap_or_else(|| panic!("{console}"));
    let words = line.split_whitespace().filter_map(|word| word.split_once('='));
    words.filter_map(|(key, value)| Some((key.to_owned(), value.parse().ok()?))).collect()
}

/// The last order that a console told to be on disk. The prompt of the guest's shell may stand before it on its line.
pub fn last_order(console: &str) -> u64 {
    let told = console.lines().filter_map(|line| line.rsplit_once("REPLICATE-SEQ "));
    told.filter_map(|(_, number)| number.trim().parse().ok()).max().unwrap_or(0)
}

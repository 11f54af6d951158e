//! `deploy/iam/aws.json`: each role plays its part with exactly its rights, and uses every one of them.

use serde_json::{Value, json};
use tests::sim::CloudSim;

use super::{REGION, change, world};
use crate::common::World;

/// The policies by role.
fn documents() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/iam/aws.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Whether a pattern with `*` fits.
fn fits(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(text) = text.strip_prefix(start) else { return false };
    (0..=text.len()).any(|at| text.is_char_boundary(at) && fits(rest, &text[at..]))
}

fn many(value: &Value) -> Vec<String> {
    match value {
        Value::Array(all) => all.iter().map(|one| one.as_str().unwrap().to_owned()).collect(),
        one => vec![one.as_str().unwrap().to_owned()],
    }
}

/// A part of the journey, played with the rights of some roles and no others.
struct Part<'a> {
    sim: &'a CloudSim,
    roles: &'static [&'static str],
    /// The rights that this part must use up.
    judged: Vec<Value>,
    from: usize,
}

impl<'a> Part<'a> {
    /// `roles` play it together, and the rights of those in `judged` are all for it.
    fn begin(sim: &'a CloudSim, roles: &'static [&'static str], judged: &[&str]) -> Self {
        let documents = documents();
        let of = |role: &&str| documents[*role]["Statement"].as_array().unwrap().clone();
        let statements: Vec<Value> = roles.iter().flat_map(of).collect();
        let role = sim.greeting["accounts"][0]["roles"][0].as_str().unwrap();
        sim.control("PUT", &format!("policies?principal={role}"), &json!({"Statement": statements}));
        let from = sim.control("GET", "calls", &Value::Null).as_array().unwrap().len();
        let judged = judged.iter().flat_map(of).collect();
        Self { sim, roles, judged, from }
    }

    /// What the calls of this part needed. None of them was refused.
    fn needs(&self) -> Vec<(String, String)> {
        let calls = self.sim.control("GET", &format!("calls?skip={}", self.from), &Value::Null);
        let mut needs = Vec::new();
        for call in calls.as_array().unwrap() {
            let refused = ["UnauthorizedOperation", "AccessDenied", "AccessDeniedException"];
            let error = call["error"].as_str().unwrap_or_default();
            assert!(!refused.contains(&error), "{:?} may not do what they do: {call:#}", self.roles);
            if call["principal"].as_str().is_some_and(|it| it.contains("assumed-role")) {
                let of = |need: &Value, key: &str| need[key].as_str().unwrap().to_owned();
                // a call that was throttled was not judged
                let all = call["needs"].as_array().into_iter().flatten();
                needs.extend(all.map(|need| (of(need, "action"), of(need, "resource"))));
            }
        }
        needs
    }

    /// Every right was used.
    fn end(self) {
        let needs = self.needs();
        let mut unused = Vec::new();
        for statement in &self.judged {
            for action in many(&statement["Action"]) {
                for resource in many(&statement["Resource"]) {
                    if !needs.iter().any(|(needed, on)| *needed == action && fits(&resource, on)) {
                        unused.push(format!("{}: {action} on {resource}", statement["Sid"].as_str().unwrap()));
                    }
                }
            }
        }
        println!("{:?}: {} needs of calls, {} unused rights", self.roles, needs.len(), unused.len());
        assert!(unused.is_empty(), "{:?} have rights that nothing needs: {unused:#?}", self.roles);
    }
}

/// What the parts need: places and options that take every right, and a server at the cloud itself.
fn set_up(sim: &CloudSim, world: &World) {
    let account = &sim.greeting["accounts"][0];
    let networks = &account["networks"][REGION];
    let restore = format!(
        "[sites.aws.restore]\nsubnet = {}\nsecurity-groups = [{}]\nkey = {}\n[sites.far]",
        networks["subnet"], networks["security-group"], networks["key"]
    );
    world.write("replicate.toml", &world.read("replicate.toml").replace("[sites.far]", &restore));
    let partner = &sim.greeting["accounts"][1]["account"];
    world.write(
        "policies/all.toml",
        &format!(
            "select = {{ site = \"here\" }}\nreplicate = [\n\
             {{ to = \"aws\", name = \"{{server}}-{{point}}\", share = [{partner}], protected = true, hide-older = true }},\n\
             {{ to = \"far\", immutability = \"1d\" }},\n]\nkeep = {{ last = 1 }}\n\
             [drill]\nlimit = \"5s\"\nprobes = [{{ kind = \"console\", text = \"login:\" }}]\n"
        ),
    );
    world.write(
        "policies/apps.toml",
        "select = { site = \"aws\", servers = [\"app-*\"] }\nreplicate = [{ to = \"vault:main\" }]\nkeep = { last = 1 }\n\
         capture = { freeze-limit = \"4s\" }\n[drill]\nlimit = \"5s\"\n",
    );
    let app = json!({
        "account": account["account"], "region": REGION, "name": "app-1", "disks": [world.path("guests/web-1.raw")],
        "running": true, "boot_mode": "uefi",
    });
    let made = sim.control("POST", "servers", &app);
    let frozen = "replicate-freeze armed=100.00 frozen=1.00 held=900.00";
    sim.control("PUT", "agents", &json!({ "instance": made["instance"], "stdout": frozen }));
}

#[test]
fn every_role_has_the_rights_that_it_needs_and_no_more() {
    let sim = CloudSim::start(&["--calm", "--no-qemu"]);
    let world = world(&sim);
    set_up(&sim, &world);

    let part = Part::begin(&sim, &["writer", "freezer"], &["freezer"]);
    let calm = world.read("replicate.toml");
    world.write("replicate.toml", &calm.replace("[sites.aws]\n", "[sites.aws]\nfreeze = \"ssm\"\n"));
    let frozen = world.fine(&["run", "apps"]);
    assert!(frozen.contains("filesystem consistency"), "{frozen}");
    let doctor = String::from_utf8(world.run(&["doctor", "aws"]).stdout).unwrap();
    assert!(doctor.contains("guests can be frozen: all that run\n"), "{doctor}");
    world.write("replicate.toml", &calm);
    part.end();

    let part = Part::begin(&sim, &["writer", "registrar"], &["writer", "registrar"]);
    for seed in [3, 7] {
        world.fine(&["run", "all", "-q"]);
        world.fine(&["run", "apps", "-q"]);
        change(&world, seed, 640 << 10);
    }
    part.end();

    // whoever only writes and registers can delete no replica
    let images = || super::kinds(&sim).iter().filter(|kind| *kind == "image").count();
    let before = images();
    let refused = (0..20).any(|_| {
        let output = world.run(&["prune"]);
        let said = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&said).contains("UnauthorizedOperation")
    });
    assert!(refused && images() == before, "a writer may delete images");

    // until then nobody deletes what lies in the other region
    sim.control("POST", "clock", &json!({"advance": 100_000}));
    let part = Part::begin(&sim, &["retention"], &["retention"]);
    world.prune();
    part.end();

    // a restored server and a drill get images of their own, and a drill's is deleted; nothing boots here, so the drill
    // proves nothing
    let part = Part::begin(&sim, &["writer", "registrar", "restore", "retention"], &["restore"]);
    world.fine(&["restore", "web-1", "--from", "aws", "--to", "aws", "--name", "web-2", "-q"]);
    let drill = world.run(&["restore", "web-1", "--from", "far", "--to", "far", "--drill", "-q"]);
    assert!(!drill.status.success(), "a drill without a guest is no proof");
    let drill = world.run(&["restore", "web-1", "--from", "aws", "--to", "aws", "--drill", "-q"]);
    assert!(!drill.status.success(), "a drill without a guest is no proof");
    part.end();

    // nothing boots here, so nobody sees the new server come up; it is there all the same
    let part = Part::begin(&sim, &["writer", "registrar", "restore", "retention", "mover"], &["mover"]);
    world.fine(&["restore", "app-1", "--to", "far", "--final", "-q"]);
    world.fine(&["migrate", "rollback", "app-1", "--destroy", "-q"]);
    part.end();

    let part = Part::begin(&sim, &["auditor"], &["auditor"]);
    std::fs::remove_dir_all(world.path("ledger")).unwrap();
    world.fine(&["adopt", "-q"]);
    world.fine(&["verify", "-q"]);
    world.fine(&["status"]);
    part.end();
}

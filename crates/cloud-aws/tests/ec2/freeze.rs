//! Captures of frozen guests: what Systems Manager is asked for, and what is made of its answers; and a real guest that
//! writes all the time, whose file systems are clean in the snapshots and go on afterwards, whoever dies meanwhile.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use cloud::{Capture, CaptureRequest, Cloud, Consistent, Hook, Outcome};
use cloud_aws::ec2::{AwsConfig, Freeze};
use model::{Consistency, Kind, Result, ServerName};
use serde_json::{Value, json};
use tests::guest::guest;
use tests::sim::CloudSim;

use super::lab::{REGION, calls, config, open, state, token};

/// A boot took up to 166 seconds on the busiest machine.
const BOOT: Duration = Duration::from_secs(400);

fn site(sim: &CloudSim, folder: &Path) -> impl Cloud + use<> {
    open(AwsConfig { freeze: Some(Freeze::Ssm), ..config(sim, folder) })
}

fn request(step: &str, level: Consistency, required: bool, seconds: u64) -> CaptureRequest {
    let freeze_limit = Duration::from_secs(seconds);
    CaptureRequest {
        server: ServerName::new("web-1").unwrap(),
        consistent: Consistent { level, required, hook: Hook::default(), freeze_limit },
        since: None,
        token: token(step),
    }
}

async fn capture(site: &impl Cloud, request: &CaptureRequest) -> Result<Capture> {
    site.source().unwrap().capture(request).await
}

async fn release(site: &impl Cloud, capture: &Capture) {
    site.source().unwrap().release(capture, Outcome::Abandoned).await.unwrap();
}

/// A running server `web-1` of one disk, which does not boot; its id.
fn plain(sim: &CloudSim, folder: &Path) -> String {
    let file = folder.join("root.raw");
    std::fs::write(&file, vec![7; 1 << 20]).unwrap();
    add(sim, &[file])
}

fn add(sim: &CloudSim, disks: &[PathBuf]) -> String {
    let account = sim.greeting["accounts"][0]["account"].clone();
    let wanted = json!({"account": account, "region": REGION, "name": "web-1", "disks": disks});
    sim.control("POST", "servers", &wanted)["instance"].as_str().unwrap().to_owned()
}

/// An agent that says the same to everything.
fn agent(sim: &CloudSim, instance: &str, stdout: &str, more: Value) {
    let mut wanted = json!({"instance": instance, "stdout": stdout});
    wanted.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    sim.control("PUT", "agents", &wanted);
}

fn snapshots(sim: &CloudSim) -> usize {
    state(sim).iter().filter(|it| it["kind"] == "snapshot").count()
}

fn warned(capture: &Capture, words: &str) {
    assert_eq!(capture.consistency, Consistency::Crash);
    assert!(capture.warnings.iter().any(|warning| warning.contains(words)), "{words}: {:?}", capture.warnings);
}

const FROZEN: &str = "replicate-freeze armed=100.00 frozen=1.00 held=900.00";

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_frozen_who_cannot_be_and_it_is_told() {
    let (sim, folder) = (CloudSim::start(&["--calm", "--no-qemu"]), tempfile::tempdir().unwrap());
    let (unset, site) = (open(config(&sim, folder.path())), site(&sim, folder.path()));
    let instance = plain(&sim, folder.path());
    let wanted = |step: &str, required| request(step, Consistency::Filesystem, required, 3);
    warned(&capture(&unset, &wanted("unset", false)).await.unwrap(), "`freeze = \"ssm\"`");
    let error = capture(&unset, &wanted("unset-2", true)).await.unwrap_err();
    assert!(error.kind() == Kind::Invalid && error.advice().unwrap().contains("`freeze = \"ssm\"`"), "{error:?}");
    assert!(calls(&sim, "DescribeInstanceInformation").is_empty());

    warned(&capture(&site, &wanted("none", false)).await.unwrap(), "no agent of Systems Manager");
    assert_eq!(unset.source().unwrap().unfrozen().await.unwrap(), None);
    let unfrozen = site.source().unwrap().unfrozen().await.unwrap().unwrap();
    assert!(unfrozen.len() == 1 && unfrozen[0].1.contains("no agent"), "{unfrozen:?}");
    agent(&sim, &instance, FROZEN, json!({"platform": "Windows"}));
    warned(&capture(&site, &wanted("windows", false)).await.unwrap(), "runs Windows");
    assert!(calls(&sim, "SendCommand").is_empty());
    agent(&sim, &instance, "", json!({"code": 1, "stderr": "sh: what?\nthere is no fsfreeze in the guest\n"}));
    warned(&capture(&site, &wanted("tool", false)).await.unwrap(), "there is no fsfreeze in the guest");
    assert_eq!(calls(&sim, "SendCommand").len(), 2, "the freeze, and that it is called off");

    let before = snapshots(&sim);
    let error = capture(&site, &wanted("required", true)).await.unwrap_err();
    assert!(error.chain().contains("at level filesystem: ") && error.chain().contains("no fsfreeze"), "{error:?}");
    assert_eq!(snapshots(&sim), before);
    // who wants no more than a crash is not asked for more
    let sent = calls(&sim, "SendCommand").len();
    let plain = capture(&site, &request("crash", Consistency::Crash, false, 3)).await.unwrap();
    assert!(plain.warnings.iter().all(|warning| warning.contains("UEFI")), "{:?}", plain.warnings);
    assert_eq!(calls(&sim, "SendCommand").len(), sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_level_is_what_was_proved() {
    let (sim, folder) = (CloudSim::start(&["--calm", "--no-qemu"]), tempfile::tempdir().unwrap());
    let (site, instance) = (site(&sim, folder.path()), plain(&sim, folder.path()));
    agent(&sim, &instance, FROZEN, json!({}));
    let mut wanted = request("good", Consistency::Application, true, 4);
    let told = folder.path().join("told");
    let say = |word: &str| vec!["sh".to_owned(), "-c".to_owned(), format!("echo {word} >> {}", told.display())];
    wanted.consistent.hook = Hook { before: say("before"), after: say("after") };
    let first = capture(&site, &wanted).await.unwrap();
    assert_eq!((first.consistency, first.warnings.as_slice()), (Consistency::Application, [].as_slice()));
    let again = capture(&site, &wanted).await.unwrap();
    assert_eq!(again, first, "the same token, the same capture");
    assert_eq!(std::fs::read_to_string(&told).unwrap(), "before\nafter\n");
    release(&site, &first).await;

    // the least and the most that the guest's clock can have shown decide
    for (stdout, words) in [
        ("replicate-freeze armed=100.00 frozen=109.00 held=900.00", "not have been frozen yet"),
        ("replicate-freeze armed=100.00 frozen=1.00 held=101.00", "may have thawed before"),
        ("replicate-freeze armed=100.00 why=somebody else had thawed a file system", "somebody else had thawed"),
        ("replicate-freeze armed=100.00", "not understood"),
        ("hello", "not understood"),
    ] {
        agent(&sim, &instance, stdout, json!({}));
        let lenient = capture(&site, &request("bad", Consistency::Filesystem, false, 4)).await.unwrap();
        warned(&lenient, words);
        release(&site, &lenient).await;
    }
    let error = capture(&site, &request("strict", Consistency::Filesystem, true, 4)).await.unwrap_err();
    assert!(error.chain().contains("not understood"), "{}", error.chain());
    assert_eq!(snapshots(&sim), 0, "what is not good enough is not kept");
    // a hook that fails ends the capture, and the other one runs all the same
    agent(&sim, &instance, FROZEN, json!({}));
    std::fs::remove_file(&told).unwrap();
    wanted.token = token("hook");
    wanted.consistent.hook.before = vec!["false".to_owned()];
    assert!(capture(&site, &wanted).await.unwrap_err().chain().contains("hook false"));
    assert_eq!((std::fs::read_to_string(&told).unwrap().as_str(), snapshots(&sim)), ("after\n", 0));
}

/// A guest that writes on two disks.
struct Guest<'a> {
    sim: &'a CloudSim,
}

impl<'a> Guest<'a> {
    fn boot(sim: &'a CloudSim, raw: &Path, folder: &Path) -> Self {
        let data = folder.join("data.raw");
        let made = Command::new("mke2fs").args(["-q", "-t", "ext4"]).arg(&data).arg("64M").status().unwrap();
        assert!(made.success());
        add(sim, &[raw.to_owned(), data]);
        let guest = Self { sim };
        let end = Instant::now() + BOOT;
        while guest.orders().is_none() {
            assert!(Instant::now() < end, "no guest:\n{}", sim.console());
            std::thread::sleep(Duration::from_secs(1));
        }
        guest
    }

    /// The last order that the console has told of.
    fn orders(&self) -> Option<u64> {
        let console = self.sim.console();
        console.rsplit_once("REPLICATE-SEQ ")?.1.split_whitespace().next()?.parse().ok()
    }

    /// It takes more orders: nothing is frozen.
    fn goes_on(&self) {
        let (before, end) = (self.orders().unwrap(), Instant::now() + Duration::from_secs(120));
        while self.orders().unwrap() < before + 30 {
            assert!(Instant::now() < end, "it stands since order {before}:\n{}", self.sim.console());
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}

/// Whether a captured ext4 has a journal that must be replayed.
async fn needs_recovery(site: &impl Cloud, capture: &Capture, disk: usize, partition: Option<u64>) -> bool {
    let reader = site.source().unwrap().open(capture, &capture.disks[disk].name, false).await.unwrap();
    let mut start = 0;
    if let Some(number) = partition {
        let entry = reader.read_at(1024 + (number - 1) * 128 + 32, 8).await.unwrap();
        start = u64::from_le_bytes(entry[..8].try_into().unwrap()) * 512;
    }
    tests::guest::needs_recovery(&reader.read_at(start + 1024, 1024).await.unwrap())
}

async fn clean(site: &impl Cloud, capture: &Capture) -> [bool; 2] {
    [!needs_recovery(site, capture, 0, Some(3)).await, !needs_recovery(site, capture, 1, None).await]
}

fn rule(sim: &CloudSim, operation: &str, fault: Value) {
    sim.control("POST", "rules", &json!({"operation": operation, "times": 1, "fault": fault}));
}

/// A capture of the frozen guest. On a busy machine an emulated guest may be too slow for its appointment, which is told.
async fn frozen(site: &impl Cloud, sim: &CloudSim, step: &str, fault: Option<&str>) -> Capture {
    for attempt in 1..=3 {
        if let Some(kind) = fault {
            rule(sim, "SendCommand", json!({ "kind": kind }));
        }
        let step = format!("{step}-{attempt}");
        let capture = capture(site, &request(&step, Consistency::Filesystem, false, 20)).await.unwrap();
        println!("{step}: {:?} {:?}", capture.consistency, capture.warnings);
        if capture.consistency == Consistency::Filesystem {
            return capture;
        }
        release(site, &capture).await;
    }
    panic!("it is never frozen");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_writes_is_frozen_and_goes_on() {
    let Some(guest) = guest() else { return };
    let (sim, folder) = (CloudSim::start(&["--calm"]), tempfile::tempdir().unwrap());
    let (site, guest) = (site(&sim, folder.path()), Guest::boot(&sim, &guest.raw, folder.path()));
    let wanted = |step: &str| request(step, Consistency::Filesystem, false, 20);
    // what was just sent is not found at once
    sim.control("PATCH", "settings", &json!({"weather": {"command_seconds": 1.0}}));

    let well = frozen(&site, &sim, "well", None).await;
    assert_eq!(clean(&site, &well).await, [true, true]);
    guest.goes_on();
    let crash = capture(&site, &request("crash", Consistency::Crash, false, 20)).await.unwrap();
    assert_eq!(clean(&site, &crash).await, [false, false], "the check above cannot fail");

    // an answer is lost, a command runs twice
    for fault in ["drop", "twice"] {
        let frozen = frozen(&site, &sim, fault, Some(fault)).await;
        assert_eq!(clean(&site, &frozen).await, [true, true], "{fault}");
    }
    guest.goes_on();

    // who cannot hear of it calls a freeze off before it begins: it would be in the way of the next one
    rule(&sim, "GetCommandInvocation", json!({"kind": "status", "status": 400, "code": "InvalidPluginName"}));
    warned(&capture(&site, &wanted("deaf")).await.unwrap(), "InvalidPluginName");
    let after = frozen(&site, &sim, "after", None).await;
    assert_eq!(clean(&site, &after).await, [true, true]);

    // EC2 is so slow that the guest thaws first
    rule(&sim, "CreateSnapshots", json!({"kind": "delay", "seconds": 40.0}));
    let late = capture(&site, &wanted("late")).await.unwrap();
    warned(&late, "may have thawed before");
    assert_eq!(clean(&site, &late).await, [false, false]);
    guest.goes_on();

    // whoever froze it is gone before it hears of the snapshots: it thaws by itself, and what was taken is found again
    let dying = wanted("died");
    let gone = tokio::select! {
        done = capture(&site, &dying) => panic!("it did not die: {done:?}"),
        () = until_snapshots(&sim, "died") => snapshots(&sim),
    };
    guest.goes_on();
    let found = capture(&site, &dying).await.unwrap();
    warned(&found, "when its snapshots were taken");
    assert_eq!((clean(&site, &found).await, snapshots(&sim)), ([true, true], gone), "it had been frozen all the same");
    for capture in [well, crash, late, found] {
        release(&site, &capture).await;
    }
}

/// Returns as soon as a step's snapshots are there.
async fn until_snapshots(sim: &CloudSim, step: &str) {
    let there = || state(sim).iter().any(|it| it["kind"] == "snapshot" && it["tags"]["replicate:step"] == step);
    while !there() {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

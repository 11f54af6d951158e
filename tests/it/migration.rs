//! A real guest is moved from one QEMU host to another: it shuts down in order, its last order is there, the old guest stays in its QEMU, off
//! and marked, and comes back when a person wants it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cloud::qemu::{Accelerator, QemuConfig, QemuSite, TargetConfig};
use cloud::{Cloud, Power, Source, Stop, Switch, Target};
use engine::ledger::{Ledger, MemoryLedger, Tree};
use engine::{Engine, MoveEnd, MoveRequest, MoveStage, Parts, RunRequest, Settings, Silent};
use model::{
    CapturePolicy, Consistency, DrillPolicy, InstanceId, Keep, Kind, ManualClock, Objectives, Place, Policy,
    PolicyName, Select, ServerName, SiteName, Via,
};
use tests::guest::guest;

use crate::qemu_source::bench::{Guest, request, run, tools};

const NAME: &str = "web";
/// Boots took up to 166 seconds on the busiest machine.
const BOOT: Duration = Duration::from_secs(300);

fn host(folder: &Path, name: &str) -> QemuSite {
    let config = QemuConfig {
        site: SiteName::new(name).unwrap(),
        sockets: folder.join(name).join("*.qmp").to_string_lossy().into_owned(),
        disks: folder.join(name).join("disks"),
        scratch: None,
        scratch_limit: None,
        jobs_only: false,
        target: TargetConfig { accelerator: Accelerator::Tcg, ..TargetConfig::default() },
    };
    QemuSite::new(config, clock())
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new("2026-11-22T03:00:00Z".parse().unwrap()))
}

/// A policy that wants file systems that are consistent: a guest that has shut down gives that without an agent.
fn policy() -> Policy {
    Policy {
        name: PolicyName::new("move").unwrap(),
        select: Select {
            site: SiteName::new("old").unwrap(),
            servers: vec![NAME.to_owned()],
            tags: Default::default(),
        },
        schedule: None,
        capture: CapturePolicy {
            consistency: Consistency::Filesystem,
            required: true,
            before: Vec::new(),
            after: Vec::new(),
            freeze_limit: Duration::from_secs(30),
        },
        replicate: vec![Place::Site(SiteName::new("new").unwrap()).into()],
        keep: Keep { last: 2, ..Keep::default() },
        objectives: Objectives::default(),
        drill: DrillPolicy { site: None, probes: Vec::new(), limit: BOOT },
    }
}

async fn engine(ledger: Arc<MemoryLedger>, old: &QemuSite, new: &QemuSite) -> Engine {
    let (a, b): (Arc<dyn Cloud>, Arc<dyn Cloud>) = (Arc::new(old.clone()), Arc::new(new.clone()));
    let counter = AtomicU64::new(1);
    let parts = Parts {
        ledger,
        folder: None,
        clock: clock(),
        random: Arc::new(move || counter.fetch_add(1, Ordering::SeqCst)),
        sites: [(a.site().clone(), a), (b.site().clone(), b)].into_iter().collect(),
        vaults: Default::default(),
        policies: vec![policy()],
        observer: Arc::new(Silent),
        settings: Settings::default(),
    };
    Engine::new(parts).await.unwrap()
}

async fn boot(folder: &Path, disk: &Path) -> Guest {
    std::fs::create_dir_all(folder).unwrap();
    let root = folder.join("root.qcow2");
    std::fs::copy(disk, &root).unwrap();
    let arguments = [
        "-drive".to_owned(),
        format!("if=none,id=d0,format=qcow2,file={}", root.display()),
        "-device".to_owned(),
        "virtio-blk-pci,id=root,drive=d0,bootindex=1".to_owned(),
        "-device".to_owned(),
        "virtio-serial".to_owned(),
        "-chardev".to_owned(),
        format!("socket,id=ga,path={},server=on,wait=off", folder.join("agent").display()),
        "-device".to_owned(),
        "virtserialport,chardev=ga,name=org.qemu.guest_agent.0".to_owned(),
    ];
    let guest = Guest::start(folder, NAME, &arguments).await;
    guest.console(NAME, "REPLICATE-READY").await;
    guest
}

/// What a console says after a mark.
fn after<'a>(console: &'a str, mark: &str) -> &'a str {
    let at = console.rfind(mark).unwrap_or_else(|| panic!("no {mark} in {console}"));
    console[at + mark.len()..].split_whitespace().next().unwrap_or_default()
}

async fn shows(site: &QemuSite, instance: &InstanceId, text: &str) -> String {
    let until = Instant::now() + BOOT;
    loop {
        let console = site.console(instance).await.unwrap().text;
        if console.contains(text) {
            return console;
        }
        assert!(Instant::now() < until, "no {text} on the console:\n{console}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

fn moving() -> MoveRequest {
    MoveRequest {
        server: ServerName::new(NAME).unwrap(),
        to: SiteName::new("new").unwrap(),
        name: None,
        policy: None,
        via: Via::Auto,
        stop_limit: Duration::from_secs(240),
        force: false,
        stay_off: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_is_moved_with_its_last_order_and_comes_back() {
    let Some(built) = tools().then(guest).flatten() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (host(folder.path(), "old"), host(folder.path(), "new"));
    let home = boot(&folder.path().join("old"), &built.qcow2).await;
    let server = ServerName::new(NAME).unwrap();
    let ledger = Arc::new(MemoryLedger::new());
    let engine = engine(ledger.clone(), &old, &new).await;

    let moved = engine.migrate(&moving()).await.unwrap();
    assert_eq!((moved.record.stage, moved.source), (MoveStage::Moved, Some(Power::Off)));
    let console = std::fs::read_to_string(folder.path().join("old/web.log")).unwrap();
    let last = after(&console, "REPLICATE-BYE seq=").to_owned();
    let there = shows(&new, moved.record.instance.as_ref().unwrap(), "REPLICATE-READY boots=2").await;
    assert_eq!(after(&there, "goodbye="), last, "the last order is not there:\n{there}");
    assert_eq!(after(&there, "broken="), "0");
    // the last capture read what changed only
    let run = ledger.get_raw(Tree::Runs, moved.record.run.as_ref().unwrap().as_str()).await.unwrap().unwrap();
    let run = String::from_utf8_lossy(&run).into_owned();
    assert!(run.contains(r#""incremental":true"#) && run.contains(r#""consistency":"filesystem""#), "{run}");

    // off, marked, told, and no run captures it
    assert_eq!(old.describe(&server).await.unwrap().power, Power::Off);
    assert_eq!(new.describe(&server).await.unwrap().power, Power::On);
    assert_eq!(engine.status().await.unwrap().moves.len(), 1);
    let named = RunRequest { policy: policy().name, server: Some(server.clone()) };
    assert!(engine.run(&named).await.unwrap_err().to_string().contains("moved"));
    assert!(old.owned().await.unwrap().iter().all(|left| left.kind == "bitmap"));

    let back = engine.end_move(&server, MoveEnd::Keep).await.unwrap();
    assert_eq!((back.record.stage, back.record.problem), (MoveStage::RolledBack, None));
    assert_eq!(new.describe(&server).await.unwrap().power, Power::Off);
    home.console(NAME, "REPLICATE-READY boots=2").await;
    home.is_clean(NAME).await.unwrap();
    // its change map has lived through all of it
    let again = engine.run(&named).await.unwrap();
    assert!(again.runs[0].destinations[0].incremental, "{again:?}");
    // its QEMU would outlive the test
    new.target().unwrap().destroy(moved.record.instance.as_ref().unwrap()).await.unwrap();
}

/// A system that does not answer is left running, or its power is cut where that is asked; and the power button does without an agent.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_without_an_agent_hears_the_button_and_one_that_hears_nothing_is_cut() {
    let Some(built) = tools().then(guest).flatten() else { return };
    let folder = tempfile::tempdir().unwrap();
    let old = host(folder.path(), "old");
    let home = folder.path().join("old");
    let mut guest = boot(&home, &built.qcow2).await;
    std::fs::write(home.join("web.toml"), "agent = \"/nowhere\"\n").unwrap();
    let server = ServerName::new(NAME).unwrap();
    old.stop(&server, Stop { limit: Duration::from_secs(240), force: false }).await.unwrap();
    let console = std::fs::read_to_string(home.join("web.log")).unwrap();
    let last = after(&console, "REPLICATE-BYE seq=").to_owned();
    let capture = old.capture(&request(NAME, "run-1", None, Consistency::Filesystem)).await.unwrap();
    assert_eq!((capture.consistency, capture.warnings.len()), (Consistency::Filesystem, 0), "{:?}", capture.warnings);
    old.release(&capture, cloud::Outcome::Committed).await.unwrap();
    old.start(&server).await.unwrap();
    guest.console(NAME, &format!("goodbye={last}")).await;

    // no system is there any more: the machine runs, and hears nothing
    guest.quit(NAME).await;
    run(&format!("qemu-io -f qcow2 -c 'write -z 0 64k' {}", home.join("root.qcow2").display()));
    guest.again(NAME).await;
    let error = old.stop(&server, Stop { limit: Duration::from_secs(2), force: false }).await.unwrap_err();
    assert!(error.kind() == Kind::Permanent && error.chain().contains("runs on"), "{}", error.chain());
    assert_eq!(old.describe(&server).await.unwrap().power, Power::On);
    for _ in 0..2 {
        old.stop(&server, Stop { limit: Duration::from_secs(2), force: true }).await.unwrap();
        assert_eq!(old.describe(&server).await.unwrap().power, Power::Off);
    }
    let error = old.capture(&request(NAME, "run-2", None, Consistency::Filesystem)).await.unwrap_err();
    assert!(error.chain().contains("power was cut"), "{}", error.chain());
    let capture = old.capture(&request(NAME, "run-3", capture.cursor.as_ref(), Consistency::Crash)).await.unwrap();
    assert!(capture.disks[0].incremental, "{:?}", capture.disks);
    old.release(&capture, cloud::Outcome::Abandoned).await.unwrap();
    for _ in 0..2 {
        old.start(&server).await.unwrap();
        assert_eq!(old.describe(&server).await.unwrap().power, Power::On);
    }
    guest.quit(NAME).await;
    let error = old.start(&server).await.unwrap_err();
    assert!(error.chain().contains("its QEMU has ended"), "{}", error.chain());
}

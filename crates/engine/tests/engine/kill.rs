//! `kill -9` at numbered crash points of real processes: sled ledger, vault in a folder, a memory cloud kept in a folder. The child is this
//! test binary itself. Every day a part of the points is swept; `CRASH_EVERY=1` sweeps all of them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use cloud::memory::MemoryCloud;
use cloud::{Cloud, Target};
use engine::ledger::{Ledger, SledLedger};
use engine::{
    Archive, CheckScope, Choice, DrillRequest, Engine, Parts, PruneRequest, RestoreRequest, RestoreTo, RunOutcome,
    RunRequest, Settings, Silent, VerifyRequest,
};
use model::{Clock, Destination, ImageOptions, ManualClock, Role, VaultName, Via};
use secrecy::SecretString;
use vault::bucket::{Bucket, DirBucket};
use vault::{Identity, Options, Recipient, Vault};

use crate::house::{HALF, disk, machine, policy, server, site, zone_place};

/// A fixed age key: a passphrase is slow by intent.
const AGE_SECRET: &str = "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33";
const AGE_PUBLIC: &str = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";

struct Kept {
    clock: Arc<ManualClock>,
    lab: MemoryCloud,
    remote: MemoryCloud,
    /// Copied to from `remote` by its provider.
    zone: MemoryCloud,
    vault: Arc<Vault>,
    engine: Engine,
}

impl Kept {
    async fn open(folder: &Path) -> Self {
        let hours = std::fs::read_to_string(folder.join("hours")).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        let clock = Arc::new(ManualClock::new("2026-11-22T03:00:00Z".parse().unwrap()));
        clock.advance(3600 * hours);
        let time: Arc<dyn Clock> = clock.clone();
        let lab = MemoryCloud::kept(site("lab"), time.clone(), &folder.join("lab")).unwrap();
        let remote = MemoryCloud::kept(site("remote"), time.clone(), &folder.join("remote")).unwrap();
        let zone = MemoryCloud::kept(site("zone"), time.clone(), &folder.join("zone")).unwrap();
        MemoryCloud::join(&[&remote, &zone]);
        let options = || Options { threads: 1, ..Options::new(time.clone()) };
        let path = folder.join("vault");
        let vault = if path.exists() {
            let bucket: Arc<dyn Bucket> = Arc::new(DirBucket::open(&path).unwrap());
            Vault::open(bucket, &[Identity::AgeSecret(SecretString::from(AGE_SECRET))], options()).await.unwrap()
        } else {
            let bucket: Arc<dyn Bucket> = Arc::new(DirBucket::create(&path).unwrap());
            Vault::create(bucket, &[Recipient::AgePublic(AGE_PUBLIC.to_owned())], options()).await.unwrap()
        };
        let vault = Arc::new(vault);
        let ledger: Arc<dyn Ledger> = Arc::new(SledLedger::open(&folder.join("ledger")).await.unwrap());
        let mut policy = policy();
        policy.keep.last = 2;
        policy.replicate.push(Destination { via: Via::Relay, ..zone_place().into() });
        policy.replicate[2].image = ImageOptions { protected: true, hide_older: true, ..ImageOptions::default() };
        let (a, b): (Arc<dyn Cloud>, Arc<dyn Cloud>) = (Arc::new(lab.clone()), Arc::new(remote.clone()));
        let c: Arc<dyn Cloud> = Arc::new(zone.clone());
        let archive: Arc<dyn Archive> = vault.clone();
        let (pid, moment) = (std::process::id(), std::time::Duration::from_millis(1));
        let counter = std::sync::atomic::AtomicU64::new(u64::from(pid) << 8);
        let parts = Parts {
            ledger,
            folder: Some(folder.join("ledger")),
            clock: time,
            random: Arc::new(move || counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst)),
            sites: [(site("lab"), a), (site("remote"), b), (site("zone"), c)].into_iter().collect(),
            vaults: [(VaultName::new("main").unwrap(), archive.into())].into_iter().collect(),
            policies: vec![policy],
            observer: Arc::new(Silent),
            settings: Settings { drill_poll: moment, relay_poll: moment, ..Settings::default() },
        };
        let engine = Engine::new(parts).await.unwrap();
        Self { clock, lab, remote, zone, vault, engine }
    }

    async fn run(&self) {
        let request = RunRequest { policy: policy().name, server: None };
        let report = self.engine.run(&request).await.unwrap();
        assert_eq!(report.outcome(), RunOutcome::Done, "{report:?}");
    }

    async fn act(&self, scenario: &str) {
        let choice = Choice { server: server(), at: None, point: None, from: None, via: model::Via::Auto };
        match scenario {
            "run" => self.run().await,
            "restore" => {
                let to = RestoreTo::Site { site: site("lab"), name: None, launch: false };
                self.engine.restore(&RestoreRequest { choice, to }).await.unwrap();
            }
            "drill" => {
                let request = DrillRequest { choice, site: Some(site("lab")) };
                assert!(self.engine.drill(&request).await.unwrap().passed);
            }
            "prune" => {
                self.engine.prune(&PruneRequest { collect: true, ..PruneRequest::default() }).await.unwrap();
            }
            "recover" => self.recover().await,
            other => panic!("no scenario {other}"),
        }
    }

    /// What the next start does, then the oracle.
    async fn recover(&self) {
        for run in self.engine.resume().await.unwrap().runs {
            assert_eq!(run.outcome, RunOutcome::Done, "{run:?}");
        }
        let swept = self.engine.sweep().await.unwrap();
        assert!(swept.problems.is_empty() && swept.in_use.is_empty(), "{swept:?}");
        assert!(!self.lab.is_frozen(&server()));
        for cloud in [&self.lab, &self.remote, &self.zone] {
            let owned = cloud.owned().await.unwrap();
            assert!(owned.iter().all(|resource| resource.role == Role::Replica), "left: {owned:?}");
        }
        if std::env::var("KILL_SCENARIO_OF").is_ok_and(|of| of == "prune") {
            // the next prune finishes what this one had begun to delete
            self.engine.prune(&PruneRequest::default()).await.unwrap();
        }
        let all = VerifyRequest { scope: CheckScope::All, vault: None, site: None, server: None };
        let verified = self.engine.verify(&all).await.unwrap();
        assert!(verified.is_good(), "{verified:?}");
        // the catalogue is exactly what is there, and every place has every point
        let adopted = self.engine.adopt().await.unwrap();
        assert!(adopted.added == 0 && adopted.gone.is_empty() && adopted.problems.is_empty(), "{adopted:?}");
        self.run().await;
        let points = self.vault.points().await.unwrap();
        let mut every = vec![points.into_iter().map(|point| point.id).collect::<Vec<_>>()];
        for cloud in [&self.remote, &self.zone] {
            let images = cloud.images().await.unwrap();
            every.push(images.into_iter().map(|(_, point)| point.id).collect());
        }
        every.iter_mut().for_each(|ids| ids.sort());
        let newest = every[0].last().cloned().unwrap();
        let reader = self.vault.open_disk(&newest, &disk("vda")).await.unwrap();
        let bytes = reader.read_at(0, 2 * HALF as usize).await.unwrap();
        assert_eq!(bytes.to_vec(), self.lab.read(&server(), &disk("vda"), 0, 2 * HALF as usize).unwrap());
        for ids in &every {
            assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "a point twice: {every:?}");
            assert_eq!(*ids, every[0]);
        }
        let images = self.zone.images().await.unwrap();
        assert!(images.iter().all(|(image, _)| self.zone.dress(image).unwrap().1), "an image lost its protection");
    }
}

/// The child: does what it is told, in the folder it is told, and may be killed meanwhile.
#[test]
#[ignore = "the child of the sweeps"]
fn child() {
    let (Some(folder), Ok(scenario)) = (std::env::var_os("KILL_FOLDER"), std::env::var("KILL_SCENARIO")) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { Kept::open(Path::new(&folder)).await.act(&scenario).await });
}

fn spawn(folder: &Path, scenario: &str, of: &str, at: Option<u64>) -> (bool, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "kill::child", "--ignored", "--nocapture", "--test-threads=1"]);
    command.env("KILL_FOLDER", folder).env("KILL_SCENARIO", scenario).env("KILL_SCENARIO_OF", of);
    command.env_remove("REPLICATE_CRASH_AT");
    if let Some(at) = at {
        command.env("REPLICATE_CRASH_AT", at.to_string());
    }
    let output = command.output().unwrap();
    use std::os::unix::process::ExitStatusExt;
    let killed = output.status.signal() == Some(9);
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(killed || output.status.success(), "{scenario}: {said}");
    (killed, said)
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A house with three points, of which retention has doomed some long ago, and with changes since.
fn lived_in(home: &Path) -> PathBuf {
    let folder = home.join("base");
    std::fs::create_dir_all(&folder).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let kept = Kept::open(&folder).await;
        kept.lab.add_server(server(), machine());
        for byte in 1..=3 {
            kept.lab.write(&server(), &disk("vda"), 0, &vec![byte; HALF as usize]).unwrap();
            kept.clock.advance(3600);
            kept.run().await;
        }
        assert_eq!(kept.engine.prune(&PruneRequest::default()).await.unwrap().doomed.len(), 3);
        kept.lab.write(&server(), &disk("vda"), HALF, &[9; 4096]).unwrap();
        std::fs::write(folder.join("hours"), "200").unwrap();
    });
    folder
}

fn sweep(scenario: &str) {
    let home = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let base = lived_in(home.path());
    let every: usize = std::env::var("CRASH_EVERY").ok().and_then(|text| text.parse().ok()).unwrap_or(9);
    let (mut killed, mut last) = (0, 0);
    for at in (1..).step_by(every.max(1)) {
        let folder = home.path().join(format!("{scenario}-{at}"));
        copy(&base, &folder);
        last = at;
        if !spawn(&folder, scenario, scenario, Some(at)).0 {
            break;
        }
        killed += 1;
        spawn(&folder, "recover", scenario, None);
        std::fs::remove_dir_all(&folder).unwrap();
    }
    assert!(killed > 1, "{scenario}: only {killed} points were hit");
    println!("{scenario}: killed at {killed} of about {last} crash points (every {every}), recovered each time");
}

#[test]
fn a_run_survives_kills() {
    sweep("run");
}

#[test]
fn a_restore_survives_kills() {
    sweep("restore");
}

#[test]
fn a_drill_survives_kills() {
    sweep("drill");
}

#[test]
fn a_prune_survives_kills() {
    sweep("prune");
}

#[test]
fn a_recovery_survives_kills() {
    let home = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let base = lived_in(home.path());
    let every: usize = std::env::var("CRASH_EVERY").ok().and_then(|text| text.parse().ok()).unwrap_or(25);
    let mut pairs = 0;
    for at in [12, 30, 50] {
        let once = home.path().join(format!("once-{at}"));
        copy(&base, &once);
        if !spawn(&once, "run", "run", Some(at)).0 {
            break;
        }
        for again in (2..).step_by(every.max(1)) {
            let folder = home.path().join(format!("twice-{at}-{again}"));
            copy(&once, &folder);
            if !spawn(&folder, "recover", "run", Some(again)).0 {
                break;
            }
            pairs += 1;
            spawn(&folder, "recover", "run", None);
            std::fs::remove_dir_all(&folder).unwrap();
        }
    }
    assert!(pairs > 3, "only {pairs} pairs");
    println!("{pairs} pairs of kills survived");
}

//! `kill -9` at numbered crash points of real processes: sled ledger, vault in a folder, a memory cloud kept in a folder. The child is this
//! test binary itself. Every day a part of the points is swept; `CRASH_EVERY=1` sweeps all of them, and all pairs: each death, and each
//! death of what recovers from it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use cloud::memory::MemoryCloud;
use cloud::{Cloud, Target};
use engine::ledger::{Ledger, SledLedger};
use engine::{
    Archive, CheckScope, Choice, CompactRequest, CompactedReport, DrillRequest, Engine, FileFormat, ImportRequest,
    MoveStage, Parts, PruneRequest, RestoreRequest, RestoreTo, RunOutcome, RunRequest, Settings, Silent, VerifyRequest,
};
use model::{Arch, Clock, Destination, Firmware, ImageOptions, Kind, ManualClock, Role, ServerName, VaultName, Via};
use secrecy::SecretString;
use vault::bucket::{Bucket, DirBucket};
use vault::{Identity, Options, Recipient, Vault};

use crate::house::{HALF, disk, machine, policy, server, site, site_place, vault_place, zone_place};

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
    /// What a restore writes, and what an import reads.
    file: PathBuf,
    image: PathBuf,
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
        // where the child is: the ledger notes this path, and is copied elsewhere with all the rest
        let (file, image) = ("files/disk.raw".into(), folder.join("old.raw"));
        Self { clock, lab, remote, zone, vault, engine, file, image }
    }

    /// A file that is there is whole, and nothing lies beside it; asked again, it is there.
    async fn file_is_whole(&self) {
        let newest = self.vault.points().await.unwrap().pop().unwrap().id;
        let reader = self.vault.open_disk(&newest, &disk("vda")).await.unwrap();
        let bytes = reader.read_at(0, 2 * HALF as usize).await.unwrap();
        for again in [false, true] {
            if again {
                Box::pin(self.act("file")).await;
            }
            let names: Vec<_> =
                std::fs::read_dir(self.file.parent().unwrap()).unwrap().map(|e| e.unwrap().path()).collect();
            assert!(names.iter().all(|name| *name == self.file), "{names:?}");
            assert!(again <= self.file.exists());
            if self.file.exists() {
                assert!(std::fs::read(&self.file).unwrap() == bytes);
            }
        }
    }

    async fn compact(&self, dry: bool) -> CompactedReport {
        let request = CompactRequest { dry, level: Some(19), recompress: true, ..CompactRequest::default() };
        self.engine.compact(&request).await.unwrap()
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
            "compact" => {
                let done = self.compact(false).await;
                assert!(done.problems.is_empty(), "{done:?}");
            }
            "file" => {
                let to = RestoreTo::File { path: self.file.clone(), format: FileFormat::Raw, disk: Some(disk("vda")) };
                match self.engine.restore(&RestoreRequest { choice, to }).await {
                    Ok(_) => {}
                    // published by an execution that died before it could say so: whole, as the oracle sees
                    Err(error) => assert_eq!(error.kind(), Kind::Exists, "{}", error.chain()),
                }
            }
            "import" => {
                let request = ImportRequest {
                    files: vec![self.image.clone()],
                    format: Some(FileFormat::Raw),
                    server: ServerName::new("old").unwrap(),
                    to: vec![vault_place(), site_place()],
                    arch: Arch::X86_64,
                    firmware: Firmware::Bios,
                    memory: 1 << 28,
                    vcpus: 1,
                };
                assert_eq!(self.engine.import(&request).await.unwrap().outcome, RunOutcome::Done);
            }
            "move" => {
                self.engine.migrate(&crate::moves::request()).await.unwrap();
            }
            "adopt" => {
                self.engine.adopt().await.unwrap();
            }
            "resume" => self.resume().await,
            "recover" => self.recover().await,
            other => panic!("no scenario {other}"),
        }
    }

    /// What the next start does.
    async fn resume(&self) {
        for run in self.engine.resume().await.unwrap().runs {
            assert_eq!(run.outcome, RunOutcome::Done, "{run:?}");
        }
        let swept = self.engine.sweep().await.unwrap();
        assert!(swept.problems.is_empty() && swept.in_use.is_empty(), "{swept:?}");
    }

    /// The same, then the oracle.
    async fn recover(&self) {
        self.resume().await;
        let of = std::env::var("KILL_SCENARIO_OF").unwrap_or_default();
        assert!(!self.lab.is_frozen(&server()));
        for cloud in [&self.lab, &self.remote, &self.zone] {
            let owned = cloud.owned().await.unwrap();
            assert!(owned.iter().all(|resource| resource.role == Role::Replica), "left: {owned:?}");
        }
        match of.as_str() {
            "move" => return self.moved().await,
            // the next prune finishes what this one had begun to delete
            "prune" => {
                self.engine.prune(&PruneRequest::default()).await.unwrap();
            }
            "file" => self.file_is_whole().await,
            // what did not come so far is done now, and once is enough; what it has replaced is collected, and nothing else
            "compact" => {
                self.compact(false).await;
                assert_eq!(self.compact(true).await.vaults[0].1.taken, 0);
                let freed = self.vault.collect(std::time::Duration::ZERO, false).await.unwrap();
                assert!(freed.versions > 0 && freed.deleted > 0, "{freed:?}");
            }
            // begun is finished: at both places or at none
            "import" => {
                let old = |point: &&model::RestorePoint| point.server.as_str() == "old";
                let archived = self.vault.points().await.unwrap().iter().filter(old).count();
                let images = self.remote.images().await.unwrap();
                assert_eq!(archived, images.iter().map(|(_, point)| point).filter(old).count());
            }
            _ => {}
        }
        let all = VerifyRequest { scope: CheckScope::All, vault: None, site: None, server: None };
        let verified = self.engine.verify(&all).await.unwrap();
        assert!(verified.is_good(), "{verified:?}");
        // the catalogue is exactly what is there, and every place has every point
        let adopted = self.engine.adopt().await.unwrap();
        assert!(adopted.added == 0 && adopted.gone.is_empty() && adopted.problems.is_empty(), "{adopted:?}");
        self.run().await;
        let of_server = |point: &model::RestorePoint| point.server == server();
        let points = self.vault.points().await.unwrap();
        let mut every = vec![points.into_iter().filter(of_server).map(|point| point.id).collect::<Vec<_>>()];
        for cloud in [&self.remote, &self.zone] {
            let images = cloud.images().await.unwrap();
            every.push(images.into_iter().filter(|(_, point)| of_server(point)).map(|(_, point)| point.id).collect());
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

impl Kept {
    /// Either the move had not begun, or it was finished: one of the two servers runs, with every byte.
    async fn moved(&self) {
        let moves = self.engine.moves().await.unwrap();
        let on = (self.lab.is_on(&server()), self.remote.is_on(&server()));
        match moves.as_slice() {
            [] => assert_eq!(on, (true, false)),
            [one] => {
                assert_eq!((one.record.stage, on), (MoveStage::Moved, (false, true)), "{one:?}");
                for name in ["vda", "vdb"] {
                    let read = |cloud: &MemoryCloud| cloud.read(&server(), &disk(name), 0, 2 * HALF as usize).unwrap();
                    assert!(read(&self.lab) == read(&self.remote), "{name} differs");
                }
                let owned = self.remote.owned().await.unwrap();
                assert_eq!(owned.iter().filter(|resource| resource.kind == "instance").count(), 1);
            }
            many => panic!("{many:?}"),
        }
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
    command.current_dir(folder).env("KILL_FOLDER", folder).env("KILL_SCENARIO", scenario).env("KILL_SCENARIO_OF", of);
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
        std::fs::write(folder.join("old.raw"), vec![5; HALF as usize]).unwrap();
        std::fs::create_dir(folder.join("files")).unwrap();
    });
    folder
}

/// What finishes the work of a scenario that died: the next start, or the same command again.
fn recovery_of(scenario: &str) -> &str {
    match scenario {
        "prune" | "compact" => scenario,
        _ => "resume",
    }
}

/// Dies at points of `scenario`, from the `first` on the `every`-th of them, in copies of `from`; `survivor` gets the folder of each
/// dead one. Returns how many.
fn deaths(from: &Path, scenario: &str, of: &str, (first, every): (u64, usize), mut survivor: impl FnMut(&Path)) -> u64 {
    let mut deaths = 0;
    for at in (first..).step_by(every) {
        let folder = tempfile::tempdir_in(from.parent().unwrap()).unwrap();
        copy(from, folder.path());
        if !spawn(folder.path(), scenario, of, Some(at)).0 {
            break;
        }
        deaths += 1;
        survivor(folder.path());
    }
    deaths
}

/// The scenario dies at its points; at some or all of them what recovers from it dies too.
fn sweep(scenario: &str) {
    let home = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let base = lived_in(home.path());
    if scenario == "adopt" {
        // what is left of the ledger is who we are
        for entry in std::fs::read_dir(base.join("ledger")).unwrap().flatten() {
            match entry.file_name().to_str() {
                Some("owner" | "proof.key") => {}
                _ if entry.path().is_dir() => std::fs::remove_dir_all(entry.path()).unwrap(),
                _ => std::fs::remove_file(entry.path()).unwrap(),
            }
        }
    }
    let every: Option<usize> = std::env::var("CRASH_EVERY").ok().and_then(|text| text.parse().ok());
    // beside a sample other tests run; a move has 40,000 pairs, and a core takes three hours for them
    let lanes = every.map_or(1, |_| std::thread::available_parallelism().map_or(1, usize::from));
    let step = every.unwrap_or(9).max(1);
    let lane = |lane: usize| {
        let (mut pairs, mut turn) = (0, 0);
        let points = (1 + (lane * step) as u64, step * lanes);
        let single = deaths(&base, scenario, scenario, points, |dead| {
            turn += 1;
            // a sample takes few pairs of few deaths
            if every.is_some() || turn % 4 == 2 {
                pairs += deaths(dead, recovery_of(scenario), scenario, (1, every.unwrap_or(23).max(1)), |twice| {
                    spawn(twice, "recover", scenario, None);
                });
            }
            spawn(dead, "recover", scenario, None);
        });
        (single, pairs)
    };
    let (single, pairs) = std::thread::scope(|scope| {
        let running: Vec<_> = (0..lanes).map(|number| scope.spawn(move || lane(number))).collect();
        running.into_iter().map(|it| it.join().unwrap()).fold((0, 0), |sum, it| (sum.0 + it.0, sum.1 + it.1))
    });
    // an adoption is one commit: in a sample it may be over before the death, and nothing is left to recover from
    assert!(
        single > 1 && (pairs > 0 || (scenario == "adopt" && every.is_none())),
        "{scenario}: only {single} points and {pairs} pairs were hit"
    );
    println!(
        "{scenario}: killed at {single} points and {pairs} pairs of points (every {every:?}), recovered each time"
    );
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
fn a_restore_to_a_file_survives_kills() {
    sweep("file");
}

#[test]
fn a_drill_survives_kills() {
    sweep("drill");
}

#[test]
fn an_import_survives_kills() {
    sweep("import");
}

#[test]
fn an_adoption_survives_kills() {
    sweep("adopt");
}

#[test]
fn a_move_survives_kills() {
    sweep("move");
}

#[test]
fn a_prune_survives_kills() {
    sweep("prune");
}

#[test]
fn a_compaction_survives_kills() {
    sweep("compact");
}

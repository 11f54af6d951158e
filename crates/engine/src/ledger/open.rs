//! Opening a sled ledger that may be damaged: a ladder, under a watchdog, because damage can make sled's `open` hang.
//!
//! (1) our own lock, (2) stale `*.generating` go, (3) open in a thread with a time limit, (4) on refusal `snap.*` are moved aside (they
//! are rebuilt from `db`; measured: content identical) and it is tried again, (5) refuse, with the way out.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use model::{Error, Kind, Result};
use rustix::fs::{FlockOperation, flock};

use super::{Tree, sled::trouble};

/// The longest that sled may take to open: a ledger is a few MiB, and damage can make it spin for ever.
const WATCHDOG: Duration = Duration::from_secs(10);
const LOCK: &str = "lock";

/// An open store.
pub(super) struct Opened {
    pub db: sled::Db,
    pub trees: Vec<sled::Tree>,
    pub file: File,
    pub lock: File,
}

/// Climbs the ladder.
pub(super) fn open(folder: &Path) -> Result<Opened> {
    let operation = || format!("cannot open ledger {}", folder.display());
    std::fs::create_dir_all(folder).map_err(|e| Error::io(operation(), e))?;
    let lock = lock(folder)?;
    for stale in files(folder, |name| name.ends_with(".generating"))? {
        std::fs::remove_file(&stale).map_err(|e| Error::io(operation(), e))?;
    }
    let (db, trees) = match watched(folder) {
        Ok(opened) => opened,
        Err(Trouble::Refused(_)) => {
            move_aside(folder, &files(folder, |name| name.starts_with("snap."))?)?;
            watched(folder).map_err(|trouble| given_up(folder, trouble))?
        }
        Err(trouble) => return Err(given_up(folder, trouble)),
    };
    let file = File::open(folder.join("db")).map_err(|e| Error::io(operation(), e))?;
    // the names of `db` and `lock` must survive a power cut too
    for name in [folder, folder.parent().unwrap_or(folder)] {
        if let Ok(folder) = File::open(name) {
            folder.sync_all().map_err(|e| Error::io(operation(), e))?;
        }
    }
    Ok(Opened { db, trees, file, lock })
}

/// Moves a ledger that cannot be opened out of the way, to `<folder>.damaged-<n>`; the next open begins an empty one, and
/// `adopt` fills it. The installation's id and its proof key stay. Returns where the damaged one lies now.
pub fn set_aside(folder: &Path) -> Result<PathBuf> {
    let operation = || format!("cannot set ledger {} aside", folder.display());
    let _lock = lock(folder)?;
    let (number, aside) = (1..)
        .map(|n| (n, folder.with_file_name(format!("{}.damaged-{n}", name_of(folder)))))
        .find(|(_, path)| !path.exists())
        .ok_or_else(|| Error::new(Kind::Quota, operation()))?;
    tracing::warn!(ledger = %folder.display(), number, "the damaged ledger is set aside");
    std::fs::rename(folder, &aside).map_err(|e| Error::io(operation(), e))?;
    std::fs::create_dir_all(folder).map_err(|e| Error::io(operation(), e))?;
    for kept in crate::identity::FILES {
        if aside.join(kept).exists() {
            std::fs::copy(aside.join(kept), folder.join(kept)).map_err(|e| Error::io(operation(), e))?;
        }
    }
    Ok(aside)
}

fn name_of(folder: &Path) -> String {
    folder.file_name().map_or_else(|| "ledger".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Takes the lock that says who has the ledger; sled has one too, but reports it among other I/O errors.
fn lock(folder: &Path) -> Result<File> {
    let operation = || format!("cannot open ledger {}", folder.display());
    let path = folder.join(LOCK);
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = opened.map_err(|e| Error::io(operation(), e))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            // without the number the message is shorter, that is all
            let _ = file.read_to_string(&mut holder);
            return Err(Error::new(Kind::Exists, operation())
                .because(format!("process {} has it open", holder.trim()))
                .hint("if it is the daemon, commands reach it through its socket; else wait until it ends"));
        }
        Err(error) => return Err(Error::io(operation(), error.into())),
    }
    let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
    written.map_err(|e| Error::io(operation(), e))?;
    Ok(file)
}

fn files(folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    let operation = || format!("cannot list ledger {}", folder.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|e| Error::io(operation(), e))? {
        let entry = entry.map_err(|e| Error::io(operation(), e))?;
        if wanted(&entry.file_name().to_string_lossy()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn move_aside(folder: &Path, files: &[PathBuf]) -> Result<()> {
    let operation = || format!("cannot move snapshots of ledger {} aside", folder.display());
    let aside = folder.join("aside");
    std::fs::create_dir_all(&aside).map_err(|e| Error::io(operation(), e))?;
    for file in files {
        std::fs::rename(file, aside.join(name_of(file))).map_err(|e| Error::io(operation(), e))?;
    }
    Ok(())
}

enum Trouble {
    /// sled said no, or panicked.
    Refused(Error),
    /// It did not come back; its thread still spins and holds sled's lock, so this process cannot try again.
    Hung,
}

fn given_up(folder: &Path, trouble: Trouble) -> Error {
    let operation = format!("cannot open ledger {}", folder.display());
    let error = match trouble {
        Trouble::Refused(error) if matches!(error.kind(), Kind::Quota | Kind::Denied) => {
            return error.within(operation);
        }
        Trouble::Refused(error) => Error::new(Kind::Damaged, operation).because(error.chain()),
        Trouble::Hung => Error::new(Kind::Damaged, operation)
            .because(format!("it did not open within {} seconds: its file is damaged", WATCHDOG.as_secs())),
    };
    error.hint("rebuild it from vaults and sites: `replicate adopt`")
}

/// Opens and reads everything once in a thread of its own: damage shows here, and not in the middle of a run.
fn watched(folder: &Path) -> std::result::Result<(sled::Db, Vec<sled::Tree>), Trouble> {
    let (send, receive) = mpsc::channel();
    let path = folder.to_owned();
    let started = std::thread::Builder::new().name("ledger-open".to_owned()).spawn(move || {
        let opened = std::panic::catch_unwind(|| open_and_read(&path));
        let opened = opened.unwrap_or_else(|_| {
            Err(Error::new(Kind::Damaged, "cannot read the ledger").because("the store panicked over its file"))
        });
        // nobody listens after the watchdog barked
        let _ = send.send(opened);
    });
    if let Err(error) = started {
        return Err(Trouble::Refused(Error::io("cannot start the ledger's watchdog", error)));
    }
    match receive.recv_timeout(WATCHDOG) {
        Ok(opened) => opened.map_err(Trouble::Refused),
        Err(_) => Err(Trouble::Hung),
    }
}

fn open_and_read(folder: &Path) -> Result<(sled::Db, Vec<sled::Tree>)> {
    let operation = || format!("cannot open ledger {}", folder.display());
    let config =
        sled::Config::new().path(folder).mode(sled::Mode::LowSpace).cache_capacity(64 << 20).flush_every_ms(Some(500));
    let db = config.open().map_err(|e| trouble(operation(), e))?;
    let mut trees = Vec::new();
    for tree in Tree::ALL {
        let tree = db.open_tree(tree.name()).map_err(|e| trouble(operation(), e))?;
        for item in tree.iter() {
            item.map_err(|e| trouble(operation(), e))?;
        }
        trees.push(tree);
    }
    Ok((db, trees))
}

//! The machines of running instances: QEMU processes whose disks are the volumes' files. They live as long as the
//! simulator: a watcher ends each of them when the simulator is gone, however it went, and the simulator boots them
//! again when it comes back, as after a power cut.

pub(crate) mod agent;
mod command;
pub(crate) mod hold;
mod qmp;

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub(crate) use command::{Device, Machine};
use qmp::Qmp;

/// Reads nothing and ends the machine when its standard input is closed, which the kernel does for a dead parent.
const WATCHER: &str = r#"exec 3<&0
"$@" 0</dev/null 3<&- &
p=$!
{ cat <&3 >/dev/null; kill -9 $p 2>/dev/null; } &
w=$!
wait $p
kill $w 2>/dev/null"#;

/// A QEMU process.
#[derive(Debug)]
pub(crate) struct Running {
    child: Mutex<Child>,
    qmp: Mutex<Qmp>,
}

/// All machines.
#[derive(Debug)]
pub(crate) struct Machines {
    folder: PathBuf,
    /// False: nothing boots.
    pub(crate) real: bool,
    running: Mutex<HashMap<String, Arc<Running>>>,
    /// One pause at a time.
    pausing: Mutex<()>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Machines {
    pub(crate) fn new(folder: PathBuf, real: bool) -> std::io::Result<Self> {
        std::fs::create_dir_all(&folder)?;
        Ok(Self { folder, real, running: Mutex::new(HashMap::new()), pausing: Mutex::new(()) })
    }

    /// What a machine keeps: its console, its monitor, its firmware's variables.
    pub(crate) fn folder(&self, id: &str) -> PathBuf {
        self.folder.join(id)
    }

    /// Starts a machine; one that runs is left alone.
    pub(crate) fn start(&self, machine: &Machine) -> std::io::Result<()> {
        if !self.real || self.is_running(&machine.id) {
            return Ok(());
        }
        let folder = self.folder(&machine.id);
        std::fs::create_dir_all(&folder)?;
        let arguments = command::arguments(machine, &folder)?;
        for socket in [command::MONITOR, command::AGENT] {
            let _ = std::fs::remove_file(folder.join(socket));
        }
        let errors = std::fs::File::create(folder.join("qemu.log"))?;
        let mut child = Command::new("sh")
            .args(["-c", WATCHER, "sh", command::program(&machine.architecture)])
            .args(arguments)
            // the monitor's socket is named relative to it: such paths are short
            .current_dir(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()?;
        let qmp = match Qmp::connect(&folder.join(command::MONITOR), &mut child) {
            Ok(qmp) => qmp,
            Err(why) => {
                end(&mut child);
                let said = std::fs::read_to_string(folder.join("qemu.log")).unwrap_or_default();
                return Err(std::io::Error::other(format!("{why}: {}", said.trim())));
            }
        };
        let running = Running { child: Mutex::new(child), qmp: Mutex::new(qmp) };
        locked(&self.running).insert(machine.id.clone(), Arc::new(running));
        Ok(())
    }

    pub(crate) fn get(&self, id: &str) -> Option<Arc<Running>> {
        locked(&self.running).get(id).cloned()
    }

    /// The channel to the agent of a machine that runs.
    pub(crate) fn agent(&self, id: &str) -> Option<PathBuf> {
        self.is_running(id).then(|| self.folder(id).join(command::AGENT))
    }

    pub(crate) fn is_running(&self, id: &str) -> bool {
        self.get(id).is_some()
    }

    /// Machines that ended by themselves, taken off the list.
    pub(crate) fn ended(&self) -> Vec<String> {
        let mut running = locked(&self.running);
        let gone = running.iter().filter(|(_, it)| !matches!(locked(&it.child).try_wait(), Ok(None)));
        let gone: Vec<String> = gone.map(|(id, _)| id.clone()).collect();
        for id in &gone {
            running.remove(id);
        }
        gone
    }

    /// Ends a machine: asked first and given `grace`, then without asking.
    pub(crate) fn stop(&self, id: &str, grace: Duration) {
        let Some(running) = self.get(id) else { return };
        if !grace.is_zero() && locked(&running.qmp).run("system_powerdown", None).is_ok() {
            let until = Instant::now() + grace;
            while Instant::now() < until && matches!(locked(&running.child).try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        end(&mut locked(&running.child));
        locked(&self.running).remove(id);
    }

    pub(crate) fn stop_all(&self) {
        let all: Vec<String> = locked(&self.running).keys().cloned().collect();
        for id in all {
            self.stop(&id, Duration::ZERO);
        }
    }

    /// The end of what the machine's serial port said.
    pub(crate) fn console(&self, id: &str, most: usize) -> Option<Vec<u8>> {
        let text = std::fs::read(self.folder(id).join(command::CONSOLE)).ok()?;
        Some(text[text.len().saturating_sub(most)..].to_vec())
    }

    pub(crate) fn forget(&self, id: &str) {
        // the console of a terminated instance is kept for a while by the provider as well, by us until here
        let _ = std::fs::remove_dir_all(self.folder(id));
    }
}

/// Closes the watcher's input and waits for it.
fn end(child: &mut Child) {
    drop(child.stdin.take());
    let _ = child.wait();
}
